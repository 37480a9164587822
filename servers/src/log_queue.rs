//! A bounded queue between those who log and what they log to, so that nobody who serves a peer waits for a reader.
//!
//! A reader that stops (a full pipe, a terminal that is held) blocks the thread of the queue alone. Lines that find the
//! queue full, or that cannot be written, are dropped and counted; the next line that gets through is preceded by their number. The crate
//! tracing-appender does nearly this, but its guard prints to standard output when it finds the queue full at the end,
//! which waits for a reader again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// Lines that wait at most.
const QUEUED_LINES: usize = 4096;
/// Bytes of a line at most; what is longer is cut.
const LINE_BYTES: usize = 8 << 10;

/// Takes whole lines and never blocks.
#[derive(Clone)]
pub(crate) struct LogQueue {
    entries: Sender<Entry>,
    lost: Arc<AtomicU64>,
}

enum Entry {
    Line(Vec<u8>),
    /// Everything before this has been written.
    Flushed(Sender<()>),
}

impl LogQueue {
    /// Starts the thread `name`, which writes to `output` and counts in `lost` what it cannot. `notice` is called with the
    /// number of lines that were dropped, before the next line that is not.
    ///
    /// # Errors
    ///
    /// The system has no thread.
    pub(crate) fn start(
        name: &str,
        output: impl Write + Send + 'static,
        lost: Arc<AtomicU64>,
        notice: impl Fn(u64, &mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (entries, receiver) = bounded(QUEUED_LINES);
        let (counter, reported) = (Arc::clone(&lost), lost.load(Ordering::Relaxed));
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || write_lines(&receiver, output, &counter, reported, notice))?;
        Ok(Self { entries, lost })
    }

    /// Lines that were dropped since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
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
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(
    entries: &Receiver<Entry>,
    mut output: impl Write,
    lost: &AtomicU64,
    mut reported: u64,
    notice: impl Fn(u64, &mut dyn Write) -> io::Result<()>,
) {
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                let dropped = lost.load(Ordering::Relaxed) - reported;
                let noted = if dropped == 0 { Ok(()) } else { notice(dropped, &mut output) };
                if noted.is_ok() {
                    reported += dropped;
                }
                // A closed standard error, or a full disk.
                if noted.and_then(|()| output.write_all(&line)).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Entry::Flushed(done) => {
                // A failure is nothing that could be reported anywhere.
                let _ = output.flush();
                let _ = done.try_send(());
            }
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
        let notice = |lost, output: &mut dyn Write| writeln!(output, "{lost} lines were dropped");
        LogQueue::start("log", output, Arc::default(), notice).unwrap()
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
}
