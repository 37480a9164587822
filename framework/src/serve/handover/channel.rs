//! The socket between the two processes. It carries whole messages, with descriptors, between processes of one user.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use zeroize::Zeroizing;

use crate::codec::{MAX_LEN, Reader, Writer};
use crate::error::HandOverError;
use crate::sys::unix;

/// Makes a connected pair of sockets. From the start, the kernel tells both ends which user sent each message.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
    one.set_passcred(true)?;
    other.set_passcred(true)?;
    Ok((one.into(), other.into()))
}

/// One end of the socket.
pub(crate) struct Channel(Socket);

/// The memory for the last received message, which is wiped.
pub(crate) struct Frame {
    bytes: Zeroizing<Vec<u8>>,
    len: usize,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Frame {
    pub(crate) fn new() -> Self {
        // One byte more than the longest message, so that a longer one is detected.
        Self { bytes: Zeroizing::new(vec![0; MAX_LEN + 1]), len: 0, descriptors: Vec::new() }
    }

    /// Returns the kind of the message, and a reader of the rest.
    pub(crate) fn read(&self) -> (u8, Reader<'_>) {
        match self.bytes[..self.len].split_first() {
            Some((kind, rest)) => (*kind, Reader::new(rest)),
            None => (0, Reader::new(&[])),
        }
    }
}

impl Channel {
    /// Takes the socket, if it leads to a process of the same user: the kernel reports which user made the pair of
    /// sockets, and with each message which user sent it.
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, HandOverError> {
        let socket = Socket::from(socket);
        let is_fit = socket.domain().is_ok_and(|domain| domain == Domain::UNIX)
            && socket.r#type().is_ok_and(|kind| kind == Type::SEQPACKET);
        if !is_fit {
            return Err(HandOverError::Unfit);
        }
        let prepared = socket.set_cloexec(true).and_then(|()| {
            socket.set_nonblocking(false)?;
            socket.set_passcred(true)?;
            unix::maker_uid(socket.as_fd())
        });
        match prepared.map_err(HandOverError::Io)? {
            uid if uid == unix::own_uid() => Ok(Self(socket)),
            uid => Err(HandOverError::OtherUser { uid }),
        }
    }

    /// Sends a message. Blocks until there is room, for `patience` at most.
    pub(crate) fn send(
        &self,
        message: &Writer,
        descriptors: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<(), HandOverError> {
        let message = message.finish().ok_or(HandOverError::TooLong)?;
        let sent = self
            .0
            .set_write_timeout(Some(patience))
            .and_then(|()| unix::send(self.0.as_fd(), message, descriptors, true));
        sent.map_err(failed)
    }

    /// Sends a message if there is room. Returns `false` if there is none, or if the other process no longer reads.
    pub(crate) fn try_send(&self, message: &Writer) -> bool {
        message.finish().is_some_and(|message| unix::send(self.0.as_fd(), message, &[], false).is_ok())
    }

    /// Waits for a message, for `patience` at most; `None` sets no limit.
    pub(crate) fn recv(&self, frame: &mut Frame, patience: Option<Duration>) -> Result<(), HandOverError> {
        frame.bytes[..frame.len].fill(0);
        frame.descriptors.clear();
        frame.len = 0;
        let arrived = loop {
            let arrived =
                self.0.set_read_timeout(patience).and_then(|()| unix::recv(self.0.as_fd(), &mut frame.bytes));
            match arrived {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                arrived => break arrived.map_err(failed)?,
            }
        };
        frame.len = arrived.len;
        frame.descriptors = arrived.descriptors;
        match arrived.uid {
            _ if arrived.len == 0 => Err(HandOverError::Gone),
            _ if arrived.truncated || arrived.len > MAX_LEN => Err(HandOverError::Malformed),
            Some(uid) if uid != unix::own_uid() => Err(HandOverError::OtherUser { uid }),
            Some(_) => Ok(()),
            None => Err(HandOverError::Malformed),
        }
    }

    /// Ends the connection, and wakes a thread that waits on it.
    pub(crate) fn close(&self) {
        // It fails if the other end is already closed.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

fn failed(error: io::Error) -> HandOverError {
    match error.kind() {
        io::ErrorKind::WouldBlock => HandOverError::TimedOut,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => HandOverError::Gone,
        _ => HandOverError::Io(error),
    }
}
