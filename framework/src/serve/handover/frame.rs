//! The messages between the process that gives a server away and the one that takes it.
//!
//! | from | message | what it says |
//! |---|---|---|
//! | new | `HELLO` | the version of the format that it reads peers in |
//! | old | `WELCOME`, `LISTENER` …, `DESCRIPTOR` … | the keys of session tickets; each listener with its sockets; what the program adds |
//! | new | `READY` | which listeners it takes, and whether it takes peers. Everything that can fail has been done |
//! | old | `SECRETS`, `PEER` …, `STAYS` …, `END` | it stands still: what cookies are made with, the peers that go, those that stay |
//! | new | `TAKEN` … | which peers it cannot serve after all |
//! | old | `LATE` …, `GO` | what has been sent to the peers meanwhile. From `GO` on the new process serves, and until then the old one |
//! | both | `DATAGRAM` … | a datagram of a peer that stays, to the old one; one that is nobody's there, to the new one |
//!
//! All but the content of `PEER`, `SECRETS` and `LATE` is the same in all versions, so that listeners go over from any to any.

/// The version of what a peer is written as. It changes with every change of that.
pub(crate) const VERSION: u16 = 1;

/// What a message of another program hardly begins with.
pub(crate) const MAGIC: &[u8; 8] = b"peeloff1";

pub(crate) const HELLO: u8 = 1;
pub(crate) const WELCOME: u8 = 2;
pub(crate) const LISTENER: u8 = 3;
pub(crate) const READY: u8 = 4;
pub(crate) const SECRETS: u8 = 5;
pub(crate) const PEER: u8 = 6;
pub(crate) const STAYS: u8 = 7;
pub(crate) const END: u8 = 8;
pub(crate) const TAKEN: u8 = 9;
pub(crate) const LATE: u8 = 10;
pub(crate) const GO: u8 = 11;
pub(crate) const DATAGRAM: u8 = 12;
pub(crate) const DESCRIPTOR: u8 = 13;
