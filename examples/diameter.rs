//! An exchange like Diameter's (RFC 6733) over SCTP: two streams, and a payload protocol identifier on each message.
//!
//! Stream 0 is for the connection itself (capabilities, watchdogs), stream 1 for requests, so a lost packet with a request does not
//! hold up a watchdog. Each answer goes out on the stream that its request came on. A message with another identifier
//! aborts the association, and the peer is told the reason.
//!
//! ```text
//! cargo run -p peeloff-examples --bin diameter
//! scripts/sctp-vm cargo run -p peeloff-examples --bin diameter    # on a kernel without SCTP
//! ```

use std::time::Duration;

use peeloff::sctp::{SendInfo, Settings};
use peeloff::{Client, HandlerError, Peer, Server};

/// The payload protocol identifier of Diameter in clear (RFC 6733 §11.4).
const PPID: u32 = 46;
/// Bytes of a header: version and length, flags and command, application, hop-by-hop and end-to-end identifiers (RFC 6733 §3).
const HEADER: usize = 20;
const REQUEST: u8 = 0x80;
const CAPABILITIES: u32 = 257;
const WATCHDOG: u32 = 280;
const CREDIT_CONTROL: u32 = 272;

fn message(command: u32, hop_by_hop: u32) -> Vec<u8> {
    let words = [1 << 24 | HEADER as u32, u32::from(REQUEST) << 24 | command, 0, hop_by_hop, hop_by_hop];
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// Serves one association. A real program would read the AVPs behind the header.
fn serve(peer: &mut Peer) -> Result<(), HandlerError> {
    let mut message = Vec::new();
    while peer.recv_into(&mut message)?.is_some() {
        let info = peer.message_info().unwrap_or_default();
        let length = message.get(..4).map(|word| u32::from_be_bytes([0, word[1], word[2], word[3]]));
        let is_whole = message.len() >= HEADER && message[0] == 1 && length == Some(message.len() as u32);
        if info.ppid != PPID || !is_whole {
            if let Some(sctp) = peer.sctp() {
                sctp.abort(format!("no Diameter message, or not with the identifier {PPID}").as_bytes());
            }
            return Ok(());
        }
        // An answer is the request's header without the R bit, and what the command has to say.
        if message[4] & REQUEST != 0 {
            message[4] &= !REQUEST;
            peer.reply(&message)?;
        }
    }
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        // One sentence, also where the kernel has no SCTP.
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "sctp://127.0.0.1:0".to_owned());
    let two_streams = Settings::default().streams(2);
    let server = Server::builder().listen(address).sctp(two_streams.clone()).start(serve)?;
    println!("listening {}", server.addresses()[0]);

    let mut client = Client::builder().sctp(two_streams).connect(&server.addresses()[0])?;
    let mut answer = Vec::new();
    for (number, (stream, command)) in (1..).zip([(0, CAPABILITIES), (1, CREDIT_CONTROL), (0, WATCHDOG)]) {
        let how = SendInfo::default().stream(stream).ppid(PPID);
        client.sctp().ok_or("the association is over")?.send(&message(command, number), &how)?;
        client.recv_into_timeout(&mut answer, Duration::from_secs(5))?.ok_or("the server went")?;
        let info = client.message_info().unwrap_or_default();
        println!("command {command} answered on stream {} with identifier {}", info.stream, info.ppid);
    }
    client.sctp().ok_or("the association is over")?.send(b"hello", &SendInfo::default())?;
    match client.recv_into_timeout(&mut answer, Duration::from_secs(5)) {
        Err(error) => println!("then: {error}"),
        Ok(_) => return Err("the server took what is no Diameter message".into()),
    }
    server.handle().shutdown(Duration::from_secs(1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use peeloff::Scheme;
    use peeloff::testing::Pair;

    use super::*;

    #[test]
    fn a_request_is_answered_on_its_stream_and_anything_else_aborts() {
        for (foreign, ppid) in [(b"hello".to_vec(), PPID), (message(WATCHDOG, 9), PPID + 1)] {
            let remote = Pair::new(Scheme::Sctp).serve(serve);
            for stream in [0, 1] {
                let how = SendInfo::default().stream(stream).ppid(PPID);
                remote.send_with(message(WATCHDOG, 7), &how);
                let mut expected = message(WATCHDOG, 7);
                expected[4] = 0;
                assert_eq!(remote.recv_with(), Some((expected, how)));
            }
            remote.send_with(foreign, &SendInfo::default().ppid(ppid));
            remote.wait_for_end();
            let reason = String::from_utf8(remote.abort_reason().unwrap()).unwrap();
            assert_eq!(reason, "no Diameter message, or not with the identifier 46");
        }
    }
}
