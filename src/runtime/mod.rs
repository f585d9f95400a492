//! The workers: what has to happen next is taken from the read model of work, done outside of any transaction, and told
//! to the log as a command. Kill any server at any moment: another goes on from the log.

mod agent_loop;
mod conversation;
mod held;
mod history;
mod lease;
mod model_call;
mod pack;
mod program;
mod sandbox;
mod sweep;
mod tool_call;
mod vendors;

use std::sync::Arc;
use std::time::Duration;

use theazo_domain::agent_config::ProviderName;
use theazo_domain::id::{AgentId, ExecId, RequestId};
use theazo_domain::{Command, agent, session};
use theazo_projections::work::kind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::app::App;
use crate::log::{Actor, Content, Failure, Provenance, Submission, Tenant, Verdict};
use crate::providers::compute::{self, Compute};
use crate::read::agent::Agent;
use crate::{config, random, read};

pub(crate) use held::Held;
pub use history::Conversations;
use lease::{Leases, Piece, Taken};
pub use pack::Packer;
pub(crate) use program::{Asked, Secrets, run as run_program};
pub use sweep::Sweep;
pub use vendors::compute as compute_of;

/// Whether a step of a worker found something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many pieces of work were taken.
    Worked(usize),
    /// Nothing is due.
    Idle,
}

/// The workers of one server.
pub struct Runtime {
    app: Arc<App>,
    leases: Leases,
    places: Arc<Semaphore>,
    /// Of the work that keeps count.
    counting_places: Arc<Semaphore>,
}

/// The kinds of work that keep count of money, and take no longer than to ask the log. They have places of their own: what
/// takes long, and waits for others, may not put them off.
const COUNTING: [&str; 4] = [kind::METER, kind::STORE, kind::CLOSE_CALL, kind::CLOSE_EXEC];

impl Runtime {
    /// The workers of this server, which are not started yet.
    #[must_use]
    pub fn new(app: Arc<App>) -> Arc<Self> {
        let worker = random::ulid(app.clock.now()).to_string();
        let leases = Leases::new(app.database.clone(), worker);
        let [places, counting_places] =
            [config::PIECES_OF_WORK, config::PIECES_OF_COUNTING].map(|many| Arc::new(Semaphore::new(many)));
        Arc::new(Self { app, leases, places, counting_places })
    }

    /// Works until the server is to stop, and then hands back what is not done.
    pub fn start(self: &Arc<Self>) -> JoinHandle<()> {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tracing::info!(worker = this.leases.worker(), "working");
            let renewing = tokio::spawn(Arc::clone(&this).renew());
            let sweeping = tokio::spawn(sweep(Arc::clone(&this.app)));
            let packing = tokio::spawn(Packer::new(Arc::clone(&this.app)).run());
            let mut stopping = this.app.stopping.subscribe();
            loop {
                let step = this.step().await.unwrap_or_else(|failure| {
                    tracing::warn!(%failure, "no work could be taken");
                    Step::Idle
                });
                if *stopping.borrow() {
                    break;
                }
                if step == Step::Idle {
                    tokio::select! {
                        _ = stopping.wait_for(|stopping| *stopping) => break,
                        () = this.app.log.worked().notified() => {}
                        () = tokio::time::sleep(config::WORK_POLL) => {}
                    }
                }
            }
            this.hand_back().await;
            renewing.abort();
            sweeping.abort();
            packing.abort();
        })
    }

    /// Takes what is due and starts doing it.
    ///
    /// # Errors
    /// [`Failure`] when the database is away.
    pub async fn step(self: &Arc<Self>) -> Result<Step, Failure> {
        let free = |places: &Semaphore| places.available_permits().min(config::PIECES_AT_ONCE);
        let (most, most_counting) = (free(&self.places), free(&self.counting_places));
        if most == 0 && most_counting == 0 {
            // Whoever gives a place back tells.
            return Ok(Step::Idle);
        }
        let counting = (&COUNTING[..], most_counting);
        let pieces = self.leases.claim(most, counting, self.app.clock.dictated()).await?;
        let taken = pieces.len();
        for piece in pieces {
            let counts = COUNTING.contains(&piece.piece().kind.as_str());
            let places = if counts { &self.counting_places } else { &self.places };
            // Nobody else takes places, so those that were free still are.
            let place = Arc::clone(places).acquire_owned().await;
            let place = place.map_err(|_| Failure::Unavailable { outcome_unknown: false })?;
            tokio::spawn(Arc::clone(self).do_piece(piece, place));
        }
        Ok(if taken == 0 { Step::Idle } else { Step::Worked(taken) })
    }

    async fn do_piece(self: Arc<Self>, taken: Taken, place: OwnedSemaphorePermit) {
        let piece = taken.piece();
        let desk = Desk { app: &self.app, tenant: piece.tenant };
        let done = desk.carry_out(piece).await.unwrap_or_else(|failure| {
            tracing::warn!(%failure, kind = piece.kind, subject = piece.subject, "work is tried again");
            Done::Later
        });
        drop(place);
        // A lease is renewed for as long as this server has it, so it has to be let go of after the rest too.
        if done == Done::Later {
            tokio::time::sleep(config::WORK_REST).await;
        }
        if let Err(error) = self.leases.release(taken).await {
            tracing::debug!(%error, "a lease runs out by itself");
        }
        self.app.log.worked().notify_one();
    }

    async fn renew(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(config::LEASE_RENEWAL);
        loop {
            ticks.tick().await;
            if let Err(error) = self.leases.renew(self.app.clock.dictated()).await {
                tracing::warn!(%error, "leases could not be renewed");
            }
        }
    }

    /// What is under way has a moment to end; what is left is for others.
    async fn hand_back(&self) {
        let all = |places| u32::try_from(places).unwrap_or(u32::MAX);
        let ended = async {
            let _counting = self.counting_places.acquire_many(all(config::PIECES_OF_COUNTING)).await;
            let _ = self.places.acquire_many(all(config::PIECES_OF_WORK)).await;
        };
        let _ = timeout(config::HAND_BACK, ended).await;
        if let Err(error) = self.leases.release_all().await {
            tracing::warn!(%error, "leases could not be handed back; they run out by themselves");
        }
    }
}

/// Looks now and then for sandboxes that were left behind.
async fn sweep(app: Arc<App>) {
    let sweep = Sweep::new(app);
    loop {
        tokio::time::sleep(config::SWEEP_INTERVAL).await;
        if let Err(error) = sweep.look().await {
            tracing::warn!(%error, "sandboxes that were left behind could not be looked for");
        }
    }
}

/// What becomes of a lease once a piece of work was attended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// It is let go: the work is done, or another may go on with it at once.
    LetGo,
    /// It is kept for a rest, and the work is tried again then.
    Later,
}

/// Where one piece of work is done.
#[derive(Clone, Copy)]
pub(crate) struct Desk<'a> {
    pub(crate) app: &'a Arc<App>,
    pub(crate) tenant: Tenant,
}

impl Desk<'_> {
    async fn carry_out(self, piece: &Piece) -> Result<Done, Failure> {
        let subject = piece.subject.as_str();
        if piece.kind == kind::CLOSE_EXEC {
            return self.close_exec(subject).await;
        }
        let agent_id: AgentId =
            subject.parse().map_err(|_| Failure::Internal(format!("work about {subject}")))?;
        match piece.kind.as_str() {
            kind::PROVISION => sandbox::provision(self, agent_id).await,
            kind::SUSPEND => sandbox::suspend(self, agent_id).await,
            kind::WAKE => sandbox::wake(self, agent_id).await,
            kind::RELEASE => sandbox::release(self, agent_id).await,
            kind::METER => self.measure(agent_id, subject).await,
            kind::STORE => self.charge_storage(agent_id).await,
            kind::RUN => agent_loop::run(self, agent_id).await,
            kind::CLOSE_CALL => {
                let _ = self.tell(agent_id, agent::Command::CloseCall, vec![]).await?;
                Ok(Done::LetGo)
            }
            kind => Err(Failure::Internal(format!("no such work: {kind}"))),
        }
    }

    async fn measure(self, agent_id: AgentId, subject: &str) -> Result<Done, Failure> {
        if let Some(work) = read::agent::work(self.scope(), kind::METER, subject).await? {
            let rates = self.app.rates(self.tenant.id).await?.compute_rates();
            let command = session::Command::TickCompute(agent_id, rates);
            let command = Command::Session(work.session_id, command);
            let _ = self.execute(command, vec![]).await?;
            self.measure_storage(agent_id).await?;
        }
        Ok(Done::LetGo)
    }

    /// Measures the workspace of an agent on this machine, where that costs no call to anybody.
    async fn measure_storage(self, agent_id: AgentId) -> Result<(), Failure> {
        let Some(mut agent) = read::agent::get(self.scope(), agent_id).await? else { return Ok(()) };
        let Some(sandbox) = agent.sandbox.take().filter(|_| agent.provider == ProviderName::Local) else {
            return Ok(());
        };
        let handle = compute::Handle(sandbox);
        let measured = async { self.compute(&agent).await?.stored_bytes(&handle).await }.await;
        match measured {
            Ok(bytes) => {
                let _ = self.tell(agent_id, agent::Command::Stored { bytes }, vec![]).await?;
            }
            // It is measured again with the next piece of compute.
            Err(error) => tracing::debug!(%error, %agent_id, "a workspace could not be measured"),
        }
        Ok(())
    }

    /// A day is over. Where it is not by the clock of the log, it is tried again a little later.
    async fn charge_storage(self, agent_id: AgentId) -> Result<Done, Failure> {
        let rates = self.app.rates(self.tenant.id).await?.storage_rates();
        match self.tell(agent_id, agent::Command::MeterStorage(rates), vec![]).await? {
            Ok(accepted) if accepted.events.is_empty() => Ok(Done::Later),
            _ => Ok(Done::LetGo),
        }
    }

    /// A caller's program whose server is gone.
    async fn close_exec(self, subject: &str) -> Result<Done, Failure> {
        let exec_id: ExecId =
            subject.parse().map_err(|_| Failure::Internal(format!("work about {subject}")))?;
        if let Some(work) = read::agent::work(self.scope(), kind::CLOSE_EXEC, subject).await? {
            let outcome = agent::ExecOutcome::Interrupted;
            let command = agent::Command::FinishExec { exec_id, outcome, result: None, duration_ms: 0 };
            let _ = self.tell(work.agent_id, command, vec![]).await?;
        }
        Ok(Done::LetGo)
    }

    pub(crate) fn scope(&self) -> crate::database::Scope<'_> {
        self.app.log.scope(self.tenant.id)
    }

    /// Who runs the agent's sandbox.
    pub(crate) async fn compute(self, agent: &Agent) -> Result<Arc<dyn Compute>, compute::Error> {
        vendors::compute(self.app, self.tenant, agent.provider).await
    }

    /// Tells an agent something.
    pub(crate) async fn tell(
        self,
        agent_id: AgentId,
        command: agent::Command,
        contents: Vec<Content>,
    ) -> Result<Verdict, Failure> {
        self.execute(Command::Agent(agent_id, command), contents).await
    }

    async fn execute(self, command: Command, contents: Vec<Content>) -> Result<Verdict, Failure> {
        let request_id = RequestId::from_ulid(random::ulid(self.app.clock.now()));
        let provenance = Provenance { actor: Actor::System, request_id, cause: None };
        let submission = Submission { command, provenance, contents, sealed: vec![] };
        self.app.log.execute(self.tenant, submission).await
    }
}

/// Ends so long after the server was told to stop: what waits for others gives up then.
pub(crate) async fn after_stop(app: &App, moment: Duration) {
    let mut stopping = app.stopping.subscribe();
    if stopping.wait_for(|stopping| *stopping).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(moment).await;
}
