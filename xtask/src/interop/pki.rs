//! Certificates for encrypted connections.

use std::{fs, path::Path};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// So many of the options say whom a side trusts; the others, who it is.
pub(super) const TRUST_OPTIONS: usize = 3;

/// Makes a CA and a certificate for `host` in `dir`; gives the options that have a side use both.
pub(super) fn certificates(dir: &Path, host: &str) -> Result<Vec<String>> {
    let mut authority = CertificateParams::new([])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority.distinguished_name.push(DnType::CommonName, "interop");
    let key = KeyPair::generate()?;
    let root = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate()?;
    let cert = CertificateParams::new([host.to_owned()])?.signed_by(&key, &issuer)?.pem();
    let mut options = vec!["--tls".to_owned()];
    for (option, text) in [("--tls-cacert", root), ("--tls-cert", cert), ("--tls-key", key.serialize_pem())] {
        let path = dir.join(option.trim_start_matches('-'));
        fs::write(&path, text)?;
        options.extend([option.to_owned(), path.display().to_string()]);
    }
    Ok(options)
}
