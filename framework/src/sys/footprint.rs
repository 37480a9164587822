//! Releases memory that a quiet association does not need: OpenSSL's, and that of its thread's stack.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;

unsafe extern "C" {
    fn OPENSSL_thread_stop();
}

/// Calls [OPENSSL_thread_stop(3)](https://docs.openssl.org/3.0/man3/OPENSSL_init_crypto/), which frees what OpenSSL
/// keeps for the calling thread, mainly its two random generators. OpenSSL creates them again when they are needed.
pub(crate) fn stop_thread() {
    // SAFETY: the call frees only this thread's data, and no OpenSSL call is under way on this thread.
    unsafe { OPENSSL_thread_stop() };
}

/// Calls [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html) with MADV_DONTNEED on the complete pages
/// between two addresses. The caller ensures that their content is not needed.
fn release_pages(start: usize, end: usize) {
    let page = page_size();
    let (start, end) = (start.next_multiple_of(page), end / page * page);
    if start < end {
        // SAFETY: this is private memory of the process whose content is not needed, as the callers ensure. It stays
        // mapped and becomes zeros. After a failure (locked memory) it is unchanged.
        unsafe { libc::madvise(ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
    }
}

/// Returns free heap memory to the system, which glibc would keep for later allocations;
/// [malloc_trim(3)](https://man7.org/linux/man-pages/man3/malloc_trim.3.html).
pub(crate) fn trim_heap() {
    // SAFETY: the call does not touch memory that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

fn page_size() -> usize {
    // SAFETY: the call only reads.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Releases the pages of the calling thread's stack below the current frame, which earlier and deeper calls have used:
/// a handshake uses more stack than anything after it.
pub(crate) fn release_stack() {
    if let Some(stack) = stack() {
        release_below(&stack);
    }
}

/// Releases the stack below the caller.
// Not inlined, so that below `here` there are only the rest of this frame, which holds almost nothing, the frame of
// madvise(2), which is a system call and a check of its result, and the red zone of 128 bytes.
#[inline(never)]
fn release_below(stack: &Range<usize>) {
    const MARGIN: usize = 512;
    let here = 0_u8;
    let here = (&raw const here).addr();
    // The caller may run on a stack of its own.
    if stack.contains(&here) {
        release_pages(stack.start, here - MARGIN);
    }
}

/// Returns the calling thread's stack, without its guard;
/// [pthread_getattr_np(3)](https://man7.org/linux/man-pages/man3/pthread_getattr_np.3.html).
fn stack() -> Option<Range<usize>> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut start, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the attributes are filled before they are used and destroyed once.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        let known = libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        (known == 0).then(|| start.addr()..start.addr() + size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of this process that are resident around an address.
    fn resident(start: usize, len: usize) -> usize {
        let page = page_size();
        let (start, pages) = (start.next_multiple_of(page), len / page - 1);
        let mut state = vec![0_u8; pages];
        // SAFETY: `state` has a byte for each page.
        let known =
            unsafe { libc::mincore(ptr::without_provenance_mut(start), pages * page, state.as_mut_ptr()) };
        assert_eq!(known, 0);
        state.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn released_memory_reads_as_zeroes_and_its_surroundings_stay() {
        let memory = vec![7_u8; 5 * page_size()];
        let start = memory.as_ptr().addr();
        release_pages(start + 100, start + 4 * page_size());
        let zeroes = memory.iter().filter(|byte| **byte == 0).count();
        assert!((2 * page_size()..=4 * page_size()).contains(&zeroes), "{zeroes}");
        assert!(memory[..100].iter().all(|byte| *byte == 7));
        assert_eq!(memory[4 * page_size()..].iter().filter(|byte| **byte == 0).count(), 0);
    }

    #[test]
    fn memory_in_use_stays_wherever_the_page_ends() {
        /// Each call is some bytes further down; the results come back through all of their frames.
        #[inline(never)]
        fn further(calls: u64) -> u64 {
            let kept = std::hint::black_box([calls; 3]);
            release_stack();
            let below = if calls == 0 { 0 } else { further(calls - 1) };
            std::hint::black_box(&kept).iter().sum::<u64>() + below
        }
        let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(|| {
            const CALLS: u64 = 400;
            assert_eq!(further(CALLS), 3 * CALLS * (CALLS + 1) / 2);
        });
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn the_stack_below_is_given_back_and_can_be_used_again() {
        #[inline(never)]
        fn deep(rounds: u32) -> usize {
            let room = [1_u8; 32 << 10];
            let all = std::hint::black_box(&room).iter().map(|byte| usize::from(*byte)).sum::<usize>();
            if rounds == 0 { all } else { all + deep(rounds - 1) }
        }
        let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(|| {
            let (stack, local) = (stack().unwrap(), 0_u8);
            if !stack.contains(&(&raw const local).addr()) {
                eprintln!("SKIPPED: variables are not on the stack where AddressSanitizer keeps them");
                return;
            }
            let low = stack.start;
            assert_eq!(deep(3), 4 * (32 << 10));
            let before = resident(low, 128 << 10);
            release_stack();
            let after = resident(low, 128 << 10);
            assert!(after < before, "{before} {after}");
            assert_eq!(deep(3), 4 * (32 << 10));
        });
        thread.unwrap().join().unwrap();
    }
}
