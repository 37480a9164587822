//! DTLS on a socket that systemd has bound: the server needs no right to the port, and clients that come while it restarts wait.
//!
//! ```text
//! # example.socket                        # example.service
//! [Socket]                                [Service]
//! ListenDatagram=127.0.0.1:4433           Type=notify
//!                                         ExecStart=/usr/local/bin/systemd
//! ```
//!
//! Without systemd, its own tool passes a socket:
//!
//! ```text
//! cargo build -p peeloff-examples --bin systemd
//! systemd-socket-activate --datagram --listen 127.0.0.1:4433 target/debug/systemd
//! cargo run -p peeloff-servers --bin peeloff-nc -- --insecure dtls://127.0.0.1:4433
//! ```

use std::error::Error;
use std::time::Duration;

use peeloff::{Identity, Peer, Scheme, Server, inherited_descriptor};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn echo(peer: &mut Peer) -> Result<(), peeloff::Error> {
    let mut message = Vec::new();
    while peer.recv_into(&mut message)?.is_some() {
        peer.send(&message)?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let mut builder = Server::builder().identity(Identity::self_signed()?);
    // The descriptors begin with 3, and LISTEN_FDS says how many there are (sd_listen_fds(3)).
    let mut passed = 0;
    for number in sd_notify::listen_fds()? {
        builder = builder.listen_on(Scheme::Dtls, inherited_descriptor(number)?);
        passed += 1;
    }
    if passed == 0 {
        return Err(
            "no socket was passed: start this from a socket unit or by systemd-socket-activate".into()
        );
    }
    let server = builder.start(echo)?;
    for address in server.addresses() {
        println!("listening {address}");
    }
    // Where nobody asked to be told, these do nothing.
    sd_notify::notify(&[NotifyState::Ready])?;
    signals.forever().next();
    sd_notify::notify(&[NotifyState::Stopping])?;
    server.handle().shutdown(Duration::from_secs(10));
    Ok(())
}
