//! Options that choose between threads and event loops, and between shared sockets and one for each peer.

use clap::{Args, ValueEnum};
use peeloff::{ServerBuilder, Sockets};

use crate::values::count;

/// Defines how peers are served.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Serving")]
pub struct ServingArgs {
    /// Serve each peer with a thread of its own, or all with a few event loops.
    ///
    /// A thread costs memory, and each message costs a context switch. Event loops avoid both and serve many
    /// quiet peers cheaply. The default of peeloff-echo is `threads`, because its handler is an example of one
    /// that blocks. The default of peeloff-chat is `loops`, because the chat consists of callbacks.
    #[arg(long, value_name = "HOW", default_value = "threads")]
    pub serve: Serve,

    /// Give each UDP and DTLS peer a socket, or let peers share sockets.
    ///
    /// The default is `per-peer` with threads, and `shared` with event loops. Peers on shared sockets need no
    /// descriptors, and --max-peers-per-local-address does not apply to them. TCP, TLS and SCTP peers always have
    /// sockets of their own.
    #[arg(long, value_name = "WHICH")]
    pub sockets: Option<SocketUse>,

    /// Run this many event loops.
    ///
    /// The option applies to --serve loops and --sockets shared. The default is one loop for each processor that
    /// the server may use.
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub event_loops: Option<usize>,

    /// Keep up to this many spare threads for event loops that are blocked.
    ///
    /// If the work for one peer blocks an event loop for more than a few milliseconds, a spare thread continues
    /// the loop. If no spare thread is left, the loop's other peers wait, and the counter loops_held_up
    /// increases.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub spare_threads: usize,

    /// Let a thread that wakes up preempt one that runs.
    ///
    /// Without this option, the threads of peers use SCHED_BATCH (sched(7)), which saves context switches. With
    /// it, peers get answers sooner on a host where handlers or other programs compute for long.
    #[arg(long)]
    pub no_sched_batch: bool,
}

/// The kind of thread that serves peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Serve {
    /// Each peer has a thread.
    Threads,
    /// A few event loops serve all peers.
    Loops,
}

/// The kind of socket that UDP and DTLS peers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SocketUse {
    /// Each peer has a socket.
    PerPeer,
    /// Peers share the sockets of their listener.
    Shared,
}

impl ServingArgs {
    /// Sets the options on a builder.
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
