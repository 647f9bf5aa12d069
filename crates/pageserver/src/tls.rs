//! Encrypted connections, on which both sides show who they are.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, ConnectionCommon, DigitallySignedStruct, RootCertStore,
    ServerConfig, ServerConnection, SideData, SignatureScheme, StreamOwned,
};

use crate::connection::Connection;
use crate::error::{PageServerError, Result};

/// A record holds no more than this. CRIU wants a request in a record of its own, and pages in as few as possible.
const RECORD: usize = 16 << 10;

/// Who we are, and whom we trust. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of those who vouch for the other side.
    pub ca: PathBuf,
    /// Certificates they have taken back.
    pub crl: Option<PathBuf>,
    /// Our certificate, followed by those between it and the other side's idea of a CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TlsFiles {
    fn roots(&self) -> Result<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        for cert in self.all::<CertificateDer<'static>>(&self.ca)? {
            roots.add(cert).map_err(|error| bad(&self.ca, error))?;
        }
        Ok(Arc::new(roots))
    }

    fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>> {
        self.crl.as_ref().map_or(Ok(Vec::new()), |path| self.all(path))
    }

    fn identity(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| bad(&self.key, error))?;
        Ok((self.all(&self.cert)?, key))
    }

    /// Everything of one kind in a file, which must have some.
    fn all<T: PemObject>(&self, path: &Path) -> Result<Vec<T>> {
        let found = T::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
        let found = found.map_err(|error| bad(path, error))?;
        if found.is_empty() { Err(bad(path, "there is nothing of use in it")) } else { Ok(found) }
    }

    /// Turns a connection into an encrypted one, as the side that connected. The certificate of the other side must be valid
    /// for `name`, the name or number it was reached by; `None` takes any that is vouched for.
    ///
    /// # Errors
    /// [`PageServerError::Credentials`]; [`PageServerError::Connection`] if the two sides do not come to an agreement.
    pub fn connect(&self, mut stream: TcpStream, name: Option<&str>) -> Result<Box<dyn Connection>> {
        let failed =
            || PageServerError::connection("agree on encryption with", name.unwrap_or("the other side"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider))
            .with_crls(self.revoked()?)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| bad(self.crl.as_ref().unwrap_or(&self.ca), error))?;
        let (cert, key) = self.identity()?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed()(io::Error::other(error)))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { inner, any_name: name.is_none() }))
            .with_client_auth_cert(cert, key)
            .map_err(|error| bad(&self.key, error))?;
        // The name is not looked at if any will do.
        let wanted = ServerName::try_from(name.unwrap_or("any.invalid").to_owned());
        let wanted = wanted.map_err(|error| failed()(io::Error::other(error)))?;
        let mut connection = ClientConnection::new(Arc::new(config), wanted)
            .map_err(|error| failed()(io::Error::other(error)))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(failed())?;
        }
        Ok(Box::new(Secured(StreamOwned::new(connection, stream))))
    }

    /// Turns a connection into an encrypted one, as the side that waited. The other side must have a certificate that is
    /// vouched for, whatever name is on it.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn accept(&self, mut stream: TcpStream) -> Result<Box<dyn Connection>> {
        let failed = || PageServerError::connection("agree on encryption with", "the other side");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider))
            .with_crls(self.revoked()?)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| bad(self.crl.as_ref().unwrap_or(&self.ca), error))?;
        let (cert, key) = self.identity()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed()(io::Error::other(error)))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(cert, key)
            .map_err(|error| bad(&self.key, error))?;
        // Nobody comes back with a ticket, and CRIU is not prepared to be handed one.
        config.send_tls13_tickets = 0;
        let mut connection =
            ServerConnection::new(Arc::new(config)).map_err(|error| failed()(io::Error::other(error)))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(failed())?;
        }
        Ok(Box::new(Secured(StreamOwned::new(connection, stream))))
    }
}

fn bad(path: &Path, problem: impl ToString) -> PageServerError {
    PageServerError::Credentials { path: path.to_owned(), problem: problem.to_string() }
}

/// Checks certificates as ever, but their name perhaps not.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    any_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is what is looked at last: everything else was in order. The tests would notice if that changed.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// An encrypted connection. What is written in one piece goes into records of its own, which are sent at once.
#[derive(Debug)]
struct Secured<C>(StreamOwned<C, TcpStream>)
where
    C: DerefMut + Deref;

impl<C, S> Read for Secured<C>
where
    C: DerefMut + Deref<Target = ConnectionCommon<S>>,
    S: SideData,
{
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<C, S> Write for Secured<C>
where
    C: DerefMut + Deref<Target = ConnectionCommon<S>>,
    S: SideData,
{
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf.get(..RECORD).unwrap_or(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<C, S> Connection for Secured<C>
where
    C: DerefMut + Deref<Target = ConnectionCommon<S>> + Send + std::fmt::Debug,
    S: SideData,
{
    fn end(&mut self) -> io::Result<()> {
        self.0.conn.send_close_notify();
        self.0.flush()?;
        self.0.sock.shutdown(Shutdown::Write)
    }
}
