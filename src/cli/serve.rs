//! `theazo serve`

use std::path::Path;

use tokio::sync::watch;
use tokio::time::timeout;

use super::output::{Output, line};
use super::outside::Outside;
use super::{Error, Outcome};
use crate::boot::{self, Booted, FIRST_KEYS_FILE, FirstKeys, Settings};
use crate::postgres::State;
use crate::runtime::Runtime;
use crate::{config, http, serve};

const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", env = "THEAZO_LISTEN", default_value = DEFAULT_LISTEN)]
    listen: String,
    #[command(flatten)]
    outside: Outside,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { listen: DEFAULT_LISTEN.to_owned(), outside: Outside::default() }
    }
}

pub(super) async fn run(
    settings: &Settings,
    arguments: &Arguments,
    _output: Output,
) -> Result<Outcome, Error> {
    let settings = Settings { outside: arguments.outside.settings(&settings.data_dir)?, ..settings.clone() };
    // Before anything is started or made: a port that is taken is found out at once.
    let unusable = |error| Error::Usage(format!("cannot listen on {}: {error}", arguments.listen));
    let listener = serve::listen(&arguments.listen).await.map_err(unusable)?;
    let address = listener.local_addr().map_err(unusable)?;
    serve::raise_open_files();

    let Booted { app, site, listener: hearing, first_keys } = boot::server(&settings).await?;
    serve::stop_on_signals(app.stopping.clone())
        .map_err(|error| Error::Usage(format!("cannot handle signals: {error}")))?;
    let lost =
        site.cluster().map(|cluster| tokio::spawn(watch_database(cluster.state(), app.stopping.clone())));
    let working = Runtime::new(app.clone()).start();
    let url = format!("http://{address}");
    if let Some(keys) = first_keys {
        line(&welcome(&keys, &settings.data_dir.join(FIRST_KEYS_FILE), &url));
    }
    line(&format!("listening on {url}"));
    tracing::info!(%address, "serving");

    serve::run(listener, http::router(app.clone()), config::CONNECTIONS, app.stopping.subscribe()).await;
    if timeout(config::HAND_BACK * 2, working).await.is_err() {
        tracing::warn!("work was still under way at the deadline; its leases run out by themselves");
    }
    if timeout(config::CLOSE_DEADLINE, app.log.close()).await.is_err() {
        tracing::warn!("commands were still waiting for the database at the deadline");
    }
    hearing.abort();
    app.database.close();
    let lost = lost.is_some_and(|task| task.is_finished());
    if timeout(config::DATABASE_STOP_DEADLINE, site.stop()).await.is_err() {
        tracing::warn!("PostgreSQL is still stopping");
    }
    tracing::info!("stopped");
    Ok(if lost { Outcome::Wrong } else { Outcome::Fine })
}

/// Says how the server's own PostgreSQL is doing. It is started again when it ends; where that fails for good the
/// server stops, and whoever supervises it starts it anew. Returns in that case only.
async fn watch_database(mut state: watch::Receiver<State>, stopping: watch::Sender<bool>) {
    loop {
        match &*state.borrow_and_update() {
            State::Running { pid } => tracing::info!(pid, "the server's own PostgreSQL takes connections"),
            State::Restarting => tracing::warn!("the server's own PostgreSQL ended and is started again"),
            State::Failed(reason) => {
                tracing::error!(%reason, "the server's own PostgreSQL cannot be kept running");
                stopping.send_replace(true);
                return;
            }
            State::Stopped => {}
        }
        if state.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn welcome(keys: &FirstKeys, file: &Path, url: &str) -> String {
    format!(
        "An organization `default` was made, with an admin key for each mode. They are shown this once, and kept in \
         {file}:\n  live  {live}\n  test  {test}\nTo try it:\n  curl -s {url}/v1/sessions -H 'Authorization: Bearer \
         {test}' -H 'Content-Type: application/json' -d '{{\"userId\":\"user_123\"}}'",
        file = file.display(),
        live = *keys.live,
        test = *keys.test,
    )
}
