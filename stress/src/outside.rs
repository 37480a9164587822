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
    /// Times that its live threads gave the processor away to wait, and came back.
    pub wake_ups: u64,
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
        let (exact, wake_ups) = threads(pid)?;
        Ok(Self {
            // Where threads have ended their sum is too little, and the ticks say more.
            cpu: exact.max(cpu),
            rss_kib: resident(pid).unwrap_or_else(|| number_of(&status, "VmRSS:")),
            threads: number_of(&status, "Threads:"),
            fds: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
            wake_ups,
            kernel_stack_kib: number_of(&memory, "KernelStack:"),
            slab_kib: number_of(&memory, "Slab:"),
            available_kib: number_of(&memory, "MemAvailable:"),
        })
    }

    /// Reads those of this process.
    ///
    /// # Errors
    ///
    /// /proc says something unexpected.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// What was used since `before`, and what has come to be held since; what has become less is 0.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            rss_kib: self.rss_kib.saturating_sub(before.rss_kib),
            threads: self.threads.saturating_sub(before.threads),
            fds: self.fds.saturating_sub(before.fds),
            wake_ups: self.wake_ups.saturating_sub(before.wake_ups),
            kernel_stack_kib: self.kernel_stack_kib.saturating_sub(before.kernel_stack_kib),
            slab_kib: self.slab_kib.saturating_sub(before.slab_kib),
            available_kib: before.available_kib.saturating_sub(self.available_kib),
        }
    }
}

/// CPU time in nanoseconds rather than ticks, and voluntary switches, each the sum over the live threads. A thread
/// may end while they are read.
fn threads(pid: u32) -> io::Result<(Duration, u64)> {
    let (mut nanoseconds, mut switches) = (0, 0);
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let schedule = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        nanoseconds +=
            schedule.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        switches += number_of(&status, "voluntary_ctxt_switches:");
    }
    Ok((Duration::from_nanos(nanoseconds), switches))
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

/// How many datagrams the kernel dropped because the sockets of these UDP ports were full (the last column of /proc/net/udp).
pub fn dropped(ports: &[u16]) -> u64 {
    let of_line = |line: &str| -> Option<u64> {
        let mut fields = line.split_whitespace();
        let port = u16::from_str_radix(fields.nth(1)?.rsplit_once(':')?.1, 16).ok()?;
        fields.next_back()?.parse().ok().filter(|_| ports.contains(&port))
    };
    let tables =
        ["/proc/net/udp", "/proc/net/udp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).filter_map(of_line).sum()
}
