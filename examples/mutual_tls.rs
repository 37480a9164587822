//! Certificates on both sides: the server shows one from files and asks for one of its own
//! authority's, so it knows by name whom it talks to.
//!
//! ```text
//! new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -x509 -days 30"
//! $new -subj "/CN=my authority" -keyout ca.key -out ca.pem
//! $new -CA ca.pem -CAkey ca.key -subj /CN=localhost -addext subjectAltName=DNS:localhost \
//!     -addext basicConstraints=critical,CA:false -keyout server.key -out server.pem
//! $new -CA ca.pem -CAkey ca.key -subj /CN=alice \
//!     -addext basicConstraints=critical,CA:false -keyout alice.key -out alice.pem
//!
//! cargo run -p peeloff-examples --bin mutual_tls dtls://127.0.0.1:4433 server.pem server.key ca.pem
//! cargo run -p peeloff-servers --bin peeloff-nc -- \
//!     --ca ca.pem --cert alice.pem --key alice.key dtls://localhost:4433
//! ```

use std::path::Path;

use peeloff::{CaBundle, ClientAuth, Error, Identity, Peer, PeerIdentity, Server};

fn greet(peer: &mut Peer) -> Result<(), Error> {
    // Whoever has no certificate of the authority does not get as far as here.
    let name = match peer.identity() {
        PeerIdentity::Certificate(certificate) => certificate.common_name.as_deref().unwrap_or("nameless"),
        _ => "stranger",
    };
    let greeting = format!("welcome, {name}\n");
    peer.send(greeting.as_bytes())?;
    let mut buffer = [0; 2048];
    while let Some(len) = peer.recv(&mut buffer)? {
        peer.send(&buffer[..len])?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, chain, key, authorities] = arguments.as_slice() else {
        return Err("usage: mutual_tls URL CERT KEY CA, such as dtls://127.0.0.1:4433".into());
    };
    let authorities = CaBundle::from_file(Path::new(authorities))?;
    let server = Server::builder()
        .listen(address)
        .identity(Identity::from_files(Path::new(chain), Path::new(key))?)
        .client_auth(ClientAuth::Required(authorities))
        .start(greet)?;
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
        for (identity, greeting) in [
            (PeerIdentity::Certificate(Box::new(alice)), "welcome, alice\n"),
            (PeerIdentity::Anonymous, "welcome, stranger\n"),
        ] {
            let remote = Pair::new(Scheme::Dtls).identity(identity).serve(greet);
            assert_eq!(remote.recv().as_deref(), Some(greeting.as_bytes()));
        }
    }
}
