//! signalfd(2).

use rewake_images::proto::{FdTypes, FileEntry, SignalfdEntry};

use super::{OpenFile, entry};
use crate::error::Result;

pub(super) fn survey(file: &OpenFile, id: u32) -> Result<FileEntry> {
    let mask = file.fdinfo_field("sigmask")?;
    let sigmask = u64::from_str_radix(mask, 16).map_err(|_| file.fdinfo_malformed("sigmask"))?;
    let sgfd = SignalfdEntry { id, flags: file.flags, fown: file.fown, sigmask };
    Ok(FileEntry { sgfd: Some(sgfd.into()), ..entry(FdTypes::Signalfd, id) })
}
