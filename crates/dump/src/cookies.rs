//! Cookies of files, to know them again at the restore: hashed while the process runs, looked up while it stands.
//!
//! A cookie belongs to the open file the task has, reached through `/proc/PID/fd` and `map_files`, whatever its path
//! leads to now. That nothing changed between the hash and the freeze is told by device, inode, size and time stamps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use rewake_filecheck::open::{FileState, Held};
use rewake_filecheck::record::asked;
use rewake_filecheck::{
    Budget, Collector, Finding, HashCache, Hashing, Mismatch, OwnCookies, Parts, Policy, Report, Role,
    Severity, measure_verity, record,
};
use rewake_images::proto::RegFileEntry;
use rewake_memdump::{Area, AreaKind, Prot, VmFlags};

use crate::objects::{FileTable, Glance, NamedFile};
use crate::survey::Task;

/// How files are looked at during a dump.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FileOptions {
    /// What is recorded of which file.
    pub policy: Policy,
    /// Bytes that may be hashed. Files beyond are in the report; the smallest come first.
    pub hash_bytes: u64,
    /// Time that may go into hashing.
    pub hash_time: Duration,
    /// Hashes remembered between runs; `None` is none.
    pub cache: Option<PathBuf>,
}

impl Default for FileOptions {
    /// As [`Policy::default`]; at most 4 GiB and ten seconds of hashing.
    fn default() -> Self {
        let hash_time = Duration::from_secs(10);
        Self { policy: Policy::default(), hash_bytes: 4 << 30, hash_time, cache: None }
    }
}

/// A file of the running process.
struct Seen {
    link: PathBuf,
    state: FileState,
    role: Role,
}

/// Device and inode.
type Identity = (u64, u64);

/// What is known of the files before the process stands, and what could not be known.
#[derive(Debug)]
pub(crate) struct FileCookies {
    options: FileOptions,
    hashing: Hashing,
    /// Why a hash is missing.
    lacking: HashMap<FileState, Vec<Mismatch>>,
    own: OwnCookies,
    report: Report,
}

impl FileCookies {
    /// Hashes the files of a process that runs, as far as the policy asks for it and the budget goes. Whatever goes
    /// wrong is told when the cookies are taken.
    pub(crate) fn prepare(pid: Pid, areas: &[Area], descriptors: &[Glance], options: &FileOptions) -> Self {
        let budget = Budget::within(options.hash_bytes, options.hash_time);
        let mut hashing = Hashing::unlimited().with_verity(measure_verity).with_budget(budget);
        if let Some(path) = &options.cache {
            match HashCache::read(path) {
                Ok(cache) => hashing = hashing.with_cache(cache),
                Err(error) => tracing::warn!(%error, "hashes of earlier runs cannot be used"),
            }
        }
        let mut lacking = HashMap::new();
        let mut seen = seen(pid, areas, descriptors);
        seen.sort_by_key(|file| file.state.size);
        for file in seen {
            // An exception only asks for less.
            if hashing.known(&file.state, options.policy.record.parts(file.role)).is_some() {
                continue;
            }
            let Ok(path) = std::fs::read_link(&file.link) else { continue };
            let parts = asked(&options.policy, &path, file.role);
            // Closed or unmapped since: no cookie will be wanted.
            let Ok(held) = Held::at(&file.link) else { continue };
            if held.links() == 0 || hashing.known(&held.state(), parts).is_some() {
                continue;
            }
            let findings = record(&held, parts, &mut hashing).findings(0, &path);
            if !findings.is_empty() {
                lacking.insert(held.state(), findings.into_iter().map(|finding| finding.what).collect());
            }
        }
        hashing.known_only();
        let report = Report::default();
        Self { options: options.clone(), hashing, lacking, own: OwnCookies::default(), report }
    }

    /// Puts cookies into the entries of a process that stands. Nothing is hashed.
    pub(crate) fn take(&mut self, files: &mut FileTable, executable: &[u32]) {
        let mut roles: HashMap<Identity, Role> = HashMap::new();
        let named = std::mem::take(&mut files.named);
        for file in &named {
            let Some(reg) = file.entry(files) else { continue };
            let role = roles.entry(identity(&file.state)).or_default();
            role.writable |= writable(reg.flags);
            role.executable |= executable.contains(&reg.id);
        }
        let leased: HashSet<Identity> =
            named.iter().filter(|file| file.leased).map(|file| identity(&file.state)).collect();
        for file in &named {
            let role = roles.get(&identity(&file.state)).copied().unwrap_or_default();
            if let Some(reg) = file.entry(files) {
                self.one(file, role, leased.contains(&identity(&file.state)), reg);
            }
        }
        self.report.bytes_hashed = self.hashing.bytes_hashed();
    }

    fn one(&mut self, file: &NamedFile, role: Role, leased: bool, reg: &mut RegFileEntry) {
        self.report.files += 1;
        let path = Path::new(&reg.name);
        // A lease would be broken by opening the file, and with it, most likely, the program.
        let asked = if leased { Parts::SIZE } else { asked(&self.options.policy, path, role) };
        // The contents of a deleted file go along, nothing can take its place.
        let parts = if file.deleted { Parts { build_id: asked.build_id, ..Parts::SIZE } } else { asked };
        let cookie = match self.hashing.known(&file.state, parts) {
            Some(cookie) => cookie,
            None => self.look(file, parts, reg.id, path),
        };
        rewake_filecheck::format::store(&cookie, reg);
        self.own.insert(reg.id, &reg.name, &cookie);
    }

    /// The cookie of a file that was opened, or changed, after the others were hashed; or that could not be hashed.
    fn look(&mut self, file: &NamedFile, parts: Parts, id: u32, path: &Path) -> rewake_filecheck::Cookie {
        let recorded = match Held::at(&file.link) {
            Ok(held) => record(&held, parts, &mut self.hashing),
            Err(error) => {
                let size = self.hashing.known(&file.state, Parts::SIZE).unwrap_or_default();
                let lacking = vec![(rewake_filecheck::Part::Attributes, error)];
                rewake_filecheck::Recorded { cookie: size, lacking }
            }
        };
        let earlier = self.lacking.get(&file.state).map(Vec::as_slice).unwrap_or_default();
        for mut finding in recorded.findings(id, path) {
            if let Some(reason) = earlier.iter().find(|what| same_part(what, &finding.what)) {
                finding.what = reason.clone();
            }
            self.report.findings.push(finding);
        }
        recorded.cookie
    }

    /// What the format has no place for.
    pub(crate) fn own(&self) -> &OwnCookies {
        &self.own
    }

    /// Which cookies could not be had, and who uses those files. What was learned goes into the cache.
    pub(crate) fn finish(self, task: &Task, files: &FileTable) -> Report {
        if let (Some(path), Some(cache)) = (&self.options.cache, self.hashing.cache())
            && let Err(error) = cache.write(path)
        {
            tracing::warn!(%error, "hashes cannot be kept for later runs");
        }
        let mut report = self.report;
        if !report.findings.is_empty() {
            name_users(&mut report.findings, task, files);
        }
        for finding in report.findings.iter().filter(|finding| finding.severity > Severity::Note) {
            tracing::warn!("{}: {}", finding.path.display(), finding.what);
        }
        report
    }
}

fn name_users(findings: &mut [Finding], task: &Task, files: &FileTable) {
    let mut collector = Collector::default();
    let pid = task.pid.as_raw().unsigned_abs();
    for reg in files.entries.iter().filter_map(|entry| entry.reg.as_ref()) {
        // Its checksum is one that we calculated.
        let _ = collector.file(reg);
    }
    task.mm.vmas.iter().for_each(|vma| collector.mapping(pid, vma));
    task.fdinfo.iter().for_each(|descriptor| collector.descriptor(pid, descriptor));
    collector.memory(pid, &task.mm);
    let users: BTreeMap<u32, _> =
        collector.finish(&OwnCookies::default()).into_iter().map(|file| (file.id, file.users)).collect();
    for finding in findings {
        finding.users = users.get(&finding.id).cloned().unwrap_or_default();
    }
}

fn same_part(one: &Mismatch, other: &Mismatch) -> bool {
    match (one, other) {
        (Mismatch::Unreadable { part, .. }, Mismatch::Unreadable { part: other, .. }) => part == other,
        _ => false,
    }
}

fn identity(state: &FileState) -> Identity {
    (state.dev, state.inode)
}

fn writable(flags: u32) -> bool {
    flags & libc::O_ACCMODE.unsigned_abs() != libc::O_RDONLY.unsigned_abs()
}

/// Whether a shared mapping can be made writable. Without flags, its link tells, which shows how the file was opened.
fn may_be_written(area: &Area, link: &Path) -> bool {
    if !area.vm_flags.is_empty() {
        return area.vm_flags.contains(VmFlags::MAY_WRITE);
    }
    const OWNER_WRITES: u32 = 0o200;
    std::fs::symlink_metadata(link).is_ok_and(|link| link.permissions().mode() & OWNER_WRITES != 0)
}

/// The regular files that a process had mapped or open, each once with everything that is done with it.
fn seen(pid: Pid, areas: &[Area], descriptors: &[Glance]) -> Vec<Seen> {
    let mut all: HashMap<Identity, Seen> = HashMap::new();
    let mut note = |state: FileState, link: &dyn Fn() -> PathBuf, executable: bool, writable: bool| {
        if state.is_regular() {
            let file = all.entry(identity(&state)).or_insert_with(|| Seen {
                link: link(),
                state,
                role: Role::default(),
            });
            file.role.executable |= executable;
            file.role.writable |= writable;
        }
    };
    let mapped =
        areas.iter().filter(|area| matches!(area.kind, AreaKind::FilePrivate | AreaKind::FileShared));
    let mapped = mapped.map(|area| {
        let link = area.map_files(pid);
        let writable = area.shared && may_be_written(area, &link);
        (link, area.prot.contains(Prot::EXEC), writable)
    });
    let exe = (PathBuf::from(format!("/proc/{pid}/exe")), true, false);
    for (link, executable, is_writable) in std::iter::once(exe).chain(mapped) {
        // Unmapped since, if it is not there.
        if let Ok(state) = FileState::at(&link) {
            note(state, &|| link.clone(), executable, is_writable);
        }
    }
    for glance in descriptors {
        let link = || PathBuf::from(format!("/proc/{pid}/fd/{}", glance.fd));
        note(FileState::from(&glance.stat), &link, false, writable(glance.flags));
    }
    // To hash one would break the lease.
    for glance in descriptors.iter().filter(|glance| glance.leased) {
        all.remove(&identity(&FileState::from(&glance.stat)));
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use rewake_filecheck::Part;

    use super::*;

    /// A process of a copy of `cat` that waits for input, so that its program can be changed.
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn with_process(test: impl FnOnce(Pid, &Path)) {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: map_files is for the privileged");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::copy("/bin/cat", &program).unwrap();
        let mut child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        // What comes back has gone through the running program.
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        std::io::Write::write_all(&mut input, b"x").unwrap();
        std::io::Read::read_exact(&mut output, &mut [0]).unwrap();
        test(pid, &program);
        drop(input);
        child.wait().unwrap();
    }

    fn taken(cookies: &mut FileCookies, pid: Pid) -> RegFileEntry {
        let mut files = FileTable::default();
        let id = files.add_link(pid, "exe", 0).unwrap().id;
        cookies.take(&mut files, &[id]);
        files.entries.first().unwrap().reg.clone().unwrap()
    }

    #[test]
    fn hashes_taken_while_it_runs_are_there_when_it_stands() {
        with_process(|pid, program| {
            let areas = rewake_memdump::areas(pid).unwrap();
            let mut cookies = FileCookies::prepare(pid, &areas, &[], &FileOptions::default());
            let reg = taken(&mut cookies, pid);
            assert_eq!(reg.size, Some(std::fs::metadata(program).unwrap().len()));
            assert!(!reg.build_id.is_empty(), "distributions build with build-ids");
            assert_eq!(cookies.own().len(), 1);
            assert!(cookies.report.findings.is_empty(), "{:?}", cookies.report);
        });
    }

    #[test]
    fn a_file_that_changes_in_between_is_not_hashed_again_but_told() {
        with_process(|pid, program| {
            let areas = rewake_memdump::areas(pid).unwrap();
            let mut cookies = FileCookies::prepare(pid, &areas, &[], &FileOptions::default());
            let hashed = cookies.hashing.bytes_hashed();
            std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o700)).unwrap();
            let reg = taken(&mut cookies, pid);
            assert!(!reg.build_id.is_empty(), "a build-id is a few bytes");
            assert_eq!((cookies.hashing.bytes_hashed(), cookies.own().len()), (hashed, 0));
            let [finding] = &cookies.report.findings[..] else { panic!("{:?}", cookies.report) };
            assert_eq!(finding.severity, Severity::Unchecked);
            assert!(
                matches!(&finding.what, Mismatch::Unreadable { part: Part::Blake3, reason }
                    if reason.contains("changed after the files were hashed")),
                "{finding:?}"
            );
        });
    }

    #[test]
    fn contents_of_a_file_open_for_writing_are_not_hashed() {
        with_process(|pid, program| {
            let areas = rewake_memdump::areas(pid).unwrap();
            let mut cookies = FileCookies::prepare(pid, &areas, &[], &FileOptions::default());
            let mut files = FileTable::default();
            let read = files.add_link(pid, "exe", 0).unwrap().id;
            // The same file again, as if it were open for writing.
            files.add_link(pid, "exe", libc::O_RDWR.unsigned_abs()).unwrap();
            cookies.take(&mut files, &[read]);
            assert!(cookies.own().is_empty() && cookies.report.findings.is_empty(), "{program:?}");
        });
    }
}
