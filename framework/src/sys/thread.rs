//! Threads without the additions of `std`:
//! [pthread_create(3)](https://man7.org/linux/man-pages/man3/pthread_create.3.html).
//!
//! A thread of `std` also has an alternate signal stack, just for the message that a stack overflow prints. That is
//! half of the memory maps of a thread, so it halves the number of threads that `vm.max_map_count` permits, and it
//! takes about 10 µs of a thread's start. Here a stack overflow still hits the guard page and ends the process with
//! SIGSEGV.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::time::Duration;
use std::{fs, io, ptr};

use libc::c_void;

use super::cvt;

/// The function that a thread runs.
type Run = Box<dyn FnOnce() + Send>;

/// Starts a detached thread with this name, of which the kernel keeps the first 15 bytes, with a stack of `stack_size`
/// bytes and a guard page. A panic that escapes from `run` aborts the process.
pub(crate) fn spawn(name: &str, stack_size: usize, run: Run) -> io::Result<()> {
    let name = CString::new(name.as_bytes().get(..15).unwrap_or(name.as_bytes()))?;
    let start: Box<(CString, Run)> = Box::new((name, run));
    let start = Box::into_raw(start);
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: the attributes are initialized before they are used and destroyed once. A created thread owns `start`; if
    // none is created, it is still ours.
    let error = unsafe {
        let attributes = attributes.as_mut_ptr();
        let mut error = libc::pthread_attr_init(attributes);
        if error == 0 {
            // Rounded up to pages. A size below the minimum would be refused.
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
            let least = stack_size.max(libc::PTHREAD_STACK_MIN).next_multiple_of(page);
            error = libc::pthread_attr_setstacksize(attributes, least);
            if error == 0 {
                error = libc::pthread_attr_setdetachstate(attributes, libc::PTHREAD_CREATE_DETACHED);
            }
            if error == 0 {
                error = libc::pthread_create(thread.as_mut_ptr(), attributes, main, start.cast());
            }
            libc::pthread_attr_destroy(attributes);
        }
        if error != 0 {
            drop(Box::from_raw(start));
        }
        error
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Returns the number of the calling thread; see [gettid(2)](https://man7.org/linux/man-pages/man2/gettid.2.html).
pub(crate) fn number() -> libc::pid_t {
    // SAFETY: the call has no arguments.
    unsafe { libc::gettid() }
}

/// Returns the processor time of the thread of this process that has this number, if there is one:
/// [pthread_getcpuclockid(3)](https://man7.org/linux/man-pages/man3/pthread_getcpuclockid.3.html), whose clock has a
/// number that is made from the thread's (`make_thread_cpuclock` in Linux).
pub(crate) fn processor_time(number: libc::pid_t) -> Option<Duration> {
    const SCHEDULER_OF_THREAD: libc::clockid_t = 2 | 4;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    cvt(unsafe { libc::clock_gettime(!number << 3 | SCHEDULER_OF_THREAD, &mut time) }).ok()?;
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// Returns whether the thread of this process that has this number runs or waits for a processor, rather than for
/// something else. Reads [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
pub(crate) fn is_runnable(number: libc::pid_t) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{number}/stat")).unwrap_or_default();
    // The name of the thread stands in parentheses before its state.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('R'))
}

extern "C" fn main(start: *mut c_void) -> *mut c_void {
    // SAFETY: `spawn` passed ownership of this box.
    let (name, run) = *unsafe { Box::from_raw(start.cast::<(CString, Run)>()) };
    // SAFETY: the name is a string with a NUL; the call only sets the name.
    unsafe { libc::pthread_setname_np(libc::pthread_self(), name.as_ptr()) };
    drop(name);
    run();
    ptr::null_mut()
}

/// Sets SCHED_BATCH in place of SCHED_OTHER for the calling thread
/// ([sched(7)](https://man7.org/linux/man-pages/man7/sched.7.html)), so that it does not preempt others when it wakes
/// up. Another policy stays unchanged, and so does SCHED_OTHER if a sandbox forbids the call.
pub(crate) fn use_batch_scheduling() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; only its policy changes.
    unsafe {
        if libc::sched_getscheduler(0) == libc::SCHED_OTHER {
            libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_name_and_its_stack() {
        let (tell, told) = crossbeam_channel::bounded(1);
        let run = move || {
            let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            // Most of what was asked for can be used.
            let room = [1_u8; 200 << 10];
            tell.send((
                name,
                std::hint::black_box(&room).iter().map(|byte| usize::from(*byte)).sum::<usize>(),
            ))
            .unwrap();
        };
        spawn("a-name-that-is-too-long", 256 << 10, Box::new(run)).unwrap();
        assert_eq!(told.recv().unwrap(), ("a-name-that-is-\n".to_owned(), 200 << 10));
    }

    #[test]
    fn a_thread_that_cannot_be_started_is_an_error() {
        let (tell, told) = crossbeam_channel::bounded::<()>(1);
        let error = spawn("huge", usize::MAX / 4, Box::new(move || drop(tell))).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM | libc::EINVAL)), "{error}");
        // What it was to run is gone.
        assert!(told.recv().is_err());
    }
}
