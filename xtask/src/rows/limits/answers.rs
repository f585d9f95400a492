//! What the client was answered, held against the log: what was acknowledged has happened, what was refused by a limit was
//! refused in the log by the same one, and nothing else has happened.

use std::collections::BTreeMap;

use serde_json::Value;

use super::asks::{Asked, Work};
use super::walk::Happened;
use crate::prove::Findings;

/// Holds all answers against what happened under their keys, and the other way round.
pub(super) fn hold(
    asks: &BTreeMap<String, Asked>,
    happened: &BTreeMap<String, Vec<Happened>>,
    findings: &mut Findings,
) {
    for (key, events) in happened {
        findings.claim(asks.contains_key(key), || format!("nobody asked {key}: {events:?}"));
    }
    let mut in_order: Vec<&Asked> = asks.values().collect();
    in_order.sort_unstable_by_key(|asked| asked.order);
    let mut set: BTreeMap<(bool, &str), Value> = BTreeMap::new();
    for asked in in_order {
        let events = happened.get(&asked.key).map_or(&[][..], Vec::as_slice);
        if asked.forgotten {
            // It may have been carried out twice, as is said of keys that are older than a day.
            findings.did("answers that outlived their keys", 1);
            continue;
        }
        findings.did("answers held against the log", 1);
        if let Err(wrong) = one(asked, events) {
            findings.violation(format!("{wrong}: {asked:?}, {events:?}"));
        }
        settings(asked, events, &mut set, findings);
    }
}

/// One answer.
fn one(asked: &Asked, events: &[Happened]) -> Result<(), &'static str> {
    let (status, kinds) = asked.work.done();
    let did = events.iter().filter(|event| kinds.contains(&&*event.kind)).collect::<Vec<_>>();
    let refused = events.iter().filter(|event| event.kind == "limit.refused").collect::<Vec<_>>();
    match asked.status {
        0 => Err("nobody has answered"),
        is if is == status => match (&did[..], &refused[..]) {
            (_, [_, ..]) => Err("acknowledged and refused"),
            ([event], []) if asked.work == Work::Run && asked.answer["taskId"] != event.task => {
                Err("another task")
            }
            ([_], []) => Ok(()),
            ([], []) if asked.work.may_be_done() => Ok(()),
            ([], []) => Err("acknowledged, and nothing has happened"),
            _ => Err("acknowledged once, and done twice"),
        },
        402 => {
            let limit = &asked.answer["error"]["details"]["limit"];
            match (&refused[..], events.len()) {
                ([event], 1) if Some(&*event.work) != asked.work.refused_as() => Err("other work is refused"),
                ([event], 1) if *limit != event.limit => Err("another limit"),
                ([_], 1) => Ok(()),
                _ => Err("refused by a limit, and the log knows nothing of it, or of more"),
            }
        }
        409 if !events.is_empty() => Err("not done, and something has happened"),
        // Where it stands, something else than a limit keeps it from the work; and each model has a price.
        409 if asked.work == Work::Run && says(asked, " is idle") => Err("nothing keeps it from its work"),
        409 if says(asked, "no price") => Err("its model has a price"),
        409 => Ok(()),
        _ => Err("no such answer is to be expected"),
    }
}

fn says(asked: &Asked, words: &str) -> bool {
    asked.answer["error"]["message"].as_str().is_some_and(|message| message.contains(words))
}

/// Settings that were acknowledged without an event were so already.
fn settings<'a>(
    asked: &'a Asked,
    events: &[Happened],
    set: &mut BTreeMap<(bool, &'a str), Value>,
    findings: &mut Findings,
) {
    if asked.status != asked.work.done().0 {
        return;
    }
    let (owner, wish) = match asked.work {
        Work::Session => ((false, asked.answer["id"].as_str().unwrap_or_default()), &asked.wish["limits"]),
        Work::Limits => ((false, &*asked.about), &asked.wish),
        Work::Budget => ((true, &*asked.about), &asked.wish),
        _ => return,
    };
    let mut wish = wish.clone();
    if let Some(wish) = wish.as_object_mut() {
        if asked.work == Work::Budget && wish.get("amount").is_none_or(Value::is_null) {
            wish.clear();
        }
        wish.retain(|_, value| !value.is_null());
    }
    let before = set.insert(owner, wish.clone()).unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    findings.claim(asked.work == Work::Session || !events.is_empty() || before == wish, || {
        format!("{} was set from {before} to {wish}, and the log does not know", asked.key)
    });
}
