//! The exit codes besides success and bad usage.

/// The exit code for an I/O error, or an association that ended with an error.
pub(super) const BROKEN: u8 = 1;
/// The exit code for a handshake or a verification that failed, or an association that was refused.
pub(super) const NO_HANDSHAKE: u8 = 3;
/// The exit code for a timeout.
pub(super) const TIMED_OUT: u8 = 4;
