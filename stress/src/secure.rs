//! Both sides' OpenSSL contexts as the stress binaries want them: one key exchange, one cipher, so that a server
//! and its floor do the same work.

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

/// The key that both sides of a PSK handshake know.
pub const PSK: [u8; 16] = *b"stress-stress-st";
/// Its name.
pub const PSK_IDENTITY: &[u8] = b"stress";
/// What a cookie of the memory-only server looks like; its length is that of peeloff's.
const COOKIE: [u8; 32] = [0x5A; 32];
/// Handshake datagrams, in bytes.
const MTU: u32 = 1400;

/// How the two sides know each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// The server has an ECDSA certificate.
    #[default]
    Certificate,
    /// Both have one.
    Mutual,
    /// They share a key (RFC 4279).
    Psk,
}

impl Auth {
    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Mutual => "mutual",
            Self::Psk => "psk",
        }
    }
}

/// What is agreed on in a handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suite {
    /// DTLS 1.2, or TLS 1.3.
    pub dtls: bool,
    /// Who shows what.
    pub auth: Auth,
    /// The group of the key exchange, in OpenSSL's words.
    pub group: String,
}

/// The last session that a client's context got.
pub type LastSession = Arc<Mutex<Option<SslSession>>>;

impl Suite {
    /// The client's context, which takes any certificate, and where it puts the sessions it gets.
    ///
    /// # Errors
    ///
    /// OpenSSL does not know the group.
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

    /// The server's context, for handshakes in memory. With `cookie` a DTLS one asks each client for a cookie
    /// first.
    ///
    /// # Errors
    ///
    /// OpenSSL does not know the group.
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

/// An SSL object of a context, with datagrams of a size that fits most paths.
///
/// # Errors
///
/// Out of memory.
pub fn ssl(context: &SslContext, dtls: bool) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    if dtls {
        ssl.set_mtu(MTU)?;
    }
    Ok(ssl)
}

/// Has a client's SSL offer to go on with a session: with a copy, because OpenSSL spoils the session of whoever ends
/// without close_notify.
pub fn resume(ssl: &mut Ssl, session: &SslSession) {
    // One that cannot be offered makes a full handshake, which is counted.
    if let Ok(copy) = copy(session) {
        let _ = test_support::set_session(ssl, &copy);
    }
}

fn copy(session: &SslSession) -> Result<SslSession, ErrorStack> {
    SslSession::from_der(&session.to_der()?)
}

/// The certificate of this process, in PEM: what its clients show where they are asked.
pub fn certificate_pem() -> Vec<u8> {
    own().pem()
}

fn use_identity(context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    context.set_certificate(own().x509())?;
    context.set_private_key(own().key())
}

/// The certificate of this process, made once: self-signed, with an ECDSA key on P-256, as peeloff's own.
fn own() -> &'static Certificate {
    static OWN: LazyLock<Certificate> = LazyLock::new(|| Certificate::self_signed("stress"));
    &OWN
}
