//! Makes the carriers for the clients of a target.

use std::io;

use super::hub::Hub;
use super::streams::Streams;
use super::{Carrier, Clients, Dialer};

impl Dialer {
    /// Makes room for clients on this many threads.
    ///
    /// # Errors
    ///
    /// Returns an error if no descriptor or port is left.
    pub fn clients(&self, threads: usize) -> io::Result<Clients> {
        let carrier = || -> io::Result<Box<dyn Carrier>> {
            Ok(match self.scheme.is_stream() {
                true => Box::new(Streams::new(self.clone())?),
                false => Box::new(Hub::new(self.clone())?),
            })
        };
        let carriers: io::Result<Vec<_>> = (0..threads.max(1)).map(|_| carrier()).collect();
        Ok(Clients::of(carriers?))
    }
}
