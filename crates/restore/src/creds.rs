//! Who a thread is: ids, groups, capabilities.

use rewake_images::proto::CredsEntry;
use zerocopy::IntoBytes;

/// A system call, one of whose arguments may be a pointer to data.
#[derive(Debug)]
pub(crate) struct CredCall {
    pub(crate) name: &'static str,
    pub(crate) nr: libc::c_long,
    before: Vec<u64>,
    pub(crate) data: Vec<u8>,
    /// Offset of the second pointer of capset, behind the header.
    second: Option<u64>,
}

impl CredCall {
    fn plain(name: &'static str, nr: libc::c_long, args: &[u64]) -> Self {
        Self { name, nr, before: args.to_vec(), data: Vec::new(), second: None }
    }

    /// Its arguments, with its data at `at`.
    pub(crate) fn args(&self, at: Option<u64>) -> Vec<u64> {
        let mut args = self.before.clone();
        args.extend(at);
        if let (Some(at), Some(offset)) = (at, self.second) {
            args.push(at + offset);
        }
        args
    }
}

/// The credentials of the calling thread, as an image would hold them; `None` if they cannot be told.
pub(crate) fn own() -> Option<CredsEntry> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let field =
        |name: &str| status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()));
    let numbers = |name| -> Option<Vec<u32>> {
        field(name)?.split_ascii_whitespace().map(|n| n.parse().ok()).collect()
    };
    let words = |name| -> Option<Vec<u32>> {
        let cap = u64::from_str_radix(field(name)?, 16).ok()?;
        Some(vec![u32::try_from(cap & 0xffff_ffff).ok()?, u32::try_from(cap >> 32).ok()?])
    };
    let [uid, euid, suid, fsuid] = numbers("Uid")?.try_into().ok()?;
    let [gid, egid, sgid, fsgid] = numbers("Gid")?.try_into().ok()?;
    let secbits = crate::sys::securebits()?;
    Some(CredsEntry {
        uid,
        gid,
        euid,
        egid,
        suid,
        sgid,
        fsuid,
        fsgid,
        cap_inh: words("CapInh")?,
        cap_prm: words("CapPrm")?,
        cap_eff: words("CapEff")?,
        cap_bnd: words("CapBnd")?,
        cap_amb: words("CapAmb")?,
        secbits,
        groups: numbers("Groups")?,
        no_new_privs: field("NoNewPrivs").filter(|&v| v == "1").map(|_| 1),
        ..Default::default()
    })
}

/// The calls that make a privileged thread be `creds`. All of them concern the calling thread alone.
pub(crate) fn calls(creds: &CredsEntry) -> Vec<CredCall> {
    const CAPABILITIES: u32 = 64;
    const SECBIT_NO_SETUID_FIXUP: u64 = 1 << 2;
    const SECBIT_KEEP_CAPS: u64 = 1 << 4;
    const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    let option = |n: libc::c_int| u64::from(n.unsigned_abs());
    let prctl = |name, args: &[u64]| CredCall::plain(name, libc::SYS_prctl, args);
    let word = |words: &[u32], index: usize| words.get(index).copied().unwrap_or(0);
    let has = |words: &[u32], cap: u32| word(words, usize::from(cap >= 32)) >> (cap % 32) & 1 == 1;

    let mut groups = CredCall::plain("setgroups", libc::SYS_setgroups, &[creds.groups.len() as u64]);
    groups.data = creds.groups.as_bytes().to_vec();
    if groups.data.is_empty() {
        groups.before.push(0);
    }
    let mut calls = vec![
        groups,
        // Changing ids must not change capabilities, until those are set.
        prctl(
            "prctl(PR_SET_SECUREBITS)",
            &[option(libc::PR_SET_SECUREBITS), SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS],
        ),
        ids("setresgid", libc::SYS_setresgid, [creds.gid, creds.egid, creds.sgid]),
        CredCall::plain("setfsgid", libc::SYS_setfsgid, &[creds.fsgid.into()]),
        ids("setresuid", libc::SYS_setresuid, [creds.uid, creds.euid, creds.suid]),
        CredCall::plain("setfsuid", libc::SYS_setfsuid, &[creds.fsuid.into()]),
    ];
    let last_cap = last_capability();
    for cap in (0..CAPABILITIES).filter(|&cap| cap <= last_cap && !has(&creds.cap_bnd, cap)) {
        calls.push(prctl("prctl(PR_CAPBSET_DROP)", &[option(libc::PR_CAPBSET_DROP), cap.into()]));
    }
    calls.push(prctl("prctl(PR_SET_SECUREBITS)", &[option(libc::PR_SET_SECUREBITS), creds.secbits.into()]));
    let set = |index| [word(&creds.cap_eff, index), word(&creds.cap_prm, index), word(&creds.cap_inh, index)];
    let [e0, p0, i0] = set(0);
    let [e1, p1, i1] = set(1);
    let mut capset = CredCall::plain("capset", libc::SYS_capset, &[]);
    capset.data = [CAPABILITY_VERSION_3, 0, e0, p0, i0, e1, p1, i1].as_bytes().to_vec();
    capset.second = Some(8);
    calls.push(capset);
    for cap in (0..CAPABILITIES).filter(|&cap| has(&creds.cap_amb, cap)) {
        let args = [option(libc::PR_CAP_AMBIENT), option(libc::PR_CAP_AMBIENT_RAISE), cap.into()];
        calls.push(prctl("prctl(PR_CAP_AMBIENT)", &args));
    }
    if creds.no_new_privs == Some(1) {
        calls.push(prctl("prctl(PR_SET_NO_NEW_PRIVS)", &[option(libc::PR_SET_NO_NEW_PRIVS), 1]));
    }
    calls
}

fn ids(name: &'static str, nr: libc::c_long, ids: [u32; 3]) -> CredCall {
    CredCall::plain(name, nr, &ids.map(u64::from))
}

/// The highest capability the kernel knows.
fn last_capability() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
