//! Where memory of single mappings comes from. mbind(2).

use std::ops::Range;

use nix::errno::Errno;
use rewake_images::extra::PolicyExtra;
use rewake_memdump::{Area, AreaKind};
use rewake_tracee::{Call, Remote};

use crate::asked::policy_nodes;
use crate::error::{DumpError, Result};

/// The policy of this address, not of the thread. get_mempolicy(2).
const MPOL_F_ADDR: u64 = 2;
const MODE_LEN: usize = 4;
const AT_ONCE: usize = 4096;

/// Asks for the policy of every mapping; gives those that have one, by their first and last address.
///
/// The process can only be asked one address at a time, so this is one call for each, which takes a fraction of a microsecond.
pub(crate) fn of_areas(remote: &mut Remote<'_>, areas: &[Area]) -> Result<Vec<(Range<u64>, PolicyExtra)>> {
    let mut policies = Vec::new();
    let pid = remote.pid();
    let asked: Vec<&Area> = areas.iter().filter(|area| area.kind != AreaKind::Vsyscall).collect();
    for areas in asked.chunks(AT_ONCE) {
        let base = remote.data();
        let places = (base..).step_by(MODE_LEN);
        let mut calls: Vec<Call> = areas
            .iter()
            .zip(places)
            .map(|(area, at)| Call::new(libc::SYS_get_mempolicy, &[at, 0, 0, area.start, MPOL_F_ADDR]))
            .collect();
        remote.batch(&mut calls).map_err(DumpError::tracee(pid))?;
        let mut modes = vec![0; areas.len() * MODE_LEN];
        remote.read(base, &mut modes).map_err(DumpError::tracee(pid))?;
        let modes = modes.chunks_exact(MODE_LEN).map(|mode| mode.try_into().map_or(0, u32::from_ne_bytes));
        for ((area, call), mode) in areas.iter().zip(&calls).zip(modes) {
            match call.result() {
                // The default.
                Ok(_) if mode == 0 => {}
                Ok(_) => {
                    let nodes = policy_nodes(remote, pid, area.start, MPOL_F_ADDR)?;
                    let policy = PolicyExtra { mode, nodes };
                    policies.push((area.range(), policy));
                }
                // Built without nodes.
                Err(Errno::ENOSYS) => return Ok(policies),
                Err(source) => return Err(DumpError::Remote { pid, call: "get_mempolicy", source }),
            }
        }
    }
    Ok(policies)
}
