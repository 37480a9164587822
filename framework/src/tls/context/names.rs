//! The server name in a ClientHello (RFC 6066 §3), and the choice of an identity by it.
//!
//! OpenSSL looks for a session to resume before it calls the servername callback, and before TLS 1.3 that callback gets
//! the session's name instead of the one in the ClientHello. So a session of one identity could be resumed under the
//! name of another. Therefore the identity is chosen when the ClientHello arrives, before OpenSSL looks at the session:
//! each identity has its own session id context, and a session of another identity leads to a full handshake.

use std::collections::HashMap;
use std::sync::LazyLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{ClientHelloResponse, Ssl, SslContext, SslContextBuilder, SslRef, SslVersion};

use crate::sys::ossl;

/// The number of the server_name extension.
const SERVER_NAME: u16 = 0;

/// The name in the ClientHello of a handshake.
static ASKED: LazyLock<Option<Index<Ssl, String>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Returns the name that a client asked this server for, in the client's spelling.
pub(crate) fn asked_name(ssl: &SslRef) -> Option<&str> {
    ssl.ex_data((*ASKED)?).map(String::as_str)
}

/// The context that serves a name.
#[derive(Clone)]
pub(super) struct Choice {
    pub(super) context: SslContext,
    /// The newest version that the identity can be used with.
    pub(super) newest: SslVersion,
}

/// Choices by the names that they serve. `None` stands for the first identity, with whose context a handshake begins.
#[derive(Default)]
pub(super) struct Names {
    exact: HashMap<String, Option<Choice>>,
    /// By the part after `*.`.
    wildcards: HashMap<String, Option<Choice>>,
}

impl Names {
    /// Adds names for a choice. A name that already has a choice keeps it.
    pub(super) fn add(&mut self, names: Vec<String>, choice: Option<Choice>) {
        for name in names {
            let (map, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcards, parent.to_owned()),
                None => (&mut self.exact, name),
            };
            map.entry(name).or_insert_with(|| choice.clone());
        }
    }

    fn find(&self, name: &str) -> Option<&Choice> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let wildcard = || self.wildcards.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wildcard)?.as_ref()
    }

    /// Chooses the context by the ClientHello's name in each handshake that begins with this one.
    pub(super) fn choose_by(self, context: &mut SslContextBuilder) {
        context.set_client_hello_callback(move |ssl, _alert| {
            if let Some(name) = ossl::client_hello_extension(ssl, SERVER_NAME).as_deref().and_then(host_name)
            {
                if let Some(Choice { context, newest }) = self.find(name) {
                    ssl.set_ssl_context(context)?;
                    // The limit belongs to the session, which began with that of the first identity.
                    ssl.set_max_proto_version(Some(*newest))?;
                }
                let index = (*ASKED).ok_or_else(ErrorStack::get)?;
                ssl.set_ex_data(index, name.to_owned());
            }
            Ok(ClientHelloResponse::SUCCESS)
        });
        // The server acknowledges every name, even if no certificate has it.
        context.set_servername_callback(|_, _| Ok(()));
    }
}

/// Returns the host name in a server_name extension, if OpenSSL accepts it. It does not accept a name with a zero byte:
/// OpenSSL ends that handshake with unrecognized_name.
fn host_name(extension: &[u8]) -> Option<&str> {
    const HOST_NAME: u8 = 0;
    let (list_len, list) = extension.split_first_chunk::<2>()?;
    let (kind, list) =
        (list.len() == usize::from(u16::from_be_bytes(*list_len))).then_some(list)?.split_first()?;
    let (len, name) = list.split_first_chunk::<2>()?;
    let is_one = *kind == HOST_NAME && name.len() == usize::from(u16::from_be_bytes(*len));
    let name = str::from_utf8(name).ok().filter(|name| (1..=255).contains(&name.len()))?;
    (is_one && !name.contains('\0')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_read_whole_or_not_at_all() {
        let extension = |name: &[u8]| {
            let len = name.len() as u16;
            [&(len + 3).to_be_bytes()[..], &[0], &len.to_be_bytes(), name].concat()
        };
        assert_eq!(host_name(&extension(b"a.test")), Some("a.test"));
        assert_eq!(host_name(&extension(b"a.test\0b.test")), None);
        assert_eq!(host_name(&extension(b"")), None);
        assert_eq!(host_name(&extension(&[b'a'; 256])), None);
        assert_eq!(host_name(&extension(b"\xff.test")), None);
        let whole = extension(b"a.test");
        for len in 0..whole.len() {
            assert_eq!(host_name(&whole[..len]), None, "{len} bytes");
        }
        assert_eq!(host_name(&[&whole[..], b"x"].concat()), None);
    }
}
