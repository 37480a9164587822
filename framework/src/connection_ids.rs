//! Connection IDs of DTLS (RFC 9146), as a server or a client is told to use them.

use std::fmt;

use openssl::error::ErrorStack;
use openssl::rand::rand_bytes;
use zeroize::Zeroizing;

use crate::tls::context::connection_ids::Offer;

/// How connection IDs of DTLS 1.2 (RFC 9146) are used: a peer is known by the one in its records, so that it stays the same
/// association when its address or port changes, as behind a NAT that has forgotten it.
///
/// Each side asks for the connection IDs that it wants to receive. A server answers clients that offer the extension, and
/// speaks to all others as ever.
///
/// # Layout
///
/// A load balancer in front of several servers may route by what stands in the clear. A connection ID of a server has, in
/// this order:
///
/// | bytes | content |
/// |---|---|
/// | 1 | the number of the event loop that serves the peer; 0 without event loops |
/// | 2 | the [server's number](Self::server_id), the higher byte first; they are random without one |
/// | the rest | random |
///
/// It is unique among the peers of the server at any time. In a record (RFC 9146 §4) it begins at byte 11.
///
/// # Change of address
///
/// The peer's address follows a record that verifies and is newer than all others (RFC 9146 §6). Where both sides have agreed on
/// return routability checks (RFC 9853), which this library always offers with connection IDs, a new address is challenged
/// first, and until it answers it is sent three times what came from it at most. Where the other side does not know the
/// check, the address does not follow, because anybody who can copy a record and forge a source address could direct what is
/// sent to the peer to somebody else: what the peer says is received, and it is answered at its earlier address. See
/// [`follow_unchecked`](Self::follow_unchecked).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionIds {
    length: u8,
    server_id: Option<u16>,
    follow_unchecked: bool,
}

impl ConnectionIds {
    /// The shortest connection ID that this side may ask for, in bytes, apart from none at all.
    pub const MIN_LENGTH: usize = 8;
    /// The longest one (RFC 9146 §3).
    pub const MAX_LENGTH: usize = 255;

    /// Asks for connection IDs of so many bytes in what the other side sends: 0, or 8 to 255. Each record has them. With 0 this
    /// side asks for none, and still puts the other side's into what it sends: that is what clients need, whose server has
    /// one address.
    ///
    /// # Errors
    ///
    /// The length is none of these.
    pub fn new(length: usize) -> Result<Self, ConnectionIdLength> {
        match u8::try_from(length) {
            Ok(byte) if length == 0 || length >= Self::MIN_LENGTH => {
                Ok(Self { length: byte, server_id: None, follow_unchecked: false })
            }
            _ => Err(ConnectionIdLength { length }),
        }
    }

    /// Puts the number of this server into its connection IDs, for a load balancer. Default: none.
    #[must_use]
    pub fn server_id(mut self, server_id: u16) -> Self {
        self.server_id = Some(server_id);
        self
    }

    /// Whether the address of a peer that does not know return routability checks follows all the same. RFC 9146 §6 allows it
    /// only where the application has its own means to find out whether the peer receives what is sent there, such as CoAP's
    /// Echo option (RFC 9175). Default: `false`.
    #[must_use]
    pub fn follow_unchecked(mut self, follow: bool) -> Self {
        self.follow_unchecked = follow;
        self
    }

    /// The length in bytes.
    pub(crate) fn length(self) -> usize {
        self.length.into()
    }

    /// Makes a connection ID for a peer of this event loop.
    ///
    /// # Errors
    ///
    /// OpenSSL has no randomness.
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

    /// What a handshake offers or answers, with this connection ID.
    ///
    /// # Errors
    ///
    /// OpenSSL has no randomness.
    pub(crate) fn offer(self, cid: Box<[u8]>) -> Result<Offer, ErrorStack> {
        let mut secret = Zeroizing::new([0; 32]);
        rand_bytes(&mut *secret)?;
        Ok(Offer { cid, check: true, follow_unchecked: self.follow_unchecked, secret })
    }
}

/// A connection ID cannot have this length: it has none, or 8 to 255 bytes.
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
