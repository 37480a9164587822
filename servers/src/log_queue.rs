//! A bounded queue between those who log and what they log to, so that nobody who serves a peer waits for a reader.
//!
//! A reader that stops (a full pipe, a terminal that is held) blocks the thread of the queue alone. Lines that find the
//! queue full, or that cannot be written, are dropped and counted, and a notice says how many: before the next line that gets through, at most
//! once in an interval, and when the queue ends. The crate tracing-appender does nearly this, but its guard prints to standard output when it finds the queue full at the end,
//! which waits for a reader again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

/// Lines that wait at most.
const QUEUED_LINES: usize = 4096;
/// Bytes of a line at most; what is longer is cut.
const LINE_BYTES: usize = 8 << 10;

/// Takes whole lines and never blocks.
#[derive(Clone)]
pub(crate) struct LogQueue {
    entries: Sender<Entry>,
    lost: Lost,
}

/// Lines that were dropped: by this queue, and by all that count together with it.
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

/// Says how many lines were dropped, and why the last one of them was if it could not be written. It may write that to the output.
pub(crate) type Notice = dyn Fn(u64, Option<&io::Error>, &mut dyn Write) -> io::Result<()> + Send;

enum Entry {
    Line(Vec<u8>),
    /// Everything before this has been written.
    Flushed(Sender<()>),
}

impl LogQueue {
    /// Starts the thread `name`, which writes to `output` and adds to `total` what it cannot. `notice` is called on that thread, at most
    /// once in `interval`.
    ///
    /// # Errors
    ///
    /// The system has no thread.
    pub(crate) fn start(
        name: &str,
        output: impl Write + Send + 'static,
        total: Arc<AtomicU64>,
        interval: Duration,
        notice: Box<Notice>,
    ) -> io::Result<Self> {
        let (entries, receiver) = bounded(QUEUED_LINES);
        let lost = Lost { here: Arc::default(), total };
        let (told, error) = (0, None);
        let writer = Writer { output, lost: lost.clone(), told, error, interval, quiet_until: None, notice };
        thread::Builder::new().name(name.to_owned()).spawn(move || writer.run(&receiver))?;
        Ok(Self { entries, lost })
    }

    /// Lines that were dropped since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.total.load(Ordering::Relaxed)
    }

    /// Waits until everything that was logged before is written, at most for `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let (done, flushed) = bounded(1);
        if self.entries.send_timeout(Entry::Flushed(done), patience).is_ok() {
            // An error says that time is up, and then nobody reads.
            let _ = flushed.recv_timeout(patience);
        }
    }
}

impl Write for LogQueue {
    /// Takes one whole line.
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
    /// How many of the lost lines notices have spoken of.
    told: u64,
    /// Why the last line that could not be written could not.
    error: Option<io::Error>,
    interval: Duration,
    /// When the next notice may come.
    quiet_until: Option<Instant>,
    notice: Box<Notice>,
}

impl<W: Write> Writer<W> {
    fn run(mut self, entries: &Receiver<Entry>) {
        loop {
            // Where some are lost and not told, and no other line comes, the end of the interval is waited for.
            let entry = match self.quiet_until.filter(|_| self.untold() > 0) {
                Some(until) => entries.recv_deadline(until),
                None => entries.recv().map_err(RecvTimeoutError::from),
            };
            match entry {
                Ok(Entry::Line(line)) => {
                    self.tell_in_time();
                    // A closed standard error, or a full disk.
                    if let Err(error) = self.output.write_all(&line) {
                        self.lost.add();
                        self.error = Some(error);
                        self.tell_in_time();
                    }
                }
                Ok(Entry::Flushed(done)) => {
                    self.tell();
                    // A failure is nothing that could be reported anywhere.
                    let _ = self.output.flush();
                    let _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => self.tell_in_time(),
                Err(RecvTimeoutError::Disconnected) => return self.tell(),
            }
        }
    }

    fn untold(&self) -> u64 {
        self.lost.here.load(Ordering::Relaxed) - self.told
    }

    fn tell_in_time(&mut self) {
        if self.quiet_until.is_none_or(|until| until <= Instant::now()) {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let untold = self.untold();
        if untold == 0 {
            return;
        }
        // Where it cannot be told, it is tried again with the next line.
        self.quiet_until = None;
        if (self.notice)(untold, self.error.as_ref(), &mut self.output).is_ok() {
            self.told += untold;
            self.error = None;
            self.quiet_until = Instant::now().checked_add(self.interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// Writes that wait until they are allowed.
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
        // One more than the queue holds may be in the hands of the writer.
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

    /// A disk that is full, until it is not.
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
        let (tell, told) = crossbeam_channel::unbounded();
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
        // As when the file is opened again.
        drop(log);
        let full = Some(io::ErrorKind::StorageFull);
        assert_eq!(told.iter().collect::<Vec<_>>(), [(1, full), (99, full)]);
        assert_eq!(total.load(Ordering::SeqCst), 107);
    }
}
