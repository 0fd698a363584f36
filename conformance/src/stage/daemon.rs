//! The daemon role: how the subject's daemon is started, and what its other commands do.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use local_daemon_harness::platform::Setup;
use local_daemon_harness::process::{Exit, Output, Subject};

use super::Stage;
use crate::outcome::{Outcome, fail, not_applicable};

/// How a daemon is started, where the manifest's own way is not enough.
#[derive(Debug, Clone, Default)]
pub struct Start {
    state_dir: Option<PathBuf>,
    unnamed: bool,
    args: Vec<String>,
    vars: Vec<(String, String)>,
    setup: Setup,
    cwd: Option<PathBuf>,
    held: bool,
    verbose: bool,
    under: Vec<String>,
    protocol: Option<String>,
    origins: Vec<String>,
}

impl Start {
    /// The manifest's own way.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another state directory than the arena's.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Starts by `daemon.unnamed`, which names no state directory; the case expects the daemon in `expected`. The launch is
    /// not applicable if the manifest has no such command.
    #[must_use]
    pub fn unnamed(mut self, expected: impl Into<PathBuf>) -> Self {
        self.unnamed = true;
        self.state_dir(expected)
    }

    /// One more argument at the end.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn var(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.vars.push((name.into(), value.into()));
        self
    }

    /// Session, file mode mask, user, file size limit.
    #[must_use]
    pub fn setup(mut self, setup: Setup) -> Self {
        self.setup = setup;
        self
    }

    /// Another working directory than the arena's home.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<PathBuf>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// Makes it log as much as it can, if the manifest says how.
    #[must_use]
    pub fn verbose(mut self) -> Self {
        self.verbose = true;
        self
    }

    /// Held (`SIGSTOP`) right before the manifest's command is run, until `SIGCONT`: how several are let go at once.
    #[must_use]
    pub fn held(mut self) -> Self {
        self.held = true;
        self
    }

    /// Under a command that these words begin and the manifest's command ends, and that becomes the latter.
    #[must_use]
    pub fn under(mut self, words: Vec<String>) -> Self {
        self.under = words;
        self
    }

    /// With this web origin on the allowlist; makes the launch `not-applicable` if the manifest does not say how.
    #[must_use]
    pub fn allowing(mut self, origin: impl Into<String>) -> Self {
        self.origins.push(origin.into());
        self
    }

    /// Another wire protocol; makes the launch `untestable` if the manifest does not say how.
    #[must_use]
    pub fn protocol(mut self, protocol: impl Into<String>) -> Self {
        self.protocol = Some(protocol.into());
        self
    }
}

/// How long a command may wait for its page to be opened.
pub const OPENED: Duration = Duration::from_secs(5);

/// A command of the manifest by which a user has a page opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening<'a> {
    /// `browser.open`, where another host may be asked for.
    Page(Option<&'a str>),
    /// `browser.print_url`, the same.
    Address(Option<&'a str>),
    /// `browser.handoff`, for an origin.
    Handoff(&'a str),
}

/// A started subject. It is ended when the case ends, also if this value is dropped before.
#[derive(Debug, Clone)]
pub struct Daemon {
    subject: Arc<Subject>,
    /// How the transcript calls it: `daemon-1`, `daemon-2` …
    pub name: String,
    /// The state directory that it was told to use.
    pub state_dir: PathBuf,
}

impl Deref for Daemon {
    type Target = Subject;

    fn deref(&self) -> &Subject {
        &self.subject
    }
}

impl Stage {
    /// Starts the subject as its manifest says, in the arena's state directory.
    pub fn launch(&mut self) -> Outcome<Daemon> {
        self.launch_with(Start::new())
    }

    /// Starts the subject in another way.
    pub fn launch_with(&mut self, start: Start) -> Outcome<Daemon> {
        let manifest = Arc::clone(&self.manifest);
        let state_dir = start.state_dir.unwrap_or_else(|| self.state_dir().to_owned());
        let filled = self.filler(&state_dir, &[]);
        let run = match &manifest.daemon.unnamed {
            _ if !start.unnamed => &manifest.daemon.run,
            Some(unnamed) => unnamed,
            None => return not_applicable("the manifest has no `daemon.unnamed`"),
        };
        let mut argv: Vec<String> = run.iter().map(|arg| filled(arg)).collect();
        let yields = manifest.daemon.yields.as_ref();
        let yields = yields.is_some_and(|by| by.args.iter().all(|arg| start.args.contains(arg)));
        argv.extend(start.args);
        for origin in &start.origins {
            let Some(by) = &manifest.daemon.origins else {
                return not_applicable("the manifest has no `daemon.origins`");
            };
            let filled = self.filler(&state_dir, &[("origin", origin)]);
            argv.extend(by.args.iter().map(|arg| filled(arg)));
        }
        if start.held {
            let hold = ["sh", "-c", r#"kill -STOP $$; exec "$@""#, "sh"];
            argv.splice(0..0, hold.map(str::to_owned));
        }
        argv.splice(0..0, start.under);
        let number = self.notes.number();
        self.notes.knows(&state_dir);
        let name = format!("daemon-{number}");
        let mut launch = self.arena.launch(&name, argv).setup(start.setup);
        let verbose = manifest.daemon.verbose.iter().filter(|_| start.verbose);
        for (key, value) in manifest.daemon.env.iter().chain(verbose) {
            launch = launch.var(key, filled(value));
        }
        if let Some(protocol) = start.protocol {
            let Some(by) = &manifest.daemon.protocol_override else {
                return not_applicable("the manifest has no `daemon.protocol_override`");
            };
            launch = launch.var(&by.env, protocol);
        }
        for (key, value) in start.vars {
            launch = launch.var(key, value);
        }
        if let Some(cwd) = start.cwd {
            launch = launch.cwd(cwd);
        }
        let after = Instant::now();
        let subject = self.notes.start(launch)?;
        if state_dir == self.arena.state_dir() {
            self.notes
                .tell_recorder(|recorder| recorder.launched(number, &subject, yields, after, Instant::now()));
        }
        Ok(Daemon { subject, name, state_dir })
    }

    /// Runs the manifest's command that adds an origin to the allowlist, to its end; `not-applicable` where there is
    /// none.
    pub fn add_origin(&mut self, origin: &str) -> Outcome<Exit> {
        let command = self.manifest.daemon.origins.as_ref();
        let command = command.and_then(|origins| origins.add.clone());
        self.edit_origins("add", command, origin)
    }

    /// The same for the command that removes one.
    pub fn remove_origin(&mut self, origin: &str) -> Outcome<Exit> {
        let command = self.manifest.daemon.origins.as_ref();
        let command = command.and_then(|origins| origins.remove.clone());
        self.edit_origins("remove", command, origin)
    }

    fn edit_origins(&mut self, how: &str, command: Option<Vec<String>>, origin: &str) -> Outcome<Exit> {
        let Some(command) = command else {
            return not_applicable(format!("the manifest has no `daemon.origins.{how}`"));
        };
        let started = self.start_command(&command, &[("origin", origin)], &[])?;
        let (exit, _) = self.end_of(&started, &command)?;
        Ok(exit)
    }

    /// Runs one of the manifest's commands that open a page, to its end, with these variables; `not-applicable` where
    /// there is none.
    pub fn open_page(&mut self, which: Opening, vars: &[(String, String)]) -> Outcome<(Exit, Output)> {
        let command = self.opening(which)?;
        let started = self.start_opening(which, vars)?;
        self.end_of(&started, &command)
    }

    /// Starts one of these commands, which may wait for its page to be opened.
    pub fn start_opening(&mut self, which: Opening, vars: &[(String, String)]) -> Outcome<Arc<Subject>> {
        let command = self.opening(which)?;
        let (origin, host) = match which {
            Opening::Page(host) | Opening::Address(host) => ("", host.unwrap_or_default()),
            Opening::Handoff(origin) => (origin, ""),
        };
        self.start_command(&command, &[("origin", origin), ("host", host)], vars)
    }

    fn opening(&self, which: Opening) -> Outcome<Vec<String>> {
        let browser = self.manifest.browser.clone().unwrap_or_default();
        let (command, host, key) = match which {
            Opening::Page(host) => (browser.open, host, "open"),
            Opening::Address(host) => (browser.print_url, host, "print_url"),
            Opening::Handoff(_) => (browser.handoff, None, "handoff"),
        };
        match (command, host, browser.host) {
            (None, ..) => not_applicable(format!("the manifest has no `browser.{key}`")),
            (Some(_), Some(_), None) => not_applicable("the manifest has no `browser.host`"),
            (Some(command), Some(_), Some(by)) => Ok([command, by.args].concat()),
            (Some(command), None, _) => Ok(command),
        }
    }

    fn start_command(
        &mut self,
        command: &[String],
        more: &[(&'static str, &str)],
        vars: &[(String, String)],
    ) -> Outcome<Arc<Subject>> {
        let filled = self.filler(self.state_dir(), more);
        let argv: Vec<String> = command.iter().map(|word| filled(word)).collect();
        let mut launch = self.arena.launch("command", argv);
        for (key, value) in &self.manifest.daemon.env {
            launch = launch.var(key, filled(value));
        }
        for (key, value) in vars {
            launch = launch.var(key, value);
        }
        // What it has started is ended with the case, and not with the command.
        self.notes.start(launch)
    }

    /// Waits for the end of a command, which may first wait for its page.
    fn end_of(&self, started: &Subject, command: &[String]) -> Outcome<(Exit, Output)> {
        match started.wait_exit(self.ready_deadline() + OPENED) {
            Some(exit) => {
                let ended = started.wait_output_end(Instant::now() + Duration::from_secs(1));
                Ok((exit, ended.unwrap_or_else(|| started.output())))
            }
            None => fail(format!("`{}` does not end", command.join(" "))),
        }
    }
}
