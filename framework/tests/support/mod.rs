//! What the framework's tests share: an echo server, clients that trust it, and waits with deadlines.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::env;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use peeloff::{
    Address, CaBundle, Client, Error, Handle, HandlerError, Identity, Message, Peer, PeerEvents, Sender,
    Server, ServerBuilder, Sockets, Stats,
};

/// How long anything may take before a test fails; generous for slow machines.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How many times slower than a usual one this machine is, as PEELOFF_TEST_SLOWNESS says: an emulated
/// processor is, by ten and more. Large [counts](scaled) are divided by it, deadlines stay.
pub static SLOWNESS: LazyLock<u32> = LazyLock::new(|| match env::var("PEELOFF_TEST_SLOWNESS") {
    Ok(times) => times.parse().ok().filter(|&times| times > 0).expect("PEELOFF_TEST_SLOWNESS is 1 or more"),
    Err(_) => 1,
});

/// A large count, or as much of it as a slow machine does in the same time.
pub fn scaled(count: u32) -> u32 {
    count / *SLOWNESS
}

/// How echo servers are served, and what sockets peers have: `PEELOFF_TEST_SERVE` is `threads` or `loops`,
/// `PEELOFF_TEST_SOCKETS` is `per-peer` or `shared`. So any test can be run in each combination.
pub struct Combination {
    pub loops: bool,
    pub sockets: Option<Sockets>,
}

impl Combination {
    /// Whether the peers of UDP and DTLS share sockets.
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

/// Callbacks that do what [`echo`] does.
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

/// A server on loopback whose identity the clients trust; it is shut down when dropped.
pub struct Running {
    pub server: Server,
    pub trust: CaBundle,
}

impl Running {
    /// An echo server on this URL, such as `dtls://127.0.0.1:0`.
    pub fn echo(url: &str) -> Self {
        Self::echo_with(url, |builder| builder)
    }

    /// An echo server, after `configure` has had its way with the builder. It is served as [`COMBINATION`] says.
    pub fn echo_with(url: &str, configure: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        match COMBINATION.loops {
            false => Self::with(url, configure, echo),
            true => Self::start(url, configure, |builder| builder.start_events(Echo).unwrap()),
        }
    }

    /// A server with this handler, after `configure` has had its way with the builder.
    pub fn with(
        url: &str,
        configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
        handler: impl peeloff::PeerHandler,
    ) -> Self {
        Self::start(url, configure, |builder| builder.start(handler).unwrap())
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

    /// A client that trusts this server.
    pub fn client(&self) -> Client {
        Client::builder().ca(self.trust.clone()).timeout(DEADLINE)
    }

    pub fn connect(&self) -> Peer {
        self.client().connect(self.url()).unwrap()
    }

    /// Waits until the numbers are as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Stats) -> bool) -> Stats {
        let look = || Some(self.stats()).filter(|stats| wanted(stats));
        until_or(look, || panic!("waited in vain: {what}; {:?}", self.stats()))
    }
}

/// Answers every message with itself; on SCTP on the stream, with the identifier and in the order that it came with.
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

/// No timer fired in handshakes that nothing was lost of. On a slow machine one may take longer than the first
/// timer, which is a second: then this says that it was not looked at.
pub fn assert_no_retransmission(stats: &Stats, what: &str) {
    if *SLOWNESS > 1 && stats.retransmissions > 0 {
        eprintln!(
            "SKIPPED: that nothing is sent again, {what}; this machine is slow: {}",
            stats.retransmissions
        );
    } else {
        assert_eq!(stats.retransmissions, 0, "{what}");
    }
}

/// Looks again every few milliseconds, until there is something or the deadline is over.
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

/// A panic that a test wants. It says nothing, so that the output has none but those that nobody wanted.
pub fn quiet_panic() -> ! {
    std::panic::resume_unwind(Box::new("as the test wants it"))
}

/// Open descriptors of this process.
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Threads of this process.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
