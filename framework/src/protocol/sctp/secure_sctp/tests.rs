//! Client and server in memory, over streams that overtake each other.

use std::collections::HashMap;
use std::sync::Arc;

use openssl::ssl::SslContext;

use super::*;
use crate::credentials::{CaBundle, ClientAuth, Credentials, Identity, PeerIdentity};
use crate::error::EndReason;
use crate::protocol::dtls::hello::{HANDSHAKE, Record};
use crate::protocol::sctp::simulation::{Rng, Wire};
use crate::tls::context::{self, ClientCredentials, Protocol};

mod dtls;
mod tls;

const STREAMS: u16 = 32;

/// One side, with an executor of actions that checks their order.
struct End {
    session: SecureSctp,
    keys: HashMap<u16, [u8; 64]>,
    active: u16,
    waiting: bool,
    /// What came, with the reply's address.
    messages: Vec<(Vec<u8>, MessageInfo)>,
    closed: bool,
    broken: Option<String>,
    failure: Option<Failure>,
    sent: usize,
}

impl End {
    fn new(session: SecureSctp) -> Self {
        let keys = HashMap::from([(0, [0; 64])]);
        Self {
            session,
            keys,
            active: 0,
            waiting: false,
            messages: Vec::new(),
            closed: false,
            broken: None,
            failure: None,
            sent: 0,
        }
    }

    fn execute(&mut self, wire: &mut Wire<(Vec<u8>, MessageInfo)>) {
        while let Some(action) = self.session.next_action() {
            assert!(!self.waiting, "{action:?} before the kernel was dry");
            match action {
                Action::Send { payload, info } => {
                    if let (SecureSctp::Dtls(_), Ok((record, rest))) =
                        (&self.session, Record::split(&payload))
                    {
                        assert!(rest.is_empty(), "one record is one message");
                        let protected = record.epoch == 1 && record.content_type == HANDSHAKE;
                        assert_eq!(self.active == 1, record.epoch == 1, "the key of {record:?}");
                        assert!(!protected || self.keys.contains_key(&1));
                        let data = record.content_type == 23;
                        assert!(data || info == SendInfo::default(), "{info:?}");
                    }
                    self.sent += 1;
                    let SendInfo { stream, ppid, unordered, .. } = info;
                    let came = MessageInfo { stream, ppid, unordered, ..MessageInfo::default() };
                    wire.send(stream, unordered, (payload, came));
                }
                Action::AwaitDry => self.waiting = true,
                Action::AddKey { number, key } => assert!(self.keys.insert(number, **key).is_none()),
                Action::ActivateKey(number) => {
                    assert!(self.keys.contains_key(&number));
                    self.active = number;
                }
                Action::DeleteKey(number) => {
                    assert_ne!(number, self.active);
                    assert!(self.keys.remove(&number).is_some());
                }
                Action::ShutDown | Action::Abort(_) => unreachable!("only a whole association ends"),
            }
        }
    }

    fn take(&mut self, message: &[u8], info: MessageInfo) {
        if self.failure.is_some() {
            return;
        }
        match self.session.receive(&mut message.to_vec(), info) {
            Ok(complete) => assert_eq!(complete, self.session.is_complete()),
            Err(failure) => {
                self.failure = Some(failure);
                return;
            }
        }
        let mut buffer = [0; 2048];
        while self.session.has_more() && self.broken.is_none() {
            match self.session.read(&mut buffer) {
                (Read::Message(len), info) => self.messages.push((buffer[..len].to_vec(), info)),
                (Read::Long(message), info) => self.messages.push((message, info)),
                (Read::Closed, _) => self.closed = true,
                (Read::Broken(why), _) => self.broken = Some(why),
                (Read::Restarted(_) | Read::TooLong, _) => unreachable!(),
                (Read::Nothing, _) => {}
            }
        }
    }

    fn send(&mut self, message: &[u8], stream: u16) {
        let info = SendInfo { stream, ppid: 46, ..SendInfo::default() };
        self.session.write(message, info).unwrap();
    }
}

struct Pair {
    client: End,
    server: End,
    up: Wire<(Vec<u8>, MessageInfo)>,
    down: Wire<(Vec<u8>, MessageInfo)>,
    rng: Rng,
}

impl Pair {
    fn new(client: SecureSctp, server: SecureSctp, seed: u64) -> Self {
        let (up, down) = (Wire::new(64), Wire::new(64));
        Self { client: End::new(client), server: End::new(server), up, down, rng: Rng::new(seed) }
    }

    /// One step at random; `false` when nothing is left to do.
    fn step(&mut self) -> bool {
        self.client.execute(&mut self.up);
        self.server.execute(&mut self.down);
        for (end, wire) in [(&mut self.client, &self.up), (&mut self.server, &self.down)] {
            if end.waiting && wire.is_empty() {
                assert!(end.session.next_action().is_none());
                end.waiting = false;
                end.session.dry();
                return true;
            }
        }
        let up = if self.up.is_empty() { false } else { self.down.is_empty() || self.rng.below(2) == 0 };
        let (wire, end) =
            if up { (&mut self.up, &mut self.server) } else { (&mut self.down, &mut self.client) };
        match wire.arrive(&mut self.rng) {
            Some((message, info)) => end.take(&message, info),
            None => return false,
        }
        true
    }

    fn run(&mut self) -> &mut Self {
        while self.step() {}
        self
    }

    fn opened(mut self) -> Self {
        self.run();
        assert!(self.client.session.is_complete(), "{:?}", (&self.client.failure, &self.server.failure));
        assert!(self.server.session.is_complete(), "{:?}", (&self.client.failure, &self.server.failure));
        self
    }

    /// Opens a further TLS stream.
    fn open_stream(&mut self, stream: u16) {
        let info = SendInfo { stream, ..SendInfo::default() };
        assert_eq!(self.client.session.write(b"x", info), Err(Refused::NotOpen));
        self.run();
    }
}

/// Credentials that trust each other, with client authentication where `mutual`.
fn credentials(mutual: bool) -> (ClientCredentials, Credentials) {
    let (ours, theirs) = (Identity::self_signed().unwrap(), Identity::self_signed().unwrap());
    let trust = |identity: &Identity| CaBundle::from_pem(&identity.certificate_pem()).unwrap();
    let client = ClientCredentials {
        authorities: Some(trust(&theirs)),
        identity: mutual.then(|| ours.clone()),
        ..ClientCredentials::default()
    };
    let client_auth = if mutual { ClientAuth::Required(trust(&ours)) } else { ClientAuth::None };
    let server = Credentials { identities: vec![theirs], client_auth, ..Credentials::default() };
    (client, server)
}

fn psk_credentials(identity: Option<Identity>) -> (ClientCredentials, Credentials) {
    let client = ClientCredentials {
        psk: Some((b"alice".to_vec(), vec![7; 32].into())),
        ..ClientCredentials::default()
    };
    let server = Credentials {
        identities: identity.into_iter().collect(),
        psk: Some(Arc::new(|identity: &[u8]| (identity == b"alice").then(|| vec![7; 32]))),
        ..Credentials::default()
    };
    (client, server)
}

fn contexts(
    (client, server): &(ClientCredentials, Credentials),
    protocol: Protocol,
) -> (SslContext, SslContext) {
    (context::client(client, protocol).unwrap(), context::server(server, protocol).unwrap())
}
