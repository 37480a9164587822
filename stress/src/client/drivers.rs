//! Makes the drivers for the clients of a target, one for each thread.

use std::io;

use super::hub::Hub;
use super::streams::Streams;
use super::{ClientDriver, Clients, Dialer};

impl Dialer {
    /// Makes a driver without clients for each of this many threads.
    ///
    /// # Errors
    ///
    /// Returns an error if no descriptor or port is left.
    pub fn clients(&self, threads: usize) -> io::Result<Clients> {
        let driver = || -> io::Result<Box<dyn ClientDriver>> {
            Ok(match self.scheme.is_stream() {
                true => Box::new(Streams::new(self.clone())?),
                false => Box::new(Hub::new(self.clone())?),
            })
        };
        let drivers: io::Result<Vec<_>> = (0..threads.max(1)).map(|_| driver()).collect();
        Ok(Clients::of(drivers?))
    }
}
