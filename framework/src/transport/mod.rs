//! Sockets as a worker uses them: one message at a time, with deadlines, and wakeable.

pub(crate) mod udp;
