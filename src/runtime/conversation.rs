//! A conversation, folded from the log: what has been said, and what comes next.
//!
//! It is the same fold for a run that goes on in memory and for one that another server takes up after a crash.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use theazo_domain::Event;
use theazo_domain::agent::{CallSettled, Stop};
use theazo_domain::content::ContentRef;
use theazo_domain::id::{CallId, ContentId, TaskId, ToolCallId};
use theazo_domain::time::Timestamp;

use crate::config;
use crate::providers::model::{Message, ToolCall, ToolResult, Verbatim};

/// What a model answered, as it lies beside the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// What it said.
    pub(crate) text: String,
    /// The tools that it called, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<ToolCall>,
    /// What has to be given back to its vendor word for word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verbatim: Option<Verbatim>,
}

/// Content by its id; what is missing was erased.
pub(crate) type Bodies = HashMap<String, String>;

/// An answer whose tools have not all been called.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) call_id: CallId,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) results: Vec<Option<ToolResult>>,
    started: HashMap<ToolCallId, usize>,
}

/// What comes next in a task.
#[derive(Debug)]
pub(crate) enum Next {
    /// Ask the model.
    Ask,
    /// Call the tool at this place among those that the last answer called.
    Call(usize),
    /// The last answer is the output.
    Complete(ContentRef),
    /// The model was not let answer.
    Refused,
}

/// Where a task begins.
#[derive(Debug, Clone, Copy)]
struct Beginning {
    /// In the messages.
    at: usize,
    /// What was asked for there.
    content_id: ContentId,
}

/// A conversation: of the newest tasks, as far back as a model is given it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    messages: Vec<Message>,
    /// Bytes of text in them.
    bytes: usize,
    beginnings: Vec<Beginning>,
    /// Whether older tasks were left out.
    shortened: bool,
    pub(crate) pending: Option<Pending>,
    /// The last answer, where it called no tools.
    answer: Option<ContentRef>,
    /// Whether the vendor's rules ended the last answer.
    refused: bool,
    task: Option<TaskId>,
    /// What the task says.
    pub(crate) task_text: String,
    /// Answers of models in this task.
    pub(crate) turns: u32,
    /// Running time of this task before the present stretch, when that began, and when it was seen to go on last, in
    /// milliseconds.
    run_ms: i64,
    since_ms: Option<i64>,
    seen_ms: i64,
}

impl Conversation {
    /// Takes in an event of the agent, which happened then, with the content that it refers to.
    pub(crate) fn fold(&mut self, at: Timestamp, event: &Event, bodies: &Bodies) {
        let body = |reference: &ContentRef| bodies.get(&reference.content_id.to_string()).cloned();
        match event {
            Event::TaskCreated(created) => {
                self.abandon();
                let text = body(&created.task).unwrap_or_else(|| ERASED.to_owned());
                self.task_text.clone_from(&text);
                self.task = Some(created.task_id);
                (self.turns, self.run_ms, self.since_ms) = (0, 0, None);
                self.say(text, created.task.content_id);
                self.shorten();
            }
            // Claimed anew while it ran: its server was gone, and what is known of it ends with what it did last.
            Event::TaskClaimed(claimed) => {
                self.rest(self.seen_ms);
                self.since_ms = Some(claimed.at.millis());
            }
            Event::AgentPaused(paused) => self.rest(paused.at.millis()),
            Event::CallSettled(settled) if Some(settled.task_id) == self.task => {
                let reply = body(&settled.reply).and_then(|body| serde_json::from_str::<Reply>(&body).ok());
                self.answered(settled, reply);
            }
            Event::ToolStarted(started) => {
                if let Some(pending) = &mut self.pending
                    && let Ok(index) = usize::try_from(started.index)
                {
                    pending.started.insert(started.tool_call_id, index);
                }
            }
            Event::ToolFinished(finished) => {
                let result = finished.result.as_ref();
                let text = result.map_or_else(|| Some(INTERRUPTED.to_owned()), body);
                let text = text.unwrap_or_else(|| ERASED.to_owned());
                self.tool_finished(finished.tool_call_id, text, finished.is_error);
            }
            _ => return,
        }
        // Whoever goes on after a crash tells of a tool that its server was lost with.
        if !matches!(event, Event::ToolFinished(finished) if finished.result.is_none()) {
            self.seen_ms = at.millis();
        }
    }

    /// A stretch of running time ends.
    fn rest(&mut self, at_ms: i64) {
        if let Some(since) = self.since_ms.take() {
            self.run_ms += (at_ms - since).max(0);
        }
    }

    fn answered(&mut self, settled: &CallSettled, reply: Option<Reply>) {
        self.turns += 1;
        self.refused = settled.stop == Stop::Refusal;
        let gone = Reply { text: ERASED.to_owned(), tool_calls: vec![], verbatim: None };
        let Reply { text, tool_calls, verbatim } = reply.unwrap_or(gone);
        if tool_calls.is_empty() {
            self.answer = Some(settled.reply.clone());
        } else {
            let results = vec![None; tool_calls.len()];
            let (calls, started) = (tool_calls.clone(), HashMap::new());
            self.pending = Some(Pending { call_id: settled.call_id, calls, results, started });
        }
        // An answer of nothing is none that could be given back to a vendor.
        if !text.is_empty() || !tool_calls.is_empty() {
            self.push(Message::Assistant { text, tool_calls, verbatim });
        }
    }

    fn tool_finished(&mut self, tool_call_id: ToolCallId, text: String, is_error: bool) {
        let Some(pending) = &mut self.pending else { return };
        let Some(index) = pending.started.get(&tool_call_id).copied() else { return };
        let (Some(call), Some(slot)) = (pending.calls.get(index), pending.results.get_mut(index)) else {
            return;
        };
        *slot = Some(ToolResult { call_id: call.id.clone(), text, is_error });
        if pending.results.iter().all(Option::is_some) {
            self.hand_over();
        }
    }

    /// Gives the results of the tools to the conversation; one that is missing was never called.
    fn hand_over(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        let results = pending.results.into_iter().zip(&pending.calls).map(|(result, call)| {
            result.unwrap_or_else(|| ToolResult {
                call_id: call.id.clone(),
                text: NOT_CALLED.to_owned(),
                is_error: true,
            })
        });
        let results = results.collect();
        self.push(Message::Tools { results });
    }

    /// A new task begins: an earlier one that was given up may have left its tools uncalled.
    fn abandon(&mut self) {
        self.hand_over();
        (self.answer, self.refused) = (None, false);
    }

    /// Vendors want turns to alternate, so what the user says after something of their own goes on there.
    fn say(&mut self, text: String, content_id: ContentId) {
        match self.messages.last_mut() {
            Some(Message::User { text: before }) => {
                before.push_str("\n\n");
                before.push_str(&text);
                self.bytes += text.len() + 2;
            }
            _ => {
                self.beginnings.push(Beginning { at: self.messages.len(), content_id });
                self.push(Message::User { text });
            }
        }
    }

    fn push(&mut self, message: Message) {
        self.bytes += size(&message);
        self.messages.push(message);
    }

    /// Leaves out for good what a model is not given any more: a conversation only grows.
    fn shorten(&mut self) {
        let from = self.given_from();
        if from > 0 {
            self.shortened = true;
            self.bytes -= self.messages.drain(..from).map(|message| size(&message)).sum::<usize>();
            self.beginnings.retain_mut(|beginning| {
                let stays = beginning.at >= from;
                beginning.at = beginning.at.saturating_sub(from);
                stays
            });
        }
    }

    /// What comes next in the task.
    pub(crate) fn next(&self) -> Next {
        if self.refused {
            return Next::Refused;
        }
        if let Some(pending) = &self.pending {
            let open = pending.results.iter().position(Option::is_none);
            return open.map_or(Next::Ask, Next::Call);
        }
        self.answer.clone().map_or(Next::Ask, Next::Complete)
    }

    /// Running time of the task until now, in milliseconds.
    pub(crate) fn ran_ms(&self, now_ms: i64) -> i64 {
        self.run_ms + self.since_ms.map_or(0, |since| (now_ms - since).max(0))
    }

    /// The conversation as a model is given it: the newest tasks whole, as many as fit.
    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages[self.given_from()..]
    }

    /// From which message on a model is given it. The newest task is given whatever its size.
    fn given_from(&self) -> usize {
        let (mut left, mut from) = (self.bytes, 0);
        for tasks in self.beginnings.windows(2) {
            if left <= config::CONVERSATION_BYTES {
                break;
            }
            left -= self.messages[tasks[0].at..tasks[1].at].iter().map(size).sum::<usize>();
            from = tasks[1].at;
        }
        from
    }

    /// Whether older tasks than those in it are not given to a model any more, so that they need not be known.
    pub(crate) fn reaches_back_far_enough(&self) -> bool {
        self.shortened || self.given_from() > 0
    }

    /// The content of the oldest task in it.
    pub(crate) fn oldest_content(&self) -> Option<ContentId> {
        self.beginnings.first().map(|beginning| beginning.content_id)
    }

    /// Bytes of text in it.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Bytes of text in a message.
fn size(message: &Message) -> usize {
    match message {
        Message::User { text } => text.len(),
        Message::Assistant { text, tool_calls, verbatim } => {
            let calls: usize = tool_calls.iter().map(|call| call.input.len() + call.name.len()).sum();
            text.len() + calls + verbatim.as_ref().map_or(0, |verbatim| verbatim.content.len())
        }
        Message::Tools { results } => results.iter().map(|result| result.text.len()).sum(),
    }
}

const ERASED: &str = "[erased]";
const INTERRUPTED: &str =
    "[interrupted] The server was restarted while this ran. It is not known whether it took effect.";
const NOT_CALLED: &str = "[not called] The task ended before this was called.";

#[cfg(test)]
pub(super) mod tests {
    use theazo_domain::agent::{Cause, Paused, TaskClaimed, TaskCreated, Tokens, ToolFinished, ToolStarted};
    use theazo_domain::charge::{Booking, Place};
    use theazo_domain::id::{AgentId, ContentId, OrganizationId, SessionId, UserId};
    use ulid::Ulid;

    use super::*;

    fn place() -> Place {
        let ulid = Ulid::from_parts(1, 1);
        Place {
            agent_id: AgentId::from_ulid(ulid),
            session_id: SessionId::from_ulid(ulid),
            user_id: UserId::from_ulid(ulid),
            organization_id: OrganizationId::from_ulid(ulid),
        }
    }

    pub(in crate::runtime) fn reference(number: u64) -> ContentRef {
        ContentRef { content_id: ContentId::from_ulid(Ulid::from_parts(number, 0)), sha256: String::new() }
    }

    pub(in crate::runtime) fn task(number: u64) -> Event {
        let task_id = TaskId::from_ulid(Ulid::from_parts(number, 0));
        Event::TaskCreated(TaskCreated { place: place(), task_id, task: reference(number), waits: false })
    }

    pub(in crate::runtime) fn settled(task: u64, reply: u64) -> Event {
        Event::CallSettled(CallSettled {
            place: place(),
            task_id: TaskId::from_ulid(Ulid::from_parts(task, 0)),
            call_id: CallId::from_ulid(Ulid::from_parts(reply, 0)),
            model: "m".into(),
            tokens: Tokens::default(),
            stop: Stop::Complete,
            reply: reference(reply),
            tool_calls: 0,
            vendor_id: None,
            late: false,
            booking: Booking::default(),
        })
    }

    pub(in crate::runtime) fn tool(number: u64, index: u32) -> Event {
        Event::ToolStarted(ToolStarted {
            place: place(),
            task_id: TaskId::from_ulid(Ulid::from_parts(1, 0)),
            call_id: CallId::from_ulid(Ulid::from_parts(2, 0)),
            index,
            tool_call_id: ToolCallId::from_ulid(Ulid::from_parts(number, 0)),
            tool: "run_code".into(),
            input: reference(99),
        })
    }

    pub(in crate::runtime) fn finished(number: u64, result: Option<u64>) -> Event {
        Event::ToolFinished(ToolFinished {
            place: place(),
            task_id: TaskId::from_ulid(Ulid::from_parts(1, 0)),
            tool_call_id: ToolCallId::from_ulid(Ulid::from_parts(number, 0)),
            tool: "run_code".into(),
            result: result.map(reference),
            is_error: result.is_none(),
            duration_ms: 1,
        })
    }

    fn bodies(all: &[(u64, &str)]) -> Bodies {
        let body =
            |(number, body): &(u64, &str)| (reference(*number).content_id.to_string(), (*body).to_owned());
        all.iter().map(body).collect()
    }

    fn told(events: &[Event], bodies: &Bodies) -> Conversation {
        let mut conversation = Conversation::default();
        for event in events {
            conversation.fold(Timestamp::default(), event, bodies);
        }
        conversation
    }

    const CALLS: &str = r#"{"text":"Let me see.","tool_calls":[{"id":"a","name":"run_code","input":"{}"},
        {"id":"b","name":"run_code","input":"{}"}]}"#;

    #[test]
    fn tools_are_called_one_after_the_other_and_then_the_model_is_asked_again() {
        let bodies = bodies(&[(1, "Do it."), (2, CALLS), (3, "3"), (4, "4")]);
        let mut events = vec![task(1), settled(1, 2)];
        assert!(matches!(told(&events[..1], &bodies).next(), Next::Ask));
        assert!(matches!(told(&events, &bodies).next(), Next::Call(0)));
        events.extend([tool(10, 0), finished(10, Some(3))]);
        assert!(matches!(told(&events, &bodies).next(), Next::Call(1)));
        events.extend([tool(11, 1), finished(11, Some(4))]);
        let conversation = told(&events, &bodies);
        assert!(matches!(conversation.next(), Next::Ask));
        let Some(Message::Tools { results }) = conversation.messages().last() else { panic!("results") };
        assert_eq!(results.iter().map(|result| result.text.as_str()).collect::<Vec<_>>(), ["3", "4"]);
    }

    #[test]
    fn what_a_crash_left_open_is_told_to_the_model() {
        let bodies = bodies(&[(1, "Do it."), (2, CALLS)]);
        let events =
            [task(1), settled(1, 2), tool(10, 0), finished(10, None), tool(11, 1), finished(11, None)];
        let conversation = told(&events, &bodies);
        let Some(Message::Tools { results }) = conversation.messages().last() else { panic!("results") };
        assert!(results.iter().all(|result| result.is_error && result.text.starts_with("[interrupted]")));
    }

    #[test]
    fn a_task_after_one_that_was_given_up_makes_a_conversation_that_vendors_accept() {
        let bodies = bodies(&[(1, "First."), (2, CALLS), (5, "Second."), (6, "Third.")]);
        let conversation = told(&[task(1), settled(1, 2), task(5), task(6)], &bodies);
        let roles: Vec<_> = conversation
            .messages()
            .iter()
            .map(|message| match message {
                Message::User { .. } => "user",
                Message::Assistant { .. } => "assistant",
                Message::Tools { .. } => "tools",
            })
            .collect();
        assert_eq!(roles, ["user", "assistant", "tools", "user"]);
        assert_eq!(conversation.task_text, "Third.");
    }

    #[test]
    fn running_time_leaves_out_pauses_and_the_time_in_which_no_server_was_at_it() {
        let bodies = bodies(&[(1, "Do it."), (2, CALLS)]);
        let mut conversation = Conversation::default();
        let mut at = |ms, event| conversation.fold(Timestamp::from_millis(ms), &event, &bodies);
        let claimed = |ms| {
            let (place, task_id) = (place(), TaskId::from_ulid(Ulid::from_parts(1, 0)));
            Event::TaskClaimed(TaskClaimed { place, task_id, epoch: 1, at: Timestamp::from_millis(ms) })
        };
        at(0, task(1));
        at(1_000, claimed(1_000));
        at(3_000, settled(1, 2));
        at(3_500, tool(10, 0));
        // Its server is killed, and another takes it up a minute later.
        at(60_000, finished(10, None));
        at(60_000, claimed(60_000));
        at(61_000, tool(11, 1));
        let moment = Timestamp::from_millis(62_000);
        at(62_000, Event::AgentPaused(Paused { place: place(), cause: Cause::Caller, at: moment }));
        at(99_000, claimed(99_000));
        assert_eq!(conversation.ran_ms(100_000), 2_500 + 2_000 + 1_000);
    }

    #[test]
    fn an_answer_that_the_vendors_rules_ended_is_no_output() {
        let bodies = bodies(&[(1, "Do it."), (2, r#"{"text":""}"#), (5, "Something else.")]);
        let Event::CallSettled(mut refused) = settled(1, 2) else { panic!("a call") };
        refused.stop = Stop::Refusal;
        let events = [task(1), Event::CallSettled(refused), task(5)];
        assert!(matches!(told(&events[..2], &bodies).next(), Next::Refused));
        assert!(matches!(told(&events, &bodies).next(), Next::Ask));
    }

    #[test]
    fn an_answer_without_tools_is_the_output() {
        let bodies = bodies(&[(1, "Do it."), (2, r#"{"text":"Done."}"#)]);
        let conversation = told(&[task(1), settled(1, 2)], &bodies);
        assert!(matches!(conversation.next(), Next::Complete(output) if output == reference(2)));
    }
}
