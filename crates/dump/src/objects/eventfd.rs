//! eventfd(2).

use rewake_images::proto::{EventfdFileEntry, FdTypes, FileEntry};

use super::{OpenFile, entry};
use crate::error::Result;

pub(super) fn survey(file: &OpenFile, id: u32) -> Result<FileEntry> {
    let count = file.fdinfo_field("eventfd-count")?;
    let counter = u64::from_str_radix(count, 16).map_err(|_| file.fdinfo_malformed("eventfd-count"))?;
    // Kernels before 6.5 do not tell. The format has no field; EFD_SEMAPHORE is 1, a bit of O_ACCMODE that an eventfd,
    // always O_RDWR, has no use for, and F_SETFL ignores it.
    let semaphore = u32::from(file.fdinfo_field("eventfd-semaphore").is_ok_and(|v| v == "1"));
    let efd = EventfdFileEntry { id, flags: file.flags | semaphore, fown: file.fown, counter };
    Ok(FileEntry { efd: Some(efd.into()), ..entry(FdTypes::Eventfd, id) })
}
