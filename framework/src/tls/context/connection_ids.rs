//! The extensions `connection_id` (RFC 9146 §3) and `rrc` (RFC 9853 §3) in OpenSSL's DTLS 1.2 handshakes.
//!
//! Every DTLS context supports them; a handshake uses them if [`offer`] was called.

use std::sync::LazyLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{ExtensionContext, Ssl, SslAlert, SslContextBuilder, SslRef};
use zeroize::Zeroizing;

/// The number of the extension `connection_id`. Its body is the connection ID that the sender wants to receive, after a
/// length of one byte.
const CONNECTION_ID: u16 = 54;
/// The number of the extension `rrc`, whose body is empty.
const RRC: u16 = 61;

/// The extension that one side offers, or with which it answers an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The connection ID that this side wants to receive, of at most 255 bytes. Empty: it wants none, but uses the
    /// other side's.
    pub(crate) cid: Box<[u8]>,
    /// Whether new addresses may be checked for return routability.
    pub(crate) check: bool,
    /// Whether the other side's address may change if it cannot be checked.
    pub(crate) follow_unchecked: bool,
    /// The random secret of this handshake, from which the cookies of checks are made.
    pub(crate) secret: Zeroizing<[u8; 32]>,
}

/// The agreement of both sides.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Agreed<'a> {
    /// Our offer, with the connection ID that the other side puts into its records.
    pub(crate) offer: &'a Offer,
    /// The connection ID that we put into our records.
    pub(crate) peer: &'a [u8],
    /// Whether new addresses may be checked for return routability.
    pub(crate) check: bool,
}

static OFFER: LazyLock<Option<Index<Ssl, Offer>>> = LazyLock::new(|| Ssl::new_ex_index().ok());
/// The connection ID in the other side's extension.
static PEER: LazyLock<Option<Index<Ssl, Box<[u8]>>>> = LazyLock::new(|| Ssl::new_ex_index().ok());
/// Set if the other side sent the extension `rrc`.
static CHECK: LazyLock<Option<Index<Ssl, ()>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Makes the handshakes of a context able to negotiate connection IDs.
pub(super) fn use_connection_ids(context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    let messages = ExtensionContext::CLIENT_HELLO | ExtensionContext::TLS1_2_SERVER_HELLO;
    // OpenSSL calls a server's callback only if the client sent the extension.
    context.add_custom_ext(
        CONNECTION_ID,
        messages,
        |ssl, _, _| {
            Ok(offered(ssl).map(|offer| {
                let len = u8::try_from(offer.cid.len()).unwrap_or(u8::MAX);
                [&[len], &offer.cid[..usize::from(len)]].concat()
            }))
        },
        |ssl, _, body, _| {
            let (len, cid) = body.split_first().ok_or(SslAlert::DECODE_ERROR)?;
            if usize::from(*len) != cid.len() {
                return Err(SslAlert::DECODE_ERROR);
            }
            note(ssl, &PEER, cid.into());
            Ok(())
        },
    )?;
    context.add_custom_ext(
        RRC,
        messages,
        |ssl, context, _| {
            // RFC 9853 §3: a server answers with it only if it also answers with connection IDs.
            let is_answer = context.contains(ExtensionContext::TLS1_2_SERVER_HELLO);
            let wanted = offered(ssl).is_some_and(|offer| offer.check);
            Ok((wanted && (!is_answer || found(ssl, &PEER).is_some())).then(Vec::new))
        },
        |ssl, _, body, _| {
            if !body.is_empty() {
                return Err(SslAlert::DECODE_ERROR);
            }
            note(ssl, &CHECK, ());
            Ok(())
        },
    )
}

/// Makes this handshake, which has not begun, offer connection IDs, or accept a client's offer.
///
/// # Errors
///
/// OpenSSL could not allocate memory.
pub(crate) fn offer(ssl: &mut SslRef, offer: Offer) -> Result<(), ErrorStack> {
    ssl.set_ex_data((*OFFER).ok_or_else(ErrorStack::get)?, offer);
    Ok(())
}

/// Returns the agreement of both sides. `None` until the hello of the other side has been read, and if it did not
/// agree.
pub(crate) fn agreed(ssl: &SslRef) -> Option<Agreed<'_>> {
    let (offer, peer) = (offered(ssl)?, found(ssl, &PEER)?);
    Some(Agreed { offer, peer, check: offer.check && found(ssl, &CHECK).is_some() })
}

fn offered(ssl: &SslRef) -> Option<&Offer> {
    found(ssl, &OFFER)
}

fn found<'a, T>(ssl: &'a SslRef, index: &LazyLock<Option<Index<Ssl, T>>>) -> Option<&'a T> {
    ssl.ex_data((**index)?)
}

fn note<T>(ssl: &mut SslRef, index: &LazyLock<Option<Index<Ssl, T>>>, value: T) {
    if let Some(index) = **index {
        ssl.set_ex_data(index, value);
    }
}
