//! Tests of the parser.

use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;

use super::*;

fn parse(text: impl AsRef<[u8]>) -> Result<Vec<Area>, CaptureError> {
    AreaReader::new(text.as_ref()).collect()
}

fn one(text: impl AsRef<[u8]>) -> Area {
    let mut areas = parse(text).unwrap();
    assert_eq!(areas.len(), 1);
    areas.remove(0)
}

const SMAPS: &str = "\
556518fc1000-556518fc3000 r--p 00001000 fe:10 247030                     /usr/bin/cat
Size:                  8 kB
ProtectionKey:         3
VmFlags: rd mr mw me 
7ffd32d75000-7ffd32d96000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
VmFlags: rd wr mr mw me gd ac 
7ffd32db4000-7ffd32db8000 r--p 00000000 00:00 0                          [vvar]
VmFlags: rd mr pf io de dd 
";

#[test]
fn smaps_is_read_with_flags() {
    let areas = parse(SMAPS).unwrap();
    let [cat, stack, vvar] = areas.as_slice() else { panic!("{areas:?}") };
    assert_eq!(cat.range(), 0x5565_18fc_1000..0x5565_18fc_3000);
    assert_eq!((cat.offset, cat.dev, cat.inode), (0x1000, (0xfe, 0x10), 247_030));
    assert_eq!(cat.path.as_deref(), Some("/usr/bin/cat".as_ref()));
    assert_eq!((cat.kind, cat.prot, cat.shared), (AreaKind::FilePrivate, Prot::READ, false));
    assert_eq!(cat.protection_key, 3);
    assert_eq!((stack.kind, stack.path.as_ref()), (AreaKind::Stack, None));
    assert!(stack.vm_flags.contains(VmFlags::GROWS_DOWN));
    assert_eq!(vvar.kind, AreaKind::Vvar, "not a device, although flagged so");
}

#[test]
fn maps_is_the_same_without_flags() {
    let maps: String =
        SMAPS.lines().filter(|l| !l.starts_with(char::is_uppercase)).flat_map(|l| [l, "\n"]).collect();
    let (full, quick) = (parse(SMAPS).unwrap(), parse(maps).unwrap());
    assert!(crate::same_mappings(&full, &quick));
    assert!(quick.iter().all(|area| area.vm_flags.is_empty()));
    assert!(!crate::same_mappings(&full, &quick[1..]));
}

#[test]
fn kinds_follow_from_name_and_sharing() {
    let cases = [
        ("rw-p 00000000 00:00 0 ", AreaKind::AnonPrivate),
        ("rw-p 00000000 00:00 0    [heap]", AreaKind::Heap),
        ("r-xp 00000000 00:00 0    [vdso]", AreaKind::Vdso),
        ("r--p 00000000 00:00 0    [vvar_vclock]", AreaKind::Vvar),
        ("--xp 00000000 00:00 0    [vsyscall]", AreaKind::Vsyscall),
        ("rw-s 00000000 00:01 1026 /dev/zero (deleted)", AreaKind::AnonShared),
        ("rw-s 00000000 00:01 4    /SYSV00000000 (deleted)", AreaKind::SysvShared),
        ("rw-s 00000000 00:01 5    /memfd:x (deleted)", AreaKind::FileShared),
        ("rw-s 00000000 fe:00 5    /dev/zero (deleted)", AreaKind::FileShared),
        ("rw-p 00000000 fe:00 5    /tmp/x (deleted)", AreaKind::FilePrivate),
        ("r-xp 00000000 00:00 0    [uprobes]", AreaKind::Special),
    ];
    for (line, kind) in cases {
        assert_eq!(one(format!("1000-2000 {line}\n")).kind, kind, "{line}");
    }
    assert!(one("1000-2000 rw-s 00000000 00:01 5    /memfd:x (deleted)\n").is_memfd());
}

#[test]
fn devices_are_known_by_flags() {
    let area = one("1000-2000 rw-s 00000000 00:06 9 /dev/mem\nVmFlags: rd wr sh io pf \n");
    assert_eq!(area.kind, AreaKind::Device);
}

#[test]
fn paths_are_bytes_with_newlines_put_back() {
    let area = one(b"1000-2000 r--p 00000000 fe:00 5      /a  b\\012\xff (deleted)\n");
    assert_eq!(area.path.unwrap().as_os_str().as_bytes(), b"/a  b\n\xff");
    assert!(area.deleted);
    let area = one("1000-2000 r--p 00000000 fe:00 5      /ends with blank \n");
    assert_eq!(area.path.unwrap().as_os_str(), "/ends with blank ");
}

#[test]
fn given_names_are_kept() {
    let area = one("1000-2000 rw-p 00000000 00:00 0      [anon:my arena]\n");
    assert_eq!((area.kind, area.anon_name.as_deref()), (AreaKind::AnonPrivate, Some(&b"my arena"[..])));
    let area = one("1000-2000 rw-s 00000000 00:01 77     [anon_shmem:x]\n");
    assert_eq!((area.kind, area.anon_name.as_deref()), (AreaKind::AnonShared, Some(&b"x"[..])));
    assert_eq!(area.inode, 77);
}

#[test]
fn nonsense_is_refused_with_its_line() {
    let bad = [
        "VmFlags: rd\n",
        "x\n",
        "1000-2000 rw-p 00000000 00:00 0\nSize: 4 kB\n2000-1000 rw-p 00000000 00:00 0\n",
        "1000-2000 rwzp 00000000 00:00 0\n",
        "1000-2000 rw-q 00000000 00:00 0\n",
        "1000-2000 rw-p 00000000 00:00 -1\n",
        "1000-20000000000000000 rw-p 0 00:00 0\n",
        "1000-2000 rw-p 0 00 0\n",
    ];
    for text in bad {
        let error = parse(text).unwrap_err();
        assert!(matches!(error, CaptureError::Malformed { .. }), "{text}: {error:?}");
    }
    let error = parse(bad[2]).unwrap_err();
    assert_eq!(error.to_string(), "line 3 of the mappings: the range is empty");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn a_written_header_reads_back(
        start in (0_u64..1 << 35).prop_map(|page| page * 4096),
        pages in 1_u64..1 << 20,
        bits in 0_u32..8,
        shared: bool,
        offset in 0_u64..1 << 52,
        dev in (0_u32..1 << 12, 0_u32..1 << 20),
        inode in 1_u64..,
        name in "/[a-z \n]{0,20}[a-z]",
        deleted: bool,
    ) {
        let prot = Prot::from_bits_truncate(bits);
        let end = start + pages * 4096;
        let letter = |flag, letter| if prot.contains(flag) { letter } else { '-' };
        let line = format!(
            "{start:08x}-{end:08x} {}{}{}{} {offset:08x} {:02x}:{:02x} {inode} {}{}{}\n",
            letter(Prot::READ, 'r'), letter(Prot::WRITE, 'w'), letter(Prot::EXEC, 'x'),
            if shared { 's' } else { 'p' }, dev.0, dev.1,
            " ".repeat(12), name.replace('\n', "\\012"), if deleted { " (deleted)" } else { "" },
        );
        let area = one(line);
        prop_assert_eq!((area.start, area.end, area.prot, area.shared), (start, end, prot, shared));
        prop_assert_eq!((area.offset, area.dev, area.inode, area.deleted), (offset, dev, inode, deleted));
        let path = area.path.unwrap();
        prop_assert_eq!(path.as_os_str(), name.as_str());
    }
}

#[test]
fn our_own_list_is_read() {
    let areas = areas(Pid::this()).unwrap();
    assert!(areas.iter().any(|area| area.kind == AreaKind::Stack));
    assert!(areas.iter().any(|area| area.kind == AreaKind::Vdso));
    assert!(areas.iter().all(|area| area.kind == AreaKind::Vsyscall || !area.vm_flags.is_empty()));
    assert!(areas.is_sorted_by_key(|area| area.start));
}

#[test]
fn a_process_that_is_not_there_died() {
    let error = maps(Pid::from_raw(i32::MAX)).unwrap_err();
    assert!(matches!(error, CaptureError::Died { .. }), "{error:?}");
}

#[test]
#[expect(clippy::print_stdout, reason = "skips are told")]
fn a_kernel_thread_has_no_memory() {
    let comm = std::fs::read_to_string("/proc/2/comm").unwrap_or_default();
    if comm.trim() != "kthreadd" {
        println!("skipped: process 2 is no kernel thread here");
        return;
    }
    assert!(matches!(maps(Pid::from_raw(2)), Err(CaptureError::NoMemory { .. } | CaptureError::Proc { .. })));
}
