//! Limits of the system for this process: descriptors, memory maps, threads.

use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{env, fs, io};

use super::cvt;
use super::eventfd::EventFd;

/// Returns the soft limit on descriptors (RLIMIT_NOFILE); see
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

/// Returns whether this process can open `wanted` more descriptors.
pub(crate) fn has_descriptors(wanted: u64) -> bool {
    // The kernel assigns the lowest free number.
    let Ok(probe) = EventFd::new() else { return false };
    fd_limit().is_ok_and(|limit| probe.as_fd().as_raw_fd() as u64 + wanted <= limit)
}

fn get() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    cvt(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    Ok(limit)
}

/// Executes this program again without glibc's caches of freed memory and of stacks, with smaller threads and fewer
/// heaps; see [execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html). Returns if that has been done already
/// or is not possible.
pub(crate) fn tune_malloc() {
    const CACHES: &str = "glibc.malloc.tcache_count";
    const HEAPS: &str = "glibc.malloc.arena_max";
    const STACKS: &str = "glibc.pthread.stack_cache_size";
    // Reserves room at the top of each stack for libraries that are loaded later: for one name space instead of four,
    // and 128 bytes instead of 512.
    const LOADED_LATER: &str = "glibc.rtld.nns=1:glibc.rtld.optional_static_tls=128";
    let tunables = env::var(TUNABLES).unwrap_or_default();
    let Ok(program) = env::current_exe() else { return };
    // If the program was started by naming the dynamic linker, the executable is the linker.
    let is_linker = program.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld"));
    match env::var(DONE) {
        // Any other text was set by the user, to prevent this.
        Ok(theirs) if theirs.is_empty() || theirs.starts_with(':') => return forget_tunables(&theirs),
        Ok(_) | Err(env::VarError::NotUnicode(_)) => return,
        Err(env::VarError::NotPresent) => {}
    }
    if tunables.contains(CACHES) || tunables.contains(HEAPS) || is_linker {
        return;
    }
    let heaps = 2 * std::thread::available_parallelism().map_or(1, NonZero::get);
    let ours = format!("{CACHES}=0:{STACKS}=0:{LOADED_LATER}:{HEAPS}={heaps}");
    let theirs = if tunables.is_empty() { tunables } else { format!(":{tunables}") };
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let _not_started =
        command.args(arguments).env(TUNABLES, format!("{ours}{theirs}")).env(DONE, theirs).exec();
}

/// The variable that glibc reads when a program starts.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Records that the program was executed again, and with which other tunables, each after a colon. glibc may truncate
/// its own variable while it reads it, so that one is not sufficient.
const DONE: &str = "PEELOFF_MALLOC_TUNED";

/// Removes our tunables from the environment, because they are not meant for programs that this one starts.
fn forget_tunables(theirs: &str) {
    // Another thread might read the environment at the same time.
    if fs::read_dir("/proc/self/task").map_or(0, Iterator::count) != 1 {
        return;
    }
    // SAFETY: this process has only this thread.
    unsafe {
        match theirs.strip_prefix(':') {
            Some(theirs) => env::set_var(TUNABLES, theirs),
            None => env::remove_var(TUNABLES),
        }
        env::remove_var(DONE);
    }
}

/// Returns how many threads this process can presumably start. The limits are two maps per thread out of
/// `vm.max_map_count` (stack and guard), `kernel.threads-max`, `kernel.pid_max` and the control group's `pids.max`,
/// each minus a reserve for other uses. Returns `None` if /proc has no values.
pub(crate) fn thread_limit() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let maps = number("/proc/sys/vm/max_map_count").map(|maps| maps.saturating_sub(1024) / 2);
    let threads = number("/proc/sys/kernel/threads-max").map(|most| most - most / 8);
    let pids = number("/proc/sys/kernel/pid_max").map(|most| most - most / 8);
    let group = control_group_pids().map(|most| most.saturating_sub(32));
    [maps, threads, pids, group].into_iter().flatten().min()
}

/// Returns the `pids.max` of this process's control group (version 2), which systemd's TasksMax sets.
fn control_group_pids() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let most = fs::read_to_string(format!("/sys/fs/cgroup{path}/pids.max")).ok()?;
    most.trim().parse().ok()
}
