//! Requests and responses like CoAP's (RFC 7252), over DTLS with pre-shared keys and connection IDs.
//!
//! A device asks for its set point or sets it, with messages of a few bytes. Its key tells who it is. A device that sleeps, and whose
//! NAT forgets its port meanwhile, goes on without a handshake: its connection ID (RFC 9146) tells the server who sends. Few
//! event loops serve all devices, because most of them are quiet.
//!
//! ```text
//! cargo run -p peeloff-examples --bin coap
//! printf '\x40\x01\x00\x01' |                                  # confirmable, GET, message 1
//!     cargo run -p peeloff-servers --bin peeloff-nc -- --psk sensor-17:73656e736f722d31372d736563726574 dtls://127.0.0.1:4433
//! ```

use std::collections::HashMap;
use std::sync::Mutex;

use peeloff::{
    CipherSuites, ConnectionIds, Credentials, HandlerError, Message, PeerEvents, PeerIdentity, Sender, Server,
};

/// The devices and their keys; a program would read them from a file or a database.
const KEYS: [(&[u8], &[u8]); 2] = [(b"sensor-17", b"sensor-17-secret"), (b"sensor-18", b"sensor-18-secret")];

/// The version, the type and the length of the token, which is none here (RFC 7252 §3).
const CONFIRMABLE: u8 = 0b0100_0000;
const ACKNOWLEDGEMENT: u8 = 0b0110_0000;
/// Codes of requests and responses (RFC 7252 §12.1), such as 2.05.
const GET: u8 = 1;
const PUT: u8 = 3;
const CHANGED: u8 = 2 << 5 | 4;
const CONTENT: u8 = 2 << 5 | 5;
const NOT_ALLOWED: u8 = 4 << 5 | 5;

/// The set point of each device, by its name. It stays when the device leaves.
#[derive(Default)]
struct SetPoints(Mutex<HashMap<Vec<u8>, Vec<u8>>>);

impl SetPoints {
    fn answer(&self, name: &[u8], code: u8, payload: &[u8]) -> (u8, Vec<u8>) {
        let mut points = self.0.lock().unwrap();
        match code {
            GET => (CONTENT, points.get(name).cloned().unwrap_or_default()),
            PUT => {
                points.insert(name.to_vec(), payload.to_vec());
                (CHANGED, Vec::new())
            }
            _ => (NOT_ALLOWED, Vec::new()),
        }
    }
}

impl PeerEvents for SetPoints {
    /// The last request and its response: a request that comes again is answered as before (RFC 7252 §4.5).
    type State = Option<([u8; 2], Vec<u8>)>;

    fn open(&self, _: &Sender) -> Result<Self::State, HandlerError> {
        Ok(None)
    }

    fn message(
        &self,
        last: &mut Self::State,
        peer: &Sender,
        message: Message<'_>,
    ) -> Result<(), HandlerError> {
        let PeerIdentity::Psk(name) = peer.identity() else { return Err("a device without a key".into()) };
        // Whatever is no confirmable request is ignored (RFC 7252 §4.2).
        let &[CONFIRMABLE, code, high, low, ref options @ ..] = message.bytes() else { return Ok(()) };
        let id = [high, low];
        if last.as_ref().is_none_or(|(answered, _)| *answered != id) {
            let payload = options.strip_prefix(&[0xff]).unwrap_or_default();
            let (code, content) = self.answer(name, code, payload);
            let mut response = vec![ACKNOWLEDGEMENT, code, high, low];
            if !content.is_empty() {
                response.push(0xff);
                response.extend(content);
            }
            *last = Some((id, response));
        }
        Ok(last.iter().try_for_each(|(_, response)| peer.send(response))?)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "dtls://127.0.0.1:4433".to_owned());
    let key_of = |name: &[u8]| KEYS.iter().find(|(known, _)| *known == name).map(|(_, key)| key.to_vec());
    // Small devices know suites with short tags alone (RFC 7252 §9.1.3.1).
    let credentials = Credentials::new().psk(key_of).cipher_suites(CipherSuites::constrained());
    let server = Server::builder()
        .listen(address)
        .credentials(credentials)
        .connection_ids(ConnectionIds::new(8)?)
        .start_events(SetPoints::default())?;
    println!("listening {}", server.addresses()[0]);
    server.wait();
    Ok(())
}

#[cfg(test)]
mod tests {
    use peeloff::testing::Pair;
    use peeloff::{Callbacks, Scheme};

    use super::*;

    #[test]
    fn a_request_that_comes_again_is_answered_as_before() {
        let device = PeerIdentity::Psk(b"sensor-17".to_vec());
        let remote = Pair::new(Scheme::Dtls).identity(device).serve(Callbacks::new(SetPoints::default()));
        for (request, response) in [
            (&[CONFIRMABLE, PUT, 0, 1, 0xff, 21][..], &[ACKNOWLEDGEMENT, CHANGED, 0, 1][..]),
            (&[CONFIRMABLE, GET, 0, 2], &[ACKNOWLEDGEMENT, CONTENT, 0, 2, 0xff, 21]),
            // The same message ID with another content is the same message.
            (&[CONFIRMABLE, PUT, 0, 2, 0xff, 5], &[ACKNOWLEDGEMENT, CONTENT, 0, 2, 0xff, 21]),
            (&[CONFIRMABLE, 4, 0, 3], &[ACKNOWLEDGEMENT, NOT_ALLOWED, 0, 3]),
        ] {
            remote.send("no request");
            remote.send(request);
            assert_eq!(remote.recv().as_deref(), Some(response));
        }
    }
}
