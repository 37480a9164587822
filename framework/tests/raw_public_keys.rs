//! Keys without certificates (RFC 7250), with an OpenSSL that supports them: scripts/test runs this program again
//! with one.

#[path = "support/s_client.rs"]
mod s_client;
mod support;

use std::path::PathBuf;

use peeloff::{
    Client, ClientAuth, ConnectError, Credentials, Identity, IdentityError, Peer, PeerIdentity, PublicKey,
    Server, StartError,
};
use peeloff_certificates::{Authority, p256};
use support::{DEADLINE, echo, exchange, until};

const BOTH: [&str; 2] = ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"];

fn start(url: &str, credentials: Credentials) -> Result<Server, StartError> {
    Server::builder().listen(url).credentials(credentials).start(echo)
}

fn is_served(connected: Result<Peer, ConnectError>) -> bool {
    connected.is_ok_and(|mut peer| {
        peer.send(b"hello").is_ok() && matches!(peer.recv_timeout(&mut [0; 8], DEADLINE), Ok(Some(5)))
    })
}

#[test]
fn an_openssl_without_raw_public_keys_says_so() {
    let identity = Identity::self_signed().unwrap();
    let key = PublicKey::of(&identity).unwrap();
    for url in BOTH {
        let started = start(url, Credentials::new().identity(identity.clone()).raw_public_keys(&[]));
        if cfg!(raw_public_keys) {
            started.unwrap().handle().shutdown(DEADLINE);
            continue;
        }
        let refused = started.unwrap_err();
        assert!(matches!(refused, StartError::Identity(IdentityError::NoRawPublicKeys)));
        assert!(refused.to_string().contains("version 3.2"), "{refused}");
        let server = start(url, Credentials::new().identity(identity.clone())).unwrap();
        let client = Client::builder().raw_public_key(key.clone());
        let refused = client.connect(&server.addresses()[0]).unwrap_err();
        assert!(matches!(refused, ConnectError::Identity(IdentityError::NoRawPublicKeys)), "{refused}");
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
#[cfg_attr(not(raw_public_keys), ignore = "needs OpenSSL 3.2; scripts/test runs it with one")]
fn each_side_knows_the_other_by_its_key() {
    let authority = Authority::new();
    let [ours, theirs, strange] = [0; 3].map(|_| Identity::self_signed().unwrap());
    let key = |identity: &Identity| PublicKey::of(identity).unwrap();
    for url in BOTH {
        let credentials = Credentials::new().identity(ours.clone()).raw_public_keys(&[key(&theirs)]);
        let server = start(url, credentials.client_auth(ClientAuth::Required(authority.bundle()))).unwrap();
        let address = &server.addresses()[0];
        let client = Client::builder().raw_public_key(key(&ours));
        let known = client.clone().identity(theirs.clone());
        for resumed in [false, true] {
            let mut peer = known.connect(address).unwrap();
            assert_eq!(peer.is_resumed(), resumed, "{url}");
            assert!(matches!(peer.identity(), PeerIdentity::RawPublicKey(_)), "{url}: {:?}", peer.identity());
            exchange(&mut peer, b"hello");
            peer.close();
        }
        // Refused are another key, no key, and a server with another key than the expected one.
        assert!(!is_served(client.clone().identity(strange.clone()).connect(address)), "{url}");
        assert!(!is_served(client.connect(address)), "{url}");
        let misled = Client::builder().raw_public_key(key(&strange)).identity(theirs.clone());
        assert!(!is_served(misled.connect(address)), "{url}");
        // A certificate of the authority is accepted as well.
        let certified = authority.issue("client", &p256());
        let mut both =
            Client::builder().danger_accept_any_certificate().identity(certified).connect(address).unwrap();
        exchange(&mut both, b"hello");
        until("the refused are gone", || (server.handle().stats().peers <= 1).then_some(()));
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
#[cfg_attr(not(raw_public_keys), ignore = "needs OpenSSL 3.2; scripts/test runs it with one")]
fn openssls_client_gets_the_bare_key() {
    let identity = Identity::self_signed().unwrap();
    for url in BOTH {
        let credentials = Credentials::new().identity(identity.clone()).raw_public_keys(&[]);
        let server = start(url, credentials).unwrap();
        let seen = s_client::s_client(&server.addresses()[0], &["-enable_server_rpk"], "hello");
        assert!(seen.contains("Server-to-client raw public key negotiated"), "{url}: {seen}");
        let seen = s_client::s_client(&server.addresses()[0], &[], "hello");
        assert!(seen.contains("BEGIN CERTIFICATE"), "{url}: {seen}");
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn a_file_without_a_key_is_named() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-no.pem", std::process::id()));
    std::fs::write(&path, "nothing").unwrap();
    let error = PublicKey::from_file(&path).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()) && error.contains("-pubout"), "{error}");
    std::fs::remove_file(path).unwrap();
}

#[test]
#[cfg_attr(not(raw_public_keys), ignore = "needs OpenSSL 3.2; scripts/test runs it with one")]
fn a_certificate_around_the_key_is_not_the_key() {
    let identity = Identity::self_signed().unwrap();
    for url in BOTH {
        // This server does not offer bare keys.
        let server = start(url, Credentials::new().identity(identity.clone())).unwrap();
        let client = Client::builder().raw_public_key(PublicKey::of(&identity).unwrap());
        assert!(!is_served(client.connect(&server.addresses()[0])), "{url}");
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
#[cfg_attr(not(raw_public_keys), ignore = "needs OpenSSL 3.2; scripts/test runs it with one")]
fn a_key_that_was_taken_back_neither_comes_in_nor_resumes() {
    let [ours, alice, bob] = [0; 3].map(|_| Identity::self_signed().unwrap());
    let key = |identity: &Identity| PublicKey::of(identity).unwrap();
    for url in BOTH {
        let authority = Authority::new();
        let credentials = |known: &Identity| {
            Credentials::new()
                .identity(ours.clone())
                .client_auth(ClientAuth::Required(authority.bundle()))
                .raw_public_keys(&[key(known)])
        };
        let server = start(url, credentials(&alice)).unwrap();
        let client = |identity: &Identity| {
            Client::builder().raw_public_key(key(&ours)).identity(identity.clone()).timeout(DEADLINE)
        };
        let (alices, bobs) = (client(&alice), client(&bob));
        for resumed in 0..2 {
            assert!(is_served(alices.connect(&server.addresses()[0])), "{url}");
            assert_eq!(server.handle().stats().resumed, resumed, "{url}");
        }
        server.handle().reload(credentials(&bob)).unwrap();
        assert!(!is_served(alices.connect(&server.addresses()[0])), "{url}");
        assert!(is_served(bobs.connect(&server.addresses()[0])), "{url}");
        assert_eq!(server.handle().stats().resumed, 1, "{url}");
        server.handle().shutdown(DEADLINE);
    }
}
