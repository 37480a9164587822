//! Certificates for tests, made anew each time.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use peeloff::{CaBundle, Identity};

pub fn p256() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

pub fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

pub fn ed25519() -> PKey<Private> {
    PKey::generate_ed25519().unwrap()
}

/// An authority that signs for others.
pub struct Authority {
    certificate: X509,
    key: PKey<Private>,
    /// Its own certificate and those between it and the root, which peers have to be sent.
    chain: Vec<X509>,
}

impl Authority {
    pub fn new() -> Self {
        Self::named("authority")
    }

    /// A root with this common name.
    pub fn named(name: &str) -> Self {
        let key = p256();
        let certificate = build(name, &key, &["localhost"], None, true);
        Self { certificate, key, chain: Vec::new() }
    }

    /// An authority below this one.
    pub fn below(&self, name: &str) -> Self {
        let key = p256();
        let certificate = build(name, &key, &[], Some(self), true);
        let chain = std::iter::once(certificate.clone()).chain(self.chain.clone()).collect();
        Self { certificate, key, chain }
    }

    pub fn bundle(&self) -> CaBundle {
        CaBundle::from_pem(&self.certificate.to_pem().unwrap()).unwrap()
    }

    pub fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    /// A certificate in this name, for localhost and 127.0.0.1, with its key, both in PEM.
    pub fn issue_pem(&self, name: &str, key: &PKey<Private>) -> (Vec<u8>, Vec<u8>) {
        self.issue_pem_for(name, key, &["localhost"])
    }

    /// The same, for other DNS names.
    pub fn issue_pem_for(&self, name: &str, key: &PKey<Private>, dns: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let leaf = build(name, key, dns, Some(self), false);
        let chain = std::iter::once(&leaf).chain(&self.chain);
        let chain = chain.flat_map(|certificate| certificate.to_pem().unwrap()).collect();
        (chain, key.private_key_to_pem_pkcs8().unwrap())
    }

    pub fn issue_for(&self, name: &str, dns: &[&str]) -> Identity {
        let (certificate, key) = self.issue_pem_for(name, &p256(), dns);
        Identity::from_pem(&certificate, &key).unwrap()
    }

    /// A list of revoked certificates, in PEM.
    pub fn revoke(&self, revoked: &[&Identity]) -> Vec<u8> {
        let revoked: Vec<_> = revoked.iter().map(|identity| identity.certificate_pem()).collect();
        self.list(&revoked, &[])
    }

    /// A list with the certificate of an authority.
    pub fn revoke_authority(&self, revoked: &Self) -> Vec<u8> {
        self.list(&[revoked.pem()], &[])
    }

    /// A list of nobody that was good for a day of the year 2025.
    pub fn old_list(&self) -> Vec<u8> {
        self.list(&[], &["-crl_lastupdate", "20250101000000Z", "-crl_nextupdate", "20250102000000Z"])
    }

    fn list(&self, revoked: &[Vec<u8>], more: &[&str]) -> Vec<u8> {
        let office = Office::open(self, revoked, &[]);
        office.openssl(&[&["ca", "-config", "ca.conf", "-gencrl", "-out", "list.pem"], more].concat());
        office.read("list.pem")
    }

    /// What `openssl verify -crl_check_all` says of a chain from this root, with these lists: its first error, or
    /// `None` for a chain that verifies.
    pub fn openssl_objects(&self, chain: &[u8], lists: &[u8]) -> Option<String> {
        let office = Office::open(self, &[], &[]);
        std::fs::write(office.0.join("chain.pem"), chain).unwrap();
        std::fs::write(office.0.join("lists.pem"), lists).unwrap();
        let ask = ["verify", "-crl_check_all", "-CAfile", "ca.pem", "-CRLfile", "lists.pem"];
        let of = ["-untrusted", "chain.pem", "chain.pem"];
        let run = Command::new("openssl").args(ask).args(of).current_dir(&office.0).output().unwrap();
        let text = String::from_utf8(run.stderr).unwrap();
        let error = text.lines().find(|line| line.starts_with("error "));
        assert_eq!(error.is_none(), run.status.success(), "{text}");
        error.map(|error| error.rsplit_once("lookup: ").unwrap().1.to_owned())
    }

    /// An OCSP response that says that this certificate is good, in DER.
    pub fn ocsp_response(&self, identity: &Identity) -> Vec<u8> {
        let office = Office::open(self, &[], &[identity.certificate_pem()]);
        std::fs::write(office.0.join("leaf.pem"), identity.certificate_pem()).unwrap();
        let ask = ["ocsp", "-no_nonce", "-issuer", "ca.pem", "-cert", "leaf.pem", "-reqout", "request.der"];
        office.openssl(&ask);
        office.openssl(&[
            "ocsp",
            "-index",
            "index.txt",
            "-CA",
            "ca.pem",
            "-rsigner",
            "ca.pem",
            "-rkey",
            "ca.key",
            "-ndays",
            "2",
            "-reqin",
            "request.der",
            "-respout",
            "response.der",
        ]);
        office.read("response.der")
    }

    pub fn issue(&self, name: &str, key: &PKey<Private>) -> Identity {
        let (certificate, key) = self.issue_pem(name, key);
        Identity::from_pem(&certificate, &key).unwrap()
    }
}

fn build(name: &str, key: &PKey<Private>, dns: &[&str], issuer: Option<&Authority>, signs: bool) -> X509 {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    let subject = subject.build();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::ONE, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&subject, |issuer| issuer.certificate.subject_name())).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    if signs {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    let mut names = SubjectAlternativeName::new();
    for name in dns {
        names.dns(name);
    }
    let names = names
        .ip("127.0.0.1")
        .uri(&format!("urn:example:{name}"))
        .email(&format!("{name}@example.org"))
        .build(&builder.x509v3_context(None, None))
        .unwrap();
    builder.append_extension(names).unwrap();
    let signer = issuer.map_or(key, |issuer| &issuer.key);
    let digest = match signer.id() {
        openssl::pkey::Id::ED25519 => MessageDigest::null(),
        _ => MessageDigest::sha256(),
    };
    builder.sign(signer, digest).unwrap();
    builder.build()
}

/// The folder that `openssl ca` and `openssl ocsp` work in; removed when dropped.
struct Office(PathBuf);

impl Office {
    /// The certificates are in PEM.
    fn open(authority: &Authority, revoked: &[Vec<u8>], valid: &[Vec<u8>]) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("office-{}-{number}", std::process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let line = |certificate: &Vec<u8>, revoked: bool| {
            let certificate = X509::from_pem(certificate).unwrap();
            let serial = certificate.serial_number().to_bn().unwrap().to_hex_str().unwrap().to_string();
            let (state, when) = if revoked { ("R", "260101000000Z") } else { ("V", "") };
            format!("{state}\t491231235959Z\t{when}\t{serial}\tunknown\t/CN=x\n")
        };
        let lines = revoked.iter().map(|one| line(one, true)).chain(valid.iter().map(|one| line(one, false)));
        let write = |name: &str, content: &[u8]| std::fs::write(folder.join(name), content).unwrap();
        write("index.txt", lines.collect::<String>().as_bytes());
        write("ca.pem", &authority.pem());
        write("ca.key", &authority.key.private_key_to_pem_pkcs8().unwrap());
        write(
            "ca.conf",
            b"[ca]\ndefault_ca=one\n[one]\ndatabase=index.txt\ncertificate=ca.pem\nprivate_key=ca.key\n\
              default_md=sha256\ndefault_crl_days=2\n",
        );
        Self(folder)
    }

    fn openssl(&self, arguments: &[&str]) {
        let run = Command::new("openssl").args(arguments).current_dir(&self.0).output().unwrap();
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap()
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
