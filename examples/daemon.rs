//! A whole daemon, with jobs that clients add and an event stream of them: the one in README.

use std::process::ExitCode;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use local_daemon::Daemon;
use local_daemon::axum::{App, Json, Problem};
use local_daemon::claim::Reason;
use local_daemon::daemon::{Error, exit_code};
use local_daemon::streams::Hub;
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    exit_code(run().await)
}

async fn run() -> Result<Reason, Error> {
    let daemon = Daemon::builder("acme", "acme/1").version("1.4.0").stop_on_signals(true).start().await?;
    let jobs = daemon.events(["jobs"]);
    let app = App::with_state(jobs.clone()).post("/v1/jobs", add).events("/v1/events", jobs);
    app.status().shutdown().serve(daemon).await
}

async fn add(
    State(jobs): State<Arc<Hub>>,
    Json(job): Json<Value>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let id = jobs.append("jobs", &job)?.ok_or_else(Problem::draining)?;
    Ok((StatusCode::CREATED, Json(json!({"id": id.to_string()}))))
}
