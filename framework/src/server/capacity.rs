//! How many peers a server can have, by its limits and by those of the system.

use std::os::fd::{AsFd, AsRawFd};

use crate::admission::Limits;
use crate::error::StartError;
use crate::serve::dispatcher::RESERVED_FDS;
use crate::sys::eventfd::EventFd;
use crate::sys::limits;

/// Checks that the server has the descriptors that it needs, and logs which limit is reached first. `threads` is the
/// number of threads that the system allows, or `None` if peers have no threads; `takes_descriptors` means that some
/// peers have descriptors.
///
/// # Errors
///
/// The limit on descriptors is too low, or cannot be read.
pub(super) fn check(
    limits: &Limits,
    threads: Option<u64>,
    takes_descriptors: bool,
) -> Result<(), StartError> {
    let descriptors = limits::fd_limit().map_err(|source| StartError::Io {
        doing: "asking for the limit on descriptors".to_owned(),
        source,
    })?;
    let lowest_free = match EventFd::new() {
        Ok(probe) => probe.as_fd().as_raw_fd() as u64,
        Err(_) => descriptors,
    };
    let taken = lowest_free + RESERVED_FDS;
    if taken > descriptors {
        return Err(StartError::NoDescriptors { limit: descriptors, needed: taken });
    }
    let room = takes_descriptors.then_some(descriptors - taken + 1);
    let (peers, first) = first_reached(limits.max_peers, threads, room);
    // A local address has room for fewer peers only if they have sockets of their own.
    let per_local_address = takes_descriptors.then_some(limits.max_peers_per_local_address);
    if peers < limits.max_peers as u64 && limits.max_peers != usize::MAX {
        let wanted = limits.max_peers;
        tracing::warn!(
            peers,
            per_local_address,
            wanted,
            "more peers than this are refused because of {first}"
        );
    } else {
        tracing::info!(peers, per_local_address, "more peers than this are refused because of {first}");
    }
    Ok(())
}

/// Returns the lowest of the limits that apply, and its name.
fn first_reached(max_peers: usize, threads: Option<u64>, room: Option<u64>) -> (u64, &'static str) {
    let peers = (max_peers as u64, "the limit on peers (max_peers, --max-peers)");
    let of_system = [
        (threads, "the threads that the system allows (kernel.threads-max, vm.max_map_count, TasksMax)"),
        (room, "the limit on descriptors (ulimit -n)"),
    ];
    let of_system = of_system.into_iter().filter_map(|(limit, name)| Some((limit?, name)));
    of_system.fold(peers, |first, next| if next.0 < first.0 { next } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_limits_that_apply_are_reached() {
        for (limits, peers, name) in [
            ((3, Some(3), Some(3)), 3, "max_peers"),
            ((3, Some(2), Some(2)), 2, "kernel.threads-max"),
            ((3, Some(2), Some(1)), 1, "ulimit"),
            // Peers on event loops need no threads, and those on shared sockets need no descriptors.
            ((3, None, Some(2)), 2, "ulimit"),
            ((3, Some(2), None), 2, "kernel.threads-max"),
            ((usize::MAX, None, None), usize::MAX as u64, "max_peers"),
        ] {
            let (max_peers, threads, room) = limits;
            let (found, why) = first_reached(max_peers, threads, room);
            assert!(found == peers && why.contains(name), "{limits:?}: {found} {why}");
        }
    }
}
