//! One handler on four transports at once: it gets the same messages on each.
//!
//! UDP and DTLS keep the boundaries of messages. TCP and TLS are streams of bytes, and [`Framing::Lines`] says
//! that a message is a line there.
//!
//! ```text
//! cargo run -p peeloff-examples --bin transports
//! openssl s_client -quiet -connect 127.0.0.1:PORT      # the port of tls://
//! ```

use peeloff::{Error, Framing, Identity, Peer, Server, TcpSettings};

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
    let lines = TcpSettings::default().framing(Framing::Lines);
    let mut builder = Server::builder().tcp(lines).identity(Identity::self_signed()?);
    for scheme in ["udp", "dtls", "tcp", "tls"] {
        builder = builder.listen(format!("{scheme}://127.0.0.1:0"));
    }
    let server = builder.start(count_words)?;
    for address in server.addresses() {
        println!("listening {address}");
    }
    server.wait();
    Ok(())
}

#[cfg(test)]
mod tests {
    use peeloff::Scheme;
    use peeloff::testing::Pair;

    use super::*;

    #[test]
    fn a_message_is_a_datagram_or_a_line() {
        for scheme in [Scheme::Udp, Scheme::Dtls, Scheme::Tcp, Scheme::Tls] {
            let lines = TcpSettings::default().framing(Framing::Lines);
            let remote = Pair::new(scheme).tcp(lines).serve(count_words);
            remote.send("one two three\n");
            let answer = String::from_utf8(remote.recv().unwrap()).unwrap();
            assert_eq!(answer.trim_end(), format!("3 words over {scheme}"));
        }
    }
}
