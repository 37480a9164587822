//! Runs peeloff's servers for the scenarios: each as a handler with a thread per peer, and as callbacks on event
//! loops.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use peeloff::{
    CaBundle, ClientAuth, Credentials, Handle, HandlerError, Identity, Limits, Message, Peer, PeerEvents,
    Sender, Server, ServerBuilder, Timeouts,
};

use crate::message;
use crate::role::{Role, Serve, Serving, Sockets, until_stdin_ends};
use crate::secure::{Auth, PSK, PSK_IDENTITY};

/// On a server with sleepers, the handler sleeps for one of this many peers.
pub const SLEEPER_OF: u64 = 16;
/// How long the handler sleeps for each message.
pub const SLEEP: Duration = Duration::from_millis(50);

/// Runs such a server until standard input ends.
///
/// # Errors
///
/// Returns an error if the server cannot be started.
pub fn serve(role: Role, serving: &Serving) -> Result<(), Box<dyn Error>> {
    let builder = builder(serving)?;
    let server = match (role, serving.serve) {
        (Role::FanOut, _) => fan_out(builder, serving.serve)?,
        (_, Serve::Threads) => {
            let nap = nap_of(role);
            builder.start(move |peer: &mut Peer| echo(peer, nap))?
        }
        (_, Serve::Loops) => builder.start_events(Echo { nap: nap_of(role) })?,
    };
    println!("listening {}", server.addresses()[0]);
    until_stdin_ends()?;
    server.handle().shutdown(Duration::ZERO);
    Ok(())
}

fn builder(serving: &Serving) -> Result<ServerBuilder, Box<dyn Error>> {
    let mut timeouts = Timeouts::default();
    timeouts.idle = Some(Duration::from_secs(24 * 3600));
    let builder = Server::builder()
        .listen(&serving.listen)
        .credentials(credentials(serving)?)
        .limits(Limits::UNLIMITED)
        .timeouts(timeouts);
    Ok(match serving.sockets {
        None => builder,
        Some(Sockets::PerPeer) => builder.sockets(peeloff::Sockets::PerPeer),
        Some(Sockets::Shared) => builder.sockets(peeloff::Sockets::Shared),
    })
}

fn credentials(serving: &Serving) -> Result<Credentials, Box<dyn Error>> {
    let credentials = Credentials::new();
    Ok(match serving.auth {
        Auth::Certificate => credentials.identity(Identity::self_signed()?),
        Auth::Mutual => {
            let clients = CaBundle::from_pem(serving.trusted.as_bytes())?;
            credentials.identity(Identity::self_signed()?).client_auth(ClientAuth::Required(clients))
        }
        Auth::Psk => credentials.psk(|identity| (identity == PSK_IDENTITY).then(|| PSK.to_vec())),
    })
}

/// Returns what a handler does before it answers a message.
fn nap_of(role: Role) -> fn(&[u8]) {
    match role {
        Role::Sleepers => |message| {
            if message::client_of(message).is_some_and(|client| client.is_multiple_of(SLEEPER_OF)) {
                thread::sleep(SLEEP);
            }
        },
        _ => |_| (),
    }
}

fn echo(peer: &mut Peer, nap: fn(&[u8])) -> Result<(), peeloff::Error> {
    let mut message = Vec::new();
    while peer.recv_into(&mut message)?.is_some() {
        nap(&message);
        peer.reply(&message)?;
    }
    Ok(())
}

/// The echo as callbacks.
struct Echo {
    nap: fn(&[u8]),
}

impl PeerEvents for Echo {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        (self.nap)(&message);
        peer.send(&message)?;
        Ok(())
    }
}

/// Starts a server that forwards one peer's messages to all others.
fn fan_out(builder: ServerBuilder, serve: Serve) -> Result<Server, Box<dyn Error>> {
    let fan_out = FanOut::default();
    let handle = Arc::clone(&fan_out.handle);
    let server = match serve {
        Serve::Loops => builder.start_events(fan_out)?,
        Serve::Threads => builder.start(move |peer: &mut Peer| -> Result<(), peeloff::Error> {
            let (mut buffer, mut others) = ([0; 2048], fan_out.arrive());
            while let Some(len) = peer.recv(&mut buffer)? {
                fan_out.pass_on(&mut others, peer.id(), &buffer[..len]);
            }
            Ok(())
        })?,
    };
    let _ = handle.set(server.handle());
    Ok(server)
}

#[derive(Default)]
struct FanOut {
    handle: Arc<OnceLock<Handle>>,
    arrivals: AtomicUsize,
}

/// The peers that a peer's messages go to, and how many peers had connected at that time.
type Others = (Vec<Sender>, usize);

impl FanOut {
    fn arrive(&self) -> Others {
        self.arrivals.fetch_add(1, Ordering::Relaxed);
        (Vec::new(), 0)
    }

    /// Sends a message to all other peers. Encrypting and sending for all receivers happens on this thread, and
    /// no other thread wakes up. The list of peers is read again only after a new peer has connected.
    fn pass_on(&self, (others, known): &mut Others, sender: peeloff::AssociationId, message: &[u8]) {
        let message: Arc<[u8]> = message.into();
        let arrived = self.arrivals.load(Ordering::Relaxed);
        if *known != arrived {
            *known = arrived;
            let all = self.handle.get().map(Handle::peers).unwrap_or_default();
            *others = all.into_iter().filter(|other| other.id() != sender).collect();
        }
        for other in others {
            other.post(&message);
        }
    }
}

impl PeerEvents for FanOut {
    type State = Others;

    fn open(&self, _: &Sender) -> Result<Others, HandlerError> {
        Ok(self.arrive())
    }

    fn message(&self, others: &mut Others, peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        self.pass_on(others, peer.id(), &message);
        Ok(())
    }
}
