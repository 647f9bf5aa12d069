//! Memory that comes in, kept in a directory.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rewake_images::proto::{PagemapEntry, PagemapHead};
use rewake_images::{ImageError, ImageWriter, Kind, Layout, PageStore, pe};
use rewake_memdump::{Progress, dedup_memory};
use serde::Serialize;

use crate::error::{PageServerError, ProtocolError, Result, file};
use crate::receive::Receiver;
use crate::wire::{Object, Span};

/// The name of the symbolic link to the parent.
const PARENT_LINK: &str = "parent";
/// Numbers of pages files start here, so that those a dump writes into the same directory are others.
const FIRST_PAGES_ID: u32 = 0x1_0001;

/// What came in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReceiveReport {
    /// Tasks and shared memory objects.
    pub objects: u64,
    /// Pages.
    pub pages: u64,
    /// Pages left to the parent, which has them unchanged.
    pub parent_pages: u64,
    /// Pages that the sender keeps until somebody asks for them.
    pub kept_back_pages: u64,
}

/// Writes memory into a directory, where it appears when all of it has come. Dropped before, it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    dir: PathBuf,
    staging: PathBuf,
    parent: Option<PathBuf>,
    link: Option<PathBuf>,
    current: Option<Current>,
    next_pages_id: u32,
    report: ReceiveReport,
    /// Whether there is a staging directory: not before something comes.
    staged: bool,
    progress: Option<Arc<dyn Progress>>,
    /// What came, if earlier generations are to be freed of it.
    dedup: Option<Vec<(Kind, u64)>>,
}

/// The object whose memory comes at the moment.
#[derive(Debug)]
struct Current {
    pagemap: ImageWriter<BufWriter<File>>,
    pages: File,
    pages_path: PathBuf,
    /// Where the last entry ended.
    floor: u64,
    /// What the parent has of it.
    parent: Option<PageStore>,
}

impl Incoming {
    /// Prepares to write into `dir`. `parent`, relative to it, is what earlier rounds brought.
    ///
    /// # Errors
    /// [`PageServerError::Image`] if `dir` cannot be made, or the parent is no directory.
    pub fn create(dir: impl Into<PathBuf>, parent: Option<&Path>) -> Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(file(&dir, "create"))?;
        let parent_dir = match parent {
            None => None,
            Some(link) => {
                let path = dir.join(link);
                Some(path.canonicalize().map_err(file(&path, "resolve"))?)
            }
        };
        let present = fs::read_link(dir.join(PARENT_LINK)).ok();
        if present.is_some() && present.as_deref() != parent {
            let what = "another parent link is there already".into();
            return Err(ImageError::Invalid { path: dir.join(PARENT_LINK), what }.into());
        }
        let staging = dir.join(format!(".rewake-pages-{}", std::process::id()));
        Ok(Self {
            dir,
            staging,
            parent: parent_dir,
            link: parent.map(Path::to_owned),
            current: None,
            next_pages_id: FIRST_PAGES_ID,
            report: ReceiveReport::default(),
            staged: false,
            progress: None,
            dedup: None,
        })
    }

    /// Frees the room of pages in earlier generations that what came makes useless.
    #[must_use]
    pub fn deduplicating(mut self) -> Self {
        self.dedup = Some(Vec::new());
        self
    }

    /// Has `progress` told what comes.
    #[must_use]
    pub fn watched(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// What came in so far.
    #[must_use]
    pub fn report(&self) -> ReceiveReport {
        self.report
    }

    fn parent_image(&self, object: Object) -> Option<&Path> {
        let name = object.kind.file_name(Some(object.number));
        self.parent.as_deref().filter(|parent| parent.join(name).exists())
    }

    /// A pages file whose number is free.
    fn new_pages(&mut self) -> Result<(u32, PathBuf, File)> {
        loop {
            let id = self.next_pages_id;
            let name = Kind::Pages.file_name(Some(id.into()));
            self.next_pages_id = id.checked_add(1).ok_or_else(|| ImageError::Invalid {
                path: self.dir.clone(),
                what: "there are no numbers for pages files left".into(),
            })?;
            if self.dir.join(&name).exists() {
                continue;
            }
            let path = self.staging.join(name);
            let file = File::create_new(&path).map_err(file(&path, "create"))?;
            return Ok((id, path, file));
        }
    }

    fn link_parent(&self, made: &mut Vec<PathBuf>) -> Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let path = self.dir.join(PARENT_LINK);
        match std::os::unix::fs::symlink(link, &path) {
            // Checked to be the same.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            linked => {
                linked.map_err(file(&path, "make"))?;
                made.push(path);
            }
        }
        Ok(())
    }

    fn finish_current(&mut self) -> Result<()> {
        match self.current.take() {
            Some(current) => Ok(current.pagemap.finish()?),
            None => Ok(()),
        }
    }

    /// Puts what was staged in its place; takes it back if that fails half-way.
    fn put_in_place(&self) -> Result<()> {
        if !self.staged {
            return Ok(());
        }
        let list = || file(&self.staging, "list");
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.staging).map_err(list())? {
            names.push(entry.map_err(list())?.file_name());
        }
        // A pagemap in its place has its pages.
        names.sort_by_key(|name| name.to_string_lossy().starts_with("pagemap"));
        for name in &names {
            let path = self.staging.join(name);
            let opened = File::open(&path).map_err(file(&path, "open"))?;
            opened.sync_all().map_err(file(&path, "sync"))?;
            if self.dir.join(name).exists() {
                return Err(PageServerError::Exists { path: self.dir.join(name) });
            }
        }
        let mut made = Vec::new();
        let placed = self.link_parent(&mut made).and_then(|()| {
            for name in &names {
                let to = self.dir.join(name);
                fs::rename(self.staging.join(name), &to).map_err(file(&to, "put in place"))?;
                made.push(to);
            }
            Ok(())
        });
        if let Err(error) = placed {
            for path in made {
                // The error that counts is the one we have.
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
        let dir = File::open(&self.dir).map_err(file(&self.dir, "open"))?;
        match dir.sync_all() {
            // Some file systems have nothing to sync and say so.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
            synced => Ok(synced.map_err(file(&self.dir, "sync"))?),
        }
    }
}

impl Receiver for Incoming {
    fn open(&mut self, object: Object) -> Result<bool> {
        self.finish_current()?;
        if !self.staged {
            fs::create_dir(&self.staging).map_err(file(&self.staging, "create"))?;
            self.staged = true;
        }
        let name = object.kind.file_name(Some(object.number));
        if self.dir.join(&name).exists() {
            return Err(PageServerError::Exists { path: self.dir.join(name) });
        }
        let path = self.staging.join(&name);
        if path.exists() {
            return Err(ProtocolError::Again { name }.into());
        }
        let parent = match self.parent_image(object) {
            Some(parent) => Some(PageStore::open(parent, object.kind, object.number)?),
            None => None,
        };
        let (pages_id, pages_path, pages) = self.new_pages()?;
        let mut pagemap = ImageWriter::create(object.kind, Layout::V11, path)?;
        pagemap.push(&PagemapHead { pages_id })?;
        self.report.objects += 1;
        if let Some(came) = &mut self.dedup {
            came.push((object.kind, object.number));
        }
        let has_parent = parent.is_some();
        self.current = Some(Current { pagemap, pages, pages_path, floor: 0, parent });
        Ok(has_parent)
    }

    fn has_parent(&mut self, object: Object) -> Result<bool> {
        Ok(self.parent_image(object).is_some())
    }

    fn entry(&mut self, span: Span, flags: u32) -> Result<()> {
        let current = self.current.as_mut().ok_or(ProtocolError::Misplaced { request: "an entry" })?;
        if span.vaddr < current.floor {
            return Err(ProtocolError::Order { vaddr: span.vaddr, floor: current.floor }.into());
        }
        current.floor = span.end();
        let pages = u64::from(span.pages);
        if flags & pe::PARENT != 0 {
            let there = current.parent.iter().flat_map(|parent| parent.runs_in(span.vaddr, span.end()));
            if there.map(|run| run.pages).sum::<u64>() != pages {
                return Err(ProtocolError::NotInParent { vaddr: span.vaddr, pages: span.pages }.into());
            }
            self.report.parent_pages += pages;
        } else if flags & pe::PRESENT != 0 {
            self.report.pages += pages;
            if let Some(progress) = &self.progress {
                progress.expect(span.bytes());
            }
        } else {
            self.report.kept_back_pages += pages;
        }
        // Both counts: CRIU 4.1 and older know only the old one.
        current.pagemap.push(&PagemapEntry {
            vaddr: span.vaddr,
            compat_nr_pages: span.pages,
            in_parent: None,
            flags: Some(flags),
            nr_pages: Some(pages),
            ..Default::default()
        })?;
        Ok(())
    }

    fn pages(&mut self, bytes: &[u8]) -> Result<()> {
        let current = self.current.as_mut().ok_or(ProtocolError::Misplaced { request: "pages" })?;
        current.pages.write_all(bytes).map_err(file(&current.pages_path, "write"))?;
        if let Some(progress) = &self.progress {
            progress.done(u64::try_from(bytes.len()).unwrap_or_default());
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.finish_current()?;
        self.put_in_place()?;
        // What came is safe; that more room is taken than need be is no reason to say otherwise.
        if let Some(came) = self.dedup.take()
            && let Err(error) = dedup_memory(&self.dir, came)
        {
            tracing::warn!("the room of earlier pages is not freed: {error}");
        }
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.staged {
            // Nobody is left to tell; what stays is a hidden directory that no reader takes for a checkpoint.
            let _ = fs::remove_dir_all(&self.staging);
        }
    }
}
