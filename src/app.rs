//! Everything a request needs, assembled once.

use std::sync::Arc;

use theazo_domain::rates::Card;
use url::Url;

use crate::cards::Cards;
use crate::clock::Clock;
use crate::database::{self, Database};
use crate::log::{Log, TenantId};
use crate::providers::Vendors;
use crate::providers::client::Clients;
use crate::providers::compute::Compute;
use crate::providers::model::Models;
use crate::providers::tools::typescript::Converter;
use crate::read::usage::KeptSums;
use crate::runtime::Conversations;
use crate::vault::ServerKeys;

/// The server's parts, shared by every request and worker.
pub struct App {
    /// The database, as the serving role.
    pub database: Database,
    /// The log of every tenant.
    pub log: Arc<Log>,
    /// The server's own keys.
    pub keys: Arc<ServerKeys>,
    /// The ways out.
    pub clients: Clients,
    /// The search engine that agents may ask.
    pub search_engine: Option<Url>,
    /// Where the vendors of compute are.
    pub vendors: Vendors,
    /// The models.
    pub models: Models,
    /// Sandboxes on this machine.
    pub local: Arc<dyn Compute>,
    /// Makes JavaScript of TypeScript.
    pub typescript: Converter,
    /// The rate cards in force.
    pub cards: Cards,
    /// Conversations of agents that have run here.
    pub conversations: Conversations,
    /// What was used in periods that have ended.
    pub kept_sums: KeptSums,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// True from when the server is to stop: streams end then, and it says that it is not ready.
    pub stopping: tokio::sync::watch::Sender<bool>,
}

impl App {
    /// The rate card that is in force now.
    ///
    /// # Errors
    /// [`database::Error`] when the database is away.
    pub async fn rates(&self, tenant: TenantId) -> Result<Arc<Card>, database::Error> {
        self.cards.in_force(&self.log, tenant, self.clock.now()).await
    }
}
