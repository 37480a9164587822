//! A path between one client and the server that loses, repeats, reorders and delays datagrams.

// Each test program uses a part of this module.
#![allow(dead_code)]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use peeloff::{Address, Scheme};

/// What happens to a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Drop,
    Twice,
    /// It arrives after the next one of its direction, or after a while if there is none.
    Late,
    /// It arrives after this delay.
    Delay(Duration),
}

/// How long a datagram waits until another one has overtaken it.
const OVERTAKING: Duration = Duration::from_millis(100);

/// Forwards datagrams between one client and the server. `decide` gets the number of the datagram, counted from 0
/// over both directions, whether it goes to the server, and its bytes.
pub struct FaultyPath {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FaultyPath {
    pub fn to(server: SocketAddr, decide: impl FnMut(usize, bool, &[u8]) -> Fate + Send + 'static) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").unwrap();
        back.connect(server).unwrap();
        let address = front.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || carry(&front, &back, &stopped, decide));
        Self { address, stop, thread: Some(thread) }
    }

    pub fn url(&self) -> Address {
        Address::from_socket(Scheme::Dtls, self.address)
    }
}

impl Drop for FaultyPath {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn carry(
    front: &UdpSocket,
    back: &UdpSocket,
    stop: &AtomicBool,
    mut decide: impl FnMut(usize, bool, &[u8]) -> Fate,
) {
    front.set_nonblocking(true).unwrap();
    back.set_nonblocking(true).unwrap();
    let mut client = None;
    let mut number = 0;
    let mut held: Vec<(Instant, bool, bool, Vec<u8>)> = Vec::new();
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        let up = front.recv_from(&mut buffer).ok().map(|(len, from)| {
            client = Some(from);
            (true, len)
        });
        let down = if up.is_none() { back.recv(&mut buffer).ok().map(|len| (false, len)) } else { None };
        let send = |to_server: bool, datagram: &[u8]| {
            if to_server {
                let _ = back.send(datagram);
            } else if let Some(client) = client {
                let _ = front.send_to(datagram, client);
            }
        };
        if let Some((to_server, len)) = up.or(down) {
            idle = false;
            let datagram = &buffer[..len];
            let now = Instant::now();
            match decide(number, to_server, datagram) {
                Fate::Drop => {}
                Fate::Late => held.push((now + OVERTAKING, true, to_server, datagram.to_vec())),
                Fate::Delay(time) => held.push((now + time, false, to_server, datagram.to_vec())),
                fate => {
                    send(to_server, datagram);
                    if fate == Fate::Twice {
                        send(to_server, datagram);
                    }
                    for (at, overtaken, direction, _) in &mut held {
                        if *overtaken && *direction == to_server {
                            *at = now;
                        }
                    }
                }
            }
            number += 1;
        }
        let now = Instant::now();
        held.retain(|(at, _, to_server, datagram)| {
            if *at <= now {
                send(*to_server, datagram);
            }
            *at > now
        });
        if idle {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// Returns whether one of the records in the datagram is a ChangeCipherSpec.
pub fn has_change_cipher_spec(mut datagram: &[u8]) -> bool {
    while datagram.len() >= 13 {
        if datagram[0] == 20 {
            return true;
        }
        let len = usize::from(u16::from_be_bytes([datagram[11], datagram[12]]));
        datagram = datagram.get(13 + len..).unwrap_or_default();
    }
    false
}
