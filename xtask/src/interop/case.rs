//! One case: a scenario set up, dumped, restored and asked, alone in a pid namespace.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rewake_testkit::{Scenario, Workload, scenarios};

use super::ways::Way;
use crate::peer::Peer;

/// How long a dumped process may take to be gone.
pub(super) const END_LIMIT: Duration = Duration::from_secs(30);

/// Images that the peer's tool does not decode: memory contents have no entries, and the images of our own kinds are
/// unknown to it.
const NOT_FOR_CRIT: [&str; 2] = ["pages-", "rewake-"];

/// Loads every image it is given, as `crit decode` does, in one interpreter: starting one takes longer than all images.
const DECODE: &str = "
import sys, pycriu
bad = 0
for name in sys.argv[1:]:
    try:
        with open(name, 'rb') as f:
            pycriu.images.load(f, pretty=True)
            rest = f.read()
            if rest:
                raise Exception('%d bytes left' % len(rest))
    except Exception as e:
        bad = 1
        print('%s: %s: %s' % (name, type(e).__name__, e), file=sys.stderr)
sys.exit(bad)
";

/// The case, with its files.
struct Case {
    scenario: Scenario,
    rewake: PathBuf,
    /// Where the scenario runs.
    dir: PathBuf,
    images: PathBuf,
}

/// Runs a case in this process, which must be in its own pid namespace. `dir` exists and is empty.
pub(crate) fn run(scenario: &str, way: Way, rewake: &Path, dir: &Path) -> Result<()> {
    let found = scenarios()?.into_iter().find(|known| known.name == scenario);
    let Some(scenario) = found else { bail!("no scenario is called {scenario}") };
    let case =
        Case { scenario, rewake: rewake.to_owned(), dir: dir.join("work"), images: dir.join("images") };
    fs::create_dir(&case.dir)?;
    let workload = case.scenario.start(&case.dir)?;
    match way {
        Way::Own => case.own_dump(&workload).and_then(|()| case.own_restore())?,
        Way::ToPeer => case.own_dump(&workload).and_then(|()| case.peer_restore())?,
        Way::FromPeer => case.peer_dump(&workload).and_then(|()| case.own_restore())?,
        Way::Decode => {
            case.own_dump(&workload)?;
            return case.decode();
        }
    }
    let restored = Workload::adopt(workload.pid(), &case.dir).context("after the restore")?;
    let verdict = case.scenario.verdict(&restored).context("after the restore")?;
    ensure!(verdict == "PASS", "{verdict}");
    Ok(())
}

impl Case {
    fn own_dump(&self, workload: &Workload) -> Result<()> {
        let mut dump = Command::new(&self.rewake);
        dump.args(["dump", "--file-locks", "--tree", &workload.pid().to_string(), "--images-dir"])
            .arg(&self.images);
        finish(&mut dump, "rewake dump")?;
        Ok(workload.wait_end(END_LIMIT)?)
    }

    fn own_restore(&self) -> Result<()> {
        let mut restore = Command::new(&self.rewake);
        restore.args(["restore", "--file-locks", "--restore-detached", "--images-dir"]).arg(&self.images);
        finish(&mut restore, "rewake restore")
    }

    fn peer_dump(&self, workload: &Workload) -> Result<()> {
        fs::create_dir(&self.images)?;
        let mut dump = Peer::open()?.criu();
        dump.args(["dump", "--file-locks", "--tree", &workload.pid().to_string(), "--images-dir"])
            .arg(&self.images);
        self.peer_finish(&mut dump, "dump")?;
        Ok(workload.wait_end(END_LIMIT)?)
    }

    fn peer_restore(&self) -> Result<()> {
        let mut restore = Peer::open()?.criu();
        restore.args(["restore", "--file-locks", "--restore-detached", "--images-dir"]).arg(&self.images);
        self.peer_finish(&mut restore, "restore")
    }

    fn peer_finish(&self, command: &mut Command, name: &str) -> Result<()> {
        finish_peer(command, name, self.dir.parent().unwrap_or(&self.dir))
    }

    fn decode(&self) -> Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.images)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !NOT_FOR_CRIT.iter().any(|prefix| name.starts_with(prefix)) {
                names.push(name);
            }
        }
        ensure!(names.len() > 5, "too few images: {names:?}");
        let mut python = Peer::open()?.python();
        python.arg("-c").arg(DECODE).args(&names).current_dir(&self.images);
        finish(&mut python, "crit decode")
    }
}

/// Runs the peer, which logs to `dir`; of a failure, the errors in its log say the most.
pub(super) fn finish_peer(command: &mut Command, name: &str, dir: &Path) -> Result<()> {
    let log = dir.join(format!("criu-{name}.log"));
    command.arg("--log-file").arg(&log).arg("-v4");
    finish(command, &format!("criu {name}")).with_context(|| {
        let text = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let errors: Vec<String> = text
            .unwrap_or_default()
            .lines()
            .filter(|line| line.contains("Error ("))
            .map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest).to_owned())
            .collect();
        errors.join(" | ")
    })
}

/// Runs a program to its end; what it said is the reason of its failure. Output goes to files, as a detached process
/// may hold the descriptors open for long.
pub(super) fn finish(command: &mut Command, name: &str) -> Result<()> {
    let output = tempfile::tempfile()?;
    command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let status = command.status().with_context(|| format!("starting {name}"))?;
    if !status.success() {
        use std::io::{Read, Seek};
        let (mut file, mut said) = (output, String::new());
        file.rewind()?;
        file.read_to_string(&mut said)?;
        bail!("{name}: {status}: {}", said.trim().replace('\n', " | "));
    }
    Ok(())
}
