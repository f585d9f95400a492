//! Holds the log against the client's account, and the read models against the log.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Round;
use crate::load::{Effect, Entry, Outcome};

/// What an operator has made with the organization, before anybody asked for anything.
const OF_THE_OPERATOR: [&str; 3] = ["organization.created", "rates.imported", "key.created"];

/// What the server does by itself: the work of agents, and what becomes of their sandboxes.
const OF_THE_SERVER: [&str; 18] = [
    "agent.provisioned",
    "agent.paused",
    "agent.suspended",
    "agent.woken",
    "agent.released",
    "task.claimed",
    "task.completed",
    "model.call_opened",
    "model.call_settled",
    "model.call_released",
    "model.call_lost",
    "model.call_reconciled",
    "tool.started",
    "tool.finished",
    "compute.started",
    "compute.ticked",
    "compute.stopped",
    "storage.metered",
];

/// What happens besides, in the same moment, where this is asked for.
fn besides(event: &str) -> &'static [&'static str] {
    match event {
        "session.paused" => &["agent.pause_requested", "agent.paused", "compute.stopped"],
        "session.resumed" => &["agent.resumed", "compute.started"],
        "session.terminated" => &["agent.terminated", "task.cancelled", "compute.stopped", "storage.metered"],
        "agent.terminated" => &["task.cancelled", "compute.stopped", "storage.metered"],
        "agent.paused" => &["compute.stopped"],
        "agent.resumed" => &["compute.started"],
        _ => &[],
    }
}

/// An event of the log.
struct Event {
    position: i64,
    kind: String,
    /// Its subjects, and the name that it gives.
    about: Vec<String>,
    actor: String,
    /// The call, the call of a tool, the task and the agent that it names.
    names: [Option<String>; 4],
}

impl Round<'_> {
    /// What was acknowledged is in the log, once; nothing else is; and what is read says the same.
    pub(super) async fn check(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let wrong = self.compare_with_account().await?;
        let organization = ["--org", &self.tenant.organization];
        let verify = [&["log", "verify"][..], &organization].concat();
        let compare = [&["projection", "compare"][..], &organization].concat();
        let (verified, compared) =
            tokio::join!(self.load.place.verdict(&verify), self.load.place.verdict(&compare));
        let ((sound, told), (same, reports)) = (verified?, compared?);
        let findings = &mut self.findings;
        wrong.into_iter().for_each(|wrong| findings.violation(wrong));
        findings.claim(sound, || format!("the log is not sound: {told}"));
        for report in
            reports["data"].as_array().into_iter().flatten().filter(|report| report["equal"] != true)
        {
            findings.violation(format!("a read model differs from a refold of the log: {report}"));
        }
        findings.claim(same, || "read models differ from a refold of the log".to_owned());
        findings.did("logs folded again", 1);
        findings.did("milliseconds of checks", u64::try_from(began.elapsed().as_millis())?);
        Ok(())
    }

    /// What is wrong with the log, by the client's account.
    async fn compare_with_account(&self) -> anyhow::Result<Vec<String>> {
        // The account is read first: what is written into it later may or may not have happened by now.
        let entries = self.load.account.operations()?;
        let sql = "select e.position, e.type, e.subjects, e.data->>'name', e.metadata->>'actor',
                          e.metadata->>'idempotencyKey', e.data->>'callId', e.data->>'toolCallId', e.data->>'taskId',
                          e.data->'place'->>'agentId'
                   from events e join tenants t using (tenant_id) where t.organization_id = $1
                   order by t.mode, e.position";
        let mut wrong = vec![];
        let mut asked: BTreeMap<String, Vec<Event>> = BTreeMap::new();
        let mut ended: BTreeMap<(&'static str, String), i64> = BTreeMap::new();
        for row in self.load.place.superuser().await?.query(sql, &[&self.tenant.organization]).await? {
            let (mut about, name): (Vec<String>, Option<String>) = (row.get(2), row.get(3));
            about.extend(name);
            let names = [row.get(6), row.get(7), row.get(8), row.get(9)];
            let event = Event { position: row.get(0), kind: row.get(1), about, actor: row.get(4), names };
            if let Some(step) = step(&event)
                && let Some(before) = ended.insert(step, event.position)
            {
                wrong.push(format!(
                    "{} happened twice, at {before} before",
                    told(std::slice::from_ref(&event))
                ));
            }
            if let Some(key) = row.get(5) {
                asked.entry(key).or_default().push(event);
            } else {
                wrong.extend(unasked(&event));
            }
        }
        for (key, entry) in &entries {
            wrong.extend(compare(entry, &asked.remove(key).unwrap_or_default()));
        }
        for (key, events) in asked {
            wrong.push(format!("nobody asked for {} under {key}", told(&events)));
        }
        Ok(wrong)
    }
}

/// The step that an event is, of a life in which each comes once: a call and a task end in one way, a tool that is called is
/// called once.
fn step(Event { kind, names: [call, tool_call, task, agent], .. }: &Event) -> Option<(&'static str, String)> {
    let (step, of) = match &**kind {
        "model.call_opened" => ("a call's start", call),
        "model.call_settled" | "model.call_released" | "model.call_lost" => ("a call's end", call),
        "model.call_reconciled" => ("a call's answer behind its end", call),
        "tool.started" => ("a tool's start", tool_call),
        "tool.finished" => ("a tool's end", tool_call),
        "task.created" => ("a task's start", task),
        "task.completed" | "task.failed" | "task.cancelled" => ("a task's end", task),
        "agent.created" => ("an agent's start", agent),
        "agent.provisioned" => ("a sandbox's start", agent),
        "agent.terminated" | "agent.failed" => ("an agent's end", agent),
        "agent.released" => ("a sandbox's end", agent),
        _ => return None,
    };
    Some((step, of.clone()?))
}

/// What is wrong with an event that no request with a key has made happen: each of the client's has one, so that it
/// is the server's own, or something was done again without it.
fn unasked(Event { position, kind, actor, .. }: &Event) -> Option<String> {
    let right = match actor.as_str() {
        "system" => OF_THE_SERVER.contains(&&**kind),
        "operator" => OF_THE_OPERATOR.contains(&&**kind),
        _ => false,
    };
    (!right).then(|| format!("position {position}: nobody asked for {kind}, by {actor}"))
}

/// What is wrong with what an operation has made happen.
fn compare(entry: &Entry<Effect>, events: &[Event]) -> Option<String> {
    let asked_for = |event: &&Event| Some(&event.kind) == entry.what.event.as_ref();
    let times = events.iter().filter(asked_for).count();
    let wrong = |how: &str| Some(format!("{entry:?} {how}: {}", told(events)));
    match entry.outcome {
        Outcome::Ok if times == 0 => return wrong("was acknowledged and never happened"),
        Outcome::Refused if !events.is_empty() => return wrong("was refused and happened"),
        _ if times > 1 => return wrong(&format!("happened {times} times")),
        _ => {}
    }
    let meant = |event: &Event| entry.what.about.iter().all(|id| event.about.contains(id));
    if events.iter().filter(asked_for).any(|event| !meant(event)) {
        return wrong("is about something else");
    }
    let besides = besides(entry.what.event.as_deref().unwrap_or_default());
    let mut others = events.iter().filter(|event| !asked_for(event));
    if others.any(|other| times == 0 || !besides.contains(&&*other.kind)) {
        return wrong("made something else happen");
    }
    None
}

fn told(events: &[Event]) -> String {
    let told =
        events.iter().map(|Event { position, kind, about, .. }| format!("{position} {kind} {about:?}"));
    told.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Ask;

    fn event(kind: &str, about: &[&str], actor: &str) -> Event {
        let about = about.iter().map(|id| (*id).to_owned()).collect();
        let names = [Some("call_1".to_owned()), None, Some("task_1".to_owned()), None];
        Event { position: 7, kind: kind.to_owned(), about, actor: actor.to_owned(), names }
    }

    fn entry(event: Option<&str>, outcome: Outcome) -> Entry<Effect> {
        let mut effect = Effect::of("", &["ses_1"]);
        effect.event = event.map(str::to_owned);
        Entry { outcome, sent: 1, ..Entry::intended(&Ask::post("/v1/sessions", None).once("key"), effect) }
    }

    #[test]
    fn what_was_acknowledged_has_happened_once_and_to_what_it_was_asked_for() {
        let paused = || event("session.paused", &["ses_1", "usr_1"], "key_1");
        let acknowledged = entry(Some("session.paused"), Outcome::Ok);
        assert_eq!(compare(&acknowledged, &[paused()]), None);
        assert!(compare(&acknowledged, &[]).is_some());
        assert!(compare(&acknowledged, &[paused(), paused()]).is_some());
        assert!(compare(&acknowledged, &[event("session.paused", &["ses_2"], "key_1")]).is_some());
        assert_eq!(compare(&acknowledged, &[event("agent.paused", &["agt_1"], "key_1"), paused()]), None);
        assert!(compare(&acknowledged, &[paused(), event("agent.created", &["agt_1"], "key_1")]).is_some());
    }

    #[test]
    fn what_was_refused_has_not_happened_and_what_is_unknown_at_most_once() {
        let paused = || event("session.paused", &["ses_1"], "key_1");
        assert_eq!(compare(&entry(None, Outcome::Refused), &[]), None);
        assert!(compare(&entry(None, Outcome::Refused), &[paused()]).is_some());
        let unknown = entry(Some("session.paused"), Outcome::Unknown);
        assert_eq!(compare(&unknown, &[]), None);
        assert_eq!(compare(&unknown, &[paused()]), None);
        assert!(compare(&unknown, &[paused(), paused()]).is_some());
    }

    #[test]
    fn an_event_without_a_key_is_the_servers_own() {
        assert_eq!(unasked(&event("task.completed", &[], "system")), None);
        assert_eq!(unasked(&event("key.created", &[], "operator")), None);
        assert!(unasked(&event("session.paused", &[], "system")).is_some());
        assert!(unasked(&event("task.completed", &[], "key_1")).is_some());
    }

    #[test]
    fn a_call_and_a_task_end_once_in_one_way() {
        let step = |kind: &str| step(&event(kind, &[], "system"));
        assert_eq!(step("model.call_settled"), step("model.call_lost"));
        assert_eq!(step("task.completed"), step("task.cancelled"));
        assert_ne!(step("model.call_opened"), step("model.call_settled"));
        assert_ne!(step("model.call_lost"), step("model.call_reconciled"));
        assert_eq!(step("tool.started"), None);
        assert_eq!(step("compute.ticked"), None);
    }
}
