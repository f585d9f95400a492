//! A migrated database with a tenant, and servers' logs over it.

use std::sync::Arc;

use theazo::clock::{Clock, SystemClock};
use theazo::database::{self, Database};
use theazo::log::{self, Actor, Content, Log, Provenance, Submission, Tenant};
use theazo::random;
use theazo::vault::{Key, Master, Masters, ServerKeys};
use theazo_domain::agent::NewAgent;
use theazo_domain::agent_config::{AgentConfig, ProviderName};
use theazo_domain::command::Person;
use theazo_domain::content::ContentRef;
use theazo_domain::definition::{self, Details, DetailsPatch};
use theazo_domain::id::{AgentId, ContentId, DefinitionId, OrganizationId, RequestId, SessionId, UserId};
use theazo_domain::organization::{self, Mode, Plan};
use theazo_domain::rates::Card;
use theazo_domain::session::{self, Limits, Opening};
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, user};
use tokio::sync::OnceCell;

use super::cluster::{TestDatabase, database, database_from};

/// A database with every migration, made once and copied for each test.
async fn migrated() -> TestDatabase {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let template = TEMPLATE.get_or_init(|| async {
        let template = database().await;
        let tls = database::connector(&template.config(), None).expect("a connector");
        database::migrate(&template.config(), tls).await.expect("the migrations apply");
        template.name
    });
    database_from(Some(template.await)).await
}

/// A database with one tenant whose organization exists.
pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) tenant: Tenant,
}

impl World {
    pub(crate) async fn new() -> Self {
        let database = migrated().await;
        let mut owner = database.connect().await;
        let organization = OrganizationId::from_ulid(random::ulid(now()));
        let tenant =
            log::create_tenant(&mut owner, organization, Mode::Live).await.expect("a tenant is made");
        let world = Self { database, tenant };
        let create = organization::Command::Create {
            name: "Acme".into(),
            mode: Mode::Live,
            plan: Plan::Team,
            rate_limit: None,
        };
        let begun =
            world.server().execute(tenant, submission(Command::Organization(organization, create))).await;
        begun.expect("the log takes commands").expect("the organization begins");
        world
    }

    /// A server's log over this database.
    pub(crate) fn server(&self) -> Arc<Log> {
        self.server_at(&self.database.config(), Arc::new(SystemClock))
    }

    /// A server's log that reaches the database by this login and has this clock.
    pub(crate) fn server_at(&self, login: &tokio_postgres::Config, clock: Arc<dyn Clock>) -> Arc<Log> {
        let tls = database::connector(login, None).expect("a connector");
        let database = Database::new(login, tls).expect("pools");
        Log::new(database, Arc::new(keys()), clock)
    }

    /// A connection that names the tenant, as a superuser whom no wall stops.
    pub(crate) async fn superuser(&self) -> tokio_postgres::Client {
        self.database.connect().await
    }
}

/// The master key of every server of a test.
pub(crate) const MASTER_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// The same server keys for every server of a test.
pub(crate) fn keys() -> ServerKeys {
    let master = Master::from_hex(MASTER_KEY, "a test").expect("it is a good key");
    let [pepper, answers, cursors] = [1, 2, 3].map(|byte| Key::new([byte; 32]));
    ServerKeys { pepper, answers, cursors, masters: Masters::of(master) }
}

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

pub(crate) fn submission(command: Command) -> Submission {
    let request_id = RequestId::from_ulid(random::ulid(now()));
    let provenance = Provenance { actor: Actor::Operator, request_id, cause: None };
    Submission { command, provenance, contents: vec![], sealed: vec![] }
}

pub(crate) fn new_session_id() -> SessionId {
    SessionId::from_ulid(random::ulid(now()))
}

fn opening(external_id: &str) -> Opening {
    let new_id = UserId::from_ulid(random::ulid(now()));
    let person = Person { external_id: external_id.into(), new_id };
    Opening { person, limits: Limits::default(), metadata: None }
}

/// Creates a session for a user.
pub(crate) fn create(session_id: SessionId, external_id: &str) -> Submission {
    submission(Command::Session(session_id, session::Command::Create(opening(external_id))))
}

/// Creates a session whose metadata is this text.
pub(crate) fn create_with(session_id: SessionId, external_id: &str, body: &str) -> Submission {
    let content_id = ContentId::from_ulid(random::ulid(now()));
    let content = Content { content_id, salt: random::bytes(), body: body.into() };
    let metadata = Some(ContentRef { content_id, sha256: "00".repeat(32) });
    let opening = Opening { metadata, ..opening(external_id) };
    let command = Command::Session(session_id, session::Command::Create(opening));
    Submission { contents: vec![content], ..submission(command) }
}

/// Creates an agent definition, changes it and archives it.
pub(crate) fn definition_of_two_versions() -> [Submission; 3] {
    let id = DefinitionId::from_ulid(random::ulid(now()));
    let details = Details { name: "Assistant".into(), config: AgentConfig::default(), metadata: None };
    [
        definition::Command::Create(details),
        definition::Command::Update(DetailsPatch::default()),
        definition::Command::Archive,
    ]
    .map(|command| submission(Command::Definition(id, command)))
}

/// A new agent, without a definition.
pub(crate) fn new_agent(agent_id: AgentId) -> NewAgent {
    NewAgent {
        agent_id,
        definition: None,
        config: AgentConfig::default(),
        provider: Some(ProviderName::Local),
        mocked: false,
        browser: false,
        timeout_s: 300,
        storage: Card::built_in().storage_rates(),
        compute: Card::built_in().compute_rates(),
    }
}

/// Opens a user's session.
pub(crate) fn open(external_id: &str) -> Submission {
    let command = user::Command::OpenSession { session_id: new_session_id(), opening: opening(external_id) };
    submission(Command::User(command))
}

/// Asks something of a session.
pub(crate) fn ask(session_id: SessionId, command: session::Command) -> Submission {
    submission(Command::Session(session_id, command))
}
