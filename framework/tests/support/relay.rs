//! A relay between clients and a server: it owns the address that the server sees, keeps what passed,
//! and whoever holds it can send more from that address.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the threads look whether they are to end.
const TICK: Duration = Duration::from_millis(20);

/// Runs until it is dropped; the address that the server sees is free after that.
pub struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Where clients send to.
    front: UdpSocket,
    /// Connected to the server.
    back: UdpSocket,
    state: Mutex<State>,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    client: Option<SocketAddr>,
    /// Clients whose datagrams go nowhere.
    cut: Vec<SocketAddr>,
    /// Datagrams that may still pass to the server; `None`: all.
    allowance: Option<usize>,
    /// Whether datagrams from the server pass.
    mute: bool,
    /// What clients have sent to the server.
    passed: Vec<Vec<u8>>,
    /// How many datagrams of the server's have passed.
    answers: usize,
    /// How many did not, because of `mute`.
    withheld: usize,
}

impl Relay {
    /// To this server, from a port of the kernel's choice on the same address.
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

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.shared.front.local_addr().unwrap()
    }

    /// Whom the server sees.
    pub fn source(&self) -> SocketAddr {
        self.shared.back.local_addr().unwrap()
    }

    /// Sends a datagram to the server, as if it were the client's.
    pub fn inject(&self, datagram: &[u8]) {
        self.shared.back.send(datagram).unwrap();
    }

    /// From now on nothing that the present client sends gets through, not even its goodbye.
    pub fn cut(&self) {
        let mut state = self.shared.state.lock().unwrap();
        let client = state.client.take();
        state.cut.extend(client);
    }

    /// Lets so many datagrams more pass to the server; `None` is all of them.
    pub fn allow(&self, datagrams: Option<usize>) {
        self.shared.state.lock().unwrap().allowance = datagrams;
    }

    /// Whether what the server sends is lost.
    pub fn mute(&self, mute: bool) {
        self.shared.state.lock().unwrap().mute = mute;
    }

    /// How many datagrams of the server's have passed so far.
    pub fn answers(&self) -> usize {
        self.shared.state.lock().unwrap().answers
    }

    /// How many datagrams of the server's were lost to `mute` so far.
    pub fn withheld(&self) -> usize {
        self.shared.state.lock().unwrap().withheld
    }

    /// All that has passed to the server so far, from clients.
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
            // An ICMP error of an earlier datagram takes this one's place: again.
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
