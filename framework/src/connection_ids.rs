//! Settings for connection IDs of DTLS (RFC 9146), for servers and clients.

use std::fmt;

use openssl::error::ErrorStack;
use openssl::rand::rand_bytes;
use zeroize::Zeroizing;

use crate::tls::context::connection_ids::Offer;

/// How connection IDs of DTLS 1.2 (RFC 9146) are used. A peer is recognized by the connection ID in its records, so it
/// keeps its association when its address or port changes, for example behind a NAT that has dropped its mapping.
///
/// Each side asks for the connection IDs that it wants to receive. A server uses them with clients that offer the
/// extension; other clients are served as usual.
///
/// # Layout
///
/// A load balancer in front of several servers can route by the bytes of a connection ID, which are not encrypted. A
/// server's connection ID has, in this order:
///
/// | bytes | content |
/// |---|---|
/// | 1 | the number of the event loop that serves the peer; 0 without event loops |
/// | 2 | the [server's number](Self::server_id), the higher byte first; they are random without one |
/// | the rest | random |
///
/// It is unique among the peers of the server at any time. It begins at byte 11 of a record (RFC 9146 §4).
///
/// # Change of address
///
/// The peer's address changes to the source of a record that verifies and is newer than all others (RFC 9146 §6). This
/// library always offers return routability checks (RFC 9853) with connection IDs. If both sides have agreed on them, a
/// new address is challenged first, and until it answers it is sent at most three times the bytes that came from it. If
/// the other side does not support the check, the peer's address does not change, because anyone who can copy a record
/// and forge a source address could redirect the traffic to a third party. Messages from the new address are then
/// received, and answers go to the earlier address. See [`follow_unchecked`](Self::follow_unchecked).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionIds {
    length: u8,
    server_id: Option<u16>,
    follow_unchecked: bool,
}

impl ConnectionIds {
    /// The shortest connection ID that this side may ask for, in bytes, apart from the empty one.
    pub const MIN_LENGTH: usize = 8;
    /// The longest connection ID, in bytes (RFC 9146 §3).
    pub const MAX_LENGTH: usize = 255;

    /// Asks for connection IDs of `length` bytes in the records of the other side: 0, or 8 to 255. Every record carries
    /// them. With 0 this side asks for none but still puts the other side's connection IDs into its records, which is
    /// right for clients, because their server has a fixed address.
    ///
    /// # Errors
    ///
    /// The length is neither 0 nor 8 to 255.
    pub fn new(length: usize) -> Result<Self, ConnectionIdLength> {
        match u8::try_from(length) {
            Ok(byte) if length == 0 || length >= Self::MIN_LENGTH => {
                Ok(Self { length: byte, server_id: None, follow_unchecked: false })
            }
            _ => Err(ConnectionIdLength { length }),
        }
    }

    /// Puts this number of the server into its connection IDs, for a load balancer. Default: none.
    #[must_use]
    pub fn server_id(mut self, server_id: u16) -> Self {
        self.server_id = Some(server_id);
        self
    }

    /// Sets whether the address of a peer that does not support return routability checks may change nevertheless. RFC
    /// 9146 §6 allows this only if the application has its own means to verify that the peer receives at the new
    /// address, such as CoAP's Echo option (RFC 9175). Default: `false`.
    #[must_use]
    pub fn follow_unchecked(mut self, follow: bool) -> Self {
        self.follow_unchecked = follow;
        self
    }

    /// Returns the length in bytes.
    pub(crate) fn length(self) -> usize {
        self.length.into()
    }

    /// Makes a connection ID for a peer of this event loop.
    ///
    /// # Errors
    ///
    /// OpenSSL could not provide random bytes.
    pub(crate) fn generate(self, event_loop: u8) -> Result<Box<[u8]>, ErrorStack> {
        let mut cid = vec![0; self.length()];
        rand_bytes(&mut cid)?;
        if let [number, high, low, ..] = &mut cid[..] {
            *number = event_loop;
            if let Some(server_id) = self.server_id {
                [*high, *low] = server_id.to_be_bytes();
            }
        }
        Ok(cid.into())
    }

    /// Makes the extension that a handshake offers or answers with, for this connection ID.
    ///
    /// # Errors
    ///
    /// OpenSSL could not provide random bytes.
    pub(crate) fn offer(self, cid: Box<[u8]>) -> Result<Offer, ErrorStack> {
        let mut secret = Zeroizing::new([0; 32]);
        rand_bytes(&mut *secret)?;
        Ok(Offer { cid, check: true, follow_unchecked: self.follow_unchecked, secret })
    }
}

/// Error for a connection ID length other than 0 or 8 to 255 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionIdLength {
    /// The length, in bytes.
    pub length: usize,
}

impl fmt::Display for ConnectionIdLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max) = (ConnectionIds::MIN_LENGTH, ConnectionIds::MAX_LENGTH);
        write!(f, "a connection ID has 0 or {min} to {max} bytes, not {}", self.length)
    }
}

impl std::error::Error for ConnectionIdLength {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_connection_id_has_its_layout_and_is_random_in_the_rest() {
        let ids = ConnectionIds::new(8).unwrap().server_id(0x1234);
        let made: HashSet<_> = (0..1000).map(|_| ids.generate(5).unwrap()).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|cid| cid.len() == 8 && cid[..3] == [5, 0x12, 0x34]));
        let without = ConnectionIds::new(255).unwrap().generate(0).unwrap();
        assert_eq!((without.len(), without[0]), (255, 0));
        assert_eq!(ConnectionIds::new(0).unwrap().generate(0).unwrap().len(), 0);
    }

    #[test]
    fn lengths_without_room_for_randomness_are_refused() {
        for length in [1, 7, 256] {
            assert_eq!(ConnectionIds::new(length), Err(ConnectionIdLength { length }));
        }
    }
}
