//! Lists by user, session and agent keep what they have read of periods that have ended, and stay right all the same.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde_json::Value;
use theazo_domain::Event;
use theazo_domain::time::Timestamp;

use super::agreement::{Expected, all, behind, moment};
use super::exact;
use super::synthetic::{Dice, go_on, random_log, rebuild, write};
use crate::support::api::Api;
use crate::support::site::Site;

/// The lists, and what their rows are told apart by.
const LISTS: [(&str, &str); 3] = [("users", "userId"), ("sessions", "sessionId"), ("agents", "agentId")];

/// How many events there are when the lists are asked for.
const LENGTHS: [usize; 6] = [40, 70, 71, 100, 130, 160];

fn costs(rows: &[Value], name: &str) -> BTreeMap<String, Decimal> {
    rows.iter().map(|row| (row[name].as_str().unwrap().to_owned(), exact(&row["cost"]))).collect()
}

/// The three lists tell what these events say of a period.
async fn tell(api: &Api, events: &[(Timestamp, Event)], (from, until): (Timestamp, Timestamp)) {
    let expected = Expected::of(events, |at| (from..until).contains(&at));
    for (list, name) in LISTS {
        let path = format!("/v1/billing/usage/{list}?from={from}&until={until}");
        // Each server has its own of what is kept.
        for _ in &api.site.servers {
            let rows = all(api, &path, 100).await;
            let wanted = match list {
                "users" => &expected.by_user,
                "sessions" => &expected.by_session,
                _ => &expected.by_agent,
            };
            let mut shown = costs(&rows, name);
            expected.lists(list, &rows, name);
            shown.retain(|id, _| wanted.contains_key(id));
            assert_eq!(&shown, wanted, "{path} of {} events", events.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_stays_right_while_the_log_goes_on_and_late_lines_come() {
    for seed in 21..=23 {
        let mut dice = Dice::new(seed);
        let api = Site::new().await.admin().await;
        let events = random_log(&mut dice, 160);
        let mut periods: Vec<(Timestamp, Timestamp)> = (0..6)
            .map(|_| {
                let mut bounds = [moment(&mut dice, &events), moment(&mut dice, &events)];
                bounds.sort();
                bounds.into()
            })
            .collect();
        // More months than are kept one by one.
        periods.push((Timestamp::from_millis(0), moment(&mut dice, &events)));
        write(&api, &events[..LENGTHS[0]]).await;
        let mut opened: Vec<(String, String, Vec<Value>)> = vec![];
        for end in LENGTHS {
            for period in &periods {
                tell(&api, &events[..end], *period).await;
            }
            // Lists that were opened before go on as they were.
            for (path, cursor, rows) in &opened {
                for _ in &api.site.servers {
                    assert_eq!(&behind(&api, path, 7, Some(cursor)).await, rows, "{path} of {end} events");
                }
            }
            for ((list, _), (from, until)) in LISTS.iter().zip(&periods) {
                let path = format!("/v1/billing/usage/{list}?from={from}&until={until}");
                let page = api.get(&format!("{path}&limit=7")).await.expect(200);
                let Some(cursor) = page["nextCursor"].as_str() else { continue };
                let rows = behind(&api, &path, 7, Some(cursor)).await;
                opened.push((path, cursor.to_owned(), rows));
            }
            if let Some(next) = LENGTHS.into_iter().find(|next| *next > end) {
                go_on(&api, &events[end..next]).await;
            }
        }
        assert!(opened.len() >= 4, "{} lists have more than a page", opened.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_is_read_once_and_anew_after_a_rebuild() {
    let mut dice = Dice::new(31);
    let api = Site::new().await.admin().await;
    let events = random_log(&mut dice, 120);
    write(&api, &events).await;
    let (from, until) = (events[20].0, events[100].0);
    let second = |at: Timestamp| Timestamp::from_millis(at.millis() / 1_000 * 1_000);
    let period = (second(from), second(until));
    tell(&api, &events, period).await;
    let client = api.site.database.connect().await;
    let tamper = async || {
        for table in ["usage_by_user", "usage_by_agent"] {
            let sql = format!("update {table} set cost = cost + 1 where tenant_id = $1");
            assert!(client.execute(&sql, &[&api.tenant.id]).await.unwrap() > 0);
        }
    };
    tamper().await;
    // No server reads what it has.
    tell(&api, &events, period).await;
    rebuild(&api).await;
    tamper().await;
    // What is kept is of the builds before.
    let path = format!("/v1/billing/usage/users?from={}&until={}", period.0, period.1);
    let expected = Expected::of(&events, |at| (period.0..period.1).contains(&at));
    for _ in &api.site.servers {
        assert_ne!(costs(&all(&api, &path, 100).await, "userId"), expected.by_user);
    }
}
