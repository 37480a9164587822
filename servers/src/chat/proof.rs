//! Who is on plain UDP must show that it is at its address before it is let in, for rooms have more to say than one line.

use peeloff::{Error, Peer};

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

/// Asks until the peer has returned its token, and gives what it said meanwhile; `None`: it is gone. Blocks until then.
///
/// # Errors
///
/// As [`Peer::recv`].
pub(super) fn await_proof(peer: &mut Peer) -> Result<Option<Vec<Vec<u8>>>, Error> {
    let (mut kept, mut bytes) = (Vec::new(), 0);
    let mut buffer = vec![0; 2048];
    while peer.proof_token().is_some() {
        let length = match peer.recv(&mut buffer) {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(None),
            Err(Error::BufferTooSmall { needed }) => {
                buffer.resize(needed, 0);
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(question) = peer.proof_token().map(question) else { break };
        if !buffer[..length].starts_with(COMMAND.as_bytes())
            && kept.len() < KEPT
            && bytes + length <= KEPT_BYTES
        {
            bytes += length;
            kept.push(buffer[..length].to_vec());
        }
        match peer.send(question.as_bytes()) {
            Err(error) if error.is_fatal() => return Err(error),
            // Its next datagram is answered again.
            _ => {}
        }
    }
    Ok(Some(kept))
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
