//! Whether the server lives, whether it is ready, and its metrics: for load balancers and Prometheus.

use std::sync::OnceLock;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use tokio::time::MissedTickBehavior;
use utoipa::ToSchema;

use super::Edge;
use super::error::Error;
use crate::config;

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    #[schema(value_type = String)]
    status: &'static str,
}

/// Whether the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "server", responses((status = 200, body = Health)))]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether requests should be sent here: the database answers, no newer server has taken over, it is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "server", responses((status = 200, body = Health)))]
pub(crate) async fn readyz(State(edge): State<Edge>) -> Result<Json<Health>, Error> {
    if *edge.app.stopping.borrow() {
        return Err(Error::Unavailable("The server is stopping.".to_owned()));
    }
    if let Some(reason) = edge.app.log.newer() {
        tracing::warn!(reason, "not ready: the log was written by a newer server");
        return Err(Error::Unavailable("This server is being replaced by a newer one.".to_owned()));
    }
    edge.app.database.ping().await?;
    Ok(Json(Health { status: "ok" }))
}

/// Counts and times, in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, content_type = "text/plain", body = String)))]
pub(crate) async fn metrics() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], recorder().render())
}

/// Adds up what was measured, again and again: the recorder keeps each time by itself until somebody does, and for ever
/// where nobody asks for the metrics.
pub(crate) async fn add_up() {
    let mut turns = tokio::time::interval(config::METRICS_ADDED_UP);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        recorder().run_upkeep();
        metrics::counter!("theazo_metrics_added_up_total").increment(1);
    }
}

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Upper bounds of the buckets of latencies, in seconds.
const LATENCIES_S: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of the buckets of what the server adds to a call of a model, in seconds: finer, since that is little.
const ADDED_S: [f64; 16] = [
    0.001, 0.0015, 0.002, 0.0025, 0.003, 0.0035, 0.004, 0.0045, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1,
    0.5,
];

/// The recorder of this process, installed when it is first asked for.
pub(crate) fn recorder() -> &'static PrometheusHandle {
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCIES_S)
            .expect("there are buckets")
            .set_buckets_for_metric(Matcher::Full("theazo_model_call_overhead_seconds".to_owned()), &ADDED_S)
            .expect("there are buckets");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("metrics are recorded elsewhere; /metrics stays empty");
        }
        handle
    })
}
