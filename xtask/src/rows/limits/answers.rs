//! What the client was answered, held against the log: what was acknowledged has happened, what was refused by a limit was
//! refused in the log by the same one, and nothing else has happened.

use std::collections::BTreeMap;

use serde_json::Value;

use super::asks::{Asked, Asks, Work};
use super::walk::Happened;
use crate::load::Entry;
use crate::prove::Findings;

/// Holds all answers against what happened under their keys, and the other way round, but those whose keys may have been
/// forgotten.
pub(super) fn hold(
    asks: &Asks,
    happened: &BTreeMap<String, Vec<Happened>>,
    is_forgotten: impl Fn(&Asked) -> bool,
    findings: &mut Findings,
) {
    for (key, events) in happened {
        findings.claim(asks.contains_key(key), || format!("nobody asked {key}: {events:?}"));
    }
    let mut in_order: Vec<&Entry<Asked>> = asks.values().collect();
    in_order.sort_unstable_by_key(|entry| entry.line);
    let mut set: BTreeMap<(bool, &str), Value> = BTreeMap::new();
    for entry in in_order {
        let (key, asked) = (&entry.key, &entry.what);
        let events = happened.get(key).map_or(&[][..], Vec::as_slice);
        let is_new = setting(asked, &mut set);
        if is_forgotten(asked) {
            // It may have been carried out twice, as is said of keys that are older than a day.
            findings.did("answers that outlived their keys", 1);
            continue;
        }
        findings.did("answers held against the log", 1);
        if let Err(wrong) = one(asked, events) {
            findings.violation(format!("{wrong}: {entry:?}, {events:?}"));
        }
        // Settings that were acknowledged without an event were so already.
        if let Some((before, wish)) = is_new.filter(|_| asked.work != Work::Session && events.is_empty()) {
            findings.violation(format!("{key} was set from {before} to {wish}, and the log does not know"));
        }
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

/// Takes in what a setting was acknowledged to be; what it was before and is now, where that is something else.
fn setting<'a>(asked: &'a Asked, set: &mut BTreeMap<(bool, &'a str), Value>) -> Option<(Value, Value)> {
    if asked.status != asked.work.done().0 {
        return None;
    }
    let (owner, wish) = match asked.work {
        Work::Session => ((false, asked.answer["id"].as_str().unwrap_or_default()), &asked.wish["limits"]),
        Work::Limits => ((false, &*asked.about), &asked.wish),
        Work::Budget => ((true, &*asked.about), &asked.wish),
        _ => return None,
    };
    let mut wish = wish.clone();
    if let Some(wish) = wish.as_object_mut() {
        if asked.work == Work::Budget && wish.get("amount").is_none_or(Value::is_null) {
            wish.clear();
        }
        wish.retain(|_, value| !value.is_null());
    }
    let before = set.insert(owner, wish.clone()).unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    (before != wish).then_some((before, wish))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::prove::Run;

    /// Whether it is red that a budget was set once and then removed twice, where the log knows of these and the keys of
    /// those are forgotten.
    fn is_red(known: &[usize], forgotten: &[usize]) -> bool {
        let budget = |(number, amount): (usize, Value)| {
            let entry = json!({
                "key": number.to_string(), "outcome": "ok", "sent": 1, "what": {
                    "work": "budget", "about": "", "wish": { "amount": amount }, "status": 200, "answer": number,
                    "sent": 0, "answered": 0,
                },
            });
            let entry: Entry<Asked> = serde_json::from_value(entry).expect("an entry");
            (entry.key.clone(), Entry { line: number, ..entry })
        };
        let asks = [(1, json!(352)), (2, Value::Null), (3, Value::Null)].map(budget);
        let happened = known.iter().map(|number| {
            let kind = if *number == 1 { "budget.set" } else { "budget.removed" }.to_owned();
            let (task, work, limit) = Default::default();
            (number.to_string(), vec![Happened { kind, task, work, limit }])
        });
        let is_forgotten = |asked: &Asked| forgotten.iter().any(|number| asked.answer == *number);
        let mut findings = Run::planted("stale-standing").findings();
        hold(&asks.into(), &happened.collect(), is_forgotten, &mut findings);
        findings.is_red()
    }

    #[test]
    fn what_is_set_as_it_was_is_no_event_and_what_is_set_anew_is_one() {
        assert!(!is_red(&[1, 2], &[]));
        assert!(!is_red(&[1, 2, 3], &[]));
        assert!(is_red(&[1], &[]));
        assert!(is_red(&[], &[]));
    }

    #[test]
    fn an_answer_that_outlived_its_key_is_not_held_and_has_set_what_it_says_all_the_same() {
        assert!(!is_red(&[1, 2], &[2]));
        assert!(!is_red(&[1], &[2]));
        assert!(is_red(&[], &[2]));
    }
}
