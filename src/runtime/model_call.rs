//! A call to a model: its worst case is held before it is made, and what it used is charged after.

use std::time::{Duration, Instant};

use serde_json::Value;
use theazo_domain::Event;
use theazo_domain::agent::{Answer, Command, Opening, Stop, Tokens};
use theazo_domain::id::CallId;
use theazo_domain::organization::Mode;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::after_stop;
use super::agent_loop::{Acted, Run, ends, spent};
use super::conversation::Reply as Said;
use crate::log::{Content, Failure, Stored, codec};
use crate::providers::model::{
    self, Call, CallError, Model, Prepared, Reply, ToolCall, Until, Vendor, Verbatim,
};
use crate::providers::tools::input;
use crate::{config, planted, random};

/// The types of events after which a run does not go on.
const RESTS_END: [&str; 4] = ["agent.paused", "agent.terminated", "agent.failed", "task.failed"];

impl Run<'_> {
    /// Asks the model what comes next.
    pub(super) async fn ask(&mut self, left: Duration) -> Result<Acted, Failure> {
        let began = Instant::now();
        let app = self.desk.app;
        let vendor = Vendor::of(&self.model.id);
        let (model, key, own_key) = if self.desk.tenant.mode == Mode::Test {
            (app.models.mock(), Zeroizing::new(String::new()), false)
        } else {
            let own = self.secrets.value(vendor.key_name()).cloned();
            let key = own.clone().or_else(|| app.models.key(vendor).cloned());
            let Some(key) = key.or_else(|| app.models.needs_no_key(vendor).then(Zeroizing::default)) else {
                let message = format!("There is no key for the model's vendor: set {}.", vendor.key_name());
                return self.fail("provider_error", &message).await;
            };
            (app.models.at(vendor), key, own.is_some())
        };
        let prepared = model.prepare(&self.request());
        let call_id = CallId::from_ulid(random::ulid(app.clock.now()));
        let opening = self.opening(call_id, own_key, &prepared).await?;
        let stopping = || *app.stopping.borrow();
        if stopping() {
            return Ok(Acted::Ended);
        }
        let Some(events) = self.tell(Command::OpenCall(opening), vec![]).await? else {
            return Ok(Acted::Ended);
        };
        if !events.iter().any(|recorded| matches!(recorded.event, Event::CallOpened(_))) {
            return Ok(Acted::Ended);
        }
        let asked = Instant::now();
        // The server may have been told to stop while the call was written down: then it is not made.
        let answered = if stopping() {
            Err(CallError::NotSent(model::STOPPED.to_owned()))
        } else {
            self.send(model, &prepared, &key, left).await
        };
        let took = asked.elapsed();
        spent("model", took);
        let was_answered = answered.is_ok();
        let acted = self.settle(call_id, answered).await;
        if was_answered {
            let added = began.elapsed().saturating_sub(took);
            metrics::histogram!("theazo_model_call_overhead_seconds").record(added);
        }
        acted
    }

    fn request(&self) -> Call {
        let tools = self.agent.config.tools.iter().flatten().map(|tool| input::description(*tool));
        Call {
            model: self.model.id.clone(),
            system: self.agent.instructions.clone().filter(|instructions| !instructions.is_empty()),
            messages: self.conversation.messages().to_vec(),
            tools: tools.collect(),
            max_tokens: self.max_tokens(),
            temperature: self
                .model
                .temperature
                .and_then(|temperature| serde_json::from_str(&temperature.to_string()).ok()),
        }
    }

    fn max_tokens(&self) -> u32 {
        let tokens = self.model.max_tokens.and_then(|tokens| u32::try_from(tokens).ok());
        tokens.unwrap_or(config::DEFAULT_MAX_TOKENS)
    }

    async fn opening(&self, call_id: CallId, own_key: bool, prepared: &Prepared) -> Result<Opening, Failure> {
        let input = u64::try_from(prepared.body.len()).unwrap_or(u64::MAX);
        let worst_case = Tokens { input, output: prepared.most_output, ..Tokens::default() };
        // What tokens cost: nothing with a key of the organization's own.
        let card = self.desk.app.rates(self.desk.tenant.id).await?;
        let rates = if own_key { card.free() } else { card.model(&self.model.id) };
        let (epoch, model) = (self.epoch, self.model.id.clone());
        Ok(Opening { epoch, call_id, model, own_key, worst_case, rates })
    }

    async fn send(
        &self,
        model: &dyn Model,
        prepared: &Prepared,
        key: &Zeroizing<String>,
        left: Duration,
    ) -> Result<Reply, CallError> {
        let deadline = left.min(config::MODEL_CALL_DEADLINE);
        let mut deltas = |_: &str| {};
        if planted::strikes("unlogged-call", 5) {
            let _ = model.send(prepared, key, deadline.into(), &mut deltas).await;
        }
        // Whoever goes on after a stop makes another call. What this one has told by then would be known to nobody.
        let until = Until { deadline, stop: Box::pin(after_stop(self.desk.app, config::CALLS_LAST_MOMENT)) };
        // What sends it ends by itself, and tells what had come by then.
        let patience = deadline + config::MODEL_CALL_GRACE;
        match timeout(patience, model.send(prepared, key, until, &mut deltas)).await {
            Ok(answered) => answered,
            Err(_) => Err(CallError::untold("it took longer than it may".to_owned())),
        }
    }

    async fn settle(
        &mut self,
        call_id: CallId,
        answered: Result<Reply, CallError>,
    ) -> Result<Acted, Failure> {
        // Where that cannot be done nothing of the answer may be kept: whoever goes on closes the call as lost.
        let until = Instant::now() + config::TOLD_AGAIN;
        while let Err(error) = self.secrets.renew(self.desk).await {
            if Instant::now() > until {
                return Err(Failure::Internal(error.to_string()));
            }
            sleep(config::TOLD_AGAIN_REST).await;
        }
        match answered {
            Ok(reply) => {
                self.failures = 0;
                self.answered(call_id, reply).await
            }
            Err(CallError::BrokeOff { message, vendor_id, usage: told, .. }) => {
                let reason = self.secrets.mask_up_to(&message, true);
                let vendor_id = vendor_id.as_deref().map(|id| self.secrets.mask(id));
                self.again(
                    Command::LoseCall { call_id, reason, vendor_id, told },
                    &message,
                    Some(Duration::ZERO),
                )
                .await
            }
            Err(error) => {
                let rest = match &error {
                    CallError::Refused { retry_after: Some(rest), .. } => *rest,
                    _ => config::MODEL_REST * 2_u32.saturating_pow(self.failures),
                };
                let rest = error.may_be_repeated().then_some(rest);
                let reason = self.secrets.mask_up_to(&error.to_string(), true);
                let message = error.to_string();
                self.again(Command::ReleaseCall { call_id, reason }, &message, rest).await
            }
        }
    }

    /// Closes a call that came to nothing, and makes another after a rest, unless there were too many.
    async fn again(
        &mut self,
        closing: Command,
        message: &str,
        rest: Option<Duration>,
    ) -> Result<Acted, Failure> {
        let Some(events) = self.tell_surely(closing, vec![]).await? else { return Ok(Acted::Ended) };
        // A call that was broken off since the server stops says nothing of its vendor.
        if ends(&events) || *self.desk.app.stopping.borrow() {
            return Ok(Acted::Ended);
        }
        self.failures += 1;
        match rest {
            Some(rest) if self.failures <= config::MODEL_REPEATS => {
                self.rest(rest.min(config::MODEL_LONGEST_REST)).await?;
                Ok(Acted::On)
            }
            _ => self.fail("provider_error", message).await,
        }
    }

    /// Waits before the next call: no longer than the run may take, and than it is to go on at all.
    async fn rest(&self, rest: Duration) -> Result<(), Failure> {
        let app = self.desk.app;
        let mut reader = app.log.follow(self.desk.tenant, None).await?;
        let id = self.agent.id.to_string();
        let told_off = async {
            loop {
                let events = reader.next().await?;
                let ends = |stored: &Stored| RESTS_END.contains(&stored.kind.as_str());
                if events.iter().any(|stored| ends(stored) && stored.subjects.contains(&id)) {
                    return Ok(());
                }
            }
        };
        let rested = timeout(rest.min(self.time_left()), told_off);
        tokio::select! {
            rested = rested => rested.unwrap_or(Ok(())),
            // Whoever goes on need not rest.
            () = after_stop(app, Duration::ZERO) => Ok(()),
        }
    }

    /// A call of a tool without secrets. Ids and names have to be such as vendors take back.
    fn masked(&self, index: usize, call: ToolCall) -> ToolCall {
        let word = |word: String, instead: String| if self.secrets.are_in(&word) { instead } else { word };
        ToolCall {
            id: word(call.id, format!("masked_{index}")),
            name: word(call.name, "masked".to_owned()),
            input: self.secrets.mask(&call.input),
        }
    }

    /// Whether no secret is in what has to be given back word for word. What a vendor has signed cannot be masked, since
    /// it would be refused; it is left out as a whole, and the model is given its masked text and calls instead.
    fn may_be_kept(&self, verbatim: &Verbatim) -> bool {
        let Ok(value) = serde_json::from_str(&verbatim.content) else { return false };
        // One text may lie in several blocks, and each of them in escapes.
        let mut all = String::new();
        texts(&value, &mut all);
        [&all, &verbatim.content, &verbatim.model].iter().all(|text| !self.secrets.are_in(text))
    }

    async fn answered(&mut self, call_id: CallId, reply: Reply) -> Result<Acted, Failure> {
        let calls = reply.tool_calls.into_iter().enumerate();
        let tool_calls: Vec<ToolCall> = calls.map(|(index, call)| self.masked(index, call)).collect();
        let text = self.secrets.mask(&reply.text);
        let verbatim = reply.verbatim.filter(|verbatim| self.may_be_kept(verbatim));
        let count = u32::try_from(tool_calls.len()).unwrap_or(u32::MAX);
        let said = Said { text, tool_calls, verbatim };
        let body = serde_json::to_string(&said).expect("an answer is plain data");
        let body = codec::storable_json(&body).into_owned();
        let (content, reference) = Content::new(self.desk.app.clock.now(), body);
        let times = if planted::strikes("doubled-usage", 5) { 2 } else { 1 };
        let answer = Answer {
            call_id,
            tokens: reply.usage.map(|used| Tokens { output: used.output * times, ..used }),
            stop: reply.stop,
            reply: reference,
            tool_calls: count,
            vendor_id: reply.vendor_id.as_deref().map(|id| self.secrets.mask(id)),
            completes: count == 0 && reply.stop != Stop::Refusal,
        };
        let Some(events) = self.tell_surely(Command::SettleCall(answer), vec![content]).await? else {
            return Ok(Acted::Ended);
        };
        // Whoever gave the call up has taken the task.
        let given_up = events.iter().any(|recorded| matches!(recorded.event, Event::CallReconciled(_)));
        Ok(if given_up || ends(&events) { Acted::Ended } else { Acted::On })
    }
}

/// All texts in a value, one after the other.
fn texts(value: &Value, all: &mut String) {
    match value {
        Value::String(text) => all.push_str(text),
        Value::Array(values) => values.iter().for_each(|value| texts(value, all)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, all)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
