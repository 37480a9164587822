//! Hands a server over to another process, with its listeners and those of its peers that can go. `frame` has the
//! messages, `giving` the part of the old process, `taking` the part of the new one, and `relay` the part of both until
//! the last peer of the old process has left.

pub(crate) mod channel;
pub(crate) mod export;
pub(crate) mod frame;
pub(crate) mod gate;
pub(crate) mod giving;
pub(crate) mod relay;
pub(crate) mod taking;
#[cfg(all(test, not(shuttle)))]
mod tests;
