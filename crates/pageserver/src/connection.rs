//! Both ends of a connection.

use std::fmt;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::error::{PageServerError, Result};

/// How long the other side may take to accept what is sent: a process may stand still meanwhile.
const SEND_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to answer: at the end it brings everything to disk first.
const ANSWER_PATIENCE: Duration = Duration::from_secs(600);
/// Whether its host is still there is asked after so many seconds without a sign of it, and then again so many times.
const KEEPALIVE_SECONDS: u32 = 15;
const KEEPALIVE_TRIES: u32 = 3;

/// Requests and the pages behind them come in pieces of this size.
const BUFFER: usize = 64 << 10;

/// One end of a connection. Whatever is written in one piece may be buffered until [`Write::flush`].
pub trait Connection: Read + Write + Send + fmt::Debug {
    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// If the other side is gone.
    fn end(&mut self) -> io::Result<()>;
}

/// A connection that everybody on the way can read and change.
#[derive(Debug)]
pub struct Plain {
    from: BufReader<TcpStream>,
    to: BufWriter<TcpStream>,
}

impl Plain {
    /// Talks over `stream`, which is of TCP or any other kind that keeps the order of bytes.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        let from = BufReader::with_capacity(BUFFER, stream.try_clone()?);
        Ok(Self { from, to: BufWriter::with_capacity(BUFFER, stream) })
    }
}

impl Read for Plain {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.from.read(buf)
    }
}

impl Write for Plain {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.to.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Connection for Plain {
    fn end(&mut self) -> io::Result<()> {
        self.to.flush()?;
        self.to.get_ref().shutdown(Shutdown::Write)
    }
}

/// Where the other side is, or is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or number of the host.
    pub address: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.contains(':') {
            write!(f, "[{}]:{}", self.address, self.port)
        } else {
            write!(f, "{}:{}", self.address, self.port)
        }
    }
}

impl Endpoint {
    /// Connects to it, to whichever of its addresses answers first.
    ///
    /// # Errors
    /// [`PageServerError::Connection`].
    pub fn connect(&self) -> Result<TcpStream> {
        let failed = || PageServerError::connection("connect to", self);
        let addresses = (self.address.as_str(), self.port).to_socket_addrs().map_err(failed())?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, SEND_PATIENCE) {
                Ok(stream) => {
                    prepare(&stream).map_err(failed())?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(failed()(last))
    }

    /// Waits for others here. Port 0 is any that is free.
    ///
    /// # Errors
    /// [`PageServerError::Connection`].
    pub fn listen(&self) -> Result<TcpListener> {
        let address = (self.address.as_str(), self.port);
        TcpListener::bind(address).map_err(PageServerError::connection("listen on", self))
    }
}

/// Takes the first connection that comes.
///
/// # Errors
/// [`PageServerError::Connection`].
pub fn accept(listener: &TcpListener) -> Result<TcpStream> {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                tracing::info!(%peer, "connected");
                stream.set_nodelay(true).map_err(PageServerError::connection("talk to", peer))?;
                keep_alive(&stream).map_err(PageServerError::connection("talk to", peer))?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PageServerError::connection("accept on", "the port")(error)),
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    keep_alive(stream)?;
    patient(stream)
}

fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    stream.set_write_timeout(Some(SEND_PATIENCE))
}

/// Has the kernel find out if the other host is gone.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_SECONDS)?;
    Ok(setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_TRIES)?)
}

/// Talks over a socket that somebody else made and connected.
///
/// # Errors
/// [`PageServerError::Connection`] if it is no such socket.
pub fn adopt(socket: OwnedFd) -> Result<TcpStream> {
    let stream = TcpStream::from(socket);
    patient(&stream).map_err(PageServerError::connection("talk over", "the socket given"))?;
    Ok(stream)
}
