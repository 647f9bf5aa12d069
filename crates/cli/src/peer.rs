//! The options of all commands that talk to another host.

use std::net::{TcpListener, TcpStream};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use rewake_dump::{MemoryTarget, Progress};
use rewake_pageserver::{Connection, Endpoint, Fetcher, Plain, Sender, TlsFiles, adopt, inherited};

use crate::progress::Watcher;

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
    /// Encrypt the connection; both sides show a certificate
    #[arg(long)]
    tls: bool,
    /// Certificates of those who vouch for the other side
    #[arg(long, value_name = "FILE", default_value = "/etc/pki/CA/cacert.pem")]
    tls_cacert: PathBuf,
    /// Certificates they have taken back [default: /etc/pki/CA/cacrl.pem if it is there]
    #[arg(long, value_name = "FILE")]
    tls_cacrl: Option<PathBuf>,
    /// Our certificate
    #[arg(long, value_name = "FILE", default_value = "/etc/pki/criu/cert.pem")]
    tls_cert: PathBuf,
    /// Its private key
    #[arg(long, value_name = "FILE", default_value = "/etc/pki/criu/private/key.pem")]
    tls_key: PathBuf,
    /// Take whatever name the certificate of the other side is for
    #[arg(long)]
    tls_no_cn_verify: bool,
}

/// Where a list of certificates that were taken back is looked for.
const CRL: &str = "/etc/pki/CA/cacrl.pem";

impl PeerArgs {
    /// The page server, to send memory to.
    pub(crate) fn sender(&self, watcher: &Arc<Watcher>) -> anyhow::Result<Arc<dyn MemoryTarget>> {
        let stream = self.stream()?;
        watcher.cut_on_signal(stream.try_clone()?)?;
        let sender = Sender::new(self.encrypted(stream)?).watched(Arc::clone(watcher) as Arc<dyn Progress>);
        let sender = if self.ps_socket.is_some() { sender.keeping_socket() } else { sender };
        // It may not want us, or be something else.
        sender.greet().context("this is no page server for us")?;
        Ok(Arc::new(sender))
    }

    /// The page server, to get memory from.
    pub(crate) fn fetcher(&self) -> anyhow::Result<Fetcher> {
        Ok(Fetcher::new(self.encrypted(self.stream()?)?))
    }

    /// Where those connect to who name no address.
    fn address(&self) -> &str {
        self.address.as_deref().unwrap_or("127.0.0.1")
    }

    fn stream(&self) -> anyhow::Result<TcpStream> {
        if let Some(stream) = self.socket()? {
            return Ok(stream);
        }
        let port = self.port.context("a page server needs a --port")?;
        Ok(Endpoint { address: self.address().to_owned(), port }.connect()?)
    }

    fn encrypted(&self, stream: TcpStream) -> anyhow::Result<Box<dyn Connection>> {
        if !self.tls {
            return Ok(Box::new(Plain::new(stream)?));
        }
        let name = if self.tls_no_cn_verify { None } else { Some(self.address()) };
        Ok(self.files().connect(stream, name)?)
    }

    fn files(&self) -> TlsFiles {
        let crl = self.tls_cacrl.clone().or_else(|| Some(PathBuf::from(CRL)).filter(|path| path.exists()));
        TlsFiles { ca: self.tls_cacert.clone(), crl, cert: self.tls_cert.clone(), key: self.tls_key.clone() }
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
        if self.tls { Ok(self.files().accept(stream)?) } else { Ok(Box::new(Plain::new(stream)?)) }
    }
}
