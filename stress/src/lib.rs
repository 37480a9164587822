//! What the stress binaries share: a server in a process of its own, that process as seen from
//! outside, and crowds of clients.

pub mod crowd;
pub mod outside;
pub mod server;
