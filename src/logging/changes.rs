//! The last changes with their authors, for the administration page: the events of the target
//! [`AUDIT`], in memory. The log remains the record.

use super::AUDIT;
use crate::time::Timestamp;
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Maximum number of changes that are remembered.
const CAPACITY: usize = 200;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Change {
    /// The time.
    #[schema(value_type = String)]
    pub time: Timestamp,
    /// The author, such as `admin user=anna source=127.0.0.1` or `command uid=0 pid=4242`; empty if it
    /// was the endpoint.
    pub by: String,
    /// The change.
    pub message: String,
}

static RECENT: Mutex<VecDeque<Change>> = Mutex::new(VecDeque::new());

/// Returns the last changes, newest first.
pub fn recent() -> Vec<Change> {
    let recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    recent.iter().rev().cloned().collect()
}

fn remember(change: Change) {
    let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    if recent.len() == CAPACITY {
        recent.pop_front();
    }
    recent.push_back(change);
}

/// The layer that remembers changes.
pub(super) struct Remember;

/// The author of the changes in a span.
struct Author(String);

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Remember {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id).filter(|span| span.name() == "caller") else {
            return;
        };
        let mut text = Text::default();
        attributes.record(&mut text);
        span.extensions_mut().insert(Author(text.fields));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() != AUDIT {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let scope = context.event_scope(event).into_iter().flatten();
        let author = scope.filter_map(|span| {
            let extensions = span.extensions();
            extensions.get::<Author>().map(|author| author.0.clone())
        });
        let by = author.last().unwrap_or(text.fields);
        remember(Change {
            time: SystemTime::now().into(),
            by,
            message: text.message,
        });
    }
}

/// The message and the other fields of an event as text.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "message" => self.message = value,
            "by" => self.fields = format!("{}{}", value.trim_matches('"'), self.fields),
            name => self.fields += &format!(" {name}={}", value.trim_matches('"')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn changes_are_remembered_with_their_authors_and_other_events_are_not() {
        let subscriber = tracing_subscriber::registry().with(Remember);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("not a change");
            let span = tracing::info_span!("caller", by = "admin", user = "anna", source = "::1");
            span.in_scope(|| tracing::info!(target: AUDIT, "peer {}: added", "ben"));
            for number in 0..CAPACITY {
                tracing::info!(target: AUDIT, "peer {number}: expired");
                let newest = recent().remove(0);
                assert_eq!(newest.message, format!("peer {number}: expired"));
                assert_eq!(newest.by, "");
                let added = recent()
                    .into_iter()
                    .find(|c| c.message == "peer ben: added");
                // One place is the newest change's.
                assert_eq!(added.is_some(), number + 1 < CAPACITY);
                if let Some(added) = added {
                    assert_eq!(added.by, "admin user=anna source=::1");
                }
            }
        });
        assert_eq!(recent().len(), CAPACITY);
    }
}
