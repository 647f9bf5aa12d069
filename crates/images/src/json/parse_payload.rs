//! The key `extra` to the bytes behind an entry. Lengths must be those the entry tells, or nobody could read the image.

use std::io::Read;

use prost::Message as _;

use super::parse::Parser;
use super::read::{Next, Reader};
use super::schema::Schema;
use super::text;
use crate::error::Result;
use crate::framing::round_up;
use crate::kind::Payload;
use crate::proto;

/// What belongs behind an entry.
pub(super) struct Wants<'a> {
    pub(super) payload: Payload,
    /// The first entry of a ghost file.
    pub(super) is_head: bool,
    /// The encoded entry.
    pub(super) message: &'a [u8],
}

impl Wants<'_> {
    fn message<M: prost::Message + Default>(&self) -> M {
        M::decode(self.message).expect("encoded just now, and these messages have no strings")
    }

    /// Number of bytes, where the entry tells it.
    fn len(&self) -> u64 {
        match self.payload {
            Payload::None => 0,
            Payload::PipeBytes => self.message::<proto::PipeDataEntry>().bytes.into(),
            Payload::PacketBytes => self.message::<proto::SkPacketEntry>().length.into(),
            Payload::BpfMap => {
                let map: proto::BpfmapDataEntry = self.message();
                u64::from(map.keys_bytes) + u64::from(map.values_bytes)
            }
            Payload::IpcShm => {
                let segment: proto::IpcShmEntry = self.message();
                if segment.in_pagemaps() { 0 } else { segment.size }
            }
            Payload::TcpQueues => {
                let queues: proto::TcpStreamEntry = self.message();
                u64::from(queues.inq_len) + u64::from(queues.outq_len)
            }
            Payload::IpcSemaphores => self.message::<proto::IpcSemEntry>().nsems.into(),
            Payload::IpcMessages => self.message::<proto::IpcMsgEntry>().qnum.into(),
            Payload::Ghost if self.is_head => 0,
            Payload::Ghost => self.message::<proto::GhostChunkEntry>().len,
        }
    }
}

/// Whether the entry may do without the key.
pub(super) fn without_extra(wants: &Wants<'_>) -> Result<(), String> {
    let needs_key = wants.payload == Payload::Ghost
        && wants.is_head
        && !wants.message::<proto::GhostFileEntry>().chunks();
    match wants.len() {
        0 if !needs_key => Ok(()),
        _ => Err("\"extra\" is missing".into()),
    }
}

/// Appends the bytes.
pub(super) fn parse<R: Read>(wants: &Wants<'_>, reader: &mut Reader<R>, out: &mut Vec<u8>) -> Result<()> {
    match wants.payload {
        Payload::None => Ok(()),
        Payload::PipeBytes | Payload::PacketBytes | Payload::BpfMap => bytes(wants.len(), reader, out),
        Payload::IpcShm => {
            bytes(wants.len(), reader, out)?;
            pad(4, out);
            Ok(())
        }
        Payload::TcpQueues => tcp_queues(&wants.message(), reader, out),
        Payload::IpcSemaphores => semaphores(wants.len(), reader, out),
        Payload::IpcMessages => messages(wants.len(), reader, out),
        Payload::Ghost if wants.is_head => ghost(&wants.message(), reader, out),
        Payload::Ghost => bytes(wants.len(), reader, out),
    }
}

fn base64<R: Read>(reader: &mut Reader<R>, out: &mut Vec<u8>) -> Result<u64> {
    expect(reader, Next::String)?;
    let bytes = text::base64(reader.string()?).map_err(|what| reader.error(what))?;
    out.extend_from_slice(&bytes);
    Ok(bytes.len() as u64)
}

fn bytes<R: Read>(wanted: u64, reader: &mut Reader<R>, out: &mut Vec<u8>) -> Result<()> {
    let place = reader.place();
    let found = base64(reader, out)?;
    if found == wanted {
        return Ok(());
    }
    Err(reader.error_at(place, format!("{found} bytes, and the entry says {wanted}")))
}

fn tcp_queues<R: Read>(
    entry: &proto::TcpStreamEntry,
    reader: &mut Reader<R>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let (mut inq, mut outq) = (None, None);
    expect(reader, Next::Object)?;
    reader.open(b'{')?;
    while let Some(key) = reader.key()? {
        let (queue, len) = match key {
            b"inq" => (&mut inq, entry.inq_len),
            b"outq" => (&mut outq, entry.outq_len),
            _ => {
                reader.skip()?;
                continue;
            }
        };
        let mut queued = Vec::new();
        bytes(len.into(), reader, &mut queued)?;
        *queue = Some(queued);
    }
    let (Some(inq), Some(outq)) = (inq, outq) else {
        return Err(reader.error("\"inq\" or \"outq\" is missing"));
    };
    out.extend(inq);
    out.extend(outq);
    Ok(())
}

fn semaphores<R: Read>(wanted: u64, reader: &mut Reader<R>, out: &mut Vec<u8>) -> Result<()> {
    let mut found = 0;
    expect(reader, Next::List)?;
    reader.open(b'[')?;
    while reader.element()? {
        expect(reader, Next::Number)?;
        let value = u16::try_from(reader.number()?);
        let value = value.map_err(|_| reader.error("a semaphore out of range"))?;
        out.extend(value.to_le_bytes());
        found += 1;
    }
    if found != wanted {
        return Err(reader.error(format!("{found} semaphores, and the entry says {wanted}")));
    }
    pad(8, out);
    Ok(())
}

fn messages<R: Read>(wanted: u64, reader: &mut Reader<R>, out: &mut Vec<u8>) -> Result<()> {
    let schema = Schema::get();
    let row = schema.find("ipc_msg").expect("part of the schema");
    let mut found = 0;
    expect(reader, Next::List)?;
    reader.open(b'[')?;
    while reader.element()? {
        let mut message = Vec::new();
        Parser { reader, parts: &mut Vec::new(), extra: None, notes: None }.message(row, &mut message)?;
        let msize = proto::IpcMsg::decode(&*message).expect("encoded just now").msize;
        if !reader.element()? {
            return Err(reader.error("a message without text"));
        }
        let mut text = Vec::new();
        let len = base64(reader, &mut text)?;
        if len < msize.into() {
            return Err(reader.error(format!("{len} bytes, and the message says {msize}")));
        }
        let size = u32::try_from(message.len()).expect("two numbers");
        out.extend(size.to_le_bytes());
        out.extend(message);
        text.truncate(usize::try_from(msize).unwrap_or(usize::MAX));
        pad(8, &mut text);
        out.extend(text);
        found += 1;
    }
    if found == wanted {
        return Ok(());
    }
    Err(reader.error(format!("{found} messages, and the entry says {wanted}")))
}

fn ghost<R: Read>(entry: &proto::GhostFileEntry, reader: &mut Reader<R>, out: &mut Vec<u8>) -> Result<()> {
    const FORMAT: u32 = 0o170_000;
    const REGULAR: u32 = 0o100_000;
    let place = reader.place();
    let found = base64(reader, out)?;
    if found > 0 && (entry.chunks() || entry.mode & FORMAT != REGULAR) {
        let what = "contents of a file that has none here (chunks follow, or it is not a regular file)";
        return Err(reader.error_at(place, what));
    }
    Ok(())
}

fn expect<R: Read>(reader: &mut Reader<R>, wanted: Next) -> Result<()> {
    let found = reader.next()?;
    if found == wanted {
        return Ok(());
    }
    Err(reader.error(format!("{} where {} belongs", found.name(), wanted.name())))
}

/// Fills up with zeros to a multiple of `unit`.
fn pad(unit: u64, out: &mut Vec<u8>) {
    let padded = usize::try_from(round_up(out.len() as u64, unit)).unwrap_or(out.len());
    out.resize(padded, 0);
}
