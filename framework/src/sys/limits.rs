//! What the system lets this process have: descriptors, memory maps, threads.

use std::num::NonZero;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{env, fs, io};

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

/// Starts this program anew without glibc's caches of freed memory and of stacks, and with fewer heaps; see
/// [execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html). Comes back where that is no news or does not work.
pub(crate) fn tune_malloc() {
    const NAME: &str = "GLIBC_TUNABLES";
    const CACHES: &str = "glibc.malloc.tcache_count";
    const HEAPS: &str = "glibc.malloc.arena_max";
    const STACKS: &str = "glibc.pthread.stack_cache_size";
    // glibc itself may cut its variable short while it reads it, so that does not tell whether this was done already.
    const DONE: &str = "PEELOFF_MALLOC_TUNED";
    let tunables = env::var(NAME).unwrap_or_default();
    let Ok(program) = env::current_exe() else { return };
    // A program that was started by naming the dynamic linker is that linker.
    let is_linker = program.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld"));
    if env::var_os(DONE).is_some() || tunables.contains(CACHES) || tunables.contains(HEAPS) || is_linker {
        return;
    }
    let heaps = 2 * std::thread::available_parallelism().map_or(1, NonZero::get);
    let others = if tunables.is_empty() { tunables } else { format!(":{tunables}") };
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let _not_started = command
        .args(arguments)
        .env(NAME, format!("{CACHES}=0:{STACKS}=0:{HEAPS}={heaps}{others}"))
        .env(DONE, "1")
        .exec();
}

/// How many threads this process may hope for: two maps a thread out of `vm.max_map_count`
/// (stack and its guard), `kernel.threads-max`, `kernel.pid_max` and
/// the control group's `pids.max`, each with something left for everybody else. `None` where
/// /proc says nothing.
pub(crate) fn thread_limit() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let maps = number("/proc/sys/vm/max_map_count").map(|maps| maps.saturating_sub(1024) / 2);
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
