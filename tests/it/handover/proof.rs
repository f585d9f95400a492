//! What has to hold of runs, whatever was killed meanwhile: read from the log, the workspaces and the API.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::World;
use crate::support::wait::until_async;

/// What a crash had left open.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) lost: usize,
    pub(super) interrupted: usize,
}

/// The events about something, in order.
async fn events(client: &Client, subject: &str) -> Vec<(String, Value)> {
    let sql = "select e.type, e.data::text from event_subjects s join events e using (tenant_id, position)
               where s.subject = $1 order by position";
    let rows = client.query(sql, &[&subject]).await.unwrap();
    let event = |row: &tokio_postgres::Row| {
        (row.get(0), serde_json::from_str(row.get::<_, &str>(1)).expect("data is JSON"))
    };
    rows.iter().map(event).collect()
}

fn text<'a>(data: &'a Value, name: &str) -> &'a str {
    data[name].as_str().unwrap_or_else(|| panic!("{name} of {data}"))
}

/// The labels of the tools that an agent has begun, in order: the turn of the model and the place in it.
pub(super) async fn labels(client: &Client, agent: &str) -> Vec<String> {
    let events = events(client, agent).await;
    let mut labels = Labels::default();
    events.iter().filter_map(|(kind, data)| labels.fold(kind, data)).collect()
}

/// Which turn each answer of the model is.
#[derive(Default)]
struct Labels(BTreeMap<String, usize>);

impl Labels {
    fn fold(&mut self, kind: &str, data: &Value) -> Option<String> {
        match kind {
            "model.call_settled" => {
                let turn = self.0.len();
                self.0.insert(text(data, "callId").to_owned(), turn);
                None
            }
            "tool.started" => Some(format!("{}.{}", self.0[text(data, "callId")], data["index"])),
            _ => None,
        }
    }
}

/// Every run comes to one answer; nothing that was recorded has happened twice; what was open is closed; and the money
/// adds up.
pub(super) async fn all_is_whole(world: &World) -> Seen {
    let mut seen = Seen::default();
    for (agent, task) in &world.tasks {
        let path = format!("/v1/tasks/{task}");
        let ended = until_async("the run to end", async || {
            let shown = world.get(&path).await;
            (shown["status"] != "running").then_some(shown)
        })
        .await;
        assert_eq!((&ended["status"], &ended["output"]), (&json!("completed"), &json!("All done.")));
        one_run(world, agent, &mut seen).await;
        world.post(0, &format!("/v1/agents/{agent}/terminate"), json!({})).await;
        until_async("the sandbox to go", async || {
            let events = events(&world.client, agent).await;
            events.iter().any(|(kind, _)| kind == "agent.released").then_some(())
        })
        .await;
    }
    the_money_adds_up(world, &seen).await;
    for sound in [&["log", "verify"][..], &["projection", "compare"]] {
        world.place.command(sound).await;
    }
    seen
}

async fn one_run(world: &World, agent: &str, seen: &mut Seen) {
    let (mut labels, mut effects) = (Labels::default(), world.effects(agent));
    let mut open = BTreeMap::new();
    let (mut calls, mut tools) = (BTreeSet::new(), BTreeSet::new());
    let (mut epoch, mut ends) = (0, 0);
    for (kind, data) in events(&world.client, agent).await {
        let label = labels.fold(&kind, &data);
        match kind.as_str() {
            "task.claimed" => {
                epoch += 1;
                assert_eq!(data["epoch"], epoch);
                assert!(open.is_empty(), "what was open is closed before anyone goes on: {open:?}");
            }
            "model.call_opened" => {
                assert!(calls.insert(text(&data, "callId").to_owned()), "a call is made once");
                open.insert(text(&data, "callId").to_owned(), String::new());
            }
            "model.call_settled" | "model.call_lost" | "model.call_released" => {
                open.remove(text(&data, "callId")).expect("it was open");
                seen.lost += usize::from(kind == "model.call_lost");
                assert_ne!(kind, "model.call_released", "nobody refused a call: {data}");
            }
            "tool.started" => {
                let label = label.expect("a tool has a label");
                assert!(tools.insert(label.clone()), "{label} was started twice");
                assert!(open.insert(text(&data, "toolCallId").to_owned(), label).is_none());
            }
            "tool.finished" => {
                let label = open.remove(text(&data, "toolCallId")).expect("it was open");
                let times = effects.iter().filter(|effect| **effect == label).count();
                if data["result"].is_null() {
                    seen.interrupted += 1;
                    assert!(times <= 1, "{label} was interrupted, and took effect {times} times");
                } else {
                    assert_eq!(times, 1, "{label} is recorded, and took effect {times} times");
                }
            }
            "task.completed" => ends += 1,
            "task.failed" | "task.cancelled" | "agent.failed" => panic!("{kind}: {data}"),
            _ => {}
        }
    }
    assert!(open.is_empty(), "{open:?} was left open");
    assert_eq!(ends, 1, "a run ends once");
    effects.retain(|effect| !tools.contains(effect));
    assert!(effects.is_empty(), "{effects:?} happened, and no tool was started for it");
}

/// What the session shows is the sum of what its events book, and nothing is held any more.
async fn the_money_adds_up(world: &World, seen: &Seen) {
    let (mut reserved, mut cost, mut unconfirmed) = (Decimal::ZERO, Decimal::ZERO, Decimal::ZERO);
    let amount = |value: &Value| value.as_str().map_or(Decimal::ZERO, |text| text.parse().unwrap());
    let sum = |charges: &Value| -> Decimal {
        charges.as_array().into_iter().flatten().map(|charge| amount(&charge["cost"])).sum()
    };
    for (kind, data) in events(&world.client, &world.session).await {
        let booking = &data["booking"];
        reserved += amount(&booking["reserved"]) - amount(&booking["released"]);
        cost += sum(&booking["charges"]);
        unconfirmed += sum(&booking["unconfirmed"]);
        assert!(reserved >= Decimal::ZERO, "{kind} releases more than is held");
    }
    assert_eq!(reserved, Decimal::ZERO, "no reservation stays open");
    assert!(cost > Decimal::ZERO && (unconfirmed > Decimal::ZERO) == (seen.lost > 0));
    let usage = world.get(&format!("/v1/sessions/{}/usage", world.session)).await;
    let exact = |name: &str| amount(&usage[name]["exact"]);
    assert_eq!((exact("reserved"), exact("cost")), (Decimal::ZERO, cost), "{usage}");
    assert_eq!(exact("unconfirmed"), unconfirmed, "{usage}");
}
