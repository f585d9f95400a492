//! One write in all the ways in which it can be sent again.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

use anyhow::bail;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep};

use super::{Copies, Scene, Write};
use crate::client::{Answer, Ask};
use crate::load::{Anything, Customer, Entry};

/// What is said where a key is another request's.
const ANOTHERS: &str = "Idempotency-Key was used";
/// What is said of a program that a server could not keep hold of, on a machine that let it do nothing for ten seconds: it was
/// run once at most.
const GIVEN_UP: &str = "ended as interrupted";
/// How long a key is waited for. It is held for a minute where nobody works under it, which must not be: a caller that goes away
/// leaves the work behind.
const FREE: Duration = Duration::from_secs(45);
/// How often one asks whether a key is free: at first sooner than `Retry-After` says, so that it is met held, too.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How long after it was sent the connection of a copy is cut, in milliseconds: before anybody has looked at it, while it is
/// carried out, or when it has been.
const CUT_AFTER_MS: RangeInclusive<u64> = 0..=50;

/// A write that was sent for the first time, at the same moment as others.
struct First {
    /// The request that has the key.
    ask: Ask,
    /// Another under the same key.
    changed: Ask,
    /// The answers to copies of the one that has it.
    answers: Vec<Answer>,
}

impl Scene<'_> {
    /// Asks a server until it answers.
    pub(super) async fn ask(
        &self,
        caller: &mut Customer<'_>,
        server: usize,
        ask: &Ask,
    ) -> anyhow::Result<Answer> {
        caller.server = Some(server);
        caller.send(ask, Anything::default()).await
    }

    /// The answer to a request; while the first with its key is under way, which may ask somebody outside, one is told to
    /// wait.
    pub(super) async fn answered(
        &self,
        caller: &mut Customer<'_>,
        server: usize,
        ask: &Ask,
    ) -> anyhow::Result<Answer> {
        let until = Instant::now() + FREE;
        let (mut rest, longest) = LOOKS;
        loop {
            let answer = self.ask(caller, server, ask).await?;
            let waits = answer.status == 409 && answer.text.contains("still running");
            if !waits || Instant::now() > until {
                return Ok(answer);
            }
            // Nobody tells when a key is free, but asking again.
            sleep(rest).await;
            rest = longest.min(rest * 2);
        }
    }

    /// Sends one write in all ways. What the answers have in common is what was decided.
    pub(super) async fn send_again(
        &self,
        callers: &mut Copies<'_>,
        (write, ask): (&Write, Ask),
        random: &mut fastrand::Rng,
        violations: &mut Vec<String>,
    ) -> anyhow::Result<Value> {
        let again = asked_again(callers);
        let was_cut = random.bool() && self.cut(&ask, random).await?;
        self.sent.cut.fetch_add(u64::from(was_cut), Ordering::Relaxed);
        let First { ask, changed, mut answers } =
            self.at_once(callers, (write, ask), random, violations).await?;
        answers.push(self.answered(&mut callers[0], random.usize(..2), &ask).await?);
        // A copy whose answer was lost may have been the first one, too.
        let was_lost = asked_again(callers) != again;
        let first = if (was_cut || was_lost) && is_given_up(write, &answers) {
            // Each is told so in an answer of its own; that no copy of it was run is seen by what programs leave behind.
            self.sent.given_up.fetch_add(1, Ordering::Relaxed);
            answers.swap_remove(0)
        } else {
            let first = judged(write.operation, &answers, violations)?;
            self.sent.duplicates.fetch_add(answers.len() as u64 - 1, Ordering::Relaxed);
            let took_effect = was_cut && !was_lost && answers.iter().all(|answer| answer.replayed);
            self.sent.took_effect.fetch_add(u64::from(took_effect), Ordering::Relaxed);
            first
        };
        for changed in [changed].into_iter().chain(others(&ask)) {
            self.under_its_key(&mut callers[1], random.usize(..2), (write, &changed), violations).await?;
        }
        Ok(first.json())
    }

    /// Sends a write at the same moment on both servers. Half of the time it comes with another request under its key,
    /// which says the same in other bytes: unknown fields are ignored.
    async fn at_once(
        &self,
        callers: &mut Copies<'_>,
        (write, ask): (&Write, Ask),
        random: &mut fastrand::Rng,
        violations: &mut Vec<String>,
    ) -> anyhow::Result<First> {
        let [one, other, third] = callers;
        let (with_rival, server) = (random.bool(), random.usize(..2));
        let changed = with_another_body(&ask);
        let rival = async {
            if !with_rival {
                return Ok(None);
            }
            self.answered(third, server, &changed).await.map(Some)
        };
        let (first, second, rival) =
            tokio::join!(self.answered(one, 0, &ask), self.answered(other, 1, &ask), rival);
        let (answers, rival) = (vec![first?, second?], rival?);
        let has_the_key = rival.as_ref().is_some_and(|rival| !is_anothers(rival));
        // Whoever came first has the key; the others are other requests.
        let changed_ones = if has_the_key { 2 } else { u64::from(rival.is_some()) };
        self.sent.changed.fetch_add(changed_ones, Ordering::Relaxed);
        self.sent.at_once.fetch_add(changed_ones, Ordering::Relaxed);
        let Some(rival) = rival.filter(|_| has_the_key) else { return Ok(First { ask, changed, answers }) };
        if !answers.iter().all(is_anothers) {
            violations.push(format!("{}: two requests have one key: {answers:?}", write.operation));
        }
        let again = self.answered(one, random.usize(..2), &changed).await?;
        Ok(First { ask: changed, changed: ask, answers: vec![rival, again] })
    }

    /// Sends another request under the key of a write: it has to be refused.
    pub(super) async fn under_its_key(
        &self,
        caller: &mut Customer<'_>,
        server: usize,
        (write, changed): (&Write, &Ask),
        violations: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let answer = self.ask(caller, server, changed).await?;
        self.sent.changed.fetch_add(1, Ordering::Relaxed);
        if !is_anothers(&answer) {
            let Ask { method, path, body, .. } = changed;
            let sent = format!("{method} {path} {body:?} under the key of {}", write.operation);
            violations.push(format!("{sent}: {} {}", answer.status, answer.text));
        }
        Ok(())
    }

    /// Sends a request and cuts the connection: in the middle of it, or some time after all of it. Whether all of it was
    /// sent.
    async fn cut(&self, ask: &Ask, random: &mut fastrand::Rng) -> anyhow::Result<bool> {
        self.load.account.write(&Entry::intended(ask, Anything::default()))?;
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
        let rest = Duration::from_millis(random.u64(CUT_AFTER_MS));
        let sending = async {
            let mut stream = TcpStream::connect(&address).await?;
            stream.write_all(&whole.as_bytes()[..sent]).await?;
            sleep(rest).await;
            Ok::<_, std::io::Error>(())
        };
        // One that cannot be sent is no copy.
        Ok(sending.await.is_ok() && sent == whole.len())
    }
}

/// How often these had to send something again, of which nobody knows what it did, or which was not done.
fn asked_again(callers: &Copies<'_>) -> u64 {
    callers.iter().map(|caller| caller.again).sum()
}

/// Whether a request was refused because its key is another's.
fn is_anothers(answer: &Answer) -> bool {
    answer.status == 409 && answer.text.contains(ANOTHERS)
}

/// Whether a program was begun and never run: the start is written down together with the key, so it is not begun again
/// where whoever was to run it has gone.
fn is_given_up(write: &Write, answers: &[Answer]) -> bool {
    let said = |answer: &Answer| answer.status == 409 && answer.text.contains(GIVEN_UP);
    write.operation.ends_with("/exec") && answers.iter().all(said)
}

/// What was decided, which all of these answers have to say.
fn judged(operation: &str, decided: &[Answer], violations: &mut Vec<String>) -> anyhow::Result<Answer> {
    let first = decided[0].clone();
    if !first.is_success() {
        bail!("{operation}: {} {}", first.status, first.text);
    }
    if !are_the_same(decided) {
        violations.push(format!("{operation}: one key, several answers: {decided:?}"));
    }
    if decided.iter().filter(|answer| !answer.replayed).count() > 1 {
        violations.push(format!("{operation}: carried out more than once: {decided:?}"));
    }
    Ok(first)
}

/// Whether answers say the same, byte for byte.
pub(super) fn are_the_same(answers: &[Answer]) -> bool {
    answers.windows(2).all(|pair| (pair[0].status, &pair[0].text) == (pair[1].status, &pair[1].text))
}

/// The same request in another body, which means the same.
pub(super) fn with_another_body(ask: &Ask) -> Ask {
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
