//! Is this file the one that was mapped? Cookies of files: size, ELF build-id, checksum, BLAKE3, fs-verity digest.
//!
//! A checkpoint holds names of files, not their contents. Restored onto another build of a library, a process corrupts
//! itself in silence. So a [`Cookie`] of each file is taken at dump and compared before a restore begins:
//!
//! ```
//! use rewake_filecheck::{Cookie, Expected, Hashing, Policy, Role, Verdict, verify_all};
//! # let dir = tempfile::TempDir::new()?;
//! # let root = dir.path();
//! # std::fs::write(root.join("lib.so"), "code")?;
//!
//! // At dump: what the policy asks of a file that is mapped executable.
//! let policy = Policy::default();
//! let role = Role { executable: true, writable: false };
//! let cookie = Cookie::of_path(&root.join("lib.so"), policy.record.parts(role), &mut Hashing::unlimited())?;
//!
//! // Before a restore: every difference of every file.
//! let file = Expected { id: 1, path: "/lib.so".into(), cookie, role, users: Vec::new() };
//! std::fs::write(root.join("lib.so"), "c0de")?;
//! let report = verify_all(&[file], root, &policy)?;
//! assert_eq!(report.verdict(), Verdict::Differs);
//! println!("{report}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Layers
//!
//! * Parts of a cookie, each usable alone: [`build_id`], [`crc`], [`hash`]. [`open`] gets at files without blocking on
//!   a FIFO or leaving a root; [`hashing`] reads each file once, within a budget, with a [`cache`] between runs.
//! * [`cookie`] puts them together; [`policy`] says which are asked for and which paths are excepted; [`record`](mod@record)
//!   takes what can be had and says what could not.
//! * [`mod@format`] keeps them in `reg_file_entry`, where CRIU checks them too, and [`own`] the rest in a file of our own.
//! * [`collect`] turns the entries of a checkpoint into a list ([`checkpoint`] reads them), [`verify`] compares it, [`report`] tells;
//!   [`owner`] knows the package of a library that differs.
//!
//! # What is compared
//!
//! | file | by CRIU | here, by default |
//! | --- | --- | --- |
//! | any | mode | mode |
//! | regular, opened `O_WRONLY \| O_APPEND` (a log) | not its size | not its size, never its contents |
//! | regular, open for writing, or mapped shared and writable | size, build-id | size, build-id; never its contents |
//! | regular, mapped executable | size, build-id | size, build-id, BLAKE3 (or fs-verity digest) |
//! | any other regular | size, build-id | size, build-id |
//!
//! What is not in the checkpoint cannot be compared; with [`Level::Auto`] that is a note, with a level that names the
//! part it makes the file unchecked. An exception ([`PathRule`]) lets a file pass with a warning, or grow.
//!
//! # What this crate does not do
//!
//! Of files that are no regular ones it gives the caller no descriptor ([`Verifier::verify_opened`]), so one replaced
//! between the verification and the restore is not noticed. A file changed within the granularity of its time stamps while it is hashed (a few milliseconds before Linux 6.13) can
//! escape, as do writes through a mapping of a file on tmpfs, which the kernel does not stamp.

pub mod build_id;
pub mod cache;
pub mod checkpoint;
pub mod collect;
pub mod cookie;
pub mod crc;
mod error;
pub mod format;
pub mod glob;
pub mod hash;
pub mod hashing;
pub mod open;
pub mod own;
pub mod owner;
mod parallel;
pub mod policy;
pub mod record;
pub mod report;
mod sys;
mod text;
pub mod verify;
mod wire;

pub use build_id::BuildId;
pub use cache::HashCache;
pub use checkpoint::{Stamped, expected, stamp_checkpoint};
pub use collect::Collector;
pub use cookie::{Cookie, Parts, Verity, compares_size};
pub use crc::{Crc32c, CrcMode};
pub use error::{CookieError, Result};
pub use hash::{Blake3, Budget};
pub use hashing::{Hashing, MeasureVerity};
pub use own::OwnCookies;
pub use policy::{Action, Level, PathRule, Policy, Role};
pub use record::{Recorded, record, stamp};
pub use report::{Finding, Mismatch, Part, Report, Severity, Use, Verdict};
pub use sys::measure_verity;
pub use verify::{Expected, Opening, Verifier, verify_all};
