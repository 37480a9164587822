//! Tokens by which the dispatcher recognizes its descriptors in the results of epoll.

/// Names a watched descriptor. epoll stores it as a number, with the kind in the upper two bits and the index below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The mailbox: a message has arrived, or the dispatcher must stop.
    Wake,
    /// A UDP listener, by its index.
    Udp(usize),
    /// A TCP listener, by its index.
    Tcp(usize),
    /// An SCTP listener, by its index.
    Sctp(usize),
}

/// The number of bits below the kind.
const BITS: u32 = 62;

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        let (kind, index) = match token {
            Token::Wake => (0, 0),
            Token::Udp(index) => (1, index as Self),
            Token::Tcp(index) => (2, index as Self),
            Token::Sctp(index) => (3, index as Self),
        };
        kind << BITS | index
    }
}

impl From<u64> for Token {
    fn from(token: u64) -> Self {
        let index = (token & ((1 << BITS) - 1)) as usize;
        match token >> BITS {
            1 => Self::Udp(index),
            2 => Self::Tcp(index),
            3 => Self::Sctp(index),
            _ => Self::Wake,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_from_epoll_as_it_was() {
        let tokens =
            [0, 1, usize::MAX >> 2].map(|at| [Token::Wake, Token::Udp(at), Token::Tcp(at), Token::Sctp(at)]);
        for token in tokens.into_iter().flatten() {
            assert_eq!(Token::from(u64::from(token)), token);
        }
    }
}
