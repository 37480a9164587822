//! Servers with a configuration file: what they read at the start and at SIGHUP, and what they print.

mod support;

use std::fs;
use std::net::UdpSocket;

use peeloff_certificates::Authority;
use support::{CHAT, Directory, ECHO, Ended, NC, Program, run, start_echo};

#[test]
fn a_server_starts_from_a_file_and_flags_win() {
    let files = Directory::new("config-start");
    let one = Authority::named("one");
    files.file("cert.pem", one.pem());
    files.file("key.pem", one.key_pem());
    let text = "listen = ['dtls://127.0.0.1:0', 'udp://127.0.0.1:0']\n\
                [identity]\ncert = 'cert.pem'\nkey = 'key.pem'\n[logging]\nquiet = 1\n";
    let config = files.file("echo.toml", text);
    let mut server = Program::start(ECHO, &["--config", &config]);
    let (dtls, udp) = (server.line(), server.line());
    assert!(udp.starts_with("listening udp://127.0.0.1:"), "{udp}");
    let address = dtls.strip_prefix("listening ").unwrap();
    assert_eq!(run(NC, &["--insecure", address], "x\n").stdout, "x\n");
    server.signal("TERM");
    let ended = server.wait();
    // The server found the certificate, and its log is quiet.
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));

    let (server, address) = start_echo(&["--config", &config, "--listen", "udp://[::1]:0", "-v"]);
    assert!(address.starts_with("udp://[::1]:"), "{address}");
    server.signal("TERM");
    let ended = server.wait();
    assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("ended"), "{ended:?}");
}

#[test]
fn a_mistake_in_the_file_is_one_sentence_with_its_place() {
    let files = Directory::new("config-mistake");
    for (text, expected) in [
        ("lissen = 'udp://127.0.0.1:0'", ":1: there is no key lissen here: the nearest is listen"),
        ("[limit]\n", ":1: there is no section [limit]: the nearest is [limits]"),
        ("\nlisten = '127.0.0.1:4433'", ":2: listen: "),
        ("[timeouts]\nidle-timeout = 10", ":2: idle-timeout: \"10\" is not a duration"),
        ("[limits]\nstack-size = '16K'", ":2: stack-size 16K is not usable: give 64K to 64M"),
        ("[logging]\nlog = 'a=b=c'", ":2: log \"a=b=c\" is not a filter"),
        ("[sctp]\nsctp-streams = 8", ":2: sctp-streams needs an sctp:// URL"),
        ("[identity]\ncert = 'a.pem'", ":2: cert needs key"),
        ("listen = ", ":1: "),
    ] {
        let config = files.file("echo.toml", text);
        let ended = run(ECHO, &["--config", &config], "");
        ended.failed_with("peeloff-echo", 2, &format!("{config}{expected}"));
        assert_eq!(ended.stdout, "");
    }
    let absent = files.path("absent.toml");
    run(ECHO, &["--config", &absent], "").failed_with("peeloff-echo", 2, &absent);
    let latin = files.file("latin.toml", b"log = '\xe9'");
    run(ECHO, &["--config", &latin], "").failed_with("peeloff-echo", 2, &latin);
    run(ECHO, &["--config", "-"], "nonsense = 1").failed_with("peeloff-echo", 2, "standard input:1: ");
}

#[test]
fn a_printed_configuration_can_be_read_back() {
    let files = Directory::new("config-print");
    let config = files.file("echo.toml", "listen = 'udp://127.0.0.1:0'\n[identity]\npsk-file = 'psk'\n");
    let flags = ["--config", &config, "--max-peers", "7", "--idle-timeout", "off", "--print-config"];
    let first = run(ECHO, &flags, "");
    assert_eq!((first.code, first.stderr.as_str()), (Some(0), ""));
    for line in [
        &format!("listen = [\"udp://127.0.0.1:0\"]  # from {config}:1"),
        "max-peers = 7  # from the command line",
        "idle-timeout = \"off\"  # from the command line",
        &format!("psk-file = \"{}\"  # from {config}:3", files.path("psk")),
    ] {
        assert!(first.stdout.lines().any(|found| found == line), "{line} is not in {}", first.stdout);
    }
    let second = run(ECHO, &["--config", "-", "--print-config"], &first.stdout);
    let values = |text: &str| {
        text.lines().map(|line| line.split("  # from ").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((second.code, values(&second.stdout)), (Some(0), values(&first.stdout)), "{second:?}");

    // A server starts from this file as well, and uses it again at a reload.
    files.file("psk", "alice:00ff\n");
    let mut server = Program::start(ECHO, &["--config", "-"]);
    server.write(&first.stdout);
    server.close_stdin();
    server.line();
    server.signal("HUP");
    let line = server.stderr_line("reloaded");
    assert!(line.contains("in_effect=\"nothing\"") && line.contains("at_restart=\"nothing\""), "{line}");
}

#[test]
fn sighup_puts_limits_and_the_log_in_effect_and_names_what_takes_a_restart() {
    let files = Directory::new("config-reload");
    let text = |listen: &str, peers: u32, verbose: u32| {
        format!("listen = '{listen}'\n[limits]\nmax-peers = {peers}\n[logging]\nverbose = {verbose}\n")
    };
    let config = files.file("echo.toml", text("udp://127.0.0.1:0", 1, 0));
    let (mut server, address) = start_echo(&["--config", &config]);
    // This peer takes the only place.
    let first = UdpSocket::bind("127.0.0.1:0").unwrap();
    first.connect(address.strip_prefix("udp://").unwrap()).unwrap();
    first.send(b"x").unwrap();
    first.recv(&mut [0; 16]).unwrap();
    files.file("echo.toml", text("udp://127.0.0.1:1", 10, 1));
    server.signal("HUP");
    let line = server.stderr_line("reloaded");
    assert!(line.contains("in_effect=\"max-peers, verbose\""), "{line}");
    assert!(line.contains("at_restart=\"listen\""), "{line}");
    // There is room for another peer now, and the listener has not changed.
    assert_eq!(run(NC, &[&address], "x\n").stdout, "x\n");

    files.file("echo.toml", text("udp://127.0.0.1:0", 10, 1));
    server.signal("HUP");
    let line = server.stderr_line("reloaded");
    assert!(line.contains("in_effect=\"nothing\"") && line.contains("at_restart=\"nothing\""), "{line}");
    server.signal("TERM");
    let ended = server.wait();
    assert_eq!(ended.code, Some(0));
    // The end of a peer is logged at this level only.
    assert!(ended.stderr.contains("DEBUG"), "{ended:?}");
}

#[test]
fn sighup_with_a_mistake_changes_nothing_and_names_the_place() {
    let files = Directory::new("config-keep");
    let psk = files.file("psk", "alice:00ff\n");
    let good = "listen = 'dtls://127.0.0.1:0'\n[identity]\npsk-file = 'psk'\n[limits]\nmax-peers = 10\n";
    let config = files.file("echo.toml", good);
    let (mut server, address) = start_echo(&["--config", &config]);
    let answers = || run(NC, &["--psk", "alice:00ff", &address], "x\n").stdout == "x\n";
    assert!(answers());

    files.file("echo.toml", good.replace("= 10", "= 1\nnonsense = 1"));
    server.signal("HUP");
    let line = server.stderr_line("not reloaded, everything stays as it was: ");
    assert!(line.contains(&format!("{config}:6: there is no key nonsense here")), "{line}");
    assert!(answers());

    files.file("echo.toml", good.replace("= 10", "= 20"));
    files.file("psk", "alice:00ff\nbob\n");
    server.signal("HUP");
    let line = server.stderr_line("not reloaded, everything stays as it was: ");
    assert!(line.contains(&format!("{psk}:2: there is no colon")), "{line}");
    assert!(answers());

    fs::remove_file(&config).unwrap();
    server.signal("HUP");
    let line = server.stderr_line("not reloaded, everything stays as it was: ");
    assert!(line.contains(&config), "{line}");
    assert!(answers());
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn sighup_reads_pre_shared_keys_again() {
    let files = Directory::new("config-psk");
    let psk = files.file("psk", "alice:00ff\n");
    let (mut server, address) = start_echo(&["--listen", "dtls://127.0.0.1:0", "--psk-file", &psk]);
    let knock = |key| run(NC, &["--psk", key, &address], "x\n");
    assert_eq!(knock("alice:00ff").stdout, "x\n");
    knock("bob:0011").failed_with("peeloff-nc", 3, "unknown_psk_identity");
    files.file("psk", "bob:0011\n");
    server.signal("HUP");
    server.stderr_line("reloaded");
    assert_eq!(knock("bob:0011").stdout, "x\n");
    knock("alice:00ff").failed_with("peeloff-nc", 3, "unknown_psk_identity");
}

#[test]
fn the_chat_has_a_section_of_its_own() {
    let files = Directory::new("config-chat");
    for (text, expected) in [
        ("[chat]\nmax-lines = '1K'", ":2: there is no key max-lines here: the nearest is max-line"),
        ("[chat]\nmax-line = '1'", ":2: max-line 1 is not usable: give 16 to 8K"),
        ("[chat]\noutbox = 0", ":2: outbox 0 is not usable"),
        ("[chat]\norigin = 'north'", ": redis <URL> is required by the other options"),
        ("listen = 'tcp://127.0.0.1:0'\n[stream]\nframing = 'raw'", ":3: framing has no use here"),
    ] {
        let config = files.file("chat.toml", text);
        run(CHAT, &["--config", &config], "").failed_with("peeloff-chat", 2, &format!("{config}{expected}"));
    }
    let first =
        run(CHAT, &["--max-rooms", "7", "--redis", "redis://:s3cret@localhost", "--print-config"], "");
    assert_eq!((first.code, first.stdout.contains("s3cret")), (Some(0), false), "{first:?}");
    let second = run(CHAT, &["--config", "-", "--print-config"], &first.stdout);
    assert!(second.stdout.contains("\nmax-rooms = 7  # from standard input:"), "{second:?}");

    let good = "listen = 'tls://127.0.0.1:0'\n[chat]\nmax-line = '100'\n";
    let config = files.file("chat.toml", good);
    let mut server = Program::start(CHAT, &["--config", &config]);
    server.line();
    files.file("chat.toml", good.replace("100", "1"));
    server.signal("HUP");
    let line = server.stderr_line("not reloaded, everything stays as it was: ");
    assert!(line.contains(&format!("{config}:3: max-line 1 is not usable")), "{line}");
    files.file("chat.toml", good.replace("100", "200"));
    server.signal("HUP");
    assert!(server.stderr_line("reloaded").contains("at_restart=\"max-line\""));
}

#[test]
fn sighup_without_a_file_is_taken_well() {
    let (mut server, address) = start_echo(&["--listen", "udp://127.0.0.1:0"]);
    for _ in 0..2 {
        server.signal("HUP");
        server.stderr_line("reloaded");
    }
    assert_eq!(run(NC, &[&address], "x\n").stdout, "x\n");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
}

/// Runs `--check-config` with more options.
fn check(arguments: &[&str]) -> Ended {
    run(ECHO, &[&["--check-config"], arguments].concat(), "")
}

#[test]
fn a_check_says_what_it_found_and_leaves_nothing_running() {
    let files = Directory::new("check");
    let one = Authority::named("one");
    files.file("cert.pem", one.pem());
    let key = files.file("key.pem", one.key_pem());
    // The port stays free, because no other test uses the address.
    let host = "127.0.77.3";
    let port = UdpSocket::bind((host, 0)).unwrap().local_addr().unwrap().port();
    let text = format!(
        "listen = ['dtls://{host}:{port}', 'tls://{host}:{port}']\n\
         [identity]\ncert = 'cert.pem'\nkey = 'key.pem'\n[serving]\nevent-loops = 1\n"
    );
    let config = files.file("echo.toml", text);
    let checked = check(&["--config", &config, "--max-peers", "7"]);
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{checked:?}");
    for expected in [
        &format!("dtls://{host}:{port}: can be listened on\n"),
        &format!("tls://{host}:{port}: can be listened on\n"),
        &format!("certificate CN=one in {}: valid until 2", files.path("cert.pem")),
        "limits: 7 peers, ",
        "read again at SIGHUP: max-peers, cert, key\n",
        "in effect at a start only: listen, event-loops\n",
    ] {
        assert!(checked.stdout.contains(expected), "{expected:?} is not in {}", checked.stdout);
    }

    // A running server is not disturbed, and does not count as a mistake.
    let (server, address) = start_echo(&["--config", &config]);
    let checked = check(&["--config", &config]);
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{checked:?}");
    assert_eq!(checked.stdout.matches(": in use by a running server or by another program").count(), 2);
    assert_eq!(run(NC, &["--insecure", &address], "x\n").stdout, "x\n");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));

    // The check refuses what a start would refuse, with the same message.
    files.file("key.pem", Authority::named("other").key_pem());
    check(&["--config", &config]).failed_with("peeloff-echo", 2, &config);
    std::fs::remove_file(&key).unwrap();
    check(&["--config", &config]).failed_with("peeloff-echo", 2, &key);
    check(&["--listen", "udp://192.0.2.1:0"]).failed_with("peeloff-echo", 2, "192.0.2.1:0 is not an address");
    let twice = ["--listen", &format!("udp://{host}:{port}"), "--listen", &format!("udp://{host}:{port}")];
    check(&twice).failed_with("peeloff-echo", 2, "need the same UDP port");
}

#[test]
fn a_check_has_an_exit_code_of_its_own_for_what_expires() {
    let files = Directory::new("check-expiry");
    let authority = Authority::valid_for("authority", 2);
    let (cert, key) = (files.file("cert.pem", authority.pem()), files.file("key.pem", authority.key_pem()));
    let (ca, crl) = (files.file("ca.pem", authority.pem()), files.file("list.pem", authority.old_list()));
    let checked =
        check(&["--listen", "tls://[::1]:0", "--cert", &cert, "--key", &key, "--ca", &ca, "--crl", &crl]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    for expected in [
        format!("certificate CN=authority in {cert}: expires soon: "),
        format!("authority CN=authority in {ca}: expires soon: "),
        format!("revocation list of CN=authority in {crl}: has expired: "),
    ] {
        assert!(checked.stdout.contains(&expected), "{expected:?} is not in {}", checked.stdout);
    }
}

#[test]
fn servers_take_options_from_their_environment() {
    let variables =
        [("PEELOFF_LISTEN", "udp://127.0.0.1:0"), ("PEELOFF_DSCP", "46"), ("PEELOFF_MAX_PEER", "1")];
    let mut server = Program::start_in(variables, ECHO, &["--receive-buffer", "64K", "--send-buffer", "64K"]);
    let address = server.address();
    assert!(address.starts_with("udp://127.0.0.1:"), "{address}");
    assert_eq!(run(NC, &[&address], "x\n").stdout, "x\n");
    server.stderr_line("PEELOFF_MAX_PEER sets no option: the nearest is PEELOFF_MAX_PEERS");
    server.signal("TERM");
    assert_eq!(server.wait().code, Some(0));
    let server = Program::start_in([("PEELOFF_STACK_SIZE", "1K")], ECHO, &["--listen", "udp://127.0.0.1:0"]);
    server.finish().failed_with("peeloff-echo", 2, "PEELOFF_STACK_SIZE: stack-size 1K is not usable");
}
