//! What is carried by a stream of bytes: frames, and a proxy's header in front of them.

pub mod frames;
pub mod proxy;
