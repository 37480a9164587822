//! Listens, and serves the first peer or all of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::sctp::{SendInfo, Settings};
use peeloff::{
    Admission, ClientAuth, Credentials, Error, HandlerError, Identity, Incoming, Peer, PeerHandler, Sender,
    Server, StartError, TcpSettings, Timeouts,
};

use crate::algorithms::AlgorithmArgs;
use crate::credentials::{CRL_NEEDS_CA, authorities, revoked, self_signed_identity};
use crate::explain;
use crate::failure::Failure;
use crate::logging;
use crate::nc::args::NcArgs;
use crate::nc::association::AssociationArgs;
use crate::nc::exit::{BROKEN, TIMED_OUT};
use crate::nc::talk::{PATIENCE, TalkOptions, explain, print, receive, send_input, send_within, talk};
use crate::signals;

/// How long peers may take to finish at the end.
const GRACE: Duration = Duration::from_secs(1);

/// An event that the main thread waits for.
enum Event {
    /// The first peer has connected.
    Started,
    /// The conversation has ended.
    Done(Result<(), Failure>),
    /// SIGINT or SIGTERM has arrived.
    Signal(i32),
}

/// Listens until the first peer has finished, or with --keep-open until a signal.
pub(super) fn run(
    args: &NcArgs,
    identity: Option<Identity>,
    settings: Settings,
    stream: TcpSettings,
) -> Result<u8, Failure> {
    let (events, happened) = mpsc::channel();
    let signals = events.clone();
    signals::on_first_signal(move |signal| {
        let _ = signals.send(Event::Signal(signal));
    })?;
    let options = args.options();
    let server = if args.keep_open {
        let (connected, started) = (Arc::default(), AtomicBool::new(false));
        let association = args.association.clone();
        start(
            args,
            identity,
            settings,
            stream,
            AllPeers { options, association, events, connected, started },
        )?
    } else {
        let (association, taken) = (args.association.clone(), AtomicBool::new(false));
        start(args, identity, settings, stream, FirstPeer { options, association, events, taken })?
    };
    for address in server.addresses() {
        logging::say(format_args!("listening {address}"));
    }
    let result = wait(&happened, args.timeout.and_then(|timeout| timeout.0));
    server.handle().shutdown(GRACE);
    result
}

fn start(
    args: &NcArgs,
    identity: Option<Identity>,
    settings: Settings,
    stream: TcpSettings,
    handler: impl PeerHandler,
) -> Result<Server, Failure> {
    let mut credentials = Credentials::new().alpn(&args.protocols());
    if let Some(psk) = args.psk.clone() {
        credentials = credentials.psk(move |identity| (identity == psk.identity).then(|| psk.key.to_vec()));
    }
    match identity {
        Some(identity) => credentials = credentials.identity(identity),
        None if args.psk.is_none() && args.address.scheme.is_secure() => {
            credentials = credentials.identity(self_signed_identity()?)
        }
        None => {}
    }
    let AlgorithmArgs { ciphers, groups } = args.algorithms.clone();
    credentials = credentials.max_cert_chain(args.max_cert_chain.0).cipher_suites(ciphers).groups(groups);
    if let Some(ca) = &args.ca {
        credentials = credentials.client_auth(ClientAuth::Required(authorities(ca)?));
    }
    if let Some(crl) = &args.crl {
        if args.ca.is_none() {
            return Err(Failure::input(CRL_NEEDS_CA));
        }
        credentials = credentials.revoked(revoked(crl)?);
    }
    // A peer may only receive, and a message may arrive as slowly as a user types it.
    let mut timeouts = Timeouts::default();
    (timeouts.first_message, timeouts.frame) = (None, None);
    let builder = Server::builder().listen(args.address.clone()).credentials(credentials).timeouts(timeouts);
    let mut builder = builder.sctp(settings).tcp(stream);
    if let Some(ids) = args.connection_ids() {
        builder = builder.connection_ids(ids);
    }
    builder.start(handler).map_err(|error| match error {
        StartError::Identity(error) => explain::credentials(error),
        StartError::AddressNotAvailable { address } => Failure::input(format_args!(
            "{address} is not an address of this host: choose one that `ip address` lists"
        )),
        error => Failure::input(error),
    })
}

/// Blocks until the conversation ends, a signal arrives, or `timeout` passes without a peer.
fn wait(happened: &Receiver<Event>, timeout: Option<Duration>) -> Result<u8, Failure> {
    let mut deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let event = match deadline {
            Some(deadline) => happened.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => happened.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            Ok(Event::Started) => deadline = None,
            Ok(Event::Done(result)) => return result.map(|()| 0),
            Ok(Event::Signal(signal)) => return Ok(signals::exit_code(signal)),
            Err(RecvTimeoutError::Timeout) => {
                return Err(Failure::new(TIMED_OUT, "no peer connected within --timeout"));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new(BROKEN, "the server ended unexpectedly"));
            }
        }
    }
}

/// Serves the first peer that completes its handshake, and no other.
struct FirstPeer {
    options: TalkOptions,
    association: AssociationArgs,
    events: mpsc::Sender<Event>,
    taken: AtomicBool,
}

impl PeerHandler for FirstPeer {
    fn admit(&self, _: &Incoming) -> Admission {
        match self.taken.load(Ordering::Relaxed) {
            true => Admission::Refuse,
            false => Admission::Accept,
        }
    }

    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        // Several peers may have been admitted before the first one completed its handshake.
        if self.taken.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        tracing::info!(peer = %peer.peer_address(), cipher = peer.cipher(), "connected");
        let _ = self.events.send(Event::Started);
        let result = self.association.prepare(peer).and_then(|()| talk(peer, self.options));
        peer.close();
        let _ = self.events.send(Event::Done(result));
        Ok(())
    }
}

/// Serves all peers: prints what they send on standard output, and sends standard input to all of them.
struct AllPeers {
    options: TalkOptions,
    association: AssociationArgs,
    events: mpsc::Sender<Event>,
    connected: Arc<ConnectedPeers>,
    started: AtomicBool,
}

impl PeerHandler for AllPeers {
    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        tracing::info!(peer = %peer.peer_address(), cipher = peer.cipher(), "connected");
        if let Err(failure) = self.association.prepare(peer) {
            tracing::error!(peer = %peer.peer_address(), "{failure}");
            return Ok(());
        }
        self.connected.lock().push(peer.sender());
        let _ = self.events.send(Event::Started);
        // Read the input only once a peer is connected.
        if !self.started.swap(true, Ordering::Relaxed) {
            self.read_input(peer.max_message_size());
        }
        let result = receive(peer, self.options, |message| print(message, self.options));
        self.connected.lock().retain(|sender| sender.id() != peer.id());
        match result {
            // Standard output is closed, so serving further peers is pointless.
            Err(error @ Error::Io(_)) => self.end(explain(error)),
            Err(error) => tracing::info!(peer = %peer.peer_address(), %error, "ended"),
            Ok(()) => {}
        }
        Ok(())
    }
}

impl AllPeers {
    /// Starts the thread `stdin`, which sends standard input to all connected peers.
    fn read_input(&self, limit: usize) {
        let (options, connected) = (self.options, Arc::clone(&self.connected));
        let events = self.events.clone();
        let run = move || {
            let result = send_input(options, limit, |message| {
                connected.send(message, &options.how);
                Ok(true)
            });
            if let Err(failure) = result {
                let _ = events.send(Event::Done(Err(failure)));
            }
        };
        if let Err(error) = thread::Builder::new().name("stdin".to_owned()).spawn(run) {
            self.end(Failure::new(BROKEN, format_args!("cannot start a thread: {error}")));
        }
    }

    fn end(&self, failure: Failure) {
        let _ = self.events.send(Event::Done(Err(failure)));
    }
}

/// The connected peers.
#[derive(Default)]
struct ConnectedPeers(Mutex<Vec<Sender>>);

impl ConnectedPeers {
    fn lock(&self) -> MutexGuard<'_, Vec<Sender>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: &[u8], how: &SendInfo) {
        // Sending may wait for buffer space, so do not hold the lock.
        let peers = self.lock().clone();
        for peer in peers {
            // A peer that receives nothing must not make the others wait without limit.
            if let Err(failure) = send_within(Some(PATIENCE), &peer, message, how) {
                tracing::warn!("{failure}");
            }
        }
    }
}
