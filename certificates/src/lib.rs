//! Makes certificates, keys and revocation lists for tests, new ones each time. An [`Authority`] issues them,
//! also through intermediate authorities. Use them in tests only: keys are exported unencrypted, and failures
//! panic.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use peeloff::{CaBundle, Identity};

/// The validity of certificates in days, unless the test sets another one.
const DAYS: u32 = 60;

/// Makes an ECDSA key on P-256.
pub fn p256() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// Makes an RSA key of this many bits.
pub fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

/// Makes an Ed25519 key.
pub fn ed25519() -> PKey<Private> {
    PKey::generate_ed25519().unwrap()
}

/// A certificate for a name, with its ECDSA key.
pub struct Certificate {
    x509: X509,
    key: PKey<Private>,
}

impl Certificate {
    /// Makes a self-signed certificate that cannot sign others.
    pub fn self_signed(name: &str) -> Self {
        let key = p256();
        Self { x509: build(name, &key, Names::default(), None, false, DAYS), key }
    }

    /// Returns the certificate in PEM.
    pub fn pem(&self) -> Vec<u8> {
        self.x509.to_pem().unwrap()
    }

    /// Returns the key in PEM (PKCS #8), unencrypted.
    pub fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }

    /// Returns the certificate and the key for a server or a client.
    pub fn identity(&self) -> Identity {
        Identity::from_pem(&self.pem(), &self.key_pem()).unwrap()
    }

    /// Returns the certificate in OpenSSL's type.
    pub fn x509(&self) -> &X509 {
        &self.x509
    }

    /// Returns the key in OpenSSL's type.
    pub fn key(&self) -> &PKey<Private> {
        &self.key
    }
}

/// An authority that issues certificates.
pub struct Authority {
    own: Certificate,
    /// The authority's own certificate and the intermediate ones up to the root, which peers need with a
    /// certificate.
    chain: Vec<X509>,
    /// The validity of the certificates that it issues, in days.
    days: u32,
}

impl Authority {
    /// Makes a root authority.
    pub fn new() -> Self {
        Self::named("authority")
    }

    /// Makes a root authority with this common name.
    pub fn named(name: &str) -> Self {
        Self::valid_for(name, DAYS)
    }

    /// Makes a root authority that is valid for this many days, as are the certificates that it issues.
    pub fn valid_for(name: &str, days: u32) -> Self {
        let key = p256();
        let names = Names { dns: &["localhost"], ..Names::default() };
        let own = Certificate { x509: build(name, &key, names, None, true, days), key };
        Self { own, chain: Vec::new(), days }
    }

    /// Makes an intermediate authority below this one.
    pub fn below(&self, name: &str) -> Self {
        let key = p256();
        let x509 = build(name, &key, Names::default(), Some(&self.own), true, self.days);
        let chain = std::iter::once(x509.clone()).chain(self.chain.clone()).collect();
        Self { own: Certificate { x509, key }, chain, days: self.days }
    }

    /// Returns the authority's certificate as a trusted one.
    pub fn bundle(&self) -> CaBundle {
        CaBundle::from_pem(&self.pem()).unwrap()
    }

    /// Returns the authority's certificate in PEM.
    pub fn pem(&self) -> Vec<u8> {
        self.own.pem()
    }

    /// Returns the authority's key in PEM (PKCS #8), unencrypted.
    pub fn key_pem(&self) -> Vec<u8> {
        self.own.key_pem()
    }

    /// Issues a certificate with a key of its own. Its names are its common name, as a DNS name, and 127.0.0.1.
    pub fn certificate(&self, name: &str) -> Certificate {
        let key = p256();
        let names = Names { dns: &[name], loopback: true, ..Names::default() };
        Certificate { x509: build(name, &key, names, Some(&self.own), false, self.days), key }
    }

    /// Issues a certificate in this name, for localhost, 127.0.0.1, a URI and an e-mail address.
    pub fn issue(&self, name: &str, key: &PKey<Private>) -> Identity {
        let (certificate, key) = self.issue_pem(name, key);
        Identity::from_pem(&certificate, &key).unwrap()
    }

    /// Issues the same kind of certificate for other DNS names, with a key of its own.
    pub fn issue_for(&self, name: &str, dns: &[&str]) -> Identity {
        let (certificate, key) = self.issue_pem_for(name, &p256(), dns);
        Identity::from_pem(&certificate, &key).unwrap()
    }

    /// Issues the same certificate as [`issue`](Self::issue). Returns it with the intermediate certificates, and
    /// the key, both in PEM.
    pub fn issue_pem(&self, name: &str, key: &PKey<Private>) -> (Vec<u8>, Vec<u8>) {
        self.issue_pem_for(name, key, &["localhost"])
    }

    fn issue_pem_for(&self, name: &str, key: &PKey<Private>, dns: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let names = Names { dns, loopback: true, contacts: true };
        let leaf = build(name, key, names, Some(&self.own), false, self.days);
        let chain = std::iter::once(&leaf).chain(&self.chain);
        let chain = chain.flat_map(|certificate| certificate.to_pem().unwrap()).collect();
        (chain, key.private_key_to_pem_pkcs8().unwrap())
    }

    /// Returns a list that revokes these certificates, in PEM.
    pub fn revoke(&self, revoked: &[&Identity]) -> Vec<u8> {
        let revoked: Vec<_> = revoked.iter().map(|identity| identity.certificate_pem()).collect();
        self.list(&revoked, &[])
    }

    /// Returns a list that revokes an authority's certificate, in PEM.
    pub fn revoke_authority(&self, revoked: &Self) -> Vec<u8> {
        self.list(&[revoked.pem()], &[])
    }

    /// Returns an empty list that was valid for a day of the year 2025.
    pub fn old_list(&self) -> Vec<u8> {
        self.list(&[], &["-crl_lastupdate", "20250101000000Z", "-crl_nextupdate", "20250102000000Z"])
    }

    fn list(&self, revoked: &[Vec<u8>], more: &[&str]) -> Vec<u8> {
        let office = Office::open(self, revoked, &[]);
        office.openssl(&[&["ca", "-config", "ca.conf", "-gencrl", "-out", "list.pem"], more].concat());
        office.read("list.pem")
    }

    /// Runs `openssl verify -crl_check_all` on a chain from this root with these lists. Returns its first error,
    /// or none if the chain verifies.
    pub fn openssl_objects(&self, chain: &[u8], lists: &[u8]) -> Option<String> {
        let office = Office::open(self, &[], &[]);
        fs::write(office.0.join("chain.pem"), chain).unwrap();
        fs::write(office.0.join("lists.pem"), lists).unwrap();
        let ask = ["verify", "-crl_check_all", "-CAfile", "ca.pem", "-CRLfile", "lists.pem"];
        let of = ["-untrusted", "chain.pem", "chain.pem"];
        let run = Command::new("openssl").args(ask).args(of).current_dir(&office.0).output().unwrap();
        let text = String::from_utf8(run.stderr).unwrap();
        let error = text.lines().find(|line| line.starts_with("error "));
        assert_eq!(error.is_none(), run.status.success(), "{text}");
        error.map(|error| error.rsplit_once("lookup: ").unwrap().1.to_owned())
    }

    /// Makes an OCSP response with `openssl ocsp` that says that this certificate is good, in DER.
    pub fn ocsp_response(&self, identity: &Identity) -> Vec<u8> {
        let office = Office::open(self, &[], &[identity.certificate_pem()]);
        fs::write(office.0.join("leaf.pem"), identity.certificate_pem()).unwrap();
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
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// The alternative names of a certificate.
#[derive(Clone, Copy, Default)]
struct Names<'a> {
    dns: &'a [&'a str],
    /// Whether the names include 127.0.0.1.
    loopback: bool,
    /// Whether the names include a URI and an e-mail address that contain the common name.
    contacts: bool,
}

fn build(
    name: &str,
    key: &PKey<Private>,
    names: Names<'_>,
    issuer: Option<&Certificate>,
    signs: bool,
    days: u32,
) -> X509 {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    let subject = subject.build();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::ONE, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&subject, |issuer| issuer.x509.subject_name())).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(days).unwrap()).unwrap();
    if signs {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    let mut alternatives = SubjectAlternativeName::new();
    for name in names.dns {
        alternatives.dns(name);
    }
    if names.loopback {
        alternatives.ip("127.0.0.1");
    }
    if names.contacts {
        alternatives.uri(&format!("urn:example:{name}")).email(&format!("{name}@example.org"));
    }
    if !names.dns.is_empty() || names.loopback {
        let alternatives = alternatives.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(alternatives).unwrap();
    }
    let signer = issuer.map_or(key, |issuer| &issuer.key);
    let digest = match signer.id() {
        Id::ED25519 => MessageDigest::null(),
        _ => MessageDigest::sha256(),
    };
    builder.sign(signer, digest).unwrap();
    builder.build()
}

/// A folder in which `openssl ca` and `openssl ocsp` work. Dropping this value removes it.
struct Office(PathBuf);

impl Office {
    /// Makes the folder. The certificates are in PEM.
    fn open(authority: &Authority, revoked: &[Vec<u8>], valid: &[Vec<u8>]) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("peeloff-office-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let line = |certificate: &Vec<u8>, revoked: bool| {
            let certificate = X509::from_pem(certificate).unwrap();
            let serial = certificate.serial_number().to_bn().unwrap().to_hex_str().unwrap().to_string();
            let (state, when) = if revoked { ("R", "260101000000Z") } else { ("V", "") };
            format!("{state}\t491231235959Z\t{when}\t{serial}\tunknown\t/CN=x\n")
        };
        let lines = revoked.iter().map(|one| line(one, true)).chain(valid.iter().map(|one| line(one, false)));
        let write = |name: &str, content: &[u8]| fs::write(folder.join(name), content).unwrap();
        write("index.txt", lines.collect::<String>().as_bytes());
        write("ca.pem", &authority.pem());
        write("ca.key", &authority.key_pem());
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
        fs::read(self.0.join(name)).unwrap()
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
