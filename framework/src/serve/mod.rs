//! The threads of a server: the dispatcher, which admits new peers, and the workers and event loops, which serve them.

mod admit;
pub mod dispatcher;
pub(crate) mod handover;
pub(crate) mod loops;
pub(crate) mod mailbox;
pub(crate) mod registry;
pub(crate) mod shared;
pub(crate) mod worker;
