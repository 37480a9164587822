//! A bounded queue between threads that log and the log's destination, so that no thread that serves peers waits
//! for a reader.
//!
//! If the reader stops (a full pipe, a stopped terminal), only the queue's thread blocks. Lines that find the
//! queue full, or that cannot be written, are dropped and counted. A notice with their number is written before the
//! next line that can be written, at most once in an interval, and when the queue ends. The crate tracing-appender
//! does nearly the same, but if the queue is full at the end, its guard prints to standard output, which waits for a
//! reader again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

/// The largest number of lines that wait.
const QUEUED_LINES: usize = 4096;
/// The largest number of bytes of a line; longer lines are cut.
const LINE_BYTES: usize = 8 << 10;

/// Accepts whole lines, and never blocks.
#[derive(Clone)]
pub(crate) struct LogQueue {
    entries: Sender<Entry>,
    lost: Lost,
}

/// The numbers of dropped lines: of this queue, and of all queues that share the total.
#[derive(Clone)]
struct Lost {
    here: Arc<AtomicU64>,
    total: Arc<AtomicU64>,
}

impl Lost {
    fn add(&self) {
        self.here.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reports how many lines were dropped, and why the last one of them could not be written, if that was the
/// reason. It may write to the output.
pub(crate) type Notice = dyn Fn(u64, Option<&io::Error>, &mut dyn Write) -> io::Result<()> + Send;

enum Entry {
    Line(Vec<u8>),
    /// Asks for an answer once everything before this entry has been written.
    Flushed(Sender<()>),
}

impl LogQueue {
    /// Starts the thread `name`, which writes to `output` and adds to `total` the lines that it cannot write. The
    /// thread calls `notice`, at most once in `interval`.
    ///
    /// # Errors
    ///
    /// Returns an error if no thread can be started.
    pub(crate) fn start(
        name: &str,
        output: impl Write + Send + 'static,
        total: Arc<AtomicU64>,
        interval: Duration,
        notice: Box<Notice>,
    ) -> io::Result<Self> {
        let (entries, receiver) = bounded(QUEUED_LINES);
        let lost = Lost { here: Arc::default(), total };
        let (reported, error) = (0, None);
        let writer =
            Writer { output, lost: lost.clone(), reported, error, interval, quiet_until: None, notice };
        thread::Builder::new().name(name.to_owned()).spawn(move || writer.run(&receiver))?;
        Ok(Self { entries, lost })
    }

    /// Returns the number of lines that were dropped since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.total.load(Ordering::Relaxed)
    }

    /// Waits until everything logged before has been written, for `patience` at most.
    pub(crate) fn flush(&self, patience: Duration) {
        let (done, flushed) = bounded(1);
        if self.entries.send_timeout(Entry::Flushed(done), patience).is_ok() {
            // An error means that the time has passed, so nobody reads the log.
            let _ = flushed.recv_timeout(patience);
        }
    }
}

impl Write for LogQueue {
    /// Accepts one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut kept = line[..line.len().min(LINE_BYTES)].to_vec();
        if kept.len() < line.len() {
            kept.extend_from_slice(b" ...\n");
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.entries.try_send(Entry::Line(kept))
        {
            self.lost.add();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread of a queue.
struct Writer<W> {
    output: W,
    lost: Lost,
    /// How many of the lost lines have been reported.
    reported: u64,
    /// The error of the last line that could not be written.
    error: Option<io::Error>,
    interval: Duration,
    /// When the next notice is allowed.
    quiet_until: Option<Instant>,
    notice: Box<Notice>,
}

impl<W: Write> Writer<W> {
    fn run(mut self, entries: &Receiver<Entry>) {
        loop {
            // If unreported lines are lost and no other line arrives, report them at the end of the interval.
            let entry = match self.quiet_until.filter(|_| self.unreported() > 0) {
                Some(until) => entries.recv_deadline(until),
                None => entries.recv().map_err(RecvTimeoutError::from),
            };
            match entry {
                Ok(Entry::Line(line)) => {
                    self.report_if_due();
                    // Standard error is closed, or the disk is full.
                    if let Err(error) = self.output.write_all(&line) {
                        self.lost.add();
                        self.error = Some(error);
                        self.report_if_due();
                    }
                }
                Ok(Entry::Flushed(done)) => {
                    self.report();
                    // A failure cannot be reported anywhere.
                    let _ = self.output.flush();
                    let _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => self.report_if_due(),
                Err(RecvTimeoutError::Disconnected) => return self.report(),
            }
        }
    }

    fn unreported(&self) -> u64 {
        self.lost.here.load(Ordering::Relaxed) - self.reported
    }

    fn report_if_due(&mut self) {
        if self.quiet_until.is_none_or(|until| until <= Instant::now()) {
            self.report();
        }
    }

    fn report(&mut self) {
        let unreported = self.unreported();
        if unreported == 0 {
            return;
        }
        // If the notice cannot be written, the next line tries again.
        self.quiet_until = None;
        if (self.notice)(unreported, self.error.as_ref(), &mut self.output).is_ok() {
            self.reported += unreported;
            self.error = None;
            self.quiet_until = Instant::now().checked_add(self.interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// A writer whose writes wait until they are allowed.
    struct Held {
        permits: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.permits.recv();
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(output: impl Write + Send + 'static) -> LogQueue {
        let notice = |lost, _: Option<&io::Error>, output: &mut dyn Write| {
            writeln!(output, "{lost} lines were dropped")
        };
        LogQueue::start("log", output, Arc::default(), Duration::ZERO, Box::new(notice)).unwrap()
    }

    #[test]
    fn lines_that_find_no_room_are_counted_and_the_log_says_how_many() {
        let (permit, permits) = bounded(0);
        let (written, lines) = crossbeam_channel::unbounded();
        let mut log = start(Held { permits, written });
        // The writer may hold one line in addition to those in the queue.
        for _ in 0..QUEUED_LINES + 10 {
            log.write_all(b"line\n").unwrap();
        }
        let lost = log.lost();
        assert!((9..=10).contains(&lost), "{lost}");
        log.flush(Duration::from_millis(1));
        drop(permit);
        log.flush(Duration::from_secs(30));
        let written: Vec<_> = lines.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        let text = written.concat();
        assert_eq!(text.matches("line\n").count() as u64, QUEUED_LINES as u64 + 10 - lost);
        assert!(text.contains(&format!("{lost} lines were dropped")), "{text}");
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let (written, lines) = crossbeam_channel::unbounded();
        let (_, permits) = bounded(0);
        let mut log = start(Held { permits, written });
        log.write_all(&vec![b'x'; LINE_BYTES + 1]).unwrap();
        log.flush(Duration::from_secs(30));
        let line = lines.try_recv().unwrap();
        assert_eq!(line.len(), LINE_BYTES + 5);
        assert!(line.ends_with(b"x ...\n"));
    }

    /// A disk that is full until it is changed.
    struct Disk {
        is_full: Arc<AtomicBool>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.is_full.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_log_says_how_many_when_it_can() {
        let (written, lines) = crossbeam_channel::unbounded();
        let is_full = Arc::new(AtomicBool::new(true));
        let mut log = start(Disk { is_full: Arc::clone(&is_full), written });
        for _ in 0..3 {
            log.write_all(b"line\n").unwrap();
        }
        log.flush(Duration::from_secs(30));
        assert_eq!(log.lost(), 3);
        is_full.store(false, Ordering::SeqCst);
        log.write_all(b"line\n").unwrap();
        log.flush(Duration::from_secs(30));
        let text: Vec<_> = lines.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        assert_eq!(text.concat(), "3 lines were dropped\nline\n");
    }
    #[test]
    fn a_disk_that_stays_full_is_told_of_once_in_an_interval_and_at_the_end() {
        let (written, _lines) = crossbeam_channel::unbounded();
        let (tell, reported) = crossbeam_channel::unbounded();
        let notice = move |lost, error: Option<&io::Error>, _: &mut dyn Write| {
            let _ = tell.send((lost, error.map(io::Error::kind)));
            Ok(())
        };
        let total = Arc::new(AtomicU64::new(7));
        let disk = Disk { is_full: Arc::new(AtomicBool::new(true)), written };
        let hour = Duration::from_secs(3600);
        let mut log = LogQueue::start("log", disk, Arc::clone(&total), hour, Box::new(notice)).unwrap();
        for _ in 0..100 {
            log.write_all(b"line\n").unwrap();
        }
        // This is what happens when the file is opened again.
        drop(log);
        let full = Some(io::ErrorKind::StorageFull);
        assert_eq!(reported.iter().collect::<Vec<_>>(), [(1, full), (99, full)]);
        assert_eq!(total.load(Ordering::SeqCst), 107);
    }
}
