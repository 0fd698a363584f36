//! A daemon's routes with [axum]: what a product needs around its own handlers (feature `axum`).
//!
//! [`App`] is a router that knows its routes, so that the guard can answer preflights. It renders JSON as text for requests
//! that prefer `text/plain` (PER-37), counts what is open, and logs nothing of a request but its route (CRED-8).
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use local_daemon::Daemon;
//! use local_daemon::axum::{App, Json};
//! use serde_json::{Value, json};
//!
//! let daemon = Daemon::builder("acme", "acme/1").version("1.4.0").stop_on_signals(true).start().await?;
//! let jobs = daemon.events(["jobs"]);
//! let app = App::new()
//!     .get("/v1/hello", async || Json(json!({"hello": "world"})))
//!     .post("/v1/echo", async |Json(body): Json<Value>| Json(body))
//!     .events("/v1/events", jobs)
//!     .status()
//!     .shutdown();
//! let reason = app.serve(daemon).await?;
//! std::process::exit(reason.exit_status());
//! # }
//! ```
//!
//! [axum]: https://docs.rs/axum

mod activity;
mod app;
mod events;
mod json;
mod problem;
mod shutdown;
mod status;

pub use self::app::App;
pub use self::json::{Json, check_coding};
pub use self::problem::Problem;
