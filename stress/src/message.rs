//! Makes the clients' messages. Every byte is known in advance, so the echo can be checked to the last byte.
//!
//! A message begins with the client's number and the message's sequence number (8 bytes each, little endian).
//! These two determine the rest.

use std::collections::VecDeque;

/// The shortest message, in bytes.
pub const SHORTEST: usize = 16;

/// Fills `message` with the content of the client's message number `sequence`.
///
/// # Panics
///
/// Panics if `message` is shorter than [`SHORTEST`] bytes.
pub fn fill(message: &mut [u8], client: u64, sequence: u64) {
    message[..8].copy_from_slice(&client.to_le_bytes());
    message[8..16].copy_from_slice(&sequence.to_le_bytes());
    for (chunk, piece) in message[SHORTEST..].chunks_mut(8).zip(pieces(client, sequence)) {
        chunk.copy_from_slice(&piece[..chunk.len()]);
    }
}

/// The result of checking a message that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The message is as it was sent, with this sequence number.
    Right(u64),
    /// The message is complete but belongs to another client.
    Foreign,
    /// No client has sent this message.
    Corrupt,
}

/// Returns the content after the two numbers, in pieces of 8 bytes.
fn pieces(client: u64, sequence: u64) -> impl Iterator<Item = [u8; 8]> {
    let state = client.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ sequence.wrapping_add(0x2545_F491_4F6C_DD1D);
    std::iter::successors(Some(state), |state| {
        Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    })
    .skip(1)
    .map(u64::to_le_bytes)
}

/// Returns the number of the client that sent this message.
pub fn client_of(message: &[u8]) -> Option<u64> {
    message.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Checks every byte of an answer that arrived at this client, whose messages have `len` bytes.
pub fn check(answer: &[u8], client: u64, len: usize) -> Checked {
    let Some((head, rest)) = answer.split_first_chunk::<SHORTEST>().filter(|_| answer.len() == len) else {
        return Checked::Corrupt;
    };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let (sender, sequence) = (number(&head[..8]), number(&head[8..]));
    let right = rest.chunks(8).zip(pieces(sender, sequence)).all(|(is, piece)| *is == piece[..is.len()]);
    match right {
        false => Checked::Corrupt,
        true if sender != client => Checked::Foreign,
        true => Checked::Right(sequence),
    }
}

/// Counts of messages by their result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that were sent.
    pub sent: u64,
    /// Messages that came back unchanged.
    pub echoes: u64,
    /// Messages that did not come back in time.
    pub lost: u64,
    /// Messages that came back more than once.
    pub duplicates: u64,
    /// Messages that came back changed.
    pub corrupt: u64,
    /// Messages that came back to another client.
    pub cross: u64,
}

impl Tally {
    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            echoes: self.echoes + other.echoes,
            lost: self.lost + other.lost,
            duplicates: self.duplicates + other.duplicates,
            corrupt: self.corrupt + other.corrupt,
            cross: self.cross + other.cross,
        }
    }
}

/// The messages of one client that are in flight, each with a value that its sender wants to keep.
#[derive(Debug)]
pub struct Outstanding<T> {
    client: u64,
    len: usize,
    next: u64,
    /// The messages by their sequence numbers, in order.
    under_way: VecDeque<(u64, T)>,
    /// The results so far.
    pub tally: Tally,
}

impl<T> Outstanding<T> {
    /// Makes the record of the client with this number, whose messages have `len` bytes (at least [`SHORTEST`]).
    pub fn new(client: u64, len: usize) -> Self {
        Self { client, len: len.max(SHORTEST), next: 0, under_way: VecDeque::new(), tally: Tally::default() }
    }

    /// Writes the next message into `message`, which it resizes, and counts it as sent.
    pub fn next(&mut self, message: &mut Vec<u8>, remember: T) {
        message.resize(self.len, 0);
        fill(message, self.client, self.next);
        self.under_way.push_back((self.next, remember));
        self.next += 1;
        self.tally.sent += 1;
    }

    /// Checks and counts an answer. Returns the value kept with the message if the message was in flight.
    pub fn handle_answer(&mut self, answer: &[u8]) -> Option<T> {
        match check(answer, self.client, self.len) {
            Checked::Right(sequence) => match self.take(sequence) {
                Some(remembered) => {
                    self.tally.echoes += 1;
                    Some(remembered)
                }
                // The message was counted as lost before, or its echo was duplicated on the way back.
                None if sequence < self.next => {
                    self.tally.duplicates += 1;
                    None
                }
                None => {
                    self.tally.corrupt += 1;
                    None
                }
            },
            Checked::Foreign => {
                self.tally.cross += 1;
                None
            }
            Checked::Corrupt => {
                self.tally.corrupt += 1;
                None
            }
        }
    }

    fn take(&mut self, sequence: u64) -> Option<T> {
        let at = self.under_way.binary_search_by_key(&sequence, |(number, _)| *number).ok()?;
        self.under_way.remove(at).map(|(_, remembered)| remembered)
    }

    /// Returns the number of messages in flight.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Counts the messages as lost for which `overdue` returns true, and returns their number.
    pub fn give_up(&mut self, overdue: impl Fn(&T) -> bool) -> usize {
        let before = self.under_way.len();
        self.under_way.retain(|(_, remembered)| !overdue(remembered));
        let lost = before - self.under_way.len();
        self.tally.lost += lost as u64;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(client: u64, sequence: u64) -> Vec<u8> {
        let mut message = vec![0; 61];
        fill(&mut message, client, sequence);
        message
    }

    #[test]
    fn an_echo_is_counted_once() {
        let (mut outstanding, mut sent) = (Outstanding::new(7, 61), Vec::new());
        outstanding.next(&mut sent, "first");
        assert_eq!(outstanding.handle_answer(&sent), Some("first"));
        assert_eq!(outstanding.handle_answer(&sent), None);
        assert_eq!(outstanding.tally, Tally { sent: 1, echoes: 1, duplicates: 1, ..Tally::default() });
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let whole = message(7, 0);
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] ^= 0x10;
            let checked = check(&changed, 7, 61);
            assert_eq!(checked, Checked::Corrupt, "byte {index}");
        }
        assert_eq!(check(&whole[..60], 7, 61), Checked::Corrupt);
    }

    #[test]
    fn another_clients_message_is_cross_delivery() {
        assert_eq!(check(&message(8, 3), 7, 61), Checked::Foreign);
    }

    #[test]
    fn a_message_of_the_future_is_corruption_and_a_missing_one_loss() {
        let (mut outstanding, mut sent) = (Outstanding::new(7, 61), Vec::new());
        outstanding.next(&mut sent, 1);
        assert_eq!(outstanding.handle_answer(&message(7, 1)), None);
        assert_eq!(outstanding.give_up(|_| true), 1);
        assert_eq!(outstanding.tally, Tally { sent: 1, lost: 1, corrupt: 1, ..Tally::default() });
    }
}
