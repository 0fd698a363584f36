//! The daemon: how it runs, and what its routes share.

mod activity;
mod body;
mod browser;
mod events;
mod launchers;
mod routes;
mod shutdown;
mod status;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use local_daemon::browser::{PageTokens, Tickets};
use local_daemon::claim::Reason;
use local_daemon::daemon::{Error, Handle};
use local_daemon::perimeter::Origin;
use local_daemon::{Daemon, StateDir};
use serde_json::json;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::Instant;

use self::activity::{Activity, idle_out};
use self::events::Events;
use self::routes::{methods_of, router, routes};
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
    app: Arc<App>,
    config_news: UnboundedReceiver<News>,
}

/// What the routes share.
struct App {
    handle: Handle,
    mode: Mode,
    started: Instant,
    activity: Activity,
    events: Arc<Events>,
    tickets: Arc<Tickets>,
    page_tokens: Arc<PageTokens>,
    /// Told of each ticket that is issued: there may be a launcher file for it.
    launchers: Notify,
    /// Is notified of each ticket that is redeemed.
    redeemed: Notify,
    /// Why the daemon asked itself to stop; a signal where nothing else did.
    cause: OnceLock<&'static str>,
}

/// Listens, and finds or makes the credential.
pub(crate) async fn start(options: Options) -> Result<Started, Error> {
    let (sender, config_news) = mpsc::unbounded_channel();
    let report = move |news| drop(sender.send(news));
    let allowlist = Allowlist::new(StateDir::at(&options.state_dir), options.origins, report);
    let methods = routes().methods;
    let page_tokens = Arc::new(PageTokens::new());
    let daemon = Daemon::builder(COMPONENT, options.protocol)
        .version(env!("CARGO_PKG_VERSION"))
        .state_dir(options.state_dir)
        .yields(options.yields)
        .replaces(options.replaces)
        .capabilities(["events"])
        .origins_from(move || allowlist.now())
        .guard(move |guard| {
            guard.methods(move |path| methods_of(&methods, path)).stream_routes([events::PATH])
        })
        .stop_on_signals(true)
        .page_tokens(page_tokens.clone())
        .start()
        .await?;
    let handle = daemon.handle();
    let app = App {
        events: Arc::new(events::log(handle.id().epoch())),
        tickets: handle.tickets(),
        handle,
        mode: options.mode,
        started: Instant::now(),
        activity: Activity::new(),
        page_tokens,
        launchers: Notify::new(),
        redeemed: Notify::new(),
        cause: OnceLock::new(),
    };
    Ok(Started { daemon, app: Arc::new(app), config_news })
}

impl Started {
    pub(crate) fn handle(&self) -> Handle {
        self.app.handle.clone()
    }

    /// Publishes, and serves until it stands down.
    pub(crate) async fn serve(self) -> Result<Reason, Error> {
        tokio::spawn(events::lifecycle(self.app.clone()));
        tokio::spawn(tell_of_origins(self.app.clone()));
        tokio::spawn(report_config(self.app.clone(), self.config_news));
        tokio::spawn(report_rotations(self.app.clone()));
        tokio::spawn(launchers::sweep(self.app.clone()));
        if let Mode::Auto(timeout) = self.app.mode {
            tokio::spawn(idle_out(self.app.clone(), timeout));
        }
        self.daemon.serve(router(self.app)).await
    }
}

/// Tells subscribers which origins come and go.
async fn tell_of_origins(app: Arc<App>) {
    let mut list = app.handle.origins();
    let mut known = list.borrow_and_update().clone();
    while list.changed().await.is_ok() {
        let now = list.borrow_and_update().clone();
        let differences = [("added", &now, &known), ("removed", &known, &now)];
        for (what, these, those) in differences {
            for origin in these.iter().filter(|origin| !those.contains(origin.as_str())) {
                // Strings always serialise, and the log is in memory.
                let _ = app.events.append("origins", &json!({"what": what, "origin": origin.as_str()}));
            }
        }
        known = now;
    }
}

/// Tells subscribers that the configuration was read again, and reports each fault of it in the log too (LIFE-37).
async fn report_config(app: Arc<App>, mut news: UnboundedReceiver<News>) {
    while let Some(news) = news.recv().await {
        match news {
            News::Reloaded => events::change(&app, "reloaded"),
            News::FileError(fault) => events::warn(&app, "config_invalid", &fault, None),
        }
    }
}

/// Tells subscribers that the credential was replaced. Their streams end with it (CRED-16), so they read this when they resume.
async fn report_rotations(app: Arc<App>) {
    let mut rotations = app.handle.rotations();
    while rotations.changed().await.is_ok() {
        events::change(&app, "credential-rotated");
    }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

impl App {
    fn stop(&self, cause: &'static str) {
        // The first cause is the one that counts.
        let _ = self.cause.set(cause);
        self.handle.stop();
    }

    /// Stops where nothing is open besides the given number of requests.
    fn stop_if_idle(&self, cause: &'static str, besides: usize) -> bool {
        let idle = self.handle.stop_if_idle(besides);
        if idle {
            let _ = self.cause.set(cause);
        }
        idle
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

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
}
