//! One write in all the ways in which it can be sent again.

use std::sync::atomic::Ordering;

use anyhow::bail;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep};

use super::{Scene, WAIT, Write};
use crate::client::{Answer, Ask, Caller};

/// What is said where a key is another request's.
const ANOTHERS: &str = "Idempotency-Key was used";

impl Scene<'_> {
    /// Sends one write in all ways. What the answers have in common is what was decided.
    pub(super) async fn send_again(
        &self,
        callers: &mut [Caller; 3],
        (write, ask): (&Write, Ask),
        random: &mut fastrand::Rng,
        violations: &mut Vec<String>,
    ) -> anyhow::Result<Value> {
        // Half of the time it comes with another request under its key, and half of those before all others. The other
        // says the same, in other bytes: unknown fields are ignored.
        let (at_once, cut) = (random.bool(), random.bool());
        if cut && self.cut(&ask, random).await? {
            self.sent.cut.fetch_add(1, Ordering::Relaxed);
        }
        let [one, other, third] = callers;
        let addresses = [self.address(0)?, self.address(1)?];
        let changed = with_another_body(&ask);
        let rivals = async {
            if !at_once {
                return Ok(None);
            }
            answered(third, &addresses[random.usize(..2)], &changed).await.map(Some)
        };
        let mut rival = None;
        let mut decided: Vec<Answer> = vec![];
        let twins =
            tokio::join!(answered(one, &addresses[0], &ask), answered(other, &addresses[1], &ask), rivals);
        if let Some(answer) = twins.2? {
            rival = Some(answer);
        }
        decided.extend([twins.0?, twins.1?]);
        // Whoever came first has the key.
        let (ask, changed) = match rival {
            Some(rival) if !is_anothers(&rival) => {
                if !decided.iter().all(is_anothers) {
                    violations.push(format!("{}: two requests have one key: {decided:?}", write.operation));
                }
                decided = vec![rival, answered(one, &addresses[random.usize(..2)], &changed).await?];
                self.sent.changed.fetch_add(2, Ordering::Relaxed);
                self.sent.at_once.fetch_add(2, Ordering::Relaxed);
                (changed, ask)
            }
            rival => {
                self.sent.changed.fetch_add(u64::from(rival.is_some()), Ordering::Relaxed);
                self.sent.at_once.fetch_add(u64::from(rival.is_some()), Ordering::Relaxed);
                (ask, changed)
            }
        };
        decided.push(answered(one, &addresses[random.usize(..2)], &ask).await?);
        self.sent.duplicates.fetch_add(decided.len() as u64 - 1, Ordering::Relaxed);
        let first = judged(write.operation, &decided, violations)?;
        for changed in [changed].into_iter().chain(others(&ask)) {
            let answer = other.ask(&addresses[random.usize(..2)], &changed).await?;
            self.sent.changed.fetch_add(1, Ordering::Relaxed);
            if !is_anothers(&answer) {
                let Ask { method, path, body, .. } = changed;
                let sent = format!("{method} {path} {body:?} under the key of {}", write.operation);
                violations.push(format!("{sent}: {} {}", answer.status, answer.text));
            }
        }
        Ok(first.json())
    }

    /// Sends a request and cuts the connection: at once, or in the middle of it. Whether all of it was sent.
    async fn cut(&self, ask: &Ask, random: &mut fastrand::Rng) -> anyhow::Result<bool> {
        let address = self.address(random.usize(..2))?;
        let body = ask.body.as_ref().map(Value::to_string).unwrap_or_default();
        let kind = if ask.body.is_some() { "content-type: application/json\r\n" } else { "" };
        let key = ask.idempotency_key.as_deref().unwrap_or_default();
        let whole = format!(
            "{} {} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\nidempotency-key: {key}\r\n{kind}\
             content-length: {}\r\n\r\n{body}",
            ask.method,
            ask.path,
            self.tenant.key,
            body.len()
        );
        let sent = if random.bool() { whole.len() } else { random.usize(1..whole.len()) };
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(&whole.as_bytes()[..sent]).await?;
        Ok(sent == whole.len())
    }
}

/// Whether a request was refused because its key is another's.
fn is_anothers(answer: &Answer) -> bool {
    answer.status == 409 && answer.text.contains(ANOTHERS)
}

/// What was decided, which all of these answers have to say.
fn judged(operation: &str, decided: &[Answer], violations: &mut Vec<String>) -> anyhow::Result<Answer> {
    let first = decided[0].clone();
    if !(200..300).contains(&first.status) {
        bail!("{operation}: {} {}", first.status, first.text);
    }
    if decided.iter().any(|answer| (answer.status, &answer.text) != (first.status, &first.text)) {
        violations.push(format!("{operation}: one key, several answers: {decided:?}"));
    }
    if decided.iter().filter(|answer| !answer.replayed).count() > 1 {
        violations.push(format!("{operation}: carried out more than once: {decided:?}"));
    }
    Ok(first)
}

/// The same request in another body, which means the same.
fn with_another_body(ask: &Ask) -> Ask {
    let mut body = ask.body.clone().unwrap_or_else(|| json!({}));
    body["other"] = json!(true);
    Ask { body: Some(body), ..ask.clone() }
}

/// Requests with the same body and another query, another path, or another method where the path has one.
fn others(ask: &Ask) -> Vec<Ask> {
    let (path, query) = ask.path.split_once('?').unwrap_or((&ask.path, ""));
    let mut others = vec![];
    // Those that read a query refuse what is none of theirs before they look at the key.
    if !path.starts_with("/v1/secrets/") {
        let query = if query.is_empty() { "other=1".to_owned() } else { format!("{query}&other=1") };
        others.push(Ask { path: format!("{path}?{query}"), ..ask.clone() });
    }
    let body = Some(json!({ "userId": "other" }));
    let path = if path == "/v1/sessions" { "/v1/sessions/by-user/other" } else { "/v1/sessions" };
    others.push(Ask { method: "POST", path: path.to_owned(), body, ..ask.clone() });
    if ask.path.starts_with("/v1/agent-definitions/") {
        let method = if ask.method == "PUT" { "DELETE" } else { "PUT" };
        let body = ask.body.clone().or_else(|| (method == "PUT").then(|| json!({})));
        others.push(Ask { method, body, ..ask.clone() });
    }
    others
}

/// The answer to a request; while the first with its key is under way, which may ask somebody outside, one is told to wait.
async fn answered(caller: &mut Caller, address: &str, ask: &Ask) -> anyhow::Result<Answer> {
    let until = Instant::now() + WAIT;
    loop {
        let answer = caller.ask(address, ask).await?;
        let waits = answer.status == 409 && answer.text.contains("still running");
        if !waits || Instant::now() > until {
            return Ok(answer);
        }
        // Nobody tells when a key is free, but asking again: sooner than `Retry-After` says, so that it is met held, too.
        sleep(Duration::from_millis(20)).await;
    }
}
