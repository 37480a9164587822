//! Peers on plain UDP that must prove their address before they are sent much.

mod support;

use std::net::UdpSocket;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use peeloff::{Error, Peer, PostOutcome, TrySendError};
use support::{DEADLINE, Running};

/// The size of the headers of IPv4 and UDP, in bytes.
const HEADERS: usize = 28;

/// Sends the token, if one is still needed. Then answers one message many times and with every way to send, checks
/// the result of each, and calls `answered`.
fn flood(peer: &mut Peer, answered: impl Fn()) -> Result<(), Error> {
    let mut buffer = [0; 2048];
    while peer.recv(&mut buffer)?.is_some() {
        // The token fits into the budget of the shortest message.
        if let Some(token) = peer.proof_token().map(str::to_owned) {
            peer.send(token.as_bytes())?;
        }
        let sender = peer.sender();
        let unproven = peer.proof_token().is_some();
        for _ in 0..20 {
            let sent = peer.send(&[b'x'; 100]);
            assert!(sent.is_ok() || (unproven && matches!(sent, Err(Error::Unproven))), "{sent:?}");
            let sent = sender.try_send([b'x'; 100]);
            assert!(
                sent.is_ok()
                    || (unproven && matches!(sent, Err(TrySendError { error: Error::Unproven, .. }))),
                "{sent:?}"
            );
            let posted = sender.post(&Arc::from(&[b'x'; 100][..]));
            assert_eq!(posted == PostOutcome::Dropped, unproven && posted != PostOutcome::Sent);
        }
        // The last message is so short that it always fits.
        if !unproven {
            peer.send(b"end")?;
        }
        answered();
    }
    Ok(())
}

#[test]
fn a_source_gets_three_times_what_it_sent_until_it_returned_the_token() {
    for url in ["udp://127.0.0.1:0", "udp://[::1]:0"] {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let handler = move |peer: &mut Peer| flood(peer, || tell.lock().unwrap().send(()).unwrap());
        let running = Running::with(url, |builder| builder.udp_proof(true), handler);
        let socket = UdpSocket::bind((running.address().ip(), 0)).unwrap();
        socket.connect(running.address()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let headers = if running.address().is_ipv4() { HEADERS } else { HEADERS + 20 };
        let (mut sent, mut came, mut token) = (0, 0, Vec::new());
        let mut buffer = [0; 2048];
        for message in [&b"x"[..], &[b'y'; 200], b"not the token"] {
            socket.send(message).unwrap();
            sent += message.len() + headers;
            let length = socket.recv(&mut buffer).unwrap();
            token = buffer[..length].to_vec();
            came += length + headers;
            told.recv_timeout(DEADLINE).expect("everything is sent");
            socket.set_nonblocking(true).unwrap();
            while let Ok(length) = socket.recv(&mut buffer) {
                came += length + headers;
            }
            socket.set_nonblocking(false).unwrap();
            assert!(came <= 3 * sent, "{url}: {came} bytes for {sent}");
        }
        // The server used its budget.
        assert!(came > 2 * sent, "{url}: {came} bytes for {sent}");
        assert!(running.stats().messages_dropped > 0);
        socket.send(&token).unwrap();
        let mut messages = 0;
        loop {
            match socket.recv(&mut buffer).unwrap() {
                3 => break,
                length => assert_eq!(length, 100),
            }
            messages += 1;
        }
        assert_eq!(messages, 60, "{url}");
    }
}

#[test]
fn an_echo_needs_no_proof() {
    let running = Running::echo_with("udp://127.0.0.1:0", |builder| builder.udp_proof(true));
    let mut peer = running.connect();
    for size in [1, 0, 100, 1400, 9000] {
        support::exchange(&mut peer, &vec![b'a'; size]);
    }
}
