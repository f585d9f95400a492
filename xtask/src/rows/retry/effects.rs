//! Programs that leave something behind outside of the log: sent again, each has run once.

use std::path::Path;

use anyhow::Context;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Scene, Sent, WAIT, Write};
use crate::client::Ask;
use crate::load::{Customer, Load};
use crate::prove::{Findings, Run};

/// Agents that run programs at the same time.
const AGENTS: usize = 3;

/// Lets real sandboxes append lines to files by programs that are sent again, and counts the lines.
pub(super) async fn prove(
    load: &Load<'_>,
    run: &Run,
    (sandboxes, sent): (&Path, &Sent),
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let tenant = load.place.organization("live").await?;
    let scene = Scene { load, tenant: &tenant, aim: run.amount(12, 300), sent };
    let agents = load.customers([&*tenant.key; AGENTS], "effect", 500);
    let agents = load.live(agents, |customer| scene.programs(customer, sandboxes));
    let mut programs = 0;
    for outcome in agents.await {
        match outcome {
            Ok((ran, violations)) => {
                programs += ran;
                violations.into_iter().for_each(|violation| findings.violation(violation));
            }
            Err(error) => findings.violation(format!("a program that must run did not: {error:#}")),
        }
    }
    findings.did("programs with an effect of their own", programs);
    Ok(())
}

impl Scene<'_> {
    /// Runs programs in one sandbox. How many, and what is wrong.
    async fn programs(
        &self,
        Customer { number, mut random, .. }: Customer<'_>,
        sandboxes: &Path,
    ) -> anyhow::Result<(u64, Vec<String>)> {
        let mut callers = self.copies();
        let made = async |caller: &mut Customer<'_>, path: &str, body, what: &str| {
            let key = format!("effect-{number}-{what}-made");
            let answer = self.ask(caller, 0, &Ask::post(path, Some(body)).once(key)).await?;
            let id = answer.json()["id"].as_str().map(str::to_owned);
            id.with_context(|| format!("{path}: {} {}", answer.status, answer.text))
        };
        let user = json!({ "userId": format!("user_{number}") });
        let session = made(&mut callers[0], "/v1/sessions", user, "session").await?;
        let path = format!("/v1/sessions/{session}/agents");
        let agent = made(&mut callers[0], &path, json!({ "timeout": 3_600 }), "agent").await?;
        let path = format!("/v1/agents/{agent}");
        let until = Instant::now() + WAIT;
        while callers[0].look(&*path).await?["status"] != "idle" {
            anyhow::ensure!(Instant::now() < until, "{agent} is not ready");
            sleep(std::time::Duration::from_millis(50)).await;
        }
        let mut violations = vec![];
        let mut expected = vec![];
        for round in 0..self.aim {
            let key = format!("effect-{number}-{round}-0");
            let code = format!("sleep 0.0{}; echo {key} >> effects; sleep 0.0{}", round % 10, round % 7);
            let ask = Ask::post(format!("{path}/exec"), Some(json!({ "lang": "bash", "code": code })));
            let write = Write { operation: "POST /v1/agents/{id}/exec", ask: ask.clone() };
            let ask = ask.once(&key);
            let ran = self.send_again(&mut callers, (&write, ask), &mut random, &mut violations).await?;
            // One that was given up with its caller may not have been run, and has not been run twice.
            let is_given_up = ran["error"].is_object();
            if !is_given_up && ran["exitCode"] != 0 {
                violations.push(format!("{key} has ended so: {ran}"));
            }
            expected.push((key, is_given_up));
        }
        let effects = sandboxes.join(&agent).join("workspace/effects");
        let effects = std::fs::read_to_string(&effects).with_context(|| format!("{}", effects.display()))?;
        let left: Vec<_> = effects.lines().collect();
        let ran = expected.iter().filter(|(key, is_given_up)| !is_given_up || left.contains(&&**key));
        let ran: Vec<_> = ran.map(|(key, _)| key).collect();
        if left != ran {
            violations.push(format!("{} programs have left this behind: {effects}", ran.len()));
        }
        Ok((ran.len() as u64, violations))
    }
}
