//! Mutual TLS with a list of who may come in: the client needs a certificate of the authority, and its name on the list.
//!
//! `authorize` is asked after each handshake, on the peer's own thread, and reads the list anew, so a change of the file
//! is in effect for the next handshake. It could as well ask a database.
//!
//! ```text
//! new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -x509 -days 30"
//! $new -subj "/CN=my authority" -keyout ca.key -out ca.pem
//! $new -CA ca.pem -CAkey ca.key -subj /CN=localhost -addext subjectAltName=DNS:localhost \
//!     -addext basicConstraints=critical,CA:false -keyout server.key -out server.pem
//! $new -CA ca.pem -CAkey ca.key -subj /CN=alice \
//!     -addext basicConstraints=critical,CA:false -keyout alice.key -out alice.pem
//! echo alice > allowed
//!
//! cargo run -p peeloff-examples --bin mutual_tls dtls://127.0.0.1:4433 server.pem server.key ca.pem allowed
//! cargo run -p peeloff-servers --bin peeloff-nc -- \
//!     --ca ca.pem --cert alice.pem --key alice.key dtls://localhost:4433
//! ```

use std::path::Path;

use peeloff::{CaBundle, ClientAuth, Credentials, Error, Identity, Peer, PeerIdentity, Server};

fn name(peer: &PeerIdentity) -> Option<&str> {
    match peer {
        PeerIdentity::Certificate(certificate) => certificate.common_name.as_deref(),
        _ => None,
    }
}

/// Whether the list has the name of this peer on a line. Without a list no peer is let in.
fn is_allowed(list: &Path, peer: &PeerIdentity) -> bool {
    let names = std::fs::read_to_string(list).unwrap_or_else(|error| {
        eprintln!("cannot read {}: {error}", list.display());
        String::new()
    });
    name(peer).is_some_and(|name| names.lines().any(|line| line.trim() == name))
}

fn greet(peer: &mut Peer) -> Result<(), Error> {
    let greeting = format!("welcome, {}\n", name(peer.identity()).unwrap_or("nameless"));
    peer.send(greeting.as_bytes())?;
    let mut message = Vec::new();
    while peer.recv_into(&mut message)?.is_some() {
        peer.send(&message)?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, chain, key, authorities, list] = arguments.as_slice() else {
        return Err("usage: mutual_tls URL CERT KEY CA LIST, with a URL such as dtls://127.0.0.1:4433".into());
    };
    let list = list.clone();
    let credentials = Credentials::new()
        .identity(Identity::from_files(chain, key)?)
        .client_auth(ClientAuth::Required(CaBundle::from_file(authorities)?))
        .authorize(move |peer| is_allowed(Path::new(&list), peer));
    let server = Server::builder().listen(address).credentials(credentials).start(greet)?;
    println!("listening {}", server.addresses()[0]);
    server.wait();
    Ok(())
}

#[cfg(test)]
mod tests {
    use peeloff::testing::Pair;
    use peeloff::{PeerCertificate, Scheme};
    use peeloff_certificates::Authority;

    use super::*;

    #[test]
    fn a_peer_is_greeted_by_the_name_in_its_certificate() {
        let alice = PeerCertificate::from_pem(&Authority::new().certificate("alice").pem()).unwrap();
        let remote =
            Pair::new(Scheme::Dtls).identity(PeerIdentity::Certificate(Box::new(alice))).serve(greet);
        assert_eq!(remote.recv().as_deref(), Some(&b"welcome, alice\n"[..]));
    }

    #[test]
    fn no_peer_is_admitted_without_a_list_or_a_name() {
        assert!(!is_allowed(Path::new("/no/such/list"), &PeerIdentity::Anonymous));
    }
}
