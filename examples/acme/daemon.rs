//! The daemon: routes for jobs, and a stream of them.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use local_daemon::Daemon;
use local_daemon::axum::{App, Json, Problem};
use local_daemon::daemon::exit_code;
use local_daemon::streams::Hub;
use serde_json::{Value, json};

type Jobs = Arc<(Mutex<Vec<Value>>, Arc<Hub>)>;

#[tokio::main(flavor = "current_thread")]
pub(super) async fn run(yields: bool) -> ExitCode {
    let builder = Daemon::builder("acme", "acme/1").version("1.4.0").yields(yields);
    let serve = async {
        let daemon = builder.stop_on_signals(true).start().await?;
        let events = daemon.events(["jobs"]);
        let app = App::with_state(Arc::new((Mutex::default(), events.clone())));
        let app = app.get("/v1/jobs", list).post("/v1/jobs", add).events("/v1/events", events);
        app.status().shutdown().serve(daemon).await
    };
    exit_code(serve.await)
}

async fn list(State(jobs): State<Jobs>) -> Json<Value> {
    Json(json!({"jobs": *jobs.0.lock().expect("no holder panics")}))
}

/// Adds a job; the newest 10 are kept.
async fn add(State(jobs): State<Jobs>, Json(job): Json<Value>) -> Result<Json<Value>, Problem> {
    let id = jobs.1.append("jobs", &job)?.ok_or_else(Problem::draining)?;
    let mut list = jobs.0.lock().expect("no holder panics");
    list.insert(0, job);
    list.truncate(10);
    Ok(Json(json!({"id": id.to_string()})))
}
