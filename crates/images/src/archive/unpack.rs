//! From an archive to directories of images.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::metadata::{self, Container};
use super::oci;
use super::stream::{Member, each_file};
use crate::Checkpoint;
use crate::error::{ImageError, Result};
use crate::explore::Explorer;
use crate::kind::Kind;

/// How much of an archive's memory is wanted. The other images always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Arguments and environment of the processes; other pages read as zeros.
    Arguments,
    /// All pages.
    Memory,
}

/// A checkpoint in an archive.
#[derive(Debug)]
pub struct Archive {
    /// Goes away with the last checkpoint in it.
    _temporary: Rc<tempfile::TempDir>,
    checkpoint: Checkpoint,
    container: Option<Container>,
    place: PathBuf,
    image: Option<String>,
}

/// Images besides memory may not be larger, all together.
const LARGEST_IMAGES: u64 = 1 << 30;
/// Nor may one of the engine's files.
const LARGEST_METADATA: u64 = 16 << 20;
/// Nor may all of them.
const MOST_METADATA: u64 = 256 << 20;
/// Nor may images lie in more directories.
const MOST_DIRECTORIES: usize = 256;
/// Nor may they lie deeper.
const DEEPEST: usize = 3;

impl Archive {
    /// Opens the only checkpoint in the archive at `path`; of several, the one that has this `name`: its container's, or the
    /// place where it lies.
    ///
    /// # Errors
    /// As [`Self::open_all`]; [`ImageError::Invalid`] if there are several, or none of that name.
    pub fn open(path: &Path, name: Option<&str>, contents: Contents) -> Result<Self> {
        let invalid = |what: String| ImageError::Invalid { path: path.to_owned(), what };
        let mut all = Self::open_all(path, contents)?;
        let names: Vec<String> = all.iter().map(Self::name).collect();
        match name {
            None if all.len() == 1 => Ok(all.remove(0)),
            None => Err(invalid(format!("several checkpoints, of which to name one: {}", names.join(", ")))),
            Some(name) => match all.iter().position(|archive| archive.is_called(name)) {
                Some(index) => Ok(all.swap_remove(index)),
                None => Err(invalid(format!("no checkpoint {name:?}, but {}", names.join(", ")))),
            },
        }
    }

    /// Opens all checkpoints in the archive at `path`, a file or a directory: what container engines export (a checkpoint and what
    /// the engine says of the container; for a pod a directory for each of its containers), images whose layers hold such
    /// (an OCI layout, or what `docker save` makes), or a bare tar file of images.
    ///
    /// # Errors
    /// [`ImageError::Io`]; [`ImageError::Invalid`] for an archive without a checkpoint, or one that is larger than any engine makes; any error
    /// of reading its images.
    pub fn open_all(path: &Path, contents: Contents) -> Result<Vec<Self>> {
        let temporary = tempfile::tempdir().map_err(ImageError::io(path, "make a directory to unpack"))?;
        let temporary = Rc::new(temporary);
        let mut unpacker = Unpacker {
            archive: path,
            to: temporary.path(),
            contents,
            places: HashMap::new(),
            files: BTreeMap::new(),
            files_size: 0,
            images: 0,
            totals: HashMap::new(),
            root_fs_diffs: HashMap::new(),
        };
        each_file(path, &mut |member| unpacker.member(member))?;
        let mut places: Vec<(PathBuf, usize)> = unpacker.with_inventory();
        places.sort();
        unpacker.check(!places.is_empty(), || "no checkpoint in this archive".into())?;
        let mut all = Vec::new();
        for (place, number) in places {
            let around = unpacker.around(&place);
            unpacker.adopt_statistics(number, &around)?;
            let sizes = (
                unpacker.totals.get(&place).copied().unwrap_or_default(),
                unpacker.root_fs_diffs.get(&around).copied(),
            );
            let files = unpacker.files.get(&around).unwrap_or(const { &BTreeMap::new() });
            let container = metadata::container(files, sizes.0, sizes.1)
                .map_err(|what| ImageError::Invalid { path: path.to_owned(), what })?;
            let image = oci::image_of(&unpacker.files, &place);
            let checkpoint = Checkpoint::open(temporary.path().join(number.to_string()))?;
            all.push(Self { _temporary: Rc::clone(&temporary), checkpoint, container, place, image });
        }
        if contents == Contents::Arguments {
            fill_arguments(path, &all)?;
        }
        Ok(all)
    }

    /// Its checkpoint. The directory lives as long as the archive does.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What the engine said of the container; `None` for an archive of images alone.
    #[must_use]
    pub fn container(&self) -> Option<&Container> {
        self.container.as_ref()
    }

    /// Name of the container image whose layer holds it, if one does and has a name.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Where in the archive its images lie: directories, and archives inside as if they were such. Empty at the top.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// What [`Self::open`] knows it by: its container's name, else where it lies.
    #[must_use]
    pub fn name(&self) -> String {
        let container = self.container.as_ref().map(|container| container.name.clone());
        container.filter(|name| !name.is_empty()).unwrap_or_else(|| self.place.display().to_string())
    }

    fn is_called(&self, name: &str) -> bool {
        let id = self.container.as_ref().map(|container| container.id.as_str());
        name == self.name() || Path::new(name) == self.place || id == Some(name)
    }
}

/// Puts the pages of arguments and environments where they belong, if there are any.
fn fill_arguments(archive: &Path, all: &[Archive]) -> Result<()> {
    // By path in the archive: the ranges wanted, and the file they go to.
    let mut wanted: HashMap<PathBuf, (Vec<Range<u64>>, PathBuf)> = HashMap::new();
    for archive in all.iter().filter(|archive| archive.checkpoint.exists(Kind::Pstree, None)) {
        let explorer = Explorer::new(&archive.checkpoint)?;
        for task in explorer.tasks() {
            for (file, range) in explorer.argument_pages(task)? {
                if let Some(name) = file.file_name() {
                    let to = archive.checkpoint.dir().join(name);
                    wanted.entry(archive.place.join(name)).or_insert((Vec::new(), to)).0.push(range);
                }
            }
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    each_file(archive, &mut |member| {
        let path = member.inside.join(member.parts.iter().collect::<PathBuf>());
        let Some((mut ranges, to)) = wanted.remove(&path) else { return Ok(()) };
        ranges.sort_by_key(|range| range.start);
        copy_ranges(member.data, &ranges, &to).map_err(ImageError::io(&to, "unpack"))
    })
}

/// Copies ascending ranges of a stream to their places in a file.
fn copy_ranges(data: &mut dyn Read, ranges: &[Range<u64>], path: &Path) -> std::io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    let mut at = 0;
    for range in ranges {
        let start = range.start.max(at);
        if start >= range.end {
            continue;
        }
        std::io::copy(&mut data.take(start - at), &mut std::io::sink())?;
        file.seek(SeekFrom::Start(start))?;
        std::io::copy(&mut data.take(range.end - start), &mut file)?;
        at = range.end;
    }
    Ok(())
}

struct Unpacker<'p> {
    archive: &'p Path,
    to: &'p Path,
    contents: Contents,
    /// Where in the archive images lie, and the number that is the directory's name outside: paths of an archive are not
    /// trusted.
    places: HashMap<PathBuf, usize>,
    /// The engines' files, by where they lie.
    files: BTreeMap<PathBuf, BTreeMap<String, Vec<u8>>>,
    files_size: u64,
    images: u64,
    totals: HashMap<PathBuf, u64>,
    root_fs_diffs: HashMap<PathBuf, u64>,
}

impl Unpacker<'_> {
    fn member(&mut self, member: Member<'_>) -> Result<()> {
        let Member { inside, parts, size, data } = member;
        let Some((name, dirs)) = parts.split_last() else { return Ok(()) };
        let place = inside.join(dirs.iter().collect::<PathBuf>());
        if metadata::FILES.contains(name) || oci::is_wanted(parts, size) {
            self.files_size = self.files_size.saturating_add(size);
            let fits = size <= LARGEST_METADATA && self.files_size <= MOST_METADATA;
            self.check(fits, || format!("{name} of {size} bytes"))?;
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes).map_err(ImageError::io(self.archive, "read"))?;
            self.files.entry(place).or_default().entry((*name).to_owned()).or_insert(bytes);
            return Ok(());
        }
        if *name == metadata::ROOT_FS_DIFF {
            self.root_fs_diffs.insert(place, size);
            return Ok(());
        }
        let Some((kind, _)) = Kind::from_file_name(name).filter(|_| dirs.len() <= DEEPEST) else {
            // What runtimes keep beside the images is part of the checkpoint.
            if dirs.len() <= DEEPEST && dirs.last() == Some(&metadata::CHECKPOINT_DIR) {
                let count = self.totals.len();
                let total = self.totals.entry(place).or_default();
                *total = total.saturating_add(size);
                self.check(count <= 2 * MOST_DIRECTORIES, || "very many directories".into())?;
            }
            return Ok(());
        };
        let total = self.totals.entry(place.clone()).or_default();
        *total = total.saturating_add(size);
        if kind != Kind::Pages {
            self.images = self.images.saturating_add(size);
            self.check(self.images <= LARGEST_IMAGES, || {
                format!("more than {LARGEST_IMAGES} bytes of images")
            })?;
        }
        let to = self.dir(place)?.join(name);
        let write = || ImageError::io(&to, "unpack");
        let mut file = File::create(&to).map_err(write())?;
        if kind == Kind::Pages && self.contents == Contents::Arguments {
            return file.set_len(size).map_err(write());
        }
        std::io::copy(data, &mut file).map_err(write())?;
        file.flush().map_err(write())
    }

    fn dir(&mut self, place: PathBuf) -> Result<PathBuf> {
        let number = self.places.len();
        let known = self.places.contains_key(&place);
        self.check(known || number < MOST_DIRECTORIES, || "images in very many directories".into())?;
        let number = *self.places.entry(place).or_insert(number);
        let to = self.outside(number);
        if !known {
            std::fs::create_dir(&to).map_err(ImageError::io(&to, "create"))?;
        }
        Ok(to)
    }

    fn outside(&self, number: usize) -> PathBuf {
        self.to.join(number.to_string())
    }

    /// The checkpoints: every directory with an inventory.
    fn with_inventory(&self) -> Vec<(PathBuf, usize)> {
        let has_inventory = |number: usize| self.outside(number).join("inventory.img").exists();
        let all = self.places.iter().filter(|(_, number)| has_inventory(**number));
        all.map(|(place, number)| (place.clone(), *number)).collect()
    }

    /// Where what belongs to the checkpoint at `place` lies: where the engine's files are, in the directory or not far above it;
    /// else beside the directory if it has the usual name.
    fn around(&self, place: &Path) -> PathBuf {
        let is_described = |dir: &&Path| self.files.get(*dir).is_some_and(metadata::describes);
        let beside = place.parent().unwrap_or(place);
        let usual = place.file_name().is_some_and(|name| name == metadata::CHECKPOINT_DIR);
        let described = place.ancestors().take(DEEPEST).find(is_described);
        described.unwrap_or(if usual { beside } else { place }).to_owned()
    }

    /// Engines keep the dumper's statistics beside the directory of images.
    fn adopt_statistics(&self, number: usize, around: &Path) -> Result<()> {
        let name = Kind::StatsDump.file_name(None);
        let to = self.outside(number).join(&name);
        let from = self.places.get(around).map(|number| self.outside(*number).join(&name));
        match from.filter(|from| from.exists()) {
            Some(from) if !to.exists() => std::fs::rename(&from, &to).map_err(ImageError::io(&from, "move")),
            _ => Ok(()),
        }
    }

    fn check(&self, fine: bool, what: impl FnOnce() -> String) -> Result<()> {
        if fine { Ok(()) } else { Err(ImageError::Invalid { path: self.archive.to_owned(), what: what() }) }
    }
}
