//! Taking cookies: of what kinds of files, through which descriptors, in which parts.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rewake_filecheck::{Budget, Cookie, CookieError, CrcMode, Hashing, Parts, compares_size};
use tempfile::TempDir;

use crate::elf::Elf;

const ALL: Parts = Parts { build_id: true, checksum: Some(CrcMode::Full), blake3: true, verity: true };

fn cookie(file: &File, parts: Parts) -> Cookie {
    Cookie::of_file(file, parts, &mut Hashing::unlimited()).unwrap()
}

fn number(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 7 & 0xff).unwrap()).collect()
}

#[test]
fn every_part_of_an_elf_file() {
    let mut file = tempfile::tempfile().unwrap();
    let image = Elf::with_build_id(true, false, &[9; 20]).bytes();
    file.write_all(&image).unwrap();
    let taken = cookie(&file, ALL);
    assert_eq!(taken.size, Some(image.len() as u64));
    assert_eq!(taken.mode.unwrap() & nix::libc::S_IFMT, nix::libc::S_IFREG);
    assert_eq!(taken.build_id.unwrap().as_bytes(), [9; 20]);
    assert_eq!(taken.checksum.unwrap().value, crc32c::crc32c(&image));
    assert_eq!(taken.blake3.unwrap().as_bytes(), blake3::hash(&image).as_bytes());
    let only_size = cookie(&file, Parts::SIZE);
    assert_eq!((only_size.build_id, only_size.checksum, only_size.blake3), (None, None, None));
}

#[test]
fn checksums_agree_with_bytes_picked_by_hand() {
    for len in [0, 1, 1023, 1024, 1025, 262_144, 262_145, 700_001] {
        let contents = pattern(len);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&contents).unwrap();
        for bytes in [1, 1024, 262_144, 262_145, u32::MAX] {
            let expected = crc32c::crc32c(&contents[..len.min(bytes as usize)]);
            let crc = rewake_filecheck::crc::of_file(&file, CrcMode::First(number(bytes)), Budget::UNLIMITED)
                .unwrap();
            assert_eq!(crc.value, expected, "first {bytes} of {len}");
        }
        for step in [1, 2, 3, 1000, 4095, 4096, 4097, 262_144, 300_000, u32::MAX] {
            let picked: Vec<u8> = contents.iter().copied().step_by(step as usize).collect();
            let crc = rewake_filecheck::crc::of_file(&file, CrcMode::Period(number(step)), Budget::UNLIMITED)
                .unwrap();
            assert_eq!(crc.value, crc32c::crc32c(&picked), "every {step}. of {len}");
        }
        assert_eq!(
            rewake_filecheck::crc::of_file(&file, CrcMode::Full, Budget::UNLIMITED).unwrap().value,
            crc32c::crc32c(&contents)
        );
    }
}

#[test]
fn hashes_of_all_sizes_and_both_strategies() {
    use rewake_filecheck::hash::{self, Strategy};
    for len in [0, 1, 1024, 1025, 16_384, 1 << 20, (1 << 20) + 1, (3 << 20) - 1, 5_000_000] {
        let contents = pattern(len);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&contents).unwrap();
        for strategy in [Strategy::Read, Strategy::Map] {
            let hash = hash::of_file(&file, strategy, &mut Budget::default()).unwrap();
            assert_eq!(hash.as_bytes(), blake3::hash(&contents).as_bytes(), "{strategy:?} of {len}");
        }
    }
}

#[test]
fn a_sparse_tebibyte_costs_nothing_unless_hashed() {
    let file = tempfile::tempfile().unwrap();
    let image = Elf::with_build_id(true, true, &[3; 16]).bytes();
    file.write_all_at(&image, 0).unwrap();
    file.set_len(1 << 40).unwrap();
    let parts = Parts { checksum: Some(CrcMode::First(number(4096))), ..Parts::BUILD_ID };
    let taken = cookie(&file, parts);
    assert_eq!(taken.size, Some(1 << 40));
    assert_eq!(taken.build_id.unwrap().as_bytes(), [3; 16]);
    assert!(taken.checksum.is_some());

    let mut hashing = Hashing::unlimited().with_budget(Budget { bytes: Some(1 << 30), until: None });
    let refused = Cookie::of_file(&file, ALL, &mut hashing);
    assert!(
        matches!(refused, Err(CookieError::BudgetBytes { wanted, .. }) if wanted == 1 << 40),
        "{refused:?}"
    );
    let parts = Parts { blake3: true, ..Parts::SIZE };
    let budget = Budget { bytes: None, until: Some(Instant::now() + Duration::from_millis(30)) };
    let mut hashing = Hashing::unlimited().with_budget(budget);
    let refused = Cookie::of_file(&file, parts, &mut hashing);
    assert!(matches!(refused, Err(CookieError::BudgetTime)), "{refused:?}");
}

#[test]
fn fifos_directories_devices_and_sockets_are_not_opened() {
    let dir = TempDir::new().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // A writer on this FIFO would not come: opening it for reading would never return.
    for path in [fifo.as_path(), dir.path(), &socket, "/dev/null".as_ref(), "/dev/tty".as_ref()] {
        let taken = Cookie::of_path(path, ALL, &mut Hashing::unlimited()).unwrap();
        let mode = fs::symlink_metadata(path)
            .map(|metadata| std::os::unix::fs::MetadataExt::mode(&metadata))
            .unwrap();
        assert_eq!(taken, Cookie { mode: Some(mode), ..Cookie::default() }, "{}", path.display());
    }
}

#[test]
fn the_cookie_belongs_to_the_open_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("lib.so");
    fs::write(&path, Elf::with_build_id(true, false, &[1; 20]).bytes()).unwrap();
    let open = File::open(&path).unwrap();
    let before = cookie(&open, ALL);
    // Replaced by another file under the same name, then removed.
    fs::write(dir.path().join("new"), Elf::with_build_id(true, false, &[2; 20]).bytes()).unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(cookie(&open, ALL), before);
    assert_ne!(Cookie::of_path(&path, ALL, &mut Hashing::unlimited()).unwrap(), before);
    fs::remove_file(&path).unwrap();
    assert_eq!(cookie(&open, ALL), before);
    let through_proc = format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd());
    let taken = Cookie::of_path(through_proc.as_ref(), ALL, &mut Hashing::unlimited()).unwrap();
    assert_eq!(taken, before);
    let missing = Cookie::of_path(&path, ALL, &mut Hashing::unlimited());
    assert!(matches!(missing, Err(CookieError::Open { .. })));
}

#[test]
fn files_open_for_writing_only_have_cookies_too() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let log = File::options().append(true).create(true).open(&path).unwrap();
    (&log).write_all(b"one line\n").unwrap();
    let taken = cookie(&log, ALL);
    assert_eq!(taken.size, Some(9));
    assert_eq!(taken.blake3.unwrap().as_bytes(), blake3::hash(b"one line\n").as_bytes());
}

#[test]
fn a_change_while_hashing_is_noticed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("busy");
    fs::write(&path, pattern(64 << 20)).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let started = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let busy = File::options().write(true).open(&path).unwrap();
            busy.write_all_at(b"x", 0).unwrap();
            started.wait();
            let mut place = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                place = (place + 4097) % (64 << 20);
                busy.write_all_at(&place.to_le_bytes()[..1], place).unwrap();
            }
        });
        started.wait();
        let parts = Parts { blake3: true, ..Parts::SIZE };
        // The writer gets its turn during one of them however busy the machine is.
        let noticed = (0..100).any(|_| {
            let taken = Cookie::of_path(&path, parts, &mut Hashing::unlimited());
            matches!(taken, Err(CookieError::Changed))
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(noticed);
    });
}

#[test]
fn whose_size_is_compared() {
    use nix::libc::{O_APPEND, O_RDONLY, O_RDWR, O_WRONLY};
    let compared = |flags: i32| compares_size(flags.cast_unsigned());
    assert!(compared(O_RDONLY) && compared(O_RDWR) && compared(O_WRONLY));
    assert!(compared(O_RDWR | O_APPEND) && compared(O_RDONLY | O_APPEND));
    assert!(!compared(O_WRONLY | O_APPEND));
    assert!(!compared(O_WRONLY | O_APPEND | 0o100_000));
}
