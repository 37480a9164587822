//! The synchronization types of [`sync`](super) for models.
//!
//! shuttle, not loom: the models run the framework's own code, including real sockets, in executions of a thousand
//! steps. loom explores all interleavings of a model, which are too many here, and supports only its own types. shuttle
//! explores some of them, chosen at random from a seed. Its atomics are sequentially consistent, so an ordering that is
//! too weak is not found.
//!
//! There is no shuttle for crossbeam-channel, so [`channel`] implements the guarantees of that crate. The
//! [pool](crate::serve::worker::pool) relies on one of them: if `try_send` succeeds on a channel without room, a
//! receiver that was waiting gets the value, even if its timeout has passed before it has looked.
//!
//! Time: see [`Condvar::wait_until`]. Blocking system calls are made without blocking until they complete ([`poll`]),
//! so a lost wake-up shows as an execution that does not end.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::thread;

/// Seed of the schedules, unless the environment variable SHUTTLE_RANDOM_SEED is set.
const SEED: u64 = 20_260_101;

/// Number of steps within which every execution ends, even if a datagram on loopback is slow.
const MAX_STEPS: usize = 500_000;

/// OpenSSL and system calls need a larger stack than shuttle's default.
const STACK_SIZE: usize = 256 << 10;

/// A wait shorter than this may time out at any step; a longer one never does, because no execution takes that long.
const LONG: Duration = Duration::from_millis(100);

/// Runs `body` under this many schedules, or PEELOFF_MODEL_RUNS times as many.
#[cfg_attr(not(test), expect(dead_code, reason = "only models run"))]
pub(crate) fn explore(schedules: usize, body: impl Fn() + Send + Sync + 'static) {
    let times = std::env::var("PEELOFF_MODEL_RUNS").map_or(1, |times| times.parse().expect("a number"));
    let mut config = Config::new();
    config.stack_size = STACK_SIZE;
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    Runner::new(RandomScheduler::new_from_seed(SEED, schedules * times), config).run(body);
}

/// Returns one of `count` choices, at random.
pub(crate) fn choose(count: u32) -> u32 {
    thread_rng().gen_range(0..count)
}

/// Repeats a call until it returns a value; other threads run in between.
pub(crate) fn poll<T>(mut call: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(given) = call() {
            return given;
        }
        thread::yield_now();
    }
}

/// Starts a thread like [`thread::spawn`](crate::sys::thread::spawn); the size of the stack is shuttle's.
pub(crate) fn spawn(name: &str, _stack_size: usize, run: Box<dyn FnOnce() + Send>) -> std::io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// A mutex like parking_lot's, without poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

/// The guard of a [`Mutex`]; a [`Condvar`] takes the inner guard out for a moment.
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    guard: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let guard = Some(self.0.lock().unwrap_or_else(PoisonError::into_inner));
        MutexGuard { mutex: self, guard }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_deref().expect("no wait is under way")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_deref_mut().expect("no wait is under way")
    }
}

/// Lets others have the lock.
pub(crate) fn yield_lock<T>(lock: &mut MutexGuard<'_, T>) {
    lock.guard = None;
    thread::yield_now();
    lock.guard = lock.mutex.lock().guard;
}

/// A condition variable like parking_lot's.
#[derive(Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

/// Whether the wait timed out.
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<T>(&self, lock: &mut MutexGuard<'_, T>) {
        let guard = lock.guard.take().expect("no wait is under way");
        lock.guard = Some(self.0.wait(guard).unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits for a notification if the deadline is far. If it is near, waits for one step, after which the wait may
    /// time out.
    pub(crate) fn wait_until<T>(&self, lock: &mut MutexGuard<'_, T>, deadline: Instant) -> WaitTimeoutResult {
        if deadline.saturating_duration_since(Instant::now()) >= LONG {
            self.wait(lock);
            return WaitTimeoutResult(false);
        }
        lock.guard = None;
        thread::yield_now();
        lock.guard = lock.mutex.lock().guard;
        WaitTimeoutResult(choose(8) == 0)
    }
}

/// A channel like crossbeam-channel's, as far as the framework uses it.
pub(crate) mod channel {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    pub(crate) use crossbeam_channel::{RecvTimeoutError, TryRecvError, TrySendError};

    use super::{Condvar, Mutex};

    struct Channel<T> {
        state: Mutex<State<T>>,
        changed: Condvar,
    }

    struct State<T> {
        queue: VecDeque<T>,
        room: usize,
        /// The number of receivers that wait at this moment.
        waiting: usize,
        receivers: usize,
        sender: bool,
    }

    pub(crate) struct Sender<T>(Arc<Channel<T>>);

    pub(crate) struct Receiver<T>(Arc<Channel<T>>);

    /// Makes a channel with this much room; without room, values go directly to waiting receivers.
    pub(crate) fn bounded<T>(room: usize) -> (Sender<T>, Receiver<T>) {
        let state = State { queue: VecDeque::new(), room, waiting: 0, receivers: 1, sender: true };
        let channel = Arc::new(Channel { state: Mutex::new(state), changed: Condvar::new() });
        (Sender(Arc::clone(&channel)), Receiver(channel))
    }

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
            let mut state = self.0.state.lock();
            if state.receivers == 0 {
                return Err(TrySendError::Disconnected(value));
            }
            let room = if state.room == 0 { state.waiting } else { state.room };
            if state.queue.len() >= room {
                return Err(TrySendError::Full(value));
            }
            state.queue.push_back(value);
            self.0.changed.notify_all();
            Ok(())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.state.lock().sender = false;
            self.0.changed.notify_all();
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            let mut state = self.0.state.lock();
            match state.queue.pop_front() {
                Some(value) => Ok(value),
                None if state.sender => Err(TryRecvError::Empty),
                None => Err(TryRecvError::Disconnected),
            }
        }

        pub(crate) fn recv(&self) -> Result<T, RecvTimeoutError> {
            self.recv_timeout(Duration::from_secs(1 << 20))
        }

        pub(crate) fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
            let deadline = Instant::now() + timeout;
            let mut state = self.0.state.lock();
            state.waiting += 1;
            let mut over = false;
            let received = loop {
                // A value that was sent because a receiver waited is taken even if the timeout has passed.
                if let Some(value) = state.queue.pop_front() {
                    break Ok(value);
                }
                if !state.sender {
                    break Err(RecvTimeoutError::Disconnected);
                }
                if over {
                    break Err(RecvTimeoutError::Timeout);
                }
                over = self.0.changed.wait_until(&mut state, deadline).timed_out();
            };
            state.waiting -= 1;
            received
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            self.0.state.lock().receivers += 1;
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            self.0.state.lock().receivers -= 1;
        }
    }
}
