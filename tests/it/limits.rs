//! Limits under fire: 64 agents on two servers against one small limit at each level, while servers are killed.
//! Afterwards the log is walked, position by position.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::crash::{Place, kill};
use crate::support::server::{self, Ask, Server};
use crate::support::wait::until_async;

const AGENTS: usize = 64;
const SESSIONS: usize = 4;
const KILLS: usize = 4;
/// Answers between two kills.
const BETWEEN: usize = 400;
/// In cents: of each session, of each of the two users, and of the organization.
const SESSION: i64 = 30;
const USER: i64 = 45;
const ORGANIZATION: i64 = 70;

/// What the callers share.
struct Load {
    key: String,
    addresses: Mutex<[String; 2]>,
    sessions: Vec<String>,
    answered: AtomicUsize,
    over: AtomicBool,
}

impl Load {
    /// The answer of one of the servers; none where it was killed meanwhile or cannot tell.
    async fn ask(
        &self,
        server: usize,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        let address = self.addresses.lock().unwrap()[server % 2].clone();
        let ask = Ask { method, path, key: &self.key, idempotency_key: None, body };
        let response = server::ask(&address, ask).await.ok()?;
        if response.status == 503 {
            return None;
        }
        assert!(matches!(response.status, 200..=202 | 402 | 409), "{path}: {response:?}");
        self.answered.fetch_add(1, Ordering::Relaxed);
        Some((response.status, response.body))
    }

    /// Repeats a request until it is answered by a success.
    async fn done(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let mut turn = 0;
        until_async(path, async || {
            turn += 1;
            let (status, answer) = self.ask(turn, method, path, body.clone()).await?;
            matches!(status, 200 | 201).then_some(answer)
        })
        .await
    }

    /// Makes an agent and lets it work, again and again, however often it is refused.
    async fn work(&self, number: usize) {
        let session = &self.sessions[number % SESSIONS];
        let mut agent: Option<String> = None;
        for turn in number.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let Some(id) = &agent else {
                let path = format!("/v1/sessions/{session}/agents");
                if let Some((201, made)) = self.ask(turn, "POST", &path, Some(json!({}))).await {
                    agent = made["id"].as_str().map(str::to_owned);
                }
                continue;
            };
            let run = Some(json!({ "task": "x" }));
            if let Some((409, _)) = self.ask(turn, "POST", &format!("/v1/agents/{id}/run"), run).await {
                let _ = self.ask(turn, "POST", &format!("/v1/agents/{id}/resume"), None).await;
            }
        }
    }

    async fn goes_on(&self) {
        let aim = self.answered.load(Ordering::Relaxed) + BETWEEN;
        until_async("the load to go on", async || {
            (self.answered.load(Ordering::Relaxed) >= aim).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_work_begins_that_does_not_fit_and_none_is_refused_that_does_whatever_is_killed() {
    let place = Place::new().await;
    let mut servers = [Some(place.start_with(0, &[]).await), Some(place.start_with(1, &[]).await)];
    let load = begin(&place, &servers).await;
    let working = join_all((0..AGENTS).map(|number| load.work(number)));
    let killing = async {
        for number in 0..KILLS {
            load.goes_on().await;
            kill(servers[number % 2].take().unwrap()).await;
            let server = place.start_with(number % 2, &[]).await;
            load.addresses.lock().unwrap()[number % 2].clone_from(&server.address);
            servers[number % 2] = Some(server);
        }
        load.goes_on().await;
        load.over.store(true, Ordering::Relaxed);
    };
    tokio::join!(working, killing);
    for session in &load.sessions {
        load.done("POST", &format!("/v1/sessions/{session}/terminate"), None).await;
    }
    let client = place.connect().await;
    until_async("every reservation to end", async || {
        let walk = walk(&client, &load.sessions[0]).await;
        walk.accounts.values().all(|account| account.reserved.is_zero()).then_some(())
    })
    .await;
    let walk = walk(&client, &load.sessions[0]).await;
    assert!(walk.began >= 10 && walk.refused >= 10, "{} began, {} were refused", walk.began, walk.refused);
    // Which of the three levels is met first is a matter of the load; the budgets' own tests meet each of them.
    assert!(!walk.limits.is_empty(), "no limit refused anything");
    for sound in [&["log", "verify"][..], &["projection", "compare"]] {
        place.command(sound).await;
    }
    for server in &mut servers {
        assert!(server.take().unwrap().stop().await.success());
    }
}

/// An organization with budgets, and sessions with limits, in test mode: models and compute are mocks of their prices.
async fn begin(place: &Place, servers: &[Option<Server>; 2]) -> Load {
    let made = ["org", "create", "Acme", "--plan", "enterprise", "--rate-limit", "1000000"];
    let organization = place.command(&made).await;
    let org = organization["id"].as_str().unwrap();
    let key = place.command(&["key", "create", "--org", org, "--mode", "test", "--role", "admin"]).await;
    let addresses = servers.each_ref().map(|server| server.as_ref().unwrap().address.clone());
    let mut load = Load {
        key: key["key"].as_str().unwrap().to_owned(),
        addresses: Mutex::new(addresses),
        sessions: vec![],
        answered: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    };
    let budgets = "/v1/billing/budgets";
    let budget = |cents: i64| json!({ "amount": cents, "currency": "usd", "period": "month" });
    load.done("PUT", budgets, Some(budget(ORGANIZATION))).await;
    for number in 0..SESSIONS {
        let user = format!("user_{}", number % 2);
        let mut of_user = budget(USER);
        of_user["userId"] = json!(user);
        load.done("PUT", budgets, Some(of_user)).await;
        let limits = json!({ "maxCost": { "amount": SESSION, "currency": "usd", "period": "session" } });
        let session =
            load.done("POST", "/v1/sessions", Some(json!({ "userId": user, "limits": limits }))).await;
        load.sessions.push(session["id"].as_str().unwrap().to_owned());
    }
    load
}

/// What an owner has spent and holds at a position of the log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Account {
    /// By the month.
    spent: BTreeMap<String, Decimal>,
    reserved: Decimal,
}

/// What was found in a log.
#[derive(Debug, Default)]
struct Walk {
    accounts: BTreeMap<String, Account>,
    began: usize,
    refused: usize,
    limits: BTreeMap<String, usize>,
}

fn amount(value: &Value) -> Decimal {
    value.as_str().map_or(Decimal::ZERO, |text| text.parse().unwrap())
}

/// Of an owner, what counts against its limit in the month of a moment.
fn standing(accounts: &BTreeMap<String, Account>, owner: &str, at: &str) -> (Decimal, Decimal) {
    let account = accounts.get(owner).cloned().unwrap_or_default();
    let spent = match owner.split('_').next() {
        Some("ses") => account.spent.values().sum(),
        _ => account.spent.get(&at[..7]).copied().unwrap_or_default(),
    };
    (spent, account.reserved)
}

/// The limit of an owner.
fn allowed(owner: &str) -> Decimal {
    let cents = match owner.split('_').next() {
        Some("ses") => SESSION,
        Some("usr") => USER,
        _ => ORGANIZATION,
    };
    Decimal::new(cents, 2)
}

/// Walks the log of the tenant that has this session. With every event that holds something, all that is spent and held
/// fits each limit; and what was refused did not fit.
async fn walk(client: &Client, session: &str) -> Walk {
    let sql = "select type, data::text, to_char(at at time zone 'utc', 'YYYY-MM') from events
               where tenant_id = (select tenant_id from event_subjects where subject = $1 limit 1)
               order by position";
    let rows = client.query(sql, &[&session]).await.unwrap();
    let mut walk = Walk::default();
    // Of each event, how its owners stood after it; what a decision refuses may stand on what it books as well.
    let mut after: Vec<BTreeMap<String, Account>> = vec![BTreeMap::new()];
    let mut refusals = vec![];
    for row in &rows {
        let (kind, at): (&str, &str) = (row.get(0), row.get(2));
        let data: Value = serde_json::from_str(row.get(1)).unwrap();
        walk.book(kind, &data, at);
        if !data["excess"].is_null() && kind != "session.limit_overrun" && kind != "budget.overrun" {
            refusals.push((after.len(), data, at.to_owned()));
        }
        after.push(walk.accounts.clone());
    }
    for (index, data, at) in refusals {
        let excess = &data["excess"];
        let limit = excess["limit"].as_str().unwrap();
        *walk.limits.entry(limit.to_owned()).or_default() += 1;
        walk.refused += 1;
        let part = if data["place"].is_null() { &data } else { &data["place"] };
        let owner = match limit {
            "userBudget" => &part["userId"],
            "organizationBudget" => &part["organizationId"],
            _ => &part["sessionId"],
        };
        let owner = owner.as_str().unwrap();
        let (spent, reserved) = (amount(&excess["spent"]), amount(&excess["reserved"]));
        let decided = &after[index - 1..after.len().min(index + 4)];
        let told = |accounts: &BTreeMap<String, Account>| standing(accounts, owner, &at) == (spent, reserved);
        assert!(decided.iter().any(told), "{excess} is not what the log says of {owner}");
        let (taken, requested) = (spent + reserved, amount(&excess["requested"]));
        assert_eq!(amount(&excess["allowed"]), allowed(owner));
        let used_up = requested.is_zero() && taken >= allowed(owner);
        assert!(used_up || taken + requested > allowed(owner), "{excess} fits");
    }
    walk
}

impl Walk {
    fn book(&mut self, kind: &str, data: &Value, at: &str) {
        let booking = &data["booking"];
        if booking.is_null() {
            return;
        }
        let place = &data["place"];
        let owners =
            ["sessionId", "userId", "organizationId"].map(|name| place[name].as_str().unwrap().to_owned());
        let reserved = amount(&booking["reserved"]);
        for owner in owners {
            let account = self.accounts.entry(owner.clone()).or_default();
            account.reserved += reserved - amount(&booking["released"]);
            assert!(account.reserved >= Decimal::ZERO, "{kind} releases more than {owner} holds");
            for charge in
                ["charges", "unconfirmed"].iter().flat_map(|list| booking[list].as_array()).flatten()
            {
                let month = charge["at"].as_str().unwrap()[..7].to_owned();
                *account.spent.entry(month).or_default() += amount(&charge["cost"]);
            }
            if !reserved.is_zero() {
                let (spent, held) = standing(&self.accounts, &owner, at);
                assert!(spent + held <= allowed(&owner), "{kind} does not fit {owner}: {spent} and {held}");
            }
        }
        self.began += usize::from(kind == "model.call_opened");
    }
}
