//! Pages in the images, and the mappings they belong to.

use std::fmt;

use serde::Serialize;

use super::explorer::Explorer;
use super::mems::{hex, path_of};
use crate::PAGE_SIZE;
use crate::error::Result;
use crate::kind::Kind;
use crate::pagemap::pages_of;
use crate::proto;

/// A mapping that an entry of the pagemap touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// The one the entry before touched last.
    Same,
    /// Another one.
    Mapping {
        /// Its first byte.
        start: u64,
        /// Its size.
        pages: u64,
        /// Path of the file it shows.
        path: Option<String>,
    },
}

impl Serialize for Touched {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Vma {
            addr: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            pages: Option<u64>,
        }
        let vma = match self {
            Self::Same => Vma { addr: "~".into(), pages: None },
            Self::Mapping { start, pages, .. } => Vma { addr: format!("{start:x}"), pages: Some(*pages) },
        };
        vma.serialize(serializer)
    }
}

/// An entry of a pagemap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resident {
    /// Its first page.
    #[serde(rename = "phy_addr", serialize_with = "hex")]
    pub vaddr: u64,
    /// Number of pages.
    #[serde(rename = "phy_pages")]
    pub pages: u64,
    /// Mappings it touches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vmas: Vec<Touched>,
    /// Path of the last of them that shows a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
}

/// The pages of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskResident {
    /// Process id.
    pub pid: u32,
    /// By address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rss: Vec<Resident>,
}

/// The pages of all tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ResidentList(pub Vec<TaskResident>);

impl Explorer<'_> {
    /// The pages of all tasks: in this checkpoint, and what its pagemaps say of its ancestors.
    ///
    /// # Errors
    /// Any error of reading `mm` and `pagemap`.
    pub fn rss(&self) -> Result<ResidentList> {
        let mut all = Vec::new();
        for task in &self.tasks {
            let mut rss = Vec::new();
            if let Some(mm) = self.mm(task)? {
                let mut cursor = Cursor { vmas: &mm.vmas, next: 0, last: None };
                let reader = self.checkpoint.entries(Kind::Pagemap, task.number())?;
                if let Some(mut reader) = reader {
                    reader.next_message::<proto::PagemapHead>()?;
                    while let Some((entry, _)) = reader.next_message::<proto::PagemapEntry>()? {
                        rss.push(self.resident(&entry, &mut cursor));
                    }
                }
            }
            all.push(TaskResident { pid: task.entry.pid, rss });
        }
        Ok(ResidentList(all))
    }

    fn resident(&self, entry: &proto::PagemapEntry, cursor: &mut Cursor<'_>) -> Resident {
        let pages = pages_of(entry);
        let end = entry.vaddr.saturating_add(pages.saturating_mul(PAGE_SIZE));
        let mut vmas = Vec::new();
        let mut resource = None;
        for (index, vma) in cursor.touched(entry.vaddr, end) {
            if cursor.last == Some(index) {
                vmas.push(Touched::Same);
                continue;
            }
            cursor.last = Some(index);
            let path = path_of(&self.files, vma);
            resource = path.clone().or(resource);
            let pages = vma.end.saturating_sub(vma.start) / PAGE_SIZE;
            vmas.push(Touched::Mapping { start: vma.start, pages, path });
        }
        Resident { vaddr: entry.vaddr, pages, vmas, resource }
    }
}

/// Both lists ascend, so that one walk over the mappings serves all entries.
struct Cursor<'v> {
    vmas: &'v [proto::VmaEntry],
    next: usize,
    last: Option<usize>,
}

impl<'v> Cursor<'v> {
    fn touched(&mut self, start: u64, end: u64) -> Vec<(usize, &'v proto::VmaEntry)> {
        while self.vmas.get(self.next).is_some_and(|vma| vma.end <= start) {
            self.next += 1;
        }
        let rest = self.vmas.iter().enumerate().skip(self.next);
        let touched: Vec<_> = rest.take_while(|(_, vma)| vma.start < end).collect();
        if let Some((index, _)) = touched.last() {
            self.next = *index;
        }
        touched
    }
}

impl fmt::Display for ResidentList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for task in &self.0 {
            writeln!(f, "{}", task.pid)?;
            for Resident { vaddr, pages, vmas, .. } in &task.rss {
                write!(f, "{:24}", format!("\t{vaddr:x} / {pages:<8}"))?;
                for vma in vmas {
                    match vma {
                        Touched::Same => f.write_str(" ~")?,
                        Touched::Mapping { start, pages, path } => {
                            write!(f, " {start:08x} / {pages:<8}")?;
                            if let Some(path) = path {
                                write!(f, " {path}")?;
                            }
                        }
                    }
                    write!(f, "\n\t{:23}", "")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
