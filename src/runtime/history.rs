//! Where a run takes the conversation from: out of the log, from its end backwards and no further than a model is given
//! it; and on a server where the agent has just run, only what is new since.

use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use theazo_domain::id::AgentId;
use theazo_domain::time::Timestamp;
use theazo_domain::{Event, Subject};
use tokio::time::Instant;

use super::Desk;
use super::conversation::{Bodies, Conversation};
use crate::log::read::newest_of;
use crate::log::{Failure, TenantId};
use crate::read::agent;
use crate::{config, planted};

/// The types of events that a conversation is folded from.
const KINDS: [&str; 6] =
    ["task.created", "task.claimed", "agent.paused", "model.call_settled", "tool.started", "tool.finished"];

/// The conversation of an agent as it stands in the log.
pub(super) async fn conversation(desk: Desk<'_>, agent_id: AgentId) -> Result<Conversation, Failure> {
    let (conversations, place) = (&desk.app.conversations, (desk.tenant.id, agent_id));
    let mut kept = conversations.take(place).unwrap_or_default();
    if !go_on(desk, agent_id, &mut kept).await? {
        // The person was erased, so what is kept of theirs is forgotten.
        kept = Kept::default();
        go_on(desk, agent_id, &mut kept).await?;
    }
    let conversation = kept.conversation.clone();
    conversations.keep(place, kept, Instant::now());
    Ok(conversation)
}

/// Folds what the log has besides into what is kept. False where the content of what is kept is gone.
async fn go_on(desk: Desk<'_>, agent_id: AgentId, kept: &mut Kept) -> Result<bool, Failure> {
    let subject = Subject::Agent(agent_id).to_string();
    let oldest = kept.conversation.oldest_content().map(|content_id| content_id.to_string());
    let mut tail = Tail::default();
    let mut below = i64::MAX;
    loop {
        let between = (kept.position, below);
        let page = newest_of(desk.scope(), (&subject, &KINDS), between, config::HISTORY_PAGE).await?;
        if let (None, Some(newest)) = (tail.newest, page.first()) {
            tail.newest = Some(newest.position);
        }
        let decoded = page.iter().map(|stored| Ok((stored.at, desk.app.log.decode(stored)?)));
        let events = decoded.collect::<Result<Vec<_>, Failure>>()?;
        let ids = events
            .iter()
            .filter_map(|(_, event)| content_of(event))
            .chain(oldest.clone())
            .collect::<Vec<_>>();
        let bodies = agent::bodies(desk.scope(), &ids).await?;
        if oldest.as_ref().is_some_and(|oldest| !bodies.contains_key(oldest)) {
            return Ok(false);
        }
        tail.prepend(events, bodies);
        let whole = i64::try_from(page.len()).is_ok_and(|events| events < config::HISTORY_PAGE);
        if let Some(conversation) = tail.conversation(&mut kept.conversation, whole) {
            kept.conversation = conversation;
            kept.position = tail.newest.unwrap_or(kept.position);
            return Ok(true);
        }
        below = page.last().map_or(0, |oldest| oldest.position);
    }
}

/// The end of what happened to an agent, as far as it was read: newest first, with the content.
#[derive(Default)]
struct Tail {
    events: Vec<(Timestamp, Event)>,
    bodies: Bodies,
    bytes: usize,
    newest: Option<i64>,
}

impl Tail {
    /// Takes in what was before, newest first.
    fn prepend(&mut self, events: Vec<(Timestamp, Event)>, bodies: Bodies) {
        self.bytes += bodies.values().map(String::len).sum::<usize>();
        self.bodies.extend(bodies);
        self.events.extend(events.into_iter().filter(|(_, event)| !forgotten(event)));
    }

    /// The conversation that it makes, behind what is known from before it; `None` where more has to be read. What goes
    /// further back than a model is given the conversation need not be. Where there is one, what was before it is taken.
    fn conversation(&self, before: &mut Conversation, whole: bool) -> Option<Conversation> {
        if whole {
            return Some(self.folded(std::mem::take(before), self.events.len()));
        }
        let first = self.events.iter().rposition(|(_, event)| matches!(event, Event::TaskCreated(_)));
        let (true, Some(first)) = (self.bytes > config::CONVERSATION_BYTES, first) else { return None };
        let conversation = self.folded(Conversation::default(), first + 1);
        conversation.reaches_back_far_enough().then_some(conversation)
    }

    fn folded(&self, mut conversation: Conversation, newest: usize) -> Conversation {
        for (at, event) in self.events[..newest].iter().rev() {
            conversation.fold(*at, event, &self.bodies);
        }
        conversation
    }
}

/// Whether a bug that is planted forgets that a tool has been called.
fn forgotten(event: &Event) -> bool {
    match event {
        Event::ToolFinished(finished) if finished.result.is_none() => planted::is("repeated-tool"),
        Event::ToolFinished(_) => planted::strikes("forgotten-result", 2),
        _ => false,
    }
}

/// The content that a conversation is made of.
fn content_of(event: &Event) -> Option<String> {
    let reference = match event {
        Event::TaskCreated(created) => Some(&created.task),
        Event::CallSettled(settled) => Some(&settled.reply),
        Event::ToolFinished(finished) => finished.result.as_ref(),
        _ => None,
    };
    reference.map(|reference| reference.content_id.to_string())
}

/// A conversation, and up to which event of the log it goes. Nothing is in it that was not read from the log.
#[derive(Default)]
struct Kept {
    conversation: Conversation,
    position: i64,
}

type Place = (TenantId, AgentId);

/// Conversations of agents that have run on this server a short while ago, of the newest as many as there is room for.
pub struct Conversations(Mutex<Shelf>);

struct Shelf {
    /// With when each was kept last, the oldest first to go.
    kept: LruCache<Place, (Kept, Instant)>,
    bytes: usize,
}

impl Default for Conversations {
    fn default() -> Self {
        Self(Mutex::new(Shelf { kept: LruCache::unbounded(), bytes: 0 }))
    }
}

impl Conversations {
    fn take(&self, place: Place) -> Option<Kept> {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, _) = shelf.kept.pop(&place)?;
        shelf.bytes -= cost(&kept);
        Some(kept)
    }

    fn keep(&self, place: Place, kept: Kept, now: Instant) {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.bytes += cost(&kept);
        if let Some((before, _)) = shelf.kept.put(place, (kept, now)) {
            shelf.bytes -= cost(&before);
        }
        let too_old = |since: Instant| now.duration_since(since) > config::KEPT_CONVERSATION_IDLE;
        while let Some((_, (_, since))) = shelf.kept.peek_lru()
            && (shelf.bytes > config::KEPT_CONVERSATIONS_BYTES || too_old(*since))
            && let Some((_, (oldest, _))) = shelf.kept.pop_lru()
        {
            shelf.bytes -= cost(&oldest);
        }
    }
}

/// What it takes to keep a conversation, roughly: its text, and what stands around it.
fn cost(kept: &Kept) -> usize {
    kept.conversation.bytes() + kept.conversation.messages().len() * 128 + 512
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::conversation::Reply;
    use super::super::conversation::tests::{finished, reference, settled, task, tool};
    use super::*;
    use crate::providers::model::ToolCall;

    /// What a task came to:
    #[derive(Debug, Clone, Copy)]
    enum Came {
        /// nothing: its model has not answered;
        Nothing,
        /// an answer at once;
        Answer,
        /// one after a tool, whose call ended or not.
        Tool { ended: bool },
    }

    /// The events of tasks, oldest first, with their content. A task is as long as it says, in kilobytes.
    fn happened(tasks: &[(usize, Came)]) -> (Vec<(Timestamp, Event)>, Bodies) {
        let (mut events, mut bodies) = (vec![], Bodies::new());
        for (number, (kilobytes, came)) in (1..).map(|number| number * 10).zip(tasks) {
            let mut put = |id: u64, body: String| bodies.insert(reference(id).content_id.to_string(), body);
            let reply = |tool_calls| {
                let text = format!("answer {number}");
                serde_json::to_string(&Reply { text, tool_calls, verbatim: None }).unwrap()
            };
            events.push(task(number));
            put(number, format!("{number}{}", " ".repeat(kilobytes * 1024)));
            if let Came::Tool { ended } = came {
                let call = ToolCall { id: format!("{number}"), name: "run_code".into(), input: "{}".into() };
                events.push(settled(number, number + 1));
                put(number + 1, reply(vec![call]));
                events.push(tool(number + 2, 0));
                put(number + 3, "printed".to_owned());
                if *ended {
                    events.push(finished(number + 2, Some(number + 3)));
                }
            }
            if let Came::Answer | Came::Tool { ended: true } = came {
                events.push(settled(number, number + 4));
                put(number + 4, reply(vec![]));
            }
        }
        // Each a second after the one before.
        let moments = (1..).map(|second| Timestamp::from_millis(second * 1_000));
        (moments.zip(events).collect(), bodies)
    }

    /// Reads what happened from its end on, so many events at a time, as far as is needed: behind what is known of the
    /// first of them. Gives the conversation, and how many events were read.
    fn read(
        events: &[(Timestamp, Event)],
        bodies: &Bodies,
        known: usize,
        page: usize,
    ) -> (Conversation, usize) {
        let mut before = Conversation::default();
        events[..known].iter().for_each(|(at, event)| before.fold(*at, event, bodies));
        let (mut tail, mut left) = (Tail::default(), &events[known..]);
        loop {
            let (older, newer) = left.split_at(left.len().saturating_sub(page));
            left = older;
            let ids: Vec<String> = newer.iter().filter_map(|(_, event)| content_of(event)).collect();
            let found = ids.into_iter().map(|id| (id.clone(), bodies[&id].clone())).collect();
            tail.prepend(newer.iter().rev().cloned().collect(), found);
            if let Some(conversation) = tail.conversation(&mut before, newer.len() < page) {
                return (conversation, tail.events.len());
            }
        }
    }

    fn tasks() -> impl Strategy<Value = Vec<(usize, Came)>> {
        let came = prop_oneof![
            Just(Came::Nothing),
            Just(Came::Answer),
            any::<bool>().prop_map(|ended| Came::Tool { ended }),
        ];
        // Some larger than all that a model is given.
        let size = prop_oneof![6 => 1_usize..500, 1 => 2_040_usize..2_060];
        proptest::collection::vec((size, came), 0..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_read_from_the_end_is_what_all_of_it_comes_to(
            tasks in tasks(), page in 1_usize..8, known in 0_usize..100
        ) {
            let (events, bodies) = happened(&tasks);
            let mut all = Conversation::default();
            events.iter().for_each(|(at, event)| all.fold(*at, event, &bodies));
            let (read, _) = read(&events, &bodies, known.min(events.len()), page);
            prop_assert!(read.messages() == all.messages());
            prop_assert_eq!(format!("{:?}", read.next()), format!("{:?}", all.next()));
        }
    }

    #[test]
    fn no_more_is_read_than_a_model_is_given() {
        let (events, bodies) = happened(&[(100, Came::Answer); 200]);
        let (conversation, read) = read(&events, &bodies, 0, 8);
        assert!(read < 60, "{read} events of {} were read", events.len());
        assert!(conversation.messages().len() >= 38);
    }

    #[test]
    fn conversations_are_kept_as_far_as_there_is_room() {
        let conversations = Conversations::default();
        let tenant = TenantId(1);
        let agent = |number: u64| AgentId::from_ulid(ulid::Ulid::from_parts(number, 0));
        let (events, bodies) = happened(&[(1024, Came::Answer)]);
        for number in 1..=100 {
            let mut kept = Kept { position: 7, ..Kept::default() };
            events.iter().for_each(|(at, event)| kept.conversation.fold(*at, event, &bodies));
            conversations.keep((tenant, agent(number)), kept, Instant::now());
        }
        let kept = |number: u64| conversations.take((tenant, agent(number))).is_some();
        assert_eq!(
            (1..=100).filter(|number| kept(*number)).collect::<Vec<_>>(),
            (70..=100).collect::<Vec<_>>()
        );
        assert_eq!(conversations.0.lock().unwrap().bytes, 0);
    }

    #[test]
    fn a_conversation_that_does_not_go_on_is_forgotten_after_a_while() {
        let conversations = Conversations::default();
        let place = |number: u64| (TenantId(1), AgentId::from_ulid(ulid::Ulid::from_parts(number, 0)));
        let start = Instant::now();
        let after = |share: u32| start + config::KEPT_CONVERSATION_IDLE / 4 * share;
        for (number, since) in [(1, after(0)), (2, after(1)), (1, after(3)), (3, after(6))] {
            conversations.keep(place(number), Kept::default(), since);
        }
        let kept = [1, 2, 3].map(|number| conversations.take(place(number)).is_some());
        assert_eq!(kept, [true, false, true]);
        assert_eq!(conversations.0.lock().unwrap().bytes, 0);
    }
}
