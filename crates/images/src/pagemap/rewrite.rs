//! Compressing the pages of a checkpoint that is there, and the other way round.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use super::compress::Compression;
use super::entry::{flags_of, pages_of, pe};
use super::level::Level;
use super::read::{Pagemap, read_pagemap};
use super::run::PageRun;
use crate::error::{ImageError, Result};
use crate::framing::{ImageReader, ImageWriter};
use crate::kind::Kind;
use crate::{Checkpoint, Layout, PAGE_SIZE, proto};

/// What became of the pages of a pagemap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// Name of the pagemap.
    pub pagemap: String,
    /// Pages in its pages file.
    pub pages: u64,
    /// Bytes of that file before.
    pub before_bytes: u64,
    /// And now.
    pub after_bytes: u64,
}

/// Stores the pages in `dir` compressed; with `None`, as they are. Pagemaps whose pages are stored so already are left
/// alone; those of parents are not touched. With `backup`, what is replaced stays under its name with `.bak` behind it.
///
/// New pages files get numbers of their own, and each pagemap changes over by one rename: at every moment, also
/// after a crash, the checkpoint is whole.
///
/// # Errors
/// Any error of reading the pages; [`ImageError::Invalid`] for images of layout v1.0, which has no compressed pages, and for
/// entries with unknown fields, which would get lost; [`ImageError::Io`].
pub fn rewrite_pages(dir: &Path, how: Option<Compression>, backup: bool) -> Result<Vec<Rewritten>> {
    let checkpoint = Checkpoint::open(dir)?;
    if checkpoint.layout() == Layout::V10 {
        let what = "images of layout v1.0 have no compressed pages: recode them first".into();
        return Err(ImageError::Invalid { path: dir.to_owned(), what });
    }
    let images = checkpoint.images()?;
    let used = images.iter().filter(|(kind, ..)| *kind == Kind::Pages).filter_map(|(_, number, _)| *number);
    let mut next_id = used.max().unwrap_or(0);
    let mut changes = Vec::new();
    for (kind, _, path) in &images {
        if !matches!(kind, Kind::Pagemap | Kind::PagemapShmem) {
            continue;
        }
        let map = read_pagemap(*kind, path)?;
        if !stored_as(&map, how) {
            next_id += 1;
            let change = Change::prepare(dir, *kind, path, map, next_id, how);
            changes.push(change?);
        }
    }
    let mut inventory = checkpoint.inventory().clone();
    match how {
        Some(how) => how.note(&mut inventory),
        None => Compression::forget(&mut inventory),
    }
    // The version that allows compressed pages also allows others.
    let put_inventory = || put_inventory(dir, checkpoint.inventory(), &inventory, backup);
    if how.is_some() {
        put_inventory()?;
    }
    for change in &mut changes {
        change.carry_out(backup)?;
    }
    if how.is_none() {
        put_inventory()?;
    }
    for change in &changes {
        change.remove_old(backup)?;
    }
    sync(dir)?;
    Ok(changes.iter().map(|change| change.done.clone()).collect())
}

/// Whether there is nothing to do.
fn stored_as(map: &Pagemap, how: Option<Compression>) -> bool {
    let present = || map.runs.iter().filter(|run| run.flags & pe::PRESENT != 0);
    match how {
        None => present().all(|run| !run.compressed && run.flags & pe::PAYLOAD_ALIGNED == 0),
        Some(how) => {
            let bytes = u64::from(how.block_bytes());
            present().all(|run| run.compressed)
                && map.blocks.iter().all(|blocks| blocks.block_bytes() == bytes)
        }
    }
}

/// A pagemap and its pages file, written anew beside the old ones.
#[derive(Debug)]
struct Change {
    pagemap: PathBuf,
    staged_pagemap: PathBuf,
    old_pages: PathBuf,
    new_pages: PathBuf,
    /// The new pagemap has taken the place of the old one.
    in_place: bool,
    done: Rewritten,
}

impl Change {
    fn prepare(
        dir: &Path,
        kind: Kind,
        path: &Path,
        mut map: Pagemap,
        id: u64,
        how: Option<Compression>,
    ) -> Result<Self> {
        let old = Level::open(dir, &mut map)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let new_pages = dir.join(Kind::Pages.file_name(Some(id)));
        let file = File::options().write(true).create_new(true).open(&new_pages);
        let mut change = Self {
            pagemap: path.to_owned(),
            staged_pagemap: dir.join(format!(".{name}.new")),
            old_pages: old.path().to_owned(),
            new_pages: new_pages.clone(),
            in_place: false,
            done: Rewritten { pagemap: name, pages: 0, before_bytes: map.size, after_bytes: 0 },
        };
        let mut pages = BufWriter::new(file.map_err(ImageError::io(&new_pages, "create"))?);
        let mut image = create(kind, &change.staged_pagemap)?;
        let pages_id = u32::try_from(id);
        let pages_id = pages_id.map_err(|_| invalid(path, "the number of its pages file is out of range"))?;
        image.push(&proto::PagemapHead { pages_id })?;
        let mut runs = map.runs.iter();
        let mut reader = ImageReader::open(kind, path)?;
        reader.next_entry()?;
        while let Some(raw) = reader.next_entry()? {
            let entry: proto::PagemapEntry = crate::framing::decode(path, &raw)?;
            if entry.encode_to_vec() != raw.message {
                return Err(invalid(path, "fields that are not known would get lost"));
            }
            let run = if pages_of(&entry) > 0 { runs.next() } else { None };
            match run.filter(|run| run.flags & pe::PRESENT != 0) {
                Some(run) => image.push(&change.copy(entry, run, &old, &mut pages, how)?)?,
                None => image.push(&entry)?,
            }
        }
        image.finish()?;
        let synced = pages.into_inner().map_err(std::io::IntoInnerError::into_error);
        synced.and_then(|file| file.sync_all()).map_err(ImageError::io(&new_pages, "write"))?;
        sync(&change.staged_pagemap)?;
        Ok(change)
    }

    /// Copies the pages of an entry; gives what the entry is now.
    fn copy(
        &mut self,
        mut entry: proto::PagemapEntry,
        run: &PageRun,
        old: &Level,
        pages: &mut impl Write,
        how: Option<Compression>,
    ) -> Result<proto::PagemapEntry> {
        const AT_ONCE: u64 = 1 << 20;
        entry.flags = Some(flags_of(&entry) & !pe::PAYLOAD_ALIGNED);
        entry.in_parent = None;
        entry.compressed_size.clear();
        (entry.total_compressed_size, entry.region_pages) = (None, None);
        // Whole blocks, so that only the last one of the entry is shorter.
        let block = how.map_or(PAGE_SIZE, |how| how.block_bytes().into());
        let at_once = block * (AT_ONCE / block).max(1) / PAGE_SIZE;
        let (mut plain, mut payload) = (Vec::new(), Vec::new());
        for piece in run.pieces(at_once) {
            plain.resize(usize::try_from(piece.bytes()).unwrap_or(usize::MAX), 0);
            old.read(run, piece.vaddr, &mut plain)?;
            payload.clear();
            let bytes = match how {
                None => &plain,
                Some(how) => {
                    let part = how.compress(piece.vaddr, &plain, &mut payload);
                    entry.compressed_size.extend(part.compressed_size);
                    entry.region_pages = part.region_pages;
                    let total = entry.total_compressed_size.unwrap_or(0) + payload.len() as u64;
                    entry.total_compressed_size = Some(total);
                    &payload
                }
            };
            pages.write_all(bytes).map_err(ImageError::io(&self.staged_pagemap, "write the pages of"))?;
            self.done.after_bytes += bytes.len() as u64;
        }
        self.done.pages += run.pages;
        Ok(entry)
    }

    fn carry_out(&mut self, backup: bool) -> Result<()> {
        if backup {
            keep(&self.pagemap)?;
        }
        let renamed = fs::rename(&self.staged_pagemap, &self.pagemap);
        renamed.map_err(ImageError::io(&self.pagemap, "put in place"))?;
        self.in_place = true;
        Ok(())
    }

    fn remove_old(&self, backup: bool) -> Result<()> {
        if backup {
            keep(&self.old_pages)?;
        }
        fs::remove_file(&self.old_pages).map_err(ImageError::io(&self.old_pages, "remove"))
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if !self.in_place {
            // Nothing refers to them. Nobody is left to tell of a failure.
            let _ = fs::remove_file(&self.staged_pagemap);
            let _ = fs::remove_file(&self.new_pages);
        }
    }
}

fn put_inventory(
    dir: &Path,
    old: &proto::InventoryEntry,
    new: &proto::InventoryEntry,
    backup: bool,
) -> Result<()> {
    if old == new {
        return Ok(());
    }
    let path = dir.join(Kind::Inventory.file_name(None));
    let staged = dir.join(format!(".{}.new", Kind::Inventory.file_name(None)));
    let mut image = create(Kind::Inventory, &staged)?;
    image.push(new)?;
    image.finish()?;
    sync(&staged)?;
    if backup {
        keep(&path)?;
    }
    fs::rename(&staged, &path).map_err(ImageError::io(&path, "put in place"))
}

/// Starts an image beside its place. One that is there was left by a run that was ended.
fn create(kind: Kind, staged: &Path) -> Result<ImageWriter<BufWriter<File>>> {
    let _ = fs::remove_file(staged);
    ImageWriter::create(kind, Layout::V11, staged)
}

/// A second name for what is going to be replaced.
fn keep(path: &Path) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    let backup = PathBuf::from(name);
    match fs::remove_file(&backup) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ImageError::io(&backup, "replace")(error))
        }
        _ => fs::hard_link(path, &backup).map_err(ImageError::io(&backup, "make")),
    }
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(ImageError::io(path, "sync"))
}

fn invalid(path: &Path, what: &str) -> ImageError {
    ImageError::Invalid { path: path.to_owned(), what: what.into() }
}
