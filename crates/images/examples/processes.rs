//! Who runs in a checkpoint, with what, and how much of it is in memory:
//!
//!     cargo run -p rewake-images --features explore --example processes -- crates/images/testdata/pipe00-h

use std::error::Error;
use std::io::Write;

use rewake_images::Checkpoint;
use rewake_images::explore::Explorer;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).ok_or("usage: processes DIR")?;
    let checkpoint = Checkpoint::open(dir)?;
    let explorer = Explorer::new(&checkpoint)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "    PID  PARENT STATE     PAGES COMMAND")?;
    for task in explorer.tasks() {
        let (pid, parent) = (task.entry.pid, task.entry.ppid);
        let (pages, arguments) = if task.state().has_resources() {
            (checkpoint.memory(pid.into())?.pages(), explorer.arguments(task)?)
        } else {
            (0, None)
        };
        let command = arguments.map_or_else(|| format!("[{}]", task.comm()), |all| all.join(" "));
        writeln!(out, "{pid:7} {parent:7} {:8} {pages:6} {command}", format!("{:?}", task.state()))?;
    }
    Ok(())
}
