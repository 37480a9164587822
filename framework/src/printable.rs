//! Makes text that a peer chose safe for a log or an error.

/// Maximum number of characters of a name that a peer chose.
pub(crate) const NAME_CHARACTERS: usize = 100;

/// Returns a PSK identity, which can be any bytes (RFC 4279 §5.1), escaped and truncated.
pub(crate) fn psk_name(identity: &[u8]) -> String {
    format!("psk:{}", printable(&String::from_utf8_lossy(identity), NAME_CHARACTERS))
}

/// Escapes everything in `text` that a terminal or a line-based reader could interpret, and truncates it to `most`
/// characters.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(1024));
    for (index, c) in text.chars().enumerate() {
        if index == most {
            shown.push_str("...");
            break;
        }
        match c {
            '\\' | '\'' | '"' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_a_peer_cannot_forge_a_line_of_the_log() {
        assert_eq!(psk_name(b"a\nINFO forged\x1b[31m"), "psk:a\\nINFO forged\\u{1b}[31m");
        assert_eq!(psk_name(b"a\0b"), "psk:a\\0b");
        assert_eq!(psk_name(&[0xff, b'x']), "psk:\u{fffd}x");
        let long = psk_name(&[b'x'; 1000]);
        assert_eq!(long.len(), 4 + NAME_CHARACTERS + 3);
        assert_eq!(printable("CN=\"a\\,b\"", 100), "CN=\"a\\,b\"");
    }
}
