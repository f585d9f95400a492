//! The log over the database of a bench, and what callers do with it.

use std::sync::Arc;

use theazo::clock::{Clock, SystemClock};
use theazo::database::{self, Database};
use theazo::log::{self, Actor, Log, Provenance, Submission, Tenant};
use theazo::random;
use theazo::vault::{Key, Master, Masters, ServerKeys};
use theazo_domain::Command;
use theazo_domain::command::Person;
use theazo_domain::id::{OrganizationId, RequestId, SessionId, UserId};
use theazo_domain::money::Currency;
use theazo_domain::organization::{self, Mode, Plan};
use theazo_domain::rates::Card;
use theazo_domain::session::{self, CostLimit, CostPeriod, Limits, Opening};

use crate::world::World;

impl World {
    /// A server's log.
    pub(crate) fn log(&self) -> anyhow::Result<Arc<Log>> {
        let login = self.login("theazo");
        let database = Database::new(&login, database::connector(&login, None)?)?;
        let [pepper, answers, cursors] = [1, 2, 3].map(|byte| Key::new([byte; 32]));
        let masters = Masters::of(Master::from_hex(&"01ff".repeat(16), "the bench")?);
        let keys = ServerKeys { pepper, answers, cursors, masters };
        Ok(Log::new(database, Arc::new(keys), Arc::new(SystemClock)))
    }

    /// Organizations that have begun.
    pub(crate) async fn tenants(&self, log: &Arc<Log>, number: usize) -> anyhow::Result<Vec<Tenant>> {
        let mut owner = self.connect("theazo").await?;
        let mut tenants = vec![];
        for _ in 0..number {
            let id = OrganizationId::from_ulid(random::ulid(SystemClock.now()));
            let tenant = log::create_tenant(&mut owner, id, Mode::Live).await?;
            let (name, mode, plan) = ("Bench".to_owned(), Mode::Live, Plan::Team);
            let create = organization::Command::Create { name, mode, plan, rate_limit: None };
            log.execute(tenant, submission(Command::Organization(id, create))).await??;
            tenants.push(tenant);
        }
        Ok(tenants)
    }
}

pub(crate) fn submission(command: Command) -> Submission {
    let request_id = RequestId::from_ulid(random::ulid(SystemClock.now()));
    let provenance = Provenance { actor: Actor::Operator, request_id, cause: None };
    Submission { command, provenance, contents: vec![], sealed: vec![] }
}

/// The four commands of a session's life.
pub(crate) fn session_life() -> (SessionId, [session::Command; 4]) {
    let session = SessionId::from_ulid(random::ulid(SystemClock.now()));
    let new_id = UserId::from_ulid(random::ulid(SystemClock.now()));
    let max_cost = Some(CostLimit { amount: 500, currency: Currency::Usd, period: CostPeriod::Day });
    let opening = Opening {
        person: Person { external_id: format!("user_{}", new_id.ulid()), new_id },
        limits: Limits { max_cost, max_agents: Some(3), max_compute_minutes: None },
        metadata: None,
    };
    let commands = [
        session::Command::Create(opening),
        session::Command::Pause,
        session::Command::Resume(Card::built_in().compute_rates()),
        session::Command::Terminate,
    ];
    (session, commands)
}
