//! Whole checkpoints: which files one depends on, and giving it cookies it does not have.
//!
//! Of an image that is stamped only the fields of cookies are exchanged; every other byte of every entry, fields of
//! newer formats included, stays as whoever made it wrote it.

use std::collections::BTreeMap;
use std::path::Path;

use rewake_images::framing::decode;
use rewake_images::proto::{
    FdinfoEntry, FileEntry, FsEntry, MmEntry, RegFileEntry, RemapFilePathEntry, TaskKobjIdsEntry, VmaEntry,
};
use rewake_images::{Checkpoint, ImageReader, ImageWriter, Kind};

use crate::collect::Collector;
use crate::cookie::Cookie;
use crate::error::{CookieError, Result};
use crate::format;
use crate::hashing::Hashing;
use crate::own::{OwnCookies, replace};
use crate::policy::Policy;
use crate::record::stamp;
use crate::report::Report;
use crate::verify::Expected;
use crate::wire;

/// The files that a checkpoint depends on, by anybody's dump: who uses them and how, and every cookie it has of them.
///
/// # Errors
///
/// [`CookieError::Image`] for an image that cannot be read, [`CookieError::ChecksumConfig`], and those of
/// [`OwnCookies::read`].
pub fn expected(checkpoint: &Checkpoint) -> Result<Vec<Expected>> {
    let mut collector = Collector::default();
    for file in checkpoint.read_all::<FileEntry>(Kind::Files, None)? {
        if let Some(reg) = &file.reg {
            collector.file(reg)?;
        }
    }
    for reg in checkpoint.read_all::<RegFileEntry>(Kind::RegFiles, None)? {
        collector.file(&reg)?;
    }
    for remap in checkpoint.read_all::<RemapFilePathEntry>(Kind::RemapFpath, None)? {
        collector.remap(&remap);
    }
    for task in checkpoint.tasks()? {
        users(checkpoint, task.pid, &mut collector)?;
    }
    Ok(collector.finish(&OwnCookies::read(checkpoint.dir())?))
}

/// What a task does with which file. A task that has ended (a zombie) has none of these images.
fn users(checkpoint: &Checkpoint, pid: u32, collector: &mut Collector) -> Result<()> {
    let number = Some(u64::from(pid));
    if let Some(mm) = checkpoint.read_opt::<MmEntry>(Kind::Mm, number)? {
        collector.memory(pid, &mm);
        mm.vmas.iter().for_each(|vma| collector.mapping(pid, vma));
    }
    for vma in checkpoint.read_all::<VmaEntry>(Kind::Vmas, number)? {
        collector.mapping(pid, &vma);
    }
    if let Some(fs) = checkpoint.read_opt::<FsEntry>(Kind::Fs, number)? {
        collector.directories(pid, &fs);
    }
    let ids = checkpoint.read_opt::<TaskKobjIdsEntry>(Kind::Ids, number)?;
    let per_id = checkpoint.inventory().fdinfo_per_id == Some(true);
    let table = ids.filter(|_| per_id).map_or(number, |ids| Some(u64::from(ids.files_id)));
    for descriptor in checkpoint.read_all::<FdinfoEntry>(Kind::Fdinfo, table)? {
        collector.descriptor(pid, &descriptor);
    }
    Ok(())
}

/// What a stamp did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Stamped {
    /// Files whose cookie has more than before.
    pub stamped: usize,
    /// What differs from the cookies that were there, and what could not be had.
    pub report: Report,
    /// What was learned, to be kept in a cache.
    pub hashing: Hashing,
}

/// Adds the parts that a policy asks for to the cookies of a checkpoint, which any dump made, from the files below
/// `root`: those are held to be the right ones, as far as they agree with the cookies that are there. Other files are
/// not stamped and are in the report.
///
/// # Errors
///
/// As [`expected`] and [`stamp`], and [`CookieError::Store`] when it cannot be written.
pub fn stamp_checkpoint(
    checkpoint: &Checkpoint,
    root: &Path,
    policy: &Policy,
    hashing: Hashing,
) -> Result<Stamped> {
    let mut files = expected(checkpoint)?;
    let before: BTreeMap<u32, Cookie> = files.iter().map(|file| (file.id, file.cookie.clone())).collect();
    let (own, report, hashing) = stamp(&mut files, root, policy, hashing)?;
    files.retain(|file| before.get(&file.id) != Some(&file.cookie));
    let stamped = files.len();
    let changed: BTreeMap<u32, Cookie> = files
        .into_iter()
        .filter(|file| before.get(&file.id).is_none_or(|cookie| format_differs(cookie, &file.cookie)))
        .map(|file| (file.id, file.cookie))
        .collect();
    for kind in [Kind::Files, Kind::RegFiles] {
        rewrite(checkpoint, kind, &changed)?;
    }
    if stamped > 0 {
        own.write(checkpoint.dir())?;
    }
    Ok(Stamped { stamped, report, hashing })
}

/// Whether anything differs that `reg_file_entry` holds.
fn format_differs(one: &Cookie, other: &Cookie) -> bool {
    (&one.build_id, one.checksum) != (&other.build_id, other.checksum)
}

fn rewrite(checkpoint: &Checkpoint, kind: Kind, changed: &BTreeMap<u32, Cookie>) -> Result<()> {
    if changed.is_empty() || !checkpoint.exists(kind, None) {
        return Ok(());
    }
    let path = checkpoint.path(kind, None);
    let mut reader = ImageReader::open(kind, &path)?;
    let mut writer = ImageWriter::new(kind, reader.layout(), &path, Vec::new())?;
    let mut any = false;
    while let Some(entry) = reader.next_entry()? {
        let id = match kind {
            Kind::Files => decode::<FileEntry>(&path, &entry)?.reg.map(|reg| reg.id),
            _ => Some(decode::<RegFileEntry>(&path, &entry)?.id),
        };
        match id.and_then(|id| changed.get(&id)) {
            None => writer.push_raw(&entry.message, &entry.payload)?,
            Some(cookie) => {
                any = true;
                let message = exchange(kind, &entry.message, cookie).ok_or_else(|| {
                    CookieError::StoreContents { path: path.clone(), reason: "not well-formed".to_owned() }
                })?;
                writer.push_raw(&message, &entry.payload)?;
            }
        }
    }
    if any { replace(&path, &writer.into_inner()?) } else { Ok(()) }
}

/// Number of the field `reg` of `file_entry`.
const REG: u32 = 3;

fn exchange(kind: Kind, message: &[u8], cookie: &Cookie) -> Option<Vec<u8>> {
    let mut fields = RegFileEntry::default();
    format::store(cookie, &mut fields);
    match kind {
        Kind::Files => wire::map_message(message, REG, |reg| exchange_in_reg(reg, &fields)),
        _ => exchange_in_reg(message, &fields),
    }
}

/// Fields of `reg_file_entry` that are cookies a stamp adds.
fn exchange_in_reg(reg: &[u8], fields: &RegFileEntry) -> Option<Vec<u8>> {
    const BUILD_ID: u32 = 11;
    const CHECKSUM: u32 = 12;
    const CONFIG: u32 = 13;
    const PARAMETER: u32 = 14;
    let mut message = wire::without(reg, &[BUILD_ID, CHECKSUM, CONFIG, PARAMETER])?;
    for word in &fields.build_id {
        wire::put(&mut message, BUILD_ID, *word);
    }
    let rest = [
        (CHECKSUM, fields.checksum),
        (CONFIG, fields.checksum_config),
        (PARAMETER, fields.checksum_parameter),
    ];
    for (field, value) in rest {
        if let Some(value) = value {
            wire::put(&mut message, field, value);
        }
    }
    Some(message)
}
