//! What the clients say: messages in which every byte is known beforehand, so that what comes back can be
//! checked to the last one.
//!
//! A message begins with the client's number and the message's sequence number (8 bytes each, little endian);
//! the rest follows from these two.

use std::collections::HashMap;

/// The shortest message, in bytes.
pub const SHORTEST: usize = 16;

/// Fills `message` with what the client with this number says as its message `sequence`.
///
/// # Panics
///
/// Where there is no room for [`SHORTEST`] bytes.
pub fn fill(message: &mut [u8], client: u64, sequence: u64) {
    message[..8].copy_from_slice(&client.to_le_bytes());
    message[8..16].copy_from_slice(&sequence.to_le_bytes());
    let mut state = client.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ sequence.wrapping_add(0x2545_F491_4F6C_DD1D);
    for chunk in message[16..].chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

/// What a message that came back turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// As it was sent, with this sequence number.
    Right(u64),
    /// Whole, but another client's.
    Foreign,
    /// Not what anybody said.
    Corrupt,
}

/// Checks every byte of an answer that came to this client, where messages have `len` bytes.
pub fn check(answer: &[u8], client: u64, len: usize, scratch: &mut Vec<u8>) -> Checked {
    let number =
        |at: usize| answer.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let (Some(sender), Some(sequence)) = (number(0), number(8)) else {
        return Checked::Corrupt;
    };
    scratch.resize(len, 0);
    fill(scratch, sender, sequence);
    match answer == &scratch[..] {
        false => Checked::Corrupt,
        true if sender != client => Checked::Foreign,
        true => Checked::Right(sequence),
    }
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Came back as they went.
    pub echoes: u64,
    /// Did not come back in time.
    pub lost: u64,
    /// Came back once more.
    pub duplicates: u64,
    /// Came back changed.
    pub corrupt: u64,
    /// Came back to somebody else.
    pub cross: u64,
}

impl Tally {
    /// The sum of both.
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

/// The messages of one client that are under way, each with what its sender wants to remember.
#[derive(Debug)]
pub struct Ledger<T> {
    client: u64,
    len: usize,
    next: u64,
    under_way: HashMap<u64, T>,
    scratch: Vec<u8>,
    /// What became of them so far.
    pub tally: Tally,
}

impl<T> Ledger<T> {
    /// Of a client with this number, whose messages have `len` bytes ([`SHORTEST`] at least).
    pub fn new(client: u64, len: usize) -> Self {
        Self {
            client,
            len: len.max(SHORTEST),
            next: 0,
            under_way: HashMap::new(),
            scratch: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Puts the next message into `message`, which gets its length, and counts it as sent.
    pub fn next(&mut self, message: &mut Vec<u8>, remember: T) {
        message.resize(self.len, 0);
        fill(message, self.client, self.next);
        self.under_way.insert(self.next, remember);
        self.next += 1;
        self.tally.sent += 1;
    }

    /// Checks and counts what came; gives what was remembered of the message, where it is one that was
    /// under way.
    pub fn came(&mut self, answer: &[u8]) -> Option<T> {
        match check(answer, self.client, self.len, &mut self.scratch) {
            Checked::Right(sequence) => match self.under_way.remove(&sequence) {
                Some(remembered) => {
                    self.tally.echoes += 1;
                    Some(remembered)
                }
                // Given up for lost before, or sent twice on the way back.
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

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Counts those as lost for which `overdue` says so.
    pub fn give_up(&mut self, overdue: impl Fn(&T) -> bool) -> usize {
        let before = self.under_way.len();
        self.under_way.retain(|_, remembered| !overdue(remembered));
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
        let (mut ledger, mut sent) = (Ledger::new(7, 61), Vec::new());
        ledger.next(&mut sent, "first");
        assert_eq!(ledger.came(&sent), Some("first"));
        assert_eq!(ledger.came(&sent), None);
        assert_eq!(ledger.tally, Tally { sent: 1, echoes: 1, duplicates: 1, ..Tally::default() });
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let whole = message(7, 0);
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] ^= 0x10;
            let checked = check(&changed, 7, 61, &mut Vec::new());
            assert_eq!(checked, Checked::Corrupt, "byte {index}");
        }
        assert_eq!(check(&whole[..60], 7, 61, &mut Vec::new()), Checked::Corrupt);
    }

    #[test]
    fn another_clients_message_is_cross_delivery() {
        assert_eq!(check(&message(8, 3), 7, 61, &mut Vec::new()), Checked::Foreign);
    }

    #[test]
    fn a_message_of_the_future_is_corruption_and_a_missing_one_loss() {
        let (mut ledger, mut sent) = (Ledger::new(7, 61), Vec::new());
        ledger.next(&mut sent, 1);
        assert_eq!(ledger.came(&message(7, 1)), None);
        assert_eq!(ledger.give_up(|_| true), 1);
        assert_eq!(ledger.tally, Tally { sent: 1, lost: 1, corrupt: 1, ..Tally::default() });
    }
}
