//! Hands a server over to another process, with its listeners and those of its peers that can go. `frame` has the
//! messages, `old_process` the part of the old process, `new_process` the part of the new one, and `relay` the part of
//! both until the last peer of the old process has left.

pub(crate) mod channel;
pub(crate) mod export;
pub(crate) mod frame;
pub(crate) mod gate;
pub(crate) mod new_process;
pub(crate) mod old_process;
pub(crate) mod relay;
#[cfg(all(test, not(shuttle)))]
mod tests;
