//! Lines that wait for stderr, and the thread that writes them.
//!
//! A line is lost and counted if the queue is full; the count is reported at its place in the log
//! when there is space again. Only the writing thread ever waits for stderr.

use std::cell::RefCell;
use std::io::{ErrorKind, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maximum size of the waiting lines, in bytes. The lines being written need the same again.
const MAX_WAITING: usize = 1 << 20;
/// Pause before the next attempt to write to a full non-blocking stderr.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

thread_local! {
    /// Lines that the writing thread itself logs: they follow what it has just written.
    static OWN_LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// The queue in front of stderr.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Lines lost since `lines` was last taken.
    lost: u64,
    /// The thread has something to do besides `lines`.
    is_woken: bool,
    is_writing: bool,
}

impl Queue {
    /// Adds a line. It never waits for the reader.
    pub(super) fn push(&self, line: &[u8]) {
        let is_own = OWN_LINES.with_borrow_mut(|own| {
            own.as_mut()
                .map(|own| own.extend_from_slice(line))
                .is_some()
        });
        if is_own {
            return;
        }
        let mut state = self.lock();
        // After a lost line, all are lost until `lines` is taken, so the count has one place.
        if state.lost > 0 || state.lines.len() + line.len() > MAX_WAITING {
            state.lost += 1;
            return;
        }
        state.lines.extend_from_slice(line);
        self.changed.notify_one();
    }

    /// Makes the thread run its periodic work soon.
    pub(super) fn wake(&self) {
        self.lock().is_woken = true;
        self.changed.notify_one();
    }

    /// Writes lines as they arrive, for ever. After each batch `lost` is called with the number of
    /// lines that were lost after it, if there are any; then `periodic`, which returns the time
    /// until its next call. Both may log.
    pub(super) fn run(
        &self,
        mut out: impl Write,
        mut lost: impl FnMut(u64),
        mut periodic: impl FnMut() -> Option<Duration>,
    ) {
        OWN_LINES.set(Some(Vec::new()));
        let (mut batch, mut pause) = (Vec::new(), None);
        loop {
            let lost_lines = self.take(&mut batch, pause);
            write_all(&mut out, &batch);
            if lost_lines > 0 {
                lost(lost_lines);
            }
            pause = periodic();
            let mut own = OWN_LINES.replace(Some(Vec::new())).unwrap_or_default();
            write_all(&mut out, &own);
            own.clear();
            OWN_LINES.set(Some(own));
            self.lock().is_writing = false;
            self.written.notify_all();
        }
    }

    /// Waits until all lines are written, at most `timeout`.
    pub(super) fn wait_until_written(&self, timeout: Duration) {
        let pending = |state: &mut State| state.is_writing || !state.lines.is_empty();
        // The process ends in both cases.
        drop(
            self.written
                .wait_timeout_while(self.lock(), timeout, pending),
        );
    }

    /// Waits for lines, at most `pause`, and moves them to `batch`.
    fn take(&self, batch: &mut Vec<u8>, pause: Option<Duration>) -> u64 {
        let nothing = |state: &mut State| state.lines.is_empty() && !state.is_woken;
        let state = self.lock();
        let mut state = match pause {
            Some(pause) => {
                let waited = self.changed.wait_timeout_while(state, pause, nothing);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.changed.wait_while(state, nothing);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        };
        batch.clear();
        std::mem::swap(batch, &mut state.lines);
        state.is_writing = true;
        state.is_woken = false;
        std::mem::take(&mut state.lost)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all bytes. If stderr fails, there is no way to report it.
fn write_all(out: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return,
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(RETRY_INTERVAL);
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// A reader that accepts one write each time the test allows it.
    struct Slow(SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let sent = self.0.send(bytes.to_vec());
            sent.map(|()| bytes.len()).map_err(io::Error::other)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (Arc<Queue>, Receiver<Vec<u8>>) {
        let (sender, written) = sync_channel(0);
        let queue = Arc::new(Queue::default());
        let (writer, reporter) = (queue.clone(), queue.clone());
        let lost = move |lines| reporter.push(format!("lost {lines}\n").as_bytes());
        std::thread::spawn(move || writer.run(Slow(sender), lost, || None));
        (queue, written)
    }

    #[test]
    fn a_stopped_reader_delays_nothing_and_lost_lines_are_counted_at_their_place() {
        let (queue, written) = start();
        queue.push(b"first\n");
        assert_eq!(written.recv().unwrap(), b"first\n");
        queue.push(b"stuck\n");
        // The line is being written.
        while !queue.lock().lines.is_empty() {
            std::thread::yield_now();
        }
        let line = [b'x'; 1024];
        let capacity = MAX_WAITING / line.len();
        for _ in 0..capacity + 5 {
            queue.push(&line);
        }
        assert_eq!(queue.lock().lines.len(), MAX_WAITING);
        queue.wait_until_written(Duration::ZERO);
        assert_eq!(written.recv().unwrap(), b"stuck\n");
        assert_eq!(written.recv().unwrap().len(), MAX_WAITING);
        queue.push(b"next\n");
        assert_eq!(written.recv().unwrap(), b"lost 5\n");
        assert_eq!(written.recv().unwrap(), b"next\n");
    }

    #[test]
    fn the_end_waits_for_lines_in_progress() {
        let (queue, written) = start();
        for number in 0..100 {
            queue.push(format!("{number}\n").as_bytes());
        }
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            while !all.ends_with(b"99\n") {
                all.extend(written.recv().unwrap());
            }
        });
        queue.wait_until_written(Duration::MAX);
        assert!(queue.lock().lines.is_empty());
        reader.join().unwrap();
    }
}
