//! Socket options (RFC 6458 §8, [sctp(7)](https://man7.org/linux/man-pages/man7/sctp.7.html)), one method for each.
//!
//! No method blocks. Each fails with the errno of getsockopt(2) or setsockopt(2): EINVAL if the association does not
//! exist or the kernel does not accept a value, EOPNOTSUPP or EINVAL on the wrong style of socket, ENOPROTOOPT on a
//! kernel that lacks the option.
//!
//! Times are passed in milliseconds, rounded up; Linux rounds those of an association up to its timer tick, 4 ms with
//! Debian's kernel. For several options the kernel takes 0 as "unchanged". These methods return
//! [`InvalidInput`](io::ErrorKind::InvalidInput) for such a value, so the value that was set is always the value that
//! is read.

mod association;
mod auth;
mod messages;
mod paths;
mod streams;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::AssocId;
use crate::sys::sctp::abi::{Plain, sctp_assoc_value};
use crate::sys::sctp::{get, milliseconds, set};

pub use association::{
    AssociationCounters, AssociationParameters, AssociationPhase, InitParameters, Rto, Status,
};
pub use auth::HmacAlgorithm;
pub use messages::{DelayedSack, FragmentInterleave, Policy, PrStatus};
pub use paths::{
    Heartbeat, MtuChange, PathChange, PathInfo, PathParameters, PathReachability, PathThresholds, SackDelay,
};
pub use streams::{ResetDirection, StreamRequests, StreamScheduler};

/// The SCTP options of a socket, and of one association on it.
#[derive(Clone, Copy, Debug)]
pub struct Options<'fd> {
    fd: BorrowedFd<'fd>,
    association: AssocId,
}

impl<'fd> Options<'fd> {
    /// Returns the options of an SCTP socket: those of its only association, or on a one-to-many socket those of future
    /// associations.
    pub fn of(socket: &'fd impl AsFd) -> Self {
        Self { fd: socket.as_fd(), association: AssocId::FUTURE }
    }

    /// Returns the options of one association on a one-to-many socket. Options of the socket as a whole remain so.
    pub fn association(self, association: AssocId) -> Self {
        Self { association, ..self }
    }

    fn id(&self) -> i32 {
        self.association.as_raw()
    }

    fn get<T: Plain>(&self, name: i32, question: T) -> io::Result<T> {
        get(self.fd, name, question)
    }

    fn set<T: Plain>(&self, name: i32, value: &T) -> io::Result<()> {
        set(self.fd, name, value)
    }

    /// Reads an option of the socket that is an integer.
    fn get_number(&self, name: i32) -> io::Result<u32> {
        self.get(name, 0_u32)
    }

    fn get_flag(&self, name: i32) -> io::Result<bool> {
        self.get_number(name).map(|value| value != 0)
    }

    fn set_flag(&self, name: i32, on: bool) -> io::Result<()> {
        self.set(name, &u32::from(on))
    }

    /// Reads an option of an association that is an integer (`struct sctp_assoc_value`).
    fn get_value(&self, name: i32) -> io::Result<u32> {
        let question = sctp_assoc_value { assoc_id: self.id(), assoc_value: 0 };
        self.get(name, question).map(|answer| answer.assoc_value)
    }

    fn set_value(&self, name: i32, assoc_value: u32) -> io::Result<()> {
        self.set(name, &sctp_assoc_value { assoc_id: self.id(), assoc_value })
    }
}

/// Returns whole milliseconds; refuses 0, which the kernel takes as "unchanged".
fn nonzero_milliseconds(time: Duration) -> io::Result<u32> {
    nonzero(milliseconds(time))
}

fn nonzero<T: Default + PartialEq>(value: T) -> io::Result<T> {
    if value == T::default() { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(value) }
}

fn from_milliseconds(time: u32) -> Duration {
    Duration::from_millis(time.into())
}
