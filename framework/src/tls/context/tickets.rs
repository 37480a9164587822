//! Session tickets with keys that can be shared: the choice of the key for a new ticket, and for a received one.

use std::sync::LazyLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{SslContext, SslContextBuilder, SslRef, SslVersion};

use crate::credentials::SharedKeys;
use crate::sys::tickets::{TicketKeys, set_ticket_keys};

/// Where a context stores its keys.
static KEYS: LazyLock<Option<Index<SslContext, SharedKeys>>> =
    LazyLock::new(|| SslContext::new_ex_index().ok());

/// Makes tickets with the current key, and accepts and renews those of the previous key.
pub(super) fn use_keys(context: &mut SslContextBuilder, keys: &SharedKeys) -> Result<(), ErrorStack> {
    let Some(index) = *KEYS else { return Err(ErrorStack::get()) };
    context.set_ex_data(index, keys.clone());
    set_ticket_keys(context, choose)
}

/// Returns the keys of the ticket with this name (`None` for a new ticket), and whether the ticket should be renewed:
/// with TLS 1.3 each ticket is for one use (RFC 8446 §C.4).
fn choose(ssl: &SslRef, name: Option<[u8; 16]>) -> Option<(TicketKeys, bool)> {
    let SharedKeys { current, previous } = ssl.ssl_context().ex_data((*KEYS)?)?;
    let (found, old) = match name {
        None => (current, false),
        Some(name) if name == current.ticket_name => (current, false),
        Some(name) => (previous.as_ref().filter(|keys| keys.ticket_name == name)?, true),
    };
    let keys = TicketKeys { name: found.ticket_name, cipher: found.ticket_cipher, mac: found.ticket_mac };
    Some((keys, old || ssl.version2() == Some(SslVersion::TLS1_3)))
}
