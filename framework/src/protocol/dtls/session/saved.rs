//! Serializes an open session for the process that takes over the peer.

use std::sync::Arc;
use std::time::Instant;

use super::{Kept, MAX_REFUSALS, Session, Source};
use crate::codec::{Malformed, Reader, Writer};
use crate::observe::Counters;
use crate::protocol::dtls::keys::Secrets;
use crate::protocol::dtls::paths::Paths;
use crate::protocol::dtls::restart::Restart;
use crate::protocol::dtls::{Opener, Sealer};

impl Session {
    /// Writes the complete session. Returns `false` while input or output is pending that only this process has. No
    /// record may be sealed here once the other process seals its first one.
    pub(crate) fn save(&self, now: Instant, out: &mut Writer) -> bool {
        let Self { counters: _, sealer, opener, secrets, restart, paths, checks, source: _, .. } = self;
        let Self { moved, kept, refusals, blind_repeats, closed, .. } = self;
        let sends = kept.as_ref().is_some_and(|kept| !kept.outgoing.is_empty());
        let is_busy = moved.is_some() || self.has_more() || sends;
        // A client has a socket of its own and is never handed over.
        if is_busy || *closed || restart.is_none() {
            return false;
        }
        sealer.save(out);
        opener.save(out);
        out.option(secrets.as_deref(), |out, secrets| secrets.save(out));
        out.option(paths.as_deref(), |out, paths| paths.save(now, out));
        out.flag(*checks);
        let flight = kept.iter().flat_map(|kept| &kept.flight);
        flight.for_each(|datagram| out.option(Some(datagram), |out, datagram| out.bytes(datagram)));
        out.flag(false);
        out.u8(*refusals);
        out.u8(*blind_repeats);
        true
    }

    /// Leaves out the numbers of records that another process may have sealed after [`save`](Self::save).
    pub(crate) fn skip_records(&mut self) {
        self.sealer.skip();
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// The input is malformed, or OpenSSL could not allocate memory.
    pub(crate) fn restore(
        from: &mut Reader<'_>,
        restart: Restart,
        counters: Arc<Counters>,
        now: Instant,
    ) -> Result<Self, Malformed> {
        let (sealer, opener) = (Sealer::restore(from)?, Opener::restore(from)?);
        let secrets = from.option(Secrets::restore)?.map(Box::new);
        let paths = from.option(|from| Paths::restore(from, now))?.map(Box::new);
        let checks = from.flag()?;
        let mut flight = Vec::new();
        while let Some(datagram) = from.option(Reader::bytes)? {
            flight.push(datagram.into());
        }
        let (refusals, blind_repeats) = (from.u8()?.min(MAX_REFUSALS), from.u8()?);
        Ok(Self {
            counters,
            sealer,
            opener,
            secrets,
            restart: Some(restart),
            paths,
            checks,
            source: Source::default(),
            moved: None,
            kept: (!flight.is_empty()).then(|| Box::new(Kept { flight, ..Kept::default() })),
            refusals,
            blind_repeats,
            closed: false,
        })
    }
}
