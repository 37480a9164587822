//! Memory that a quiet association can do without: of OpenSSL's, and of its thread's stack.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;

use foreign_types::ForeignTypeRef;
use libc::{c_int, c_void};
use openssl::ssl::SslRef;
use openssl_sys as ffi;

type OnMessage = extern "C" fn(c_int, c_int, c_int, *const c_void, usize, *mut ffi::SSL, *mut c_void);

unsafe extern "C" {
    fn OPENSSL_thread_stop();
    fn SSL_set_msg_callback(ssl: *mut ffi::SSL, callback: Option<OnMessage>);
}

/// [OPENSSL_thread_stop(3)](https://docs.openssl.org/3.0/man3/OPENSSL_init_crypto/): frees what OpenSSL keeps for the
/// calling thread, above all its two random generators. It makes them anew when they are needed.
pub(crate) fn stop_thread() {
    // SAFETY: it frees what is this thread's and no call of OpenSSL's is under way on it.
    unsafe { OPENSSL_thread_stop() };
}

/// Bytes that the buffer has at least: SSL3_RT_MAX_PLAIN_LENGTH, which the state machine of OpenSSL 3 grows it to when a
/// handshake begins.
const HANDSHAKE_BUFFER: usize = 16_384;

/// Where a session of DTLS puts handshake messages together. OpenSSL frees that of a TLS session at the end of the
/// handshake and keeps that of a DTLS session, in case it has to send its last flight again, for which it writes the
/// buffer anew before it reads it (`dtls1_retransmit_message`).
pub(crate) struct HandshakeBuffer(usize);

thread_local! {
    /// The buffer of the last handshake message that came in on this thread, and of the last that went out.
    static SEEN: Cell<[usize; 2]> = const { Cell::new([0; 2]) };
}

impl HandshakeBuffer {
    /// Begins to look for the buffer of a DTLS session, which is to run its handshake on this thread; by
    /// [SSL_set_msg_callback(3)](https://docs.openssl.org/3.0/man3/SSL_CTX_set_msg_callback/).
    pub(crate) fn look_for(ssl: &SslRef) {
        extern "C" fn note(
            outgoing: c_int,
            _version: c_int,
            content_type: c_int,
            buffer: *const c_void,
            _len: usize,
            _ssl: *mut ffi::SSL,
            _argument: *mut c_void,
        ) {
            const HANDSHAKE: c_int = 22;
            if content_type == HANDSHAKE {
                let mut seen = SEEN.get();
                seen[usize::from(outgoing == 1)] = buffer.addr();
                SEEN.set(seen);
            }
        }
        SEEN.set([0; 2]);
        // SAFETY: `ssl` is live; the callback is a function for good and touches nothing of OpenSSL's.
        unsafe { SSL_set_msg_callback(ssl.as_ptr(), Some(note)) };
    }

    /// The buffer, at the end of the handshake. `None` where OpenSSL's two sides of it, reading and writing, do not agree
    /// on where it is, or where this OpenSSL is one whose buffer is not known.
    pub(crate) fn found(ssl: &SslRef) -> Option<Self> {
        // SAFETY: `ssl` is live; it is to call nobody any more.
        unsafe { SSL_set_msg_callback(ssl.as_ptr(), None) };
        let [incoming, outgoing] = SEEN.take();
        let known = openssl::version::number() >> 28 == 3;
        (known && incoming == outgoing && incoming != 0).then_some(Self(incoming))
    }

    /// Gives the memory back to the kernel, whole pages of it; it reads as zeroes from then on. `ssl` is the session that it
    /// was found with.
    pub(crate) fn release(self, ssl: &SslRef) {
        let _alive = ssl;
        release_pages(self.0, self.0 + HANDSHAKE_BUFFER);
    }
}

/// [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html) with MADV_DONTNEED on the whole pages between two
/// addresses. The caller answers for nobody needing what is there.
fn release_pages(start: usize, end: usize) {
    let page = page_size();
    let (start, end) = (start.next_multiple_of(page), end / page * page);
    if start < end {
        // SAFETY: private memory of this process that holds nothing of worth, as the callers say. It stays mapped and becomes
        // zeroes. A failure (locked memory) leaves it as it is.
        unsafe { libc::madvise(ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
    }
}

/// Gives back the free memory of the heap, which glibc would keep for allocations to come;
/// [malloc_trim(3)](https://man7.org/linux/man-pages/man3/malloc_trim.3.html).
pub(crate) fn trim_heap() {
    // SAFETY: it touches nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

fn page_size() -> usize {
    // SAFETY: the call only reads.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Gives back the pages of the calling thread's stack that it does not stand on, which earlier and deeper calls have left:
/// a handshake's go deeper than all that follows.
pub(crate) fn release_stack() {
    let here = 0_u8;
    // Below what this function and its callees may stand on, and the red zone.
    const MARGIN: usize = 1024;
    let here = (&raw const here).addr();
    // A caller may have brought a stack of its own.
    if let Some(stack) = stack().filter(|stack| stack.contains(&here)) {
        release_pages(stack.start, here - MARGIN);
    }
}

/// The calling thread's stack, without its guard;
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
    use crate::credentials::{Credentials, Identity};
    use crate::session::context::{self, ClientCredentials, Protocol};
    use crate::session::dtls::Read;
    use crate::session::engine::{Engine, Framing};

    /// Both sides of a handshake in memory; the server's is complete.
    fn shake_hands() -> (Engine, Engine, Option<HandshakeBuffer>) {
        let server =
            Credentials { identities: vec![Identity::self_signed().unwrap()], ..Credentials::default() };
        let server = context::server(&server, Protocol::Dtls).unwrap();
        let client = ClientCredentials { accept_any: true, ..ClientCredentials::default() };
        let client = context::client(&client, Protocol::Dtls).unwrap();
        let mut client = Engine::connect(&client, None, Framing::Datagrams).unwrap();
        let mut server = Engine::accept(&server, Framing::Datagrams).unwrap();
        HandshakeBuffer::look_for(server.ssl());
        let mut complete = [false; 2];
        while complete != [true; 2] {
            complete[0] = client.step().unwrap();
            pass_on(&mut client, &mut server);
            complete[1] = server.step().unwrap();
            pass_on(&mut server, &mut client);
        }
        let found = HandshakeBuffer::found(server.ssl());
        (client, server, found)
    }

    fn pass_on(from: &mut Engine, to: &mut Engine) {
        from.take_outgoing().iter().for_each(|datagram| to.feed(datagram));
    }

    fn exchange(from: &mut Engine, to: &mut Engine) {
        let mut buffer = [0; 64];
        from.write(b"still here").unwrap();
        pass_on(from, to);
        assert!(matches!(to.read(&mut buffer), Read::Message(10)));
        assert_eq!(&buffer[..10], b"still here");
    }

    #[test]
    fn a_session_lives_on_without_its_handshake_buffer() {
        let (mut client, mut server, found) = shake_hands();
        let found = found.expect("the buffer of this OpenSSL is not where that of OpenSSL 3 is");
        let start = found.0;
        // SAFETY: the buffer is there for as long as its session.
        let whole = |at: usize| unsafe { ptr::with_exposed_provenance::<u8>(at).read() };
        // The header of the server's last message, Finished (RFC 5246 §7.4.9).
        assert_eq!(whole(start), 20);
        let middle = start.next_multiple_of(page_size());
        found.release(server.ssl());
        assert!((middle..start + HANDSHAKE_BUFFER - page_size()).all(|at| whole(at) == 0));
        exchange(&mut client, &mut server);
        exchange(&mut server, &mut client);
        server.close();
        pass_on(&mut server, &mut client);
        assert!(matches!(client.read(&mut [0; 64]), Read::Closed));
    }

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
