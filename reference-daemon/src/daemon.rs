//! The daemon: how it runs, and what its routes share.

mod browser;
mod events;
mod launchers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use local_daemon::axum::App;
use local_daemon::browser::{PageTokens, Tickets};
use local_daemon::claim::Reason;
use local_daemon::daemon::{Error, Handle};
use local_daemon::perimeter::Origin;
use local_daemon::streams::Hub;
use local_daemon::{Daemon, StateDir};
use serde_json::json;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::allowlist::{Allowlist, News};

/// The state directory's name below the user's state directory.
pub(crate) const COMPONENT: &str = "locald";

/// How long the daemon lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Until it is stopped.
    Manual,
    /// Until nobody has used it for this long.
    Auto(Duration),
}

/// How to run.
pub(crate) struct Options {
    pub(crate) state_dir: PathBuf,
    pub(crate) protocol: String,
    pub(crate) yields: bool,
    /// Whether it publishes also over the record of a daemon that cannot be asked, although it yields.
    pub(crate) replaces: bool,
    /// Allowlisted beside those in `config.toml`.
    pub(crate) origins: Vec<Origin>,
    pub(crate) mode: Mode,
}

/// A daemon that listens and has not published yet.
pub(crate) struct Started {
    daemon: Daemon,
    context: Arc<Context>,
    mode: Mode,
    config_news: UnboundedReceiver<News>,
}

/// What the routes share.
struct Context {
    handle: Handle,
    events: Arc<Hub>,
    tickets: Arc<Tickets>,
    page_tokens: Arc<PageTokens>,
    /// Told of each ticket that is issued: there may be a launcher file for it.
    launchers: Notify,
    /// Is notified of each ticket that is redeemed.
    redeemed: Notify,
}

/// Listens, and finds or makes the credential.
pub(crate) async fn start(options: Options) -> Result<Started, Error> {
    let (sender, config_news) = mpsc::unbounded_channel();
    let report = move |news| drop(sender.send(news));
    let allowlist = Allowlist::new(StateDir::at(&options.state_dir), options.origins, report);
    let page_tokens = Arc::new(PageTokens::new());
    let daemon = Daemon::builder(COMPONENT, options.protocol)
        .version(env!("CARGO_PKG_VERSION"))
        .state_dir(options.state_dir)
        .yields(options.yields)
        .replaces(options.replaces)
        .capabilities(["events"])
        .origins_from(move || allowlist.now())
        .page_tokens(page_tokens.clone())
        .stop_on_signals(true)
        .start()
        .await?;
    let handle = daemon.handle();
    let context = Context {
        events: handle.events(events::TOPICS),
        tickets: handle.tickets(),
        handle,
        page_tokens,
        launchers: Notify::new(),
        redeemed: Notify::new(),
    };
    Ok(Started { daemon, context: Arc::new(context), mode: options.mode, config_news })
}

impl Started {
    pub(crate) fn handle(&self) -> Handle {
        self.context.handle.clone()
    }

    /// Publishes, and serves until it stands down.
    pub(crate) async fn serve(self) -> Result<Reason, Error> {
        tokio::spawn(tell_of_origins(self.context.clone()));
        tokio::spawn(report_config(self.context.clone(), self.config_news));
        tokio::spawn(launchers::sweep(self.context.clone()));
        let app = match self.mode {
            Mode::Manual => app(self.context),
            Mode::Auto(timeout) => app(self.context).idle_timeout(timeout),
        };
        app.serve(self.daemon).await
    }
}

fn app(context: Arc<Context>) -> App<Arc<Context>> {
    let events = context.events.clone();
    App::with_state(context)
        .status()
        .shutdown()
        .events(events::PATH, events)
        .post(events::PATH, events::note)
        .get("/", browser::shell)
        .post("/page", browser::page)
        .post("/v1/tickets", browser::ticket)
        .get("/v1/tickets/{id}", browser::ticket_state)
        .post("/v1/handoff", browser::handoff)
        .get("/v1/page-tokens", browser::tokens)
        .delete("/v1/page-tokens/{id}", browser::revoke)
}

/// Tells subscribers which origins come and go.
async fn tell_of_origins(context: Arc<Context>) {
    let mut list = context.handle.origins();
    let mut known = list.borrow_and_update().clone();
    while list.changed().await.is_ok() {
        let now = list.borrow_and_update().clone();
        let differences = [("added", &now, &known), ("removed", &known, &now)];
        for (what, these, those) in differences {
            for origin in these.iter().filter(|origin| !those.contains(origin.as_str())) {
                // Strings always serialise, and the log is in memory.
                let _ = context.events.append("origins", &json!({"what": what, "origin": origin.as_str()}));
            }
        }
        known = now;
    }
}

/// Tells subscribers that the configuration was read again, and reports each fault of it in the log too (LIFE-37).
async fn report_config(context: Arc<Context>, mut news: UnboundedReceiver<News>) {
    while let Some(news) = news.recv().await {
        match news {
            News::Reloaded => events::reloaded(&context),
            News::Fault(fault) => events::warn(&context, "config_invalid", &fault, None),
        }
    }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use axum::http::Method;
    use local_daemon::handshake;
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;

    /// A daemon that listens, in a directory of its own, and is not published.
    pub(crate) async fn start() -> (TempDir, Started) {
        let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let options = Options {
            state_dir: dir.path().to_owned(),
            protocol: "locald/1".to_owned(),
            yields: false,
            replaces: false,
            origins: Vec::new(),
            mode: Mode::Manual,
        };
        let started = super::start(options).await.unwrap();
        (dir, started)
    }

    #[tokio::test]
    async fn openapi_document_names_exactly_the_routes() {
        let document: Value = serde_json::from_str(include_str!("../../spec/openapi.json")).unwrap();
        let documented: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
                methods.map(|method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        // HEAD goes with GET; the handshake is the guard's own route.
        let (_dir, started) = start().await;
        // HEAD goes with GET; the handshake is the guard's own route.
        let app = app(started.context);
        let served: BTreeSet<(String, String)> = app
            .routes()
            .flat_map(|(path, methods)| methods.iter().map(move |method| (path, method)))
            .filter(|(_, method)| *method != Method::HEAD)
            .map(|(path, method)| (path.to_owned(), method.to_string()))
            .chain([(handshake::PATH.to_owned(), "GET".to_owned())])
            .collect();
        assert_eq!(documented, served);
    }
}
