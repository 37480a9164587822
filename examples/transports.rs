//! One handler on four transports at once: what a message is means the same on each.
//!
//! UDP and DTLS keep the boundaries of messages. TCP and TLS are streams of bytes, and [`Framing::Lines`] says
//! that a message is a line there.
//!
//! ```text
//! cargo run -p peeloff-examples --bin transports
//! openssl s_client -quiet -connect 127.0.0.1:PORT      # the port of tls://
//! ```

use peeloff::{Error, Framing, Identity, Peer, Server, StreamSettings};

/// Answers each message with the number of its words.
fn count_words(peer: &mut Peer) -> Result<(), Error> {
    let mut buffer = [0; 2048];
    while let Some(len) = peer.recv(&mut buffer)? {
        let words = String::from_utf8_lossy(&buffer[..len]).split_whitespace().count();
        peer.send(format!("{words} words over {}\n", peer.scheme()).as_bytes())?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut streams = StreamSettings::default();
    streams.framing = Framing::Lines;
    let mut builder = Server::builder().stream(streams).identity(Identity::self_signed()?);
    for scheme in ["udp", "dtls", "tcp", "tls"] {
        builder = builder.listen(format!("{scheme}://127.0.0.1:0").parse()?);
    }
    let server = builder.start(count_words)?;
    for address in server.addresses() {
        println!("listening {address}");
    }
    server.wait();
    Ok(())
}
