//! What the servers of this crate share, and what their programs are made of.
//!
//! * `peeloff-echo` is [`echo`] behind [`serve`]: every server is a handler and one call of
//!   [`serve::serve`], with the options of [`cli`], [`stream`] and [`sctp`], from the command line or a file
//!   ([`config`]).
//! * `peeloff-chat` is [`chat`] behind the same: rooms, and the other processes that share them.
//! * `peeloff-nc` is [`nc`]: standard input and output as messages, calling or listening.
//!
//! [`programs`] has their command lines. Each program is `main → run → ExitCode`. Its failures are one sentence on standard error
//! ([`conclude`]), its logs go there too ([`logging`]), and its first SIGINT or SIGTERM ends it in
//! good order; a server takes SIGHUP as the word to read its file and its credentials again, and SIGUSR2 as the word to
//! hand itself over to a new process ([`signals`]).

pub mod access_log;
pub mod admin;
pub mod algorithms;
pub mod authorize;
pub mod chat;
pub mod check;
pub mod cli;
pub mod conclude;
pub mod config;
pub mod credentials;
pub mod echo;
mod expiry;
mod explain;
pub mod failure;
mod handover;
pub mod key_file;
mod log_queue;
pub mod logging;
pub mod nc;
pub mod passphrase;
pub mod programs;
pub mod psk;
mod reload;
pub mod sctp;
mod secret_file;
pub mod serve;
pub mod serving;
pub mod signals;
pub mod sockets;
pub mod stream;
mod systemd;
pub mod values;
