//! The credentials of servers: names, protocols, revoked certificates, authorisation, OCSP, exported keys.

#[path = "support/s_client.rs"]
mod s_client;
mod support;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use peeloff::{
    Client, ClientAuth, ConnectError, Credentials, EndKind, EndReason, Error, Identity, Peer, PeerIdentity,
    RevocationList, Server,
};
use peeloff_certificates::{Authority, p256};
use s_client::s_client;
use support::{DEADLINE, echo, exchange, quiet_panic, until};

const BOTH: [&str; 2] = ["dtls://127.0.0.1:0", "tls://127.0.0.1:0"];

/// A server; dropping it shuts it down.
struct Running(Server);

impl Running {
    fn start(url: &str, credentials: Credentials) -> Self {
        Self::with(url, credentials, echo)
    }

    fn with(url: &str, credentials: Credentials, handler: impl peeloff::PeerHandler) -> Self {
        let builder = Server::builder().listen(url).credentials(credentials);
        Self(builder.start(handler).unwrap())
    }

    fn connect(&self, client: &Client) -> Result<Peer, ConnectError> {
        client.connect(&self.0.addresses()[0])
    }

    fn ended(&self, kind: EndKind) -> u64 {
        self.0.handle().stats().ended(kind)
    }

    fn s_client(&self, arguments: &[&str]) -> String {
        s_client(&self.0.addresses()[0], arguments, "hello")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.handle().shutdown(DEADLINE);
    }
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()))
}

/// Returns the common name of the certificate that a client received.
fn shown(peer: &Peer) -> String {
    match peer.identity() {
        PeerIdentity::Certificate(certificate) => certificate.common_name.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Returns whether the association ends before an answer arrives.
fn is_turned_away(connected: Result<Peer, ConnectError>) -> bool {
    let Ok(mut peer) = connected else { return true };
    let mut buffer = [0; 64];
    peer.send(b"hello").is_err() || !matches!(peer.recv_timeout(&mut buffer, DEADLINE), Ok(Some(_)))
}

#[test]
fn each_name_gets_its_certificate_and_other_names_the_first() {
    let authority = Authority::new();
    for url in BOTH {
        let names = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&names);
        let handler = move |peer: &mut Peer| {
            heard.lock().unwrap().push(peer.server_name().map(str::to_owned));
            echo(peer)
        };
        let credentials = Credentials::new()
            .identity(authority.issue_for("first", &["localhost", "a.example.org"]))
            .identity(authority.issue_for("second", &["b.example.org"]))
            .identity(authority.issue_for("wild", &["*.wild.example.org", "b.example.org"]));
        let running = Running::with(url, credentials, handler);
        for (name, wanted) in [
            ("a.example.org", "first"),
            ("b.example.org", "second"),
            ("B.Example.ORG", "second"),
            ("x.wild.example.org", "wild"),
            ("localhost", "first"),
        ] {
            let client = Client::builder().ca(authority.bundle()).server_name(name);
            let mut peer = running.connect(&client).unwrap();
            assert_eq!(shown(&peer), wanted, "{url} {name}");
            exchange(&mut peer, b"hello");
        }
        // A wildcard does not match an additional label, and a client without a name gets the first certificate.
        for name in ["x.y.wild.example.org", "elsewhere.example.org"] {
            let client = Client::builder().ca(authority.bundle()).server_name(name);
            let refused = running.connect(&client).unwrap_err();
            assert!(matches!(refused, ConnectError::Unverified { .. }), "{url} {name}: {refused}");
        }
        assert_eq!(names.lock().unwrap()[1].as_deref(), Some("b.example.org"), "{url}");
        let seen = running.s_client(&["-servername", "b.example.org"]);
        assert!(seen.contains("CN = second"), "{seen}");
    }
}

#[test]
fn a_protocol_is_agreed_on_or_the_client_is_refused() {
    let authority = Authority::new();
    for url in BOTH {
        let identity = authority.issue("server", &p256());
        let running = Running::start(url, Credentials::new().identity(identity).alpn(&["chat/2", "chat/1"]));
        let client = Client::builder().ca(authority.bundle());
        let peer = running.connect(&client.clone().alpn(&["chat/1", "chat/2"])).unwrap();
        assert_eq!(peer.alpn(), Some("chat/2"), "{url}");
        let mut silent = running.connect(&client).unwrap();
        assert_eq!(silent.alpn(), None, "{url}");
        exchange(&mut silent, b"hello");
        assert!(is_turned_away(running.connect(&client.alpn(&["h2"]))), "{url}");
        // A DTLS client sends its hello again, with a cookie that is still valid.
        until("it is counted", || (running.ended(EndKind::HandshakeFailed) >= 1).then_some(()));
        let seen = running.s_client(&["-alpn", "chat/1"]);
        assert!(seen.contains("ALPN protocol: chat/1"), "{seen}");
    }
}

#[test]
fn revoked_certificates_are_refused() {
    let authority = Authority::new();
    let (good, bad) = (authority.issue("good", &p256()), authority.issue("bad", &p256()));
    let list = RevocationList::from_bytes(&authority.revoke(&[&bad])).unwrap();
    for url in BOTH {
        let credentials = Credentials::new()
            .identity(authority.issue("server", &p256()))
            .client_auth(ClientAuth::Required(authority.bundle()))
            .revoked(list.clone());
        let running = Running::start(url, credentials);
        let client = Client::builder().ca(authority.bundle());
        exchange(&mut running.connect(&client.clone().identity(good.clone())).unwrap(), b"hello");
        assert!(is_turned_away(running.connect(&client.identity(bad.clone()))), "{url}");
        until("it is counted", || (running.ended(EndKind::HandshakeFailed) >= 1).then_some(()));
    }
}

#[test]
fn an_unauthorized_peer_is_told_so_before_the_handler_sees_it() {
    let authority = Authority::new();
    for url in BOTH {
        let served = Arc::new(Mutex::new(0));
        let count = Arc::clone(&served);
        let handler = move |peer: &mut Peer| -> Result<(), Error> {
            *count.lock().unwrap() += 1;
            echo(peer)
        };
        let credentials = Credentials::new()
            .identity(authority.issue("server", &p256()))
            .client_auth(ClientAuth::Optional(authority.bundle()))
            .authorize(|peer| match peer {
                PeerIdentity::Certificate(certificate) => {
                    assert_eq!(
                        certificate.subject,
                        format!("CN={}", certificate.common_name.as_ref().unwrap())
                    );
                    assert_eq!(certificate.ip_addresses, ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
                    assert!(certificate.emails[0].ends_with("@example.org"));
                    certificate.uris.contains(&"urn:example:alice".to_owned())
                        && certificate.dns_names.contains(&"localhost".to_owned())
                }
                _ => false,
            });
        let running = Running::with(url, credentials, handler);
        let client = Client::builder().ca(authority.bundle());
        let alice = authority.issue("alice", &p256());
        let mut peer = running.connect(&client.clone().identity(alice)).unwrap();
        exchange(&mut peer, b"hello");
        assert!(is_turned_away(running.connect(&client.clone().identity(authority.issue("bob", &p256())))));
        assert!(is_turned_away(running.connect(&client)));
        until("they are counted", || (running.ended(EndKind::NotAuthorized) == 2).then_some(()));
        assert_eq!(*served.lock().unwrap(), 1, "{url}");
    }
}

#[test]
fn an_authorization_callback_that_panics_refuses_the_peer() {
    let authority = Authority::new();
    let credentials =
        Credentials::new().identity(authority.issue("server", &p256())).authorize(|_| quiet_panic());
    let running = Running::start(BOTH[1], credentials);
    assert!(is_turned_away(running.connect(&Client::builder().ca(authority.bundle()))));
    until("it is counted", || (running.ended(EndKind::NotAuthorized) == 1).then_some(()));
}

#[test]
fn an_ocsp_response_is_stapled_for_clients_that_request_it() {
    let authority = Authority::new();
    let identity = authority.issue("server", &p256());
    let response = authority.ocsp_response(&identity);
    let identity = identity.with_ocsp_response(&response).unwrap();
    for url in BOTH {
        let running = Running::start(url, Credentials::new().identity(identity.clone()));
        let seen = running.s_client(&["-status"]);
        assert!(seen.contains("OCSP Response Status: successful"), "{url}: {seen}");
        assert!(seen.contains("Cert Status: good"), "{url}: {seen}");
        let seen = running.s_client(&[]);
        assert!(!seen.contains("OCSP Response Status"), "{url}: {seen}");
    }
    let refused = identity.with_ocsp_response(b"junk").unwrap_err().to_string();
    assert!(refused.contains("openssl ocsp"), "{refused}");
}

#[test]
fn both_sides_derive_the_same_keys() {
    let authority = Authority::new();
    for url in BOTH {
        let (keys, found) = std::sync::mpsc::channel();
        let keys = Mutex::new(keys);
        let handler = move |peer: &mut Peer| {
            let mut key = [0; 60];
            peer.export_keying_material("EXTRACTOR-dtls_srtp", None, &mut key)?;
            keys.lock().unwrap().send((key, peer.srtp_profile().map(str::to_owned))).unwrap();
            echo(peer)
        };
        let credentials = Credentials::new()
            .identity(authority.issue("server", &p256()))
            .srtp_profiles("SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80");
        let running = Running::with(url, credentials, handler);
        let client = Client::builder().ca(authority.bundle()).srtp_profiles("SRTP_AES128_CM_SHA1_80");
        let peer = running.connect(&client).unwrap();
        let (theirs, profile) = found.recv_timeout(DEADLINE).unwrap();
        let mut ours = [0; 60];
        peer.export_keying_material("EXTRACTOR-dtls_srtp", None, &mut ours).unwrap();
        assert_eq!(ours, theirs, "{url}");
        peer.export_keying_material("EXPORTER-other", Some(b"context"), &mut ours).unwrap();
        assert_ne!(ours, theirs, "{url}");
        let wanted = url.starts_with("dtls").then_some("SRTP_AES128_CM_SHA1_80");
        assert_eq!((peer.srtp_profile(), profile.as_deref()), (wanted, wanted), "{url}");
        if url.starts_with("dtls") {
            let seen = running.s_client(&["-use_srtp", "SRTP_AEAD_AES_128_GCM"]);
            assert!(seen.contains("SRTP_AEAD_AES_128_GCM"), "{seen}");
        }
    }
    let running = Running::start("udp://127.0.0.1:0", Credentials::new());
    let peer = running.connect(&Client::builder()).unwrap();
    let refused = peer.export_keying_material("EXPORTER-x", None, &mut [0; 8]).unwrap_err();
    assert!(matches!(refused, Error::NotSecure));
}

#[test]
fn a_dtls_session_keeps_its_master_secret_only_where_that_was_asked_for() {
    let authority = Authority::new();
    let outcomes = |url: &str, server: bool, client: bool| {
        let (tell, told) = std::sync::mpsc::channel();
        let tell = Mutex::new(tell);
        let handler = move |peer: &mut Peer| {
            let mut key = [0; 8];
            let outcome = peer.export_keying_material("EXPORTER-x", None, &mut key).map(|()| key);
            tell.lock().unwrap().send(outcome.map_err(|error| error.to_string())).unwrap();
            echo(peer)
        };
        let credentials = Credentials::new().identity(authority.issue("server", &p256())).exporters(server);
        let running = Running::with(url, credentials, handler);
        let client = Client::builder().ca(authority.bundle()).exporters(client);
        let peer = running.connect(&client).unwrap();
        let mut key = [0; 8];
        let ours = peer.export_keying_material("EXPORTER-x", None, &mut key).map(|()| key);
        let refused = peer.export_keying_material("key expansion", None, &mut [0; 8]);
        (told.recv_timeout(DEADLINE).unwrap(), ours, refused)
    };
    let (theirs, ours, _) = outcomes("dtls://127.0.0.1:0", false, true);
    assert!(theirs.unwrap_err().contains("`exporters`") && ours.is_ok());
    let (theirs, ours, _) = outcomes("dtls://127.0.0.1:0", true, false);
    assert!(theirs.is_ok() && matches!(ours, Err(Error::NoExporters)));
    let (theirs, ours, refused) = outcomes("dtls://127.0.0.1:0", true, true);
    assert_eq!(theirs.unwrap(), ours.unwrap());
    assert!(matches!(refused, Err(Error::BadExport)), "{refused:?}");
    // These use OpenSSL's own exporter.
    let (theirs, ours, _) = outcomes("tls://127.0.0.1:0", false, false);
    assert_eq!(theirs.unwrap(), ours.unwrap());
}

#[test]
fn secrets_are_logged_only_where_that_was_asked_for() {
    let identity = Identity::self_signed().unwrap();
    let client = Client::builder().danger_accept_any_certificate();
    let log = file("keys.log");
    let _ = std::fs::remove_file(&log);
    for url in BOTH {
        let quiet = Running::start(url, Credentials::new().identity(identity.clone()));
        exchange(&mut quiet.connect(&client).unwrap(), b"hello");
        assert!(!log.exists());
    }
    for (url, label) in BOTH.into_iter().zip(["CLIENT_RANDOM ", "CLIENT_TRAFFIC_SECRET_0 "]) {
        let credentials = Credentials::new().identity(identity.clone()).danger_key_log(&log);
        let running = Running::start(url, credentials);
        exchange(&mut running.connect(&client).unwrap(), b"hello");
        let written = std::fs::read_to_string(&log).unwrap();
        assert!(written.lines().any(|line| line.starts_with(label)), "{url}: {written}");
    }
    std::fs::remove_file(&log).unwrap();
    let credentials = Credentials::new().identity(identity).danger_key_log(log.join("no/such/folder"));
    let builder = Server::builder().listen(BOTH[1]).credentials(credentials);
    assert!(builder.start(echo).unwrap_err().to_string().starts_with("cannot write "));
}

#[test]
fn files_that_are_of_no_use_are_named() {
    let missing = RevocationList::from_file("/no/such/list.pem").unwrap_err().to_string();
    assert!(missing.contains("/no/such/list.pem"), "{missing}");
    let junk = file("junk.pem");
    std::fs::write(&junk, b"-----BEGIN X509 CRL-----\nnothing\n-----END X509 CRL-----\n").unwrap();
    for error in [
        RevocationList::from_file(&junk).unwrap_err().to_string(),
        Identity::self_signed().unwrap().with_ocsp_file(&junk).unwrap_err().to_string(),
        peeloff::SharedKeys::from_file(&junk).unwrap_err().to_string(),
    ] {
        assert!(error.contains(junk.to_str().unwrap()), "{error}");
    }
    std::fs::remove_file(junk).unwrap();
}

#[test]
fn the_end_of_an_unauthorized_client_has_a_reason() {
    let authority = Authority::new();
    let credentials = Credentials::new().identity(authority.issue("server", &p256())).authorize(|_| false);
    for url in BOTH {
        let running = Running::start(url, credentials.clone());
        let mut peer = running.connect(&Client::builder().ca(authority.bundle())).unwrap();
        let ended = peer.recv_timeout(&mut [0; 8], DEADLINE);
        // OpenSSL has no function to send this alert over TLS.
        if url.starts_with("dtls") {
            let error = ended.unwrap_err().to_string();
            assert!(error.ends_with("the peer sent alert 49 (access_denied)"), "{error}");
        } else {
            assert_eq!((ended.unwrap(), peer.end_reason()), (None, Some(&EndReason::ClosedByPeer)));
        }
    }
}
