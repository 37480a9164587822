//! The sockets at which the kernel's drops are counted.

use std::sync::Arc;

use socket2::Socket;

use crate::sys::sync::Mutex;

/// The sockets of one listener, each with the kernel's count of its drops at the last look.
#[derive(Debug, Default)]
pub(super) struct Sockets(pub(super) Mutex<Vec<(Arc<Socket>, u32)>>);
