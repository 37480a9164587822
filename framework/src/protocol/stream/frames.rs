//! Divides a stream of bytes into messages. Pure.

use crate::stream::Framing;

/// Length of the length field in front of a message, in bytes.
pub const PREFIX: usize = 4;

/// Assembles messages of limited length from received bytes.
#[derive(Debug)]
pub struct Frames {
    framing: Framing,
    limit: usize,
    bytes: Vec<u8>,
    /// Start of the bytes that have not been returned yet.
    start: usize,
    /// End of the bytes that have been searched for a newline.
    searched: usize,
    skipping: Skipping,
}

/// What is being discarded.
#[derive(Debug, PartialEq, Eq)]
enum Skipping {
    Nothing,
    /// The rest of a line.
    Line,
    /// This many more bytes.
    Bytes(usize),
}

/// Result of [`Frames::next_frame`].
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// One message.
    Message(&'a [u8]),
    /// A message that is too long; it is discarded as it arrives.
    TooLong,
}

impl Frames {
    /// Makes a decoder for messages of at most `limit` bytes. Returns `None` for [`Framing::Raw`], which has no frames.
    pub fn new(framing: Framing, limit: usize) -> Option<Frames> {
        let skipping = Skipping::Nothing;
        (framing != Framing::Raw).then(|| Frames {
            framing,
            limit,
            bytes: Vec::new(),
            start: 0,
            searched: 0,
            skipping,
        })
    }

    /// Returns whether a message has begun and is incomplete, or is being discarded and has not ended. Valid after
    /// [`next_frame`](Self::next_frame) has returned `None`.
    pub fn is_begun(&self) -> bool {
        self.start < self.bytes.len() || self.skipping != Skipping::Nothing
    }

    /// Adds received bytes. Bytes of a message that is too long are not kept.
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = match self.skipping {
            Skipping::Nothing => bytes,
            Skipping::Line => match bytes.iter().position(|byte| *byte == b'\n') {
                None => return,
                Some(end) => {
                    self.skipping = Skipping::Nothing;
                    &bytes[end + 1..]
                }
            },
            Skipping::Bytes(left) => {
                let skipped = left.min(bytes.len());
                self.skipping = match left - skipped {
                    0 => Skipping::Nothing,
                    left => Skipping::Bytes(left),
                };
                &bytes[skipped..]
            }
        };
        if self.start == self.bytes.len() {
            self.clear();
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.searched = self.searched.saturating_sub(self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next message; `None` if it is incomplete.
    pub fn next_frame(&mut self) -> Option<Frame<'_>> {
        if self.start == self.bytes.len() {
            // A peer that sends nothing more for a while holds no memory of its last message.
            self.clear();
            return None;
        }
        match self.framing {
            Framing::Raw => None,
            Framing::Lines => self.next_line(),
            Framing::LengthPrefixed => self.next_prefixed(),
        }
    }

    /// Handles the end of the stream: completes an unterminated last line. Returns `true` if there is one.
    pub fn end(&mut self) -> bool {
        let open = self.framing == Framing::Lines && self.start < self.bytes.len();
        if open {
            self.bytes.push(b'\n');
        }
        open
    }

    fn next_line(&mut self) -> Option<Frame<'_>> {
        let Some(found) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            // One byte more than the limit may be the `\r`.
            if self.bytes.len() - self.start <= self.limit + 1 {
                return None;
            }
            self.clear();
            self.skipping = Skipping::Line;
            return Some(Frame::TooLong);
        };
        let (start, end) = (self.start, self.searched + found);
        self.start = end + 1;
        self.searched = self.start;
        let line = &self.bytes[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Some(if line.len() > self.limit { Frame::TooLong } else { Frame::Message(line) })
    }

    fn next_prefixed(&mut self) -> Option<Frame<'_>> {
        let (prefix, rest) = self.bytes[self.start..].split_first_chunk::<PREFIX>()?;
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > self.limit {
            let there = rest.len();
            if there <= len {
                self.clear();
                if there < len {
                    self.skipping = Skipping::Bytes(len - there);
                }
            } else {
                self.start += PREFIX + len;
            }
            return Some(Frame::TooLong);
        }
        if rest.len() < len {
            return None;
        }
        let start = self.start + PREFIX;
        self.start = start + len;
        Some(Frame::Message(&self.bytes[start..start + len]))
    }

    /// Drops the returned bytes and keeps a small allocation.
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        (self.start, self.searched) = (0, 0);
    }
}

/// Bytes of memory that an empty decoder keeps.
const KEPT: usize = 4096;

/// Appends one message in its encoded form.
pub fn encode(framing: Framing, message: &[u8], out: &mut Vec<u8>) {
    match framing {
        Framing::Raw => out.extend_from_slice(message),
        Framing::Lines => {
            out.extend_from_slice(message);
            if message.last() != Some(&b'\n') {
                out.push(b'\n');
            }
        }
        Framing::LengthPrefixed => {
            let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that comes out of `bytes` in reads of `size`; `!` stands for a message that was too long.
    fn read(framing: Framing, limit: usize, bytes: &[u8], size: usize) -> Vec<String> {
        let mut frames = Frames::new(framing, limit).unwrap();
        let mut found = Vec::new();
        for read in bytes.chunks(size) {
            frames.push(read);
            while let Some(frame) = frames.next_frame() {
                found.push(match frame {
                    Frame::Message(message) => String::from_utf8(message.to_vec()).unwrap(),
                    Frame::TooLong => "!".to_owned(),
                });
            }
        }
        found
    }

    #[test]
    fn lines_come_without_their_ends_however_they_are_cut() {
        for size in 1..20 {
            let found = read(Framing::Lines, 5, b"one\r\n\ntwo\nabcde\r\nfgh", size);
            assert_eq!(found, ["one", "", "two", "abcde"], "in reads of {size}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_reported_once_and_discarded() {
        for size in 1..20 {
            let found = read(Framing::Lines, 5, b"a\nabcdef\nb\nabcdefghijklmnop\nc\n", size);
            assert_eq!(found, ["a", "!", "b", "!", "c"], "in reads of {size}");
        }
    }

    #[test]
    fn messages_have_their_length_in_front() {
        let mut bytes = Vec::new();
        for message in ["", "a", "bcd", "toolong", "x", "toolong"] {
            encode(Framing::LengthPrefixed, message.as_bytes(), &mut bytes);
        }
        for size in 1..40 {
            let found = read(Framing::LengthPrefixed, 5, &bytes, size);
            assert_eq!(found, ["", "a", "bcd", "!", "x", "!"], "in reads of {size}");
        }
    }

    #[test]
    fn a_message_has_begun_from_its_first_byte_to_its_last() {
        for (framing, bytes) in [
            (Framing::Lines, &b"one\n"[..]),
            (Framing::Lines, b"a line that is too long\n"),
            (Framing::LengthPrefixed, b"\0\0\0\x03one"),
            (Framing::LengthPrefixed, b"\0\0\0\x0ctoo long one"),
        ] {
            let mut frames = Frames::new(framing, 5).unwrap();
            assert!(!frames.is_begun());
            for (index, byte) in bytes.iter().enumerate() {
                frames.push(&[*byte]);
                while frames.next_frame().is_some() {}
                assert_eq!(frames.is_begun(), index + 1 < bytes.len(), "{framing:?} {index}");
            }
        }
    }

    #[test]
    fn the_last_line_needs_no_end() {
        let mut frames = Frames::new(Framing::Lines, 10).unwrap();
        frames.push(b"one\ntwo");
        assert_eq!(frames.next_frame(), Some(Frame::Message(b"one")));
        assert_eq!(frames.next_frame(), None);
        assert!(frames.end());
        assert_eq!(frames.next_frame(), Some(Frame::Message(b"two")));
        assert!(!frames.end());
        assert_eq!(frames.next_frame(), None);
    }

    #[test]
    fn a_line_is_sent_with_one_end() {
        let mut out = Vec::new();
        for line in ["a", "b\n", "", "\n"] {
            encode(Framing::Lines, line.as_bytes(), &mut out);
        }
        assert_eq!(out, b"a\nb\n\n\n");
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_memory_than_the_limit() {
        let mut frames = Frames::new(Framing::Lines, 1000).unwrap();
        let mut refused = 0;
        for _ in 0..1000 {
            frames.push(&[b'x'; 1000]);
            while let Some(frame) = frames.next_frame() {
                assert_eq!(frame, Frame::TooLong);
                refused += 1;
            }
            assert!(frames.bytes.capacity() <= KEPT);
        }
        assert_eq!(refused, 1);
        frames.push(b"\nnext\n");
        assert_eq!(frames.next_frame(), Some(Frame::Message(b"next")));
    }

    #[test]
    fn a_length_of_four_gigabytes_reserves_nothing() {
        let mut frames = Frames::new(Framing::LengthPrefixed, 1000).unwrap();
        frames.push(&[0xff; 64]);
        assert_eq!(frames.next_frame(), Some(Frame::TooLong));
        frames.push(&[0; 1 << 16]);
        assert_eq!(frames.next_frame(), None);
        assert!(frames.bytes.capacity() <= KEPT);
    }
}
