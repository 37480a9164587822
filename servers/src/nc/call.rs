//! Connects to a server.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use peeloff::sctp::Settings;
use peeloff::{Client, ConnectError, Framing, Identity, Peer, TcpSettings};

use crate::credentials::{authorities, revoked};
use crate::explain::credentials;
use crate::failure::Failure;
use crate::nc::args::NcArgs;
use crate::nc::chat::{Link, converse, is_on_terminal};
use crate::nc::exit::{BROKEN, NO_HANDSHAKE, TIMED_OUT};
use crate::nc::talk::talk;
use crate::signals;

/// How long each attempt to reach a server again may take.
const RETRY: Duration = Duration::from_secs(3);

/// Connects, exchanges messages and closes the association.
pub(super) fn run(
    args: &NcArgs,
    identity: Option<Identity>,
    settings: Settings,
    stream: TcpSettings,
) -> Result<u8, Failure> {
    let client = client(args, identity, settings, stream)?;
    let mut peer = client.connect(&args.address).map_err(|error| explain(args, error))?;
    args.association.prepare(&mut peer)?;
    tracing::info!(peer = %peer.peer_address(), cipher = peer.cipher(), "connected");
    let signal;
    let result = if args.chat && is_on_terminal() {
        let link = Link::new(peer.sender());
        let ended = Arc::clone(&link);
        signal = on_signal(move || ended.quit())?;
        // If the user wants to quit during an attempt, it ends soon.
        let client = client.timeout(args.handshake_timeout().0.min(RETRY));
        converse(&mut peer, args.association.send_info(), &link, || reconnect(args, &client))
    } else {
        let sender = peer.sender();
        signal = on_signal(move || sender.close())?;
        talk(&mut peer, args.options())
    };
    peer.close();
    match signal.get() {
        Some(signal) => Ok(signals::exit_code(*signal)),
        None => result.map(|()| 0),
    }
}

/// Connects again. Returns none if a later attempt may succeed.
fn reconnect(args: &NcArgs, client: &Client) -> Result<Option<Peer>, Failure> {
    match client.connect(&args.address) {
        Ok(mut peer) => args.association.prepare(&mut peer).map(|()| Some(peer)),
        Err(error @ ConnectError::Unverified { .. }) => Err(explain(args, error)),
        Err(error) => {
            tracing::info!(%error, "cannot connect yet");
            Ok(None)
        }
    }
}

fn client(
    args: &NcArgs,
    identity: Option<Identity>,
    settings: Settings,
    mut stream: TcpSettings,
) -> Result<Client, Failure> {
    if args.chat {
        stream.framing = Framing::Lines;
    }
    let mut builder = Client::builder()
        .timeout(args.handshake_timeout().0)
        .max_cert_chain(args.max_cert_chain.0)
        .cipher_suites(args.algorithms.ciphers.clone())
        .groups(args.algorithms.groups.clone())
        .sctp(settings)
        .tcp(stream);
    for local in &args.association.bind {
        builder = builder.bind(local.0);
    }
    if !args.alpn.is_empty() {
        builder = builder.alpn(&args.protocols());
    }
    if let Some(ca) = &args.ca {
        builder = builder.ca(authorities(ca)?);
    }
    if let Some(crl) = &args.crl {
        builder = builder.revoked(revoked(crl)?);
    }
    if let Some(identity) = identity {
        builder = builder.identity(identity);
    }
    if let Some(psk) = &args.psk {
        builder = builder.psk(&psk.identity, &psk.key);
    }
    if args.insecure {
        builder = builder.danger_accept_any_certificate();
    }
    if let Some(ids) = args.connection_ids() {
        builder = builder.connection_ids(ids);
    }
    if let Some(name) = &args.server_name {
        builder = builder.server_name(name);
    }
    Ok(builder)
}

/// Rewords a failure in terms of this program's options, and chooses its exit code.
fn explain(args: &NcArgs, error: ConnectError) -> Failure {
    match error {
        ConnectError::Identity(error) => credentials(error),
        ConnectError::Address(_) | ConnectError::NoSctp(_) => Failure::input(error),
        // DTLS discards records that were made with a wrong key, as it discards forged ones (RFC 6347 §4.1.2.7).
        ConnectError::TimedOut { .. } if args.psk.is_some() => {
            let hint = "or check the key, because the server does not answer if the key is wrong";
            Failure::new(TIMED_OUT, format_args!("{error}, {hint}"))
        }
        ConnectError::TimedOut { .. } => {
            Failure::new(TIMED_OUT, format_args!("{error}, or give it more --timeout"))
        }
        // The certificate may have been revoked, so the error does not suggest --insecure.
        ConnectError::Unverified { peer, why } if args.crl.is_some() => {
            Failure::new(NO_HANDSHAKE, format_args!("the certificate of {peer} does not verify ({why})"))
        }
        ConnectError::Unverified { peer, why } => {
            let hint = match why.ends_with("mismatch") {
                true => "pass --server-name NAME if it is for another name",
                false => "pass --ca FILE with its authority",
            };
            let text = format_args!(
                "the certificate of {peer} does not verify ({why}): {hint}, or --insecure to accept any"
            );
            Failure::new(NO_HANDSHAKE, text)
        }
        ConnectError::Handshake { .. } | ConnectError::Refused { .. } => Failure::new(NO_HANDSHAKE, error),
        ConnectError::Bind { .. } => Failure::about("--bind", error),
        error => Failure::new(BROKEN, error),
    }
}

/// Runs `end` at the first SIGINT or SIGTERM, and stores the signal's number in the returned cell.
fn on_signal(end: impl FnOnce() + Send + 'static) -> Result<Arc<OnceLock<i32>>, Failure> {
    let cell = Arc::new(OnceLock::new());
    let caught = Arc::clone(&cell);
    signals::on_first_signal(move |signal| {
        let _ = caught.set(signal);
        end();
    })?;
    Ok(cell)
}
