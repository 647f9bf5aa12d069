//! Why pages did not get to the other side.

use std::io;
use std::path::PathBuf;

use rewake_images::ImageError;

/// A request that no sound peer makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// There is no such command, or it has no place here.
    #[error("unknown command {command}")]
    Command {
        /// Its number.
        command: u16,
    },
    /// A command does not go with these flags.
    #[error("command {command} with flags {flags:#x}")]
    Flags {
        /// Number of the command.
        command: u16,
        /// The flags.
        flags: u16,
    },
    /// Neither a task nor shared memory.
    #[error("object {id:#x} is of no known kind")]
    Object {
        /// The object as it came.
        id: u64,
    },
    /// These are no pages.
    #[error("{pages} pages at {vaddr:#x} are no range of pages")]
    Span {
        /// The address.
        vaddr: u64,
        /// How many.
        pages: u32,
    },
    /// Pages that are, or could be, there already.
    #[error("pages at {vaddr:#x} come after pages up to {floor:#x}")]
    Order {
        /// The address.
        vaddr: u64,
        /// Where the last ones ended.
        floor: u64,
    },
    /// The memory of an object comes a second time.
    #[error("{name} was there already")]
    Again {
        /// Its image.
        name: String,
    },
    /// Pages are said to be in a parent that does not have them.
    #[error("{pages} pages at {vaddr:#x} are said to be in the parent, which does not have them")]
    NotInParent {
        /// The address.
        vaddr: u64,
        /// How many.
        pages: u32,
    },
    /// A request that has no place in this conversation.
    #[error("{request} has no place here")]
    Misplaced {
        /// What was asked.
        request: &'static str,
    },
    /// Neither yes nor no. What does not speak the protocol at all is mostly found out by this.
    #[error("the answer {answer} is neither yes nor no")]
    NoAnswer {
        /// What came.
        answer: i32,
    },
    /// An answer to something else.
    #[error("an answer about {pages} pages at {vaddr:#x}, which nobody asked for")]
    Answer {
        /// The address.
        vaddr: u64,
        /// How many.
        pages: u32,
    },
}

/// Pages that were not sent or not received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageServerError {
    /// The connection failed.
    #[error("cannot {action} {peer}")]
    Connection {
        /// What was to be done: "connect to", "read from".
        action: &'static str,
        /// The other side.
        peer: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The other side is gone in the middle of something.
    #[error("the other side closed the connection before all was sent")]
    Truncated,
    /// The other side does not speak the protocol.
    #[error("the other side breaks the protocol")]
    Protocol(#[from] ProtocolError),
    /// The server could not store what it got.
    #[error("the page server failed (status {status})")]
    Failed {
        /// What it said.
        status: i32,
    },
    /// All pages came and are in their place, but the other side could not be told.
    #[error("all pages are in their place, but the sender could not be told, and will think that it failed")]
    Unanswered {
        /// Why.
        #[source]
        source: Box<PageServerError>,
    },
    /// An image is there already. It is not overwritten.
    #[error("{} exists already", path.display())]
    Exists {
        /// Which one.
        path: PathBuf,
    },
    /// The images cannot be read or written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The server lacks pages it was asked for.
    #[error("the page server has no pages of process {pid} at {vaddr:#x}")]
    NoPages {
        /// The process.
        pid: u64,
        /// The address.
        vaddr: u64,
    },
    /// A key, a certificate or a list of these is of no use.
    #[error("{}: {problem}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The error of a file.
pub(crate) fn file(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.into();
    move |source| ImageError::Io { path, action, source }
}

/// Result of this crate.
pub type Result<T, E = PageServerError> = std::result::Result<T, E>;

impl PageServerError {
    pub(crate) fn connection(action: &'static str, peer: impl ToString) -> impl FnOnce(io::Error) -> Self {
        let peer = peer.to_string();
        move |source| Self::Connection { action, peer, source }
    }

    /// The error of a connection that is in use.
    pub(crate) fn broken(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Connection { action, peer: "the other side".into(), source },
        }
    }
}
