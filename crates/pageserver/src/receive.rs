//! The server: takes in what it is sent.

use rewake_images::pe;

use crate::connection::Connection;
use crate::error::{PageServerError, ProtocolError, Result};
use crate::wire::{Object, REQUEST_BYTES, Request, Span};

/// Keeps what comes.
pub trait Receiver {
    /// Begins the memory of an object; gives whether there is a parent of it.
    ///
    /// # Errors
    /// If there is no place for it.
    fn open(&mut self, object: Object) -> Result<bool>;

    /// Whether there is a parent of it.
    ///
    /// # Errors
    /// If that cannot be found out.
    fn has_parent(&mut self, object: Object) -> Result<bool>;

    /// An entry of the pagemap of what was opened last. With [`pe::PRESENT`] comes [`Self::pages`] for all of it.
    ///
    /// # Errors
    /// If it does not fit what came before, or cannot be kept.
    fn entry(&mut self, span: Span, flags: u32) -> Result<()>;

    /// Pages of the last entry, in order. Not always whole pages.
    ///
    /// # Errors
    /// If they cannot be kept.
    fn pages(&mut self, bytes: &[u8]) -> Result<()>;

    /// All has come: make it last.
    ///
    /// # Errors
    /// If that is not possible; then nothing may be left.
    fn commit(&mut self) -> Result<()>;
}

/// Bytes held at once.
const BUFFER: usize = 1 << 20;
/// What is answered if what came cannot be kept after all.
const FAILED: i32 = -1;

/// Takes in what comes over `connection` until the other side says that it was all.
///
/// Nothing of what the other side says is trusted: the memory used is one buffer, and what does not make sense ends the
/// conversation.
///
/// # Errors
/// [`PageServerError::Protocol`]; [`PageServerError::Truncated`] if the other side goes without saying that it was all; those
/// of `receiver`. Then nothing was committed, except with [`PageServerError::Unanswered`].
pub fn receive<C: Connection + ?Sized>(connection: &mut C, receiver: &mut impl Receiver) -> Result<()> {
    let mut open: Option<Object> = None;
    let mut buffer = Vec::new();
    loop {
        let mut header = [0; REQUEST_BYTES];
        connection.read_exact(&mut header).map_err(PageServerError::broken("read from"))?;
        match Request::decode(&header)? {
            Request::Open { object, answered } => {
                let has_parent = receiver.open(object)?;
                open = Some(object);
                if answered {
                    answer(connection, &[has_parent.into()])?;
                }
            }
            Request::HasParent { object } => {
                let has_parent = receiver.has_parent(object)?;
                answer(connection, &i32::from(has_parent).to_le_bytes())?;
            }
            Request::Add { object, span, flags } => {
                if open != Some(object) {
                    // CRIU before 1.4 opened nothing.
                    receiver.open(object)?;
                    open = Some(object);
                }
                receiver.entry(span, flags)?;
                if flags & pe::PRESENT != 0 {
                    pages(connection, span, &mut buffer, receiver)?;
                }
            }
            Request::Close { keeping_socket } => return close(connection, receiver, keeping_socket),
            Request::Get { .. } => {
                return Err(ProtocolError::Misplaced { request: "asking for pages" }.into());
            }
        }
    }
}

fn pages<C: Connection + ?Sized>(
    connection: &mut C,
    span: Span,
    buffer: &mut Vec<u8>,
    receiver: &mut impl Receiver,
) -> Result<()> {
    let mut left = span.bytes();
    // Grows with what really comes in entries of this size, not with what is announced in all.
    buffer.resize(usize::try_from(left).unwrap_or(BUFFER).min(BUFFER), 0);
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
        let piece = buffer.get_mut(..want).unwrap_or_default();
        let read = match connection.read(piece) {
            Ok(0) => return Err(PageServerError::Truncated),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.map_err(PageServerError::broken("read from"))?,
        };
        receiver.pages(piece.get(..read).unwrap_or_default())?;
        left -= u64::try_from(read).unwrap_or(left);
    }
    Ok(())
}

fn close<C: Connection + ?Sized>(
    connection: &mut C,
    receiver: &mut impl Receiver,
    keeping_socket: bool,
) -> Result<()> {
    let committed = receiver.commit();
    let status = if committed.is_ok() { 0 } else { FAILED };
    let answered = answer(connection, &status.to_le_bytes());
    committed?;
    answered.map_err(|source| PageServerError::Unanswered { source: Box::new(source) })?;
    // The side that closes first has to remember the connection for a while: let that be the other one. Whether it does
    // so well changes nothing any more.
    if !keeping_socket {
        let _ = connection.end();
        let _ = connection.read(&mut [0]);
    }
    Ok(())
}

fn answer<C: Connection + ?Sized>(connection: &mut C, bytes: &[u8]) -> Result<()> {
    let sent = connection.write_all(bytes).and_then(|()| connection.flush());
    sent.map_err(PageServerError::broken("answer"))
}
