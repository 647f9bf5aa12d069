//! `rewake check`

use std::io::Write;

use nix::unistd::Pid;
use rewake_dump::DumpOptions;
use serde::Serialize;

/// Say whether a process, or anything on this machine, can be dumped and restored
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A process to look at; nothing is frozen
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// Only say whether this of CRIU's features is there for rewake; may be given several times
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(FEATURES), hide_possible_values = true)]
    feature: Vec<String>,
    /// With --pid: for a dump that takes locks on files along
    #[arg(short = 'l', long)]
    file_locks: bool,
    /// Accepted for CRIU's sake: everything is always looked at
    #[arg(long, hide = true)]
    extra: bool,
    #[arg(long, hide = true)]
    experimental: bool,
    #[arg(long, hide = true)]
    all: bool,
    #[command(flatten)]
    criu: crate::criu_args::CriuArgs,
    /// Report in JSON
    #[arg(long)]
    json: bool,
}

/// What CRIU can be asked for.
const FEATURES: [&str; 44] = [
    "aio_remap",
    "apparmor_stacking",
    "autofs",
    "breakpoints",
    "can_map_vdso",
    "cgroupns",
    "clone3_set_tid",
    "compat_cr",
    "external_net_ns",
    "fdinfo_lock",
    "get_rseq_conf",
    "has_ipt_legacy",
    "ipv6_freebind",
    "kcmp_epoll",
    "link_nsid",
    "loginuid",
    "mem_dirty_track",
    "memfd_hugetlb",
    "mnt_id",
    "move_mount_set_group",
    "net_diag_raw",
    "network_lock_nftables",
    "newifindex",
    "nftables",
    "ns_pid",
    "nsid",
    "openat2",
    "overlayfs_maps",
    "pagemap_scan",
    "pagemap_scan_guard_pages",
    "pidfd_store",
    "seccomp_filters",
    "seccomp_suspend",
    "sk_ns",
    "sk_unix_file",
    "sockopt_buf_lock",
    "tcp_half_closed",
    "timens",
    "timer_cr_ids",
    "timerfd",
    "tun",
    "tun_ns",
    "uffd",
    "userns",
];

/// The answer was no.
const NO: u8 = 1;

/// A facility of the kernel.
#[derive(Debug, Serialize)]
struct Facility {
    name: &'static str,
    present: bool,
    /// Without it nothing works; otherwise there is a slower way, or less is kept.
    required: bool,
    wanted_for: &'static str,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    if !args.feature.is_empty() {
        return features(&args.feature, out);
    }
    match args.pid {
        Some(pid) => process(pid, args.file_locks, args.json, out),
        None => machine(args.json, out),
    }
}

/// Whether rewake makes use of each, here. Only what is tried can be answered with yes.
fn features(names: &[String], out: &mut impl Write) -> anyhow::Result<u8> {
    let facilities = facilities();
    let present = |name: &str| facilities.iter().any(|facility| facility.name == name && facility.present);
    let mut all = true;
    for name in names {
        let there = match name.as_str() {
            // Pages are compared where nothing else works.
            "mem_dirty_track" => true,
            "uffd" => present("userfaultfd"),
            "pagemap_scan" => present("PAGEMAP_SCAN"),
            _ => false,
        };
        all &= there;
        writeln!(out, "{name}: {}", if there { "yes" } else { "no, or rewake has no use for it yet" })?;
    }
    Ok(if all { crate::DONE } else { NO })
}

fn process(pid: i32, file_locks: bool, json: bool, out: &mut impl Write) -> anyhow::Result<u8> {
    let obstacles = {
        let mut options = DumpOptions::new(Pid::from_raw(pid), "");
        options.file_locks = file_locks;
        rewake_dump::preflight(&options)?
    };
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&obstacles)?)?;
    } else if obstacles.is_empty() {
        writeln!(out, "pid {pid} can be dumped")?;
    } else {
        for obstacle in &obstacles {
            writeln!(out, "{obstacle}")?;
        }
    }
    Ok(if obstacles.is_empty() { crate::DONE } else { NO })
}

fn machine(json: bool, out: &mut impl Write) -> anyhow::Result<u8> {
    let facilities = facilities();
    let fit = facilities.iter().all(|f| f.present || !f.required);
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&facilities)?)?;
    } else {
        for Facility { name, present, required, wanted_for } in &facilities {
            let answer = match (present, required) {
                (true, _) => "yes",
                (false, true) => "NO",
                (false, false) => "no (can do without)",
            };
            writeln!(out, "{name:36} {answer:20} {wanted_for}")?;
        }
        writeln!(out, "{}", if fit { "Looks good." } else { "This machine, or this user, cannot." })?;
    }
    Ok(if fit { crate::DONE } else { NO })
}

/// Each is tried, not told from a version.
fn facilities() -> Vec<Facility> {
    let me = Pid::this();
    let exists = |path: &str| std::path::Path::new(path).exists();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim);
    let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let has = |bit: u32| capabilities >> bit & 1 == 1;
    const SYS_PTRACE: u32 = 19;
    const SYS_ADMIN: u32 = 21;
    const SYS_RESOURCE: u32 = 24;
    const CHECKPOINT_RESTORE: u32 = 40;
    let facility = |name, present, required, wanted_for| Facility { name, present, required, wanted_for };
    vec![
        facility("CAP_SYS_PTRACE", has(SYS_PTRACE), true, "controlling processes"),
        facility(
            "CAP_SYS_ADMIN or _CHECKPOINT_RESTORE",
            has(SYS_ADMIN) || has(CHECKPOINT_RESTORE),
            true,
            "choosing pids, opening mapped files",
        ),
        facility("CAP_SYS_RESOURCE", has(SYS_RESOURCE), false, "raising hard limits"),
        facility("/proc/PID/map_files", exists("/proc/self/map_files"), true, "the files behind mappings"),
        facility("/proc/PID/timers", exists("/proc/self/timers"), true, "POSIX timers"),
        facility(
            "/proc/PID/task/TID/children",
            exists(&format!("/proc/self/task/{me}/children")),
            true,
            "the process tree",
        ),
        facility(
            "userfaultfd",
            exists("/proc/sys/vm/unprivileged_userfaultfd"),
            false,
            "filling memory fast",
        ),
        facility(
            "PAGEMAP_SCAN",
            rewake_memdump::PageScanner::with_pagemap_scan(me).is_ok(),
            false,
            "choosing pages fast",
        ),
    ]
}
