//! The subject manifest: one TOML file that says how to run a subject and where its operations live.
//!
//! Its JSON Schema is `spec/schemas/manifest.schema.json`.

mod fault;
mod load;
mod profiles;
mod ready;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use local_daemon_spec::Profile;
use serde::{Deserialize, Serialize};

pub use fault::ManifestFault;

/// What a subject is and how it is driven.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What is judged.
    #[serde(default)]
    pub subject: SubjectSection,
    /// How to run the daemon; without a command where the subject claims no profile but `client`.
    #[serde(default)]
    pub daemon: DaemonSection,
    /// Where operations live.
    #[serde(default)]
    pub binding: Binding,
    /// How to run the client, for the profile `client`.
    pub client: Option<ClientSection>,
    /// How to have a page opened, for the profile `browser`.
    pub browser: Option<BrowserSection>,
}

/// `[subject]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubjectSection {
    /// How reports call it; the program's file name if left out.
    pub name: String,
    /// The component: the name under which it keeps its state directory.
    pub component: Option<String>,
    /// A command that prints the version on its first line.
    pub version: Vec<String>,
    /// The claimed profiles; `core` if left out. After loading, those that they include are among them.
    pub profiles: BTreeSet<Profile>,
    /// Whether what it claims is seen from pages in browser engines too, although it does not claim `browser`.
    pub engines: bool,
}

impl Default for SubjectSection {
    fn default() -> Self {
        Self {
            name: String::new(),
            component: None,
            version: Vec::new(),
            profiles: BTreeSet::from([Profile::Core]),
            engines: false,
        }
    }
}

impl SubjectSection {
    /// Returns the environment variable that names this component's state directory.
    pub fn state_dir_variable(&self) -> Option<String> {
        let component = self.component.as_ref()?;
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        Some(component.chars().map(plain).chain("_STATE_DIR".chars()).collect())
    }
}

/// `[daemon]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonSection {
    /// Runs the daemon in the foreground; it publishes on start. After loading, the first word is an absolute path.
    pub run: Vec<String>,
    /// The same without naming a state directory.
    pub unnamed: Option<Vec<String>>,
    /// Variables in addition to the suite's own minimal set.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables that make the daemon log as much as it can.
    #[serde(default)]
    pub verbose: BTreeMap<String, String>,
    /// Milliseconds within which a started daemon answers a handshake.
    #[serde(default = "five_seconds")]
    ready_timeout_ms: u64,
    /// Milliseconds within which a displaced daemon has exited.
    #[serde(default = "three_seconds")]
    stand_down_timeout_ms: u64,
    /// The drain bound that the daemon was given, in milliseconds.
    #[serde(default = "ten_seconds")]
    drain_ms: u64,
    /// Whether the daemon knows the user at the other end of a connection.
    #[serde(default = "yes")]
    pub knows_peer_users: bool,
    /// How a case asks for another wire protocol.
    pub protocol_override: Option<ProtocolOverride>,
    /// How a case allowlists an origin.
    pub origins: Option<Origins>,
    /// How a case tells the daemon to yield to one that is there already.
    pub yields: Option<Yields>,
}

impl Default for DaemonSection {
    fn default() -> Self {
        Self {
            run: Vec::new(),
            unnamed: None,
            env: BTreeMap::new(),
            verbose: BTreeMap::new(),
            ready_timeout_ms: five_seconds(),
            stand_down_timeout_ms: three_seconds(),
            drain_ms: ten_seconds(),
            knows_peer_users: yes(),
            protocol_override: None,
            origins: None,
            yields: None,
        }
    }
}

const fn five_seconds() -> u64 {
    5_000
}

const fn three_seconds() -> u64 {
    3_000
}

const fn ten_seconds() -> u64 {
    10_000
}

const fn yes() -> bool {
    true
}

impl DaemonSection {
    /// How long a started daemon may take until it answers a handshake.
    pub fn ready_timeout(&self) -> Duration {
        Duration::from_millis(self.ready_timeout_ms)
    }

    /// How long a displaced daemon may take until it has exited.
    pub fn stand_down_timeout(&self) -> Duration {
        Duration::from_millis(self.stand_down_timeout_ms)
    }

    /// The drain bound that the daemon was given.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

/// `[daemon.protocol_override]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtocolOverride {
    /// The variable that holds the protocol identifier.
    pub env: String,
}

/// `[daemon.origins]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origins {
    /// Arguments appended to `run` for each origin, which stands for `{origin}`.
    pub args: Vec<String>,
    /// Puts `{origin}` on the list of a daemon that may be running.
    pub add: Option<Vec<String>>,
    /// Takes `{origin}` off it.
    pub remove: Option<Vec<String>>,
}

/// `[daemon.yields]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Yields {
    /// Arguments appended to `run`.
    pub args: Vec<String>,
}

/// `[binding]`: where abstract operations live on this subject. What is left out, the subject does not have.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Binding {
    /// Name of the registration record.
    pub registration: String,
    /// Name of the credential file.
    pub credential: String,
    /// Name of the advisory lock.
    pub lock: String,
    /// Name of the log of a daemon that a client starts.
    pub log: String,
    /// The authenticated probe.
    pub handshake: HandshakeBinding,
    /// The user whose password the credential is, of a daemon that takes HTTP's basic authentication and no bearer.
    pub basic_user: Option<String>,
    /// A request without effect that the credential opens.
    pub authenticated_read: Option<Operation>,
    /// A request with an effect.
    pub mutation: Option<Operation>,
    /// The request that ends the daemon gracefully.
    pub shutdown: Option<Operation>,
    /// An event stream.
    pub stream: Option<StreamBinding>,
    /// The request that makes frame `{n}` appear on the stream.
    pub emit: Option<EmitBinding>,
    /// The request that issues a ticket.
    pub ticket: Option<Operation>,
    /// Path of the page that the daemon serves.
    pub page: Option<String>,
}

impl Default for Binding {
    fn default() -> Self {
        Self {
            registration: "registration.json".to_owned(),
            credential: "credential".to_owned(),
            basic_user: None,
            lock: "registration.lock".to_owned(),
            log: "daemon.log".to_owned(),
            handshake: HandshakeBinding::default(),
            authenticated_read: None,
            mutation: None,
            shutdown: None,
            stream: None,
            emit: None,
            ticket: None,
            page: None,
        }
    }
}

/// `[binding].handshake`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandshakeBinding {
    /// The HTTP method.
    pub method: String,
    /// The path.
    pub path: String,
    /// JSON pointer of the protocol identifier in the answer.
    pub protocol: String,
    /// JSON pointer of the launch id in the answer.
    pub id: String,
}

impl Default for HandshakeBinding {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/.well-known/local-daemon".to_owned(),
            protocol: "/protocol".to_owned(),
            id: "/id".to_owned(),
        }
    }
}

/// One HTTP request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// The HTTP method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The body, sent as JSON.
    pub body: Option<String>,
}

/// `[binding].stream`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamBinding {
    /// The path.
    pub path: String,
    /// The query parameter that takes the token, if one does.
    pub query_token: Option<String>,
    /// The topics of the events in its log.
    #[serde(default = "topics")]
    pub topics: Vec<String>,
}

/// `[binding].emit`: an [`Operation`], and what comes of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmitBinding {
    /// The HTTP method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The body, sent as JSON; `{n}` is the number, and `{pad}` as many letters as a large event needs.
    pub body: Option<String>,
    /// The topic of the event that it makes.
    #[serde(default = "note")]
    pub topic: String,
    /// The status of its answer.
    #[serde(default = "created")]
    pub status: u16,
    /// JSON pointer of the event's id in its answer.
    #[serde(default = "id")]
    pub id: String,
    /// How many bytes its longest body has.
    #[serde(default = "longest_note")]
    pub largest_body: usize,
}

impl EmitBinding {
    /// The request alone, with its placeholders.
    pub fn operation(&self) -> Operation {
        Operation {
            method: self.method.clone(),
            path: self.path.clone(),
            body: self.body.clone(),
        }
    }
}

/// `[client]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSection {
    /// Connects and never spawns.
    pub connect: Vec<String>,
    /// Connects and spawns where there is no daemon.
    pub connect_or_spawn: Option<Vec<String>>,
    /// JSON pointer of the outcome.
    #[serde(default = "outcome")]
    pub outcome: String,
    /// JSON pointer of the daemon's launch id in the answer of a connect that ended in `ready`.
    #[serde(default = "id")]
    pub id: String,
    /// The wire protocol that the client speaks where nothing says otherwise.
    pub protocol: String,
    /// Variables in addition to the suite's own minimal set.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How a case puts a program of its own in the place of the daemon that the client starts.
    pub daemon: Option<Stand>,
    /// How a case sets the deadline of a connect.
    pub deadline: Option<Arguments>,
    /// How a case lets a connect displace an incompatible daemon.
    pub replace: Option<Arguments>,
    /// The same as `connect` without naming a state directory.
    pub unnamed: Option<Vec<String>>,
    /// Stops the daemon gracefully.
    pub stop: Option<Vec<String>>,
    /// Stops the daemon, by force if need be.
    pub force_stop: Option<Vec<String>>,
    /// Puts a new daemon in the place of the one that runs.
    pub restart: Option<Vec<String>>,
    /// Runs a throwaway daemon until standard input ends.
    pub private: Option<Vec<String>>,
    /// Replaces the credential.
    pub rotate: Option<Vec<String>>,
    /// Takes off what is in the way, a stale record for one.
    pub repair: Option<Vec<String>>,
    /// Keeps a daemon running: starts it again when it ends.
    pub supervise: Option<Vec<String>>,
}

/// `[client].daemon`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stand {
    /// The variable that names the program.
    pub env: String,
    /// What the client starts otherwise, without the arguments that it gives; `daemon.run`'s program if left out.
    #[serde(default)]
    pub command: Vec<String>,
}

/// Arguments appended to a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arguments {
    /// The arguments.
    pub args: Vec<String>,
}

/// `[browser]`: the commands by which a user opens a page. A case stands in for the browser by `$BROWSER`, and by an
/// `xdg-open` at the head of `PATH`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrowserSection {
    /// Opens the daemon's own page.
    pub open: Option<Vec<String>>,
    /// Prints the address of that page, with a ticket, instead.
    pub print_url: Option<Vec<String>>,
    /// Opens the page of `{origin}`.
    pub handoff: Option<Vec<String>>,
    /// How a case has the daemon's own page opened at `{host}`: appended to `open` and `print_url`.
    pub host: Option<Arguments>,
}

impl Binding {
    /// The operations that are given.
    pub fn operations(&self) -> impl Iterator<Item = Operation> {
        let operations = [
            self.authenticated_read.clone(),
            self.mutation.clone(),
            self.shutdown.clone(),
            self.emit.as_ref().map(EmitBinding::operation),
            self.ticket.clone(),
        ];
        operations.into_iter().flatten()
    }
}

impl Origins {
    /// The commands that are given, each with its key.
    fn commands(&mut self) -> impl Iterator<Item = (&'static str, &mut Vec<String>)> {
        let (add, remove) = (self.add.as_mut(), self.remove.as_mut());
        (add.map(|add| ("daemon.origins.add", add)).into_iter())
            .chain(remove.map(|remove| ("daemon.origins.remove", remove)))
    }
}

impl BrowserSection {
    /// The commands that are given, each with its key.
    fn commands(&mut self) -> impl Iterator<Item = (&'static str, &mut Vec<String>)> {
        let commands = [
            ("browser.open", &mut self.open),
            ("browser.print_url", &mut self.print_url),
            ("browser.handoff", &mut self.handoff),
        ];
        commands.into_iter().filter_map(|(key, command)| Some((key, command.as_mut()?)))
    }
}

impl ClientSection {
    /// The commands that are given, each with its key.
    fn commands(&mut self) -> impl Iterator<Item = (&'static str, &mut Vec<String>)> {
        [
            ("client.connect_or_spawn", self.connect_or_spawn.as_mut()),
            ("client.unnamed", self.unnamed.as_mut()),
            ("client.stop", self.stop.as_mut()),
            ("client.force_stop", self.force_stop.as_mut()),
            ("client.restart", self.restart.as_mut()),
            ("client.private", self.private.as_mut()),
            ("client.rotate", self.rotate.as_mut()),
            ("client.repair", self.repair.as_mut()),
            ("client.supervise", self.supervise.as_mut()),
        ]
        .into_iter()
        .filter_map(|(key, command)| Some((key, command?)))
        .chain([("client.connect", &mut self.connect)])
    }
}

fn outcome() -> String {
    "/outcome".to_owned()
}

fn id() -> String {
    "/id".to_owned()
}

/// The topics of the reference daemon.
fn topics() -> Vec<String> {
    ["lifecycle", "warning", "origins", "sessions", "proxies", "note"]
        .map(str::to_owned)
        .into()
}

fn note() -> String {
    "note".to_owned()
}

const fn created() -> u16 {
    201
}

const fn longest_note() -> usize {
    64 * 1024
}

/// A commented manifest with every key.
pub const TEMPLATE: &str = include_str!("template.toml");

impl Manifest {
    /// Whether the subject claims a profile.
    pub fn claims(&self, profile: Profile) -> bool {
        self.subject.profiles.contains(&profile)
    }

    /// The same subject with more arguments at the end of each of its commands.
    #[must_use]
    pub fn with_args(&self, args: &[&str]) -> Self {
        let mut manifest = self.clone();
        let daemon = Some(&mut manifest.daemon.run).filter(|run| !run.is_empty());
        let daemon = daemon.into_iter().chain(&mut manifest.daemon.unnamed);
        let client = manifest.client.iter_mut().flat_map(ClientSection::commands);
        let origins = manifest.daemon.origins.iter_mut().flat_map(Origins::commands);
        let browser = manifest.browser.iter_mut().flat_map(BrowserSection::commands);
        for command in daemon.chain(client.chain(browser).chain(origins).map(|(_, command)| command)) {
            command.extend(args.iter().map(|&arg| arg.to_owned()));
        }
        manifest
    }

    /// The program that is judged: the daemon's, or the client's of a subject without a daemon.
    pub fn program(&self) -> Option<&Path> {
        let client = self.client.as_ref().map(|client| &client.connect);
        let commands = std::iter::once(&self.daemon.run).chain(client);
        commands.filter_map(|command| command.first()).map(Path::new).next()
    }
}

/// Every `{word}` in a text, with its place. `${word}` is a shell's own business, and JSON never has a bare word in
/// braces.
fn placeholders(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    text.match_indices('{').filter_map(move |(start, _)| {
        let rest = &text[start + 1..];
        let name = &rest[..rest.find('}')?];
        let word = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        (word && !text[..start].ends_with('$')).then(|| (start..start + name.len() + 2, name))
    })
}

/// `text` with each placeholder replaced by its value. Values are not looked at again.
pub fn fill(text: &str, values: &[(&str, impl AsRef<str>)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut done = 0;
    for (place, name) in placeholders(text) {
        if let Some((_, value)) = values.iter().find(|(known, _)| *known == name) {
            filled.push_str(&text[done..place.start]);
            filled.push_str(value.as_ref());
            done = place.end;
        }
    }
    filled + &text[done..]
}
