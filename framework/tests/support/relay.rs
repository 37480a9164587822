//! A relay between clients and a server: it owns the address that the server sees, records datagrams, and lets a
//! test send more from that address.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the threads check whether to end.
const TICK: Duration = Duration::from_millis(20);

/// A relay, which runs until it is dropped. The address that the server sees is free after that.
pub struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The socket that clients send to.
    front: UdpSocket,
    /// The socket that is connected to the server.
    back: UdpSocket,
    state: Mutex<State>,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    client: Option<SocketAddr>,
    /// Clients whose datagrams are dropped.
    cut: Vec<SocketAddr>,
    /// How many more datagrams may pass to the server; `None` stands for all.
    allowance: Option<usize>,
    /// Whether datagrams from the server are dropped.
    mute: bool,
    /// The datagrams that clients have sent to the server.
    passed: Vec<Vec<u8>>,
    /// The number of the server's datagrams that have passed.
    answers: usize,
    /// The number of the server's datagrams that `mute` has dropped.
    withheld: usize,
}

impl Relay {
    /// Makes a relay to this server, with a port on the same address that the kernel picks.
    pub fn to(server: SocketAddr) -> Self {
        let bind = || {
            let socket = UdpSocket::bind((server.ip(), 0)).unwrap();
            socket.set_read_timeout(Some(TICK)).unwrap();
            socket
        };
        let (front, back) = (bind(), bind());
        back.connect(server).unwrap();
        let shared = Arc::new(Shared { front, back, state: Mutex::default(), stop: AtomicBool::new(false) });
        let up = Arc::clone(&shared);
        let down = Arc::clone(&shared);
        let threads = vec![thread::spawn(move || up.up()), thread::spawn(move || down.down())];
        Self { shared, threads }
    }

    /// Returns the address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.shared.front.local_addr().unwrap()
    }

    /// Returns the address that the server sees.
    pub fn source(&self) -> SocketAddr {
        self.shared.back.local_addr().unwrap()
    }

    /// Sends a datagram to the server in the client's name.
    pub fn inject(&self, datagram: &[u8]) {
        self.shared.back.send(datagram).unwrap();
    }

    /// From now on drops everything that the present client sends, including its close_notify.
    pub fn cut(&self) {
        let mut state = self.shared.state.lock().unwrap();
        let client = state.client.take();
        state.cut.extend(client);
    }

    /// Lets this many more datagrams pass to the server; `None` stands for all.
    pub fn allow(&self, datagrams: Option<usize>) {
        self.shared.state.lock().unwrap().allowance = datagrams;
    }

    /// Sets whether datagrams from the server are dropped.
    pub fn mute(&self, mute: bool) {
        self.shared.state.lock().unwrap().mute = mute;
    }

    /// Returns how many of the server's datagrams have passed so far.
    pub fn answers(&self) -> usize {
        self.shared.state.lock().unwrap().answers
    }

    /// Returns how many of the server's datagrams `mute` has dropped so far.
    pub fn withheld(&self) -> usize {
        self.shared.state.lock().unwrap().withheld
    }

    /// Returns all datagrams from clients that have passed to the server so far.
    pub fn passed(&self) -> Vec<Vec<u8>> {
        self.shared.state.lock().unwrap().passed.clone()
    }
}

impl Shared {
    fn up(&self) {
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((len, client)) = self.front.recv_from(&mut buffer) else { continue };
            let mut state = self.state.lock().unwrap();
            if state.cut.contains(&client) || state.allowance == Some(0) {
                continue;
            }
            state.allowance = state.allowance.map(|left| left - 1);
            state.client = Some(client);
            state.passed.push(buffer[..len].to_vec());
            // If an ICMP error of an earlier datagram makes this send fail, send again.
            let _ = self.back.send(&buffer[..len]).or_else(|_| self.back.send(&buffer[..len]));
        }
    }

    fn down(&self) {
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(len) = self.back.recv(&mut buffer) else { continue };
            let mut state = self.state.lock().unwrap();
            match state.client {
                Some(client) if !state.mute => {
                    state.answers += 1;
                    let _ = self.front.send_to(&buffer[..len], client);
                }
                _ => state.withheld += 1,
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
