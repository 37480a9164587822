//! The first datagram of an unknown peer, and the stateless answer to it (RFC 6347 §4.2.1).
//!
//! 1. [`classify`] determines what the datagram is. Only a well-formed ClientHello gets an answer.
//! 2. A hello without a valid cookie gets a [`hello_verify_request`], for which nothing is stored.
//! 3. A hello that returns the cookie is passed to a worker, complete and unchanged.
//!
//! # Fragmented and very large hellos
//!
//! A hello larger than the path MTU is sent in several fragments (RFC 6347 §4.2.3), which the client may distribute
//! over records and datagrams as it likes. Reassembling them would cost memory for a peer that has proven nothing,
//! which is exactly what the cookie has to prevent (RFC 6347 §4.2.1). But the cookie, and the fields that it is bound
//! to, are at the beginning, so the first fragment suffices if it includes the cookie: at most the first 100 bytes.
//! Later fragments are [`FirstDatagram::HelloFragment`]: they are ignored before the cookie exchange and collected
//! after it (see `assembly`). A first fragment that ends too early is [`FirstDatagram::HelloTooShort`] and gets no
//! answer. A message with a length of more than [`MAX_HELLO_LEN`] bytes is rejected.

/// Content type of a handshake record (RFC 5246 §6.2.1).
pub const HANDSHAKE: u8 = 22;
/// Content type of a record with a connection ID (RFC 9146 §4).
pub const TLS12_CID: u8 = 25;
/// Length of a record header without a connection ID (RFC 6347 §4.1).
pub const RECORD_HEADER_LEN: usize = 13;
/// Length of a handshake header (RFC 6347 §4.2.2).
pub const HANDSHAKE_HEADER_LEN: usize = 12;
/// Maximum length of a ClientHello message, all fragments together, that is accepted: it fits into one record. A hello
/// with several post-quantum key shares has about 4,000 bytes.
pub const MAX_HELLO_LEN: usize = (1 << 14) - HANDSHAKE_HEADER_LEN;
/// Length of a HelloVerifyRequest with a cookie of 32 bytes, headers included.
pub const HELLO_VERIFY_REQUEST_LEN: usize = RECORD_HEADER_LEN + HANDSHAKE_HEADER_LEN + 2 + 1 + 32;

const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
/// The first byte of every DTLS version: DTLS versions are the complement of TLS versions (RFC 6347 §4.1).
const VERSION_MAJOR: u8 = 0xfe;
const DTLS_1_0: [u8; 2] = [VERSION_MAJOR, 0xff];
/// A ciphertext may exceed 2^14 bytes by this much (RFC 6347 §4.1.1, RFC 5246 §6.2.3).
const MAX_RECORD_LEN: usize = (1 << 14) + 2048;

/// Result of [`classify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstDatagram<'a> {
    /// A ClientHello in records of epoch 0, or its first fragment if that includes the cookie.
    ClientHello(ClientHello<'a>),
    /// A later fragment (fragment offset > 0) of a ClientHello.
    HelloFragment,
    /// The first fragment of a ClientHello, which ends before the cookie does.
    HelloTooShort,
    /// A well-formed record of another kind, often from a peer whose association has ended long ago.
    OtherRecord {
        /// The record's content type (RFC 5246 §6.2.1).
        content_type: u8,
        /// The record's epoch (RFC 6347 §4.1).
        epoch: u16,
    },
    /// Not DTLS, or a malformed ClientHello.
    NotDtls,
}

/// The fields of a ClientHello (RFC 6347 §4.2.1), borrowed from its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The version in the record header; many clients use DTLS 1.0 in the first hello.
    pub record_version: u16,
    /// The 48-bit sequence number of the record.
    pub record_sequence: u64,
    /// The message sequence number: 0 in a first hello, 1 in a hello that returns a cookie (RFC 6347 §4.2.2).
    pub message_sequence: u16,
    /// The version that the client offers.
    pub client_version: u16,
    /// The client's random.
    pub random: &'a [u8; 32],
    /// The session to resume, or empty; at most 32 bytes.
    pub session_id: &'a [u8],
    /// The cookie from a HelloVerifyRequest, or empty.
    pub cookie: &'a [u8],
    /// Whether this fragment is the whole message.
    pub complete: bool,
}

/// Determines what `datagram`, the first one of an unknown peer, is. The first record decides; if it is part of a
/// ClientHello, the record with the first fragment decides.
pub fn classify(datagram: &[u8]) -> FirstDatagram<'_> {
    let Ok((record, _)) = Record::split(datagram) else {
        return FirstDatagram::NotDtls;
    };
    match record {
        Record { content_type: HANDSHAKE, epoch: 0, body: [CLIENT_HELLO, ..], .. } => client_hello(datagram),
        Record { content_type, epoch, .. } => FirstDatagram::OtherRecord { content_type, epoch },
    }
}

/// The position of a connection ID in its record, after the sequence number (RFC 9146 §4).
pub(crate) const CONNECTION_ID_AT: usize = 11;

/// Returns the connection ID of the first record of `datagram`, if it has one (RFC 9146 §4). All connection IDs have
/// `len` bytes, at least one.
pub fn connection_id(datagram: &[u8], len: usize) -> Option<&[u8]> {
    let is_record = datagram.first() == Some(&TLS12_CID) && datagram.get(1) == Some(&VERSION_MAJOR);
    datagram.get(CONNECTION_ID_AT..CONNECTION_ID_AT + len).filter(|_| is_record && len > 0)
}

/// Builds the HelloVerifyRequest that answers `hello` with `cookie`. Returns `None` if it would be longer than the
/// request of `datagram_len` bytes.
///
/// The latter cannot happen with a hello from [`classify`], which has at least 67 bytes. The check ensures that forged
/// source addresses never turn this server into an amplifier (RFC 6347 §4.2.1).
///
/// The version is DTLS 1.0 regardless of the negotiated one, and the record repeats the sequence number of the hello,
/// as RFC 6347 §4.2.1 requires. The message repeats the message number too: a client whose cookie has expired sends its
/// hello with message number 1, and does not accept further answers with number 0.
pub fn hello_verify_request(
    hello: &ClientHello<'_>,
    datagram_len: usize,
    cookie: &[u8; 32],
) -> Option<[u8; HELLO_VERIFY_REQUEST_LEN]> {
    const BODY_LEN: u8 = 2 + 1 + 32;
    if datagram_len < HELLO_VERIFY_REQUEST_LEN {
        return None;
    }
    let mut answer = [0; HELLO_VERIFY_REQUEST_LEN];
    // The record: content type, version, epoch 0, sequence number, length.
    answer[0] = HANDSHAKE;
    answer[1..3].copy_from_slice(&DTLS_1_0);
    answer[5..11].copy_from_slice(&hello.record_sequence.to_be_bytes()[2..]);
    answer[12] = BODY_LEN + HANDSHAKE_HEADER_LEN as u8;
    // The message: type, length, number, fragment offset 0, fragment length.
    answer[13] = HELLO_VERIFY_REQUEST;
    answer[16] = BODY_LEN;
    answer[17..19].copy_from_slice(&hello.message_sequence.to_be_bytes());
    answer[24] = BODY_LEN;
    // The body: version, length of the cookie, cookie.
    answer[25..27].copy_from_slice(&DTLS_1_0);
    answer[27] = cookie.len() as u8;
    answer[28..].copy_from_slice(cookie);
    Some(answer)
}

/// A record with its header fields (RFC 6347 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the record carries (RFC 5246 §6.2.1).
    pub content_type: u8,
    /// The version; its first byte is 0xfe.
    pub version: u16,
    /// The epoch, which increases with each change of keys; epoch 0 is unencrypted.
    pub epoch: u16,
    /// The 48-bit sequence number within the epoch.
    pub sequence: u64,
    /// The connection ID (RFC 9146 §4); empty in an ordinary record.
    pub cid: &'a [u8],
    /// The bytes after the header: plaintext in epoch 0, ciphertext in later epochs.
    pub body: &'a [u8],
}

/// Reason why bytes do not begin with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFlaw {
    /// The content type or the version does not belong to DTLS.
    Header,
    /// The bytes end within the record.
    Truncated,
    /// The length field exceeds the maximum of a record (RFC 6347 §4.1, §4.1.1).
    Oversized,
}

impl<'a> Record<'a> {
    /// Splits the first record off `bytes`, given that no record has a connection ID. Returns the remaining bytes
    /// unchanged.
    ///
    /// # Errors
    ///
    /// The flaw of the record. The start of the next record is unknown then.
    pub fn split(bytes: &'a [u8]) -> Result<(Record<'a>, &'a [u8]), RecordFlaw> {
        Self::split_with(bytes, 0)
    }

    /// Splits the first record off `bytes` like [`split`](Self::split). Connection IDs have `cid_len` bytes, because a
    /// record does not contain their length (RFC 9146 §3).
    ///
    /// # Errors
    ///
    /// As [`split`](Self::split).
    pub fn split_with(bytes: &'a [u8], cid_len: usize) -> Result<(Record<'a>, &'a [u8]), RecordFlaw> {
        // The range that RFC 7983 §7 leaves to DTLS on a shared port.
        let Some(&content_type @ 20..=63) = bytes.first() else {
            return Err(RecordFlaw::Header);
        };
        let mut reader = Reader(&bytes[1..]);
        let version = reader.u16().ok_or(RecordFlaw::Truncated)?;
        if version >> 8 != u16::from(VERSION_MAJOR) {
            return Err(RecordFlaw::Header);
        }
        let epoch = reader.u16().ok_or(RecordFlaw::Truncated)?;
        let sequence = reader.uint::<6>().ok_or(RecordFlaw::Truncated)?;
        let cid_len = if content_type == TLS12_CID { cid_len } else { 0 };
        let cid = reader.bytes(cid_len).ok_or(RecordFlaw::Truncated)?;
        let length = usize::from(reader.u16().ok_or(RecordFlaw::Truncated)?);
        if length > if epoch == 0 { 1 << 14 } else { MAX_RECORD_LEN } {
            return Err(RecordFlaw::Oversized);
        }
        let body = reader.bytes(length).ok_or(RecordFlaw::Truncated)?;
        Ok((Record { content_type, version, epoch, sequence, cid, body }, reader.0))
    }

    /// Returns the record's length in the datagram, including the header.
    pub fn wire_len(&self) -> usize {
        RECORD_HEADER_LEN + self.cid.len() + self.body.len()
    }
}

/// Parses the first fragment of a ClientHello in a datagram whose first record has a fragment of one.
fn client_hello(datagram: &[u8]) -> FirstDatagram<'_> {
    let mut any = false;
    for (record, fragment) in fragments(datagram) {
        any = true;
        if fragment.offset == 0 {
            return first_fragment(&record, &fragment);
        }
    }
    if any { FirstDatagram::HelloFragment } else { FirstDatagram::NotDtls }
}

fn first_fragment<'a>(record: &Record<'a>, fragment: &Fragment<'a>) -> FirstDatagram<'a> {
    let complete = fragment.body.len() == fragment.message_len;
    let mut reader = Reader(fragment.body);
    let Some(fields) = HelloFields::read(&mut reader) else {
        return if complete { FirstDatagram::NotDtls } else { FirstDatagram::HelloTooShort };
    };
    if !fields.are_sound() || (complete && !is_sound_rest(reader)) {
        return FirstDatagram::NotDtls;
    }
    FirstDatagram::ClientHello(ClientHello {
        record_version: record.version,
        record_sequence: record.sequence,
        message_sequence: fragment.message_sequence,
        client_version: fields.version,
        random: fields.random,
        session_id: fields.session_id,
        cookie: fields.cookie,
        complete,
    })
}

/// Returns the fragments of ClientHellos in the records of epoch 0 at the beginning of a datagram, up to the first
/// other record or message. A record may have several fragments (RFC 6347 §4.2.3).
pub(super) fn fragments(datagram: &[u8]) -> impl Iterator<Item = (Record<'_>, Fragment<'_>)> {
    let mut rest = datagram;
    let mut current: Option<(Record<'_>, &[u8])> = None;
    std::iter::from_fn(move || {
        let (record, body) = match current.take().filter(|(_, body)| !body.is_empty()) {
            Some(current) => current,
            None => {
                let (record, behind) = Record::split(rest).ok()?;
                rest = behind;
                (record, record.body)
            }
        };
        if (record.epoch, record.content_type) != (0, HANDSHAKE) {
            return None;
        }
        let (fragment, behind) = Fragment::split(body)?;
        current = Some((record, behind));
        Some((record, fragment))
    })
}

/// A fragment of a ClientHello (RFC 6347 §4.2.2).
pub(super) struct Fragment<'a> {
    pub(super) message_len: usize,
    pub(super) message_sequence: u16,
    pub(super) offset: usize,
    pub(super) body: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Splits a fragment off the beginning of a record's body.
    fn split(body: &'a [u8]) -> Option<(Fragment<'a>, &'a [u8])> {
        let mut reader = Reader(body);
        let message_type = reader.uint::<1>()?;
        let message_len = reader.uint::<3>()? as usize;
        let message_sequence = reader.u16()?;
        let offset = reader.uint::<3>()? as usize;
        let length = reader.uint::<3>()? as usize;
        let fits = message_len <= MAX_HELLO_LEN && offset + length <= message_len;
        if message_type != u64::from(CLIENT_HELLO) || !fits {
            return None;
        }
        let body = reader.bytes(length)?;
        Some((Fragment { message_len, message_sequence, offset, body }, reader.0))
    }
}

/// The fields of a ClientHello up to the cookie, in wire order (RFC 6347 §4.2.1).
struct HelloFields<'a> {
    version: u16,
    random: &'a [u8; 32],
    session_id: &'a [u8],
    cookie: &'a [u8],
}

impl<'a> HelloFields<'a> {
    /// Reads all fields; returns `None` if the bytes end too early.
    fn read(reader: &mut Reader<'a>) -> Option<HelloFields<'a>> {
        Some(HelloFields {
            version: reader.u16()?,
            random: reader.array()?,
            session_id: reader.prefixed::<1>()?,
            cookie: reader.prefixed::<1>()?,
        })
    }

    /// Returns whether version and lengths are allowed by RFC 5246 §7.4.1.2.
    fn are_sound(&self) -> bool {
        self.version >> 8 == u16::from(VERSION_MAJOR) && self.session_id.len() <= 32
    }
}

/// Returns whether the rest of a complete hello is valid: cipher suites, compression methods and extensions.
fn is_sound_rest(mut reader: Reader<'_>) -> bool {
    let (suites, compression) = (reader.prefixed::<2>(), reader.prefixed::<1>());
    suites.is_some_and(|suites| !suites.is_empty() && suites.len().is_multiple_of(2))
        && compression.is_some_and(|methods| !methods.is_empty())
        && is_extension_block(reader.0)
}

/// Returns whether a complete hello may end with `bytes`: nothing, or extensions with a correct length (RFC 5246
/// §7.4.1.2).
fn is_extension_block(bytes: &[u8]) -> bool {
    let mut reader = Reader(bytes);
    bytes.is_empty() || reader.prefixed::<2>().is_some() && reader.0.is_empty()
}

/// Reads bytes from the front of a slice; `None` if there are too few.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(bytes)
    }

    fn uint<const N: usize>(&mut self) -> Option<u64> {
        let bytes = self.array::<N>()?;
        Some(bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(|&bytes| u16::from_be_bytes(bytes))
    }

    /// Reads a vector with a length field of `N` bytes (RFC 5246 §4.3).
    fn prefixed<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let length = self.uint::<N>()?;
        self.bytes(length as usize)
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! Datagrams for the tests of this crate's pure modules.

    use super::HANDSHAKE;

    /// A record of `content_type` with a DTLS 1.2 header.
    pub(crate) fn record(content_type: u8, epoch: u16, sequence: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![content_type, 0xfe, 0xfd];
        bytes.extend(epoch.to_be_bytes());
        bytes.extend(&sequence.to_be_bytes()[2..]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// A datagram with the fragment of a ClientHello message that `range` names.
    pub(crate) fn hello_fragment(message: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
        let mut body = vec![super::CLIENT_HELLO];
        body.extend(&(message.len() as u32).to_be_bytes()[1..]);
        body.extend([0, 1]);
        body.extend(&(range.start as u32).to_be_bytes()[1..]);
        body.extend(&(range.len() as u32).to_be_bytes()[1..]);
        body.extend(&message[range]);
        record(HANDSHAKE, 0, 0x0102_0304_0506, &body)
    }

    /// The message of a ClientHello with a few suites and six bytes of extensions.
    pub(crate) fn hello_message(cookie: &[u8]) -> Vec<u8> {
        let mut message = vec![0xfe, 0xfd];
        message.extend([7; 32]);
        message.extend([4, 1, 2, 3, 4]);
        message.push(cookie.len() as u8);
        message.extend(cookie);
        message.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]);
        message.extend([1, 0]);
        message.extend([0, 4, 0xff, 0x01, 0, 0]);
        message
    }

    /// A datagram with a whole ClientHello.
    pub(crate) fn hello(cookie: &[u8]) -> Vec<u8> {
        let message = hello_message(cookie);
        hello_fragment(&message, 0..message.len())
    }
}

#[cfg(test)]
mod tests {
    use super::samples::*;
    use super::*;

    fn parsed(datagram: &[u8]) -> ClientHello<'_> {
        match classify(datagram) {
            FirstDatagram::ClientHello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_whole_hello_is_read_field_by_field() {
        let datagram = hello(&[9; 20]);
        let hello = parsed(&datagram);
        assert_eq!((hello.record_version, hello.client_version), (0xfefd, 0xfefd));
        assert_eq!((hello.record_sequence, hello.message_sequence), (0x0102_0304_0506, 1));
        assert_eq!((hello.random, hello.session_id), (&[7; 32], &[1, 2, 3, 4][..]));
        assert_eq!((hello.cookie, hello.complete), (&[9; 20][..], true));
    }

    #[test]
    fn bytes_after_the_hello_are_ignored() {
        let mut datagram = hello(&[]);
        datagram.extend(b"anything");
        assert!(parsed(&datagram).complete);
    }

    #[test]
    fn a_first_fragment_is_enough_once_it_holds_the_cookie() {
        let message = hello_message(&[5; 32]);
        let needed = 2 + 32 + 5 + 33;
        for end in 0..message.len() {
            let datagram = hello_fragment(&message, 0..end);
            match classify(&datagram) {
                FirstDatagram::ClientHello(hello) => assert!(end >= needed && !hello.complete),
                other => assert!(end < needed && other == FirstDatagram::HelloTooShort),
            }
        }
    }

    #[test]
    fn the_first_fragment_is_found_in_any_record_of_the_datagram() {
        let message = hello_message(&[5; 32]);
        let (first, second) = (hello_fragment(&message, 0..80), hello_fragment(&message, 80..message.len()));
        for datagram in [[&first[..], &second].concat(), [&second[..], &first].concat()] {
            let hello = parsed(&datagram);
            assert_eq!((hello.cookie, hello.complete), (&[5; 32][..], false));
        }
        // Both in one record.
        let bodies = [&first[RECORD_HEADER_LEN..], &second[RECORD_HEADER_LEN..]].concat();
        assert_eq!(parsed(&record(HANDSHAKE, 0, 7, &bodies)).cookie, [5; 32]);
    }

    #[test]
    fn later_fragments_are_recognised() {
        let message = hello_message(&[]);
        assert_eq!(classify(&hello_fragment(&message, 10..20)), FirstDatagram::HelloFragment);
    }

    #[test]
    fn a_record_cut_short_is_refused() {
        let datagram = hello(&[]);
        for end in 0..datagram.len() {
            assert_eq!(classify(&datagram[..end]), FirstDatagram::NotDtls);
        }
    }

    #[test]
    fn wrong_lengths_versions_and_vectors_are_refused() {
        let (record, message, suites) = (0, RECORD_HEADER_LEN, RECORD_HEADER_LEN + HANDSHAKE_HEADER_LEN + 41);
        let body = RECORD_HEADER_LEN + HANDSHAKE_HEADER_LEN;
        for (offset, value) in [
            (record, 80),      // content type
            (record + 1, 3),   // TLS
            (message + 2, 64), // more than a record carries
            (message + 3, 1),  // message shorter than the fragment
            (body, 3),         // client version of TLS
            (body + 34, 33),   // session id too long
            (body + 39, 255),  // cookie past the end
            (suites, 3),       // odd suites
            (suites, 0),       // no suites
            (suites + 5, 0),   // no compression method
            (suites + 8, 9),   // extensions past the end
        ] {
            let mut datagram = hello(&[]);
            datagram[offset] = value;
            assert_eq!(classify(&datagram), FirstDatagram::NotDtls, "byte {offset} is {value}");
        }
    }

    #[test]
    fn other_records_are_named() {
        let data = record(23, 1, 0, &[0; 40]);
        assert_eq!(classify(&data), FirstDatagram::OtherRecord { content_type: 23, epoch: 1 });
        let mut later_epoch = hello(&[]);
        later_epoch[4] = 1;
        assert_eq!(classify(&later_epoch), FirstDatagram::OtherRecord { content_type: 22, epoch: 1 });
        let server_hello = record(22, 0, 0, &[2, 0, 0, 0]);
        assert_eq!(classify(&server_hello), FirstDatagram::OtherRecord { content_type: 22, epoch: 0 });
    }

    #[test]
    fn the_answer_repeats_the_sequence_numbers_and_carries_the_cookie() {
        let datagram = hello(&[]);
        let answer = hello_verify_request(&parsed(&datagram), datagram.len(), &[5; 32]).unwrap();
        let (record, rest) = Record::split(&answer).unwrap();
        assert!(rest.is_empty());
        assert_eq!((record.content_type, record.version, record.epoch), (22, 0xfeff, 0));
        assert_eq!(record.sequence, 0x0102_0304_0506);
        assert_eq!(record.body[..12], [3, 0, 0, 35, 0, 1, 0, 0, 0, 0, 0, 35]);
        assert_eq!(record.body[12..15], [0xfe, 0xff, 32]);
        assert_eq!(record.body[15..], [5; 32]);
    }

    #[test]
    fn the_answer_is_never_longer_than_the_question() {
        let datagram = hello(&[]);
        let hello = parsed(&datagram);
        assert_eq!(hello_verify_request(&hello, 59, &[0; 32]), None);
        assert!(hello_verify_request(&hello, 60, &[0; 32]).is_some());
    }
}
