//! A bounded queue between those who log and standard error, so that nobody who serves a peer waits for a reader.
//!
//! A reader that stops (a full pipe, a terminal that is held, a full disk) blocks the thread `log` alone. Lines that find the
//! queue full are dropped and counted; the next line that gets through is preceded by their number. The crate
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
    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    ///
    /// The system has no thread.
    pub(crate) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (entries, receiver) = bounded(QUEUED_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&receiver, output, &counter))?;
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

fn write_lines(entries: &Receiver<Entry>, mut output: impl Write, lost: &AtomicU64) {
    let mut reported = 0;
    for entry in entries {
        // A failure (a closed standard error) is nothing that could be reported anywhere.
        let _ = match entry {
            Entry::Line(line) => {
                let lost = lost.load(Ordering::Relaxed);
                let dropped = lost - reported;
                reported = lost;
                let notice = match dropped {
                    0 => Ok(()),
                    _ => writeln!(output, "{dropped} lines of this log were dropped because it was not read"),
                };
                notice.and_then(|()| output.write_all(&line))
            }
            Entry::Flushed(done) => {
                let flushed = output.flush();
                let _ = done.try_send(());
                flushed
            }
        };
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn lines_that_find_no_room_are_counted_and_the_log_says_how_many() {
        let (permit, permits) = bounded(0);
        let (written, lines) = crossbeam_channel::unbounded();
        let mut log = LogQueue::start(Held { permits, written }).unwrap();
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
        assert!(text.contains(&format!("{lost} lines of this log were dropped")), "{text}");
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let (written, lines) = crossbeam_channel::unbounded();
        let (_, permits) = bounded(0);
        let mut log = LogQueue::start(Held { permits, written }).unwrap();
        log.write_all(&vec![b'x'; LINE_BYTES + 1]).unwrap();
        log.flush(Duration::from_secs(30));
        let line = lines.try_recv().unwrap();
        assert_eq!(line.len(), LINE_BYTES + 5);
        assert!(line.ends_with(b"x ...\n"));
    }
}
