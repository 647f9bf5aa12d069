//! Memory of checkpoints over a network, in CRIU's page server protocol.
//!
//! The side with the process opens a connection and sends pages as they are captured ([`Sender`]); the side with the disk
//! keeps them ([`receive`], [`Incoming`]). The rest of the checkpoint does not go this way.
//!
//! The other way round, pages that a checkpoint lacks are asked for ([`Fetcher`]) and lent ([`Lender`]).
//!
//! Either side may be CRIU. Neither side trusts the other: what does not make sense ends the conversation, and what was
//! half received is not kept.

mod connection;
mod error;
mod fetch;
mod incoming;
mod lend;
mod receive;
mod send;
mod sys;
#[cfg(feature = "tls")]
mod tls;
mod wire;

pub use connection::{Connection, Endpoint, Plain, accept, adopt};
pub use error::{PageServerError, ProtocolError, Result};
pub use fetch::Fetcher;
pub use incoming::{Incoming, ReceiveReport};
pub use lend::{LendReport, Lender};
pub use receive::{Receiver, receive};
pub use send::Sender;
pub use sys::inherited;
#[cfg(feature = "tls")]
pub use tls::TlsFiles;
pub use wire::{Object, REQUEST_BYTES, Request, Span};
