//! Threads that serve peers: the dispatcher, which meets new ones, and the workers, one for each.

pub mod dispatcher;
pub(crate) mod handover;
pub(crate) mod loops;
pub(crate) mod mailbox;
mod meet;
pub(crate) mod registry;
pub(crate) mod shared;
pub(crate) mod worker;
