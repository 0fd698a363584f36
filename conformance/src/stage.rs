//! What a case acts on: its arena, its subject, and the notes that its verdict is made of.

mod client;

pub use client::{Answer, CONNECT, Call, Caller, Command, LATE, OUTCOMES};

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use local_daemon_harness::arena::Arena;
use local_daemon_harness::http::{self, HttpFault, ProbeAnswer, Request, Response, Target, Wire};
use local_daemon_harness::observe::Recorder;
use local_daemon_harness::platform::Setup;
use local_daemon_harness::process::{Exit, Output, Subject};
use local_daemon_harness::proof::Credential;
use local_daemon_harness::record::{self, Record};
use local_daemon_harness::transcript::Transcript;
use local_daemon_harness::wait::until;

use crate::case::{Case, Outcome, Stop};
use crate::engines::{Engines, Lent};
use crate::manifest::{Manifest, Operation, fill};
use crate::rng::Rng;

/// The bound that the specification gives a client for one handshake.
pub const PROBE: Duration = Duration::from_secs(2);

/// No credential is longer, damaged ones of the cases included, as far as it is one.
const LONGEST_SECRET: usize = 1024;

/// What [`Stage::ready`] itself looks at: a subject that is never ready, started plainly, violates one of these, and
/// what it does to any other requirement is not known.
pub const READINESS: &[&str] = &[
    "DIR-1", "DIR-4", "REG-1", "REG-2", "REG-3", "REG-5", "CRED-1", "PUB-4", "PUB-7", "HS-1", "HS-2", "HS-3",
    "HS-5", "HS-13",
];

/// A case's view of its world.
///
/// The order of a case: arrange, [`precondition`](Stage::precondition) once it is *seen* to hold ([`ready`](Stage::ready)
/// notes one itself), [`expect`](Stage::expect), do, then [`ensure`](Stage::ensure). The runner turns a pass or a
/// violation without any precondition into `harness-error` or `inconclusive`.
#[derive(Debug)]
pub struct Stage {
    case: &'static Case,
    manifest: Arc<Manifest>,
    arena: Arc<Arena>,
    notes: Arc<Notes>,
    engines: Engines,
    rng: Rng,
    /// Ids of the records that were ready so far.
    known_ids: BTreeSet<String>,
    slowest_start: Duration,
}

/// How a daemon is started, where the manifest's own way is not enough.
#[derive(Debug, Clone, Default)]
pub struct Start {
    state_dir: Option<PathBuf>,
    args: Vec<String>,
    vars: Vec<(String, String)>,
    setup: Setup,
    cwd: Option<PathBuf>,
    held: bool,
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

/// A command of the manifest by which a user has a page opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// `browser.open`
    Page,
    /// `browser.print_url`
    Address,
    /// `browser.handoff`
    Handoff,
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

/// A daemon that was seen ready.
#[derive(Debug, Clone)]
pub struct Live {
    /// Its record, as it was read.
    pub record: Record,
    /// The credential in its state directory.
    pub credential: Credential,
    /// Where its handshake is: address, authority, path.
    pub target: Target,
    /// How long after the launch it was seen ready.
    pub after: Duration,
}

/// What the verdict is made of. Shared with the runner, which has it even if the case never returns.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    inner: Mutex<NotesInner>,
    /// Set when the case has to end: no further subject starts.
    over: AtomicBool,
    /// Sees what a model may be asked about, where one is.
    recorder: Mutex<Option<Recorder>>,
}

#[derive(Debug, Default)]
pub(crate) struct NotesInner {
    pub(crate) preconditions: Vec<String>,
    pub(crate) expected: Vec<String>,
    pub(crate) observed: Vec<String>,
    state_dirs: BTreeSet<PathBuf>,
    subjects: Vec<Arc<Subject>>,
    launched: usize,
}

impl Notes {
    /// From now on what happens on the state directory is recorded.
    pub(crate) fn record(&self, state_dir: &Path, registration: &str) -> std::io::Result<()> {
        let recorder = Recorder::start(state_dir, registration)?;
        *self.recorder.lock().unwrap_or_else(PoisonError::into_inner) = Some(recorder);
        Ok(())
    }

    /// Ends the recording, where there is one.
    pub(crate) fn recorded(&self, case: &str, transcript: &Transcript) -> Option<serde_json::Value> {
        let recorder = self
            .recorder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let events = transcript.events();
        let helper = events
            .iter()
            .find(|event| event.what == "start" && !event.actor.starts_with("daemon-"));
        let since = helper.map(|event| transcript.began() + Duration::from_millis(event.at_ms));
        recorder.map(|recorder| recorder.finish(case, since))
    }

    fn tell_recorder(&self, tell: impl FnOnce(&Recorder)) {
        if let Some(recorder) = &*self.recorder.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(recorder);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, NotesInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every subject and lets no other start; whoever waits for one sees its exit.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        let subjects = std::mem::take(&mut self.lock().subjects);
        for subject in &subjects {
            subject.kill_group();
        }
    }

    /// Living processes that an exited subject left in its own group.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let subjects = self.lock().subjects.clone();
        let exited = subjects.iter().filter(|subject| subject.exit().is_some());
        let left = exited
            .flat_map(|subject| subject.tree())
            .filter(|process| !process.is_zombie());
        left.map(|process| format!("pid {} ({})", process.pid, process.comm))
            .collect()
    }

    /// Makes the transcript forget every credential of this case, also of one that never became ready.
    pub(crate) fn hide_credentials(&self, manifest: &Manifest, transcript: &Transcript) {
        for state_dir in self.lock().state_dirs.clone() {
            if let Ok(bytes) = read_regular(&state_dir.join(&manifest.binding.credential)) {
                // What is beyond the first line is no secret, and may be long: searching for it takes minutes.
                let line = bytes
                    .trim_ascii()
                    .split(|&byte| byte == b'\n')
                    .next()
                    .unwrap_or_default();
                transcript.hide(&line[..line.len().min(LONGEST_SECRET)]);
            }
        }
    }
}

impl Stage {
    pub(crate) fn new(
        case: &'static Case,
        manifest: Arc<Manifest>,
        arena: Arc<Arena>,
        notes: Arc<Notes>,
        engines: Engines,
        seed: u64,
    ) -> Self {
        notes.lock().state_dirs.insert(arena.state_dir().to_owned());
        Self {
            case,
            manifest,
            arena,
            notes,
            engines,
            rng: Rng::new(seed, case.name),
            known_ids: BTreeSet::new(),
            slowest_start: Duration::ZERO,
        }
    }

    /// The subject's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The case's own world.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// What happened so far; secrets are replaced as it is written.
    pub fn transcript(&self) -> &Transcript {
        self.arena.transcript()
    }

    /// Random choices that return with the same `--seed` and case name.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The arena's state directory, which is there or will be.
    pub fn state_dir(&self) -> &Path {
        self.arena.state_dir()
    }

    /// The registration record in the arena's state directory.
    pub fn record_path(&self) -> PathBuf {
        self.state_dir().join(&self.manifest.binding.registration)
    }

    /// The credential in the arena's state directory.
    pub fn credential_path(&self) -> PathBuf {
        self.state_dir().join(&self.manifest.binding.credential)
    }

    /// The advisory lock in the arena's state directory.
    pub fn lock_path(&self) -> PathBuf {
        self.state_dir().join(&self.manifest.binding.lock)
    }

    /// The longest that a daemon of this case took from its launch until it was seen ready.
    pub fn slowest_start(&self) -> Duration {
        self.slowest_start
    }

    /// The deadline for readiness, counted from now.
    pub fn ready_deadline(&self) -> Instant {
        Instant::now() + self.manifest.daemon.ready_timeout()
    }

    /// The deadline for the exit of a displaced daemon, counted from now.
    pub fn stand_down_deadline(&self) -> Instant {
        Instant::now() + self.manifest.daemon.stand_down_timeout()
    }

    /// Exchanges that the transcript notes, each bounded by [`PROBE`].
    pub fn wire(&self) -> Wire {
        Wire::new(self.transcript(), PROBE)
    }

    // What the verdict is made of.

    /// Notes something that was arranged *and seen to hold*.
    pub fn precondition(&mut self, seen: impl Into<String>) {
        let seen = seen.into();
        self.transcript().note("suite", "precondition", &seen);
        self.notes.lock().preconditions.push(seen);
    }

    /// Notes a positive control: the subject, alive, did the good form of what it has to refuse.
    pub fn control(&mut self, seen: impl Into<String>) {
        self.precondition(format!("control: {}", seen.into()));
    }

    /// Says what must be seen. Without it the report shows the case's `about`.
    pub fn expect(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.transcript().note("suite", "expect", &what);
        self.notes.lock().expected.push(what);
    }

    /// Notes something that was seen, for the report.
    pub fn observed(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.transcript().note("suite", "observed", &what);
        self.notes.lock().observed.push(what);
    }

    /// Goes on if `holds`; otherwise the requirement is violated, and `seen` says what was seen instead.
    pub fn ensure(&mut self, holds: bool, seen: impl Into<String>) -> Outcome {
        if holds { Ok(()) } else { self.fail(seen) }
    }

    /// The requirement is violated: `seen` says what was seen.
    pub fn fail<T>(&mut self, seen: impl Into<String>) -> Outcome<T> {
        Err(Stop::Violation(seen.into()))
    }

    /// A precondition never came about: nothing follows.
    pub fn inconclusive<T>(&mut self, why: impl Into<String>) -> Outcome<T> {
        Err(Stop::Inconclusive(why.into()))
    }

    /// This host cannot show it.
    pub fn untestable<T>(&mut self, why: impl Into<String>) -> Outcome<T> {
        Err(Stop::Untestable(why.into()))
    }

    /// The subject need not have what the case looks at, or its manifest does not say where it is.
    pub fn not_applicable<T>(&mut self, why: impl Into<String>) -> Outcome<T> {
        Err(Stop::NotApplicable(why.into()))
    }

    /// The subject did what it has to, and the engine did otherwise than is written down: a warning, whoever is at fault.
    pub fn deviation<T>(&mut self, what: impl Into<String>) -> Outcome<T> {
        Err(Stop::Deviation(what.into()))
    }

    /// The browser of the case's engine, with one empty tab; what this host lacks makes the case `untestable`.
    pub fn browser(&mut self) -> Outcome<Lent> {
        match self.case.engine {
            Some(kind) => self.engines.lend(kind),
            None => Err(Stop::Fault("the case names no engine".to_owned())),
        }
    }

    // The subject.

    /// Starts the subject as its manifest says, in the arena's state directory.
    pub fn launch(&mut self) -> Outcome<Daemon> {
        self.launch_with(Start::new())
    }

    /// Starts the subject in another way.
    pub fn launch_with(&mut self, start: Start) -> Outcome<Daemon> {
        let manifest = Arc::clone(&self.manifest);
        let state_dir = start.state_dir.unwrap_or_else(|| self.state_dir().to_owned());
        let home = self.arena.home();
        let values = [
            ("state_dir", &*state_dir.to_string_lossy()),
            ("home", &*home.to_string_lossy()),
            // The system chooses: a port that is picked and given back may be another's by the time it is bound.
            ("port", "0"),
            ("case", self.case.name),
        ];
        let mut argv: Vec<String> = manifest.daemon.run.iter().map(|arg| fill(arg, &values)).collect();
        let yields = manifest.daemon.yields.as_ref();
        let yields = yields.is_some_and(|by| by.args.iter().all(|arg| start.args.contains(arg)));
        argv.extend(start.args);
        for origin in &start.origins {
            let Some(by) = &manifest.daemon.origins else {
                return self.not_applicable("the manifest has no `daemon.origins`");
            };
            argv.extend(
                by.args
                    .iter()
                    .map(|arg| fill(arg, &[&values[..], &[("origin", origin)]].concat())),
            );
        }
        if start.held {
            let hold = ["sh", "-c", r#"kill -STOP $$; exec "$@""#, "sh"];
            argv.splice(0..0, hold.map(str::to_owned));
        }
        argv.splice(0..0, start.under);
        let name = {
            let mut notes = self.notes.lock();
            notes.launched += 1;
            notes.state_dirs.insert(state_dir.clone());
            format!("daemon-{}", notes.launched)
        };
        let mut launch = self.arena.launch(&name, argv).setup(start.setup);
        for (key, value) in &manifest.daemon.env {
            launch = launch.var(key, fill(value, &values));
        }
        if let Some(protocol) = start.protocol {
            let Some(by) = &manifest.daemon.protocol_override else {
                return self.not_applicable("the manifest has no `daemon.protocol_override`");
            };
            launch = launch.var(&by.env, protocol);
        }
        for (key, value) in start.vars {
            launch = launch.var(key, value);
        }
        if let Some(cwd) = start.cwd {
            launch = launch.cwd(cwd);
        }
        // Under the lock, so that a case that has to end does not start one more beside its end.
        let mut notes = self.notes.lock();
        if self.notes.over.load(Ordering::SeqCst) {
            return Err(Stop::Fault("the case was ended".to_owned()));
        }
        let (after, number) = (Instant::now(), notes.launched);
        let subject = Arc::new(launch.start()?);
        notes.subjects.push(Arc::clone(&subject));
        if state_dir == self.arena.state_dir() {
            self.notes
                .tell_recorder(|recorder| recorder.launched(number, &subject, yields, after, Instant::now()));
        }
        Ok(Daemon {
            subject,
            name,
            state_dir,
        })
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
            return self.not_applicable(format!("the manifest has no `daemon.origins.{how}`"));
        };
        let ran = self.run_to_end(&command, origin, &[])?;
        Ok(ran.0)
    }

    /// Runs one of the manifest's commands that open a page, to its end, with these variables; `not-applicable` where
    /// there is none. `origin` is whose page it is, where it is not the daemon's own.
    pub fn open_page(
        &mut self,
        which: Opening,
        origin: &str,
        vars: &[(String, String)],
    ) -> Outcome<(Exit, Output)> {
        let browser = self.manifest.browser.clone().unwrap_or_default();
        let (command, key) = match which {
            Opening::Page => (browser.open, "open"),
            Opening::Address => (browser.print_url, "print_url"),
            Opening::Handoff => (browser.handoff, "handoff"),
        };
        match command {
            Some(command) => self.run_to_end(&command, origin, vars),
            None => self.not_applicable(format!("the manifest has no `browser.{key}`")),
        }
    }

    fn run_to_end(
        &mut self,
        command: &[String],
        origin: &str,
        vars: &[(String, String)],
    ) -> Outcome<(Exit, Output)> {
        let (state_dir, home) = (self.state_dir().to_string_lossy(), self.arena.home());
        let home = home.to_string_lossy();
        let values = [
            ("state_dir", &*state_dir),
            ("home", &*home),
            ("port", "0"),
            ("case", self.case.name),
            ("origin", origin),
        ];
        let argv: Vec<String> = command.iter().map(|word| fill(word, &values)).collect();
        let said = argv.join(" ");
        let launch = self.arena.launch("command", argv);
        let launch = (self.manifest.daemon.env.iter()).fold(launch, |launch, (key, value)| {
            launch.var(key, fill(value, &values))
        });
        let launch = vars
            .iter()
            .fold(launch, |launch, (key, value)| launch.var(key, value));
        let command = Arc::new(launch.start()?);
        // What it has started is ended with the case, and not with the command.
        self.notes.lock().subjects.push(Arc::clone(&command));
        match command.wait_exit(self.ready_deadline()) {
            Some(exit) => {
                let ended = command.wait_output_end(Instant::now() + Duration::from_secs(1));
                Ok((exit, ended.unwrap_or_else(|| command.output())))
            }
            None => self.fail(format!("`{said}` does not end")),
        }
    }

    /// Starts the subject and waits until it is ready.
    pub fn launch_ready(&mut self) -> Outcome<(Daemon, Live)> {
        let daemon = self.launch()?;
        let live = self.ready(&daemon)?;
        Ok((daemon, live))
    }

    /// Waits until `daemon` is ready: its state directory holds a record of an id that was not ready before, and the
    /// handshake with the bearer at that record's URL is answered 200 with this id. That is a precondition, and noted
    /// as one. A daemon that exits before, or is not ready in the manifest's time, ends the
    /// case as [`Stop::NotReady`].
    pub fn ready(&mut self, daemon: &Daemon) -> Outcome<Live> {
        let began = Instant::now();
        let mut missing = String::new();
        let live = until(self.ready_deadline(), || {
            match self.look(daemon, began) {
                Ok(live) => return Some(Some(live)),
                Err(why) => missing = why,
            }
            daemon.exit().map(|_| None)
        });
        match live {
            Some(Some(live)) => {
                self.transcript().hide(live.credential.bytes());
                if let Some(pair) = live.credential.pair() {
                    self.transcript().hide(pair.as_bytes());
                }
                self.known_ids.insert(live.record.id.clone());
                self.slowest_start = self.slowest_start.max(live.after);
                self.precondition(format!(
                    "{} (pid {}) was ready after {} ms: record of id {} at {}, handshake answered 200",
                    daemon.name,
                    daemon.pid(),
                    live.after.as_millis(),
                    live.record.id,
                    live.record.url.text(),
                ));
                Ok(live)
            }
            ended => {
                self.notes
                    .hide_credentials(&self.manifest, self.arena.transcript());
                let how = match (ended, daemon.exit()) {
                    (Some(_), Some(exit)) => format!("{} was never ready: {exit}", daemon.name),
                    _ => format!(
                        "{} is not ready after {} ms",
                        daemon.name,
                        began.elapsed().as_millis()
                    ),
                };
                let output = daemon.output().all();
                let output = String::from_utf8_lossy(&output);
                let lines: Vec<&str> = output.lines().rev().take(5).collect();
                let said = lines.into_iter().rev().collect::<Vec<_>>().join(" | ");
                let said = if said.is_empty() {
                    String::new()
                } else {
                    format!("; it said: {said}")
                };
                self.precondition(format!("{} was started as pid {}", daemon.name, daemon.pid()));
                Err(Stop::NotReady(format!("{how}; {missing}{said}")))
            }
        }
    }

    /// One look at whether `daemon` is ready, or what is missing.
    fn look(&self, daemon: &Daemon, began: Instant) -> Result<Live, String> {
        let earlier = |id: &str| {
            let known = self.known_ids.contains(id);
            known.then(|| format!("the record still holds the id {id} of an earlier launch"))
        };
        // Before any handshake: an earlier daemon that is stopped would cost the whole bound of one.
        let record = read_regular(&daemon.state_dir.join(&self.manifest.binding.registration));
        let record = record.ok().and_then(|bytes| Record::parse(&bytes).ok());
        if let Some(why) = record.and_then(|record| earlier(&record.id)) {
            return Err(why);
        }
        let live = self.find(&daemon.state_dir)?;
        if let Some(why) = earlier(&live.record.id) {
            return Err(why);
        }
        Ok(Live {
            after: began.elapsed(),
            ..live
        })
    }

    /// Whoever is ready in a state directory at this moment, by its record and the handshake with the bearer; otherwise
    /// what is missing. Unlike [`ready`](Stage::ready) this accuses nobody, notes nothing and does not wait.
    pub fn find(&self, state_dir: &Path) -> Result<Live, String> {
        let began = Instant::now();
        let binding = &self.manifest.binding;
        let read = |name: &str| {
            read_regular(&state_dir.join(name)).map_err(|error| format!("cannot read {name}: {error}"))
        };
        let record = Record::parse(&read(&binding.registration)?)
            .map_err(|fault| format!("{} is malformed: {fault}", binding.registration))?;
        let credential = record::parse_credential(&read(&binding.credential)?).ok_or_else(|| {
            format!(
                "{} is not 43 characters of base64url and a newline",
                binding.credential
            )
        })?;
        let credential = match &binding.basic_user {
            Some(user) => credential.of_user(user),
            None => credential,
        };
        let mut last = String::new();
        for address in record.url.addresses() {
            let target = Target {
                address,
                path: binding.handshake.path.clone(),
                ..Target::of(&record)
            };
            let request = self.bearing(&target, &credential);
            let sent = Instant::now();
            match http::exchange(address, &request.bytes(), sent + PROBE) {
                Ok(response) => match self.answered(sent, &response).not_ready(&response, &record.id) {
                    None => {
                        return Ok(Live {
                            record,
                            credential,
                            target,
                            after: began.elapsed(),
                        });
                    }
                    Some(why) => last = why,
                },
                Err(fault) => last = format!("handshake: {fault}"),
            }
        }
        Err(last)
    }

    /// Tells the recorder of a handshake's answer.
    fn answered(&self, sent: Instant, response: &Response) -> &Self {
        let by = Instant::now();
        self.notes
            .tell_recorder(|recorder| recorder.answered(sent, by, &response.body));
        self
    }

    /// What keeps an answer from being a ready handshake of `id`, by the manifest's binding.
    fn not_ready(&self, response: &Response, id: &str) -> Option<String> {
        if response.status != 200 {
            return Some(format!("handshake answered {}", response.status));
        }
        let binding = &self.manifest.binding.handshake;
        let Some(body) = response.json() else {
            return Some("handshake answered 200 and no JSON".to_owned());
        };
        let text = |pointer: &str| body.pointer(pointer).and_then(|value| value.as_str());
        if text(&binding.id) != Some(id) {
            return Some(format!(
                "handshake answered another id than the record's: {:?}",
                text(&binding.id)
            ));
        }
        if text(&binding.protocol).is_none() {
            return Some(format!("handshake answered no text at {}", binding.protocol));
        }
        text("/state")
            .filter(|state| *state != "ready")
            .map(|state| format!("handshake answered state {state}"))
    }

    /// The handshake request without authentication.
    pub fn handshake_request(&self, live: &Live) -> Request {
        self.bare(&live.target)
    }

    fn bare(&self, target: &Target) -> Request {
        Request::new(&self.manifest.binding.handshake.method, &target.path).host(&target.authority)
    }

    fn bearing(&self, target: &Target, credential: &Credential) -> Request {
        self.bare(target)
            .header("Authorization", &local_daemon_harness::proof::bearer(credential))
    }

    /// The handshake with the bearer, noted in the transcript.
    pub fn probe(&self, live: &Live) -> Result<ProbeAnswer, HttpFault> {
        let request = self.bearing(&live.target, &live.credential);
        let sent = Instant::now();
        let response = self.wire().exchange(live.target.address, &request.bytes())?;
        self.answered(sent, &response);
        let handshake = http::Handshake::parse(&response.body);
        Ok(ProbeAnswer {
            response,
            proof: http::DaemonProof::Missing,
            handshake,
        })
    }

    /// The handshake with a proof of its own nonce, noted in the transcript.
    pub fn probe_with_proof(&self, live: &Live) -> Result<ProbeAnswer, HttpFault> {
        let sent = Instant::now();
        let answer = self.wire().probe(&live.target, &live.credential)?;
        self.answered(sent, &answer.response);
        Ok(answer)
    }

    /// Whether a good handshake is answered 200 by this very daemon, ready.
    pub fn is_ready(&self, live: &Live) -> bool {
        self.why_not_ready(live).is_none()
    }

    fn why_not_ready(&self, live: &Live) -> Option<String> {
        match self.probe(live) {
            Ok(answer) => self.not_ready(&answer.response, &live.record.id),
            Err(fault) => Some(fault.to_string()),
        }
    }

    /// Does what must be refused between two good handshakes. Without a good one before, nothing follows; without one
    /// after, the subject did not refuse but break.
    pub fn between_controls<T>(
        &mut self,
        live: &Live,
        refused: impl FnOnce(&mut Self) -> Outcome<T>,
    ) -> Outcome<T> {
        if let Some(why) = self.why_not_ready(live) {
            return self.inconclusive(format!("the good handshake before: {why}"));
        }
        self.control("a good handshake was answered 200 before");
        let seen = refused(self)?;
        if let Some(why) = self.why_not_ready(live) {
            return self.fail(format!("the good handshake afterwards: {why}"));
        }
        self.control("a good handshake was answered 200 afterwards");
        Ok(seen)
    }

    /// The request of a manifest's operation, at a live daemon, without authentication.
    pub fn operation(&self, live: &Live, operation: &Operation) -> Request {
        let (state_dir, home) = (self.state_dir().to_string_lossy(), self.arena.home());
        let home = home.to_string_lossy();
        let values = [
            ("state_dir", &*state_dir),
            ("home", &*home),
            ("port", "0"),
            ("case", self.case.name),
        ];
        let request =
            Request::new(&operation.method, &fill(&operation.path, &values)).host(&live.target.authority);
        match &operation.body {
            Some(body) => request.json(fill(body, &values)),
            None => request,
        }
    }

    /// Sends a request to a live daemon on a connection of its own.
    pub fn send(&self, live: &Live, request: &Request) -> Result<Response, HttpFault> {
        self.wire().exchange(live.target.address, &request.bytes())
    }
}

/// Reads a regular file. A FIFO in its place, which the subject may have made or left, would hang whoever opens it.
fn read_regular(path: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.is_file() {
        std::fs::read(path)
    } else {
        Err(std::io::Error::other("not a regular file"))
    }
}
