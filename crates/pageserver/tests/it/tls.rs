//! Who may talk to whom.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rewake_images::Kind;
use rewake_memdump::MemoryTarget;
use rewake_pageserver::{Incoming, PageServerError, Sender, TlsFiles, receive};

use super::{ends, pages, run, send};

/// A CA that vouches for others.
struct Authority {
    dir: PathBuf,
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(dir: &Path, name: &'static str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        fs::write(dir.join(name), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir: dir.to_owned(), name, issuer: Issuer::new(params, key) }
    }

    /// A certificate with its key for `host`, and whom its owner trusts: this CA.
    fn vouch(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> TlsFiles {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let file = |what: &str| self.dir.join(format!("{}-{host}-{what}", self.name));
        let (cert, secret) = (file("cert"), file("key"));
        fs::write(&cert, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&secret, key.serialize_pem()).unwrap();
        TlsFiles { ca: self.dir.join(self.name), crl: None, cert, key: secret }
    }

    /// Takes back the certificate of this serial number.
    fn take_back(&self, serial: u64) -> PathBuf {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.dir.join(format!("{}-crl", self.name));
        fs::write(&path, params.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        path
    }
}

/// What each side says when memory is sent from one to the other.
fn talk(
    client: &TlsFiles,
    name: Option<&str>,
    server: &TlsFiles,
) -> (Result<(), String>, Result<(), String>) {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("there");
    let (ours, theirs) = ends();
    let told = std::thread::scope(|scope| {
        let serving = scope.spawn(|| -> Result<(), PageServerError> {
            let mut connection = server.accept(theirs)?;
            receive(&mut *connection, &mut Incoming::create(&to, None)?)
        });
        let sent = (|| {
            let sender = Sender::new(client.connect(ours, name).map_err(chain)?);
            sender.greet().map_err(chain)?;
            send(&sender, Kind::Pagemap, 7, (&[run(1, 300), run(1000, 1)], &[run(2000, 0)]), 1, 2)
                .map_err(chain)?;
            sender.close().map_err(chain)
        })();
        (sent, serving.join().unwrap().map_err(chain))
    });
    if told == (Ok(()), Ok(())) {
        assert_eq!(pages(&to, Kind::Pagemap, 7).len(), 301);
    } else {
        assert!(!to.join("pagemap-7.img").exists());
    }
    told
}

fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// That the client says why it does not go on, or the server.
fn refused(told: (Result<(), String>, Result<(), String>), by_client: bool, why: &str) {
    let (client, server) = told;
    let (client, server) = (client.unwrap_err(), server.unwrap_err());
    let said = if by_client { &client } else { &server };
    assert!(said.contains(why), "client: {client}\nserver: {server}");
}

#[test]
fn those_who_are_vouched_for_can_talk() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let (client, server) = (authority.vouch("client", |_| ()), authority.vouch("server.example", |_| ()));
    let numbered = authority.vouch("192.0.2.1", |_| ());
    assert_eq!(talk(&client, Some("server.example"), &server), (Ok(()), Ok(())));
    assert_eq!(talk(&client, Some("192.0.2.1"), &numbered), (Ok(()), Ok(())));
    assert_eq!(talk(&client, None, &server), (Ok(()), Ok(())));
    // A list of those taken back matters only to those in it.
    let crl = Some(authority.take_back(77));
    let (client, server) = (TlsFiles { crl: crl.clone(), ..client }, TlsFiles { crl, ..server });
    assert_eq!(talk(&client, Some("server.example"), &server), (Ok(()), Ok(())));
}

#[test]
fn others_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "ca");
    let other = Authority::new(dir.path(), "other");
    let ours = authority.vouch("us", |_| ());
    let theirs = other.vouch("us", |_| ());
    let stranger = TlsFiles { ca: ours.ca.clone(), ..theirs };
    let name = Some("us");
    for any in [name, None] {
        refused(talk(&ours, any, &stranger), true, "UnknownIssuer");
    }
    refused(talk(&stranger, name, &ours), false, "UnknownIssuer");
    refused(talk(&ours, Some("them"), &ours), true, "not valid for name");
    refused(talk(&ours, Some("192.0.2.1"), &ours), true, "not valid for name");

    let expired = authority.vouch("expired", |params| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    });
    refused(talk(&ours, None, &expired), true, "expired");
    refused(talk(&expired, name, &ours), false, "expired");

    let revoked = authority.vouch("revoked", |params| params.serial_number = Some(SerialNumber::from(77)));
    assert_eq!(talk(&revoked, name, &ours), (Ok(()), Ok(())), "without the list nobody knows");
    let informed = TlsFiles { crl: Some(authority.take_back(77)), ..ours.clone() };
    refused(talk(&informed, None, &revoked), true, "Revoked");
    refused(talk(&revoked, name, &informed), false, "Revoked");
}

#[test]
fn a_side_without_encryption_gets_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ca").vouch("us", |_| ());
    let (one, other) = ends();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| ours.accept(other).map(drop));
        let sender = super::sender(one);
        let error = sender.greet().unwrap_err();
        assert!(matches!(error, PageServerError::Protocol(_) | PageServerError::Truncated), "{error}");
        drop(sender);
        serving.join().unwrap().unwrap_err();
    });
    let (one, other) = ends();
    std::thread::scope(|scope| {
        let to = dir.path().join("there");
        let serving = scope.spawn(|| {
            let mut connection = rewake_pageserver::Plain::new(other).unwrap();
            receive(&mut connection, &mut Incoming::create(to, None).unwrap())
        });
        ours.connect(one, None).map(drop).unwrap_err();
        assert!(matches!(serving.join().unwrap().unwrap_err(), PageServerError::Protocol(_)));
    });
}

#[test]
fn files_of_no_use_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ca").vouch("us", |_| ());
    let empty = dir.path().join("empty");
    fs::write(&empty, "nothing\n").unwrap();
    let missing = dir.path().join("missing");
    for bad in [&empty, &missing, &ours.key] {
        for files in [
            TlsFiles { ca: bad.clone(), ..ours.clone() },
            TlsFiles { cert: bad.clone(), ..ours.clone() },
            TlsFiles { crl: Some(bad.clone()), ..ours.clone() },
        ] {
            let error = files.accept(ends().0).unwrap_err();
            assert!(matches!(&error, PageServerError::Credentials { path, .. } if path == bad), "{error}");
            let error = files.connect(ends().0, None).unwrap_err();
            assert!(matches!(&error, PageServerError::Credentials { path, .. } if path == bad), "{error}");
        }
    }
    // A key that is not that of the certificate.
    let other = Authority::new(dir.path(), "other").vouch("us", |_| ());
    let mixed = TlsFiles { key: other.key, ..ours };
    assert!(matches!(mixed.accept(ends().0).unwrap_err(), PageServerError::Credentials { .. }));
}
