//! A peer on plain UDP must prove its address before it is admitted, because a room sends it much more than it
//! sends.

/// The number of messages, and of their bytes, that are kept for a peer that has not proven its address.
const KEPT: usize = 16;
const KEPT_BYTES: usize = 8192;

const BEGINNING: &str = "* type /here ";
const END: &str = " to come in";
/// The prefix of the message with the token.
pub(super) const COMMAND: &str = "/here ";

/// Returns the server's question. With its headers it is shorter than three empty datagrams.
fn question(token: &str) -> String {
    format!("{BEGINNING}{token}{END}\n")
}

/// Returns a client's answer to a line if it is the question, and none otherwise.
pub fn answer(line: &str) -> Option<String> {
    let token = line.trim_end().strip_prefix(BEGINNING)?.strip_suffix(END)?;
    token.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| format!("{COMMAND}{token}\n"))
}

/// A peer that has not proven its address, and its messages so far.
#[derive(Default)]
pub(super) struct UnverifiedPeer {
    said: Vec<Vec<u8>>,
    bytes: usize,
}

impl UnverifiedPeer {
    /// Keeps a message for later, within limits, and returns the question to send.
    pub(super) fn hear(&mut self, message: &[u8], token: &str) -> String {
        let is_kept = self.said.len() < KEPT && self.bytes + message.len() <= KEPT_BYTES;
        if is_kept && !message.starts_with(COMMAND.as_bytes()) {
            self.bytes += message.len();
            self.said.push(message.to_vec());
        }
        question(token)
    }

    /// Saves the kept messages for the process that takes the server over.
    pub(super) fn save(&self) -> Vec<u8> {
        // No message is longer than all of them together may be.
        let parts =
            self.said.iter().map(|message| [&(message.len() as u16).to_be_bytes()[..], message].concat());
        parts.collect::<Vec<_>>().concat()
    }

    /// Restores what [`save`](Self::save) saved.
    pub(super) fn resume(mut saved: &[u8]) -> Self {
        let mut unverified = Self::default();
        while let Some((len, rest)) = saved.split_first_chunk()
            && let Some((message, rest)) = rest.split_at_checked(u16::from_be_bytes(*len).into())
            && unverified.said.len() < KEPT
        {
            unverified.bytes += message.len();
            unverified.said.push(message.to_vec());
            saved = rest;
        }
        unverified
    }

    /// Takes the kept messages out.
    pub(super) fn said(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_newcomer_go_to_the_new_process() {
        let mut unverified = UnverifiedPeer::default();
        for message in ["one", "", "three"] {
            unverified.hear(message.as_bytes(), "0123456789ab");
        }
        let mut other = UnverifiedPeer::resume(&unverified.save());
        assert_eq!(other.bytes, unverified.bytes);
        assert_eq!(other.said(), [&b"one"[..], b"", b"three"]);
        assert!(UnverifiedPeer::resume(&[0, 9, 1]).said().is_empty());
    }

    #[test]
    fn the_question_is_known_by_its_form_and_fits_what_an_empty_line_allows() {
        let question = question("0123456789ab");
        assert_eq!(answer(&question).as_deref(), Some("/here 0123456789ab\n"));
        assert_eq!(answer("* type /here to come in"), None);
        assert_eq!(answer("* type /here x\nrm to come in"), None);
        assert!(question.len() + 28 <= 3 * 28, "{question}");
    }
}
