//! The programs `peeloff-echo`, `peeloff-chat` and `peeloff-nc`, and the modules that they share.
//!
//! * `peeloff-echo` runs [`echo`], and `peeloff-chat` runs [`chat`]: rooms, which several processes can share.
//!   Both are a handler and one call of [`serve::serve`].
//! * The options of a server ([`cli`], [`stream`], [`sctp`]) come from the command line, the environment and a
//!   file ([`config`]).
//! * `peeloff-nc` runs [`nc`]: it connects or listens, sends standard input as messages and prints the messages
//!   it receives.
//!
//! [`programs`] has the command lines. Each program is `main → run → ExitCode`. It reports a failure as one
//! sentence on standard error ([`conclude`]) and writes its log there too ([`logging`]). The first SIGINT or
//! SIGTERM shuts the program down gracefully. SIGHUP has a server read its file and its credentials again, and
//! SIGUSR2 has it hand over to a new process ([`signals`]).

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
pub mod outbox;
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
