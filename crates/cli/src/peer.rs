//! The options of all commands that talk to another host.

use std::net::{TcpListener, TcpStream};
use std::os::fd::RawFd;
use std::sync::Arc;

use anyhow::Context;
use rewake_dump::MemoryTarget;
use rewake_pageserver::{Connection, Endpoint, Plain, Sender, adopt, inherited};

#[derive(Debug, clap::Args)]
pub(crate) struct PeerArgs {
    /// Address or name of the page server's host [default: this host for those who connect, all addresses for the server]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Port of the page server [default for the server: any that is free]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Talk over this descriptor, a connected socket that was inherited
    #[arg(long, value_name = "FD", conflicts_with_all = ["address", "port"])]
    pub(crate) ps_socket: Option<RawFd>,
}

impl PeerArgs {
    /// The page server, to send memory to.
    pub(crate) fn sender(&self) -> anyhow::Result<Arc<dyn MemoryTarget>> {
        let sender = Sender::new(self.connect()?);
        Ok(Arc::new(if self.ps_socket.is_some() { sender.keeping_socket() } else { sender }))
    }

    fn connect(&self) -> anyhow::Result<Box<dyn Connection>> {
        let stream = match self.socket()? {
            Some(stream) => stream,
            None => {
                let port = self.port.context("--page-server needs a --port")?;
                let address = self.address.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
                Endpoint { address, port }.connect()?
            }
        };
        Ok(Box::new(Plain::new(stream)?))
    }

    /// The socket that was inherited, if it is to be that.
    pub(crate) fn socket(&self) -> anyhow::Result<Option<TcpStream>> {
        let Some(fd) = self.ps_socket else { return Ok(None) };
        let socket = inherited(fd).with_context(|| format!("there is no descriptor {fd}"))?;
        Ok(Some(adopt(socket)?))
    }

    /// Waits for others.
    pub(crate) fn listen(&self) -> anyhow::Result<TcpListener> {
        let address = self.address.clone().unwrap_or_else(|| "0.0.0.0".to_owned());
        Ok(Endpoint { address, port: self.port.unwrap_or(0) }.listen()?)
    }

    /// Talks to whoever is at the other end of `stream`.
    pub(crate) fn answer(&self, stream: TcpStream) -> anyhow::Result<Box<dyn Connection>> {
        Ok(Box::new(Plain::new(stream)?))
    }
}
