//! A process as seen from outside, through /proc ([proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html)).

use std::fs;
use std::io;
use std::time::Duration;

/// What a process has used, and what it holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all its threads, those that ended included.
    pub cpu: Duration,
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub fds: u64,
    /// What the kernel holds for everybody, in KiB: kernel stacks and slabs. A difference of two
    /// readings is the process's where nothing else changes on the machine.
    pub kernel_stack_kib: u64,
    /// As above.
    pub slab_kib: u64,
    /// What is left for everybody, in KiB.
    pub available_kib: u64,
}

impl Usage {
    /// Reads the numbers of a process.
    ///
    /// # Errors
    ///
    /// The process does not exist, or /proc says something unexpected.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the name in parentheses, which may hold spaces.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        // Fields 14 and 15 of the file, counted from the third here; in hundredths of a second.
        let cpu = Duration::from_millis((ticks(11) + ticks(12)) * 10);
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        Ok(Self {
            cpu: schedstat(pid).map_or(cpu, |exact| exact.max(cpu)),
            rss_kib: resident(pid).unwrap_or_else(|| number_of(&status, "VmRSS:")),
            threads: number_of(&status, "Threads:"),
            fds: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
            kernel_stack_kib: number_of(&memory, "KernelStack:"),
            slab_kib: number_of(&memory, "Slab:"),
            available_kib: number_of(&memory, "MemAvailable:"),
        })
    }
}

/// CPU time in nanoseconds rather than ticks, summed over the live threads. Where threads have ended
/// it is too little, and the ticks say more.
fn schedstat(pid: u32) -> Option<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        total += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(total))
}

/// Resident memory as the page tables have it. Older kernels count it thread by thread, and leave out what a
/// thread has not handed in yet: most of what a thread has that does little.
fn resident(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(number_of(&rollup, "Rss:")).filter(|kib| *kib > 0)
}

fn number_of(text: &str, label: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
