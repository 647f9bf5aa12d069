//! What it costs to look at the build-ids of 200 libraries, over looking at their sizes: rewake beside CRIU.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::peer::Peer;

const LIBRARIES: usize = 200;
const LEVELS: [&str; 3] = ["filesize", "buildid", "auto"];
/// Milliseconds that build-ids may cost over sizes.
const GOAL: f64 = 3.0;

/// One tool, one level: time of the whole restore, and of the check of files as far as the tool tells.
#[derive(Default)]
struct Times {
    restore: Vec<Duration>,
    checking: Vec<f64>,
}

pub(super) fn run(rewake: &Path, peer: Option<&Peer>, rounds: usize, dir: &Path) -> Result<()> {
    let mut child = start(dir)?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let images = dir.join("images");
    fs::create_dir(&images)?;
    let mut dump = Command::new(rewake);
    dump.args(["dump", "-t", &pid.to_string(), "-D"]).arg(&images).stdout(Stdio::null());
    ensure!(dump.status()?.success(), "the dump failed");
    child.wait()?;
    let mut ours: [Times; 3] = Default::default();
    let mut theirs: [Times; 3] = Default::default();
    for _ in 0..rounds {
        for (level, (ours, theirs)) in LEVELS.into_iter().zip(ours.iter_mut().zip(&mut theirs)) {
            restore(Command::new(rewake), true, level, &images, pid, dir, ours)?;
            if let Some(peer) = peer.filter(|_| level != "auto") {
                restore(peer.criu(), false, level, &images, pid, dir, theirs)?;
            }
        }
    }
    println!("{LIBRARIES} libraries, medians of {rounds} rounds in ms       restore  check of files");
    for (name, all) in [("rewake", &mut ours), ("CRIU", &mut theirs)] {
        for (level, times) in
            LEVELS.into_iter().zip(all.iter_mut()).filter(|(_, times)| !times.restore.is_empty())
        {
            let restore = median(times.restore.iter().map(|time| time.as_secs_f64() * 1e3).collect());
            let checking = times.checking.clone();
            let checking =
                if checking.is_empty() { "-".to_owned() } else { format!("{:.2}", median(checking)) };
            println!("  {name:8} --file-validation {level:20} {restore:8.2}  {checking:>8}");
        }
    }
    let [size, build_id, _] = ours.map(|times| median(times.checking));
    let cost = build_id - size;
    let met = if cost <= GOAL { "met" } else { "MISSED" };
    println!("build-ids cost {cost:.2} ms over sizes; goal {GOAL} ms: {met}");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn restore(
    mut tool: Command,
    ours: bool,
    level: &str,
    images: &Path,
    pid: Pid,
    dir: &Path,
    times: &mut Times,
) -> Result<()> {
    let said = dir.join("said");
    tool.args(["restore", "-d", "--file-validation", level, "-D"]).arg(images);
    if ours {
        tool.arg("--json");
    }
    tool.stdin(Stdio::null()).stdout(File::create(&said)?);
    let begun = Instant::now();
    ensure!(tool.status()?.success(), "{tool:?} failed");
    times.restore.push(begun.elapsed());
    if ours {
        let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(&said)?)?;
        let part =
            |name: &str| report.pointer(&format!("/checking/{name}")).and_then(serde_json::Value::as_f64);
        let (Some(secs), Some(nanos)) = (part("secs"), part("nanos")) else { bail!("no time in {report}") };
        times.checking.push(secs * 1e3 + nanos / 1e6);
    }
    kill(pid, Signal::SIGKILL)?;
    waitpid(pid, None)?;
    Ok(())
}

/// A process with that many libraries loaded, ready.
fn start(dir: &Path) -> Result<Child> {
    let cc = |args: &[&str], out: &Path, source: &str| -> Result<()> {
        let path = dir.join("source.c");
        fs::write(&path, source)?;
        let mut cc = Command::new("cc");
        let status = cc.arg("-o").arg(out).arg(&path).args(args).status().context("starting cc")?;
        ensure!(status.success(), "cc failed");
        Ok(())
    };
    let first = dir.join("lib0.so");
    cc(&["-shared", "-fPIC", "-Wl,--build-id=sha1"], &first, "int answer(void) { return 1; }\n")?;
    for number in 1..LIBRARIES {
        fs::copy(&first, dir.join(format!("lib{number}.so")))?;
    }
    let program = dir.join("program");
    let source = format!(
        "#include <dlfcn.h>\n#include <fcntl.h>\n#include <stdio.h>\n#include <unistd.h>\nint main(void) {{\n\
         char name[4096];\nfor (int i = 0; i < {LIBRARIES}; i++) {{\n\
         snprintf(name, sizeof name, \"{}/lib%d.so\", i);\nif (!dlopen(name, RTLD_NOW)) return 1;\n}}\n\
         close(creat(\"ready\", 0600));\nfor (;;) pause();\n}}\n",
        dir.display()
    );
    cc(&["-ldl"], &program, &source)?;
    let mut command = Command::new(&program);
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    rewake_testkit::detach(&mut command);
    let mut child = command.spawn().context("starting the program")?;
    while !dir.join("ready").exists() {
        if let Some(status) = child.try_wait()? {
            bail!("the program ended: {status}");
        }
        std::thread::yield_now();
    }
    Ok(child)
}
