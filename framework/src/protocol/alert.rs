//! TLS alerts: their numbers, their names, and the wording that this crate uses for them.

use std::fmt;

/// An alert's description (RFC 5246 §7.2, RFC 8446 §6; the IANA registry "TLS Alerts").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alert(pub(crate) u8);

impl Alert {
    pub(crate) const CLOSE_NOTIFY: Self = Self(0);
    /// The certificate chain is too long; TLS over TCP sends this alert in that case too.
    pub(crate) const ILLEGAL_PARAMETER: Self = Self(47);
    /// The peer is not authorized.
    pub(crate) const ACCESS_DENIED: Self = Self(49);
    pub(crate) const DECODE_ERROR: Self = Self(50);
    /// An error that is not the peer's fault, such as a lack of memory, prevents the handshake.
    pub(crate) const INTERNAL_ERROR: Self = Self(80);
    pub(crate) const NO_RENEGOTIATION: Self = Self(100);

    /// Returns an unencrypted DTLS record with this alert at level fatal (RFC 6347 §4.1, RFC 5246 §7.2). `sequence` is
    /// the record's sequence number, which its receiver must not have seen in epoch 0 before.
    pub(crate) fn in_clear(self, sequence: u64) -> [u8; 15] {
        const FATAL: u8 = 2;
        let mut record = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, FATAL, self.0];
        record[5..11].copy_from_slice(&sequence.to_be_bytes()[2..]);
        record
    }

    /// Returns the name in the registry; `None` if the number has none.
    pub(crate) fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            21 => "decryption_failed",
            22 => "record_overflow",
            30 => "decompression_failure",
            40 => "handshake_failure",
            41 => "no_certificate",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            110 => "unsupported_extension",
            111 => "certificate_unobtainable",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            _ => return None,
        })
    }

    /// Returns the alert of the peer that OpenSSL reports with this reason code, which is the number plus 1,000
    /// (SSL_AD_REASON_OFFSET).
    pub(crate) fn of_reason_code(code: i32) -> Option<Self> {
        u8::try_from(code.checked_sub(1000)?).ok().map(Self)
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "the peer sent alert {} ({name})", self.0),
            None => write!(f, "the peer sent alert {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_has_its_number_and_its_name() {
        assert_eq!(Alert(48).to_string(), "the peer sent alert 48 (unknown_ca)");
        assert_eq!(Alert(200).to_string(), "the peer sent alert 200");
    }

    #[test]
    fn an_alert_in_clear_is_one_record() {
        let record = Alert::ACCESS_DENIED.in_clear(0x0102_0304_0506);
        assert_eq!(record, [21, 254, 253, 0, 0, 1, 2, 3, 4, 5, 6, 0, 2, 2, 49]);
    }

    #[test]
    fn the_reason_codes_of_openssl_are_its_alerts() {
        assert_eq!(Alert::of_reason_code(1048), Some(Alert(48)));
        assert_eq!(Alert::of_reason_code(1000), Some(Alert::CLOSE_NOTIFY));
        // SSL_R_NO_SHARED_CIPHER, and one beyond the alerts.
        assert_eq!(Alert::of_reason_code(193), None);
        assert_eq!(Alert::of_reason_code(1256), None);
    }
}
