//! Synchronization: locks, atomics, channels, and threads. Parts of the framework that several threads share take them
//! from here.
//!
//! Normally these are the types of the standard library, parking_lot and crossbeam-channel, unchanged. Under `--cfg
//! shuttle` they are those of `model`, whose scheduler decides at each call which thread continues; the tests named
//! `model` run with it:
//!
//! ```text
//! RUSTFLAGS='--cfg shuttle' CARGO_TARGET_DIR=target/models cargo test -p peeloff --lib -- model::
//! ```

#[cfg(shuttle)]
pub(crate) mod model;

#[cfg(not(shuttle))]
mod real {
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;

    pub(crate) use crossbeam_channel as channel;
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};

    pub(crate) use crate::sys::thread::spawn;

    /// Yields the lock to a thread that waits for it, if there is one, and takes the lock again after that thread.
    pub(crate) fn yield_lock<T>(lock: &mut MutexGuard<'_, T>) {
        MutexGuard::bump(lock);
    }
}

#[cfg(shuttle)]
pub(crate) use self::model::{Condvar, Mutex, MutexGuard, atomic, channel, spawn, thread, yield_lock};
#[cfg(not(shuttle))]
pub(crate) use self::real::{Condvar, Mutex, MutexGuard, atomic, channel, spawn, thread, yield_lock};
