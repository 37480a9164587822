//! A graceful shutdown: after SIGINT (Ctrl-C) or SIGTERM no new peers come in, and the present ones get time to finish.
//!
//! While the server drains, `recv` returns `Ok(None)` once nothing is waiting. The handler may then
//! say its last words and return; `recv` goes on to work until the grace period is over.
//!
//! ```text
//! cargo run -p peeloff-examples --bin graceful_shutdown
//! cargo run -p peeloff-servers --bin peeloff-nc -- --insecure dtls://127.0.0.1:4433
//! ```

use std::time::Duration;

use peeloff::{Error, Identity, Peer, Server};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn echo(peer: &mut Peer) -> Result<(), Error> {
    let mut buffer = [0; 2048];
    while let Some(len) = peer.recv(&mut buffer)? {
        peer.send(&buffer[..len])?;
    }
    if peer.end_reason().is_none() {
        peer.send(b"the server goes down, goodbye\n")?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "dtls://127.0.0.1:4433".to_owned());
    // Before the first line of output, because a script that reads it may send a signal at once.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let server = Server::builder().listen(address).identity(Identity::self_signed()?).start(echo)?;
    println!("listening {}", server.addresses()[0]);

    signals.forever().next();
    // Peers that are still there after ten seconds are ended, with a close_notify, too.
    let report = server.handle().shutdown(Duration::from_secs(10));
    println!("{} of {} peers finished in time", report.finished, report.peers);
    Ok(())
}

#[cfg(test)]
mod tests {
    use peeloff::Scheme;
    use peeloff::testing::pair;

    use super::*;

    #[test]
    fn messages_before_the_drain_are_answered_and_then_the_peer_is_told() {
        let (mut peer, remote) = pair(Scheme::Dtls);
        remote.send("x");
        remote.drain();
        echo(&mut peer).unwrap();
        assert_eq!(remote.recv().unwrap(), b"x");
        assert_eq!(remote.recv().unwrap(), b"the server goes down, goodbye\n");
    }

    #[test]
    fn a_peer_that_goes_by_itself_is_told_nothing() {
        let (mut peer, remote) = pair(Scheme::Dtls);
        remote.close();
        echo(&mut peer).unwrap();
        assert_eq!(remote.recv(), None);
    }
}
