//! Two servers over one database, an organization, and keys to it: what the tests of the API talk to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use theazo::app::App;
use theazo::cards::Cards;
use theazo::clock::{Clock, ManualClock, SystemClock};
use theazo::database::{Database, connector, migrate};
use theazo::keys::{self, Secret};
use theazo::log::{self, Accepted, Actor, Log, Provenance, Submission, Tenant};
use theazo::providers::Settings;
use theazo::providers::client::Clients;
use theazo::providers::compute::Compute;
use theazo::providers::compute::local::LocalCompute;
use theazo::providers::guard::Guard;
use theazo::providers::model::{self, Models, Wire};
use theazo::providers::tools::typescript::Converter;
use theazo::random;
use theazo::runtime::{Conversations, Runtime};
use theazo_domain::id::{KeyId, OrganizationId, RequestId};
use theazo_domain::key::Role;
use theazo_domain::organization::{Mode, Plan};
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, key, organization};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;
use tokio_postgres::Config;
use zeroize::Zeroizing;

use super::api::Api;
use super::cluster::{self, Scratch, TestDatabase};
use super::models::ModelServer;

/// More than any test asks for that is not about rates.
const PLENTY: u32 = 1_000_000;

/// A server: its parts, and its API.
pub(crate) struct Server {
    pub(crate) app: Arc<App>,
    pub(crate) router: Router,
    listener: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Two servers over one database.
pub(crate) struct Site {
    pub(crate) servers: [Server; 2],
    pub(crate) database: TestDatabase,
    pub(crate) clock: Arc<ManualClock>,
    turn: AtomicUsize,
    outside: Outside,
    working: Vec<JoinHandle<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        for working in &self.working {
            working.abort();
        }
    }
}

/// What the servers of a site share of what lies outside.
struct Outside {
    anthropic: Option<String>,
    openai: Option<String>,
    local: Arc<dyn Compute>,
    settings: Settings,
    _scratch: Scratch,
}

impl Outside {
    fn new(models: Option<&ModelServer>, settings: Settings) -> Self {
        let scratch = Scratch::new();
        let options = crate::sandbox::options(&scratch);
        let local = Arc::new(LocalCompute::new(options).expect("a folder for sandboxes"));
        let (anthropic, openai) =
            (models.map(ModelServer::anthropic_url), models.map(ModelServer::openai_url));
        Self { anthropic, openai, local, settings, _scratch: scratch }
    }

    fn models(&self) -> model::Settings {
        let key = || Some(Zeroizing::new("sk-test-0000000000".to_owned()));
        model::Settings {
            anthropic_base_url: self.anthropic.clone(),
            anthropic_api_key: key(),
            openai_base_url: self.openai.clone(),
            openai_api_key: key(),
            default_model: None,
        }
    }
}

impl Site {
    /// Servers that look at the machine's clock.
    pub(crate) async fn new() -> Arc<Self> {
        Self::with(Arc::new(SystemClock)).await
    }

    /// Servers whose operator says this of what lies outside.
    pub(crate) async fn with_outside(outside: Settings) -> Arc<Self> {
        Self::with_all(Arc::new(SystemClock), Outside::new(None, outside)).await
    }

    /// Servers whose clock stands until `site.clock` is moved.
    pub(crate) async fn with_manual_clock() -> Arc<Self> {
        let clock = Arc::new(ManualClock::at(1_746_057_600_000));
        let mut site = Self::with(clock.clone()).await;
        Arc::get_mut(&mut site).expect("nobody has it yet").clock = clock;
        site
    }

    /// Servers with this clock.
    pub(crate) async fn with(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with_all(clock, Outside::new(None, Settings::default())).await
    }

    /// Servers with the models of this server, whose workers are not started.
    pub(crate) async fn with_models(models: &ModelServer) -> Arc<Self> {
        Self::with_all(Arc::new(SystemClock), Outside::new(Some(models), Settings::default())).await
    }

    /// Servers whose workers work, with the models of this server where one is given.
    pub(crate) async fn working(models: Option<&ModelServer>) -> Arc<Self> {
        Self::working_with(models, Settings::default()).await
    }

    /// The same, and their operator says this of what lies outside.
    pub(crate) async fn working_with(models: Option<&ModelServer>, settings: Settings) -> Arc<Self> {
        let mut site = Self::with_all(Arc::new(SystemClock), Outside::new(models, settings)).await;
        let working = site.servers.each_ref().map(|server| Runtime::new(Arc::clone(&server.app)).start());
        Arc::get_mut(&mut site).expect("nobody has it yet").working.extend(working);
        site
    }

    async fn with_all(clock: Arc<dyn Clock>, outside: Outside) -> Arc<Self> {
        let database = cluster::database_from(Some(template().await)).await;
        let login = database.config();
        let servers = [server(&login, &clock, &outside), server(&login, &clock, &outside)];
        let (unused, working) = (Arc::new(ManualClock::at(0)), vec![]);
        Arc::new(Self { servers, database, clock: unused, turn: AtomicUsize::new(0), outside, working })
    }

    /// Another server over the same database, as after a restart.
    pub(crate) fn another(&self) -> Server {
        self.another_by(&self.database.config())
    }

    /// Another server, which reaches the same database by this login.
    pub(crate) fn another_by(&self, login: &Config) -> Server {
        server(login, &self.servers[0].app.clock, &self.outside)
    }

    /// The servers take turns.
    pub(crate) fn next(&self) -> &Server {
        &self.servers[self.turn.fetch_add(1, Ordering::Relaxed) % 2]
    }

    /// An organization of which nobody else has the key.
    pub(crate) async fn organization(self: &Arc<Self>, mode: Mode, rate_limit: u32) -> Organization {
        let id = OrganizationId::from_ulid(random::ulid(self.now()));
        let mut owner = self.database.connect().await;
        let tenant = log::create_tenant(&mut owner, id, mode).await.expect("a tenant is made");
        let command = organization::Command::Create {
            name: "Example".to_owned(),
            mode,
            plan: Plan::Team,
            rate_limit: Some(rate_limit),
        };
        self.execute(tenant, Command::Organization(id, command)).await;
        Organization { site: Arc::clone(self), tenant }
    }

    /// The API as the admin of a new organization in live mode.
    pub(crate) async fn admin(self: &Arc<Self>) -> Api {
        self.organization(Mode::Live, PLENTY).await.api(Role::Admin).await
    }

    /// Carries out a command that must not be refused.
    pub(crate) async fn execute(&self, tenant: Tenant, command: Command) -> Accepted {
        let request_id = RequestId::from_ulid(random::ulid(self.now()));
        let provenance = Provenance { actor: Actor::Operator, request_id, cause: None };
        let submission = Submission { command, provenance, contents: vec![], sealed: vec![] };
        let verdict = self.next().app.log.execute(tenant, submission).await.expect("it is carried out");
        verdict.expect("it is allowed")
    }

    /// The position of the last event of a log.
    pub(crate) async fn head(&self, tenant: Tenant) -> i64 {
        let sql = "select position from heads where tenant_id = $1";
        let row = self.servers[0].app.log.scope(tenant.id).query_optional(sql, &[]).await;
        row.expect("the database answers").expect("the tenant has a head").get(0)
    }

    fn now(&self) -> Timestamp {
        self.servers[0].app.clock.now()
    }
}

/// An organization in one mode.
pub(crate) struct Organization {
    pub(crate) site: Arc<Site>,
    pub(crate) tenant: Tenant,
}

impl Organization {
    /// A new key: its id and its secret.
    pub(crate) async fn key(&self, role: Role) -> (KeyId, Secret) {
        let id = KeyId::from_ulid(random::ulid(self.site.now()));
        let secret = keys::generate(self.tenant.mode);
        let digest = keys::digest(&super::logs::keys().pepper, &secret);
        let last_four = keys::last_four(&secret).to_owned();
        let command = key::Command::Create { role, digest, last_four };
        self.site.execute(self.tenant, Command::Key(id, command)).await;
        (id, secret)
    }

    /// The API with a new key of this role.
    pub(crate) async fn api(&self, role: Role) -> Api {
        let (_, secret) = self.key(role).await;
        Api::new(&self.site, self.tenant, &secret)
    }
}

/// A database that is migrated once, and copied for each test.
async fn template() -> &'static str {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE
        .get_or_init(async || {
            let database = cluster::database().await;
            let login = database.config();
            let tls = connector(&login, None).expect("there is a way to connect");
            migrate(&login, tls).await.expect("the migrations apply");
            database.name
        })
        .await
}

fn server(login: &Config, clock: &Arc<dyn Clock>, outside: &Outside) -> Server {
    let tls = connector(login, None).expect("there is a way to connect");
    let database = Database::new(login, tls).expect("the pools are made");
    let keys = Arc::new(super::logs::keys());
    let log = Log::new(database.clone(), Arc::clone(&keys), Arc::clone(clock));
    let listener = log.listen();
    let clients = Clients::new(Guard::new(outside.settings.allowed_networks.clone()));
    let (vendors, search_engine) = (outside.settings.vendors.clone(), outside.settings.search_engine.clone());
    let stopping = watch::Sender::new(false);
    let clock = Arc::clone(clock);
    let wire = Wire::new(clients.operator.clone(), theazo::config::MODEL_IDLE_DEADLINE);
    let models = Models::new(outside.models(), &wire).expect("the settings are good");
    let app = Arc::new(App {
        database,
        log,
        keys,
        clients,
        search_engine,
        vendors,
        models,
        local: Arc::clone(&outside.local),
        typescript: Converter::of(env!("CARGO_BIN_EXE_theazo").into()),
        cards: Cards::default(),
        conversations: Conversations::default(),
        kept_sums: theazo::read::usage::KeptSums::default(),
        clock,
        stopping,
    });
    let router = theazo::http::router(Arc::clone(&app));
    Server { app, router, listener }
}
