//! Splits a stream of bytes into messages.

use std::io::{self, BufRead, Read};

/// Where a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    /// After each newline, which is part of the message.
    Lines,
    /// After this many bytes.
    Blocks(usize),
}

/// The messages of a stream.
pub(super) struct Messages<R> {
    source: R,
    chunks: Chunks,
    limit: usize,
}

impl<R: BufRead> Messages<R> {
    /// Splits `source` into messages of at most `limit` bytes. A longer line is split into several messages.
    pub(super) fn new(source: R, chunks: Chunks, limit: usize) -> Self {
        Self { source, chunks, limit: limit.max(1) }
    }

    /// Reads one message into `message`. Blocks. Returns false at the end of the stream.
    pub(super) fn read(&mut self, message: &mut Vec<u8>) -> io::Result<bool> {
        message.clear();
        match self.chunks {
            Chunks::Lines => self.source.by_ref().take(self.limit as u64).read_until(b'\n', message)?,
            Chunks::Blocks(size) => {
                self.source.by_ref().take(size.min(self.limit) as u64).read_to_end(message)?
            }
        };
        Ok(!message.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(input: &str, chunks: Chunks, limit: usize) -> Vec<String> {
        let mut messages = Messages::new(input.as_bytes(), chunks, limit);
        let mut found = Vec::new();
        let mut message = Vec::new();
        while messages.read(&mut message).unwrap() {
            found.push(String::from_utf8(message.clone()).unwrap());
        }
        found
    }

    #[test]
    fn each_line_is_a_message_with_its_newline() {
        assert_eq!(cut("a\n\nb c\nend", Chunks::Lines, 100), ["a\n", "\n", "b c\n", "end"]);
        assert!(cut("", Chunks::Lines, 100).is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_comes_in_pieces() {
        assert_eq!(cut("abcde\nf\n", Chunks::Lines, 4), ["abcd", "e\n", "f\n"]);
    }

    #[test]
    fn blocks_take_no_notice_of_lines() {
        assert_eq!(cut("ab\ncdef", Chunks::Blocks(3), 100), ["ab\n", "cde", "f"]);
        assert_eq!(cut("abc", Chunks::Blocks(3), 2), ["ab", "c"]);
    }
}
