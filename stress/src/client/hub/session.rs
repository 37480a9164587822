//! A client's open DTLS session: keys, replay window, and the last flight for as long as the server may need it
//! again.

use peeloff::test_support::dtls::{Opened, Opener, SealError, Sealer};

use crate::client::Retransmissions;

/// The level and the description of close_notify (RFC 5246 §7.2).
const WARNING: u8 = 1;
const CLOSE_NOTIFY: u8 = 0;

/// An open session.
pub(super) struct Session {
    sealer: Sealer,
    opener: Opener,
    flight: Vec<Box<[u8]>>,
    pub(super) retransmissions: Retransmissions,
}

/// The result of a datagram.
pub(super) enum Received {
    /// The datagram had no other effect.
    Nothing,
    /// The server has not received the last flight, which must be sent again.
    Missed,
    /// The server ended the session.
    Ended(String),
}

impl Session {
    pub(super) fn new(
        sealer: Sealer,
        opener: Opener,
        flight: Vec<Box<[u8]>>,
        retransmissions: Retransmissions,
    ) -> Self {
        Self { sealer, opener, flight, retransmissions }
    }

    /// Encrypts a message and appends the datagram to `out`.
    pub(super) fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.sealer.seal_data(message, out)
    }

    /// Appends a datagram with close_notify to `out`.
    pub(super) fn close_notify(&mut self, out: &mut Vec<u8>) {
        // If the alert cannot be encrypted, none is sent.
        let _ = self.sealer.seal_alert(WARNING, CLOSE_NOTIFY, out);
    }

    /// Decrypts a datagram in place, and passes each message to `each`.
    pub(super) fn open(&mut self, datagram: &mut [u8], mut each: impl FnMut(&[u8])) -> Received {
        let (mut at, mut missed) = (0, false);
        while let Some(opened) = self.opener.open(datagram, &mut at) {
            match opened {
                Opened::Data(range) => {
                    self.flight = Vec::new();
                    each(&datagram[range]);
                }
                Opened::Alert { description: CLOSE_NOTIFY, .. } => {
                    return Received::Ended("the server sent close_notify".to_owned());
                }
                // These clients have no connection IDs, so their paths are not checked.
                Opened::Alert { level: WARNING, .. } | Opened::Check(_) => {}
                Opened::Alert { description, .. } => {
                    return Received::Ended(format!("the server sent the fatal alert {description}"));
                }
                Opened::KeyExhausted => return Received::Ended("too many records were forged".to_owned()),
                Opened::Handshake(_) => missed = true,
                Opened::Dropped(dropped) => {
                    missed |= dropped == peeloff::test_support::dtls::Dropped::ReplayedHandshake;
                }
            }
        }
        if missed && !self.flight.is_empty() { Received::Missed } else { Received::Nothing }
    }

    /// Returns the last flight to send it again.
    pub(super) fn retransmit(&mut self) -> &[Box<[u8]>] {
        self.retransmissions.datagrams += self.flight.len() as u32;
        &self.flight
    }
}
