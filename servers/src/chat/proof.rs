//! Who is on plain UDP must show that it is at its address before it is let in, for rooms have more to say than one line.

/// Messages and their bytes that are kept for later of a peer that has not shown where it is.
const KEPT: usize = 16;
const KEPT_BYTES: usize = 8192;

const BEGINNING: &str = "* type /here ";
const END: &str = " to come in";
/// What begins the message with the token.
pub(super) const COMMAND: &str = "/here ";

/// What the server asks. With its headers it is shorter than three empty datagrams.
fn question(token: &str) -> String {
    format!("{BEGINNING}{token}{END}\n")
}

/// What a client answers to a line that is the question; `None` to any other line.
pub fn answer(line: &str) -> Option<String> {
    let token = line.trim_end().strip_prefix(BEGINNING)?.strip_suffix(END)?;
    token.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| format!("{COMMAND}{token}\n"))
}

/// A peer that has not shown where it is, and what it has said so far.
#[derive(Default)]
pub(super) struct Newcomer {
    said: Vec<Vec<u8>>,
    bytes: usize,
}

impl Newcomer {
    /// Keeps a message for later, within bounds, and returns the question that answers it.
    pub(super) fn hear(&mut self, message: &[u8], token: &str) -> String {
        let is_kept = self.said.len() < KEPT && self.bytes + message.len() <= KEPT_BYTES;
        if is_kept && !message.starts_with(COMMAND.as_bytes()) {
            self.bytes += message.len();
            self.said.push(message.to_vec());
        }
        question(token)
    }

    /// Takes out the messages that were kept.
    pub(super) fn said(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_known_by_its_form_and_fits_what_an_empty_line_allows() {
        let question = question("0123456789ab");
        assert_eq!(answer(&question).as_deref(), Some("/here 0123456789ab\n"));
        assert_eq!(answer("* type /here to come in"), None);
        assert_eq!(answer("* type /here x\nrm to come in"), None);
        assert!(question.len() + 28 <= 3 * 28, "{question}");
    }
}
