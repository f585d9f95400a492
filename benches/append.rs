//! Appending events: ours beside cqrs-es with postgres-es, and beside bare inserts that decide and project nothing.
//!
//! `cargo bench --bench append` (`-- --seconds 1` for each turn, `--rounds 5`, `--quick`; `--callers 64` and `--way 0`
//! for one column and one row of the table, to be profiled). Every caller lives sessions through:
//! create, pause, resume, terminate, one command after the other, each waiting for its commit. All run on one
//! PostgreSQL with its default durability. For each number of callers the ways take short turns, there and back in
//! turn, so that noise and what a turn leaves behind (pages to be written, tables to be vacuumed) hit them alike; a cell
//! of the table is the median of its turns. The inserts of 500 a commit leave a hundred times as much behind, and come
//! when all others are done.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "figures, not money")]

#[path = "world/figures.rs"]
mod figures;
#[path = "world/own_log.rs"]
mod own_log;
mod world;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cqrs_es::persist::GenericQuery;
use cqrs_es::{EventEnvelope, Query, View};
use figures::{Figure, figure};
use own_log::{session_life, submission};
use postgres_es::{PostgresCqrs, PostgresViewRepository, postgres_cqrs};
use serde::{Deserialize, Serialize};
use theazo::clock::{Clock, SystemClock};
use theazo::log::{Log, Tenant};
use theazo_domain::bridge::Bridged;
use theazo_domain::session::{self, State};
use theazo_domain::{Command, Event, Facts, Subject};
use tokio::task::JoinSet;
use world::{World, argument, quick};

/// Callers at the same time: the columns of the table.
const CALLERS: [usize; 4] = [1, 16, 64, 256];
/// Events that one commit of the bare batches has.
const BARE_BATCH: usize = 500;

/// The view that cqrs-es keeps: what our projection of sessions holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SessionView {
    session_id: String,
    user_id: String,
    status: String,
    limits: Option<session::Limits>,
}

impl View<Bridged<State>> for SessionView {
    fn update(&mut self, envelope: &EventEnvelope<Bridged<State>>) {
        match &envelope.payload {
            Event::SessionCreated(created) => {
                self.session_id = created.session_id.to_string();
                self.user_id = created.user_id.to_string();
                self.status = "active".into();
                self.limits = Some(created.limits.clone());
            }
            Event::SessionPaused(_) => self.status = "paused".into(),
            Event::SessionResumed(_) => self.status = "active".into(),
            Event::SessionTerminated(_) => self.status = "terminated".into(),
            _ => {}
        }
    }
}

type Cqrs = PostgresCqrs<Bridged<State>>;

async fn cqrs(world: &World) -> anyhow::Result<Arc<Cqrs>> {
    world.create_database("cqrs").await?;
    // The tables that postgres-es documents (db/init.sql).
    let tables = "
        create table events (aggregate_type text not null, aggregate_id text not null,
          sequence bigint check (sequence >= 0) not null, event_type text not null, event_version text not null,
          payload json not null, metadata json not null, primary key (aggregate_type, aggregate_id, sequence));
        create table session_view (view_id text not null, version bigint check (version >= 0) not null,
          payload json not null, primary key (view_id))";
    world.connect("cqrs").await?.batch_execute(tables).await?;
    let endpoint = &world.endpoint;
    let options = sqlx::postgres::PgConnectOptions::new()
        .socket(&endpoint.socket_dir)
        .port(endpoint.port)
        .username(&endpoint.user)
        .password(&endpoint.password(&endpoint.user))
        .database("cqrs");
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(16).connect_with(options).await?;
    let views =
        Arc::new(PostgresViewRepository::<SessionView, Bridged<State>>::new("session_view", pool.clone()));
    let query: Box<dyn Query<Bridged<State>>> = Box::new(GenericQuery::new(views));
    Ok(Arc::new(postgres_cqrs(pool, vec![query], ())))
}

/// Runs callers for a time; each gives the times of its operations, which made `events` events each.
async fn run<F, W>(callers: usize, seconds: f64, events: usize, work: W) -> anyhow::Result<Figure>
where
    W: Fn(usize, Instant) -> F,
    F: Future<Output = anyhow::Result<Vec<Duration>>> + Send + 'static,
{
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        tasks.spawn(work(caller, until));
    }
    let mut times = vec![];
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let number = times.len() * events;
    Ok(figure(times, number, began.elapsed()))
}

async fn ours(log: Arc<Log>, tenant: Tenant, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut times = vec![];
    while Instant::now() < until {
        let (session, commands) = session_life();
        for command in commands {
            let began = Instant::now();
            log.execute(tenant, submission(Command::Session(session, command))).await??;
            times.push(began.elapsed());
        }
    }
    Ok(times)
}

async fn theirs(cqrs: Arc<Cqrs>, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut times = vec![];
    while Instant::now() < until {
        let (session, commands) = session_life();
        for command in commands {
            let facts = Facts {
                now: SystemClock.now(),
                subject: Subject::Session(session),
                organization_id: theazo_domain::id::OrganizationId::from_ulid(session.ulid()),
                user: None,
                session: None,
                payers: theazo_domain::budget::Payers::default(),
                stock: theazo_domain::Stock::default(),
            };
            let began = Instant::now();
            cqrs.execute(&session.to_string(), (command, facts)).await?;
            times.push(began.elapsed());
        }
    }
    Ok(times)
}

/// The rows that the bare inserts write: the same texts as our events have.
fn bare_row() -> (String, String, String) {
    let (session, _) = session_life();
    let user = theazo_domain::id::UserId::from_ulid(session.ulid());
    let changed = session::Changed { session_id: session, user_id: user };
    let written = Event::SessionPaused(changed).write();
    let metadata = format!("{{\"actor\":\"operator\",\"requestId\":\"req_{}\"}}", session.ulid());
    (written.kind, written.data, metadata)
}

async fn bare(client: tokio_postgres::Client, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let sql = "insert into bare (type, data, metadata) values ($1, $2::text::json, $3::text::json)";
    let statement = client.prepare(sql).await?;
    let mut times = vec![];
    while Instant::now() < until {
        let (kind, data, metadata) = bare_row();
        let began = Instant::now();
        client.execute(&statement, &[&kind, &data, &metadata]).await?;
        times.push(began.elapsed());
    }
    Ok(times)
}

async fn bare_batches(client: tokio_postgres::Client, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let sql = "insert into bare (type, data, metadata)
               select t, d::json, m::json from unnest($1::text[], $2::text[], $3::text[]) as u(t, d, m)";
    let statement = client.prepare(sql).await?;
    let mut times = vec![];
    while Instant::now() < until {
        let (mut kinds, mut data, mut metadata) = (vec![], vec![], vec![]);
        for _ in 0..BARE_BATCH {
            let row = bare_row();
            kinds.push(row.0);
            data.push(row.1);
            metadata.push(row.2);
        }
        let began = Instant::now();
        client.execute(&statement, &[&kinds, &data, &metadata]).await?;
        times.push(began.elapsed());
    }
    Ok(times)
}

async fn connections(world: &World, number: usize) -> anyhow::Result<Vec<Option<tokio_postgres::Client>>> {
    let mut clients = vec![];
    for _ in 0..number {
        clients.push(Some(world.connect("theazo").await?));
    }
    Ok(clients)
}

/// The way that writes so much that it must not take turns with the others.
const BULK: usize = 4;
const WAYS: [&str; 5] = [
    "ours, 1 tenant",
    "ours, 64 tenants",
    "cqrs-es + postgres-es",
    "bare insert, 1 a commit",
    "bare inserts, 500 a commit",
];

async fn cell(
    way: usize,
    callers: usize,
    seconds: f64,
    (world, log, tenants, cqrs): (&World, &Arc<Log>, &[Tenant], &Arc<Cqrs>),
) -> anyhow::Result<Figure> {
    match way {
        0 => run(callers, seconds, 1, |_, until| ours(Arc::clone(log), tenants[0], until)).await,
        1 => {
            run(callers, seconds, 1, |caller, until| ours(Arc::clone(log), tenants[caller % 64], until)).await
        }
        2 => run(callers, seconds, 1, |_, until| theirs(Arc::clone(cqrs), until)).await,
        _ => {
            let clients = std::sync::Mutex::new(connections(world, callers).await?);
            let take = |caller: usize| {
                clients.lock().expect("nobody panics with it").get_mut(caller).and_then(Option::take)
            };
            let client = |caller| take(caller).expect("each caller has a connection of its own");
            if way == 3 {
                run(callers, seconds, 1, |caller, until| bare(client(caller), until)).await
            } else {
                run(callers, seconds, BARE_BATCH, |caller, until| bare_batches(client(caller), until)).await
            }
        }
    }
}

async fn bench() -> anyhow::Result<()> {
    let (seconds, rounds) = if quick() { (0.3, 1.0) } else { (1.0, 5.0) };
    let seconds = argument("--seconds", seconds);
    let rounds = argument("--rounds", rounds) as usize;
    let world = World::new().await?;
    let log = world.log()?;
    let tenants = world.tenants(&log, 64).await?;
    let bare = "create table bare (id bigint generated always as identity primary key, type text not null,
                  data json not null, metadata json not null, at timestamptz not null default now())";
    world.connect("theazo").await?.batch_execute(bare).await?;
    let cqrs = cqrs(&world).await?;
    let ways = chosen(&[0, 1, 2, 3, 4], "--way");
    let (bulk, turns): (Vec<usize>, Vec<usize>) = ways.into_iter().partition(|way| *way == BULK);
    let mut figures: BTreeMap<(usize, usize), Vec<Figure>> = BTreeMap::new();
    for ways in [turns, bulk] {
        for callers in chosen(&CALLERS, "--callers") {
            for round in 0..=rounds {
                for turn in 0..ways.len() {
                    // Each comes behind each other one now and then.
                    let place = if round % 2 == 0 { turn } else { ways.len() - 1 - turn };
                    let way = ways[(round / 2 + place) % ways.len()];
                    // The first round warms up, and is not counted.
                    let seconds = if round == 0 { seconds.min(0.5) } else { seconds };
                    let figure = cell(way, callers, seconds, (&world, &log, &tenants, &cqrs)).await?;
                    if round > 0 {
                        figures.entry((way, callers)).or_default().push(figure);
                    }
                }
            }
        }
    }
    print(&figures);
    log.close().await;
    world.end().await;
    Ok(())
}

/// All of them, or the one that is named on the command line.
fn chosen(all: &[usize], name: &str) -> Vec<usize> {
    let only = argument(name, -1.0);
    if only < 0.0 { all.to_vec() } else { vec![only as usize] }
}

/// That of the middle turn; of an even number of turns, the mean of the two in the middle.
fn median(figures: &[Figure], of: impl Fn(&Figure) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

fn print(figures: &BTreeMap<(usize, usize), Vec<Figure>>) {
    println!("| events a second · median ms · p99 ms | 1 caller | 16 | 64 | 256 |");
    println!("|---|---|---|---|---|");
    for (way, name) in WAYS.iter().enumerate() {
        let cells = CALLERS.map(|callers| {
            figures.get(&(way, callers)).map_or_else(String::new, |cell| {
                format!(
                    "{:.0} · {:.2} · {:.2}",
                    median(cell, |figure| figure.per_second),
                    median(cell, |figure| figure.median_ms),
                    median(cell, |figure| figure.p99_ms)
                )
            })
        });
        println!("| {name} | {} |", cells.join(" | "));
    }
    println!();
    // Ours by another, where both were measured.
    let by = |way, callers, of: fn(&Figure) -> f64| {
        Some(median(figures.get(&(0, callers))?, of) / median(figures.get(&(way, callers))?, of))
    };
    let aims: [(&str, Option<f64>); 4] = [
        ("at 64 callers, one tenant: times cqrs-es + postgres-es", by(2, 64, |figure| figure.per_second)),
        ("at 64 callers, one tenant: times the bare insert", by(3, 64, |figure| figure.per_second)),
        ("at 1 caller: the median by the bare insert's", by(3, 1, |figure| figure.median_ms)),
        ("at 1 caller: the median by that of cqrs-es + postgres-es", by(2, 1, |figure| figure.median_ms)),
    ];
    for (aim, reached) in aims {
        if let Some(reached) = reached {
            println!("{aim}: {reached:.2}");
        }
    }
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(bench())
}
