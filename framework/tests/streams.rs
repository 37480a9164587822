//! Peers on streams without framing, for libraries that use `Read` and `Write`.

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use peeloff::testing::Pair;
use peeloff::{EndKind, EndReason, Error, Framing, Peer, Scheme, TcpSettings, Timeouts};
use support::{DEADLINE, Running};

const BOTH: [&str; 2] = ["tcp://127.0.0.1:0", "tls://127.0.0.1:0"];

fn shout(peer: &mut Peer) -> Result<(), Error> {
    let mut reader = BufReader::new(peer.as_stream().ok_or(Error::TimedOut)?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        reader.get_mut().write_all(line.to_uppercase().as_bytes())?;
        line.clear();
    }
    Ok(())
}

#[test]
fn buffered_readers_and_write_all_work_on_both_sides() {
    for url in BOTH {
        let running = Running::with(url, |builder| builder, shout);
        let mut peer = running.connect();
        let mut reader = BufReader::new(peer.as_stream().unwrap());
        let long = format!("{}\n", "x".repeat(200_000));
        for text in ["hello\n", &long, "bye\n"] {
            reader.get_mut().write_all(text.as_bytes()).unwrap();
            reader.get_mut().flush().unwrap();
            let mut answer = String::new();
            reader.read_line(&mut answer).unwrap();
            assert!(answer == text.to_uppercase(), "{url}: {} bytes", answer.len());
        }
        drop(peer);
        running.until("the end is one of the peer's", |stats| stats.ended(EndKind::ClosedByPeer) == 1);
        assert_eq!(running.stats().ended(EndKind::HandlerFailed), 0, "{url}");
    }
}

#[test]
fn a_read_times_out_and_the_connection_lives() {
    for url in BOTH {
        let running = Running::echo(url);
        let mut peer = running.connect();
        let mut stream = peer.as_stream().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20)));
        let mut buffer = [0; 4];
        assert_eq!(stream.read(&mut buffer).unwrap_err().kind(), ErrorKind::TimedOut, "{url}");
        stream.set_read_timeout(Some(DEADLINE));
        assert_eq!(stream.read(&mut []).unwrap(), 0);
        stream.write_all(b"four").unwrap();
        stream.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"four");
    }
}

#[test]
fn a_stream_that_is_cut_is_an_unexpected_end_on_tls_and_an_end_on_tcp() {
    for url in BOTH {
        let (found, outcome) = channel();
        let handler = move |peer: &mut Peer| -> Result<(), Error> {
            let read = peer.as_stream().unwrap().read_to_end(&mut Vec::new());
            found.send(read.map_err(|error| (error.kind(), Error::from(error)))).unwrap();
            Ok(())
        };
        let running = Running::with(url, |builder| builder, handler);
        let stream = TcpStream::connect(running.address()).unwrap();
        if url.starts_with("tls") {
            let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
            connector.set_verify(SslVerifyMode::NONE);
            let mut stream = connector.build().connect("localhost", stream).unwrap();
            stream.write_all(b"half a mess").unwrap();
            // There is no close_notify. Closing at once, with the server's tickets unread, would reset the
            // connection.
            stream.get_ref().shutdown(Shutdown::Write).unwrap();
            let error = outcome.recv_timeout(DEADLINE).unwrap().unwrap_err();
            assert!(
                matches!(error, (ErrorKind::UnexpectedEof, Error::Ended(EndReason::Truncated))),
                "{error:?}"
            );
        } else {
            (&stream).write_all(b"half a mess").unwrap();
            drop(stream);
            assert_eq!(outcome.recv_timeout(DEADLINE).unwrap().unwrap(), 11);
        }
    }
}

#[test]
fn a_flush_waits_for_the_kernel_to_take_all_and_loses_nothing_where_it_does_not() {
    let (told, full) = channel();
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        let mut stream = peer.as_stream().unwrap();
        let mut written = 0;
        let error = loop {
            match stream.flush() {
                Ok(()) => written += stream.write(&[7; 32 << 10]).unwrap(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        told.send(written).unwrap();
        let deadline = Instant::now() + DEADLINE;
        while stream.flush().is_err() {
            assert!(Instant::now() < deadline);
        }
        Ok(())
    };
    let mut timeouts = Timeouts::default();
    timeouts.send = Duration::from_millis(50);
    let running = Running::with(BOTH[0], |builder| builder.timeouts(timeouts), handler);
    let mut client = TcpStream::connect(running.address()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let written = full.recv_timeout(DEADLINE).unwrap();
    let mut found = Vec::new();
    client.read_to_end(&mut found).unwrap();
    assert_eq!(found.len(), written);
}

#[test]
fn a_peer_with_message_boundaries_is_not_a_byte_stream() {
    for &scheme in Scheme::ALL {
        for (framing, is_stream) in [(Framing::Raw, scheme.is_stream()), (Framing::Lines, false)] {
            let settings = TcpSettings::default().framing(framing);
            let (mut peer, _remote) = Pair::new(scheme).tcp(settings).open();
            assert_eq!(peer.as_stream().is_some(), is_stream, "{scheme} {framing:?}");
        }
    }
}

#[test]
fn a_vector_grows_for_the_message_and_is_as_long_as_it() {
    let mut settings = TcpSettings::default();
    settings.framing = Framing::LengthPrefixed;
    for (url, long) in [
        ("udp://127.0.0.1:0", 60_000),
        ("dtls://127.0.0.1:0", 16_384),
        ("tcp://127.0.0.1:0", 60_000),
        ("tls://127.0.0.1:0", 60_000),
    ] {
        let running = Running::echo_with(url, |builder| builder.tcp(settings.clone()));
        let mut peer = running.client().tcp(settings.clone()).connect(running.url()).unwrap();
        let mut message = b"older".to_vec();
        for len in [1, 3000, long, 2] {
            peer.send(&vec![len as u8; len]).unwrap();
            assert_eq!(peer.recv_into_timeout(&mut message, DEADLINE).unwrap(), Some(len), "{url}");
            assert_eq!(message, vec![len as u8; len], "{url}");
        }
        let late = peer.recv_into_timeout(&mut message, Duration::ZERO);
        assert!(matches!(late, Err(Error::TimedOut)) && message.is_empty(), "{url}");
        assert!(message.capacity() <= 16 << 10, "{url}");
    }
}
