//! One conversation: sends messages from standard input to the peer, and prints the peer's messages on standard
//! output.
//!
//! The conversation has two threads. The caller's thread blocks in [`Peer::recv`] and prints. The thread `stdin`
//! reads and sends. When the input ends, `stdin` waits until no message has arrived for the quiet time and then
//! closes the association, which wakes the other thread. Neither thread polls.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use peeloff::sctp::{MessageInfo, SendInfo};
use peeloff::{Error, Event, Peer, Sender, TrySendError};

use crate::chat::proof;
use crate::failure::Failure;
use crate::logging;
use crate::nc::association::tell;
use crate::nc::exit::BROKEN;
use crate::nc::messages::{Chunks, Messages};

/// How long to wait for space in the send buffer before the conversation fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The parameters of a conversation.
#[derive(Clone, Copy, Debug)]
pub(super) struct TalkOptions {
    /// How the input is split.
    pub(super) chunks: Chunks,
    /// The pause after each message.
    pub(super) interval: Duration,
    /// The quiet time that ends the conversation after the end of the input. With none, the peer ends it.
    pub(super) quiet: Option<Duration>,
    /// How each message is sent on SCTP.
    pub(super) how: SendInfo,
    /// Whether the peer is a chat, which may ask for a proof of this side's address.
    pub(super) chat: bool,
    /// Whether each message is a line that may arrive without its newline.
    pub(super) lines: bool,
    /// Whether to print notifications.
    pub(super) notifications: bool,
    /// When the local port changes, counted from the start.
    pub(super) change_port_after: Option<Duration>,
}

/// Exchanges messages with one peer until it closes, or until standard input has ended and `quiet` has passed
/// without a message.
pub(super) fn talk(peer: &mut Peer, options: TalkOptions) -> Result<(), Failure> {
    let limit = peer.max_message_size();
    check_block(options.chunks, limit)?;
    let (arrivals, watch) = mpsc::sync_channel(1);
    let (complaints, complaint) = mpsc::sync_channel(1);
    let stdin = Stdin { to: peer.sender(), options, limit, arrivals: watch };
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || stdin.run(&complaints))
        .map_err(|error| Failure::new(BROKEN, format_args!("cannot start a thread: {error}")))?;
    let to = peer.sender();
    let result = receive(peer, options, |message| {
        let asked = options.chat.then(|| std::str::from_utf8(message).ok().and_then(proof::answer)).flatten();
        if let Some(answer) = asked {
            // If this answer is lost, the server repeats its question after the next message.
            let _ = to.try_send(answer.as_bytes());
            return Ok(());
        }
        // If the channel is full, it already says that a message has arrived.
        let _ = arrivals.try_send(());
        print(message, options)
    });
    // The other thread reports a failure before it closes the association, so the failure that caused the end is
    // in the channel by now.
    match complaint.try_recv() {
        Ok(failure) => Err(failure),
        Err(_) => result.map_err(explain),
    }
}

/// Refuses blocks that are larger than a message can be.
fn check_block(chunks: Chunks, limit: usize) -> Result<(), Failure> {
    match chunks {
        Chunks::Blocks(size) if size > limit => Err(Failure::input(format_args!(
            "--block {size} is more than a message can hold here: give at most {limit}"
        ))),
        _ => Ok(()),
    }
}

/// Passes every message of a peer to `take` until the association ends or `take` fails.
pub(super) fn receive(
    peer: &mut Peer,
    options: TalkOptions,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Error> {
    // Streams are read in larger pieces than datagrams.
    let mut buffer = vec![0; if peer.scheme().is_stream() { 16 << 10 } else { 2048 }];
    let mut change_port_at = options.change_port_after.map(|after| Instant::now() + after);
    loop {
        let event = match (peer.sctp(), change_port_at) {
            (Some(mut sctp), _) if options.notifications => sctp.recv_event(&mut buffer),
            (_, Some(at)) => match peer.recv_deadline(&mut buffer, at) {
                Err(Error::TimedOut) => {
                    change_port_at = None;
                    change_port(peer);
                    continue;
                }
                received => {
                    received.map(|length| length.map(|length| Event::Message(length, MessageInfo::default())))
                }
            },
            _ => peer
                .recv(&mut buffer)
                .map(|length| length.map(|length| Event::Message(length, MessageInfo::default()))),
        };
        match event {
            Ok(Some(Event::Message(length, _))) => take(&buffer[..length])?,
            Ok(Some(Event::Notification(notification))) => tell(&notification),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(Error::BufferTooSmall { needed }) => buffer.resize(needed, 0),
            Err(error) => return Err(error),
        }
    }
    if let Some(reason) = peer.end_reason() {
        tracing::info!(peer = %peer.peer_address(), %reason, "ended");
    }
    Ok(())
}

/// Changes to another local port, and says so.
fn change_port(peer: &mut Peer) {
    match peer.change_port() {
        Ok(()) => logging::say(format_args!("now sending from {}", peer.local_address())),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => logging::say(format_args!(
            "the port does not change: --bind sets it, or the server has no connection IDs (peeloff-echo --connection-ids 8)"
        )),
        Err(error) => logging::say(format_args!("cannot change the port: {error}")),
    }
}

/// Writes one message to standard output and flushes it.
pub(super) fn print(message: &[u8], options: TalkOptions) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(message)?;
    if options.lines && !message.ends_with(b"\n") {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

/// Explains an error of [`receive`] with [`print`].
pub(super) fn explain(error: Error) -> Failure {
    match error {
        Error::Io(error) => Failure::new(BROKEN, format_args!("cannot write to standard output: {error}")),
        Error::MessageRefused { .. } => Failure::new(
            BROKEN,
            format_args!("{error}: take longer ones with --max-message, on SCTP --sctp-max-message"),
        ),
        error => Failure::new(BROKEN, error),
    }
}

/// The sending half, on its own thread.
struct Stdin {
    to: Sender,
    options: TalkOptions,
    limit: usize,
    /// Receives an item for a message that has arrived since the last look. Closed when the conversation has
    /// ended.
    arrivals: Receiver<()>,
}

impl Stdin {
    fn run(self, complaints: &SyncSender<Failure>) {
        match send_input(self.options, self.limit, |message| send(&self.to, message, &self.options.how)) {
            Ok(()) => match self.options.quiet {
                Some(quiet) => self.wait_for_quiet(quiet),
                // The peer ends the conversation.
                None => return,
            },
            Err(failure) => {
                let _ = complaints.send(failure);
            }
        }
        self.to.close();
    }

    fn wait_for_quiet(&self, quiet: Duration) {
        // Discard the notice of messages that arrived while the input was being read.
        while self.arrivals.try_recv().is_ok() {}
        // This fails after the quiet time, or when the conversation has ended.
        while self.arrivals.recv_timeout(quiet).is_ok() {}
    }
}

/// Reads standard input to its end and passes each message to `send`, until `send` returns that no peer is left.
pub(super) fn send_input(
    options: TalkOptions,
    limit: usize,
    mut send: impl FnMut(&[u8]) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut messages = Messages::new(io::stdin().lock(), options.chunks, limit);
    let mut message = Vec::new();
    loop {
        match messages.read(&mut message) {
            Ok(true) if send(&message)? => {
                if !options.interval.is_zero() {
                    thread::sleep(options.interval);
                }
            }
            Ok(_) => return Ok(()),
            Err(error) => {
                return Err(Failure::new(BROKEN, format_args!("cannot read standard input: {error}")));
            }
        }
    }
}

/// Sends one message. Returns false if the association has ended. On TCP, which gives up an unreachable peer by
/// itself, waits for a slow peer without limit; on other transports waits for [`PATIENCE`] at most.
pub(super) fn send(to: &Sender, message: &[u8], how: &SendInfo) -> Result<bool, Failure> {
    send_within(if to.scheme().is_stream() { None } else { Some(PATIENCE) }, to, message, how)
}

/// Sends one message, and waits for space in the send buffer for `patience` at most.
pub(super) fn send_within(
    patience: Option<Duration>,
    to: &Sender,
    message: &[u8],
    how: &SendInfo,
) -> Result<bool, Failure> {
    let give_up = patience.map(|patience| Instant::now() + patience);
    let mut pause = Duration::from_millis(1);
    loop {
        match to.try_send_with(message, how) {
            Ok(()) => return Ok(true),
            Err(TrySendError { error: Error::Ended(_), .. }) => return Ok(false),
            Err(TrySendError { error: Error::SendBufferFull, .. })
                if give_up.is_none_or(|end| Instant::now() < end) =>
            {
                // There is no notification for another thread when the socket has space again.
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(TrySendError { error, .. }) => {
                let (size, peer) = (message.len(), to.peer_address());
                let why = format_args!("cannot send {size} bytes to {peer}: {error}");
                return Err(Failure::new(BROKEN, why));
            }
        }
    }
}
