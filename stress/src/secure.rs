//! Makes OpenSSL contexts for both sides. They allow one key exchange and one cipher, so that a server and its
//! floor do the same work.

use std::sync::{Arc, LazyLock, Mutex};

use clap::ValueEnum;
use openssl::error::ErrorStack;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSession, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use openssl::x509::store::X509StoreBuilder;
use peeloff::test_support;
use peeloff_certificates::Certificate;
use serde::{Deserialize, Serialize};

/// The pre-shared key of both sides.
pub const PSK: [u8; 16] = *b"stress-stress-st";
/// The identity of the pre-shared key.
pub const PSK_IDENTITY: &[u8] = b"stress";
/// The cookie of the server in memory. It is as long as peeloff's cookies.
const COOKIE: [u8; 32] = [0x5A; 32];
/// The size of handshake datagrams, in bytes.
const MTU: u32 = 1400;

/// How the two sides authenticate each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// The server has an ECDSA certificate.
    #[default]
    Certificate,
    /// Both sides have a certificate.
    Mutual,
    /// Both sides have a pre-shared key (RFC 4279).
    Psk,
}

impl Auth {
    /// Returns the value as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Mutual => "mutual",
            Self::Psk => "psk",
        }
    }
}

/// The parameters of a handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suite {
    /// Whether it is DTLS 1.2; otherwise it is TLS 1.3.
    pub dtls: bool,
    /// How the sides authenticate.
    pub auth: Auth,
    /// The group of the key exchange, in OpenSSL's spelling.
    pub group: String,
}

/// The last session that a client's context received.
pub type LastSession = Arc<Mutex<Option<SslSession>>>;

impl Suite {
    /// Returns the client's context, which accepts any certificate, and the place where it stores the sessions
    /// that it receives.
    ///
    /// # Errors
    ///
    /// Returns an error if OpenSSL does not know the group.
    pub fn client(&self) -> Result<(SslContext, LastSession), ErrorStack> {
        let method = if self.dtls { SslMethod::dtls_client() } else { SslMethod::tls_client() };
        let mut context = self.common(method)?;
        context.set_verify(SslVerifyMode::NONE);
        match self.auth {
            Auth::Certificate => {}
            Auth::Mutual => use_identity(&mut context)?,
            Auth::Psk => context.set_psk_client_callback(|_, _, identity, key| {
                let named = PSK_IDENTITY.len();
                if identity.len() <= named || key.len() < PSK.len() {
                    return Ok(0);
                }
                identity[..named].copy_from_slice(PSK_IDENTITY);
                identity[named] = 0;
                key[..PSK.len()].copy_from_slice(&PSK);
                Ok(PSK.len())
            }),
        }
        let last = LastSession::default();
        let place = Arc::clone(&last);
        context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        context.set_new_session_callback(move |_, session| {
            if let (Ok(mut place), Ok(copy)) = (place.lock(), copy(&session)) {
                *place = Some(copy);
            }
        });
        Ok((context.build(), last))
    }

    /// Returns the server's context for handshakes in memory. With `cookie`, a DTLS server requests a cookie from
    /// each client first.
    ///
    /// # Errors
    ///
    /// Returns an error if OpenSSL does not know the group.
    pub fn server(&self, cookie: bool) -> Result<SslContext, ErrorStack> {
        let method = if self.dtls { SslMethod::dtls_server() } else { SslMethod::tls_server() };
        let mut context = self.common(method)?;
        if self.auth == Auth::Psk {
            context.set_psk_server_callback(|_, _, key| {
                key[..PSK.len()].copy_from_slice(&PSK);
                Ok(PSK.len())
            });
        } else {
            use_identity(&mut context)?;
        }
        if self.auth == Auth::Mutual {
            let mut store = X509StoreBuilder::new()?;
            store.add_cert(own().x509().clone())?;
            context.set_verify_cert_store(store.build())?;
            context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        context.set_session_id_context(b"stress")?;
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        if self.dtls && cookie {
            context.set_options(SslOptions::COOKIE_EXCHANGE);
            context.set_cookie_generate_cb(|_, place| {
                place[..COOKIE.len()].copy_from_slice(&COOKIE);
                Ok(COOKIE.len())
            });
            context.set_cookie_verify_cb(|_, cookie| cookie == COOKIE);
        }
        Ok(context.build())
    }

    fn common(&self, method: SslMethod) -> Result<SslContextBuilder, ErrorStack> {
        let mut context = SslContext::builder(method)?;
        let version = if self.dtls { SslVersion::DTLS1_2 } else { SslVersion::TLS1_3 };
        context.set_min_proto_version(Some(version))?;
        context.set_max_proto_version(Some(version))?;
        context.set_options(SslOptions::NO_QUERY_MTU | SslOptions::NO_RENEGOTIATION);
        match self.auth {
            Auth::Psk => context.set_cipher_list("PSK-AES128-GCM-SHA256")?,
            _ => context.set_cipher_list("ECDHE-ECDSA-AES128-GCM-SHA256")?,
        }
        if !self.dtls {
            context.set_ciphersuites("TLS_AES_128_GCM_SHA256")?;
        }
        context.set_groups_list(&self.group)?;
        Ok(context)
    }
}

/// Makes an SSL object of a context, with datagrams of a size that fits most paths.
///
/// # Errors
///
/// Returns an error if there is no memory.
pub fn ssl(context: &SslContext, dtls: bool) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    if dtls {
        ssl.set_mtu(MTU)?;
    }
    Ok(ssl)
}

/// Makes a client offer to resume a session. Offers a copy, because OpenSSL invalidates the session of an SSL
/// object that ends without close_notify.
pub fn resume(ssl: &mut Ssl, session: &SslSession) {
    // A session that cannot be offered leads to a full handshake, which is counted as one.
    if let Ok(copy) = copy(session) {
        let _ = test_support::set_session(ssl, &copy);
    }
}

fn copy(session: &SslSession) -> Result<SslSession, ErrorStack> {
    SslSession::from_der(&session.to_der()?)
}

/// Returns the certificate of this process in PEM, which its clients present if the server requests one.
pub fn certificate_pem() -> Vec<u8> {
    own().pem()
}

fn use_identity(context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    context.set_certificate(own().x509())?;
    context.set_private_key(own().key())
}

/// Returns the certificate of this process, which is made once: self-signed, with an ECDSA key on P-256, as
/// peeloff makes its own.
fn own() -> &'static Certificate {
    static OWN: LazyLock<Certificate> = LazyLock::new(|| Certificate::self_signed("stress"));
    &OWN
}
