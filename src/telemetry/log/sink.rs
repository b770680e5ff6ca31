//! A place where log lines go: a bounded buffer and the thread that empties it.
//!
//! Invariants: [`Sink::push`] never waits for the place itself, a line is written whole and in
//! the order of its thread or counted as dropped, and while lines keep coming the thread is woken
//! only by its own timer, so that a request pays no system call for its line.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::file::{DayFile, OneFile};
use super::repeat::Repeat;
use crate::base::clock;

/// Bytes that may wait in a sink.
const LIMIT: usize = 4 << 20;
/// Bytes from which on the thread does not wait for more.
const BATCH: usize = 64 << 10;
/// Shortest time between two writes that nobody asked for.
const PACE: Duration = Duration::from_millis(20);
/// Pause when a place that does not block takes nothing.
const STALLED: Duration = Duration::from_millis(5);

/// Where a sink writes to.
pub(crate) enum Place {
    /// Nowhere: lines are forgotten.
    Closed,
    /// A stream such as the standard output.
    Stream(Box<dyn Write + Send>),
    /// Files of a directory.
    Files(DayFile),
    /// One file.
    File(OneFile),
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Sink {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    done: Condvar,
    dropped: AtomicU64,
    limit: usize,
}

#[derive(Default)]
struct Queue {
    pending: Vec<u8>,
    /// Places to go on to, each once the bytes of `pending` before its offset are written.
    next: Vec<(usize, Place)>,
    /// Somebody waits for the buffer to be written out.
    urgent: bool,
    /// The thread sleeps until it is woken.
    idle: bool,
    /// Lines taken, and lines of those that the thread is done with.
    taken: u64,
    finished: u64,
}

impl Sink {
    /// Starts the thread of a sink that writes to `place`; `name` appears in notices.
    ///
    /// # Errors
    /// The system's, when it has no thread left.
    pub(crate) fn start(name: &'static str, place: Place) -> io::Result<Self> {
        Self::with_limit(name, place, LIMIT)
    }

    fn with_limit(name: &'static str, place: Place, limit: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            ready: Condvar::new(),
            done: Condvar::new(),
            dropped: AtomicU64::new(0),
            limit,
        });
        let writer = Writer {
            name,
            shared: Arc::clone(&shared),
            place,
            torn: false,
            notices: Repeat::every_minute(),
        };
        thread::Builder::new()
            .name(format!("log-{name}"))
            .stack_size(256 << 10)
            .spawn(move || writer.run())?;
        Ok(Self { shared })
    }

    /// Takes one whole line, or counts it as dropped when the buffer is full.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut queue = self.shared.queue.lock();
        let before = queue.pending.len();
        if before + line.len() > self.shared.limit {
            drop(queue);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.pending.extend_from_slice(line);
        queue.taken += 1;
        let full = before < BATCH && queue.pending.len() >= BATCH;
        if queue.idle || full {
            queue.idle = false;
            drop(queue);
            self.shared.ready.notify_one();
        }
    }

    /// Writes what waits to the place it was meant for, then goes on with `place`.
    pub(crate) fn redirect(&self, place: Place) {
        let mut queue = self.shared.queue.lock();
        let from = queue.pending.len();
        queue.next.push((from, place));
        queue.idle = false;
        drop(queue);
        self.shared.ready.notify_one();
    }

    /// Waits until every line taken before is written or dropped; `false` if that takes longer
    /// than until `deadline`.
    pub(crate) fn flush(&self, deadline: Instant) -> bool {
        let mut queue = self.shared.queue.lock();
        let goal = queue.taken;
        while queue.finished < goal || !queue.next.is_empty() {
            queue.urgent = true;
            queue.idle = false;
            self.shared.ready.notify_one();
            if self
                .shared
                .done
                .wait_until(&mut queue, deadline)
                .timed_out()
            {
                return queue.finished >= goal;
            }
        }
        true
    }

    /// Lines lost so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

struct Writer {
    name: &'static str,
    shared: Arc<Shared>,
    place: Place,
    /// The last write ended within a line.
    torn: bool,
    notices: Repeat<()>,
}

impl Writer {
    fn run(mut self) {
        let mut batch = Vec::new();
        let mut written_at: Option<Instant> = None;
        loop {
            let mut queue = self.shared.queue.lock();
            if let Some(at) = written_at {
                let until = at + PACE;
                while !queue.urgent && queue.next.is_empty() && queue.pending.len() < BATCH {
                    if self.shared.ready.wait_until(&mut queue, until).timed_out() {
                        break;
                    }
                }
            }
            while queue.pending.is_empty() && queue.next.is_empty() && !queue.urgent {
                queue.idle = true;
                self.shared.ready.wait(&mut queue);
            }
            queue.idle = false;
            queue.urgent = false;
            std::mem::swap(&mut queue.pending, &mut batch);
            let taken = queue.taken;
            let next = std::mem::take(&mut queue.next);
            drop(queue);

            let mut rest = batch.as_slice();
            for (from, place) in next {
                let done = batch.len() - rest.len();
                let (earlier, later) = rest.split_at(from.saturating_sub(done));
                self.write(earlier);
                self.place = place;
                self.torn = false;
                rest = later;
            }
            self.write(rest);
            let used = batch.len();
            batch.clear();
            // A burst must not hold its memory for ever.
            if batch.capacity() > 8 * BATCH && used < BATCH {
                batch.shrink_to(BATCH);
            }
            written_at = Some(clock::now());

            let mut queue = self.shared.queue.lock();
            queue.finished = taken;
            drop(queue);
            self.shared.done.notify_all();
        }
    }

    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let stream: &mut dyn Write = match &mut self.place {
            Place::Closed => return,
            Place::Stream(stream) => stream,
            Place::Files(files) => {
                let rolled = files.roll(clock::unix());
                if let Err(error) = rolled {
                    notice(&self.notices, self.name, 0, &error);
                }
                files
            }
            Place::File(file) => {
                if let Err(error) = file.follow() {
                    notice(&self.notices, self.name, 0, &error);
                }
                file
            }
        };
        // What is left of a torn line must not swallow the next one.
        if self.torn && write_all(stream, b"\n").is_ok() {
            self.torn = false;
        }
        if let Err((written, error)) = write_all(stream, lines) {
            let (before, after) = lines.split_at(written);
            self.torn |= before.last().is_some_and(|byte| *byte != b'\n');
            let lost = memchr::memchr_iter(b'\n', after).count() as u64;
            self.shared.dropped.fetch_add(lost, Ordering::Relaxed);
            notice(&self.notices, self.name, lost, &error);
        }
    }
}

/// Writes everything, or tells how many bytes went out before the error.
fn write_all(stream: &mut dyn Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::park_timeout(STALLED),
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// Tells the standard error, the only way left when logging itself fails.
fn notice(notices: &Repeat<()>, name: &str, lost: u64, error: &io::Error) {
    if let Some(silent) = notices.allow((), clock::now()) {
        let text =
            format!("smg: log sink `{name}`: {error} ({lost} lines lost, {silent} like this)\n");
        // Nobody is left to be told that this failed as well.
        io::stderr().write_all(text.as_bytes()).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// What was written, and a gate: each write first takes one permit.
    #[derive(Clone, Default)]
    struct Tape(Arc<Mutex<Vec<u8>>>);

    impl Write for Tape {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Tape {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).unwrap()
        }
        fn place(&self) -> Place {
            Place::Stream(Box::new(self.clone()))
        }
    }

    struct Gated {
        tape: Tape,
        entered: SyncSender<()>,
        permits: Receiver<io::Result<usize>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.entered.send(()).unwrap();
            let most = self.permits.recv().unwrap()?;
            self.tape.write(bytes.get(..most.min(bytes.len())).unwrap())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Tape, Place, Receiver<()>, SyncSender<io::Result<usize>>) {
        let tape = Tape::default();
        let (entered, entries) = sync_channel(100);
        let (permit, permits) = sync_channel(100);
        let place = Place::Stream(Box::new(Gated {
            tape: tape.clone(),
            entered,
            permits,
        }));
        (tape, place, entries, permit)
    }

    #[test]
    fn a_stuck_place_costs_lines_but_no_time() {
        let (tape, place, entries, permit) = gated();
        let sink = Sink::with_limit("test", place, 10).unwrap();
        sink.push(b"first\n");
        entries.recv_timeout(LONG).unwrap();
        // The thread is inside the write now; ten bytes may wait, the rest is dropped.
        for line in [&b"aaaa\n"[..], b"bbbb\n", b"c\n", b"d\n"] {
            sink.push(line);
        }
        assert_eq!(sink.dropped(), 2);
        assert!(!sink.flush(clock::now() + Duration::from_millis(20)));
        permit.send(Ok(usize::MAX)).unwrap();
        permit.send(Ok(usize::MAX)).unwrap();
        assert!(sink.flush(clock::now() + LONG));
        assert_eq!(tape.text(), "first\naaaa\nbbbb\n");
        assert_eq!(sink.dropped(), 2);
    }

    #[test]
    fn a_failing_place_loses_whole_lines_only() {
        let (tape, place, entries, permit) = gated();
        let sink = Sink::start("test", place).unwrap();
        sink.push(b"one\n");
        entries.recv_timeout(LONG).unwrap();
        sink.push(b"two\n");
        sink.push(b"three\n");
        sink.push(b"four\n");
        permit.send(Ok(usize::MAX)).unwrap();
        permit.send(Ok(6)).unwrap();
        permit.send(Err(ErrorKind::Interrupted.into())).unwrap();
        permit.send(Err(ErrorKind::StorageFull.into())).unwrap();
        assert!(sink.flush(clock::now() + LONG));
        assert_eq!(sink.dropped(), 2);
        permit.send(Ok(usize::MAX)).unwrap();
        permit.send(Ok(usize::MAX)).unwrap();
        sink.push(b"five\n");
        assert!(sink.flush(clock::now() + LONG));
        assert_eq!(tape.text(), "one\ntwo\nth\nfive\n");
    }

    #[test]
    fn a_redirect_leaves_earlier_lines_where_they_belong() {
        let (old, place, entries, permit) = gated();
        let (middle, new) = (Tape::default(), Tape::default());
        let sink = Sink::start("test", place).unwrap();
        sink.push(b"1\n");
        entries.recv_timeout(LONG).unwrap();
        sink.push(b"2\n");
        sink.redirect(middle.place());
        sink.push(b"2.5\n");
        sink.redirect(new.place());
        sink.push(b"3\n");
        permit.send(Ok(usize::MAX)).unwrap();
        permit.send(Ok(usize::MAX)).unwrap();
        assert!(sink.flush(clock::now() + LONG));
        sink.redirect(Place::Closed);
        sink.push(b"4\n");
        assert!(sink.flush(clock::now() + LONG));
        assert_eq!(
            [old, middle, new].map(|tape| tape.text()),
            ["1\n2\n", "2.5\n", "3\n"]
        );
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn each_thread_keeps_its_order() {
        let tape = Tape::default();
        let sink = Sink::start("test", tape.place()).unwrap();
        thread::scope(|scope| {
            for who in 0..4 {
                let sink = &sink;
                scope.spawn(move || {
                    for n in 0..5000 {
                        sink.push(format!("{who} {n}\n").as_bytes());
                    }
                });
            }
        });
        assert!(sink.flush(clock::now() + LONG));
        let mut next = [0; 4];
        for line in tape.text().lines() {
            let (who, n) = line.split_once(' ').unwrap();
            let slot: &mut i32 = &mut next[who.parse::<usize>().unwrap()];
            assert_eq!(*slot, n.parse::<i32>().unwrap());
            *slot += 1;
        }
        assert_eq!(next, [5000; 4]);
    }

    #[test]
    fn a_lone_line_is_written_without_being_asked() {
        let (_, place, entries, permit) = gated();
        let sink = Sink::start("test", place).unwrap();
        for _ in 0..3 {
            permit.send(Ok(usize::MAX)).unwrap();
            sink.push(b"x\n");
            entries.recv_timeout(LONG).unwrap();
        }
    }
}
