//! The guide, a chapter a module. The texts are those of `docs/guide` in the repository.
//!
//! 1. [`first_server`]: a handler, a client, errors, the end of a server.
//! 2. [`serving`]: blocking or callbacks, threads or event loops.
//! 3. [`identities`]: certificates, keys, mutual TLS, and which peers may come in.
//! 4. [`sctp`]: SCTP for readers who know lksctp.
//! 5. [`streams`]: messages on TCP and TLS.
//! 6. [`testing`]: a handler's tests.
//! 7. [`limits`]: what is bounded, what it costs, and what to do about it.
//! 8. [`production`]: where an operator begins.
//! 9. [`inside`]: one datagram, from the wire to the handler.

macro_rules! chapters {
    ($($name:ident)*) => {$(
        #[doc = include_str!(concat!("../guide/", stringify!($name), ".md"))]
        pub mod $name {}
    )*};
}

chapters! { first_server serving identities sctp streams testing limits production }

// A page of the crate's documentation has no pictures beside it, so they are part of its text. In place of the chapter's own
// images it has one transparent pixel: where a link is defined twice, Markdown takes the first definition.
#[doc = "[datagram]: data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="]
#[doc = "[states]: data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="]
#[doc = ""]
#[doc = include_str!("../guide/inside.md")]
#[doc = ""]
#[doc = include_str!("../images/datagram.svg")]
#[doc = ""]
#[doc = include_str!("../images/states.svg")]
pub mod inside {}

/// The README's blocks of Rust compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
