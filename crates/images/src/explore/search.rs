//! Looking for bytes or a regular expression in memory.

use std::ops::{ControlFlow, Range};

use serde::{Serialize, Serializer};

use super::explorer::Explorer;
use super::pattern::Pattern;
use crate::error::Result;
use crate::kind::Kind;
use crate::pagemap::PageStore;

/// What is read and searched at a time: no more than the caches hold.
const CHUNK: usize = 512 << 10;
/// Of a match, so many bytes are shown.
const SHOWN: usize = 4096;
/// Bytes before a place that a regular expression may look at there: `\b`, `^`.
const LOOK_BEHIND: usize = 16;

/// Memory that can be searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// Memory of a task: its pid.
    Pid(u32),
    /// Memory shared between mappings: the object's id. Addresses are offsets in it.
    Shmid(u64),
}

/// A place where the pattern was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Whose memory.
    #[serde(flatten)]
    pub space: Space,
    /// Its first byte.
    #[serde(serialize_with = "super::mems::hex")]
    pub address: u64,
    /// How long it is.
    pub length: u64,
    /// What was found, cut to 4096 bytes.
    #[serde(rename = "match", serialize_with = "escaped")]
    pub bytes: Vec<u8>,
    /// The bytes before it.
    #[serde(serialize_with = "escaped", skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<u8>,
    /// The bytes after it.
    #[serde(serialize_with = "escaped", skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<u8>,
}

fn escaped<S: Serializer>(bytes: &[u8], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&bytes.escape_ascii())
}

impl Explorer<'_> {
    /// Memory that can be searched: every task's, then every shared object's.
    ///
    /// # Errors
    /// Any error of listing the directory.
    pub fn spaces(&self) -> Result<Vec<Space>> {
        let tasks = self.tasks.iter().filter(|task| task.state().has_resources());
        let mut spaces: Vec<_> = tasks.map(|task| Space::Pid(task.entry.pid)).collect();
        let shared = self.checkpoint.images()?.into_iter().filter(|(kind, ..)| *kind == Kind::PagemapShmem);
        spaces.extend(shared.filter_map(|(_, number, _)| number.map(Space::Shmid)));
        let inline = self.inline_segments()?.into_iter().filter(|space| !spaces.contains(space));
        spaces.extend(inline.collect::<Vec<_>>());
        Ok(spaces)
    }

    /// The pages of a space.
    ///
    /// # Errors
    /// As [`PageStore::open`].
    pub fn store(&self, space: Space) -> Result<PageStore> {
        match space {
            Space::Pid(pid) => self.checkpoint.memory(pid.into()),
            Space::Shmid(shmid) if self.checkpoint.exists(Kind::PagemapShmem, Some(shmid)) => {
                self.checkpoint.shmem(shmid)
            }
            Space::Shmid(shmid) => match self.inline_segment(shmid)? {
                Some(store) => Ok(store),
                None => self.checkpoint.shmem(shmid),
            },
        }
    }

    /// Calls `each` with every place in `space` where `pattern` is found, by address, with up to `context` bytes on both sides, until
    /// it breaks. Pages that are not in the images (those of files, unchanged) are not searched.
    ///
    /// # Errors
    /// As [`PageStore::open`]; [`crate::ImageError::Io`].
    pub fn search(
        &self,
        space: Space,
        pattern: &Pattern,
        context: usize,
        mut each: impl FnMut(Hit) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let store = self.store(space)?;
        search_store(&store, pattern, |span, address, bytes| {
            let around = |range: Range<u64>| {
                // As it is for each of what may be millions.
                if range.is_empty() {
                    return Ok(Vec::new());
                }
                let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
                store.read_at(range.start, &mut bytes).map(|()| bytes)
            };
            let end = address + bytes.len() as u64;
            let before = address.saturating_sub(context as u64).max(span.start)..address;
            let after = end..end.saturating_add(context as u64).min(span.end);
            let hit = Hit {
                space,
                address,
                length: bytes.len() as u64,
                bytes: bytes.get(..SHOWN).unwrap_or(bytes).to_vec(),
                before: around(before)?,
                after: around(after)?,
            };
            Ok(each(hit))
        })
    }
}

/// Ranges of pages that follow each other, wherever they lie in files.
fn spans(store: &PageStore) -> Vec<Range<u64>> {
    let mut spans: Vec<Range<u64>> = Vec::new();
    for run in store.runs() {
        match spans.last_mut() {
            Some(last) if last.end == run.vaddr => last.end = run.end(),
            _ => spans.push(run.vaddr..run.end()),
        }
    }
    spans
}

/// Calls `each` with the span, the address and the bytes of every match.
fn search_store(
    store: &PageStore,
    pattern: &Pattern,
    mut each: impl FnMut(&Range<u64>, u64, &[u8]) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let mut buf = Vec::new();
    for span in spans(store) {
        // What of the span is in `buf`: its first address, and where the next match may start.
        let (mut base, mut from) = (span.start, 0);
        buf.clear();
        loop {
            let filled = buf.len();
            let left = span.end - base - filled as u64;
            let more = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
            buf.resize(filled + more, 0);
            store.read_at(base + filled as u64, buf.get_mut(filled..).unwrap_or_default())?;
            let last = more as u64 == left;
            // A match that starts behind this might go on in the next chunk.
            let limit = if last { buf.len() } else { pattern.decided(&buf).max(from) };
            for found in pattern.matches(&buf, from).take_while(|found| found.start < limit) {
                let bytes = buf.get(found.clone()).unwrap_or_default();
                if each(&span, base + found.start as u64, bytes)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                from = found.end;
            }
            if last {
                break;
            }
            from = from.max(limit);
            let keep = from.saturating_sub(LOOK_BEHIND);
            buf.drain(..keep);
            base += keep as u64;
            from -= keep;
        }
    }
    Ok(ControlFlow::Continue(()))
}
