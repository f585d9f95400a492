//! Agents are made on two servers while the providers and definitions that they are made from come and go. Afterwards
//! the log is walked, position by position, and every answer is held against it.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::api::{Api, Reply};
use crate::support::site::Site;
use crate::support::vendors::verify::{E2B_KEY, Vendor};

const ROUNDS: usize = 12;
/// In each round: agents to be made of each kind, and requests that take away what they are made from.
const EACH: usize = 6;
const TAKERS: usize = 3;

/// What is asked while others ask too.
#[derive(Debug, Clone, PartialEq)]
enum Ask {
    /// An agent of `e2b`.
    Named,
    /// An agent of the default.
    Unnamed,
    /// An agent of a definition.
    From(String),
    /// That `e2b` is configured, as the default.
    Configure,
    /// That `e2b` is deleted.
    Delete,
    /// That a definition is archived.
    Archive(String),
}

/// An answer, and between which positions of the log it was decided.
#[derive(Debug)]
struct Answered {
    ask: Ask,
    reply: Reply,
    since: usize,
    until: usize,
}

/// What there is at a position of the log.
#[derive(Debug, Clone, Default)]
struct Standing {
    configured: bool,
    default: String,
    /// Those of `e2b` that live.
    agents: BTreeSet<String>,
    archived: BTreeSet<String>,
}

async fn head(api: &Api) -> usize {
    usize::try_from(api.head().await).unwrap()
}

async fn ask(api: &Api, session: &str, ask: Ask) -> Answered {
    let since = head(api).await;
    let agents = format!("/v1/sessions/{session}/agents");
    let delete = async |path: &str| api.send(api.request("DELETE", path).body(Body::empty()).unwrap()).await;
    let reply = match &ask {
        Ask::Named => api.post(&agents, &json!({ "compute": { "provider": "e2b" } })).await,
        Ask::Unnamed => api.post(&agents, &json!({})).await,
        Ask::From(definition) => api.post(&agents, &json!({ "definitionId": definition })).await,
        Ask::Configure => {
            let credentials = json!({ "apiKey": E2B_KEY });
            let body = json!({ "provider": "e2b", "credentials": credentials, "isDefault": true });
            api.post("/v1/providers", &body).await
        }
        Ask::Delete => delete("/v1/providers/e2b").await,
        Ask::Archive(definition) => delete(&format!("/v1/agent-definitions/{definition}")).await,
    };
    Answered { ask, reply, since, until: head(api).await }
}

async fn new_definition(api: &Api) -> String {
    let definition = api.post("/v1/agent-definitions", &json!({ "name": "a" })).await.expect(201);
    definition["id"].as_str().unwrap().to_owned()
}

/// Ends the agents that were made.
async fn end_agents(api: &Api, answers: &[Answered]) {
    for made in answers.iter().filter(|answered| answered.reply.status == 201) {
        if let Some(agent) = made.reply.json()["id"].as_str().filter(|id| id.starts_with("agt_")) {
            api.act(&format!("/v1/agents/{agent}/terminate")).await.expect(200);
        }
    }
}

/// Each answer that there is, without anybody else: which of them a crowd gets, nobody knows.
async fn one_after_the_other(api: &Api, session: &str) -> Vec<Answered> {
    let mut answers = vec![ask(api, session, Ask::Configure).await];
    for kind in [Ask::Named, Ask::Delete] {
        answers.push(ask(api, session, kind).await);
    }
    end_agents(api, &answers).await;
    let definition = new_definition(api).await;
    let from = Ask::From(definition.clone());
    for kind in [Ask::Delete, Ask::Named, from.clone(), Ask::Archive(definition), from] {
        answers.push(ask(api, session, kind).await);
    }
    end_agents(api, &answers[3..]).await;
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_agent_is_made_from_what_is_gone_and_none_is_refused_for_what_is_there() {
    let vendor = Vendor::start().await;
    let api = Site::with_outside(vendor.settings()).await.admin().await;
    let session = api.session("user").await;
    let mut answers = one_after_the_other(&api, &session).await;
    for round in 0..ROUNDS {
        ask(&api, &session, Ask::Configure).await.reply.expect(201);
        if round % 2 == 1 {
            // Those who are first find nothing.
            ask(&api, &session, Ask::Delete).await.reply.expect(200);
        }
        let definition = new_definition(&api).await;
        let from = Ask::From(definition.clone());
        let kinds = [(Ask::Named, EACH), (Ask::Unnamed, EACH), (from, EACH), (Ask::Delete, TAKERS)];
        let mut asks: Vec<Ask> = vec![Ask::Archive(definition), Ask::Configure];
        asks.extend(kinds.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count)));
        // Whoever takes away is neither always the first nor always the last.
        let middle = answers.len() * 5 % asks.len();
        asks.rotate_left(middle);
        let crowd = join_all(asks.into_iter().map(|kind| ask(&api, &session, kind))).await;
        end_agents(&api, &crowd).await;
        answers.extend(crowd);
    }
    let standings = walk(&api).await;
    let mut told: BTreeMap<(String, u16), usize> = BTreeMap::new();
    for answered in &answers {
        check(answered, &standings);
        let kind = format!("{:?}", answered.ask).split('(').next().unwrap().to_owned();
        *told.entry((kind, answered.reply.status.as_u16())).or_default() += 1;
    }
    for seen in
        [("Named", 201), ("Named", 422), ("From", 201), ("From", 409), ("Delete", 200), ("Delete", 409)]
    {
        assert!(told.contains_key(&(seen.0.to_owned(), seen.1)), "{seen:?} was not seen: {told:?}");
    }
}

/// How everything stands at each position of the log. Nothing may be made from what is not there.
async fn walk(api: &Api) -> Vec<Standing> {
    let client = api.site.database.connect().await;
    let sql = "select type, data::text from events where tenant_id = $1 order by position";
    let rows = client.query(sql, &[&api.tenant.id.0]).await.unwrap();
    let mut now = Standing { default: "local".to_owned(), ..Standing::default() };
    let mut standings = vec![now.clone()];
    for (row, position) in rows.iter().zip(1..) {
        let (kind, data): (&str, Value) = (row.get(0), serde_json::from_str(row.get(1)).unwrap());
        let agent = || data["place"]["agentId"].as_str().unwrap().to_owned();
        match kind {
            "provider.configured" => now.configured = true,
            "provider.removed" => {
                assert!(now.agents.is_empty(), "{position}: {:?} are left without e2b", now.agents);
                assert_ne!(now.default, "e2b", "{position}: the default is left without e2b");
                now.configured = false;
            }
            "provider.default_changed" => now.default = data["to"].as_str().unwrap().to_owned(),
            "definition.archived" => {
                now.archived.insert(data["definitionId"].as_str().unwrap().to_owned());
            }
            "agent.created" => {
                let named = data["config"]["compute"]["provider"].as_str();
                assert_eq!(data["provider"], named.unwrap_or(&now.default), "{position}: {data}");
                if data["provider"] == "e2b" {
                    assert!(now.configured, "{position}: {} is made of e2b, which is gone", agent());
                    now.agents.insert(agent());
                }
                let definition = data["definition"]["definitionId"].as_str().unwrap_or_default();
                assert!(!now.archived.contains(definition), "{position}: {definition} is archived");
            }
            "agent.terminated" | "agent.failed" => {
                now.agents.remove(&agent());
            }
            _ => {}
        }
        standings.push(now.clone());
    }
    standings
}

/// What was answered is what the log says of one of the moments at which it can have been decided.
fn check(answered: &Answered, standings: &[Standing]) {
    let Answered { ask, reply, since, until } = answered;
    let at_some_moment = |holds: &dyn Fn(&Standing) -> bool| {
        assert!(standings[*since..=*until].iter().any(holds), "{ask:?} at {since} to {until}: {reply:?}");
    };
    match (ask, reply.status.as_u16()) {
        (Ask::Named, 422) => {
            assert_eq!(reply.fields(), [("compute.provider".to_owned(), "configured".to_owned())]);
            at_some_moment(&|standing| !standing.configured);
        }
        (Ask::From(definition), 409) => {
            let message = reply.error(409, "conflict")["message"].clone();
            assert_eq!(message, format!("{definition} is archived."));
            at_some_moment(&|standing| standing.archived.contains(definition));
        }
        (Ask::Delete, 409) => {
            let agents = reply.error(409, "conflict")["details"]["agents"].clone();
            let named: BTreeSet<String> = serde_json::from_value(agents).unwrap();
            at_some_moment(&|standing| standing.configured && standing.agents == named);
        }
        (Ask::Delete, 404) => at_some_moment(&|standing| !standing.configured),
        (Ask::Named | Ask::Unnamed | Ask::From(_) | Ask::Configure, 201)
        | (Ask::Delete | Ask::Archive(_), 200) => {}
        (ask, status) => panic!("{ask:?} was answered with {status}: {reply:?}"),
    }
}
