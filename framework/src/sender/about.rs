//! Methods by which both [`Peer`](crate::Peer) and [`Sender`](crate::Sender) describe the peer.

/// Gives a type with a field `association` the methods that describe its peer.
macro_rules! about_the_peer {
    ($holder:ident) => {
        impl $holder {
            /// Returns the identifier of this association.
            pub fn id(&self) -> $crate::association::AssociationId {
                self.association.id
            }

            /// Returns the protocol of this association.
            pub fn scheme(&self) -> $crate::address::Scheme {
                self.association.scheme
            }

            /// Returns the peer's address; behind a proxy, the address in the PROXY header.
            pub fn peer_address(&self) -> std::net::SocketAddr {
                self.association.peer_address()
            }

            /// Returns the address of this host that the peer talks to; never a wildcard.
            pub fn local_address(&self) -> std::net::SocketAddr {
                self.association.local_address()
            }

            /// Returns the identity that the peer proved in the handshake.
            pub fn identity(&self) -> &$crate::credentials::PeerIdentity {
                &self.association.summary().identity
            }

            /// Returns the cipher suite in OpenSSL's spelling, such as `ECDHE-ECDSA-AES256-GCM-SHA384`; `None` without
            /// encryption.
            pub fn cipher(&self) -> Option<&str> {
                self.association.summary().cipher.as_deref()
            }

            /// Returns the application protocol that was agreed on (ALPN, RFC 7301), if there is one.
            pub fn alpn(&self) -> Option<&str> {
                self.association.summary().alpn.as_deref()
            }

            /// Returns the host name that the client asked for (server name indication, RFC 6066 §3), if any.
            pub fn server_name(&self) -> Option<&str> {
                self.association.summary().server_name.as_deref()
            }

            /// Returns the SRTP profile that was agreed on (RFC 5764), in OpenSSL's spelling, such as
            /// `SRTP_AES128_CM_SHA1_80`.
            pub fn srtp_profile(&self) -> Option<&str> {
                self.association.summary().srtp.as_deref()
            }

            /// Returns whether the handshake resumed an earlier session, in which case the peer did not show its
            /// certificate again. A handshake that began with a pre-shared key resumes nothing.
            pub fn is_resumed(&self) -> bool {
                self.association.summary().resumed
            }

            /// Fills `out` with keys that both sides derive from this session for another use (RFC 5705, RFC 8446
            /// §7.5). TLS over SCTP uses the session of stream 0. For SRTP (RFC 5764 §4.2) the label is
            /// `EXTRACTOR-dtls_srtp`, without a context.
            ///
            /// # Errors
            ///
            /// [`Error::NoExporters`](crate::Error::NoExporters) on DTLS if
            /// [`Credentials::exporters`](crate::Credentials::exporters) is off;
            /// [`Error::BadExport`](crate::Error::BadExport); [`Error::NotSecure`](crate::Error::NotSecure) on a
            /// transport without encryption; [`Error::Ended`](crate::Error::Ended).
            pub fn export_keying_material(
                &self,
                label: &str,
                context: Option<&[u8]>,
                out: &mut [u8],
            ) -> Result<(), $crate::error::Error> {
                self.association.export(label, context, out)
            }

            /// Returns the token with which the peer proves its address
            /// ([`ServerBuilder::udp_proof`](crate::ServerBuilder::udp_proof)). Until the peer sends it back, it may be
            /// sent at most three times the bytes that came from it. The token is 12 hexadecimal digits, and the peer
            /// must send it at the end of a message (white space may follow). A message that asks for the token must
            /// not end with it, because otherwise a source that echoes everything would pass. The handler receives the
            /// message with the token like any other. Returns `None` if no proof is needed, or if the address has been
            /// proven.
            pub fn proof_token(&self) -> Option<&str> {
                self.association.proof.as_deref().and_then($crate::proof::Proof::token)
            }

            /// Returns the length of the longest message that can be sent, in bytes: 16,384 on DTLS and on TLS over
            /// SCTP; 65,507 (IPv4) or 65,527 (IPv6) on UDP, where IP fragments messages above the path MTU, about 1,400
            /// bytes; [`Settings::max_message`](crate::sctp::Settings::max_message) on SCTP;
            /// [`TcpSettings::max_message`](crate::TcpSettings::max_message) on TCP and TLS.
            pub fn max_message_size(&self) -> usize {
                self.association.max_message()
            }

            /// Returns whether the server is shutting down and the grace period is running.
            pub fn is_draining(&self) -> bool {
                self.association.attention.signals() & $crate::net::attention::signal::DRAIN != 0
            }

            /// Returns the current time of the clock that this association's deadlines and timers use:
            /// [`Instant::now`](std::time::Instant::now), and in tests over memory the time of
            /// [`Remote::elapse`](crate::testing::Remote::elapse).
            pub fn now(&self) -> std::time::Instant {
                self.association.now()
            }

            /// Returns why the association has ended; `None` while it lives.
            pub fn end_reason(&self) -> Option<&$crate::error::EndReason> {
                self.association.end_reason()
            }
        }
    };
}
pub(crate) use about_the_peer;
