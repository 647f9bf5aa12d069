//! Options of CRIU that container engines, scripts and test suites pass, and that ask for nothing rewake would do otherwise.
//!
//! Those that allow CRIU to dump more (`--tcp-established`) are taken as well: what rewake cannot dump it
//! refuses in any case, with a reason. Options that would have to change what is restored (`--inherit-fd`, `--join-ns`) are
//! not here: they are unknown until they work. `docs/criu-options.md` lists all of them.

/// As [`CriuArgs`], of commands that have no use for what a dump makes use of.
#[derive(Debug, clap::Args)]
pub(crate) struct OtherCriuArgs {
    #[arg(short = 'l', long, hide = true)]
    file_locks: bool,
    #[command(flatten)]
    criu: CriuArgs,
}

/// Taken and without effect. Hidden, for the help shows what does something.
#[derive(Debug, clap::Args)]
pub(crate) struct CriuArgs {
    // rewake reads no configuration files.
    #[arg(long, hide = true, action = clap::ArgAction::Count)]
    no_default_config: u8,
    #[arg(long, hide = true)]
    log_pid: bool,
    // The report is always printed.
    #[arg(long, hide = true)]
    display_stats: bool,
    #[arg(short = 'L', long, hide = true, value_name = "DIR")]
    libdir: Option<String>,
    #[arg(short = 'j', long, hide = true)]
    shell_job: bool,
    #[arg(long, hide = true)]
    unprivileged: bool,
    #[arg(long, hide = true)]
    tcp_established: bool,
    #[arg(long, hide = true)]
    tcp_close: bool,
    #[arg(long, hide = true)]
    skip_in_flight: bool,
    #[arg(long, hide = true, value_name = "METHOD")]
    network_lock: Option<String>,
    #[arg(short = 'x', long, hide = true, num_args = 0..=1, value_name = "INODES", require_equals = true)]
    ext_unix_sk: Option<Option<String>>,
    #[arg(long, hide = true)]
    link_remap: bool,
    #[arg(long, hide = true)]
    evasive_devices: bool,
    #[arg(long, hide = true)]
    force_irmap: bool,
    #[arg(long, hide = true, value_name = "FILE")]
    irmap_scan_path: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, value_name = "MODE", require_equals = true)]
    manage_cgroups: Option<Option<String>>,
    #[arg(long, hide = true, value_name = "DIR")]
    freeze_cgroup: Option<String>,
    #[arg(long, hide = true, value_name = "NAMES")]
    enable_fs: Vec<String>,
    #[arg(long, hide = true)]
    enable_external_sharing: bool,
    #[arg(long, hide = true)]
    enable_external_masters: bool,
    #[arg(long, hide = true)]
    mntns_compat_mode: bool,
    #[arg(long, hide = true)]
    no_mntns_compat_mode: bool,
    #[arg(long, hide = true)]
    ghost_fiemap: bool,
    #[arg(long, hide = true)]
    no_ghost_fiemap: bool,
    #[arg(long, hide = true)]
    allow_uprobes: bool,
    #[arg(long, hide = true)]
    weak_sysctls: bool,
    #[arg(long, hide = true, num_args = 0..=1, value_name = "CAP", require_equals = true)]
    cpu_cap: Option<Option<String>>,
}
