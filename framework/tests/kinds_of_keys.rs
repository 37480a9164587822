//! The kinds of keys that a server accepts at its start, and whether OpenSSL's client can use them.

#[path = "support/s_client.rs"]
mod s_client;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use peeloff::{Credentials, Identity, IdentityError, Server, StartError};
use s_client::s_client;
use support::echo;

/// Runs `openssl` in this folder.
fn openssl(folder: &Path, arguments: &[&str]) {
    let run = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
}

/// Makes a temporary folder.
fn folder() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("kind-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Makes a self-signed certificate for a name, with a key that `openssl genpkey` makes with these arguments.
fn identity(name: &str, key: &[&str]) -> Identity {
    let folder = folder();
    if key[0] == "DSA" {
        let bits = ["-pkeyopt", "dsa_paramgen_bits:2048", "-out", "parameters"];
        openssl(&folder, &[&["genpkey", "-genparam", "-algorithm", "DSA"], &bits[..]].concat());
        openssl(&folder, &["genpkey", "-paramfile", "parameters", "-out", "key"]);
    } else {
        openssl(&folder, &[&["genpkey", "-out", "key", "-algorithm"], key].concat());
    }
    let (subject, names) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
    let ask = ["req", "-x509", "-new", "-key", "key", "-days", "2", "-out", "certificate", "-subj", &subject];
    openssl(&folder, &[&ask[..], &["-addext", &names]].concat());
    let identity = Identity::from_files(folder.join("certificate"), folder.join("key")).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    identity
}

fn start(url: &str, identities: Vec<Identity>) -> Result<Server, StartError> {
    let credentials = identities.into_iter().fold(Credentials::new(), Credentials::identity);
    Server::builder().listen(url).credentials(credentials).start(echo)
}

/// Returns the version that OpenSSL's client negotiates with the server, if the line comes back.
fn version(server: &Server, arguments: &[&str]) -> Option<String> {
    let seen = s_client(&server.addresses()[0], arguments, "hello over there");
    let came_back = seen.contains("\nhello over there\n");
    let line = seen.lines().find(|line| line.starts_with("New, ") || line.starts_with("Reused, "));
    let version = line.and_then(|line| line.split(", ").nth(1)).map(str::to_owned);
    version.filter(|_| came_back)
}

#[test]
fn a_server_starts_with_a_key_only_if_clients_can_use_it() {
    let curve = |curve: &'static str| ["EC", "-pkeyopt", curve];
    let bits = |bits: &'static str| ["RSA", "-pkeyopt", bits];
    let dtls_is_refused = |text| (Err(text), Ok("TLSv1.3"));
    let (both, old) = ((Ok("TLSv1.2"), Ok("TLSv1.3")), (Ok("TLSv1.2"), Ok("TLSv1.2")));
    let neither = |text| (Err(text), Err(text));
    type Expected = Result<&'static str, &'static str>;
    type Case<'a> = (&'a [&'a str], Option<&'a str>, (Expected, Expected));
    let cases: [Case<'_>; 12] = [
        (&bits("rsa_keygen_bits:2048"), None, both),
        (&curve("ec_paramgen_curve:P-384"), None, both),
        (&curve("ec_paramgen_curve:P-521"), None, both),
        (&["RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"], None, dtls_is_refused("RSA-PSS key")),
        (&["ED25519"], None, dtls_is_refused("Ed25519 key")),
        (&["ED448"], None, dtls_is_refused("Ed448 key")),
        (&curve("ec_paramgen_curve:secp256k1"), Some("secp256k1"), old),
        (&curve("ec_paramgen_curve:brainpoolP256r1"), Some("brainpoolP256r1"), old),
        (&curve("ec_paramgen_curve:secp224r1"), Some("P-224"), old),
        (&["DSA"], None, neither("DSA key")),
        (&curve("ec_paramgen_curve:SM2"), None, neither("key of another kind")),
        (&bits("rsa_keygen_bits:512"), None, neither("RSA key of 512 bits")),
    ];
    for (key, groups, (dtls, tls)) in cases {
        let identity = identity("localhost", key);
        for (url, name, expected) in
            [("dtls://127.0.0.1:0", "DTLS 1.2", dtls), ("tls://127.0.0.1:0", "TLS", tls)]
        {
            match (start(url, vec![identity.clone()]), expected) {
                (Ok(server), Ok(newest)) => {
                    // The client offers all versions, and the key's curve if it does not by default.
                    let groups = groups.map(|group| format!("{group}:P-256:X25519"));
                    let groups: Vec<&str> = groups.iter().flat_map(|groups| ["-groups", groups]).collect();
                    let version = version(&server, &groups);
                    assert_eq!(version.as_deref(), Some(newest), "{url} {key:?}");
                    server.handle().shutdown(Duration::ZERO);
                }
                (Err(StartError::Identity(error @ IdentityError::UnusableKey { .. })), Err(kind)) => {
                    let text = error.to_string();
                    assert!(text.contains(kind), "{text}");
                    let begin = format!("OpenSSL cannot serve {name} with the ");
                    assert!(text.starts_with(&begin) && text.contains(" of CN=localhost ("), "{text}");
                    assert!(text.contains("use an ECDSA key on the curve P-256 or an RSA key"), "{text}");
                }
                (started, _) => panic!("{url} {key:?}: {:?}", started.map(|_| "started")),
            }
        }
    }
}

#[test]
fn each_name_has_the_newest_version_that_its_certificate_can_be_used_with() {
    let url = "tls://127.0.0.1:0";
    let old = || identity("old.test", &["EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"]);
    let new = || identity("new.test", &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    for identities in [vec![old(), new()], vec![new(), old()]] {
        let server = start(url, identities).unwrap();
        for (name, newest) in [("old.test", "TLSv1.2"), ("new.test", "TLSv1.3")] {
            let arguments = ["-groups", "secp256k1:P-256", "-servername", name];
            assert_eq!(version(&server, &arguments).as_deref(), Some(newest), "{name}");
        }
        server.handle().shutdown(Duration::ZERO);
    }
}

#[test]
fn a_chain_with_an_authority_that_is_too_weak_is_refused_at_the_start() {
    let folder = folder();
    let p256 = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "leaf.key"];
    openssl(&folder, &p256);
    openssl(&folder, &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:512", "-out", "ca.key"]);
    openssl(
        &folder,
        &["req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=weak", "-days", "2", "-out", "ca"],
    );
    openssl(&folder, &["req", "-new", "-key", "leaf.key", "-subj", "/CN=leaf", "-out", "request"]);
    let sign =
        ["x509", "-req", "-in", "request", "-CA", "ca", "-CAkey", "ca.key", "-days", "2", "-out", "leaf"];
    openssl(&folder, &sign);
    let chain = ["leaf", "ca"].map(|file| std::fs::read(folder.join(file)).unwrap()).concat();
    let identity = Identity::from_pem(&chain, &std::fs::read(folder.join("leaf.key")).unwrap()).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    for url in ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"] {
        let error = start(url, vec![identity.clone()]).err().unwrap().to_string();
        assert!(error.contains("of CN=leaf (ca key too small)"), "{error}");
    }
}
