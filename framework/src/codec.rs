//! Serialization of peers for a hand-over: numbers in network byte order; texts and lists of bytes with a length
//! prefix.
//!
//! It is written by hand because the data contains keys: the memory is allocated once, never moves, and is wiped. This
//! module uses no socket, thread or clock.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use zeroize::Zeroizing;

/// Maximum length of a message in bytes: what an AF_UNIX socket takes in one message by default.
pub(crate) const MAX_LEN: usize = 128 << 10;

/// Writes one message.
pub(crate) struct Writer {
    bytes: Zeroizing<Vec<u8>>,
    /// A value did not fit.
    overflows: bool,
}

impl Writer {
    /// Returns a writer with an empty message.
    pub(crate) fn new() -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(MAX_LEN)), overflows: false }
    }

    /// Wipes the message and begins the next one.
    pub(crate) fn clear(&mut self) {
        self.bytes.fill(0);
        self.bytes.clear();
        self.overflows = false;
    }

    /// Returns the message; `None` if it is too long.
    pub(crate) fn finish(&self) -> Option<&[u8]> {
        (!self.overflows).then_some(&self.bytes)
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        // Reallocation would leave a copy behind.
        match self.bytes.capacity() - self.bytes.len() >= bytes.len() {
            true => self.bytes.extend_from_slice(bytes),
            false => self.overflows = true,
        }
    }

    pub(crate) fn u8(&mut self, number: u8) {
        self.raw(&[number]);
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.u8(flag.into());
    }

    pub(crate) fn u16(&mut self, number: u16) {
        self.raw(&number.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.raw(&number.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.raw(&number.to_be_bytes());
    }

    pub(crate) fn u128(&mut self, number: u128) {
        self.raw(&number.to_be_bytes());
    }

    /// Writes bytes after their number.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        // A longer value does not fit anyway.
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes);
    }

    /// Writes whether there is a value, and the value.
    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(crate) fn text(&mut self, text: Option<&str>) {
        self.option(text, |out, text| out.bytes(text.as_bytes()));
    }

    /// Writes a duration in milliseconds.
    pub(crate) fn duration(&mut self, duration: Duration) {
        self.u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    }

    pub(crate) fn ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                self.u8(4);
                self.raw(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.u8(6);
                self.raw(&ip.octets());
            }
        }
    }

    pub(crate) fn address(&mut self, address: SocketAddr) {
        self.ip(address.ip());
        self.u16(address.port());
        if let SocketAddr::V6(v6) = address {
            self.u32(v6.flowinfo());
            self.u32(v6.scope_id());
        }
    }
}

/// Error: the message is truncated or contains an invalid value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads one message.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// Checks that nothing is left.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// Returns what is left.
    #[cfg(all(test, not(shuttle)))]
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn raw(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.raw(N)?.try_into().map_err(|_| Malformed)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Malformed> {
        Ok(u128::from_be_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u32()?;
        self.raw(usize::try_from(len).map_err(|_| Malformed)?)
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        self.flag()?.then(|| read(self)).transpose()
    }

    pub(crate) fn text(&mut self) -> Result<Option<String>, Malformed> {
        self.option(|from| Ok(str::from_utf8(from.bytes()?).map_err(|_| Malformed)?.to_owned()))
    }

    pub(crate) fn duration(&mut self) -> Result<Duration, Malformed> {
        self.u64().map(Duration::from_millis)
    }

    pub(crate) fn ip(&mut self) -> Result<IpAddr, Malformed> {
        match self.u8()? {
            4 => Ok(IpAddr::from(self.array::<4>()?)),
            6 => Ok(IpAddr::from(self.array::<16>()?)),
            _ => Err(Malformed),
        }
    }

    pub(crate) fn address(&mut self) -> Result<SocketAddr, Malformed> {
        let (ip, port) = (self.ip()?, self.u16()?);
        Ok(match ip {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => v6(ip, port, self.u32()?, self.u32()?),
        })
    }
}

fn v6(ip: Ipv6Addr, port: u16, flow: u32, scope: u32) -> SocketAddr {
    SocketAddrV6::new(ip, port, flow, scope).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_fields_are_read_back() {
        let mut out = Writer::new();
        let addresses: [SocketAddr; 3] = [
            "192.0.2.1:5".parse().unwrap(),
            "[2001:db8::1]:6".parse().unwrap(),
            v6(Ipv6Addr::LOCALHOST, 7, 8, 9),
        ];
        out.u8(1);
        out.u16(2);
        out.u32(3);
        out.u64(u64::MAX);
        out.u128(u128::MAX - 1);
        out.bytes(b"bytes");
        out.text(Some("text"));
        out.text(None);
        out.duration(Duration::from_millis(1234));
        addresses.iter().for_each(|address| out.address(*address));
        out.option(Some(5), Writer::u8);
        let message = out.finish().unwrap().to_vec();
        let mut from = Reader::new(&message);
        assert_eq!((from.u8(), from.u16(), from.u32(), from.u64()), (Ok(1), Ok(2), Ok(3), Ok(u64::MAX)));
        assert_eq!((from.u128(), from.bytes()), (Ok(u128::MAX - 1), Ok(&b"bytes"[..])));
        assert_eq!((from.text(), from.text()), (Ok(Some("text".to_owned())), Ok(None)));
        assert_eq!(from.duration(), Ok(Duration::from_millis(1234)));
        assert_eq!([from.address(), from.address(), from.address()], addresses.map(Ok));
        assert_eq!((from.option(Reader::u8), from.end()), (Ok(Some(5)), Ok(())));
        for len in 0..message.len() {
            let mut cut = Reader::new(&message[..len]);
            let read = (|| {
                let _ = (cut.u8()?, cut.u16()?, cut.u32()?, cut.u64()?, cut.u128()?, cut.bytes()?);
                let _ = (cut.text()?, cut.text()?, cut.duration()?);
                let _ = (cut.address()?, cut.address()?, cut.address()?);
                cut.option(Reader::u8)
            })();
            assert_eq!(read, Err(Malformed), "{len}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_none_and_its_memory_never_moves() {
        let mut out = Writer::new();
        out.raw(&[1; MAX_LEN]);
        let place = out.finish().unwrap().as_ptr();
        out.u8(1);
        assert_eq!(out.finish(), None);
        out.clear();
        out.u8(2);
        assert_eq!(out.finish(), Some(&[2][..]));
        assert_eq!(out.finish().unwrap().as_ptr(), place);
    }
}
