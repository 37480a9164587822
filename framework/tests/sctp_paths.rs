//! SCTP over paths that lose, reorder and fail. Each test has a network namespace of its own.

#[path = "support/network.rs"]
mod network;
mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use network::{heal, netem, netem_to, run_in_own_network};
use peeloff::sctp::{Notification, NotificationKind, PathState, Reliability, SendInfo, Settings, Socket};
use peeloff::{EndKind, EndReason, Error, Event, Peer};
use support::{DEADLINE, Running, echo, exchange};

/// Associations are given up after this time.
const DEAD_AFTER: Duration = Duration::from_secs(6);

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.dead_after = Some(DEAD_AFTER);
    settings
}

/// How long the notification of the end may take: the bound, plus time for a busy machine.
const NOTICED: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_peer_that_vanishes_is_noticed_with_and_without_data_under_way() {
    if run_in_own_network("a_peer_that_vanishes_is_noticed_with_and_without_data_under_way") {
        return;
    }
    let (report, reports) = channel();
    let report = Mutex::new(report);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        let mut buffer = [0; 64];
        let end = loop {
            match peer.recv(&mut buffer) {
                Ok(Some(len)) if &buffer[..len] == b"talk" => peer.send(b"into the void")?,
                Ok(Some(len)) => peer.send(&buffer[..len])?,
                Ok(None) => break None,
                Err(Error::Ended(reason)) => break Some(reason),
                Err(error) => return Err(error),
            }
        };
        report.lock().unwrap().send(end).unwrap();
        Ok(())
    };
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder.sctp(settings()), handler);
    let client = running.client().sctp(settings());
    let mut silent = client.connect(running.url()).unwrap();
    let mut talking = client.connect(running.url()).unwrap();
    exchange(&mut silent, b"here");
    exchange(&mut talking, b"here");
    netem("loss 100%");
    // This is never acknowledged, so both sides have data in flight.
    talking.send(b"talk").unwrap();
    let began = Instant::now();
    for peer in [&mut silent, &mut talking] {
        match peer.recv_timeout(&mut [0; 64], DEADLINE) {
            Err(Error::Ended(EndReason::Unreachable)) => {}
            other => panic!("{other:?}"),
        }
    }
    for _ in 0..2 {
        assert_eq!(reports.recv_timeout(DEADLINE).unwrap(), Some(EndReason::Unreachable));
    }
    assert!(began.elapsed() < NOTICED, "noticed after {:?}", began.elapsed());
    let stats = running.until("both are gone", |stats| stats.peers == 0);
    assert_eq!((stats.ended(EndKind::Unreachable), stats.sctp_lost), (2, 2));
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn traffic_goes_on_over_the_other_path_when_one_dies() {
    if run_in_own_network("traffic_goes_on_over_the_other_path_when_one_dies") {
        return;
    }
    let url = "sctp://127.0.0.1,127.0.0.2:0";
    let running = Running::with(url, |builder| builder.sctp(settings()), echo);
    let local: [SocketAddr; 2] = ["127.0.0.3:0".parse().unwrap(), "127.0.0.4:0".parse().unwrap()];
    let client = running.client().sctp(settings()).bind(local[0]).bind(local[1]);
    let mut peer = client.connect(running.url()).unwrap();
    exchange(&mut peer, b"before");
    let primary = peer.sctp().unwrap().options().unwrap().primary().unwrap();
    // On a single loopback interface, all other packets leave from the first address of each side.
    netem_to(&[&primary.ip().to_string()], "loss 100%");
    let began = Instant::now();
    exchange(&mut peer, b"after");
    let bound = DEAD_AFTER / 2 + Duration::from_secs(10);
    assert!(began.elapsed() < bound, "resumed after {:?}", began.elapsed());
    for number in 0..20u32 {
        exchange(&mut peer, &number.to_be_bytes());
    }
    heal();
    exchange(&mut peer, b"healed");
    assert_eq!(running.stats().peers, 1);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_peer_that_restarts_gets_a_new_association() {
    if run_in_own_network("a_peer_that_restarts_gets_a_new_association") {
        return;
    }
    let (report, reports) = channel();
    let report = Mutex::new(report);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        let mut buffer = [0; 64];
        while let Some(len) = peer.recv(&mut buffer)? {
            report.lock().unwrap().send((peer.id(), buffer[..len].to_vec())).unwrap();
        }
        Ok(())
    };
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder, handler);
    let port = std::net::TcpListener::bind("127.0.0.9:0").unwrap().local_addr().unwrap().port();
    let call = |word: &[u8]| {
        let socket = Socket::one_to_one(false).unwrap();
        socket.bind(&[SocketAddr::from(([127, 0, 0, 9], port))]).unwrap();
        socket.connect(&[running.address()]).unwrap();
        socket.send(word, &SendInfo::default()).unwrap();
        socket
    };
    let first = call(b"one");
    let (id, message) = reports.recv_timeout(DEADLINE).unwrap();
    assert_eq!(message, b"one");
    // The abort is lost, so the server does not know that the first association has ended.
    netem("loss 100%");
    socket2::SockRef::from(&first).set_linger(Some(Duration::ZERO)).unwrap();
    drop(first);
    heal();
    let _second = call(b"two");
    let (successor, message) = reports.recv_timeout(DEADLINE).unwrap();
    assert_eq!(message, b"two");
    assert_ne!(successor, id, "the old handler got the new peer's message");
    let stats = running.until("the first has ended", |stats| stats.ended(EndKind::Replaced) == 1);
    assert_eq!((stats.sctp_restarts, stats.opened, stats.peers), (1, 2, 1));
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn loss_and_reordering_cost_nothing_on_thirty_two_streams() {
    if run_in_own_network("loss_and_reordering_cost_nothing_on_thirty_two_streams") {
        return;
    }
    for scheme in ["sctp", "sctp+dtls"] {
        let running = Running::with(
            &format!("{scheme}://127.0.0.1:0"),
            |builder| builder,
            |peer: &mut Peer| -> Result<(), Error> {
                let mut buffer = [0; 2048];
                while let Some(len) = peer.recv(&mut buffer)? {
                    peer.reply(&buffer[..len])?;
                }
                Ok(())
            },
        );
        let mut peer = running.connect();
        netem("loss 5% delay 5ms 3ms reorder 25% 50%");
        const MESSAGES: u32 = 2000;
        let sender = peer.sender();
        let sending = std::thread::spawn(move || {
            for number in 0..MESSAGES {
                // Unordered messages use the upper half of the streams.
                let stream = (number % 32) as u16;
                let how = SendInfo::default().stream(stream).ppid(7).unordered(stream >= 16);
                let mut message = vec![number as u8; 200];
                message[..4].copy_from_slice(&number.to_be_bytes());
                let deadline = Instant::now() + DEADLINE;
                while let Err(error) = sender.try_send_with(&message, &how) {
                    assert!(matches!(error.error, Error::SendBufferFull), "{error}");
                    assert!(Instant::now() < deadline, "the send buffer stays full");
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            }
        });
        let mut seen = HashSet::new();
        let mut newest = [None; 16];
        let mut buffer = [0; 2048];
        while seen.len() < MESSAGES as usize {
            let len = peer.recv_timeout(&mut buffer, 2 * DEADLINE).unwrap().expect("a message");
            let info = peer.message_info().unwrap();
            assert_eq!(len, 200);
            let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
            assert!(buffer[4..len].iter().all(|byte| *byte == number as u8), "{scheme}: {number} is corrupt");
            assert_eq!((info.stream, info.ppid), ((number % 32) as u16, 7));
            assert!(seen.insert(number), "{scheme}: {number} came twice");
            if let Some(newest) = newest.get_mut(usize::from(info.stream)) {
                assert!(*newest < Some(number), "{scheme}: {number} was overtaken on its stream");
                *newest = Some(number);
            }
        }
        sending.join().unwrap();
        heal();
        peer.close();
        let stats = running.until("it ends", |stats| stats.ended(EndKind::ClosedByPeer) == 1);
        assert_eq!(stats.records_dropped, 0, "{scheme}");
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_message_whose_lifetime_is_over_is_given_up_and_a_reliable_one_is_not() {
    if run_in_own_network("a_message_whose_lifetime_is_over_is_given_up_and_a_reliable_one_is_not") {
        return;
    }
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder, echo);
    let mut peer = running.connect();
    exchange(&mut peer, b"before");
    netem("loss 100%");
    let mut sctp = peer.sctp().unwrap();
    let brief = Reliability::Lifetime(Duration::from_millis(100));
    let few = Reliability::Retransmissions(0);
    for (reliability, word) in [(brief, b"brief"), (few, b"fewer"), (Reliability::Reliable, b"sure!")] {
        sctp.send(word, &SendInfo::default().reliability(reliability)).unwrap();
    }
    // This is longer than the first retransmission takes.
    std::thread::park_timeout(Duration::from_secs(3));
    heal();
    let mut buffer = [0; 64];
    let mut came = Vec::new();
    while came.last().is_none_or(|word| word != b"sure!") {
        let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().expect("a message");
        came.push(buffer[..len].to_vec());
    }
    assert_eq!(came, [b"sure!".to_vec()], "what was to be given up came all the same");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn an_unordered_message_overtakes_and_an_ordered_one_waits() {
    if run_in_own_network("an_unordered_message_overtakes_and_an_ordered_one_waits") {
        return;
    }
    let running = Running::with(
        "sctp://127.0.0.1:0",
        |builder| builder,
        |peer: &mut Peer| -> Result<(), Error> {
            let mut buffer = [0; 64];
            while let Some(len) = peer.recv(&mut buffer)? {
                peer.reply(&buffer[..len])?;
            }
            Ok(())
        },
    );
    // The timer must not repeat the first message before the others are sent. Once these are acknowledged, the message
    // is sent again at once (RFC 9260 §7.2.4).
    let settings = Settings::default().rto_min(Some(DEADLINE / 4)).rto_max(Some(DEADLINE / 2));
    let mut peer = running.client().sctp(settings).connect(running.url()).unwrap();
    exchange(&mut peer, b"before");
    // The first message is lost once; the messages after it arrive.
    netem("loss 100%");
    let ordered = |stream| SendInfo::default().stream(stream);
    peer.sctp().unwrap().send(b"late", &ordered(1)).unwrap();
    heal();
    let mut sctp = peer.sctp().unwrap();
    sctp.send(b"next", &ordered(1)).unwrap();
    sctp.send(b"rush", &ordered(1).unordered(true)).unwrap();
    sctp.send(b"other", &ordered(2)).unwrap();
    let mut came = Vec::new();
    let mut buffer = [0; 64];
    for _ in 0..4 {
        let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().expect("a message");
        came.push(String::from_utf8(buffer[..len].to_vec()).unwrap());
    }
    let at = |word: &str| came.iter().position(|other| other == word).unwrap();
    assert!(at("late") < at("next"), "{came:?}");
    assert!(at("rush") < at("late") && at("other") < at("late"), "{came:?}");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn addresses_come_and_go_while_an_association_lives() {
    if run_in_own_network("addresses_come_and_go_while_an_association_lives") {
        return;
    }
    let mut settings = Settings::default();
    settings.dynamic_addresses = true;
    let (report, reports) = channel();
    let report = Mutex::new(report);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        peer.sctp().unwrap().subscribe(NotificationKind::PathChanged, true)?;
        let mut buffer = [0; 64];
        while let Some(event) =
            peer.sctp().map(|mut sctp| sctp.recv_event(&mut buffer)).transpose()?.flatten()
        {
            match event {
                Event::Message(len, _) => peer.send(&buffer[..len])?,
                Event::Notification(Notification::PathChanged { address, state, .. }) => {
                    report.lock().unwrap().send((address.ip().to_string(), state)).unwrap();
                }
                _ => {}
            }
        }
        Ok(())
    };
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder.sctp(settings.clone()), handler);
    let client = running.client().sctp(settings).bind("127.0.0.3:0".parse().unwrap());
    let mut peer = client.connect(running.url()).unwrap();
    exchange(&mut peer, b"from one address");
    let heard = |wanted: PathState| loop {
        let (address, state) = reports.recv_timeout(DEADLINE).unwrap();
        if state == wanted {
            return address;
        }
    };
    let options = |peer: &mut Peer| peer.sctp().unwrap().options().unwrap().local_addresses().unwrap();
    let another: SocketAddr = "127.0.0.4:0".parse().unwrap();
    peer.sctp().unwrap().options().unwrap().add_local_addresses(&[another]).unwrap();
    assert_eq!(heard(PathState::Added), "127.0.0.4");
    assert_eq!(options(&mut peer).len(), 2);
    let port = options(&mut peer)[0].port();
    let first: SocketAddr = format!("127.0.0.3:{port}").parse().unwrap();
    let another: SocketAddr = format!("127.0.0.4:{port}").parse().unwrap();
    peer.sctp().unwrap().options().unwrap().set_peer_primary(another).unwrap();
    assert_eq!(heard(PathState::MadePrimary), "127.0.0.4");
    peer.sctp().unwrap().options().unwrap().remove_local_addresses(&[first]).unwrap();
    assert_eq!(heard(PathState::Removed), "127.0.0.3");
    assert_eq!(options(&mut peer), [another]);
    exchange(&mut peer, b"from the other");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn an_association_runs_inside_udp_where_both_sides_say_so() {
    if run_in_own_network("an_association_runs_inside_udp_where_both_sides_say_so") {
        return;
    }
    // This is the kernel's own port in this network namespace, to which SCTP's packets come back.
    std::fs::write("/proc/sys/net/sctp/udp_port", "9899").unwrap();
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder, echo);
    let mut settings = Settings::default();
    settings.udp_encapsulation_port = Some(9899);
    let mut peer = running.client().sctp(settings).connect(running.url()).unwrap();
    exchange(&mut peer, b"in UDP");
    let port = |peer: &mut Peer| {
        let options = peer.sctp().unwrap();
        options.options().unwrap().remote_udp_encapsulation_port(None).unwrap()
    };
    assert_eq!(port(&mut peer), Some(9899));
    // Without the setting, no packets of the association arrive.
    let before = datagrams();
    exchange(&mut peer, b"and counted");
    assert!(datagrams() >= before + 2, "the traffic is no UDP");
}

/// Returns the number of UDP datagrams received in this network namespace.
fn datagrams() -> u64 {
    let table = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let index = names.split(' ').position(|name| name == "InDatagrams").unwrap();
    numbers.split(' ').nth(index).unwrap().parse().unwrap()
}
