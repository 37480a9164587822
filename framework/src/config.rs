//! Timeouts, and options that fit nowhere else.

use std::time::Duration;

/// Gives a struct of options a setter for each of its fields. All option structs are used in the same way: they begin
/// with the defaults, fields and setters change them, and `non_exhaustive` lets the struct grow.
macro_rules! setters {
    ($options:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        impl $options {$(
            #[doc = concat!("Sets the field `", stringify!($field), "` and returns the options.")]
            #[must_use]
            pub fn $field(mut self, $field: $kind) -> Self {
                self.$field = $field;
                self
            }
        )*}
    };
}
pub(crate) use setters;

/// Whether the peers of `udp://` and `dtls://` have sockets of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sockets {
    /// Each peer has a connected socket of its own.
    PerPeer,
    /// All peers share the sockets of their listener, one for each event loop. A peer takes no descriptor, and
    /// [`Limits::max_peers_per_local_address`](crate::Limits::max_peers_per_local_address) does not apply.
    Shared,
}

/// The deadlines of an association, all on the monotonic clock.
///
/// ```
/// # use std::time::Duration;
/// # use peeloff::Timeouts;
/// let timeouts = Timeouts::default().idle(Some(Duration::from_secs(30)));
/// assert_eq!(timeouts.handshake, Duration::from_secs(10));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Time for the handshake. On DTLS it runs from the ClientHello with the cookie to the last flight. On SCTP it
    /// begins with the peel-off, on TCP with the connection or the end of its PROXY header. Default: 10 s.
    pub handshake: Duration,
    /// Time from a connection to a [proxied](crate::ServerBuilder::listen_proxied) listener to the end of its PROXY
    /// header, which proxies send at once. Default: 3 s.
    pub proxy_header: Duration,
    /// Ends an association whose peer has sent no complete message for this long. Checked while the handler waits in
    /// `recv`; may be late by 1/256 of the timeout. `None`: never. Default: 5 minutes.
    pub idle: Option<Duration>,
    /// Ends a stream with a [`Framing`](crate::Framing) if its peer sends no complete message within this time after
    /// the handler first waited for one. Checked while the handler waits in `recv`. Set it to `None` (never) on servers
    /// whose peers may only listen. Does not apply to streams without a framing. Default: 30 s.
    pub first_message: Option<Duration>,
    /// Ends a stream with a framing if its peer does not complete a message within this time after its first byte.
    /// Checked while the handler waits in `recv`. `None`: never. Default: 60 s.
    pub frame: Option<Duration>,
    /// Ends an association this long after it opened: at once if its handler waits in `recv`, otherwise within two
    /// seconds. `None`: never. Default: `None`.
    pub lifetime: Option<Duration>,
    /// How long [`Peer::send`](crate::Peer::send) waits for room in the socket's send buffer (on TCP, in the pending
    /// data behind it). Default: 5 s.
    pub send: Duration,
    /// How long a worker thread without a peer waits for the next one before it ends. Default: 10 s.
    pub worker_idle: Duration,
    /// How long a cookie secret is used for new cookies; its cookies are accepted for one more period. Default: 60 s.
    pub cookie_period: Duration,
}

setters!(Timeouts { handshake: Duration, proxy_header: Duration, idle: Option<Duration>, first_message: Option<Duration>, frame: Option<Duration>, lifetime: Option<Duration>, send: Duration, worker_idle: Duration, cookie_period: Duration });

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            proxy_header: Duration::from_secs(3),
            idle: Some(Duration::from_secs(300)),
            first_message: Some(Duration::from_secs(30)),
            frame: Some(Duration::from_secs(60)),
            lifetime: None,
            send: Duration::from_secs(5),
            worker_idle: Duration::from_secs(10),
            cookie_period: Duration::from_secs(60),
        }
    }
}
