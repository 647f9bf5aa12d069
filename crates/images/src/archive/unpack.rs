//! From an archive to a directory of images.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use super::metadata::{self, Container};
use super::stream;
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
    /// Goes away with the value.
    _temporary: tempfile::TempDir,
    checkpoint: Checkpoint,
    container: Option<Container>,
}

/// Images besides memory may not be larger, all together.
const LARGEST_IMAGES: u64 = 1 << 30;
/// Nor may one of the engine's files.
const LARGEST_METADATA: u64 = 16 << 20;
/// Nor may images lie in more directories.
const MOST_DIRECTORIES: usize = 64;

impl Archive {
    /// Opens the archive at `path`.
    ///
    /// # Errors
    /// [`ImageError::Io`]; [`ImageError::Invalid`] for an archive without a checkpoint, or one that is larger than any engine makes; any error
    /// of reading its images.
    pub fn open(path: &Path, contents: Contents) -> Result<Self> {
        let temporary = tempfile::tempdir().map_err(ImageError::io(path, "make a directory to unpack"))?;
        let mut unpacker = Unpacker {
            archive: path,
            to: temporary.path(),
            contents,
            dirs: HashMap::new(),
            metadata: BTreeMap::new(),
            images: 0,
            total: 0,
            root_fs_diff: None,
        };
        each_file(path, |name, size, data| unpacker.file(name, size, data))?;
        let dir = unpacker.checkpoint_dir()?;
        unpacker.adopt_statistics(dir)?;
        let (total, root_fs_diff) = (unpacker.total, unpacker.root_fs_diff);
        let container = metadata::container(&unpacker.metadata, total, root_fs_diff)
            .map_err(|what| ImageError::Invalid { path: path.to_owned(), what })?;
        let checkpoint = Checkpoint::open(temporary.path().join(dir.to_string()))?;
        let archive = Self { _temporary: temporary, checkpoint, container };
        if contents == Contents::Arguments {
            archive.fill_arguments(path)?;
        }
        Ok(archive)
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

    /// Puts the pages of arguments and environments where they belong, if there are any.
    fn fill_arguments(&self, archive: &Path) -> Result<()> {
        if !self.checkpoint.exists(Kind::Pstree, None) {
            return Ok(());
        }
        let explorer = Explorer::new(&self.checkpoint)?;
        let mut wanted: HashMap<String, Vec<Range<u64>>> = HashMap::new();
        for task in explorer.tasks() {
            for (file, range) in explorer.argument_pages(task)? {
                if let Some(name) = file.file_name().and_then(|name| name.to_str()) {
                    wanted.entry(name.to_owned()).or_default().push(range);
                }
            }
        }
        each_file(archive, |name, _, data| {
            let Some(name) = name.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
            let Some(mut ranges) = wanted.remove(name) else { return Ok(()) };
            ranges.sort_by_key(|range| range.start);
            let path = self.checkpoint.dir().join(name);
            copy_ranges(data, &ranges, &path).map_err(ImageError::io(&path, "unpack"))
        })
    }
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

/// Calls `each` with path, size and contents of every regular file.
fn each_file(archive: &Path, mut each: impl FnMut(&Path, u64, &mut dyn Read) -> Result<()>) -> Result<()> {
    let read = || ImageError::io(archive, "read as a tar archive");
    let mut tar = stream::open(archive)?;
    for entry in tar.entries().map_err(read())? {
        let mut entry = entry.map_err(read())?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(read())?.into_owned();
        let size = entry.size();
        each(&path, size, &mut entry)?;
    }
    Ok(())
}

struct Unpacker<'p> {
    archive: &'p Path,
    to: &'p Path,
    contents: Contents,
    /// Directories in the archive that images lie in, and the number that is their name outside: paths of an archive are not
    /// trusted.
    dirs: HashMap<PathBuf, usize>,
    metadata: BTreeMap<String, Vec<u8>>,
    images: u64,
    total: u64,
    root_fs_diff: Option<u64>,
}

impl Unpacker<'_> {
    fn file(&mut self, path: &Path, size: u64, data: &mut dyn Read) -> Result<()> {
        // `./checkpoint/x` is `checkpoint/x`; anything above is no part of a checkpoint.
        let parts: Option<Vec<&str>> = path
            .components()
            .filter(|part| *part != Component::CurDir)
            .map(|part| if let Component::Normal(name) = part { name.to_str() } else { None })
            .collect();
        let Some([dirs @ .., name]) = parts.as_deref() else { return Ok(()) };
        if dirs.len() > 2 {
            return Ok(());
        }
        if metadata::FILES.contains(name) && dirs.len() < 2 {
            self.check(size <= LARGEST_METADATA, || format!("{name} of {size} bytes"))?;
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes).map_err(ImageError::io(self.archive, "read"))?;
            self.metadata.entry((*name).to_owned()).or_insert(bytes);
            return Ok(());
        }
        if *name == metadata::ROOT_FS_DIFF {
            self.root_fs_diff = Some(size);
            return Ok(());
        }
        let Some((kind, _)) = Kind::from_file_name(name) else { return Ok(()) };
        self.total = self.total.saturating_add(size);
        if kind != Kind::Pages {
            self.images = self.images.saturating_add(size);
            self.check(self.images <= LARGEST_IMAGES, || {
                format!("more than {LARGEST_IMAGES} bytes of images")
            })?;
        }
        let to = self.dir(dirs.iter().collect())?.join(name);
        let write = || ImageError::io(&to, "unpack");
        let mut file = File::create(&to).map_err(write())?;
        if kind == Kind::Pages && self.contents == Contents::Arguments {
            return file.set_len(size).map_err(write());
        }
        std::io::copy(data, &mut file).map_err(write())?;
        file.flush().map_err(write())
    }

    fn dir(&mut self, dir: PathBuf) -> Result<PathBuf> {
        let number = self.dirs.len();
        let known = self.dirs.contains_key(&dir);
        self.check(known || number < MOST_DIRECTORIES, || "images in very many directories".into())?;
        let number = *self.dirs.entry(dir).or_insert(number);
        let to = self.to.join(number.to_string());
        if !known {
            std::fs::create_dir(&to).map_err(ImageError::io(&to, "create"))?;
        }
        Ok(to)
    }

    /// The directory of the checkpoint: the only one with an inventory, or the one engines use.
    fn checkpoint_dir(&self) -> Result<usize> {
        let has_inventory = |number: &usize| self.to.join(number.to_string()).join("inventory.img").exists();
        let usual = self.dirs.get(Path::new("checkpoint")).copied().filter(|n| has_inventory(n));
        let mut found = self.dirs.values().copied().filter(has_inventory);
        let first = usual.or_else(|| found.next());
        first.ok_or_else(|| ImageError::Invalid {
            path: self.archive.to_owned(),
            what: "no checkpoint in this archive".into(),
        })
    }

    /// Engines keep the dumper's statistics beside the directory of images.
    fn adopt_statistics(&self, dir: usize) -> Result<()> {
        let name = Kind::StatsDump.file_name(None);
        let to = self.to.join(dir.to_string()).join(&name);
        let outer = self.dirs.values().map(|number| self.to.join(number.to_string()).join(&name));
        match outer.into_iter().find(|from| from.exists()) {
            Some(from) if !to.exists() => std::fs::rename(&from, &to).map_err(ImageError::io(&from, "move")),
            _ => Ok(()),
        }
    }

    fn check(&self, fine: bool, what: impl FnOnce() -> String) -> Result<()> {
        if fine { Ok(()) } else { Err(ImageError::Invalid { path: self.archive.to_owned(), what: what() }) }
    }
}
