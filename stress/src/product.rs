//! peeloff's own servers, as the scenarios want them.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use peeloff::{CaBundle, ClientAuth, Credentials, Handle, Identity, Limits, Peer, Server, Timeouts};

use crate::role::{Role, Serving, until_stdin_ends};
use crate::secure::{Auth, PSK, PSK_IDENTITY};

/// Of these peers one sleeps, where a server has sleepers.
pub const SLEEPER_OF: usize = 16;
/// So long.
pub const SLEEP: Duration = Duration::from_millis(50);

/// Is such a server, until standard input ends.
///
/// # Errors
///
/// The server cannot be started.
pub fn serve(role: Role, serving: &Serving) -> Result<(), Box<dyn Error>> {
    let mut timeouts = Timeouts::default();
    timeouts.idle = Some(Duration::from_secs(24 * 3600));
    let builder = Server::builder()
        .listen(serving.listen.parse()?)
        .credentials(credentials(serving)?)
        .limits(Limits::UNLIMITED)
        .timeouts(timeouts);
    let server = match role {
        Role::FanOut => {
            let handle = Arc::new(OnceLock::new());
            let all = Arc::clone(&handle);
            let arrivals = AtomicUsize::new(0);
            let server = builder.start(move |peer: &mut Peer| {
                arrivals.fetch_add(1, Ordering::Relaxed);
                pass_on(peer, &all, &arrivals)
            })?;
            let _ = handle.set(server.handle());
            server
        }
        Role::Sleepers => {
            let seen = AtomicUsize::new(0);
            builder.start(move |peer: &mut Peer| {
                let sleepy = seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(SLEEPER_OF);
                echo(peer, sleepy.then_some(SLEEP))
            })?
        }
        _ => builder.start(|peer: &mut Peer| echo(peer, None))?,
    };
    println!("listening {}", server.addresses()[0]);
    until_stdin_ends()?;
    server.handle().shutdown(Duration::ZERO);
    Ok(())
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

fn echo(peer: &mut Peer, sleep: Option<Duration>) -> Result<(), peeloff::Error> {
    let mut buffer = [0; 2048];
    while let Some(len) = peer.recv(&mut buffer)? {
        sleep.into_iter().for_each(thread::sleep);
        peer.reply(&buffer[..len])?;
    }
    Ok(())
}

/// Each receiver costs what encrypting and sending cost on this thread; nobody else is woken. Who is there is asked
/// again only when somebody came.
fn pass_on(peer: &mut Peer, server: &OnceLock<Handle>, arrivals: &AtomicUsize) -> Result<(), peeloff::Error> {
    let mut buffer = [0; 2048];
    let (mut others, mut known) = (Vec::new(), 0);
    while let Some(len) = peer.recv(&mut buffer)? {
        let message: Arc<[u8]> = buffer[..len].into();
        let arrived = arrivals.load(Ordering::Relaxed);
        if known != arrived {
            known = arrived;
            let all = server.get().map(Handle::peers).unwrap_or_default();
            others = all.into_iter().filter(|other| other.id() != peer.id()).collect();
        }
        for other in &others {
            other.post(&message);
        }
    }
    Ok(())
}
