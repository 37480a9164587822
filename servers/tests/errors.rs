//! Errors for users: each one names the option or the key to change, and says what to write.

mod support;

use std::net::UdpSocket;
use std::process::Command;

use peeloff_certificates::Authority;
use support::{CHAT, Directory, ECHO, Ended, NC, run};

/// Runs a program that must fail with exit code 2 and one sentence.
#[track_caller]
fn fails(program: &str, arguments: &[&str], expected: &str) -> Ended {
    let ended = run(program, arguments, "");
    let name = program.rsplit('/').next().unwrap();
    ended.failed_with(name, 2, expected);
    names_real_options(program, &ended.stderr);
    ended
}

/// Checks that every option in a sentence is one of the program's, and that the sentence has no name from the
/// library.
#[track_caller]
fn names_real_options(program: &str, sentence: &str) {
    let help = Command::new(program).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for word in sentence.split_whitespace() {
        if let Some(name) = word.strip_prefix("--").filter(|name| !name.is_empty()) {
            let name = name.trim_end_matches([':', ',', ';', ')', '.']);
            assert!(
                help.contains(&format!("--{name} ")) || help.contains(&format!("--{name}\n")),
                "{name}: {sentence}"
            );
        }
        assert!(!word.contains("::freebind") && !word.contains("free-bind"), "{sentence}");
    }
    for name in ["max_peers", "Builder", "Settings", "u{", "Some(", "..="] {
        assert!(!sentence.contains(name), "{name}: {sentence}");
    }
}

#[test]
fn errors_name_the_option_that_can_be_set() {
    let files = Directory::new("errors-options");
    let (one, other) = (Authority::named("one"), Authority::named("other"));
    let cert = files.file("cert.pem", one.pem());
    let key = files.file("key.pem", one.key_pem());
    let wrong_key = files.file("wrong.pem", other.key_pem());
    let empty = files.file("empty", "");
    let psk = files.file("psk", "alice\n");
    let absent = files.path("absent");
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap().to_string();
    let taken = format!("udp://{place}");

    let of_servers: &[(&[&str], &str)] = &[
        (&["--listen", "udp://192.0.2.1:0"], "--listen: 192.0.2.1:0 is not an address of this host"),
        (&["--listen", "udp://192.0.2.1:0"], "or pass --freebind for one that is added later"),
        (&["--listen", &taken], &format!("--listen: {place} is in use by another socket")),
        (
            &["--listen-proxied", "udp://127.0.0.1:0"],
            "--listen-proxied: the PROXY protocol works with tcp://",
        ),
        (&["--cert", &cert], "--cert needs --key"),
        (&["--cert", &cert, "--key", &absent], &format!("--key: cannot read {absent}")),
        (&["--cert", &absent, "--key", &key], &format!("--cert: cannot read {absent}")),
        (
            &["--cert", &cert, "--key", &wrong_key],
            &format!("--key: the private key in {wrong_key} does not belong to the certificate in {cert}"),
        ),
        (
            &[
                "--listen",
                "udp://127.0.0.1:9",
                "--listen",
                "tcp://127.0.0.1:9",
                "--listen",
                "dtls://127.0.0.1:9",
            ],
            "--listen: udp://127.0.0.1:9 and dtls://127.0.0.1:9 need the same UDP port",
        ),
        (
            &["--listen-proxied", "tls://127.0.0.1:9", "--listen", "tcp://127.0.0.1:9"],
            "--listen: tcp://127.0.0.1:9 and tls://127.0.0.1:9 need the same TCP port",
        ),
        (&["--cert", &empty, "--key", &key], &format!("--cert: {empty} holds no PEM certificate")),
        (&["--cert", &cert, "--key", &empty], &format!("--key: {empty} holds no ")),
        (&["--cert", &cert, "--key", &key, "--ocsp", &empty], &format!("--ocsp: {empty} holds no ")),
        (&["--ca", &empty], &format!("--ca: {empty} holds no PEM certificate")),
        (&["--ca", &cert, "--crl", &empty], &format!("--crl: {empty} holds no certificate revocation list")),
        (&["--crl", &empty], "--crl needs --ca"),
        (&["--psk-file", &absent], &format!("--psk-file: cannot read {absent}")),
        (&["--psk-file", &psk], &format!("--psk-file: {psk}:1: there is no colon")),
        (&["--key-file", &absent], &format!("--key-file: cannot read {absent}")),
        (&["--key-file", &empty], &format!("--key-file: {empty}")),
        (&["--make-key-file", "/proc/keys"], "--make-key-file: "),
        (&["--max-peers", "many"], "--max-peers: \"many\" is not a whole number"),
        (&["--client-auth", "maybe"], "--client-auth: \"maybe\" is not known: write one of none, optional"),
        (&["--stack-size", "1"], "--stack-size 1 is not usable: give 64K to 64M"),
        (&["--sctp-streams", "0"], "--sctp-streams: 0 is not usable: give 1 to 65535"),
        (&["--sctp-udp-port", "70000"], "--sctp-udp-port: 70000 is not usable: give 1 to 65535"),
        (&["--alpn", ""], "--alpn: "),
        (&["--config", &absent], "with --config"),
    ];
    for program in [ECHO, CHAT] {
        for (arguments, expected) in of_servers {
            fails(program, arguments, expected);
        }
    }
    let url = "dtls://127.0.0.1:9";
    let of_nc: &[(&[&str], &str)] = &[
        (&[url, "--ca", &empty], &format!("--ca: {empty} holds no PEM certificate")),
        (&[url, "--cert", &cert, "--key", &wrong_key], "--key: the private key "),
        (&[url, "--cert", &cert, "--key", &absent], &format!("--key: cannot read {absent}")),
        (&[url, "--block", "0"], "--block 0 would send nothing"),
        (&["-l", "udp://192.0.2.1:0"], "is not an address of this host: choose one that `ip address` lists"),
        (&["sctp+tls://127.0.0.1:9", "--ttl", "1s"], "--ttl does not apply to sctp+tls://"),
    ];
    for (arguments, expected) in of_nc {
        fails(NC, arguments, expected);
    }
}

#[test]
fn a_server_that_does_not_answer_in_time_is_told_with_the_option_for_the_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("dtls://{}", silent.local_addr().unwrap());
    let ended = run(NC, &["--timeout", "100ms", "--insecure", &url], "");
    ended.failed_with("peeloff-nc", 4, "within 100ms");
    assert!(ended.stderr.contains("or give it more --timeout"), "{ended:?}");
    names_real_options(NC, &ended.stderr);
}

#[test]
fn errors_from_a_file_name_the_key_and_the_line() {
    let files = Directory::new("errors-keys");
    files.file("empty", "");
    for (text, line, expected) in [
        (
            "v6only = true\nlisten = 'udp://192.0.2.1:0'",
            2,
            "listen: 192.0.2.1:0 is not an address of this host",
        ),
        ("v6only = true\nlisten = 'udp://192.0.2.1:0'", 2, "or pass freebind for one that is added later"),
        ("listen-proxied = 'udp://127.0.0.1:0'", 1, "listen-proxied: the PROXY protocol"),
        ("[identity]\n\nca = 'empty'", 3, "ca: "),
        ("[identity]\npsk-file = 'absent'", 2, "psk-file: cannot read "),
        ("[identity]\nkey-file = 'empty'", 2, "key-file: "),
        ("[identity]\ncert = 'empty'", 2, "cert needs key: name the file"),
        ("[limits]\nstack-size = '1K'", 2, "stack-size 1K is not usable"),
        ("[limits]\nmax_peers = 1", 2, "there is no key max_peers here: the nearest is max-peers"),
        ("v6only = 'yes'", 1, "v6only: write v6only = true"),
        ("[sctp]\nsctp-udp-port = 0", 2, "sctp-udp-port: 0 is not usable: give 1 to 65535"),
    ] {
        let config = files.file("echo.toml", text);
        let ended = run(ECHO, &["--config", &config], "");
        ended.failed_with("peeloff-echo", 2, expected);
        assert!(ended.stderr.starts_with(&format!("peeloff-echo: {config}:{line}: ")), "{}", ended.stderr);
        assert!(!ended.stderr.contains("--") || ended.stderr.contains("--print-config"), "{}", ended.stderr);
    }
}
