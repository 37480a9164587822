//! What the system lets this process have: descriptors, memory maps, threads.

use std::{fs, io};

use super::cvt;

/// The soft limit on descriptors (RLIMIT_NOFILE); see
/// [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html).
pub(crate) fn fd_limit() -> io::Result<u64> {
    get().map(|limit| limit.rlim_cur)
}

/// Raises the soft limit on descriptors to the hard one and returns it.
pub(crate) fn raise_fd_limit() -> io::Result<u64> {
    let mut limit = get()?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid for reads.
    cvt(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

fn get() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    cvt(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    Ok(limit)
}

/// How many threads this process may hope for: four maps a thread out of `vm.max_map_count`
/// (stack, its guard, the signal stack and its guard), `kernel.threads-max`, `kernel.pid_max` and
/// the control group's `pids.max`, each with something left for everybody else. `None` where
/// /proc says nothing.
pub(crate) fn thread_limit() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let maps = number("/proc/sys/vm/max_map_count").map(|maps| maps.saturating_sub(1024) / 4);
    let threads = number("/proc/sys/kernel/threads-max").map(|most| most - most / 8);
    let pids = number("/proc/sys/kernel/pid_max").map(|most| most - most / 8);
    let group = control_group_pids().map(|most| most.saturating_sub(32));
    [maps, threads, pids, group].into_iter().flatten().min()
}

/// The `pids.max` of this process's control group (version 2), as systemd's TasksMax sets it.
fn control_group_pids() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let most = fs::read_to_string(format!("/sys/fs/cgroup{path}/pids.max")).ok()?;
    most.trim().parse().ok()
}
