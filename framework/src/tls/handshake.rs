//! OpenSSL's handshakes and reads, over any byte transport.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, Ssl, SslContext, SslStream, SslVerifyMode};
use openssl::x509::X509VerifyResult;

use super::context::{Sessions, keep_resumed, keep_sessions, objection, psk};
use crate::credentials::RevocationList;
use crate::error::EndReason;
use crate::protocol::Read;
use crate::protocol::alert::Alert;
use crate::sys::ossl;

/// Reason why there is no session.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The association ends for this reason.
    Ended(EndReason),
    /// The peer restarted; the datagram is its ClientHello with a valid cookie.
    Restarted(Vec<u8>),
    /// The same on SCTP, where the socket already has the new association.
    RestartedSctp,
    /// The certificate of the server does not verify.
    Unverified(String),
}

impl Failure {
    /// Returns the failure of a handshake for this reason.
    pub(crate) fn of(why: impl Into<String>) -> Self {
        Self::Ended(EndReason::HandshakeFailed(why.into()))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended(reason) => reason.fmt(f),
            Self::Unverified(why) => f.write_str(why),
            Self::Restarted(_) | Self::RestartedSctp => f.write_str("the peer restarted"),
        }
    }
}

/// Makes a server's side before its handshake.
pub(crate) fn server_ssl(context: &SslContext) -> Result<Ssl, Failure> {
    let mut ssl = Ssl::new(context).map_err(broken)?;
    ssl.set_accept_state();
    Ok(ssl)
}

/// The sessions that a client may resume, and in which it keeps new ones.
pub(crate) struct Resume<'a> {
    pub(crate) sessions: &'a Arc<Sessions>,
    /// The revocation lists against which a session's chain is checked again.
    pub(crate) revoked: Option<&'a RevocationList>,
    /// Identifies the server and the protocol.
    pub(crate) server: String,
}

impl Resume<'_> {
    /// Drops the session with this server after a failed handshake.
    pub(crate) fn forget(&self) {
        self.sessions.forget(&self.server);
    }
}

/// Makes a client's side before its handshake; `name` is the name that the server must prove.
pub(crate) fn client_ssl(
    context: &SslContext,
    name: Option<&str>,
    resume: Option<&Resume<'_>>,
) -> Result<Ssl, Failure> {
    let mut ssl = Ssl::new(context).map_err(broken)?;
    if let Some(Resume { sessions, revoked, server }) = resume {
        keep_sessions(&mut ssl, server, sessions);
        if let Some(session) = sessions.take(server, *revoked) {
            // An unusable session leads to a full handshake.
            let _ = ossl::set_session(&mut ssl, &session);
        }
    }
    if let Some(name) = name {
        match name.parse::<IpAddr>() {
            Ok(address) => ssl.param_mut().set_ip(address).map_err(broken)?,
            Err(_) => {
                ssl.set_hostname(name).map_err(broken)?;
                ssl.param_mut().set_host(name).map_err(broken)?;
            }
        }
    }
    ssl.set_connect_state();
    Ok(ssl)
}

/// Runs one step of OpenSSL's handshake. Returns `true` when it is complete.
pub(crate) fn progress<S: io::Read + io::Write>(stream: &mut SslStream<S>) -> Result<bool, Failure> {
    match stream.do_handshake() {
        Ok(()) => {
            keep_resumed(stream.ssl());
            Ok(true)
        }
        Err(error) if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) => Ok(false),
        Err(error) => {
            let verified = stream.ssl().verify_result();
            // A client that accepts any certificate has a verification result too, but fails for another reason.
            let accepts_any = stream.ssl().verify_mode() == SslVerifyMode::NONE;
            Err(if verified == X509VerifyResult::OK || accepts_any {
                Failure::Ended(EndReason::HandshakeFailed(psk::explain(stream.ssl(), describe(&error))))
            } else {
                let why = verified.error_string();
                Failure::Unverified(match objection(stream.ssl(), verified) {
                    Some(objection) => format!("{why}: {objection}"),
                    None => why.to_owned(),
                })
            })
        }
    }
}

/// Reads the message of one record.
pub(crate) fn read<S: io::Read + io::Write>(stream: &mut SslStream<S>, buffer: &mut [u8]) -> Read {
    if buffer.is_empty() {
        // OpenSSL would not process any record for an empty buffer.
        let mut byte = [0];
        return match read(stream, &mut byte) {
            Read::Message(len) => Read::Long(byte[..len].to_vec()),
            other => other,
        };
    }
    match stream.ssl_read(buffer) {
        Ok(len) => match stream.ssl().pending() {
            rest if rest > 0 && len == buffer.len() => read_rest(stream, buffer, rest),
            _ => Read::Message(len),
        },
        Err(error) => match error.code() {
            ErrorCode::WANT_READ | ErrorCode::WANT_WRITE => Read::Nothing,
            ErrorCode::ZERO_RETURN => Read::Closed,
            _ => Read::Broken(describe(&error)),
        },
    }
}

/// Reads the rest of a record that is longer than the buffer.
fn read_rest<S: io::Read + io::Write>(stream: &mut SslStream<S>, start: &[u8], rest: usize) -> Read {
    let mut whole = start.to_vec();
    whole.resize(start.len() + rest, 0);
    match stream.ssl_read(&mut whole[start.len()..]) {
        Ok(len) => {
            whole.truncate(start.len() + len);
            Read::Long(whole)
        }
        Err(error) => Read::Broken(describe(&error)),
    }
}

/// Describes an OpenSSL error in one line: the peer's alert, or the reason of the first error.
pub(crate) fn describe(error: &openssl::ssl::Error) -> String {
    let first = error.ssl_error().and_then(|stack| stack.errors().first());
    if let Some(alert) = first.and_then(|first| Alert::of_reason_code(first.reason_code())) {
        return alert.to_string();
    }
    let reason = first.and_then(|first| first.reason());
    match (reason, error.io_error()) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some(io)) => io.to_string(),
        // OpenSSL calls this an unexpected end, even on datagrams.
        (None, None) => {
            "OpenSSL failed without giving a reason, as it does for some malformed messages".to_owned()
        }
    }
}

pub(crate) fn broken(errors: ErrorStack) -> Failure {
    Failure::Ended(EndReason::HandshakeFailed(errors.to_string()))
}
