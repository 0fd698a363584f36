//! The subject manifest: one TOML file that says how to run a subject and where its operations live.
//!
//! Its JSON Schema is `spec/schemas/manifest.schema.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use local_daemon_spec::Profile;
use miette::{Diagnostic, NamedSource, SourceSpan};
use serde::Deserialize;

use crate::nearest::nearest;

/// Why there is no manifest to work with. Always exit status 3.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ManifestFault {
    /// The file cannot be read.
    #[error("cannot read the manifest {}: {source}", .path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a manifest: syntax, an unknown key, a wrong type, a value out of range.
    #[error("{path}: {message}")]
    Invalid {
        /// As given.
        path: String,
        /// What is wrong, with the key.
        message: String,
        /// The text.
        #[source_code]
        text: Arc<NamedSource<String>>,
        /// Where in it.
        #[label("here")]
        at: Option<SourceSpan>,
        /// What was probably meant.
        #[help]
        help: Option<String>,
    },
    /// There is no such program.
    #[error("`{key}`: no program `{program}` {looked}")]
    NoProgram {
        /// The key of the command.
        key: String,
        /// The command's first word.
        program: String,
        /// Where it was looked for.
        looked: String,
        /// How the lookup goes.
        #[help]
        help: String,
    },
    /// The command is empty.
    #[error("`{0}` is empty")]
    NoCommand(String),
    /// A placeholder that is not known here.
    #[error("`{key}`: unknown placeholder {{{name}}}")]
    Placeholder {
        /// The key whose value holds it.
        key: String,
        /// The word between the braces.
        name: String,
        /// The known ones.
        #[help]
        help: String,
    },
}

/// What a subject is and how it is driven.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What is judged.
    #[serde(default)]
    pub subject: SubjectSection,
    /// How to run the daemon.
    pub daemon: DaemonSection,
    /// Where operations live.
    #[serde(default)]
    pub binding: Binding,
    /// How to run the client, for the profile `client`.
    pub client: Option<ClientSection>,
}

/// `[subject]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubjectSection {
    /// How reports call it; the program's file name if left out.
    pub name: String,
    /// A command that prints the version on its first line.
    pub version: Vec<String>,
    /// The claimed profiles; `core` if left out.
    pub profiles: BTreeSet<Profile>,
}

impl Default for SubjectSection {
    fn default() -> Self {
        Self {
            name: String::new(),
            version: Vec::new(),
            profiles: BTreeSet::from([Profile::Core]),
        }
    }
}

/// `[daemon]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonSection {
    /// Runs the daemon in the foreground; it publishes on start. After loading, the first word is an absolute path.
    pub run: Vec<String>,
    /// Variables in addition to the suite's own minimal set.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Milliseconds within which a started daemon answers a handshake.
    #[serde(default = "five_seconds")]
    ready_timeout_ms: u64,
    /// Milliseconds within which a displaced daemon has exited.
    #[serde(default = "three_seconds")]
    stand_down_timeout_ms: u64,
    /// How a case asks for another wire protocol.
    pub protocol_override: Option<ProtocolOverride>,
    /// How a case allowlists an origin.
    pub origins: Option<Origins>,
    /// How a case tells the daemon to yield to one that is there already.
    pub yields: Option<Yields>,
}

const fn five_seconds() -> u64 {
    5_000
}

const fn three_seconds() -> u64 {
    3_000
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
}

/// `[daemon.protocol_override]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtocolOverride {
    /// The variable that holds the protocol identifier.
    pub env: String,
}

/// `[daemon.origins]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origins {
    /// Arguments appended for each origin, which stands for `{origin}`.
    pub args: Vec<String>,
}

/// `[daemon.yields]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Yields {
    /// Arguments appended to `run`.
    pub args: Vec<String>,
}

/// `[binding]`: where abstract operations live on this subject. What is left out, the subject does not have.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Binding {
    /// Name of the registration record.
    pub registration: String,
    /// Name of the credential file.
    pub credential: String,
    /// Name of the advisory lock.
    pub lock: String,
    /// The authenticated probe.
    pub handshake: HandshakeBinding,
    /// A request without effect that the credential opens.
    pub authenticated_read: Option<Operation>,
    /// A request with an effect.
    pub mutation: Option<Operation>,
    /// The request that ends the daemon gracefully.
    pub shutdown: Option<Operation>,
    /// An event stream.
    pub stream: Option<StreamBinding>,
    /// The request that makes frame `{n}` appear on the stream.
    pub emit: Option<Operation>,
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
            lock: "registration.lock".to_owned(),
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
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamBinding {
    /// The path.
    pub path: String,
    /// The query parameter that takes the token, if one does.
    pub query_token: Option<String>,
}

/// `[client]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSection {
    /// Connects and never spawns.
    pub connect: Vec<String>,
    /// Connects and spawns where there is no daemon.
    pub connect_or_spawn: Option<Vec<String>>,
    /// JSON pointer of the outcome.
    #[serde(default = "outcome")]
    pub outcome: String,
}

fn outcome() -> String {
    "/outcome".to_owned()
}

/// A commented manifest with every key.
pub const TEMPLATE: &str = include_str!("template.toml");

/// What may stand in braces in every command, environment value and body.
const PLACEHOLDERS: [&str; 4] = ["state_dir", "home", "port", "case"];

impl Manifest {
    /// Reads a manifest, checks every value and finds every program.
    pub fn load(path: &Path) -> Result<Self, ManifestFault> {
        let text = std::fs::read_to_string(path).map_err(|source| ManifestFault::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())?.ready()
    }

    /// The manifest of a command alone: the default binding and these profiles.
    pub fn of_command(run: Vec<String>, profiles: BTreeSet<Profile>) -> Result<Self, ManifestFault> {
        Self {
            subject: SubjectSection {
                profiles,
                ..SubjectSection::default()
            },
            daemon: DaemonSection {
                run,
                env: BTreeMap::new(),
                ready_timeout_ms: five_seconds(),
                stand_down_timeout_ms: three_seconds(),
                protocol_override: None,
                origins: None,
                yields: None,
            },
            binding: Binding::default(),
            client: None,
        }
        .ready()
    }

    /// Whether the subject claims a profile.
    pub fn claims(&self, profile: Profile) -> bool {
        self.subject.profiles.contains(&profile)
    }

    /// The program that runs the daemon.
    pub fn program(&self) -> &Path {
        Path::new(&self.daemon.run[0])
    }

    fn parse(text: &str, path: &str) -> Result<Self, ManifestFault> {
        let invalid = |message: String, at: Option<Range<usize>>, help| ManifestFault::Invalid {
            path: path.to_owned(),
            message,
            text: Arc::new(NamedSource::new(path, text.to_owned())),
            // A fault at the very end has no character of its own.
            at: at.map(|at| (at.start.min(text.len().saturating_sub(1))..at.end.min(text.len())).into()),
            help,
        };
        let manifest: Self = toml::from_str(text).map_err(|error| {
            let message = error.message().trim_end().to_owned();
            let help = unknown_key(&message).map(|(key, known)| match nearest(key, known.clone(), 1)[..] {
                [meant] => format!("did you mean `{meant}`?"),
                _ => format!("known here: {}", known.join(", ")),
            });
            let message = match unknown_key(&message) {
                Some((key, _)) => format!("unknown key `{}`", qualified(text, key, error.span())),
                None => message,
            };
            invalid(message, error.span(), help)
        })?;
        match manifest.bad_value() {
            Some((key, rule)) => {
                let last = key.rsplit('.').next().unwrap_or(key);
                let at = text.find(last).map(|start| start..start + last.len());
                Err(invalid(format!("`{key}` {rule}"), at, None))
            }
            None => Ok(manifest),
        }
    }

    /// The first value that its type alone does not refuse but the schema does.
    fn bad_value(&self) -> Option<(&'static str, &'static str)> {
        const MS: &str = "must be from 1 to 600000 milliseconds";
        const FILE: &str = "must be a file name without a directory";
        const PATH: &str = "must begin with `/`";
        const POINTER: &str = "must be a JSON pointer, such as `/id`";
        const METHOD: &str = "must be an HTTP method in capitals";
        const OPERATION: &str = "must have a method in capitals and a path that begins with `/`";
        let timeout = |ms: u64| !(1..=600_000).contains(&ms);
        let binding = &self.binding;
        let file = |name: &str| name.is_empty() || name.contains('/') || matches!(name, "." | "..");
        let bad_path = |path: &str| !path.starts_with('/');
        let pointer = |pointer: &str| !pointer.is_empty() && !pointer.starts_with('/');
        let method =
            |method: &str| method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase());
        let operation = |operation: &Option<Operation>| {
            operation
                .as_ref()
                .is_some_and(|operation| method(&operation.method) || bad_path(&operation.path))
        };
        let rules = [
            (
                self.subject.profiles.is_empty(),
                "subject.profiles",
                "must name at least one profile",
            ),
            (
                timeout(self.daemon.ready_timeout_ms),
                "daemon.ready_timeout_ms",
                MS,
            ),
            (
                timeout(self.daemon.stand_down_timeout_ms),
                "daemon.stand_down_timeout_ms",
                MS,
            ),
            (file(&binding.registration), "binding.registration", FILE),
            (file(&binding.credential), "binding.credential", FILE),
            (file(&binding.lock), "binding.lock", FILE),
            (bad_path(&binding.handshake.path), "binding.handshake.path", PATH),
            (
                method(&binding.handshake.method),
                "binding.handshake.method",
                METHOD,
            ),
            (pointer(&binding.handshake.id), "binding.handshake.id", POINTER),
            (
                pointer(&binding.handshake.protocol),
                "binding.handshake.protocol",
                POINTER,
            ),
            (
                operation(&binding.authenticated_read),
                "binding.authenticated_read",
                OPERATION,
            ),
            (operation(&binding.mutation), "binding.mutation", OPERATION),
            (operation(&binding.shutdown), "binding.shutdown", OPERATION),
            (operation(&binding.emit), "binding.emit", OPERATION),
            (operation(&binding.ticket), "binding.ticket", OPERATION),
            (
                binding
                    .stream
                    .as_ref()
                    .is_some_and(|stream| bad_path(&stream.path)),
                "binding.stream.path",
                PATH,
            ),
            (
                binding.page.as_deref().is_some_and(bad_path),
                "binding.page",
                PATH,
            ),
            (
                self.client
                    .as_ref()
                    .is_some_and(|client| pointer(&client.outcome)),
                "client.outcome",
                POINTER,
            ),
        ];
        rules
            .into_iter()
            .find(|(bad, ..)| *bad)
            .map(|(_, key, rule)| (key, rule))
    }

    /// Checks placeholders and finds the programs.
    fn ready(mut self) -> Result<Self, ManifestFault> {
        self.check_placeholders()?;
        if self.subject.name.is_empty() {
            let program = self.daemon.run.first().map(Path::new).and_then(Path::file_name);
            self.subject.name = program.unwrap_or_default().to_string_lossy().into_owned();
        }
        resolve("daemon.run", &mut self.daemon.run)?;
        if !self.subject.version.is_empty() {
            resolve("subject.version", &mut self.subject.version)?;
        }
        if let Some(client) = &mut self.client {
            resolve("client.connect", &mut client.connect)?;
            if let Some(command) = &mut client.connect_or_spawn {
                resolve("client.connect_or_spawn", command)?;
            }
        }
        Ok(self)
    }

    fn check_placeholders(&self) -> Result<(), ManifestFault> {
        let check = |key: &str, text: &str, more: &[&str]| {
            let known: Vec<&str> = PLACEHOLDERS.iter().chain(more).copied().collect();
            match placeholders(text).find(|(_, name)| !known.contains(name)) {
                None => Ok(()),
                Some((_, name)) => Err(ManifestFault::Placeholder {
                    key: key.to_owned(),
                    name: name.to_owned(),
                    help: format!(
                        "known here: {}",
                        known
                            .iter()
                            .map(|name| format!("{{{name}}}"))
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                }),
            }
        };
        let all = |key: &str, texts: &[String], more: &[&str]| {
            texts.iter().try_for_each(|text| check(key, text, more))
        };
        all("daemon.run", &self.daemon.run, &[])?;
        for (name, value) in &self.daemon.env {
            check(&format!("daemon.env.{name}"), value, &[])?;
        }
        if let Some(origins) = &self.daemon.origins {
            all("daemon.origins.args", &origins.args, &["origin"])?;
        }
        if let Some(yields) = &self.daemon.yields {
            all("daemon.yields.args", &yields.args, &[])?;
        }
        if let Some(client) = &self.client {
            all("client.connect", &client.connect, &[])?;
            all(
                "client.connect_or_spawn",
                client.connect_or_spawn.as_deref().unwrap_or_default(),
                &[],
            )?;
        }
        let binding = &self.binding;
        let operations = [
            ("binding.authenticated_read", &binding.authenticated_read, &[][..]),
            ("binding.mutation", &binding.mutation, &[]),
            ("binding.shutdown", &binding.shutdown, &[]),
            ("binding.emit", &binding.emit, &["n"]),
            ("binding.ticket", &binding.ticket, &[]),
        ];
        for (key, operation, more) in operations {
            if let Some(operation) = operation {
                check(key, &operation.path, more)?;
                check(key, operation.body.as_deref().unwrap_or_default(), more)?;
            }
        }
        Ok(())
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
pub fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut done = 0;
    for (place, name) in placeholders(text) {
        if let Some((_, value)) = values.iter().find(|(known, _)| *known == name) {
            filled.push_str(&text[done..place.start]);
            filled.push_str(value);
            done = place.end;
        }
    }
    filled + &text[done..]
}

/// Replaces a command's first word by the absolute path of the program.
fn resolve(key: &str, command: &mut [String]) -> Result<(), ManifestFault> {
    let program = command.first_mut().filter(|program| !program.is_empty());
    let program = program.ok_or_else(|| ManifestFault::NoCommand(key.to_owned()))?;
    let found = find(program).ok_or_else(|| ManifestFault::NoProgram {
        key: key.to_owned(),
        program: program.clone(),
        looked: if program.contains('/') {
            "that may be run at this path".to_owned()
        } else {
            "that may be run beside daemonspec or in PATH".to_owned()
        },
        help: "a name with a slash is relative to the current directory; a bare name is looked up beside the daemonspec \
               executable, then in PATH"
            .to_owned(),
    })?;
    *program = found.to_string_lossy().into_owned();
    Ok(())
}

fn find(program: &str) -> Option<PathBuf> {
    let runnable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return std::path::absolute(program).ok().filter(runnable);
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(runnable)
}

/// The unknown key and the known ones, out of serde's message about it.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    Some((quoted.next()?, quoted.collect()))
}

/// A key with the table it stands in.
fn qualified(text: &str, key: &str, at: Option<Range<usize>>) -> String {
    let before = at.and_then(|at| text.get(..at.start)).unwrap_or_default();
    let table = before.lines().rev().find_map(|line| {
        let line = line.trim();
        line.strip_prefix('[')?
            .split(']')
            .next()
            .filter(|table| !table.contains(['"', ',']))
    });
    match table {
        Some(table) if !text.contains(&format!("[{key}]")) => format!("{table}.{key}"),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, ManifestFault> {
        Manifest::parse(text, "subject.toml").and_then(Manifest::ready)
    }

    #[test]
    fn run_alone_is_enough() {
        let manifest = parse("[daemon]\nrun = ['true']").unwrap();
        assert_eq!(manifest.subject.name, "true");
        assert!(manifest.claims(Profile::Core) && !manifest.claims(Profile::Proof));
        assert_eq!(manifest.binding.registration, "registration.json");
        assert_eq!(manifest.binding.handshake.path, "/.well-known/local-daemon");
        assert_eq!(manifest.daemon.ready_timeout(), Duration::from_secs(5));
        assert!(manifest.program().is_absolute());
    }

    #[test]
    fn a_fault_names_its_key_and_what_was_probably_meant() {
        use miette::Diagnostic as _;
        let texts = [
            (
                "[daemon]\nrun = ['true']\nready_timeout = 5",
                "daemon.ready_timeout",
                "ready_timeout_ms",
            ),
            (
                "[daemon]\nrun = ['true']\n[bindings]\npage = '/'",
                "bindings",
                "binding",
            ),
            ("[daemon]\nrun = ['true', '{state}']", "{state}", "{state_dir}"),
            (
                "[daemon]\nrun = ['no-such-program-here']",
                "no-such-program-here",
                "PATH",
            ),
            (
                "[subject]\nprofiles = ['cor']\n[daemon]\nrun = ['true']",
                "cor",
                "core",
            ),
        ];
        for (text, key, meant) in texts {
            let fault = parse(text).unwrap_err();
            assert!(fault.to_string().contains(key), "{fault}");
            let help = fault.help().map(|help| help.to_string()).unwrap_or_default();
            assert!(help.contains(meant), "{fault}: {help}");
        }
        for text in [
            "",
            "[daemon]",
            "[daemon]\nrun = []",
            "[daemon]\nrun = 'true'",
            "[daemon]\nrun = ['true']\nready_timeout_ms = 0",
            "[daemon]\nrun = ['true']\n[binding]\ncredential = '../x'",
            "[daemon]\nrun = ['true']\n[binding]\nshutdown = { method = 'post', path = '/x' }",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn placeholders_are_words_in_braces_and_nothing_else() {
        let values = [("n", "7"), ("state_dir", "/a {n}")];
        let filled = fill(r#"{"data":{"n":{n}},"e":{}} ${n} {state_dir}"#, &values);
        assert_eq!(filled, r#"{"data":{"n":7},"e":{}} ${n} /a {n}"#);
    }

    #[test]
    fn the_keys_and_defaults_are_those_of_the_schema() {
        let schema = local_daemon_spec::schemas::get("manifest").unwrap();
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        let keys = |section: &str| -> BTreeSet<String> {
            let properties = &schema["properties"][section]["properties"];
            properties.as_object().unwrap().keys().cloned().collect()
        };
        for section in ["subject", "daemon", "binding", "client"] {
            let text = format!(
                "[daemon]\nrun = ['true']\n{}\nnot_a_key = 1",
                match section {
                    "daemon" => String::new(),
                    other => format!("[{other}]"),
                }
            );
            let error = toml::from_str::<Manifest>(&text).unwrap_err();
            let (_, known) = unknown_key(error.message()).unwrap_or_else(|| panic!("{section}: {error}"));
            assert_eq!(
                known.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(),
                keys(section),
                "{section}"
            );
        }
        let default =
            |section: &str, key: &str| schema["properties"][section]["properties"][key]["default"].clone();
        let manifest = parse("[daemon]\nrun = ['true']").unwrap();
        assert_eq!(
            default("daemon", "ready_timeout_ms"),
            manifest.daemon.ready_timeout_ms
        );
        assert_eq!(
            default("daemon", "stand_down_timeout_ms"),
            manifest.daemon.stand_down_timeout_ms
        );
        assert_eq!(default("binding", "registration"), manifest.binding.registration);
        assert_eq!(default("binding", "credential"), manifest.binding.credential);
        assert_eq!(default("binding", "lock"), manifest.binding.lock);
        assert_eq!(
            default("binding", "handshake")["path"],
            manifest.binding.handshake.path
        );
    }

    #[test]
    fn the_template_is_a_manifest_with_and_without_its_optional_keys() {
        let schema: serde_json::Value =
            serde_json::from_str(local_daemon_spec::schemas::get("manifest").unwrap()).unwrap();
        let whole: String = TEMPLATE
            .lines()
            .map(|line| {
                line.strip_prefix('#')
                    .filter(|key| !key.is_empty() && !key.starts_with(' '))
                    .unwrap_or(line)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        for text in [TEMPLATE, &whole] {
            Manifest::parse(text, "template")
                .unwrap()
                .check_placeholders()
                .unwrap();
            let value: serde_json::Value = toml::from_str(text).unwrap();
            assert!(jsonschema::is_valid(&schema, &value));
        }
        let manifest = Manifest::parse(&whole, "template").unwrap();
        assert!(
            manifest.client.is_some() && manifest.binding.page.is_some() && manifest.daemon.origins.is_some()
        );
    }
}
