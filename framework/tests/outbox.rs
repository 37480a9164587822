//! One message to many peers: sent from one buffer, on one thread.

mod support;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use peeloff::{Peer, PostOutcome, Sender};
use support::{DEADLINE, Running, echo, exchange, until};

const PEERS: usize = 40;

/// Returns how often the worker threads of this server were put to sleep, by thread. Returns none while a worker
/// is running.
fn sleeps() -> Option<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap) {
        // The thread may have ended by now.
        let Ok(name) = std::fs::read_to_string(task.path().join("comm")) else { continue };
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        if let (true, Some(count)) = (name.starts_with("peeloff-w"), switches) {
            if !status.contains("State:\tS") {
                return None;
            }
            found.push((task.file_name().into_string().unwrap(), count.trim().parse().unwrap()));
        }
    }
    found.sort();
    Some(found)
}

/// All checks are in one test, because workers of other tests would be counted too.
#[test]
fn a_broadcast_shares_its_buffer_and_wakes_no_worker() {
    for url in ["udp://127.0.0.1:0", "dtls://127.0.0.1:0", "tcp://127.0.0.1:0", "tls://127.0.0.1:0"] {
        let (came, arrivals) = channel();
        let came = Mutex::new(came);
        let handler = move |peer: &mut Peer| {
            came.lock().unwrap().send(peer.sender()).unwrap();
            echo(peer)
        };
        let running = Running::with(url, |builder| builder, handler);
        let mut peers: Vec<Peer> = (0..PEERS).map(|_| running.connect()).collect();
        peers.iter_mut().for_each(|peer| exchange(peer, b"hello"));
        let senders: Vec<Sender> = (0..PEERS).map(|_| arrivals.recv_timeout(DEADLINE).unwrap()).collect();
        let workers = until("all workers wait", sleeps);
        assert!(workers.len() >= PEERS, "{url}: {} workers", workers.len());
        for number in 0..20u8 {
            let message: Arc<[u8]> = Arc::from(&[number; 100][..]);
            for sender in &senders {
                assert_eq!(sender.post(&message), PostOutcome::Sent, "{url}");
            }
            assert_eq!(Arc::strong_count(&message), 1, "{url}");
        }
        let mut buffer = [0; 2000];
        for peer in &mut peers {
            let mut got = 0;
            while got < 2000 {
                let len = peer.recv_timeout(&mut buffer, DEADLINE).unwrap().unwrap();
                assert!((got..got + len).all(|at| buffer[at - got] == (at / 100) as u8), "{url}");
                got += len;
            }
        }
        assert_eq!(until("all workers wait", sleeps), workers, "{url}: a worker was woken");
        assert_eq!(running.stats().messages_sent, (PEERS * 21) as u64, "{url}");
    }
}
