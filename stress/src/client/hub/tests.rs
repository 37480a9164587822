use std::net::UdpSocket;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use peeloff::{Credentials, Peer, Scheme, Server};

use super::*;
use crate::client::load::{self, Load};
use crate::secure::{Auth, PSK, Suite};
use crate::stop::Stop;

fn deaf() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn dialer(scheme: Scheme, server: &UdpSocket) -> Dialer {
    let dtls = scheme == Scheme::Dtls;
    let suite = dtls.then(|| Suite { dtls, auth: Auth::Psk, group: "P-256".to_owned() });
    Dialer::new(scheme, server.local_addr().unwrap(), suite).unwrap()
}

#[test]
fn clients_that_get_no_answer_retransmit_their_hello_and_are_counted() {
    let server = deaf();
    let mut clients = dialer(Scheme::Dtls, &server).clients(1).unwrap();
    // The first timer fires after 1 s, the second one after 3 s.
    let load = Load { patience: Duration::from_secs(2), ..Load::of(3) };
    let results = load::run(&mut clients, &load, &Stop::default(), &ProgressBar::hidden()).unwrap();
    assert_eq!((results.completed, results.failed, clients.len()), (0, 3, 0));
    assert_eq!((results.retransmitted, results.timed, results.retransmitted_datagrams), (3, 3, 3));
    assert!(results.why.unwrap().contains("did not complete within 2s"));
    let (mut hellos, mut buffer) = (Vec::new(), [0; 2048]);
    while let Ok((len, client)) = server.recv_from(&mut buffer) {
        hellos.push((client, buffer[..len].to_vec()));
    }
    assert_eq!(hellos.len(), 6);
    for (client, hello) in &hellos {
        let same = hellos.iter().filter(|(other, again)| other == client && again == hello);
        assert_eq!(same.count(), 2, "each client has an address of its own, and says the same twice");
    }
}

#[test]
fn clients_of_plain_udp_are_there_at_once_and_hear_only_what_is_for_them() {
    let server = deaf();
    let mut hub = Hub::new(dialer(Scheme::Udp, &server)).unwrap();
    let clients: Vec<usize> = (0..5).map(|_| hub.begin(None).unwrap()).collect();
    let mut open = Vec::new();
    hub.wait(None, &mut |index, event| match event {
        Event::Open { resumed: false } => open.push(index),
        other => panic!("{other:?}"),
    })
    .unwrap();
    assert_eq!(open, clients);
    hub.send(3, b"three").unwrap();
    hub.flush();
    let mut buffer = [0; 64];
    let (len, address) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..len], address).unwrap();
    let mut heard = Vec::new();
    while heard.is_empty() {
        hub.wait(None, &mut |index, event| match event {
            Event::Message(message) => heard.push((index, message.to_vec())),
            other => panic!("{other:?}"),
        })
        .unwrap();
    }
    assert_eq!(heard, [(3, b"three".to_vec())]);
    // A datagram for a closed client reaches no client.
    hub.close(3);
    server.send_to(b"late", address).unwrap();
    hub.send(4, b"four").unwrap();
    hub.flush();
    let (len, address) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..len], address).unwrap();
    let mut heard = Vec::new();
    while heard.is_empty() {
        hub.wait(None, &mut |index, event| heard.push((index, format!("{event:?}")))).unwrap();
    }
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].0, 4);
}

#[test]
fn addresses_of_clients_that_are_gone_rest_before_others_get_them() {
    let server = deaf();
    let mut hub = Hub::new(dialer(Scheme::Udp, &server)).unwrap();
    for number in 0..=RESTING {
        assert_eq!(hub.begin(None).unwrap(), number);
        hub.close(number);
        // Closing a client again has no effect.
        hub.close(number);
    }
    assert_eq!((hub.begin(None).unwrap(), hub.begin(None).unwrap()), (0, RESTING + 1));
    assert!(hub.clients.len() <= RESTING + 2, "the table does not grow with those that come and go");
}

#[test]
fn a_client_without_an_answer_is_counted_though_others_keep_this_side_busy() {
    let server = deaf();
    let mut hub = Hub::new(dialer(Scheme::Dtls, &server)).unwrap();
    let (lonely, busy) = (hub.begin(None).unwrap(), hub.begin(None).unwrap());
    hub.flush();
    let (mut buffer, mut addresses) = ([0; 2048], Vec::new());
    while let Ok((_, address)) = server.recv_from(&mut buffer) {
        addresses.push(address);
    }
    hub.clients[busy] = Some(Client::Plain);
    // Processing the busy client's datagrams takes longer than the interval between two checks.
    while hub.retransmissions(lonely).datagrams == 0 {
        (0..100).for_each(|_| drop(server.send_to(b"message", addresses[1])));
        hub.wait(None, &mut |_, _| std::thread::sleep(Duration::from_millis(2))).unwrap();
    }
    assert!(hub.retransmissions(lonely).timer);
}

#[test]
fn a_server_learns_that_the_last_clients_of_a_run_have_left() {
    let credentials = Credentials::new().psk(|_| Some(PSK.to_vec()));
    let builder = Server::builder().listen("dtls://127.0.0.1:0").credentials(credentials);
    let server = builder
        .start(|peer: &mut Peer| {
            let mut message = Vec::new();
            while peer.recv_into(&mut message)?.is_some() {
                peer.send(&message)?;
            }
            Ok::<(), peeloff::Error>(())
        })
        .unwrap();
    let address = server.addresses()[0].resolve().unwrap()[0];
    let suite = Suite { dtls: true, auth: Auth::Psk, group: "P-256".to_owned() };
    let mut clients = Dialer::new(Scheme::Dtls, address, Some(suite)).unwrap().clients(1).unwrap();
    let load = Load { messages: 1, stay: false, ..Load::of(20) };
    let results = load::run(&mut clients, &load, &Stop::default(), &ProgressBar::hidden()).unwrap();
    assert_eq!((results.completed, results.failed, clients.len()), (20, 0, 0));
    let end = Instant::now() + Duration::from_secs(10);
    while server.handle().stats().peers > 0 {
        assert!(Instant::now() < end, "{} have not left", server.handle().stats().peers);
        std::thread::sleep(Duration::from_millis(5));
    }
}
