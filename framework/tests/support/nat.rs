//! A network address translator (NAT) between one client and a server. It can change its port, and lose and
//! reorder datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the threads check whether to end, and how long a datagram waits for another one to overtake it.
const TICK: Duration = Duration::from_millis(10);

/// A translator, which runs until it is dropped.
pub struct Nat {
    shared: Arc<Shared>,
    server: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The socket that the client sends to.
    front: UdpSocket,
    state: Mutex<State>,
    stop: AtomicBool,
}

struct State {
    client: Option<SocketAddr>,
    /// The socket that the server sees, and how many times it has changed.
    back: Arc<UdpSocket>,
    generation: usize,
    /// The datagrams that the client has sent.
    passed: Vec<Vec<u8>>,
    /// Whether the client's datagrams are dropped.
    cut: bool,
    /// The percentage of datagrams to lose.
    lost: u64,
    late: u64,
    seed: u64,
    /// For each direction, a datagram that waits for another one to overtake it.
    held: [Option<Vec<u8>>; 2],
}

const UP: usize = 0;
const DOWN: usize = 1;

impl Nat {
    /// Makes a translator to this server, with a port on the same address that the kernel picks.
    pub fn to(server: SocketAddr) -> Self {
        let front = UdpSocket::bind((server.ip(), 0)).unwrap();
        front.set_read_timeout(Some(TICK)).unwrap();
        let state = State {
            client: None,
            back: back(server, 0),
            generation: 0,
            passed: Vec::new(),
            cut: false,
            lost: 0,
            late: 0,
            seed: 0x9e37_79b9_7f4a_7c15,
            held: [None, None],
        };
        let shared = Arc::new(Shared { front, state: Mutex::new(state), stop: AtomicBool::new(false) });
        let up = Arc::clone(&shared);
        let mut nat = Self { shared, server, threads: vec![thread::spawn(move || up.up())] };
        nat.listen();
        nat
    }

    /// Returns the address that the client connects to.
    pub fn address(&self) -> SocketAddr {
        self.shared.front.local_addr().unwrap()
    }

    /// Returns the address that the server sees.
    pub fn source(&self) -> SocketAddr {
        self.shared.state.lock().unwrap().back.local_addr().unwrap()
    }

    /// Changes to this port; 0 stands for any port.
    pub fn rebind(&mut self, port: u16) {
        let mut state = self.shared.state.lock().unwrap();
        state.back = back(self.server, port);
        state.generation += 1;
        drop(state);
        // The thread that reads the old socket closes it.
        self.listen();
    }

    /// Loses and delays these percentages of the datagrams.
    pub fn set_faults(&self, lost: u64, late: u64) {
        let mut state = self.shared.state.lock().unwrap();
        (state.lost, state.late) = (lost, late);
    }

    /// Sets whether the client's datagrams are dropped. They are recorded in any case.
    pub fn cut(&self, cut: bool) {
        self.shared.state.lock().unwrap().cut = cut;
    }

    /// Returns the datagrams that the client has sent so far.
    pub fn passed(&self) -> Vec<Vec<u8>> {
        self.shared.state.lock().unwrap().passed.clone()
    }

    fn listen(&mut self) {
        let shared = Arc::clone(&self.shared);
        let state = self.shared.state.lock().unwrap();
        let (back, generation) = (Arc::clone(&state.back), state.generation);
        drop(state);
        self.threads.push(thread::spawn(move || shared.down(&back, generation)));
    }
}

fn back(server: SocketAddr, port: u16) -> Arc<UdpSocket> {
    let socket = UdpSocket::bind((server.ip(), port)).unwrap();
    socket.set_read_timeout(Some(TICK)).unwrap();
    socket.connect(server).unwrap();
    Arc::new(socket)
}

impl State {
    /// Returns the datagrams to forward now in place of this one; `None` stands for a moment without a datagram.
    fn through(&mut self, direction: usize, datagram: Option<Vec<u8>>) -> Vec<Vec<u8>> {
        let Some(datagram) = datagram else { return self.held[direction].take().into_iter().collect() };
        if self.chance() < self.lost {
            return Vec::new();
        }
        if self.held[direction].is_none() && self.chance() < self.late {
            self.held[direction] = Some(datagram);
            return Vec::new();
        }
        std::iter::once(datagram).chain(self.held[direction].take()).collect()
    }

    /// Returns a number below 100 (xorshift).
    fn chance(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % 100
    }
}

impl Shared {
    fn up(&self) {
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let received = self.front.recv_from(&mut buffer).ok();
            let mut state = self.state.lock().unwrap();
            let datagram = received.map(|(len, client)| {
                state.client = Some(client);
                state.passed.push(buffer[..len].to_vec());
                buffer[..len].to_vec()
            });
            if state.cut && datagram.is_some() {
                continue;
            }
            for datagram in state.through(UP, datagram) {
                // If an ICMP error of an earlier datagram makes this send fail, send again.
                let _ = state.back.send(&datagram).or_else(|_| state.back.send(&datagram));
            }
        }
    }

    fn down(&self, back: &UdpSocket, generation: usize) {
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let received = back.recv(&mut buffer).ok();
            let mut state = self.state.lock().unwrap();
            if state.generation != generation {
                break;
            }
            let Some(client) = state.client else { continue };
            for datagram in state.through(DOWN, received.map(|len| buffer[..len].to_vec())) {
                let _ = self.front.send_to(&datagram, client);
            }
        }
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
