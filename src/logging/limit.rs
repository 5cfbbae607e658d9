//! The maximum rate of lines of one kind about one subject: a client that logs on ten thousand times
//! a second gets some lines and then a count of the rest.
//!
//! A kind is a place in the code. The subject is the peer or the source address in an event. Events
//! without a subject concern the endpoint itself and pass, except at the debug levels. The memory is
//! bounded; subjects beyond the limit share one bucket per kind.

use super::AUDIT;
use super::queue::Queue;
use hashbrown::HashMap;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Maximum number of lines of a kind and a subject that pass in a burst.
const BURST: u32 = 20;
/// Time until another line passes.
const REFILL_INTERVAL: Duration = Duration::from_secs(1);
/// Time between reports of the number of suppressed lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of kinds and subjects with a separate limit.
const MAX_BUCKETS: usize = 1024;
/// Maximum length of a message that a report repeats, in characters.
const MAX_MESSAGE: usize = 200;
/// Fields that name the subject.
const SUBJECTS: [&str; 3] = ["peer", "from", "remote"];

/// Decides which events are written.
pub(super) struct Limit {
    table: Mutex<Table>,
    /// The queue whose thread logs the reports.
    queue: Option<Arc<Queue>>,
}

impl Limit {
    pub(super) fn new(queue: Option<Arc<Queue>>) -> Self {
        let table = Mutex::default();
        Self { table, queue }
    }

    fn passes(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        let target = metadata.target();
        // Events of libraries are logged only on request.
        if !target.starts_with("vcgate") || target == module_path!() || target == AUDIT {
            return true;
        }
        let mut fields = EventFields::default();
        event.record(&mut fields);
        if fields.subject.is_empty() && *metadata.level() <= Level::INFO {
            return true;
        }
        let key = (metadata.callsite(), fields.subject);
        let verdict = self
            .lock()
            .admit(key, *metadata.level(), fields.message, Instant::now());
        if verdict == Verdict::FirstSuppressed
            && let Some(queue) = &self.queue
        {
            queue.wake();
        }
        verdict == Verdict::Pass
    }

    /// Logs the reports of suppressed lines that are due. Returns the time until the next report.
    pub(super) fn report(&self) -> Option<Duration> {
        let (due, next) = self.lock().take_due(Instant::now(), REPORT_INTERVAL);
        due.iter().for_each(Report::log);
        next
    }

    /// Logs all reports of suppressed lines.
    pub(super) fn report_all(&self) {
        let (due, _) = self.lock().take_due(Instant::now(), Duration::ZERO);
        due.iter().for_each(Report::log);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limit as a layer.
pub(super) struct Filtering(pub(super) Arc<Limit>);

impl<S: Subscriber> Layer<S> for Filtering {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.passes(event)
    }
}

type Key = (Identifier, String);

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// The first suppressed line since the last report.
    FirstSuppressed,
    Suppressed,
}

#[derive(Default)]
struct Table(HashMap<Key, Bucket>);

/// A token bucket.
struct Bucket {
    tokens: u32,
    refilled: Instant,
    suppressed: Option<Suppressed>,
}

/// Suppressed events since the last report.
struct Suppressed {
    count: u64,
    since: Instant,
    level: Level,
    message: String,
}

/// A line about suppressed events.
#[derive(Debug)]
struct Report {
    subject: String,
    level: Level,
    text: String,
}

impl Table {
    fn admit(&mut self, mut key: Key, level: Level, message: String, now: Instant) -> Verdict {
        if self.0.len() >= MAX_BUCKETS && !self.0.contains_key(&key) {
            self.0.retain(|_, bucket| !bucket.is_idle(now));
            if self.0.len() >= MAX_BUCKETS {
                key.1 = String::new();
            }
        }
        let bucket = self.0.entry(key).or_insert_with(|| Bucket::new(now));
        bucket.refill(now);
        if let Some(rest) = bucket.tokens.checked_sub(1) {
            bucket.tokens = rest;
            return Verdict::Pass;
        }
        match &mut bucket.suppressed {
            Some(suppressed) => {
                suppressed.count += 1;
                Verdict::Suppressed
            }
            none => {
                *none = Some(Suppressed {
                    count: 1,
                    since: now,
                    level,
                    message,
                });
                Verdict::FirstSuppressed
            }
        }
    }

    /// Returns the reports that are due and the time until the next one.
    fn take_due(&mut self, now: Instant, interval: Duration) -> (Vec<Report>, Option<Duration>) {
        let (mut due, mut next) = (Vec::new(), None::<Duration>);
        for ((_, subject), bucket) in &mut self.0 {
            let Some(suppressed) = &bucket.suppressed else {
                continue;
            };
            let age = now.saturating_duration_since(suppressed.since);
            if age < interval {
                next = Some(next.unwrap_or(Duration::MAX).min(interval - age));
            } else if let Some(suppressed) = bucket.suppressed.take() {
                due.push(suppressed.report(subject, age));
            }
        }
        (due, next)
    }
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            refilled: now,
            suppressed: None,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        let steps = (passed.as_millis() / REFILL_INTERVAL.as_millis()).min(BURST.into()) as u32;
        if steps > 0 {
            self.tokens = BURST.min(self.tokens + steps);
            self.refilled = now;
        }
    }

    /// Returns whether the bucket equals a new one.
    fn is_idle(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled);
        self.suppressed.is_none() && passed >= REFILL_INTERVAL * BURST
    }
}

impl Suppressed {
    fn report(self, subject: &str, age: Duration) -> Report {
        let seconds = age.as_secs().max(1);
        let (count, message) = (self.count, self.message);
        Report {
            subject: subject.to_owned(),
            level: self.level,
            text: format!("{count} more of these in the last {seconds} s: {message}"),
        }
    }
}

impl Report {
    fn log(&self) {
        let Self {
            subject,
            level,
            text,
        } = self;
        match *level {
            Level::ERROR => tracing::error!(subject, "{text}"),
            Level::WARN => tracing::warn!(subject, "{text}"),
            Level::INFO => tracing::info!(subject, "{text}"),
            _ => tracing::debug!(subject, "{text}"),
        }
    }
}

/// The fields of an event that the limit needs.
#[derive(Default)]
struct EventFields {
    subject: String,
    message: String,
}

impl Visit for EventFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let name = field.name();
        if name == "message" {
            self.message = format!("{value:?}").chars().take(MAX_MESSAGE).collect();
        } else if self.subject.is_empty() && SUBJECTS.contains(&name) {
            // Writing to a string does not fail.
            let _ = write!(self.subject, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::{Callsite, Metadata, callsite, subscriber::Interest};

    struct Site;

    impl Callsite for Site {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unimplemented!("only its identity is used")
        }
    }

    fn key(subject: &str) -> Key {
        static SITE: Site = Site;
        (callsite::Identifier(&SITE), subject.into())
    }

    fn admit(table: &mut Table, subject: &str, now: Instant) -> Verdict {
        table.admit(key(subject), Level::INFO, "SMB session setup".into(), now)
    }

    #[test]
    fn one_peer_gets_some_lines_and_then_a_count_and_others_are_not_affected() {
        let (mut table, start) = (Table::default(), Instant::now());
        let mut passed = 0;
        // 600,000 in 8 s.
        for n in 0..600_000u32 {
            let now = start + Duration::from_secs(8) / 600_000 * n;
            passed += u32::from(admit(&mut table, "anna", now) == Verdict::Pass);
        }
        assert_eq!(passed, BURST + 7);
        assert_eq!(admit(&mut table, "bert", start), Verdict::Pass);
        let early = start + Duration::from_secs(8);
        let (due, next) = table.take_due(early, REPORT_INTERVAL);
        assert!(due.is_empty() && next.is_some_and(|next| next < Duration::from_secs(3)));
        let late = start + Duration::from_secs(11);
        let (due, next) = table.take_due(late, REPORT_INTERVAL);
        let reports: Vec<_> = due.iter().map(|r| (&*r.subject, &*r.text)).collect();
        let text = "599973 more of these in the last 10 s: SMB session setup";
        assert_eq!((reports, next), (vec![("anna", text)], None));
        // Later it passes again.
        assert_eq!(admit(&mut table, "anna", late), Verdict::Pass);
        assert!(table.take_due(late, Duration::ZERO).0.is_empty());
    }

    #[test]
    fn the_number_of_subjects_is_bounded_and_idle_ones_are_replaced() {
        let (mut table, start) = (Table::default(), Instant::now());
        let mut passed = 0;
        for n in 0..10 * MAX_BUCKETS {
            passed += usize::from(admit(&mut table, &n.to_string(), start) == Verdict::Pass);
            assert!(table.0.len() <= MAX_BUCKETS + 1);
        }
        assert_eq!(passed, MAX_BUCKETS + BURST as usize);
        let later = start + REFILL_INTERVAL * BURST;
        admit(&mut table, "anna", later);
        assert!(table.0.contains_key(&key("anna")));
    }
}
