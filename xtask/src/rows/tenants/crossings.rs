//! Crossings that are made one by one: what is another's, named in the body of a request for one's own; another's
//! idempotency keys; another's cursors; streams of two logs whose frames have the same positions.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::victim::{Victim, Who};
use crate::client::{Answer, Ask};
use crate::load::{Anything, Load};
use crate::prove::Findings;
use crate::rows::sse::frames::{Asked, Piece, Seen, Stream};

/// How long a stream is waited for that has something to give, and one that has nothing.
const PATIENCE: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_millis(300);
/// Frames of an agent's stream at least that has had two tasks.
const OF_TWO_TASKS: u64 = 6;

/// An outsider who tries them.
pub(super) struct Crossing<'a> {
    pub(super) load: &'a Load<'a>,
    pub(super) client: &'a tokio_postgres::Client,
    pub(super) outsider: &'a Who,
    pub(super) victim: &'a Victim,
}

impl Crossing<'_> {
    /// Tries all of them.
    pub(super) async fn try_all(&self, listings: &[String], findings: &mut Findings) -> anyhow::Result<()> {
        self.references(findings).await?;
        self.streams(findings).await?;
        self.cursors(listings, findings).await?;
        // The last, since from here on the outsider has what is called like the victim's.
        self.keys(findings).await
    }

    /// An answer that is given again only because it had to be asked for again is this one's first.
    async fn ask(&self, who: &Who, number: usize, ask: &Ask) -> anyhow::Result<Answer> {
        let mut customer = self.load.customer(&who.key, "", 0);
        customer.server = Some(number);
        let answer = customer.send(ask, Anything::default()).await?;
        Ok(Answer { replayed: answer.replayed && customer.again == 0, ..answer })
    }

    fn leaks(&self, answer: &Answer, sent: &Ask) -> Vec<String> {
        let sent = format!("{}{}", sent.path, sent.body.as_ref().map(Value::to_string).unwrap_or_default());
        let ids = self.victim.ids().into_iter();
        ids.filter(|id| answer.text.contains(id) && !sent.contains(id)).map(str::to_owned).collect()
    }

    /// What is the outsider's own, asked for something that refers to what is the victim's.
    async fn references(&self, findings: &mut Findings) -> anyhow::Result<()> {
        let own = Ask::post("/v1/sessions", Some(json!({ "userId": "outsider" })));
        let own = self.ask(self.outsider, 0, &own).await?.json();
        let own = own["id"].as_str().context("a session has an id")?;
        let Victim { session, definition, secret, charge, .. } = self.victim;
        let agents = format!("/v1/sessions/{own}/agents");
        let mut asks = vec![
            Ask::post(&agents, Some(json!({ "definitionId": definition }))),
            Ask::post(&agents, Some(json!({ "definitionId": definition, "definitionVersion": 1 }))),
            Ask::post("/v1/secrets", Some(json!({ "name": "own", "value": "own", "sessionId": session }))),
            Ask::get(format!("/v1/secrets?sessionId={session}")),
            Ask::new("DELETE", format!("/v1/secrets/{secret}"), None),
            Ask::new("DELETE", format!("/v1/secrets/{secret}?sessionId={session}"), None),
            Ask::new("DELETE", format!("/v1/secrets/{secret}?sessionId={own}"), None),
        ];
        // A charge is called by its place in its log, and an outsider may have one there.
        let (position, _) = charge.split_once('.').context("a charge has a place")?;
        let there = self.ask(self.outsider, 0, &Ask::get(format!("/v1/events/{position}"))).await?;
        if there.json()["type"] != "model.call_settled" {
            let body = json!({ "chargeId": charge, "amount": -1, "reason": "outside" });
            asks.push(Ask::post("/v1/billing/adjustments", Some(body)));
        }
        for (number, ask) in asks.iter().enumerate() {
            let answer = self.ask(self.outsider, number, ask).await?;
            let leaks = self.leaks(&answer, ask);
            findings.claim(answer.status == 404 && leaks.is_empty(), || {
                format!("{} {} {:?}: {} {}", ask.method, ask.path, ask.body, answer.status, answer.text)
            });
        }
        findings.did("references to what is another's", asks.len() as u64);
        Ok(())
    }

    /// Both follow their logs on the same servers. Each is given its own.
    async fn streams(&self, findings: &mut Findings) -> anyhow::Result<()> {
        let mut wrong = vec![];
        for server in 0..2 {
            for who in [&self.victim.who, self.outsider] {
                let log = (who.organization.as_str(), who.mode);
                let seen = Seen::default();
                let head = self.head(who).await?;
                let read = self.read(who, server, "/v1/events/stream?after=0", Some(head), &seen).await?;
                wrong.extend(read.err());
                // What was appended since is not missed: nobody is sure to have been given it.
                let missed = |wrong: &String| wrong.starts_with("nobody was given");
                let against = seen.against_the_log(self.client, log, BTreeSet::new()).await?;
                wrong.extend(against.into_iter().filter(|wrong| !missed(wrong)));
            }
            for path in [
                format!("/v1/events/stream?after=0&subject={}", self.victim.agent),
                format!("/v1/events/stream?after=0&subject={}", self.victim.session),
                format!("/v1/agents/{}/stream?after=0", self.victim.agent),
            ] {
                let seen = Seen::default();
                let read = self.read(self.outsider, server, &path, None, &seen).await?;
                wrong.extend(read.err());
                if !seen.is_empty() {
                    wrong.push(format!("{path} gives another tenant something"));
                }
            }
        }
        findings.did("streams read by both", 10);
        wrong.into_iter().for_each(|wrong| findings.violation(format!("{}: {wrong}", self.outsider.mode)));
        Ok(())
    }

    /// The stream of an agent of one's own, beside that of the victim's: the same kinds of events, at the same positions.
    pub(super) async fn agents(&self, own: &Victim, findings: &mut Findings) -> anyhow::Result<()> {
        for server in 0..2 {
            for (one, other) in [(self.victim, own), (own, self.victim)] {
                let path = format!("/v1/agents/{}/stream?after=0", one.agent);
                let address = self.load.place.address(server).context("a server runs")?;
                let asked =
                    Asked { key: &one.who.key, path: &path, last_event_id: None, small_buffer: false };
                let mut stream = Stream::served(&address, &asked).await?;
                let mut frames = 0;
                // What there is comes, however busy the machine is; what must not come does right behind it.
                let patience = |frames| if frames < OF_TWO_TASKS { PATIENCE } else { QUIET };
                while let Ok(Some(piece)) = timeout(patience(frames), stream.next()).await {
                    let Piece::Frame(frame) = piece else { continue };
                    frames += 1;
                    let foreign = frame.data.contains(&other.canary);
                    let named = frame.event != "output" || frame.data.contains(&one.canary);
                    findings.claim(!foreign && named, || format!("{path} gives {frame:?}"));
                }
                findings
                    .claim(frames >= OF_TWO_TASKS, || format!("{path} gives {frames} frames of two tasks"));
            }
        }
        Ok(())
    }

    async fn head(&self, who: &Who) -> anyhow::Result<u64> {
        let newest = self.ask(who, 0, &Ask::get("/v1/events?limit=1")).await?.json();
        newest["data"][0]["position"].as_u64().context("an event has a position")
    }

    /// Reads a stream to a position, or else until it is quiet.
    async fn read(
        &self,
        who: &Who,
        server: usize,
        path: &str,
        end: Option<u64>,
        seen: &Seen,
    ) -> anyhow::Result<Result<(), String>> {
        let address = self.load.place.address(server).context("a server runs")?;
        let asked = Asked { key: &who.key, path, last_event_id: None, small_buffer: false };
        let mut stream = Stream::served(&address, &asked).await?;
        let until = Instant::now() + PATIENCE;
        loop {
            let patience = end.map_or(QUIET, |_| until.saturating_duration_since(Instant::now()));
            match timeout(patience, stream.next()).await {
                Ok(Some(Piece::Frame(frame))) => {
                    let id = frame.id;
                    if let Err(wrong) = seen.meets(frame) {
                        return Ok(Err(format!("{path}: {wrong}")));
                    }
                    if end == Some(id) {
                        return Ok(Ok(()));
                    }
                }
                Ok(Some(Piece::Comment)) => {}
                Ok(Some(Piece::Wrong(wrong))) => return Ok(Err(format!("{path}: {wrong}"))),
                Ok(None) | Err(_) if end.is_none() => return Ok(Ok(())),
                Ok(None) | Err(_) => return Ok(Err(format!("{path} does not come to {end:?}"))),
            }
        }
    }

    /// What leads the victim to its next page leads nobody else anywhere.
    async fn cursors(&self, listings: &[String], findings: &mut Findings) -> anyhow::Result<()> {
        let mut tried = 0;
        for path in listings {
            let path = format!("{path}?limit=1");
            let first = self.ask(&self.victim.who, 0, &Ask::get(&path)).await?;
            anyhow::ensure!(first.status == 200, "{path}: {} {}", first.status, first.text);
            let first = first.json();
            let Some(cursor) = first["nextCursor"].as_str() else { continue };
            let next = Ask::get(format!("{path}&cursor={cursor}"));
            let own = self.ask(&self.victim.who, 1, &next).await?;
            findings.claim(own.status == 200, || format!("{} {}: {}", next.path, own.status, own.text));
            // A path that names what is the victim's is not there for anybody else.
            let answer = self.ask(self.outsider, 1, &next).await?;
            let named = self.victim.ids().iter().any(|id| path.contains(id));
            let refused = answer.status == 422 || named && answer.status == 404;
            findings.claim(refused && self.leaks(&answer, &next).is_empty(), || {
                format!("{} with another tenant's cursor: {} {}", next.path, answer.status, answer.text)
            });
            tried += 1;
        }
        findings.claim(tried >= 8, || format!("only {tried} listings have a second page"));
        findings.did("cursors of another's", tried);
        Ok(())
    }

    /// The victim's idempotency keys mean nothing to anybody else: neither with its requests nor with others.
    async fn keys(&self, findings: &mut Findings) -> anyhow::Result<()> {
        let mut answered = 0;
        for (number, (ask, first)) in self.victim.keyed.iter().enumerate() {
            let named = self.victim.ids().iter().any(|id| ask.path.contains(id));
            let other = Ask { path: "/v1/sessions".into(), method: "POST", ..ask.clone() };
            let other = Ask { body: Some(json!({ "userId": format!("outsider_{number}") })), ..other };
            // The same request first under one half of the keys, another under the other half.
            let ask = if number.is_multiple_of(2) { ask } else { &other };
            let named = named && number.is_multiple_of(2);
            let answer = self.ask(self.outsider, number, ask).await?;
            let id = |answer: &Answer| answer.json()["id"].as_str().map(str::to_owned);
            let same = id(&answer).is_some() && id(&answer) == id(first);
            // A budget's and a secret's answer show nothing that is the victim's alone; a charge is called by its place.
            let expected = match answer.status {
                404 => named || ask.path == "/v1/billing/adjustments",
                status => (200..300).contains(&status) && !named,
            };
            let leaks = self.leaks(&answer, ask);
            answered += u64::from(answer.status < 300);
            findings.claim(expected && !answer.replayed && !same && leaks.is_empty(), || {
                let Ask { method, path, idempotency_key, .. } = ask;
                format!("{method} {path} under {idempotency_key:?}: {} {}", answer.status, answer.text)
            });
        }
        findings
            .claim(answered >= 4, || format!("only {answered} requests under another's keys were answered"));
        findings.did("idempotency keys of another's", self.victim.keyed.len() as u64);
        Ok(())
    }
}
