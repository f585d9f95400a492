//! Lists by user, session and agent keep what they have read of periods that have ended, and stay right all the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use rust_decimal::Decimal;
use serde_json::Value;
use theazo::runtime::Packer;
use theazo_domain::Event;
use theazo_domain::time::Timestamp;

use super::agreement::{Expected, all, behind, behind_of, moment};
use super::exact;
use super::synthetic::{Dice, go_on, random_log, rebuild, write};
use crate::support::api::{Api, send};
use crate::support::site::{Server, Site};
use crate::support::wait::until_async;

/// The lists, and what their rows are told apart by.
const LISTS: [(&str, &str); 3] = [("users", "userId"), ("sessions", "sessionId"), ("agents", "agentId")];

/// How many events there are when the lists are asked for.
const LENGTHS: [usize; 6] = [40, 70, 71, 100, 130, 160];

fn costs(rows: &[Value], name: &str) -> BTreeMap<String, Decimal> {
    rows.iter().map(|row| (row[name].as_str().unwrap().to_owned(), exact(&row["cost"]))).collect()
}

/// The three lists tell what these events say of a period.
async fn tell(api: &Api, events: &[(Timestamp, Event)], period: (Timestamp, Timestamp)) {
    // Each server has its own of what is kept.
    for _ in &api.site.servers {
        tell_of(async |path| api.get(&path).await.expect(200), events, period).await;
    }
}

/// The same of a server that has kept nothing yet.
async fn tell_anew(api: &Api, events: &[(Timestamp, Event)], period: (Timestamp, Timestamp)) -> Server {
    let server = api.site.another();
    tell_of(async |path| get(api, &server, path).await, events, period).await;
    server
}

async fn get(api: &Api, server: &Server, path: String) -> Value {
    send(&server.router, api.request("GET", &path).body(Body::empty()).unwrap()).await.expect(200)
}

async fn tell_of(
    get: impl AsyncFn(String) -> Value,
    events: &[(Timestamp, Event)],
    (from, until): (Timestamp, Timestamp),
) {
    let expected = Expected::of(events, |at| (from..until).contains(&at));
    for (list, name) in LISTS {
        let path = format!("/v1/billing/usage/{list}?from={from}&until={until}");
        let rows = behind_of(&get, &path, 100, None).await;
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

/// A list of which a page was shown: its path, the cursor behind that page, and the rows behind it.
type Opened = (String, String, Vec<Value>);

/// Opens a list; none where it has no more than a page.
async fn open(api: &Api, list: &str, (from, until): (Timestamp, Timestamp)) -> Option<Opened> {
    let path = format!("/v1/billing/usage/{list}?from={from}&until={until}");
    let page = api.get(&format!("{path}&limit=7")).await.expect(200);
    let cursor = page["nextCursor"].as_str()?.to_owned();
    let rows = behind(api, &path, 7, Some(&cursor)).await;
    Some((path, cursor, rows))
}

/// Packs all that there is to pack.
async fn pack(api: &Api) {
    let app = Arc::clone(&api.site.servers[0].app);
    let mut packer = Packer::new(app);
    while packer.pack(api.tenant.id).await.unwrap() == theazo::config::PACKED_AT_A_TIME {}
}

fn period(dice: &mut Dice, events: &[(Timestamp, Event)]) -> (Timestamp, Timestamp) {
    let mut bounds = [moment(dice, events), moment(dice, events)];
    bounds.sort();
    bounds.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_stays_right_while_the_log_goes_on_and_late_lines_come() {
    for seed in 21..=23 {
        let mut dice = Dice::new(seed);
        let api = Site::new().await.admin().await;
        let events = random_log(&mut dice, 160);
        let mut periods: Vec<(Timestamp, Timestamp)> = (0..6).map(|_| period(&mut dice, &events)).collect();
        // More months than are kept one by one.
        periods.push((Timestamp::from_millis(0), moment(&mut dice, &events)));
        write(&api, &events[..LENGTHS[0]]).await;
        let mut opened: Vec<Opened> = vec![];
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
            for ((list, _), period) in LISTS.iter().zip(&periods) {
                opened.extend(open(&api, list, *period).await);
            }
            if let Some(next) = LENGTHS.into_iter().find(|next| *next > end) {
                go_on(&api, &events[end..next]).await;
            }
        }
        assert!(opened.len() >= 4, "{} lists have more than a page", opened.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_packed_stays_right_while_the_log_goes_on_and_late_lines_come() {
    for seed in 41..=42 {
        let mut dice = Dice::new(seed);
        let api = Site::new().await.admin().await;
        let events = random_log(&mut dice, 160);
        write(&api, &events[..LENGTHS[0]]).await;
        let mut opened: Vec<Opened> = vec![];
        for end in LENGTHS {
            // Some of it was packed long ago, some now, and some is not yet.
            if end != LENGTHS[3] {
                pack(&api).await;
            }
            for _ in 0..6 {
                tell_anew(&api, &events[..end], period(&mut dice, &events)).await;
            }
            for (path, cursor, rows) in &opened {
                let server = api.site.another();
                let shown =
                    behind_of(async |path| get(&api, &server, path).await, path, 7, Some(cursor)).await;
                assert_eq!(&shown, rows, "{path} of {end} events");
            }
            for (list, _) in LISTS {
                opened.extend(open(&api, list, period(&mut dice, &events[..end])).await);
            }
            if let Some(next) = LENGTHS.into_iter().find(|next| *next > end) {
                go_on(&api, &events[end..next]).await;
            }
        }
        assert!(opened.len() >= 4, "{} lists have more than a page", opened.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_packed_is_read_instead_of_rows_and_goes_with_its_builds() {
    let mut dice = Dice::new(51);
    let api = Site::new().await.admin().await;
    let events = random_log(&mut dice, 120);
    write(&api, &events).await;
    pack(&api).await;
    let client = api.site.database.connect().await;
    for table in ["usage_by_user", "usage_by_agent"] {
        let sql = format!(
            "update {table} t set cost = cost + 1 from heads h where h.tenant_id = $1 and t.tenant_id = $1
               and grain in ('day', 'hour', 'minute') and start < date_trunc(case grain when 'day' then 'day' else 'hour' end,
                 h.last_at - interval '1 hour', 'UTC')"
        );
        assert!(client.execute(&sql, &[&api.tenant.id]).await.unwrap() > 0);
    }
    let minute = |at: Timestamp| Timestamp::from_millis(at.millis() / 60_000 * 60_000);
    let whole = (minute(events[10].0), minute(events[110].0));
    let server = tell_anew(&api, &events, whole).await;
    assert!(server.app.kept_sums.take_unpacked().is_empty());
    let of_builds =
        "select count(*), count(*) filter (where build = live_build($1, projection)) from packed_sums
                     where tenant_id = $1";
    let count = async || {
        let row = client.query_one(of_builds, &[&api.tenant.id]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let (all, live) = count().await;
    assert!(all > 40 && all == live, "{all} are packed, {live} of them of what is live");
    rebuild(&api).await;
    assert_eq!(count().await, (0, 0));
    let server = tell_anew(&api, &events, whole).await;
    assert_eq!(server.app.kept_sums.take_unpacked().into_iter().collect::<Vec<_>>(), [api.tenant.id]);
    pack(&api).await;
    assert_eq!(count().await, (all, live));
    // What is too much to pack says that no list may read it.
    let sql = "update packed_sums set position = $2, used = '' where tenant_id = $1";
    client.execute(sql, &[&api.tenant.id, &i64::MAX]).await.unwrap();
    tell_anew(&api, &events, whole).await;
    pack(&api).await;
    assert_eq!(count().await, (all, live));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_packs_what_a_list_has_missed() {
    let mut dice = Dice::new(61);
    let api = Site::working(None).await.admin().await;
    let events = random_log(&mut dice, 80);
    write(&api, &events).await;
    let client = api.site.database.connect().await;
    tell(&api, &events, (events[10].0.day().start(), events[70].0.day().start())).await;
    let sql = "select count(*) from usage_by_agent t where t.tenant_id = $1 and t.build = live_build($1, 'usage_by_agent')
                 and t.grain in ('hour', 'minute')
                 and t.start < date_trunc('hour', (select last_at - interval '1 hour' from heads where tenant_id = $1))
                 and not exists (select from packed_sums k where k.tenant_id = $1 and k.build = t.build
                   and k.projection = 'usage_by_agent' and k.grain = t.grain
                   and k.start = date_trunc('hour', t.start))";
    until_async("everything is packed", async || {
        let left: i64 = client.query_one(sql, &[&api.tenant.id]).await.unwrap().get(0);
        (left == 0).then_some(())
    })
    .await;
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
