//! The messages between the process that hands a server over and the one that takes it over.
//!
//! | from | message | meaning |
//! |---|---|---|
//! | new | `HELLO` | the version of the format in which it reads peers |
//! | old | `WELCOME`, `LISTENER` …, `DESCRIPTOR` … | ticket keys; listeners, sockets; descriptors of the program |
//! | new | `READY` | the listeners that it takes, and whether it takes peers |
//! | old | `SECRETS`, `PEER` …, `STAYS` …, `END` | it is paused: the secrets of cookies, the peers that go and stay |
//! | new | `TAKEN` … | the peers that it cannot serve after all |
//! | old | `PENDING` …, `GO` | messages that were sent to the peers meanwhile. The new process serves from `GO` on |
//! | new | `SERVES` | its loops have carried out their first turns |
//! | both | `DATAGRAM` … | a datagram for the other process |
//!
//! `READY` says that everything that can fail has been done. Until `GO` the old process serves. It stands still until
//! `SERVES`, and serves again if the new process ends before that, for example at its first message. `DATAGRAM` goes to the
//! old process for a peer that stayed there, and to the new one if no peer of the old process sent it.
//!
//! Except for the content of `PEER`, `SECRETS` and `PENDING`, the messages are the same in all versions, so listeners
//! can be passed on from any version to any other.

/// The version of the format in which peers are written. It must change with the format.
pub(crate) const VERSION: u16 = 1;

/// The first bytes of a hand-over, which tell it from messages of other programs.
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
pub(crate) const PENDING: u8 = 10;
pub(crate) const GO: u8 = 11;
pub(crate) const DATAGRAM: u8 = 12;
pub(crate) const DESCRIPTOR: u8 = 13;
pub(crate) const SERVES: u8 = 14;
