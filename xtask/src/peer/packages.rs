//! Fetching Debian's CRIU and all it links to with apt, and unpacking it below `target-peer/`.
//!
//! apt works on directories of ours with an empty list of installed packages: it resolves the whole
//! closure down to the C library, verifies signatures as always, and leaves the system as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Peer, sources};
use crate::codegen;

/// The release that has the CRIU to test against.
const SUITE: &str = "trixie";
/// What that CRIU says it is.
const VERSION: &str = "4.1.1";
/// What is asked for; apt adds the dependencies.
const PACKAGES: [&str; 3] = ["criu", "python3-pycriu", "python3-protobuf"];
/// What the archive is signed with; any Debian has it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where everything about the peer lies.
fn folder() -> PathBuf {
    codegen::root().join("target-peer")
}

/// Contents of the stamp file: another release or package list means another setup.
fn stamp() -> String {
    format!("{SUITE} {VERSION} {}\n", PACKAGES.join(" "))
}

/// The tree that a finished setup left.
pub(super) fn unpacked() -> Option<PathBuf> {
    let folder = folder();
    let found = fs::read_to_string(folder.join("stamp")).is_ok_and(|text| text == stamp());
    found.then(|| folder.join("root"))
}

/// Makes the peer ready; does nothing if it is. `mirror` replaces the one found on the machine.
pub(crate) fn setup(mirror: Option<&str>) -> Result<()> {
    if let Some(root) = unpacked() {
        println!("CRIU {VERSION} is ready in {}", root.display());
        return Ok(());
    }
    let Some(mirror) = mirror.map(str::to_owned).or_else(sources::mirror) else {
        bail!("no Debian archive among this machine's package sources: name one with --mirror URI");
    };
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing: install the package debian-archive-keyring");
    }
    let folder = folder();
    let apt = folder.join("apt");
    configure(&apt, &mirror)?;
    println!("fetching CRIU {VERSION} of Debian {SUITE} from {mirror}");
    run(apt_get(&apt).arg("update"))?;
    run(apt_get(&apt).args(["install", "--download-only"]).args(PACKAGES))?;

    let fresh = folder.join("root.new");
    remove(&fresh)?;
    let mut count = 0;
    for entry in fs::read_dir(apt.join("cache/archives"))? {
        let package = entry?.path();
        if package.extension().is_some_and(|e| e == "deb") {
            run(Command::new("dpkg").arg("--extract").arg(&package).arg(&fresh))?;
            count += 1;
        }
    }
    let version =
        Peer::at(fresh.clone()).criu().arg("--version").output().context("starting the new criu")?;
    let version = String::from_utf8_lossy(&version.stdout);
    if version.lines().next() != Some(&format!("Version: {VERSION}")) {
        bail!("wanted CRIU {VERSION}, the archive has: {version}");
    }

    let root = folder.join("root");
    remove(&root)?;
    fs::rename(&fresh, &root)?;
    fs::write(folder.join("stamp"), stamp())?;
    remove(&apt)?;
    println!("CRIU {VERSION}: {count} packages unpacked to {}", root.display());
    Ok(())
}

/// Writes a source list and a configuration that keep apt inside `apt`.
fn configure(apt: &Path, mirror: &str) -> Result<()> {
    remove(apt)?;
    for folder in ["state/lists/partial", "cache/archives/partial", "log"] {
        fs::create_dir_all(apt.join(folder))?;
    }
    fs::write(apt.join("state/status"), "")?;
    fs::write(apt.join("sources.list"), format!("deb [signed-by={KEYRING}] {mirror} {SUITE} main\n"))?;
    let at = apt.display();
    // The machine's own configuration is read first, as it may know a proxy. Its hooks are
    // cleared, as they clean or refresh caches of the system.
    let settings = format!(
        "#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
Dir::State \"{at}/state\";
Dir::State::status \"{at}/state/status\";
Dir::Cache \"{at}/cache\";
Dir::Log \"{at}/log\";
Dir::Etc::sourcelist \"{at}/sources.list\";
Dir::Etc::sourceparts \"/dev/null\";
Dir::Etc::preferences \"/dev/null\";
Dir::Etc::preferencesparts \"/dev/null\";
APT::Sandbox::User \"\";
APT::Install-Recommends \"false\";
APT::Install-Suggests \"false\";
APT::Get::Assume-Yes \"true\";
Acquire::Languages \"none\";
Acquire::Retries \"3\";
Debug::NoLocking \"true\";
quiet \"1\";
"
    );
    fs::write(apt.join("apt.conf"), settings).context("writing apt.conf")
}

fn apt_get(apt: &Path) -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--config-file").arg(apt.join("apt.conf"));
    command
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}\n{said}", output.status);
    }
    Ok(())
}
