//! Agents that do nothing, and live through the whole round: what is charged of them is measured again and again, at the
//! prices of either half.

use std::time::Duration;

use serde_json::json;
use theazo_domain::time::Timestamp;
use tokio::time::sleep;

use super::lives::{Agent, Session, create, is_ready};
use super::spans::{Ready, Spans, now_ms};
use super::{Desk, text};
use crate::load::Customer;

const ELDERS: usize = 3;
/// Their model, which they never ask.
const MODEL: &str = "claude-haiku-4-5";

pub(super) struct Elders<'a> {
    customer: Customer<'a>,
    session: Session,
}

impl<'a> Elders<'a> {
    /// They come to life, each with a file.
    pub(super) async fn begin(mut customer: Customer<'a>, desk: Desk<'_>) -> anyhow::Result<Self> {
        let user = "user_old";
        let made = customer.post("/v1/sessions", json!({ "userId": user })).await?;
        let id = text(&made, "id")?;
        let created_at = Timestamp::parse(&text(&made, "createdAt")?)?;
        let mut session = Session { id, created_at, agents: vec![] };
        for _ in 0..ELDERS {
            let from = now_ms();
            let made = create(&mut customer, &session.id, MODEL).await?;
            let id = text(&made, "id")?;
            let by = is_ready(&mut customer, &id).await?;
            let size = customer.random.usize(5_000_000..20_000_000);
            let bytes = desk.keep_file(&id, size)?;
            let ready = vec![Ready { from, by, asked: by, ended: by }];
            session.agents.push(Agent {
                id,
                session: session.id.clone(),
                user: user.to_owned(),
                model: MODEL.to_owned(),
                own_key: false,
                half: None,
                created_at: Timestamp::parse(&text(&made, "createdAt")?)?,
                spans: Spans { ready, bytes, ..Spans::default() },
                runs: vec![],
            });
        }
        Ok(Self { customer, session })
    }

    /// Their ids.
    pub(super) fn ids(&self) -> Vec<String> {
        self.session.agents.iter().map(|agent| agent.id.clone()).collect()
    }

    /// They die, each of them so old at least.
    pub(super) async fn end(mut self, age: Duration) -> anyhow::Result<Session> {
        for agent in &mut self.session.agents {
            let Some(ready) = agent.spans.ready.first_mut() else { continue };
            let lived = u64::try_from(now_ms() - ready.by).unwrap_or_default();
            sleep(age.saturating_sub(Duration::from_millis(lived))).await;
            ready.asked = now_ms();
            self.customer.post(&format!("/v1/agents/{}/terminate", agent.id), json!({})).await?;
            ready.ended = now_ms();
        }
        self.customer.post(&format!("/v1/sessions/{}/terminate", self.session.id), json!({})).await?;
        Ok(self.session)
    }
}
