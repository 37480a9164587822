//! Error causes of SCTP (RFC 9260 §3.3.10): why an association ended or reported an error, including the reason of a
//! user-initiated abort.

use std::fmt;

/// The code of an error cause (RFC 9260 §3.3.10; RFC 4895 §4 and RFC 5061 §4.3 define more).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorCause(u16);

impl ErrorCause {
    /// The peer's user aborted the association, possibly with a reason: [`user_abort_reason`].
    pub const USER_INITIATED_ABORT: Self = Self(12);
    /// The peer violated the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self(13);

    /// Returns the cause with this code.
    pub const fn new(code: u16) -> Self {
        Self(code)
    }

    /// Returns the code.
    pub const fn code(self) -> u16 {
        self.0
    }

    /// Returns the name in the RFC; `None` for a code that none of the three RFCs defines.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "invalid stream identifier",
            2 => "missing mandatory parameter",
            3 => "stale cookie",
            4 => "out of resource",
            5 => "unresolvable address",
            6 => "unrecognized chunk type",
            7 => "invalid mandatory parameter",
            8 => "unrecognized parameters",
            9 => "no user data",
            10 => "cookie received while shutting down",
            11 => "restart of an association with new addresses",
            12 => "user-initiated abort",
            13 => "protocol violation",
            0xa0 => "request to delete last remaining IP address",
            0xa1 => "operation refused due to resource shortage",
            0xa2 => "request to delete source IP address",
            0xa3 => "association aborted due to illegal ASCONF-ACK",
            0xa4 => "request refused: no authorization",
            0x105 => "unsupported HMAC identifier",
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error cause {}", self.0),
        }
    }
}

/// The type of an ABORT chunk. No cause has a code that begins with this byte.
const ABORT: u8 = 6;

/// Returns the error causes in `info`, each with its contents. `info` is the field of
/// [`Notification::AssociationChanged`](super::Notification::AssociationChanged) after an ABORT. According to RFC 6458
/// §6.1.1 it contains the whole chunk; Linux puts only the causes there, without the chunk's header. Both forms are
/// parsed. Parsing stops at an invalid length.
pub fn error_causes(info: &[u8]) -> impl Iterator<Item = (ErrorCause, &[u8])> {
    let mut rest = match info {
        [ABORT, _, _, _, causes @ ..] => causes,
        causes => causes,
    };
    std::iter::from_fn(move || {
        let (&[c0, c1, l0, l1], _) = rest.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        let contents = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((ErrorCause(u16::from_be_bytes([c0, c1])), contents))
    })
}

/// Returns the reason of the first user-initiated abort among the causes in `info` (RFC 9260 §3.3.10.12), as text;
/// bytes that are not UTF-8 are replaced. Returns an empty text for an abort without a reason, and `None` if there is
/// no such abort.
pub fn user_abort_reason(info: &[u8]) -> Option<String> {
    error_causes(info)
        .find(|(cause, _)| *cause == ErrorCause::USER_INITIATED_ABORT)
        .map(|(_, reason)| String::from_utf8_lossy(reason).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSES: &[u8] = b"\x00\x0d\x00\x05x\0\0\0\x00\x0c\x00\x08busy";

    #[test]
    fn the_reason_is_found_with_and_without_the_chunk_header() {
        assert_eq!(user_abort_reason(CAUSES).as_deref(), Some("busy"));
        let chunk = [&[ABORT, 0, 0, 20][..], CAUSES].concat();
        assert_eq!(user_abort_reason(&chunk).as_deref(), Some("busy"));
        let causes: Vec<_> = error_causes(&chunk).collect();
        assert_eq!(causes, [(ErrorCause(13), &b"x"[..]), (ErrorCause(12), b"busy")]);
        assert_eq!(causes[0].0.to_string(), "protocol violation");
    }

    #[test]
    fn an_abort_without_a_reason_is_not_no_abort() {
        assert_eq!(user_abort_reason(b"\x00\x0c\x00\x04").as_deref(), Some(""));
        assert_eq!(user_abort_reason(b""), None);
        assert_eq!(user_abort_reason(&[ABORT, 0, 0, 4]), None);
    }

    #[test]
    fn a_length_that_lies_ends_the_walk() {
        for len in [0_u8, 1, 3, 9, 255] {
            assert_eq!(user_abort_reason(&[0, 12, 0, len, 1, 2, 3, 4]), None, "length {len}");
        }
        assert_eq!(user_abort_reason(b"\x00\x0c\x00\x06\xffx").as_deref(), Some("\u{fffd}x"));
    }
}
