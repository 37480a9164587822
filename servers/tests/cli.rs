//! The command line of the servers: what they print, how they fail, how signals end them.

mod support;

use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Stdio};

use peeloff_certificates::Authority;
use support::{CHAT, Directory, ECHO, NC, Program, run, start_echo};

#[test]
fn messages_come_back_over_udp_and_dtls() {
    for (listen, options) in [
        ("udp://127.0.0.1:0", &[][..]),
        ("dtls://127.0.0.1:0", &["--insecure"][..]),
        ("udp://[::1]:0", &[][..]),
        ("dtls://[::1]:0", &["--insecure"][..]),
    ] {
        let (_server, address) = start_echo(&["--listen", listen]);
        let mut arguments = vec![address.as_str()];
        arguments.extend(options);
        let ended = run(NC, &arguments, "one\ntwo\n");
        assert_eq!(ended.stdout, "one\ntwo\n", "{listen}: {ended:?}");
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{listen}");
    }
}

#[test]
fn standard_output_has_the_listeners_and_nothing_else() {
    let listeners = ["--listen", "dtls://127.0.0.1:0", "--listen", "udp://127.0.0.1:0", "-vv"];
    let mut server = Program::start(ECHO, &listeners);
    let (dtls, udp) = (server.line(), server.line());
    let address = dtls.strip_prefix("listening ").unwrap();
    assert!(address.starts_with("dtls://127.0.0.1:") && !address.ends_with(":0"), "{dtls}");
    assert!(udp.starts_with("listening udp://127.0.0.1:") && !udp.ends_with(":0"), "{udp}");
    assert_eq!(run(NC, &["--insecure", address], "x\n").stdout, "x\n");
    server.signal("TERM");
    let ended = server.wait();
    assert_eq!(ended.stdout, format!("{dtls}\n{udp}\n"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn servers_start_anew_with_malloc_tuned_and_keep_process_and_arguments() {
    for program in [ECHO, CHAT] {
        let mut server = Program::start(program, &["--listen", "udp://127.0.0.1:0"]);
        assert!(server.line().starts_with("listening udp://127.0.0.1:"));
        let of = |file: &str| fs::read(format!("/proc/{}/{file}", server.id())).unwrap();
        // glibc may have replaced bytes of its variable by NULs.
        let environment = of("environ");
        let has = |text: &str| environment.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(has("GLIBC_TUNABLES=glibc.malloc.tcache_count=0") && has("glibc.malloc.arena_max="));
        assert_eq!(of("cmdline"), format!("{program}\0--listen\0udp://127.0.0.1:0\0").into_bytes());
        let name = program.rsplit('/').next().unwrap();
        assert_eq!(of("comm"), format!("{name}\n").into_bytes());
        server.signal("TERM");
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
fn a_server_keeps_the_tunables_that_it_was_given_and_starts_anew_once() {
    let mut command = Command::new("env");
    command.args(["GLIBC_TUNABLES=glibc.malloc.perturb=7:glibc.malloc.top_pad=4096", ECHO]);
    let output = command.args(["--listen", "nonsense"]).output().unwrap();
    // The program got as far as parsing its arguments.
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_self_signed_certificate_is_announced_loudly() {
    let (server, _) = start_echo(&["--listen", "dtls://127.0.0.1:0", "-q"]);
    server.signal("INT");
    let ended = server.wait();
    assert!(ended.stderr.contains("NO CERTIFICATE GIVEN"), "{ended:?}");
    let (server, _) = start_echo(&["--listen", "udp://127.0.0.1:0"]);
    server.signal("INT");
    assert!(!server.wait().stderr.contains("CERTIFICATE"));
}

#[test]
fn bad_input_is_one_sentence_and_exit_code_2() {
    let files = Directory::new("bad-input");
    let (one, other) = (Authority::named("one"), Authority::named("other"));
    let cert = files.file("cert.pem", one.pem());
    let key = files.file("key.pem", one.key_pem());
    let wrong_key = files.file("wrong-key.pem", other.key_pem());
    let absent = files.path("absent.pem");
    let empty = files.file("empty", "");
    let psk = files.file("psk", "# keys\nalice:00112233\nbob:xyz\n");
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = format!("udp://{}", taken.local_addr().unwrap());
    let own = ["--listen", "dtls://127.0.0.1:0"];

    let cases: &[(&[&str], &str)] = &[
        (&["--listen", "127.0.0.1:4433"], "has no scheme"),
        (&["--listen", "dtls://127.0.0.1"], "has no port: write dtls://127.0.0.1:4433"),
        (&["--listen", "quic://127.0.0.1:1"], "use one of udp://, dtls://"),
        (&["--listen", "udp://[fe80::1%nowhere0]:1"], "not a network interface"),
        (&["--listen", "udp://192.0.2.1:0"], "not an address of this host"),
        (&["--listen", &taken], "in use"),
        (&[own[0], own[1], "--cert", &cert], "--cert needs --key"),
        (&[own[0], own[1], "--key", &key], "--key needs --cert"),
        (&[own[0], own[1], "--cert", &cert, "--key", &absent], &absent),
        (&[own[0], own[1], "--cert", &absent, "--key", &key], &absent),
        (&[own[0], own[1], "--cert", &cert, "--key", &wrong_key], "does not belong to"),
        (&[own[0], own[1], "--cert", &empty, "--key", &key], "BEGIN CERTIFICATE"),
        (&[own[0], own[1], "--cert", &cert, "--key", &cert], "private key"),
        (&[own[0], own[1], "--ca", &empty], "BEGIN CERTIFICATE"),
        (&[own[0], own[1], "--client-auth", "required"], "--client-auth needs --ca"),
        (&[own[0], own[1], "--ca", &cert, "--client-auth", "none"], "--ca has no effect"),
        (&[own[0], own[1], "--psk-file", &absent], &absent),
        (&[own[0], own[1], "--psk-file", &psk], &format!("{psk}:3: the key")),
        (
            &[own[0], own[1], "--idle-timeout", "10"],
            "write a number and its unit, such as 500ms, 10s or 5m, or off",
        ),
        (&[own[0], own[1], "--stack-size", "lots"], "write bytes, or a number with K or M such as 64K"),
        (&[own[0], own[1], "--stack-size", "16K"], "--stack-size 16K is not usable"),
        (&[own[0], own[1], "--max-peers", "many"], "--max-peers"),
        (&[own[0], own[1], "--log", "a=b=c"], "--log"),
    ];
    for (arguments, expected) in cases {
        let ended = run(ECHO, arguments, "");
        ended.failed_with("peeloff-echo", 2, expected);
        assert_eq!(ended.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_privileged_port_is_refused_with_a_remedy() {
    // A process with all capabilities can bind it.
    if UdpSocket::bind("127.0.0.1:1").is_ok() {
        return;
    }
    run(ECHO, &["--listen", "udp://127.0.0.1:1"], "").failed_with("peeloff-echo", 2, "CAP_NET_BIND_SERVICE");
}

#[test]
fn unknown_options_get_the_usage_and_exit_code_2() {
    let ended = run(ECHO, &["--no-such-option"], "");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    assert!(ended.stderr.contains("--help"), "{ended:?}");
}

#[test]
fn help_is_no_failure() {
    for program in [ECHO, NC] {
        let ended = run(program, &["--help"], "");
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(ended.stdout.contains("Usage: peeloff-"), "{ended:?}");
    }
}

#[test]
fn sigterm_and_sigint_let_peers_go_in_good_order() {
    for signal in ["TERM", "INT"] {
        let (server, address) = start_echo(&["--listen", "dtls://127.0.0.1:0"]);
        let mut client = Program::start(NC, &["--insecure", &address]);
        client.write("hello\n");
        assert_eq!(client.line(), "hello");
        server.signal(signal);
        let ended = server.wait();
        assert_eq!(ended.code, Some(0), "{signal}: {ended:?}");
        // Its standard input is still open, so the server's close_notify ends the client.
        let ended = client.wait();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{signal}");
    }
}

#[test]
fn a_server_outlives_the_readers_of_its_output() {
    let mut server =
        Program::start_with_outputs(ECHO, &["--listen", "udp://127.0.0.1:0"], full_device(), Stdio::piped());
    // Nothing can be written to standard output, but the log has the address too.
    let line = server.stderr_line("listening");
    let address = line.split("address=").nth(1).unwrap_or_else(|| panic!("{line}"));
    assert_eq!(run(NC, &[address], "x\n").stdout, "x\n");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn certificates_of_a_given_authority_are_verified_on_both_sides() {
    let files = Directory::new("mutual");
    let authority = Authority::named("test authority");
    let (server_cert, client_cert) =
        (authority.certificate("server.example"), authority.certificate("client"));
    let ca = files.file("ca.pem", authority.pem());
    let (cert, key) = (files.file("s.pem", server_cert.pem()), files.file("s.key", server_cert.key_pem()));
    let (own, own_key) = (files.file("c.pem", client_cert.pem()), files.file("c.key", client_cert.key_pem()));
    let listen = ["--listen", "dtls://127.0.0.1:0", "--cert", &cert, "--key", &key, "--ca", &ca];
    let (_server, address) = start_echo(&listen);

    let ended = run(NC, &["--ca", &ca, "--cert", &own, "--key", &own_key, &address], "x\n");
    assert_eq!((ended.stdout.as_str(), ended.code), ("x\n", Some(0)), "{ended:?}");
    let named = ["--ca", &ca, "--cert", &own, "--key", &own_key, "--server-name", "server.example", &address];
    assert_eq!(run(NC, &named, "x\n").stdout, "x\n");
    run(NC, &["--ca", &ca, &address], "x\n").failed_with("peeloff-nc", 3, "handshake");
}

#[test]
fn a_peer_with_the_right_key_gets_in_and_no_other() {
    let files = Directory::new("psk");
    let psk = files.file("psk", "# two devices\nurn:dev:1:000102030405060708090a0b0c0d0e0f\ntwo:ff00\n");
    let (_server, address) = start_echo(&["--listen", "dtls://127.0.0.1:0", "--psk-file", &psk]);
    for right in ["urn:dev:1:000102030405060708090A0B0C0D0E0F", "two:ff00"] {
        let ended = run(NC, &["--psk", right, &address], "x\n");
        assert_eq!((ended.stdout.as_str(), ended.code), ("x\n", Some(0)), "{ended:?}");
    }
    run(NC, &["--psk", "three:ff00", &address], "x\n").failed_with("peeloff-nc", 3, "unknown_psk_identity");
    // Records that were made with a wrong key look forged, and DTLS drops them silently.
    let wrong = ["--psk", "two:ff01", "--timeout", "2s", &address];
    run(NC, &wrong, "x\n").failed_with("peeloff-nc", 3, "it probably has another pre-shared key");
}

#[test]
fn options_for_sctp_are_refused_elsewhere() {
    let options: &[&[&str]] = &[
        &["--sctp-streams", "8"],
        &["--sctp-dead-after", "off"],
        &["--sctp-max-message", "64K"],
        &["--sctp-tls-streams", "2"],
        &["--sctp-label-with-nul"],
        &["--sctp-dynamic-addresses"],
        &["--sctp-udp-port", "9899"],
    ];
    for option in options {
        let expected = format!("{} needs an sctp:// URL", option[0]);
        let arguments = [&["--listen", "udp://127.0.0.1:0"], *option].concat();
        run(ECHO, &arguments, "").failed_with("peeloff-echo", 2, &expected);
    }
    let of_nc: &[&[&str]] = &[
        &["--stream", "1"],
        &["--ppid", "46"],
        &["--unordered"],
        &["--ttl", "1s"],
        &["--notifications"],
        &["--primary", "127.0.0.1"],
        &["--bind", "127.0.0.1"],
    ];
    for option in options.iter().chain(of_nc) {
        let expected = format!("{} needs an sctp:// URL", option[0]);
        for url in ["udp://127.0.0.1:9", "dtls://127.0.0.1:9"] {
            run(NC, &[&[url], *option].concat(), "").failed_with("peeloff-nc", 2, &expected);
        }
    }
}

#[test]
fn bad_values_for_sctp_are_one_sentence_and_exit_code_2() {
    let both: &[(&[&str], &str)] = &[
        (&["--sctp-streams", "0"], "--sctp-streams: 0 is not usable: give 1 to 65535"),
        (&["--sctp-streams", "many"], "--sctp-streams"),
        (&["--sctp-dead-after", "30"], "such as 500ms, 10s or 5m, or off"),
        (&["--sctp-dead-after", "1ms"], "--sctp-dead-after 1ms is not usable"),
        (&["--sctp-max-message", "0"], "--sctp-max-message 0 is not usable"),
        (&["--sctp-max-message", "lots"], "such as 64K"),
        (&["--sctp-tls-streams", "65"], "exceeds the 64 streams of --sctp-streams"),
        (&["--sctp-udp-port", "65536"], "--sctp-udp-port"),
    ];
    for (arguments, expected) in both {
        let server = [&["--listen", "sctp+tls://127.0.0.1:0"], *arguments].concat();
        run(ECHO, &server, "").failed_with("peeloff-echo", 2, expected);
        run(NC, &[&["sctp+tls://127.0.0.1:9"], *arguments].concat(), "").failed_with(
            "peeloff-nc",
            2,
            expected,
        );
    }
    let of_nc: &[(&[&str], &str)] = &[
        (&["sctp://127.0.0.1:9", "--stream", "65536"], "--stream"),
        (&["sctp://127.0.0.1:9", "--ppid", "4294967296"], "--ppid"),
        (&["sctp://127.0.0.1:9", "--ttl", "1"], "such as 500ms"),
        (&["sctp://127.0.0.1:9", "--ttl", "10us"], "give at least 1ms"),
        (&["sctp://127.0.0.1:9", "--primary", "localhost"], "--primary"),
        (&["sctp://127.0.0.1:9", "--bind", "localhost"], "write it as 10.0.0.1 or 10.0.0.1:5000"),
        (&["sctp+tls://127.0.0.1:9", "--unordered"], "--unordered does not apply to sctp+tls://"),
        (&["sctp+tls://127.0.0.1:9", "--ttl", "1s"], "--ttl does not apply to sctp+tls://"),
    ];
    for (arguments, expected) in of_nc {
        run(NC, arguments, "").failed_with("peeloff-nc", 2, expected);
    }
}

#[test]
fn lists_of_addresses_are_checked() {
    for (url, expected) in [
        ("udp://127.0.0.1,127.0.0.2:9", "lists several addresses, which only SCTP has"),
        ("dtls://127.0.0.1,127.0.0.2:9", "lists several addresses, which only SCTP has"),
        ("sctp://127.0.0.1:9,127.0.0.2:9", "a list has one port"),
        ("sctp://127.0.0.1,127.0.0.1:9", "is in the list twice"),
        ("sctp://127.0.0.1,192.0.2.1:9", "are of different scope"),
        ("sctp://127.0.0.1,*:9", "cannot have a wildcard"),
        ("sctp://127.0.0.1,224.0.0.1:9", "not a unicast address"),
    ] {
        run(ECHO, &["--listen", url], "").failed_with("peeloff-echo", 2, expected);
        run(NC, &[url], "").failed_with("peeloff-nc", 2, expected);
    }
}

#[test]
fn a_kernel_without_sctp_is_named_with_a_remedy() {
    if peeloff::sctp::is_supported() {
        let (_server, address) = start_echo(&["--listen", "sctp://127.0.0.1:0"]);
        assert_eq!(run(NC, &[&address], "x\n").stdout, "x\n");
        return;
    }
    for scheme in ["sctp", "sctp+tls", "sctp+dtls"] {
        let (listen, call) = (format!("{scheme}://127.0.0.1:0"), format!("{scheme}://127.0.0.1:9"));
        run(ECHO, &["--listen", &listen], "").failed_with("peeloff-echo", 2, "scripts/sctp-vm");
        run(NC, &["-l", &listen], "").failed_with("peeloff-nc", 2, "scripts/sctp-vm");
        run(NC, &[&call], "").failed_with("peeloff-nc", 2, "scripts/sctp-vm");
    }
}

/// Returns a file on which every write fails.
fn full_device() -> Stdio {
    fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_server_that_cannot_serve_any_peer_does_not_start() {
    let command = format!("ulimit -n 20; exec {ECHO} --listen udp://127.0.0.1:0");
    let ended = run("sh", &["-c", &command], "");
    ended.failed_with("peeloff-echo", 2, "the limit of 20 descriptors leaves none for a peer");
    for (option, value, advice) in [
        ("--max-peers", "0", "write 1 or more"),
        ("--max-peers-per-local-address", "0", "write 1 or more"),
        ("--max-peers-per-source", "0", "write 1 or more"),
        ("--max-peers-per-prefix", "0", "write 1 or more"),
        ("--max-half-open", "0", "write 1 or more"),
        ("--max-awaiting-header", "0", "write 1 or more"),
        ("--new-peers-per-second", "0", "write 1 or more"),
        ("--new-peers-burst", "0", "write 1 or more"),
        ("--handshake-timeout", "0s", "write a longer time, such as 10s"),
        ("--proxy-header-timeout", "0s", "write a longer time, such as 10s"),
    ] {
        run(ECHO, &["--listen", "udp://127.0.0.1:0", option, value], "").failed_with(
            "peeloff-echo",
            2,
            advice,
        );
    }
}

#[test]
fn a_timeout_of_zero_is_off() {
    for option in ["--idle-timeout", "--lifetime", "--stats-interval"] {
        let (_server, address) = start_echo(&["--listen", "udp://127.0.0.1:0", option, "0"]);
        assert_eq!(run(NC, &[&address], "x\n").stdout, "x\n", "{option}");
    }
}

#[test]
fn the_start_says_which_limit_peers_run_into_first() {
    for (peers, first) in [("10", "the limit on peers (max_peers, --max-peers)"), ("1000000", "descriptors")]
    {
        let (mut server, _) = start_echo(&["--listen", "udp://127.0.0.1:0", "--max-peers", peers]);
        let line = server.stderr_line("more peers than this are refused because of");
        // On a system with plenty of descriptors, threads are the first limit.
        assert!(line.contains(first) || (peers != "10" && line.contains("threads")), "{line}");
    }
}
