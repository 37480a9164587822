//! The credentials of servers: several certificates, reloads, authorisation, protocols, shared keys.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use peeloff_certificates::Authority;
use support::{Directory, ECHO, NC, Program, run, start_echo};

/// An authority, and the files of certificates that it has issued.
struct Issuer {
    authority: Authority,
    files: Directory,
}

impl Issuer {
    fn new(test: &str) -> Self {
        let issuer = Self { authority: Authority::named("test authority"), files: Directory::new(test) };
        issuer.files.file("ca.pem", issuer.authority.pem());
        issuer
    }

    fn ca(&self) -> String {
        self.files.path("ca.pem")
    }

    /// Writes a list that revokes these certificates, and returns its path.
    fn revoke(&self, file: &str, certificates: &[&str]) -> String {
        let folder = |name: &str| self.files.path(name);
        self.files.file("ca.key", self.authority.key_pem());
        self.files.file("index.txt", "");
        let config = format!(
            "[ca]\ndefault_ca=one\n[one]\ndatabase={}\ncertificate={}\nprivate_key={}\ndefault_md=sha256\n\
             default_crl_days=2\n",
            folder("index.txt"),
            folder("ca.pem"),
            folder("ca.key"),
        );
        let (config, list) = (self.files.file("ca.conf", config), folder(file));
        let revoke = certificates.iter().map(|certificate| vec!["-revoke", *certificate]);
        for what in revoke.chain([vec!["-gencrl", "-out", list.as_str()]]) {
            let run = Command::new("openssl").args(["ca", "-config", &config]).args(&what).output().unwrap();
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        }
        list
    }

    /// Issues a certificate for a name, and returns the paths of it and of its key.
    fn issue(&self, name: &str) -> (String, String) {
        let certificate = self.authority.certificate(name);
        let cert = self.files.file(&format!("{name}.pem"), certificate.pem());
        (cert, self.files.file(&format!("{name}.key"), certificate.key_pem()))
    }
}

#[test]
fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let issuer = Issuer::new("credentials-sni");
    let ((one, one_key), (two, two_key)) = (issuer.issue("one.example"), issuer.issue("two.example"));
    for listen in ["tls://127.0.0.1:0", "dtls://127.0.0.1:0"] {
        let both = ["--cert", &one, "--key", &one_key, "--cert", &two, "--key", &two_key];
        let (_server, address) = start_echo(&[&["--listen", listen], &both[..]].concat());
        let ca = issuer.ca();
        for name in ["one.example", "two.example"] {
            let ended = run(NC, &["--ca", &ca, "--server-name", name, &address], "x\n");
            assert_eq!(ended.stdout, "x\n", "{listen} {name}: {ended:?}");
        }
        let other = ["--ca", &ca, "--server-name", "three.example", &address];
        run(NC, &other, "").failed_with("peeloff-nc", 3, "does not verify");
    }
}

#[test]
fn sighup_takes_a_new_certificate_and_leaves_peers_alone() {
    let (old, new) = (Issuer::new("credentials-old"), Issuer::new("credentials-new"));
    let (cert, key) = old.issue("server.example");
    for listen in ["tls://127.0.0.1:0", "dtls://127.0.0.1:0"] {
        old.issue("server.example");
        let (mut server, address) = start_echo(&["--listen", listen, "--cert", &cert, "--key", &key]);
        let (old_ca, new_ca) = (old.ca(), new.ca());
        let mut client = Program::start(NC, &["--ca", &old_ca, &address]);
        client.write("one\n");
        assert_eq!(client.line(), "one");
        // This is half of a renewal: the certificate has been replaced and its key has not.
        let (new_cert, new_key) = new.issue("server.example");
        fs::copy(new_cert, &cert).unwrap();
        server.signal("HUP");
        let line = server.stderr_line("not reloaded, everything stays as it was: ");
        assert!(line.contains("does not belong to"), "{line}");
        assert_eq!(run(NC, &["--ca", &old_ca, &address], "x\n").stdout, "x\n");
        fs::copy(new_key, &key).unwrap();
        server.signal("HUP");
        server.stderr_line("reloaded");
        assert_eq!(run(NC, &["--ca", &new_ca, &address], "x\n").stdout, "x\n");
        run(NC, &["--ca", &old_ca, &address], "").failed_with("peeloff-nc", 3, "does not verify");
        client.write("two\n");
        assert_eq!(client.line(), "two");
    }
}

#[test]
fn sighup_keeps_a_certificate_that_was_made_up() {
    let (mut server, address) = start_echo(&["--listen", "tls://127.0.0.1:0"]);
    let fingerprint = || {
        let address = address.strip_prefix("tls://").unwrap();
        let show = ["s_client", "-connect", address, "-showcerts"];
        let output = Command::new("openssl").args(show).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let begin = text.find("-----BEGIN CERTIFICATE").unwrap_or_else(|| panic!("{text}"));
        text[begin..text.find("-----END CERTIFICATE").unwrap()].to_owned()
    };
    let before = fingerprint();
    server.signal("HUP");
    server.stderr_line("reloaded");
    assert_eq!(fingerprint(), before);
}

#[test]
fn only_certificates_with_a_name_on_the_list_come_in() {
    let issuer = Issuer::new("credentials-allow");
    let (cert, key) = issuer.issue("server.example");
    let (alice, bob) = (issuer.issue("alice.example"), issuer.issue("bob.example"));
    let ca = issuer.ca();
    for allow in [["--allow-san", "dns:Alice.*"], ["--allow-subject", "CN=alice.example"]] {
        let own = ["--listen", "tls://127.0.0.1:0", "--cert", &cert, "--key", &key, "--ca", &ca];
        let (server, address) = start_echo(&[&own[..], &allow].concat());
        let knock = |(cert, key): &(String, String)| {
            let arguments = ["--ca", &ca, "--cert", cert, "--key", key, "--wait", "off", &address];
            let mut client = Program::start(NC, &arguments);
            client.write("x\n");
            client
        };
        let mut client = knock(&alice);
        assert_eq!(client.line(), "x");
        // The server closes the connection by itself.
        assert_eq!(knock(&bob).wait().stdout, "");
        server.signal("TERM");
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
fn a_certificate_with_a_zero_byte_in_a_name_matches_no_pattern() {
    let issuer = Issuer::new("credentials-zero");
    let (cert, key) = issuer.issue("server.example");
    let ca = issuer.ca();
    let client = |name: &str, file: &str| {
        let certificate = issuer.authority.certificate(name);
        let cert = issuer.files.file(&format!("{file}.pem"), certificate.pem());
        (cert, issuer.files.file(&format!("{file}.key"), certificate.key_pem()))
    };
    let (whole, cut) = (client("alice.example", "whole"), client("alice.example\0.evil", "cut"));
    for allow in [["--allow-san", "dns:alice*"], ["--allow-subject", "CN=alice*"]] {
        let own = ["--listen", "tls://127.0.0.1:0", "--cert", &cert, "--key", &key, "--ca", &ca];
        let (_server, address) = start_echo(&[&own[..], &allow].concat());
        let call = |(cert, key): &(String, String)| {
            run(NC, &["--ca", &ca, "--cert", cert, "--key", key, &address], "x\n").stdout
        };
        assert_eq!(call(&whole), "x\n", "{allow:?}");
        assert_eq!(call(&cut), "", "{allow:?}");
    }
}

#[test]
fn revoked_certificates_are_refused_on_both_sides() {
    let issuer = Issuer::new("credentials-crl");
    let (cert, key) = issuer.issue("server.example");
    let (alice, bob) = (issuer.issue("alice.example"), issuer.issue("bob.example"));
    let ca = issuer.ca();
    let nobody = issuer.revoke("nobody.crl", &[]);
    let bobs = issuer.revoke("bob.crl", &[&bob.0]);
    let servers = issuer.revoke("server.crl", &[&cert]);
    for listen in ["tls://127.0.0.1:0", "dtls://127.0.0.1:0"] {
        let own = ["--listen", listen, "--cert", &cert, "--key", &key, "--ca", &ca, "--crl", &bobs];
        let (_server, address) = start_echo(&own);
        let call = |(cert, key): &(String, String), crl: &str| {
            let arguments = ["--ca", &ca, "--crl", crl, "--cert", cert, "--key", key, &address];
            run(NC, &arguments, "x\n")
        };
        assert_eq!(call(&alice, &nobody).stdout, "x\n", "{listen}");
        let refused = call(&bob, &nobody);
        assert_eq!(refused.stdout, "", "{listen}");
        assert_ne!(refused.code, Some(0), "{listen}");
        let why = "certificate revoked: CN=server.example is revoked by CN=test authority";
        call(&alice, &servers).failed_with("peeloff-nc", 3, why);
    }
}

#[test]
fn both_sides_agree_on_a_protocol_or_not_at_all() {
    let arguments = ["--listen", "tls://127.0.0.1:0", "--alpn", "echo/2", "--alpn", "echo/1"];
    let (_server, address) = start_echo(&arguments);
    let talk = |protocol| run(NC, &["--insecure", "--alpn", protocol, &address], "");
    assert_eq!(talk("echo/1").code, Some(0));
    talk("other").failed_with("peeloff-nc", 3, "handshake");
    assert_eq!(run(NC, &["--insecure", &address], "x\n").stdout, "x\n");
}

#[test]
fn the_secrets_of_sessions_are_written_where_asked() {
    let files = Directory::new("credentials-log");
    let log = files.path("keys.log");
    let (_server, address) = start_echo(&["--listen", "tls://127.0.0.1:0", "--key-log", &log]);
    assert_eq!(run(NC, &["--insecure", &address], "x\n").stdout, "x\n");
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("SERVER_TRAFFIC_SECRET_0"), "{text}");
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_ticket_of_one_server_is_good_at_another_with_the_same_keys() {
    let files = Directory::new("credentials-tickets");
    let (keys, session) = (files.path("keys"), files.path("session"));
    let cert = Authority::named("localhost");
    let (cert, key) = (files.file("cert.pem", cert.pem()), files.file("key.pem", cert.key_pem()));
    let make = || {
        let ended = run(ECHO, &["--make-key-file", &keys], "");
        assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), "", ""));
    };
    make();
    let start = |more: &[&str]| {
        let arguments = ["--listen", "tls://127.0.0.1:0", "--cert", &cert, "--key", &key];
        start_echo(&[&arguments[..], more].concat())
    };
    let (_one, first) = start(&["--key-file", &keys]);
    let (mut two, second) = start(&["--key-file", &keys]);
    let (_three, third) = start(&[]);
    let call = |address: &str, option: &str| {
        let address = address.strip_prefix("tls://").unwrap();
        let arguments = ["s_client", "-tls1_2", "-connect", address, option, &session];
        let output = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let fresh = call(&first, "-sess_out");
    assert!(fresh.contains("New, TLSv1.2"), "{fresh}");
    assert!(call(&second, "-sess_in").contains("Reused, TLSv1.2"));
    assert!(call(&third, "-sess_in").contains("New, TLSv1.2"));

    // The ticket survives one renewal of the keys, but not a second one.
    for expected in ["Reused", "New"] {
        make();
        two.signal("HUP");
        two.stderr_line("reloaded");
        assert!(call(&second, "-sess_in").contains(&format!("{expected}, TLSv1.2")), "{expected}");
    }
}

#[test]
fn a_key_file_is_made_and_renewed_and_nothing_else_is_overwritten() {
    let files = Directory::new("credentials-keys");
    let keys = files.path("keys");
    let line = |name: &str| {
        let text = fs::read_to_string(&keys).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
    };
    let make = |path: &str| run(ECHO, &["--make-key-file", path], "");
    assert_eq!(make(&keys).code, Some(0));
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    let first = line("current:").unwrap();
    assert_eq!((first.len(), line("previous:")), (64, None));
    assert_eq!(make(&keys).code, Some(0));
    assert_eq!(line("previous:"), Some(first));

    let other = files.file("other", "precious\n");
    make(&other).failed_with("peeloff-echo", 2, &format!("{other}:1"));
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious\n");
    make(&files.path("absent/keys")).failed_with("peeloff-echo", 2, "cannot write keys to");
    assert_eq!(fs::read_dir(files.path("")).unwrap().count(), 2);
}

#[test]
fn bad_credentials_are_one_sentence_and_exit_code_2() {
    let issuer = Issuer::new("credentials-bad");
    let (cert, key) = issuer.issue("server.example");
    let (ca, absent) = (issuer.ca(), issuer.files.path("absent"));
    let empty = issuer.files.file("empty", "");
    let other = Authority::named("other authority");
    let other = Issuer { authority: other, files: Directory::new("credentials-other") };
    other.files.file("ca.pem", other.authority.pem());
    let foreign = other.revoke("foreign.crl", &[]);
    let zero = issuer.files.file("zero-keys", "alice:00\na\0b:00\n");
    let escaped = issuer.files.file("escaped-keys", "a\\0b:00\n");
    let own = ["--listen", "tls://127.0.0.1:0"];
    let cases: &[(&[&str], &str)] = &[
        (&["--cert", &cert, "--cert", &cert, "--key", &key], "--cert is given 2 times and --key 1 times"),
        (&["--cert", &cert, "--key", &key, "--key", &key], "--key needs --cert"),
        (&["--ocsp", &empty], "--ocsp needs --cert"),
        (&["--cert", &cert, "--key", &key, "--ocsp", &empty], &empty),
        (&["--crl", &empty], "--crl needs --ca"),
        (&["--ca", &ca, "--crl", &empty], &empty),
        (&["--ca", &ca, "--crl", &absent], &absent),
        (&["--ca", &ca, "--crl", &foreign], "no revocation list of the authority CN=test authority"),
        (&["--allow-san", "dns:a"], "--allow-san needs --ca"),
        (&["--allow-subject", "CN=a"], "--allow-subject needs --ca"),
        (&["--ca", &ca, "--allow-san", "a"], "--allow-san: \"a\" is not a name: write dns:NAME"),
        (&["--ca", &ca, "--allow-subject", "a"], "write it as CN=alice,O=Example"),
        (&["--alpn", ""], "--alpn: a protocol name cannot have 0 bytes: write 1 to 255"),
        (&["--psk-file", &zero], "keys:2: the identity before the colon has a zero byte"),
        (&["--psk-file", &escaped], "keys:1: the identity before the colon has a zero byte"),
        (&["--key-file", &absent], &absent),
        (&["--key-file", &empty], &empty),
        (&["--key-log", "/nowhere/log"], "/nowhere/log"),
    ];
    for (arguments, expected) in cases {
        run(ECHO, &[&own[..], arguments].concat(), "").failed_with("peeloff-echo", 2, expected);
    }

    let (pss_cert, pss_key) = (issuer.files.path("pss.pem"), issuer.files.path("pss.key"));
    let make = ["req", "-x509", "-newkey", "rsa-pss", "-nodes", "-subj", "/CN=pss", "-days", "2"];
    let make = Command::new("openssl").args(make).args(["-out", &pss_cert, "-keyout", &pss_key]).output();
    assert!(make.unwrap().status.success());
    for listen in ["dtls://127.0.0.1:0", "sctp+dtls://127.0.0.1:0"] {
        let arguments = ["--listen", listen, "--cert", &pss_cert, "--key", &pss_key];
        let sentence = "OpenSSL cannot serve DTLS 1.2 with the RSA-PSS key of CN=pss (no shared cipher); use an ECDSA key";
        run(ECHO, &arguments, "").failed_with("peeloff-echo", 2, sentence);
    }
}

#[test]
fn secrets_that_others_can_read_are_warned_of_or_refused() {
    let files = Directory::new("permissions");
    let authority = Authority::named("authority");
    let (cert, key) = (files.file("cert.pem", authority.pem()), files.file("key.pem", authority.key_pem()));
    let psk = files.file("psk", "alice:00ff\n");
    let mode = |path: &str, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let listen = ["--listen", "dtls://127.0.0.1:0", "--cert", &cert, "--key", &key, "--psk-file", &psk];
    mode(&key, 0o600);
    mode(&psk, 0o644);
    let (mut server, _) = start_echo(&listen);
    let line = server.stderr_line("can access the secrets");
    assert!(line.contains(&format!("chmod 600 {psk}")) && line.contains("(mode 0644)"), "{line}");
    server.signal("HUP");
    server.stderr_line("can access the secrets");
    server.stderr_line("reloaded");

    let strict = [&listen[..], &["--strict-permissions"]].concat();
    let refused = run(ECHO, &strict, "");
    refused.failed_with("peeloff-echo", 2, "--psk-file");
    mode(&psk, 0o600);
    mode(&key, 0o604);
    run(ECHO, &strict, "").failed_with("peeloff-echo", 2, "--key");
    mode(&key, 0o600);
    let (server, _) = start_echo(&strict);
    server.signal("TERM");
    let ended = server.wait();
    assert!(ended.code == Some(0) && !ended.stderr.contains("can access the secrets"), "{ended:?}");
}

#[test]
fn a_client_that_asks_for_a_profile_of_srtp_gets_one_that_the_server_has() {
    let profiles = ["--srtp-profile", "SRTP_AEAD_AES_128_GCM", "--srtp-profile", "SRTP_AES128_CM_SHA1_80"];
    let (_server, address) = start_echo(&[&["--listen", "dtls://127.0.0.1:0"], &profiles[..]].concat());
    let place = address.strip_prefix("dtls://").unwrap();
    for (asked, agreed) in [
        ("SRTP_AES128_CM_SHA1_32:SRTP_AES128_CM_SHA1_80", Some("SRTP_AES128_CM_SHA1_80")),
        ("SRTP_AES128_CM_SHA1_80:SRTP_AEAD_AES_128_GCM", Some("SRTP_AEAD_AES_128_GCM")),
        ("SRTP_AES128_CM_SHA1_32", None),
    ] {
        let arguments = ["s_client", "-dtls1_2", "-connect", place, "-use_srtp", asked];
        let ended = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&ended.stdout);
        let found = text.lines().find_map(|line| line.strip_prefix("SRTP Extension negotiated, profile="));
        assert_eq!(found, agreed, "{asked}: {text}");
    }
    run(ECHO, &["--srtp-profile", "SRTP_NULL"], "").failed_with(
        "peeloff-echo",
        2,
        "write one of SRTP_AEAD_AES",
    );
}
