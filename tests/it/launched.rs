//! This program again, as a daemon that clients start.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use local_daemon::daemon::Handle;
use local_daemon::{Client, Daemon, Launch};
use serde_json::{Value, json};

const VERSION: &str = "ACME_VERSION";

/// How to start a daemon of this version.
pub(crate) fn launch(version: &str) -> Launch {
    Launch::new(std::env::current_exe().unwrap())
        .args(["--exact", "launched::daemon", "--ignored"])
        .env(VERSION, version)
}

pub(crate) fn client(state_dir: &Path) -> Client {
    Client::new("acme", "acme/1").unwrap().state_dir(state_dir)
}

#[test]
#[ignore = "it is a daemon that other tests start"]
fn daemon() {
    let Ok(version) = std::env::var(VERSION) else { return };
    // A test that fails leaves no daemon behind for long.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_mins(1));
        std::process::exit(1);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let daemon = Daemon::builder("acme", "acme/1").version(version).yields(true).start().await.unwrap();
        let app = Arc::new(App { handle: daemon.handle(), is_busy: AtomicBool::new(false) });
        let router = Router::new()
            .route("/v1/hello", get(async || "hello"))
            .route("/v1/status", get(status))
            .route("/v1/shutdown", post(shutdown))
            .route("/busy", post(busy))
            .with_state(app);
        daemon.serve(router).await.unwrap();
    });
}

struct App {
    handle: Handle,
    is_busy: AtomicBool,
}

async fn busy(State(app): State<Arc<App>>) {
    app.is_busy.store(true, Ordering::SeqCst);
}

async fn status(State(app): State<Arc<App>>) -> Json<Value> {
    let handle = &app.handle;
    Json(json!({
        "spec": "local-daemon/1", "protocol": handle.protocol().to_string(), "id": handle.id(), "pid": handle.pid(),
        "version": handle.version(), "capabilities": handle.capabilities(), "state": "ready", "mode": "auto",
        "started_at": "2026-01-01T00:00:00Z", "uptime_seconds": 7, "url": handle.url(), "socket": null,
        "active_requests": 0, "streams": 2, "sessions": 0, "proxies": 0, "last_activity": "2026-01-01T00:00:00Z",
        "idle_timeout_seconds": 300, "idle_deadline": null, "memory_bytes": null, "log_path": null, "jobs": 3,
    }))
}

async fn shutdown(State(app): State<Arc<App>>, Json(wanted): Json<Value>) -> (StatusCode, Json<Value>) {
    if wanted["id"] != json!(app.handle.id()) {
        return (StatusCode::CONFLICT, Json(json!({"code": "not_this_daemon", "detail": "another one"})));
    }
    if wanted["if_idle"] == true && app.is_busy.load(Ordering::SeqCst) {
        let body = json!({"code": "busy", "detail": "something is open", "active": {"jobs": 3}});
        return (StatusCode::CONFLICT, Json(body));
    }
    app.handle.stop();
    (StatusCode::ACCEPTED, Json(json!({"state": "draining"})))
}
