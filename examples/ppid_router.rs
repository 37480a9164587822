//! Several protocols on one association: the payload protocol identifier of each message says which
//! handler is for it.
//!
//! The identifiers are IANA's: 3 is M3UA (RFC 4666), 46 Diameter (RFC 6733), 60 NGAP (3GPP TS 38.412).
//!
//! ```text
//! cargo run -p peeloff-examples --bin ppid_router
//! ```

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use peeloff::sctp::SendInfo;
use peeloff::{Client, HandlerError, Peer, PeerHandler, Server};

/// Makes the answer to a message.
type Protocol = fn(&[u8]) -> Vec<u8>;

struct Router {
    protocols: HashMap<u32, Protocol>,
}

impl PeerHandler for Router {
    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        let mut buffer = [0; 2048];
        while let Some(len) = peer.recv(&mut buffer)? {
            let ppid = peer.message_info().unwrap_or_default().ppid;
            match self.protocols.get(&ppid) {
                // On the same stream, with the same identifier.
                Some(protocol) => peer.reply(&protocol(&buffer[..len]))?,
                None => peer.reply(b"nobody here speaks that")?,
            }
        }
        Ok(())
    }
}

fn diameter(message: &[u8]) -> Vec<u8> {
    [b"Diameter took ", message].concat()
}

fn m3ua(message: &[u8]) -> Vec<u8> {
    [b"M3UA took ", message].concat()
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // One sentence, also where the kernel has no SCTP.
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "sctp://127.0.0.1:0".to_owned());
    let protocols = HashMap::from([(46, diameter as Protocol), (3, m3ua)]);
    let server = Server::builder().listen(address).start(Router { protocols })?;
    println!("listening {}", server.addresses()[0]);

    let mut client = Client::builder().connect(&server.addresses()[0])?;
    let mut buffer = [0; 2048];
    for (ppid, message) in [(46, "a request"), (3, "a transfer"), (60, "a setup")] {
        let how = SendInfo::default().ppid(ppid);
        client.sctp().ok_or("no association")?.send(message.as_bytes(), &how)?;
        let len = client.recv_timeout(&mut buffer, Duration::from_secs(5))?.ok_or("the server went")?;
        println!("{ppid}: {}", String::from_utf8_lossy(&buffer[..len]));
    }
    client.close();
    server.handle().shutdown(Duration::from_secs(1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use peeloff::Scheme;
    use peeloff::testing::Pair;

    use super::*;

    #[test]
    fn each_protocol_answers_for_itself_on_the_same_stream() {
        let protocols = HashMap::from([(46, diameter as Protocol), (3, m3ua)]);
        let remote = Pair::new(Scheme::Sctp).serve(Router { protocols });
        for (stream, ppid, answer) in
            [(0, 46, "Diameter took it"), (7, 3, "M3UA took it"), (1, 60, "nobody here speaks that")]
        {
            let how = SendInfo::default().stream(stream).ppid(ppid);
            remote.send_with("it", &how);
            assert_eq!(remote.recv_with(), Some((answer.as_bytes().to_vec(), how)));
        }
    }
}
