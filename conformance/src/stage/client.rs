//! The client role: the subject's client is called, and what it answers is read.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use local_daemon_harness::platform::Setup;
use local_daemon_harness::process::{Exit, Subject};
use serde_json::Value;

use super::Stage;
use crate::manifest::ClientSection;
use crate::outcome::{Outcome, Stop, fail, not_applicable};

/// The deadline of a connect that is given none.
pub const CONNECT: Duration = Duration::from_secs(10);
/// How much later than its deadline a client's process may end on a busy host: it has to start, and to end.
pub const LATE: Duration = Duration::from_millis(1_500);

/// One of the client's commands, by its key in `[client]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `connect`
    Connect,
    /// `connect_or_spawn`
    Spawn,
    /// `unnamed`
    Unnamed,
    /// `stop`
    Stop,
    /// `force_stop`
    ForceStop,
    /// `restart`
    Restart,
    /// `private`
    Private,
    /// `rotate`
    Rotate,
    /// `repair`
    Repair,
    /// `supervise`
    Supervise,
}

impl Command {
    fn of(self, client: &ClientSection) -> Result<&[String], &'static str> {
        let (command, missing) = match self {
            Self::Connect => (Some(&client.connect), ""),
            Self::Spawn => (client.connect_or_spawn.as_ref(), "connect_or_spawn"),
            Self::Unnamed => (client.unnamed.as_ref(), "unnamed"),
            Self::Stop => (client.stop.as_ref(), "stop"),
            Self::ForceStop => (client.force_stop.as_ref(), "force_stop"),
            Self::Restart => (client.restart.as_ref(), "restart"),
            Self::Private => (client.private.as_ref(), "private"),
            Self::Rotate => (client.rotate.as_ref(), "rotate"),
            Self::Repair => (client.repair.as_ref(), "repair"),
            Self::Supervise => (client.supervise.as_ref(), "supervise"),
        };
        command.map(Vec::as_slice).ok_or(missing)
    }
}

/// How the client is called.
#[derive(Debug, Clone)]
pub struct Call {
    command: Command,
    args: Vec<String>,
    vars: Vec<(String, String)>,
    setup: Setup,
    under: Vec<String>,
    state_dir: Option<PathBuf>,
    within: Option<u64>,
    replaces: bool,
    protocol: Option<String>,
    stand: Option<PathBuf>,
}

impl Call {
    /// One of the client's commands, as the manifest has it.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            args: Vec::new(),
            vars: Vec::new(),
            setup: Setup::default(),
            under: Vec::new(),
            state_dir: None,
            within: None,
            replaces: false,
            protocol: None,
            stand: None,
        }
    }

    /// A connect that must not spawn.
    pub fn connect() -> Self {
        Self::new(Command::Connect)
    }

    /// A connect that spawns where there is no daemon.
    pub fn spawn() -> Self {
        Self::new(Command::Spawn)
    }

    /// One more environment variable.
    #[must_use]
    pub fn var(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.vars.push((name.into(), value.into()));
        self
    }

    /// Session, file mode mask, user.
    #[must_use]
    pub fn setup(mut self, setup: Setup) -> Self {
        self.setup = setup;
        self
    }

    /// Under a command that these words begin and the client's command ends, and that becomes the latter.
    #[must_use]
    pub fn under(mut self, words: &[&str]) -> Self {
        self.under = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Another state directory than the arena's.
    #[must_use]
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// With a deadline of so many seconds; where the manifest does not say how, it is the 10 s of every connect.
    #[must_use]
    pub fn within(mut self, seconds: u64) -> Self {
        self.within = Some(seconds);
        self
    }

    /// Told to displace an incompatible daemon; not applicable to a client that cannot be told.
    #[must_use]
    pub fn replacing(mut self) -> Self {
        self.replaces = true;
        self
    }

    /// Speaking another wire protocol; not applicable where the manifest does not say how.
    #[must_use]
    pub fn protocol(mut self, protocol: impl Into<String>) -> Self {
        self.protocol = Some(protocol.into());
        self
    }

    /// With this program instead of the daemon that it would start; not applicable where the manifest does not say
    /// how.
    #[must_use]
    pub fn stand(mut self, program: impl Into<PathBuf>) -> Self {
        self.stand = Some(program.into());
        self
    }
}

/// A called client. It is ended when the case ends, also if this value is dropped before.
#[derive(Debug, Clone)]
pub struct Caller {
    subject: Arc<Subject>,
    /// How the transcript calls it: `client-1`, `client-2` …
    pub name: String,
    /// When it was called.
    pub began: Instant,
    /// When it has to have answered.
    pub deadline: Instant,
}

impl Deref for Caller {
    type Target = Subject;

    fn deref(&self) -> &Subject {
        &self.subject
    }
}

/// What a client answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// How it ended.
    pub exit: Exit,
    /// How long it took, the start of its process included.
    pub after: Duration,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// Whether nobody holds its outputs any more.
    pub ended: bool,
    /// Its standard output, if that is one JSON value.
    pub json: Option<Value>,
    /// The word in its JSON, or what its exit status stands for; the empty word if neither says anything.
    pub outcome: String,
    /// The daemon's id in its JSON.
    pub id: Option<String>,
}

/// The outcomes of a connect, each with its exit status.
pub const OUTCOMES: [(&str, i32); 9] = [
    ("ready", 0),
    ("absent", 10),
    ("stale", 11),
    ("busy", 12),
    ("foreign", 13),
    ("incompatible", 14),
    ("invalid", 15),
    ("spawn-failed", 16),
    ("unreachable", 17),
];

impl Answer {
    /// Everything that it wrote, and once more the strings in it that are JSON, as they are meant: there a path with quotes
    /// or backslashes stands in another form.
    pub fn text(&self) -> String {
        let written = self.written();
        let meant = json_strings(&written);
        written + &meant
    }

    fn written(&self) -> String {
        let bytes = [self.stdout.as_slice(), &self.stderr].concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Whether a text names a path, plainly or in a string of JSON.
pub(crate) fn names_path(text: &str, path: &Path) -> bool {
    let path = path.to_string_lossy();
    text.contains(&*path) || json_strings(text).contains(&*path)
}

/// The strings of every JSON value that is the whole text, or a line of it; each on a line of its own.
fn json_strings(text: &str) -> String {
    fn collect(value: &serde_json::Value, strings: &mut String) {
        match value {
            serde_json::Value::String(string) => {
                strings.push('\n');
                strings.push_str(string);
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, strings)),
            serde_json::Value::Object(members) => members.values().for_each(|value| collect(value, strings)),
            _ => {}
        }
    }
    let mut strings = String::new();
    for part in std::iter::once(text).chain(text.lines()) {
        if let Ok(value) = serde_json::from_str(part.trim()) {
            collect(&value, &mut strings);
        }
    }
    strings
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (outcome, exit, after) = (&self.outcome, self.exit, self.after.as_millis());
        let outcome = if outcome.is_empty() { "no outcome" } else { outcome };
        write!(f, "{outcome} ({exit}) after {after} ms")?;
        let text = self.written();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let said: String = text.chars().take(300).collect();
        if said.is_empty() { Ok(()) } else { write!(f, ": {said}") }
    }
}

impl Stage {
    /// The manifest's `[client]`, which the profile `client` needs.
    pub fn client(&mut self) -> Outcome<ClientSection> {
        match self.manifest.client.clone() {
            Some(client) => Ok(client),
            // A claim that cannot be backed is a failure, not a skip.
            None => Err(Stop::NotReady("the manifest has no `[client]`".to_owned())),
        }
    }

    /// Calls the client.
    pub fn call(&mut self, call: Call) -> Outcome<Caller> {
        let client = self.client()?;
        let command = match call.command.of(&client) {
            Ok(command) => command,
            Err(key) => return not_applicable(format!("the manifest has no `client.{key}`")),
        };
        let seconds = call.within.unwrap_or_default().to_string();
        let state_dir = call.state_dir.as_deref().unwrap_or_else(|| self.state_dir());
        let filled = self.filler(state_dir, &[("seconds", &seconds)]);
        let mut argv: Vec<String> = command.iter().map(|arg| filled(arg)).collect();
        let mut within = CONNECT;
        if let (Some(seconds), Some(deadline)) = (call.within, &client.deadline) {
            argv.extend(deadline.args.iter().map(|arg| filled(arg)));
            within = Duration::from_secs(seconds);
        }
        if call.replaces {
            let Some(replace) = &client.replace else {
                return not_applicable("the manifest has no `client.replace`");
            };
            argv.extend(replace.args.iter().cloned());
        }
        argv.extend(call.args);
        argv.splice(0..0, call.under);
        let name = format!("client-{}", self.notes.number());
        let mut launch = self.arena.launch(&name, argv).setup(call.setup);
        for (key, value) in &client.env {
            launch = launch.var(key, filled(value));
        }
        if let Some(protocol) = call.protocol {
            let Some(by) = &self.manifest.daemon.protocol_override else {
                return not_applicable("the manifest has no `daemon.protocol_override`");
            };
            launch = launch.var(&by.env, protocol);
        }
        if let Some(program) = call.stand {
            let Some(stand) = &client.daemon else {
                return not_applicable("the manifest has no `client.daemon`");
            };
            launch = launch.var(&stand.env, program);
        }
        for (key, value) in call.vars {
            launch = launch.var(key, value);
        }
        let began = Instant::now();
        let subject = self.notes.start(launch)?;
        Ok(Caller { subject, name, began, deadline: began + within })
    }

    /// Calls the client and reads its answer.
    pub fn ask(&mut self, call: Call) -> Outcome<Answer> {
        let caller = self.call(call)?;
        self.answer(&caller)
    }

    /// Waits for a client's answer. One that does not end by its deadline and [`LATE`] violates whatever is judged: there
    /// is no outcome.
    pub fn answer(&mut self, caller: &Caller) -> Outcome<Answer> {
        match self.answer_by(caller, caller.deadline + LATE)? {
            Some(answer) => Ok(answer),
            None => fail(format!(
                "{} has not answered after {} ms",
                caller.name,
                caller.began.elapsed().as_millis()
            )),
        }
    }

    /// Waits for a client's answer until `deadline`.
    pub fn answer_by(&mut self, caller: &Caller, deadline: Instant) -> Outcome<Option<Answer>> {
        let client = self.client()?;
        let Some(exit) = caller.wait_exit(deadline) else {
            return Ok(None);
        };
        // What it wrote is in the pipe when it has ended; another process that holds the pipe keeps it from ending.
        let ended = caller.wait_output_end(Instant::now() + Duration::from_secs(1));
        let (ended, output) = (ended.is_some(), ended.unwrap_or_else(|| caller.output()));
        let json: Option<Value> = serde_json::from_slice(&output.stdout()).ok();
        let text = |pointer: &str| {
            let value = json.as_ref()?.pointer(pointer)?;
            value.as_str().map(str::to_owned)
        };
        let by_status = OUTCOMES.iter().find(|(_, status)| exit.code == Some(*status));
        let outcome = text(&client.outcome).or_else(|| by_status.map(|(word, _)| (*word).to_owned()));
        let answer = Answer {
            exit,
            after: exit.at - caller.began,
            stdout: output.stdout(),
            stderr: output.stderr(),
            ended,
            outcome: outcome.unwrap_or_default(),
            id: text(&client.id),
            json,
        };
        self.transcript().note("suite", "answer", format!("{}: {answer}", caller.name));
        Ok(Some(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_plainly_and_as_json_writes_it() {
        let path = Path::new("/tmp/q\"x\\y");
        let json = format!(
            "starting\n{}\n",
            serde_json::json!({ "fields": [{ "error": format!("{}: gone", path.display()) }] })
        );
        assert!(!json.contains(path.to_str().unwrap()));
        assert!(names_path(&json, path));
        assert!(names_path("cannot use /tmp/q\"x\\y", path));
        assert!(!names_path(&json, Path::new("/tmp/other")));
    }
}
