//! The bytes behind an entry as the key `extra`.

use std::path::Path;

use super::print::Printer;
use super::render;
use super::schema::Schema;
use crate::error::{ImageError, Result};
use crate::framing::{Entry, decode};
use crate::kind::Payload;
use crate::proto;

/// Prints `extra`, if an image with this payload has it.
pub(super) fn put(payload: Payload, path: &Path, entry: &Entry, out: &mut Printer) -> Result<()> {
    match payload {
        Payload::None => {}
        Payload::PipeBytes | Payload::PacketBytes | Payload::BpfMap => {
            out.key("extra");
            out.base64(&entry.payload);
        }
        Payload::TcpQueues => {
            let message: proto::TcpStreamEntry = decode(path, entry)?;
            let inq_len = usize::try_from(message.inq_len).unwrap_or(usize::MAX);
            let queues = entry.payload.split_at_checked(inq_len).ok_or_else(|| short(path, entry))?;
            out.key("extra");
            out.open(b'{');
            out.key("inq");
            out.base64(queues.0);
            out.key("outq");
            out.base64(queues.1);
            out.close(b'}');
        }
        Payload::IpcShm => {
            let message: proto::IpcShmEntry = decode(path, entry)?;
            let size = usize::try_from(message.size).unwrap_or(usize::MAX);
            out.key("extra");
            out.base64(entry.payload.get(..size).unwrap_or(&entry.payload));
        }
        Payload::IpcSemaphores => {
            let message: proto::IpcSemEntry = decode(path, entry)?;
            let count = usize::try_from(message.nsems).unwrap_or(usize::MAX);
            out.key("extra");
            out.open(b'[');
            let (values, _) = entry.payload.as_chunks::<2>();
            for value in values.iter().take(count) {
                out.element();
                out.number(u16::from_le_bytes(*value).into());
            }
            out.close(b']');
        }
        Payload::IpcMessages => {
            out.key("extra");
            messages(path, entry, out)?;
        }
        Payload::Ghost => ghost(path, entry, out)?,
    }
    Ok(())
}

fn messages(path: &Path, entry: &Entry, out: &mut Printer) -> Result<()> {
    let schema = Schema::get();
    let row = schema.find("ipc_msg").expect("part of the schema");
    out.open(b'[');
    for message in ipc_messages(path, entry) {
        let (message, text) = message?;
        out.element();
        out.open(b'{');
        // None of its fields has an option, so the pretty form is the plain one.
        render::fields(schema, row, message, out).map_err(|e| malformed(path, entry, "ipc_msg", e.0))?;
        out.close(b'}');
        out.element();
        out.base64(text);
    }
    out.close(b']');
    Ok(())
}

/// The framed messages in the payload, each with its text.
fn ipc_messages<'a>(path: &'a Path, entry: &'a Entry) -> impl Iterator<Item = Result<(&'a [u8], &'a [u8])>> {
    let mut rest = entry.payload.as_slice();
    let mut next = move || {
        let (size, tail) = rest.split_first_chunk::<4>()?;
        let (message, tail) = tail.split_at_checked(usize::try_from(u32::from_le_bytes(*size)).ok()?)?;
        let inner = Entry { message: message.to_vec(), payload: Vec::new(), ..*entry };
        let size = match decode::<proto::IpcMsg>(path, &inner) {
            Ok(decoded) => usize::try_from(decoded.msize).ok()?,
            Err(error) => return Some(Err(error)),
        };
        let (padded, tail) = tail.split_at_checked(size.checked_next_multiple_of(8)?)?;
        rest = tail;
        Some(Ok((message, padded.get(..size)?)))
    };
    let mut failed = false;
    std::iter::from_fn(move || {
        let item = if failed { None } else { next() };
        failed = matches!(item, Some(Err(_)));
        item
    })
}

fn ghost(path: &Path, entry: &Entry, out: &mut Printer) -> Result<()> {
    // The contents are in the chunks that follow.
    if entry.index == 0 && decode::<proto::GhostFileEntry>(path, entry)?.chunks() {
        return Ok(());
    }
    out.key("extra");
    out.base64(&entry.payload);
    Ok(())
}

/// Prints the size of what [`put`] would print.
pub(super) fn put_size(payload: Payload, path: &Path, entry: &Entry, out: &mut Printer) -> Result<()> {
    let bytes = match payload {
        Payload::None | Payload::Ghost => return Ok(()),
        Payload::PipeBytes | Payload::PacketBytes | Payload::BpfMap | Payload::TcpQueues => {
            entry.payload.len() as u64
        }
        Payload::IpcShm => decode::<proto::IpcShmEntry>(path, entry)?.size,
        Payload::IpcSemaphores => 2 * u64::from(decode::<proto::IpcSemEntry>(path, entry)?.nsems),
        Payload::IpcMessages => {
            let mut sum = 0;
            for message in ipc_messages(path, entry) {
                let (message, text) = message?;
                sum += (message.len() + text.len()) as u64;
            }
            sum
        }
    };
    out.key("extra");
    out.string(format!("... <{}>", humane_size(bytes)).as_bytes());
    Ok(())
}

/// In the largest unit of which there is at least one.
fn humane_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KB", "MB", "GB", "TB", "PB", "EB"];
    let (mut index, mut unit) = (0, 1_u64);
    while bytes / unit >= 1024 && index + 1 < UNITS.len() {
        unit *= 1024;
        index += 1;
    }
    let name = UNITS.get(index).copied().unwrap_or_default();
    if bytes.is_multiple_of(unit) {
        format!("{}{name}", bytes / unit)
    } else {
        #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
        let size = bytes as f64 / unit as f64;
        format!("{size:.1}{name}")
    }
}

fn short(path: &Path, entry: &Entry) -> ImageError {
    let what = format!("entry {} has fewer bytes than it says", entry.index);
    ImageError::Invalid { path: path.to_owned(), what }
}

pub(super) fn malformed(path: &Path, entry: &Entry, message: &str, why: &str) -> ImageError {
    let what = format!("entry {} at byte {} is no {message}: {why}", entry.index, entry.offset);
    ImageError::Invalid { path: path.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0B"),
            (52, "52B"),
            (1023, "1023B"),
            (1024, "1KB"),
            (1536, "1.5KB"),
            (40960, "40KB"),
            (5 << 20, "5MB"),
            (u64::MAX, "16.0EB"),
        ] {
            assert_eq!(humane_size(bytes), text);
        }
    }
}
