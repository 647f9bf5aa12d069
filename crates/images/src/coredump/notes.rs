//! Notes: what a core file says besides memory.

use super::elf::Fields;
use super::registers;
use crate::PAGE_SIZE;
use crate::explore::{FileTable, Task, TaskState, status};
use crate::proto;

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_X86_XSTATE: u32 = 0x202;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;

/// Bytes of a `siginfo_t`.
const SIGINFO: usize = 128;

/// A thread: its id and its core image.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) tid: u32,
    pub(super) core: proto::CoreEntry,
}

/// What the notes are made from.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) task: &'a Task,
    /// The first is the task's first.
    pub(super) threads: &'a [Thread],
    pub(super) mm: &'a proto::MmEntry,
    pub(super) files: &'a FileTable,
    pub(super) arguments: &'a [String],
}

fn note(out: &mut Fields, owner: &[u8], kind: u32, body: &[u8]) {
    let padded = |len: usize| len.next_multiple_of(4);
    let size = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let fields = std::mem::take(out).u32(size(owner.len() + 1)).u32(size(body.len())).u32(kind);
    *out = fields.sized(owner, padded(owner.len() + 1)).sized(body, padded(body.len()));
}

/// All notes, in the order in which the kernel writes them: those of the process come with its first thread's.
pub(super) fn notes(facts: &Facts<'_>) -> Vec<u8> {
    let mut out = Fields::default();
    for (index, thread) in facts.threads.iter().enumerate() {
        note(&mut out, b"CORE", NT_PRSTATUS, &prstatus(facts.task, thread));
        if index == 0 {
            note(&mut out, b"CORE", NT_PRPSINFO, &prpsinfo(facts));
            note(&mut out, b"CORE", NT_SIGINFO, &siginfo(facts));
            let auxv: Vec<u8> = facts.mm.mm_saved_auxv.iter().flat_map(|word| word.to_le_bytes()).collect();
            note(&mut out, b"CORE", NT_AUXV, &auxv);
            note(&mut out, b"CORE", NT_FILE, &mapped_files(facts.mm, facts.files));
        }
        if let Some(info) = &thread.core.thread_info {
            note(&mut out, b"CORE", NT_FPREGSET, &registers::floating(&info.fpregs));
            if let Some(xsave) = &info.fpregs.xsave {
                note(&mut out, b"LINUX", NT_X86_XSTATE, &registers::extended(&info.fpregs, xsave));
            }
        }
    }
    out.0
}

/// `struct elf_prstatus`.
fn prstatus(task: &Task, thread: &Thread) -> Vec<u8> {
    let core = thread.core.thread_core.as_ref();
    let pending = core.and_then(|c| c.signals_p.as_ref()).map_or(0, pending_set);
    let blocked = core.and_then(|c| c.blk_sigset).or(thread.core.tc.as_ref().map(|tc| tc.blk_sigset));
    let info = thread.core.thread_info.as_ref();
    let entry = &task.entry;
    let fields = Fields::default().zeros(16).u64(pending).u64(blocked.unwrap_or(0));
    let fields = fields.u32(thread.tid).u32(entry.ppid).u32(entry.pgid).u32(entry.sid);
    let general = info.map(|info| registers::general(&info.gpregs)).unwrap_or_default();
    // Four times, then registers, then whether there are floating point ones.
    fields.zeros(64).sized(&general, 27 * 8).u32(u32::from(info.is_some())).zeros(4).0
}

/// The signals in a queue, as a set.
fn pending_set(queue: &proto::SignalQueueEntry) -> u64 {
    let numbers =
        queue.signals.iter().filter_map(|s| s.siginfo.first_chunk()).map(|b| u32::from_le_bytes(*b));
    numbers.filter_map(|n| 1_u64.checked_shl(n.checked_sub(1)?)).fold(0, |set, bit| set | bit)
}

/// `struct elf_prpsinfo`.
fn prpsinfo(facts: &Facts<'_>) -> Vec<u8> {
    let (state, letter) = match facts.task.state() {
        TaskState::Stopped => (3, b'T'),
        TaskState::Zombie => (4, b'Z'),
        _ => (0, b'R'),
    };
    let first = facts.threads.first().and_then(|thread| thread.core.thread_core.as_ref());
    let creds = first.and_then(|core| core.creds.as_ref());
    let nice = first.and_then(|core| core.sched_nice).and_then(|nice| i8::try_from(nice).ok()).unwrap_or(0);
    let flags = facts.task.core.tc.as_ref().map_or(0, |tc| tc.flags);
    let entry = &facts.task.entry;
    let name = facts.task.comm().as_bytes();
    let arguments = facts.arguments.join(" ");
    // Both texts keep a final NUL.
    let text = |bytes: &[u8], size: usize| bytes.get(..size - 1).unwrap_or(bytes).to_vec();
    Fields::default()
        .bytes(&[state, letter, u8::from(letter == b'Z'), nice.cast_unsigned()])
        .zeros(4)
        .u64(flags.into())
        .u32(creds.map_or(0, |c| c.uid))
        .u32(creds.map_or(0, |c| c.gid))
        .u32(entry.pid)
        .u32(entry.ppid)
        .u32(entry.pgid)
        .u32(entry.sid)
        .sized(&text(name, 16), 16)
        .sized(&text(arguments.as_bytes(), 80), 80)
        .0
}

/// The first signal that waits for the first thread or the process. No signal ended the process; it was dumped.
fn siginfo(facts: &Facts<'_>) -> Vec<u8> {
    let own = facts.threads.first().and_then(|t| t.core.thread_core.as_ref()?.signals_p.as_ref());
    let shared = facts.task.core.tc.as_ref().and_then(|tc| tc.signals_s.as_ref());
    let first = [own, shared].into_iter().flatten().find_map(|queue| queue.signals.first());
    Fields::default().sized(first.map_or(&[], |s| s.siginfo.as_slice()), SIGINFO).0
}

/// Which files are mapped where.
fn mapped_files(mm: &proto::MmEntry, files: &FileTable) -> Vec<u8> {
    let mapped = mm.vmas.iter().filter(|vma| vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0);
    let path = |vma: &proto::VmaEntry| files.path(u32::try_from(vma.shmid).ok()?).map(str::to_owned);
    let mapped: Vec<_> = mapped.filter_map(|vma| path(vma).map(|path| (vma, path))).collect();
    let mut out = Fields::default().u64(mapped.len() as u64).u64(PAGE_SIZE);
    for (vma, _) in &mapped {
        out = out.u64(vma.start).u64(vma.end).u64(vma.pgoff / PAGE_SIZE);
    }
    for (_, path) in &mapped {
        out = out.bytes(path.as_bytes()).zeros(1);
    }
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_kernels() {
        let core =
            proto::CoreEntry { thread_info: Some(proto::ThreadInfoX86::default()), ..Default::default() };
        let task = Task { entry: proto::PstreeEntry { pid: 7, ..Default::default() }, core: core.clone() };
        let threads = [Thread { tid: 7, core }];
        let (mm, files) = (proto::MmEntry::default(), FileTable::default());
        let arguments = ["x".repeat(100)];
        let facts = Facts { task: &task, threads: &threads, mm: &mm, files: &files, arguments: &arguments };
        assert_eq!(prstatus(&task, &threads[0]).len(), 336);
        let info = prpsinfo(&facts);
        assert_eq!(info.len(), 136);
        assert_eq!(info[134..], [b'x', 0]);
        assert_eq!(siginfo(&facts), [0; 128]);
        assert_eq!(notes(&facts).len() % 4, 0);
    }

    #[test]
    fn pending_signals_as_a_set() {
        let signal = |n: u32| proto::SiginfoEntry { siginfo: n.to_le_bytes().to_vec() };
        let queue = proto::SignalQueueEntry { signals: vec![signal(1), signal(64), signal(0), signal(99)] };
        assert_eq!(pending_set(&queue), 1 | 1 << 63);
    }
}
