//! The last reads of a peer whose handler has returned, over memory and with a clock in the test's hand.

use std::time::{Duration, Instant};

use super::{MAX_LAST_READS, MAX_LAST_READS_TIME};
use crate::address::Scheme;
use crate::error::EndReason;
use crate::testing::pair;

/// Returns why the association ended if this many unread messages were queued before the peer's close, and each read
/// took this long.
fn end_behind(scheme: Scheme, messages: usize, a_read_takes: Duration) -> EndReason {
    let (mut peer, remote) = pair(scheme);
    for _ in 0..messages {
        assert!(remote.send("unread"));
    }
    remote.close();
    let mut now = Instant::now();
    peer.look_for_end_by(|| {
        now += a_read_takes;
        now
    });
    // The last reads do not run a second time.
    peer.finish_with(EndReason::ClosedByUs, None)
}

#[test]
fn the_last_reads_of_a_peer_find_its_end_only_within_their_time() {
    let a_read_takes = Duration::from_millis(1);
    let reads = MAX_LAST_READS_TIME.as_millis() as usize;
    for scheme in [Scheme::Dtls, Scheme::Sctp, Scheme::Tcp, Scheme::Tls] {
        // The last read that begins in time finds the end.
        assert_eq!(end_behind(scheme, reads - 1, a_read_takes), EndReason::ClosedByPeer, "{scheme}");
        assert_eq!(end_behind(scheme, reads, a_read_takes), EndReason::ClosedByUs, "{scheme}");
    }
}

#[test]
fn the_number_of_the_last_reads_is_bounded_even_if_they_take_no_time() {
    let end = |messages| end_behind(Scheme::Dtls, messages, Duration::ZERO);
    assert_eq!(end(MAX_LAST_READS - 1), EndReason::ClosedByPeer);
    assert_eq!(end(MAX_LAST_READS), EndReason::ClosedByUs);
}
