//! Head words, magic, and entries with the bytes that follow them.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use prost::{Message, Name};

use crate::error::{ImageError, Result};
use crate::kind::{HEAD_COMMON, HEAD_SERVICE, Head, Kind, Payload};
use crate::required;
use crate::{Layout, proto};

/// One entry as it stands in the file. `message` keeps every byte, so unknown fields survive reading and writing back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Index in the image.
    pub index: u64,
    /// Where the bytes of `message` start in the file.
    pub offset: u64,
    /// The encoded message.
    pub message: Vec<u8>,
    /// The bytes that follow it, paddings included.
    pub payload: Vec<u8>,
}

/// As much of an entry is taken from a stream at once; of longer ones what comes, as it comes.
const UNSIZED_STEP: u64 = 64 << 10;

/// Reads the entries of one image, one at a time. Ends after the first error.
#[derive(Debug)]
pub struct ImageReader<R> {
    kind: Kind,
    pub(super) path: PathBuf,
    pub(super) input: R,
    /// Bytes of the file not yet read: the bound for everything taken from it.
    pub(super) left: u64,
    /// Whether `left` is known. A pipe ends when it ends; nothing is then allocated before it has come.
    pub(super) sized: bool,
    pub(super) offset: u64,
    pub(super) index: u64,
    layout: Layout,
    /// Ghost files: whether framed chunks follow the first entry.
    ghost_chunks: bool,
    pub(super) done: bool,
}

impl ImageReader<BufReader<File>> {
    /// Opens the image at `path`, which is of `kind`.
    ///
    /// # Errors
    /// [`ImageError::Io`], [`ImageError::Magic`], [`ImageError::Truncated`] inside the first words.
    pub fn open(kind: Kind, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file = File::open(&path).map_err(ImageError::io(&path, "open"))?;
        let len = file.metadata().map_err(ImageError::io(&path, "stat"))?.len();
        ImageReader::new(kind, path, BufReader::with_capacity(64 << 10, file), len)
    }
}

impl<R: Read> ImageReader<R> {
    /// Reads an image of `len` bytes from `input`; `path` is what errors call it.
    ///
    /// # Errors
    /// [`ImageError::Io`], [`ImageError::Magic`], [`ImageError::Truncated`] inside the first words.
    pub fn new(kind: Kind, path: impl Into<PathBuf>, input: R, len: u64) -> Result<Self> {
        let mut reader = Self::start(kind, path.into(), input, Some(len));
        let row = kind.info();
        let mut word = reader.word()?;
        if row.head != Head::None {
            if matches!(word, HEAD_COMMON | HEAD_SERVICE) {
                word = reader.word()?;
            } else {
                reader.layout = Layout::V10;
            }
        }
        if row.head == Head::Raw || word != row.magic {
            let (expected, name) = (row.magic, row.magic_name);
            return Err(ImageError::Magic { path: reader.path, found: word, expected, name });
        }
        Ok(reader)
    }

    /// Reads an image whose magic tells its kind: of kinds that share one, the first. `len` is `None` for a stream of
    /// unknown length.
    ///
    /// # Errors
    /// [`ImageError::UnknownMagic`]; [`ImageError::Io`], [`ImageError::Truncated`] inside the first words.
    pub fn detect(path: impl Into<PathBuf>, input: R, len: Option<u64>) -> Result<Self> {
        let mut reader = Self::start(Kind::Inventory, path.into(), input, len);
        let mut word = reader.word()?;
        let head = matches!(word, HEAD_COMMON | HEAD_SERVICE);
        if head {
            word = reader.word()?;
        }
        let Some(kind) = Kind::from_magic(word) else {
            return Err(ImageError::UnknownMagic { path: reader.path, found: word });
        };
        if !head && kind.info().head != Head::None {
            reader.layout = Layout::V10;
        }
        reader.kind = kind;
        Ok(reader)
    }

    fn start(kind: Kind, path: PathBuf, input: R, len: Option<u64>) -> Self {
        Self {
            kind,
            path,
            input,
            left: len.unwrap_or(u64::MAX),
            sized: len.is_some(),
            offset: 0,
            index: 0,
            layout: Layout::V11,
            ghost_chunks: false,
            done: false,
        }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What errors call the image.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The layout the first words show (`inventory.img` always looks like v1.1).
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The next entry, `None` at the end of the image.
    ///
    /// # Errors
    /// [`ImageError::Io`], [`ImageError::Truncated`]; [`ImageError::Decode`] when the length of the bytes that follow cannot be told.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut entry = Entry::default();
        Ok(self.read_entry(&mut entry)?.then_some(entry))
    }

    /// As [`Self::next_entry`], into an entry whose buffers are used again: for images of many small entries. `false` at
    /// the end; what `entry` holds then, or after an error, means nothing.
    ///
    /// # Errors
    /// As [`Self::next_entry`].
    pub fn read_entry(&mut self, entry: &mut Entry) -> Result<bool> {
        if self.done || self.left == 0 {
            return Ok(false);
        }
        let read = self.fill_entry(entry);
        self.done = !matches!(read, Ok(true));
        read
    }

    /// The next entry decoded, with the bytes after it.
    ///
    /// # Errors
    /// As [`Self::next_entry`], and [`ImageError::Decode`], [`ImageError::MissingField`].
    pub fn next_message<M: Message + Name + Default>(&mut self) -> Result<Option<(M, Vec<u8>)>> {
        let Some(entry) = self.next_entry()? else { return Ok(None) };
        Ok(Some((decode(&self.path, &entry)?, entry.payload)))
    }

    fn fill_entry(&mut self, entry: &mut Entry) -> Result<bool> {
        let Some(size) = self.word_or_end()? else { return Ok(false) };
        (entry.index, entry.offset) = (self.index, self.offset);
        self.bytes_into(u64::from(size), &mut entry.message)?;
        entry.payload = self.payload(entry)?;
        self.index += 1;
        Ok(true)
    }

    fn payload(&mut self, entry: &Entry) -> Result<Vec<u8>> {
        let len = match self.kind.info().payload {
            Payload::None => return Ok(Vec::new()),
            Payload::PipeBytes => u64::from(self.peek::<proto::PipeDataEntry>(entry)?.bytes),
            Payload::PacketBytes => u64::from(self.peek::<proto::SkPacketEntry>(entry)?.length),
            Payload::TcpQueues => {
                let m = self.peek::<proto::TcpStreamEntry>(entry)?;
                u64::from(m.inq_len) + u64::from(m.outq_len)
            }
            Payload::BpfMap => {
                let m = self.peek::<proto::BpfmapDataEntry>(entry)?;
                u64::from(m.keys_bytes) + u64::from(m.values_bytes)
            }
            Payload::IpcShm => {
                let m = self.peek::<proto::IpcShmEntry>(entry)?;
                if m.in_pagemaps() { 0 } else { round_up(m.size, 4) }
            }
            Payload::IpcSemaphores => {
                round_up(2 * u64::from(self.peek::<proto::IpcSemEntry>(entry)?.nsems), 8)
            }
            Payload::IpcMessages => return self.ipc_messages(entry),
            Payload::Ghost => return self.ghost(entry),
        };
        self.bytes(len)
    }

    fn ipc_messages(&mut self, entry: &Entry) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        for _ in 0..self.peek::<proto::IpcMsgEntry>(entry)?.qnum {
            let size = self.word()?;
            let offset = self.offset;
            let message = self.bytes(u64::from(size))?;
            all.extend(size.to_le_bytes());
            let inner = Entry { index: self.index, offset, message, payload: Vec::new() };
            let text = round_up(u64::from(self.peek::<proto::IpcMsg>(&inner)?.msize), 8);
            all.extend(inner.message);
            all.extend(self.bytes(text)?);
        }
        Ok(all)
    }

    fn ghost(&mut self, entry: &Entry) -> Result<Vec<u8>> {
        const FORMAT: u32 = 0o170_000;
        const REGULAR: u32 = 0o100_000;
        if self.ghost_chunks {
            let len = self.peek::<proto::GhostChunkEntry>(entry)?.len;
            return self.bytes(len);
        }
        if entry.index > 0 {
            let what = format!("{} bytes after the ghost file's only entry", self.left);
            return Err(ImageError::Invalid { path: self.path.clone(), what });
        }
        let head = self.peek::<proto::GhostFileEntry>(entry)?;
        self.ghost_chunks = head.chunks();
        if !self.ghost_chunks && head.mode & FORMAT == REGULAR { self.rest() } else { Ok(Vec::new()) }
    }

    fn peek<M: Message + Name + Default>(&self, entry: &Entry) -> Result<M> {
        decode(&self.path, entry)
    }

    fn word(&mut self) -> Result<u32> {
        self.check(4)?;
        self.word_or_end()?.ok_or_else(|| self.truncated(4, 0))
    }

    /// `None` at the end of a stream; at the end of a file nobody asks.
    fn word_or_end(&mut self) -> Result<Option<u32>> {
        self.check(4)?;
        let mut word = [0; 4];
        let mut filled = 0;
        while let Some(rest) = word.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) if filled == 0 && !self.sized => return Ok(None),
                Ok(0) => return Err(self.truncated(4, filled as u64)),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ImageError::io(&self.path, "read")(error)),
            }
        }
        self.advance(4);
        Ok(Some(u32::from_le_bytes(word)))
    }

    fn bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.bytes_into(len, &mut bytes)?;
        Ok(bytes)
    }

    /// Replaces what is in `bytes`.
    fn bytes_into(&mut self, len: u64, bytes: &mut Vec<u8>) -> Result<()> {
        self.check(len)?;
        let known = if self.sized { len } else { len.min(UNSIZED_STEP) };
        bytes.resize(usize::try_from(known).expect("no longer than the file, which was checked"), 0);
        match self.input.read_exact(bytes) {
            Ok(()) => {}
            // A file that became shorter while it was read, or a stream that ended.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(self.truncated(len, 0)),
            Err(error) => return Err(ImageError::io(&self.path, "read")(error)),
        }
        if known < len {
            let read = self.input.by_ref().take(len - known).read_to_end(bytes);
            let found = known + read.map_err(ImageError::io(&self.path, "read"))? as u64;
            if found < len {
                return Err(self.truncated(len, found));
            }
        }
        self.advance(len);
        Ok(())
    }

    /// All that is left.
    fn rest(&mut self) -> Result<Vec<u8>> {
        if self.sized {
            return self.bytes(self.left);
        }
        let mut bytes = Vec::new();
        self.input.read_to_end(&mut bytes).map_err(ImageError::io(&self.path, "read"))?;
        self.left = 0;
        Ok(bytes)
    }

    fn check(&self, needed: u64) -> Result<()> {
        if needed <= self.left && usize::try_from(needed).is_ok() {
            return Ok(());
        }
        Err(self.truncated(needed, self.left))
    }

    pub(super) fn truncated(&self, needed: u64, left: u64) -> ImageError {
        let (path, entry, offset) = (self.path.clone(), self.index, self.offset);
        ImageError::Truncated { path, entry, offset, needed, left }
    }

    pub(super) fn advance(&mut self, len: u64) {
        self.left -= len;
        self.offset += len;
    }
}

impl<R: Read> Iterator for ImageReader<R> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}

/// Decodes an entry of the image at `path`, required fields checked.
///
/// # Errors
/// [`ImageError::Decode`], [`ImageError::MissingField`].
pub fn decode<M: Message + Name + Default>(path: &Path, entry: &Entry) -> Result<M> {
    let (index, offset) = (entry.index, entry.offset);
    let message = M::decode(&*entry.message).map_err(|source| ImageError::Decode {
        path: path.to_owned(),
        entry: index,
        offset,
        message: M::NAME,
        source,
    })?;
    match required::missing(M::NAME, &entry.message) {
        None => Ok(message),
        Some(field) => Err(ImageError::MissingField { path: path.to_owned(), entry: index, offset, field }),
    }
}

pub(crate) fn round_up(value: u64, unit: u64) -> u64 {
    value.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}
