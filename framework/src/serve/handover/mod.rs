//! A server goes to another process, with its listeners and those of its peers that can go: `frame` has the messages, `giving` is
//! what the old process does, `taking` what the new one does, `relay` what both do until the last peer of the old one has left.

pub(crate) mod channel;
pub(crate) mod export;
pub(crate) mod frame;
pub(crate) mod gate;
pub(crate) mod giving;
pub(crate) mod relay;
pub(crate) mod taking;
#[cfg(all(test, not(shuttle)))]
mod tests;
