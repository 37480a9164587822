//! An echo over SCTP: each message goes back on the stream, and with the payload protocol identifier,
//! that it came with.
//!
//! [`Peer::reply`] does that; [`Peer::send`] would use stream 0. Streams are independent of each other,
//! so that a lost packet holds up its own stream only.
//!
//! ```text
//! cargo run -p peeloff-examples --bin sctp_echo
//! scripts/sctp-vm cargo run -p peeloff-examples --bin sctp_echo    # on a kernel without SCTP
//! ```

use std::process::ExitCode;
use std::time::Duration;

use peeloff::sctp::SendInfo;
use peeloff::{Client, Error, Peer, Server};

fn echo(peer: &mut Peer) -> Result<(), Error> {
    let mut buffer = [0; 2048];
    while let Some(len) = peer.recv(&mut buffer)? {
        peer.reply(&buffer[..len])?;
    }
    Ok(())
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
    let server = Server::builder().listen(address).start(echo)?;
    println!("listening {}", server.addresses()[0]);

    let mut client = Client::builder().connect(&server.addresses()[0])?;
    let mut buffer = [0; 2048];
    for (stream, ppid) in [(0, 0), (1, 46), (63, 3)] {
        let how = SendInfo::default().stream(stream).ppid(ppid);
        // `sctp` gives `None` once the association is over, and on other transports.
        client.sctp().ok_or("no association")?.send(b"hello", &how)?;
        let len = client.recv_timeout(&mut buffer, Duration::from_secs(5))?.ok_or("the server went")?;
        let info = client.message_info().unwrap_or_default();
        let text = String::from_utf8_lossy(&buffer[..len]);
        println!("{text} came back on stream {} with identifier {}", info.stream, info.ppid);
    }
    client.close();
    server.handle().shutdown(Duration::from_secs(1));
    Ok(())
}
