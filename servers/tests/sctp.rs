//! The servers over SCTP: with each other, with servers that report a message's parameters, and with other
//! clients (ncat, socat, lksctp-tools).

#[path = "support/nc_ends.rs"]
mod nc_ends;
#[path = "../../framework/tests/support/network.rs"]
#[allow(dead_code)]
mod network;
mod support;

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver};

use nc_ends::{all_are_served, hear_each_other};
use peeloff::sctp::MessageInfo;
use peeloff::{Error, Identity, Peer, Server};
use support::{DEADLINE, NC, Program, run, start_echo};

/// A message, its parameters, and the addresses of its sender, which are none if the association had ended
/// already.
type Heard = (String, MessageInfo, Vec<SocketAddr>);

/// Starts a server that reports what it receives.
fn listener(url: &str) -> (Server, String, Receiver<Heard>) {
    let (sender, heard) = mpsc::channel();
    let tell = move |peer: &mut Peer| -> Result<(), Error> {
        let mut buffer = vec![0; 1 << 20];
        while let Some(length) = peer.recv(&mut buffer)? {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let addresses = match peer.sctp() {
                Some(sctp) => sctp.options()?.peer_addresses().unwrap_or_default(),
                None => Vec::new(),
            };
            let info = peer.message_info().expect("an SCTP peer");
            let _ = sender.send((text, info, addresses));
        }
        Ok(())
    };
    let server =
        Server::builder().listen(url).identity(Identity::self_signed().unwrap()).start(tell).unwrap();
    let address = server.addresses()[0].to_string();
    (server, address, heard)
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap()
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn messages_come_back_with_and_without_encryption() {
    for (listen, options) in [
        ("sctp://127.0.0.1:0", &[][..]),
        ("sctp://[::1]:0", &[][..]),
        ("sctp://*:0", &[][..]),
        ("sctp://127.0.0.1,127.0.0.2:0", &[][..]),
        ("sctp+tls://127.0.0.1:0", &["--insecure"][..]),
        ("sctp+dtls://127.0.0.1:0", &["--insecure"][..]),
    ] {
        let (server, address) = start_echo(&["--listen", listen]);
        // Connect to one address of a listener at all addresses.
        let address = address.replace("//[::]:", "//[::1]:");
        let mut arguments = vec![address.as_str()];
        arguments.extend(options);
        let ended = run(NC, &arguments, "one\ntwo\n");
        assert_eq!(ended.stdout, "one\ntwo\n", "{listen}: {ended:?}");
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{listen}");
        server.signal("TERM");
        assert_eq!(server.wait().code, Some(0), "{listen}");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn encrypted_means_encrypted() {
    for scheme in ["sctp+tls", "sctp+dtls"] {
        let (_server, address) = start_echo(&["--listen", &format!("{scheme}://127.0.0.1:0")]);
        // The certificate cannot be verified and is refused, which shows that there is one.
        run(NC, &[&address], "x\n").failed_with("peeloff-nc", 3, "pass --ca FILE with its authority");
        let ended = run(NC, &["--insecure", "-v", &address], "x\n");
        assert!(ended.stdout == "x\n" && ended.stderr.contains("cipher="), "{scheme}: {ended:?}");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_message_goes_out_as_the_options_say() {
    let (_server, address, heard) = listener("sctp://127.0.0.1:0");
    for (options, expected) in [
        (&[][..], (0, 0, false)),
        (&["--stream", "5", "--ppid", "46"][..], (5, 46, false)),
        (&["--stream", "63", "--ppid", "4294967295", "--unordered"][..], (63, u32::MAX, true)),
        (&["--ttl", "10s", "--unordered"][..], (0, 0, true)),
    ] {
        let ended = run(NC, &[&["--wait", "0s", &address], options].concat(), "x\n");
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{options:?}");
        let (text, info, _) = heard.recv_timeout(DEADLINE).unwrap();
        assert_eq!((info.stream, info.ppid, info.unordered), expected, "{options:?}");
        assert_eq!(text, "x\n");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn the_echo_comes_back_on_the_stream_that_it_was_asked_on() {
    use peeloff::Client;
    use peeloff::sctp::SendInfo;
    let (_server, address) = start_echo(&["--listen", "sctp://127.0.0.1:0"]);
    let mut peer = Client::builder().connect(address).unwrap();
    let mut buffer = [0; 100];
    for (stream, ppid, unordered) in [(0, 0, false), (7, 46, false), (63, 3, true)] {
        let how = SendInfo::default().stream(stream).ppid(ppid).unordered(unordered);
        peer.sctp().unwrap().send(b"x", &how).unwrap();
        assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(1));
        let info = peer.message_info().unwrap();
        assert_eq!((info.stream, info.ppid, info.unordered), (stream, ppid, unordered));
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn the_sender_of_a_message_that_is_too_long_is_told_so() {
    let (server, address) = start_echo(&["--listen", "sctp://127.0.0.1:0", "--sctp-max-message", "1K"]);
    let ended = run(NC, &[&address], &format!("{}\n", "x".repeat(5000)));
    assert_eq!(ended.stdout, "", "{ended:?}");
    assert_ne!(ended.code, Some(0), "{ended:?}");
    let why = "the peer sent a message that is longer than 1024 bytes";
    assert!(ended.stderr.contains(why), "{ended:?}");
    server.signal("TERM");
    let ended = server.wait();
    assert!(ended.stderr.contains(why), "{ended:?}");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn the_number_of_streams_is_what_both_sides_have() {
    let (_server, address) = start_echo(&["--listen", "sctp://127.0.0.1:0", "--sctp-streams", "8"]);
    assert_eq!(run(NC, &["--stream", "7", &address], "x\n").stdout, "x\n");
    let beyond = run(NC, &["--stream", "8", &address], "x\n");
    beyond.failed_with("peeloff-nc", 2, "--stream 8 exceeds the 8 streams that both sides have");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn several_addresses_on_both_sides() {
    let (_server, address, heard) = listener("sctp://127.0.0.1,127.0.0.2:0");
    let bound = ["--bind", "127.0.0.3", "--bind", "127.0.0.4"];
    // The client stays until its message has been received.
    let mut client = Program::start(NC, &[&["--wait", "0s", &address], &bound[..]].concat());
    client.write("x\n");
    let (_, _, addresses) = heard.recv_timeout(DEADLINE).unwrap();
    let ended = client.finish();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let mut addresses: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    addresses.sort();
    assert_eq!(addresses, ["127.0.0.3", "127.0.0.4"]);

    let absent = run(NC, &["--bind", "192.0.2.1", &address], "x\n");
    absent.failed_with("peeloff-nc", 2, "use a free address of this host");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn the_primary_address_is_one_of_the_servers() {
    let (_server, address) = start_echo(&["--listen", "sctp://127.0.0.1,127.0.0.2:0"]);
    let ended = run(NC, &["--primary", "127.0.0.2", "--notifications", &address], "x\n");
    assert_eq!((ended.stdout.as_str(), ended.code), ("x\n", Some(0)), "{ended:?}");
    assert!(ended.stderr.contains("notification: path 127.0.0.2 is the primary path\n"), "{ended:?}");
    let wrong = run(NC, &["--primary", "127.0.0.9", &address], "x\n");
    wrong.failed_with("peeloff-nc", 2, "choose one of 127.0.0.1, 127.0.0.2");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn notifications_are_lines_on_standard_error() {
    let (server, address) = start_echo(&["--listen", "sctp://127.0.0.1:0"]);
    let mut client = Program::start(NC, &["--notifications", &address]);
    client.write("x\n");
    assert_eq!(client.line(), "x");
    client.stderr_line("notification: everything sent is acknowledged");
    server.signal("TERM");
    client.stderr_line("notification: the peer shuts down");
    assert_eq!(server.wait().code, Some(0));
    let ended = client.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let only = ended.stderr.lines().all(|line| line.starts_with("notification: "));
    assert!(only, "{ended:?}");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn both_ends_of_nc_hear_each_other() {
    for (url, options) in [("sctp://127.0.0.1:0", &[][..]), ("sctp+dtls://127.0.0.1:0", &["--insecure"][..])]
    {
        let server = hear_each_other(&[url, "--stream", "3"], options);
        // The shutdown of the first peer ends the program.
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_listener_that_is_kept_open_serves_all_peers() {
    all_are_served("sctp://127.0.0.1:0", &[]);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn exit_code_3_is_an_association_that_is_refused() {
    run(NC, &["sctp://127.0.0.1:9"], "x\n").failed_with("peeloff-nc", 3, "no association with 127.0.0.1:9");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn foreign_clients_get_their_echo() {
    let (_server, address) = start_echo(&["--listen", "sctp://127.0.0.1:0"]);
    let port = port(&address);
    let socat = format!("SCTP-CONNECT:127.0.0.1:{port}");
    for (program, arguments) in
        [("ncat", &["--sctp", "127.0.0.1", port][..]), ("socat", &["STDIO", &socat][..])]
    {
        // These clients shut down at the end of their input, so they must wait for the answer first.
        let mut client = Program::start(program, arguments);
        for line in ["one", "two"] {
            client.write(&format!("{line}\n"));
            assert_eq!(client.line(), line, "{program}");
        }
        let ended = client.finish();
        assert_eq!(ended.code, Some(0), "{program}: {ended:?}");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn ncat_speaks_tls_over_sctp() {
    let (_server, address) = start_echo(&["--listen", "sctp+tls://127.0.0.1:0"]);
    let mut client = Program::start("ncat", &["--sctp", "--ssl", "127.0.0.1", port(&address)]);
    for line in ["over stream 0", "and again"] {
        client.write(&format!("{line}\n"));
        assert_eq!(client.line(), line);
    }
    let ended = client.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn openssl_speaks_dtls_over_sctp_with_the_echo_server() {
    if network::run_in_own_network("openssl_speaks_dtls_over_sctp_with_the_echo_server") {
        return;
    }
    let openssl =
        std::env::var("PEELOFF_OPENSSL_SCTP").expect("PEELOFF_OPENSSL_SCTP: see scripts/openssl-sctp");
    let (_server, address) = start_echo(&["--listen", "sctp+dtls://127.0.0.1:0"]);
    let connect = format!("127.0.0.1:{}", port(&address));
    // OpenSSL's part of SCTP-AUTH needs this setting of the network namespace.
    std::fs::write("/proc/sys/net/sctp/auth_enable", "1").unwrap();
    let mut client = Program::start(&openssl, &["s_client", "-dtls1_2", "-sctp", "-connect", &connect]);
    for line in ["from s_client", "and again"] {
        client.write(&format!("{line}\n"));
        // The line comes among its messages about the session.
        while client.line() != line {}
    }
    client.finish();
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn the_programs_of_lksctp_send_and_receive() {
    // The sending program prints nothing that it receives, so the other end reports it.
    let (_server, address, heard) = listener("sctp://127.0.0.1:0");
    let to = ["-H", "127.0.0.1", "-P", "0", "-h", "127.0.0.1", "-p", port(&address), "-s"];
    let mut darn = Program::start("sctp_darn", &to);
    darn.write("from darn\n");
    let (text, info, _) = heard.recv_timeout(DEADLINE).unwrap();
    // It sends the NUL after the line too.
    assert_eq!((text.trim_end_matches('\0'), info.stream), ("from darn\n", 0));
    darn.close_stdin();
    darn.wait();

    // Messages have up to three packets.
    let ended = run("sctp_test", &[&to[..], &["-c", "1", "-x", "2"]].concat(), "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let sizes: Vec<usize> = ended
        .stdout
        .lines()
        .filter(|line| line.contains("sendmsg("))
        .map(|line| line.split(' ').rev().nth(1).unwrap().parse().unwrap())
        .collect();
    assert!(sizes.len() > 10, "{ended:?}");
    for size in sizes {
        assert_eq!(heard.recv_timeout(DEADLINE).unwrap().0.len(), size);
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_foreign_server_sees_stream_and_identifier() {
    let mut darn = Program::start("stdbuf", &["-oL", "sctp_darn", "-H", "127.0.0.1", "-P", "4711", "-l"]);
    darn.line();
    let ended =
        run(NC, &["--stream", "5", "--ppid", "46", "--wait", "0s", "sctp://127.0.0.1:4711"], "hello\n");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let mut lines = (0..40).map(|_| darn.line());
    assert!(lines.any(|line| line.trim() == "sinfo_stream 5"));
    // It prints the number in network byte order.
    let ppid = format!("sinfo_ppid {}", 46u32.to_be());
    assert!(lines.any(|line| line.trim() == ppid));
    assert!(lines.any(|line| line.contains("hello")));
}
