//! The chat as its members see it, over memory.

use std::time::Duration;

use clap::Parser;
use peeloff::testing::{Pair, Remote};
use peeloff::{Callbacks, EndReason, OutboxLimits, Peer, PeerHandler, TcpSettings, Timeouts};

use super::*;
use crate::chat::ChatArgs;
use crate::chat::proof::answer;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    chat: ChatArgs,
}

/// The chat with the settings of a server that has these options.
struct Server {
    chat: Arc<Callbacks<Chat>>,
    tcp: TcpSettings,
    outbox: OutboxLimits,
}

/// A member in the lobby.
struct Member(Remote);

impl Server {
    fn with(options: &[&str]) -> Self {
        let Options { chat: args } = Options::try_parse_from([&["chat"], options].concat()).unwrap();
        let hub = Arc::new(Hub::new(args.rooms.to_rules().unwrap(), None));
        let chat = Chat { hub, room_streams: false, tls_streams: 1 };
        Self {
            chat: Arc::new(Callbacks::new(chat)),
            tcp: args.to_stream().unwrap(),
            outbox: args.rooms.to_outbox().unwrap(),
        }
    }

    /// Connects a peer that has sent nothing yet.
    fn connect(&self, scheme: Scheme, udp_proof: bool) -> Remote {
        let chat = Arc::clone(&self.chat);
        // This is the server's default.
        let timeouts = Timeouts::default().first_message(None);
        Pair::new(scheme)
            .tcp(self.tcp.clone())
            .outbox(self.outbox)
            .timeouts(timeouts)
            .udp_proof(udp_proof)
            .serve(move |peer: &mut Peer| chat.handle(peer))
    }

    fn come(&self, scheme: Scheme) -> Member {
        let member = Member(self.connect(scheme, false));
        member.expect("* you joined lobby");
        member
    }
}

impl Member {
    fn say(&self, line: &str) {
        assert!(self.0.send(line), "{line}");
    }

    /// Returns the next line.
    #[track_caller]
    fn line(&self) -> String {
        let line = self.0.recv().expect("a line");
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    /// Returns the next line that begins like this.
    #[track_caller]
    fn expect(&self, beginning: &str) -> String {
        loop {
            let line = self.line();
            if line.starts_with(beginning) {
                return line;
            }
        }
    }
}

#[test]
fn members_of_all_transports_hear_each_other_until_they_leave() {
    let server = Server::with(&[]);
    let members: Vec<_> = Scheme::ALL.iter().map(|scheme| server.come(*scheme)).collect();
    for (number, writer) in members.iter().enumerate() {
        writer.say(&format!("I am {number}"));
        for reader in members.iter().filter(|reader| !std::ptr::eq(*reader, writer)) {
            let heard = reader.expect("[lobby]");
            assert_eq!(heard, format!("[lobby] guest{}: I am {number}", number + 1));
        }
    }
    let [stays, goes, quits, drained @ ..] = &members[..] else { panic!("too few members") };
    goes.0.close();
    assert_eq!(stays.expect("* guest2"), "* guest2 left lobby");
    quits.say("/quit");
    assert_eq!(stays.expect("* guest3"), "* guest3 left lobby");
    assert_eq!(quits.0.wait_for_end(), Some(EndReason::ClosedByUs));
    for member in drained {
        member.0.drain();
        member.expect("* the server shuts down");
        assert_eq!(member.0.wait_for_end(), Some(EndReason::Shutdown));
    }
}

#[test]
fn a_peer_on_plain_udp_hears_nothing_of_a_room_before_it_shows_where_it_is() {
    let server = Server::with(&["--flood", "off"]);
    let victim = server.connect(Scheme::Udp, true);
    victim.send("\n");
    let question = String::from_utf8(victim.recv().unwrap()).unwrap();
    let (talker, other) = (server.come(Scheme::Dtls), server.come(Scheme::Tcp));
    for number in 0..20 {
        talker.say(&format!("line {number}"));
        other.expect("[lobby]");
    }
    talker.say("/who");
    assert_eq!(talker.expect("= lobby"), "= lobby: guest1 guest2");
    assert_eq!(victim.try_recv(), None);
    // After the answer the peer is admitted, and its earlier messages are delivered.
    victim.send("said before");
    assert_eq!(victim.recv().unwrap(), question.as_bytes());
    victim.send(answer(&question).unwrap());
    assert_eq!(other.expect("[lobby]"), "[lobby] guest3: said before");
}

#[test]
fn a_slow_reader_loses_lines_by_the_policy_and_nobody_else_does() {
    for (policy, kept) in [("by-transport", 46..50), ("drop-oldest", 46..50), ("drop-newest", 0..4)] {
        // Only the written lines wait for the slow member.
        let options = ["--flood", "off", "--announce-up-to", "0", "--outbox", "4", "--overflow", policy];
        let server = Server::with(&options);
        let [writer, other, slow] =
            [Scheme::Tcp, Scheme::Tls, Scheme::Dtls].map(|scheme| server.come(scheme));
        slow.0.set_room(0);
        for number in 0..50 {
            writer.say(&number.to_string());
            assert_eq!(other.expect("[lobby]"), format!("[lobby] guest1: {number}"));
        }
        // Its answer comes after everybody's lines.
        writer.say("/who");
        writer.expect("= lobby");
        // Now the slow member reads.
        slow.0.set_room(usize::MAX);
        writer.say("more");
        for expected in kept.map(|number| number.to_string()).chain(["more".to_owned()]) {
            assert_eq!(slow.expect("[lobby]"), format!("[lobby] guest1: {expected}"), "{policy}");
        }
    }
}

#[test]
fn a_slow_reader_is_disconnected_where_that_is_the_policy() {
    for (scheme, policy) in [
        (Scheme::Udp, "disconnect"),
        (Scheme::Tcp, "disconnect"),
        (Scheme::Tls, "by-transport"),
        (Scheme::Sctp, "by-transport"),
    ] {
        let server = Server::with(&["--flood", "off", "--outbox", "4", "--overflow", policy]);
        let (writer, slow) = (server.come(Scheme::Dtls), server.come(scheme));
        slow.0.set_room(0);
        // On a stream, data of up to one message also waits behind the socket's buffer.
        for _ in 0..10 {
            writer.say(&"x".repeat(1000));
        }
        assert_eq!(slow.0.wait_for_end(), Some(EndReason::TooSlow), "{scheme}");
        assert_eq!(writer.expect("* guest2 left"), "* guest2 left lobby");
    }
}

#[test]
fn a_member_that_only_reads_stays_and_one_that_never_ends_a_line_is_disconnected() {
    let server = Server::with(&[]);
    let [listener, slow] = [Scheme::Tcp, Scheme::Tls].map(|scheme| server.come(scheme));
    listener.0.elapse(Duration::from_secs(299));
    slow.0.send_bytes("a line without an");
    slow.0.elapse(Duration::from_secs(60));
    assert_eq!(listener.expect("* guest2 left"), "* guest2 left lobby");
    assert_eq!(slow.0.wait_for_end(), Some(EndReason::FrameTimedOut));
    listener.say("/who");
    assert_eq!(listener.expect("= lobby"), "= lobby: guest1");
}

#[test]
fn a_member_that_writes_too_fast_is_ignored() {
    let server = Server::with(&["--flood", "1/5"]);
    let [fast, other] = [Scheme::Dtls, Scheme::Dtls].map(|scheme| server.come(scheme));
    for number in 0..50 {
        fast.say(&number.to_string());
    }
    assert_eq!(fast.expect("!"), "! too fast, and not heard: write at most 1 lines a second");
    fast.0.elapse(Duration::from_secs(1));
    fast.say("later");
    for expected in ["0", "1", "2", "3", "4", "later"] {
        assert_eq!(other.expect("[lobby]"), format!("[lobby] guest1: {expected}"));
    }
}

#[test]
fn a_line_that_is_too_long_is_refused_in_a_sentence() {
    let server = Server::with(&["--max-line", "64"]);
    for &scheme in Scheme::ALL {
        let member = server.come(scheme);
        member.say(&"x".repeat(16_000));
        assert_eq!(member.expect("!"), "! that line is longer than 64 bytes: send it in several", "{scheme}");
        member.0.send(b"caf\xe9");
        assert_eq!(member.expect("!"), "! that line is not UTF-8: set your terminal to UTF-8");
        member.say("/frob");
        assert_eq!(
            member.expect("!"),
            "! there is no command /frob: /help lists them, and //frob says /frob"
        );
    }
}
