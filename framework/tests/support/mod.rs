//! The framework's tests share this: an echo server, clients that trust it, and waits with deadlines.

// Each test program uses a part of this module.
#![allow(dead_code)]

use std::env;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use peeloff::{
    Address, CaBundle, Client, Error, Handle, HandlerError, Identity, Message, Peer, PeerEvents, PostOutcome,
    Sender, Server, ServerBuilder, Sockets, Stats,
};

/// How long a step may take before a test fails. It is generous, for slow machines.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How many times slower than usual this machine is, according to PEELOFF_TEST_SLOWNESS. An emulated processor is
/// ten times slower or more. Large [counts](scaled) are divided by it; deadlines stay.
pub static SLOWNESS: LazyLock<u32> = LazyLock::new(|| match env::var("PEELOFF_TEST_SLOWNESS") {
    Ok(times) => times.parse().ok().filter(|&times| times > 0).expect("PEELOFF_TEST_SLOWNESS is 1 or more"),
    Err(_) => 1,
});

/// Returns a large count, or the part of it that a slow machine manages in the same time.
pub fn scaled(count: u32) -> u32 {
    count / *SLOWNESS
}

/// How echo servers serve, and which sockets peers have: `PEELOFF_TEST_SERVE` is `threads` or `loops`, and
/// `PEELOFF_TEST_SOCKETS` is `per-peer` or `shared`. Any test can run in each combination.
pub struct Combination {
    pub loops: bool,
    pub sockets: Option<Sockets>,
}

impl Combination {
    /// Returns whether UDP and DTLS peers share sockets.
    pub fn shares(&self) -> bool {
        self.sockets.map_or(self.loops, |sockets| sockets == Sockets::Shared)
    }
}

pub static COMBINATION: LazyLock<Combination> = LazyLock::new(|| Combination {
    loops: match env::var("PEELOFF_TEST_SERVE").as_deref() {
        Err(_) | Ok("threads") => false,
        Ok("loops") => true,
        Ok(other) => panic!("PEELOFF_TEST_SERVE is threads or loops, not {other}"),
    },
    sockets: match env::var("PEELOFF_TEST_SOCKETS").as_deref() {
        Err(_) => None,
        Ok("per-peer") => Some(Sockets::PerPeer),
        Ok("shared") => Some(Sockets::Shared),
        Ok(other) => panic!("PEELOFF_TEST_SOCKETS is per-peer or shared, not {other}"),
    },
});

/// Callbacks that do the same as [`echo`].
pub struct Echo;

impl PeerEvents for Echo {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, _: &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        Ok(peer.send_with(&message, &message.reply())?)
    }
}

/// A server on loopback whose identity the clients trust; dropping it shuts it down.
pub struct Running {
    pub server: Server,
    pub trust: CaBundle,
}

impl Running {
    /// Starts an echo server at this URL, such as `dtls://127.0.0.1:0`.
    pub fn echo(url: &str) -> Self {
        Self::echo_with(url, |builder| builder)
    }

    /// Starts an echo server whose builder `configure` has changed. It serves in the way of [`COMBINATION`].
    pub fn echo_with(url: &str, configure: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        match COMBINATION.loops {
            false => Self::with(url, configure, echo),
            true => Self::start(url, configure, |builder| builder.start_events(Echo).unwrap()),
        }
    }

    /// Starts a server with this handler, whose builder `configure` has changed.
    pub fn with(
        url: &str,
        configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
        handler: impl peeloff::PeerHandler,
    ) -> Self {
        Self::start(url, configure, |builder| builder.start(handler).unwrap())
    }

    /// Starts a server whose event loops run these callbacks, and whose builder `configure` has changed.
    pub fn with_events(
        url: &str,
        configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
        events: impl PeerEvents,
    ) -> Self {
        Self::start(url, configure, |builder| builder.start_events(events).unwrap())
    }

    fn start(
        url: &str,
        configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
        start: impl FnOnce(ServerBuilder) -> Server,
    ) -> Self {
        let identity = Identity::self_signed().unwrap();
        let trust = CaBundle::from_pem(&identity.certificate_pem()).unwrap();
        let builder = Server::builder().listen(url).identity(identity);
        let builder = match COMBINATION.sockets {
            Some(sockets) => builder.sockets(sockets),
            None => builder,
        };
        Self { server: start(configure(builder)), trust }
    }

    pub fn url(&self) -> &Address {
        &self.server.addresses()[0]
    }

    pub fn address(&self) -> SocketAddr {
        self.url().resolve().unwrap()[0]
    }

    pub fn handle(&self) -> Handle {
        self.server.handle()
    }

    pub fn stats(&self) -> Stats {
        self.server.handle().stats()
    }

    /// Makes a client that trusts this server.
    pub fn client(&self) -> Client {
        Client::builder().ca(self.trust.clone()).timeout(DEADLINE)
    }

    pub fn connect(&self) -> Peer {
        self.client().connect(self.url()).unwrap()
    }

    /// Connects a client to a server whose peers have a short lifetime. On a busy machine, a handshake may take longer
    /// than that.
    pub fn connect_in_time(&self) -> Peer {
        let client = self.client().timeout(Duration::from_secs(5));
        until("a handshake within the lifetime", || client.connect(self.url()).ok())
    }

    /// Waits until the counters are as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Stats) -> bool) -> Stats {
        let look = || Some(self.stats()).filter(|stats| wanted(stats));
        until_or(look, || panic!("waited in vain: {what}; {:?}", self.stats()))
    }
}

/// Echoes every message; on SCTP with the same stream, identifier and ordering.
pub fn echo(peer: &mut Peer) -> Result<(), Error> {
    let mut buffer = vec![0; if peer.scheme().is_sctp() { 2 << 20 } else { 65_536 }];
    while let Some(len) = peer.recv(&mut buffer)? {
        peer.reply(&buffer[..len])?;
    }
    Ok(())
}

/// Sends a message and expects it back.
pub fn exchange(peer: &mut Peer, message: &[u8]) {
    let mut buffer = vec![0; message.len() + 1];
    peer.send(message).unwrap();
    assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(message.len()));
    assert_eq!(&buffer[..message.len()], message);
}

/// The length of the messages of [`post_until_queued`], in bytes.
const NUMBERED: usize = 8000;

/// Posts numbered messages until `most` of them wait in the peer's outbox. Returns how many were posted.
pub fn post_until_queued(sender: &Sender, most: u32) -> u32 {
    let (mut posted, mut queued) = (0u32, 0);
    while queued < most {
        let mut message = vec![0; NUMBERED];
        message[..4].copy_from_slice(&posted.to_be_bytes());
        match sender.post(&message.into()) {
            PostOutcome::Queued => queued += 1,
            PostOutcome::Sent => {}
            other => panic!("{other:?}"),
        }
        posted += 1;
    }
    posted
}

/// Receives the messages of [`post_until_queued`], all of them in order.
pub fn expect_numbered(peer: &mut Peer, count: u32) {
    let mut buffer = [0; NUMBERED];
    for number in 0..count {
        assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(NUMBERED), "{number}");
        assert_eq!(buffer[..4], number.to_be_bytes());
    }
}

/// The first retransmission timer of both sides (RFC 6347 §4.2.4.1).
pub const FIRST_TIMER: Duration = Duration::from_secs(1);

/// Checks that no retransmission timer fired in handshakes that took this long together, although no datagram was
/// lost. If a busy machine makes them last longer than the first timer, it may rightly have fired; this function then
/// says that it did not check.
pub fn assert_no_retransmission(stats: &Stats, took: Duration, what: &str) {
    if took >= FIRST_TIMER {
        eprintln!("SKIPPED: that nothing is sent again, {what}; it took {took:?}: {}", stats.retransmissions);
    } else {
        assert_eq!(stats.retransmissions, 0, "{what}");
    }
}

/// Looks again every few milliseconds until there is a result or the deadline has passed.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_or(look, || panic!("waited in vain: {what}"))
}

fn until_or<T>(mut look: impl FnMut() -> Option<T>, fail: impl FnOnce() -> T) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        if Instant::now() >= deadline {
            return fail();
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Panics on purpose, without output, so that the output shows only unexpected panics.
pub fn quiet_panic() -> ! {
    std::panic::resume_unwind(Box::new("as the test wants it"))
}

/// Returns the number of open descriptors of this process.
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Returns the number of threads of this process.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Sets a flag when dropped, so that threads that wait for it end even if the test fails.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
