//! The least a process has.

use crate::harness::{Check, Frame, Scenario, same};

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario { name: "minimal", needs_root: false, run: minimal }];

/// Memory, registers and identity.
fn minimal(frame: &mut Frame) -> Check {
    let numbers: Vec<u64> = (0..10_000).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let (pid, sid) = unsafe { (libc::getpid(), libc::getsid(0)) };
    let cwd = std::env::current_dir().unwrap();
    frame.wait();
    let sum = (0..10_000).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    same("heap", numbers.into_iter().eq(sum), true)?;
    same("pid", unsafe { libc::getpid() }, pid)?;
    same("session", unsafe { libc::getsid(0) }, sid)?;
    same("working directory", std::env::current_dir().unwrap(), cwd)
}
