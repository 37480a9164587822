//! Who does the work for peers, threads of their own or event loops, and on which sockets.

use clap::{Args, ValueEnum};
use peeloff::{ServerBuilder, Sockets};

use crate::values::count;

/// How peers are served.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Serving")]
pub struct ServingArgs {
    /// Serve peers by a thread for each, or by a few event loops.
    ///
    /// A thread costs memory and a switch between threads for each message. Event loops cost neither, and serve many quiet
    /// peers for little. The default of peeloff-echo is `threads`, because its handler is an example of one that blocks;
    /// that of peeloff-chat is `loops`, because it is made of callbacks.
    #[arg(long, value_name = "HOW", default_value = "threads")]
    pub serve: Serve,

    /// Give each UDP and DTLS peer a socket, or let them share.
    ///
    /// The default is `per-peer` with threads, and `shared` with event loops. Peers that share take no descriptors, and
    /// --max-peers-per-local-address does not hold for them. TCP, TLS and SCTP peers always have sockets of their own.
    #[arg(long, value_name = "WHICH")]
    pub sockets: Option<SocketUse>,

    /// Run this many event loops.
    ///
    /// It holds with --serve loops or --sockets shared. The default is one for each processor that the server may use.
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub event_loops: Option<usize>,

    /// Keep up to this many threads for event loops that are held up.
    ///
    /// When one peer's work takes an event loop longer than some milliseconds, such a thread goes on with the others. If
    /// none is left, they wait, and the counter loops_held_up says so.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub spare_threads: usize,

    /// Let a thread that wakes up interrupt one that runs.
    ///
    /// Without this option, the threads of peers run under SCHED_BATCH (sched(7)), which saves switches between them. With it,
    /// peers are answered sooner where handlers or other programs on this host compute for long.
    #[arg(long)]
    pub no_sched_batch: bool,
}

/// Who does the work for peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Serve {
    /// Each peer has a thread.
    Threads,
    /// A few threads serve all peers.
    Loops,
}

/// Whose the sockets of UDP and DTLS are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SocketUse {
    /// Each peer has one.
    PerPeer,
    /// Peers share those of their listener.
    Shared,
}

impl ServingArgs {
    /// Passes the options on.
    pub fn configure(&self, mut builder: ServerBuilder) -> ServerBuilder {
        if let Some(sockets) = self.sockets {
            builder = builder.sockets(match sockets {
                SocketUse::PerPeer => Sockets::PerPeer,
                SocketUse::Shared => Sockets::Shared,
            });
        }
        if let Some(loops) = self.event_loops {
            builder = builder.event_loops(loops);
        }
        builder.spare_threads(self.spare_threads).sched_batch(!self.no_sched_batch)
    }
}
