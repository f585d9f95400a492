//! The bridge that runs these aggregates under cqrs-es.
//!
//! cqrs-es gives the given/when/then framework of the decision tests, and with postgres-es the baseline that the
//! append benchmark is measured against. It is not the store of theazo.

use std::fmt;

use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

use crate::{Aggregate, Event, Facts, Refusal};

/// One of our aggregates as cqrs-es sees it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Bridged<A>(A);

/// What cqrs-es calls a type of aggregate.
pub trait Named {
    /// Its name in the event table.
    const TYPE: &'static str;
}

impl Named for crate::organization::State {
    const TYPE: &'static str = "organization";
}

impl Named for crate::key::State {
    const TYPE: &'static str = "key";
}

impl Named for crate::user::State {
    const TYPE: &'static str = "user";
}

impl Named for crate::session::State {
    const TYPE: &'static str = "session";
}

impl Named for crate::definition::State {
    const TYPE: &'static str = "definition";
}

impl Named for crate::agent::State {
    const TYPE: &'static str = "agent";
}

impl Named for crate::provider::State {
    const TYPE: &'static str = "providers";
}

impl Named for crate::billing::State {
    const TYPE: &'static str = "billing";
}

impl<A> cqrs_es::Aggregate for Bridged<A>
where
    A: Aggregate + Named + Serialize + for<'de> Deserialize<'de> + Send + Sync + fmt::Debug,
    A::Command: Send + Sync,
{
    const TYPE: &'static str = A::TYPE;
    type Command = (A::Command, Facts);
    type Event = Event;
    type Error = Refusal;
    type Services = ();

    async fn handle(
        &mut self,
        (command, facts): Self::Command,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Refusal> {
        for event in self.0.decide(&command, &facts)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: Event) {
        self.0.evolve(&event);
    }
}

impl cqrs_es::DomainEvent for Event {
    fn event_type(&self) -> String {
        self.write().kind
    }

    fn event_version(&self) -> String {
        Self::FIRST_VERSION.to_string()
    }
}
