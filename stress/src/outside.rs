//! Observes a process through /proc ([proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html)).

use std::fs;
use std::io;
use std::time::Duration;

/// What a process has used and what it holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all its threads, including threads that have ended.
    pub cpu: Duration,
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub fds: u64,
    /// How many times its current threads have blocked and woken up.
    pub wake_ups: u64,
    /// Memory of the kernel for the whole machine, in KiB: kernel stacks and slabs. The difference of two
    /// readings belongs to the process if nothing else changes on the machine.
    pub kernel_stack_kib: u64,
    /// Slabs of the whole machine, in KiB.
    pub slab_kib: u64,
    /// Available memory of the machine, in KiB.
    pub available_kib: u64,
}

impl Usage {
    /// Reads the figures of a process.
    ///
    /// # Errors
    ///
    /// Returns an error if the process does not exist, or if /proc has unexpected content.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the name in parentheses, which can contain spaces.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        // Fields 14 and 15 of the file, counted from the third one here, in hundredths of a second.
        let cpu = Duration::from_millis((ticks(11) + ticks(12)) * 10);
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let (exact, wake_ups) = threads(pid)?;
        Ok(Self {
            // If threads have ended, their time is missing in the exact sum, and the ticks are larger.
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

    /// Reads the figures of this process.
    ///
    /// # Errors
    ///
    /// Returns an error if /proc has unexpected content.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Returns what was used since `before`, and by how much the held resources have grown; a decrease is 0.
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

/// Returns the CPU time in nanoseconds, which is finer than ticks, and the voluntary context switches: the sums
/// over the current threads. A thread may end during the reading.
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

/// Returns the resident memory according to the page tables. Older kernels count it per thread and leave out what
/// a thread has not added to the process's total yet, which is most of the memory of a thread that does little.
fn resident(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(number_of(&rollup, "Rss:")).filter(|kib| *kib > 0)
}

fn number_of(text: &str, label: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Returns how many datagrams the kernel dropped because the sockets of these UDP ports were full (the last
/// column of /proc/net/udp).
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
