//! Reads the text of a manifest and checks every value.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use local_daemon_harness::http::is_protocol;
use local_daemon_spec::Profile;
use miette::NamedSource;

use super::{Binding, DaemonSection, Manifest, ManifestFault, Operation, SubjectSection};
use crate::nearest::nearest;

impl Manifest {
    /// Reads a manifest, checks every value and finds every program.
    pub fn load(path: &Path) -> Result<Self, ManifestFault> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ManifestFault::Unreadable { path: path.to_owned(), source })?;
        let dir = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self::parse(&text, &path.display().to_string())?.ready(dir.parent().unwrap_or(Path::new("/")))
    }

    /// The manifest of the independent subject, which is part of this program; its own program is looked up as any other.
    pub fn independent() -> Result<Self, ManifestFault> {
        let text = include_str!("../../subjects/independent.toml");
        Self::parse(text, "independent.toml")?.ready(&std::env::current_dir().unwrap_or_default())
    }

    /// The manifest of a command alone: the default binding and these profiles. In the place of the manifest's directory
    /// stands the current one.
    pub fn of_command(run: Vec<String>, profiles: BTreeSet<Profile>) -> Result<Self, ManifestFault> {
        Self {
            subject: SubjectSection { profiles, ..SubjectSection::default() },
            daemon: DaemonSection { run, ..DaemonSection::default() },
            binding: Binding::default(),
            client: None,
            browser: None,
        }
        .ready(&std::env::current_dir().unwrap_or_default())
    }

    /// Reads the text of a manifest and checks every value; `path` is how faults call it. Programs are not looked for.
    pub(crate) fn parse(text: &str, path: &str) -> Result<Self, ManifestFault> {
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
            let help = help.or_else(|| {
                let is_table = message.contains("map, expected a sequence");
                is_table.then(|| {
                    "a command is a list of words; `subject.component` names the component".to_owned()
                })
            });
            let message = match unknown_key(&message) {
                // The profiles are the only values of a closed list.
                Some((word, _)) if message.starts_with("unknown variant") => {
                    format!("unknown profile `{word}`")
                }
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
        let (stream, emit) = (binding.stream.as_ref(), binding.emit.as_ref());
        let topics = stream.map_or(&[][..], |stream| &stream.topics);
        let component = self.subject.component.as_deref();
        let unnamed = self.daemon.unnamed.is_some()
            || self.client.as_ref().is_some_and(|client| client.unnamed.is_some());
        let rules = [
            (
                component.is_some_and(|name| !is_component(name)),
                "subject.component",
                "must match [a-z][a-z0-9-]* and have at most 64 characters",
            ),
            (
                component.is_none() && unnamed,
                "subject.component",
                "is missing: a command of `unnamed` keeps its state under the name of the component",
            ),
            (self.subject.profiles.is_empty(), "subject.profiles", "must name at least one profile"),
            (timeout(self.daemon.ready_timeout_ms), "daemon.ready_timeout_ms", MS),
            (timeout(self.daemon.stand_down_timeout_ms), "daemon.stand_down_timeout_ms", MS),
            (timeout(self.daemon.drain_ms), "daemon.drain_ms", MS),
            (file(&binding.registration), "binding.registration", FILE),
            (file(&binding.credential), "binding.credential", FILE),
            (file(&binding.lock), "binding.lock", FILE),
            (file(&binding.log), "binding.log", FILE),
            (bad_path(&binding.handshake.path), "binding.handshake.path", PATH),
            (method(&binding.handshake.method), "binding.handshake.method", METHOD),
            (pointer(&binding.handshake.id), "binding.handshake.id", POINTER),
            (pointer(&binding.handshake.protocol), "binding.handshake.protocol", POINTER),
            (operation(&binding.authenticated_read), "binding.authenticated_read", OPERATION),
            (operation(&binding.mutation), "binding.mutation", OPERATION),
            (operation(&binding.shutdown), "binding.shutdown", OPERATION),
            (
                emit.is_some_and(|emit| method(&emit.method) || bad_path(&emit.path)),
                "binding.emit",
                OPERATION,
            ),
            (
                emit.is_some_and(|emit| !(200..=299).contains(&emit.status)),
                "binding.emit.status",
                "must be the status of a success, from 200 to 299",
            ),
            (emit.is_some_and(|emit| pointer(&emit.id)), "binding.emit.id", POINTER),
            (
                emit.is_some_and(|emit| !(1_024..=1_048_576).contains(&emit.largest_body)),
                "binding.emit.largest_body",
                "must be from 1024 to 1048576 bytes",
            ),
            (operation(&binding.ticket), "binding.ticket", OPERATION),
            (stream.is_some_and(|stream| bad_path(&stream.path)), "binding.stream.path", PATH),
            (
                stream.is_some() && (topics.is_empty() || !topics.iter().all(|topic| is_topic(topic))),
                "binding.stream.topics",
                "must name at least one topic, each of letters, digits, `.`, `_` and `-`, and not `gap`, `superseded` or \
                 `shutdown`",
            ),
            (
                stream.is_some() && emit.is_some_and(|emit| !topics.contains(&emit.topic)),
                "binding.emit.topic",
                "must be one of `binding.stream.topics`; left out, it is `note`",
            ),
            (binding.page.as_deref().is_some_and(bad_path), "binding.page", PATH),
            (self.client.as_ref().is_some_and(|client| pointer(&client.outcome)), "client.outcome", POINTER),
            (self.client.as_ref().is_some_and(|client| pointer(&client.id)), "client.id", POINTER),
            (
                self.client.as_ref().is_some_and(|client| !is_protocol(&client.protocol)),
                "client.protocol",
                "must be a protocol identifier, such as `acme/1`",
            ),
        ];
        rules.into_iter().find(|(bad, ..)| *bad).map(|(_, key, rule)| (key, rule))
    }
}

/// Whether this may be the name of a component.
fn is_component(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(plain)
}

/// Whether this may be the topic of an event in a log, and stand in a list of topics in a query.
fn is_topic(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.bytes().all(plain) && !matches!(name, "gap" | "superseded" | "shutdown")
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
        line.strip_prefix('[')?.split(']').next().filter(|table| !table.contains(['"', ',']))
    });
    match table {
        Some(table) if !text.contains(&format!("[{key}]")) => format!("{table}.{key}"),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use miette::Diagnostic as _;
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::{TEMPLATE, fill};

    fn parse(text: &str) -> Result<Manifest, ManifestFault> {
        Manifest::parse(text, "subject.toml")?.ready(Path::new("/"))
    }

    #[test]
    fn run_alone_is_enough() {
        let manifest = parse("[daemon]\nrun = ['true']").unwrap();
        assert_eq!(manifest.subject.name, "true");
        assert!(manifest.claims(Profile::Core) && !manifest.claims(Profile::Proof));
        assert_eq!(manifest.binding.registration, "registration.json");
        assert_eq!(manifest.binding.handshake.path, "/.well-known/local-daemon");
        assert_eq!(manifest.daemon.ready_timeout(), Duration::from_secs(5));
        assert!(manifest.program().unwrap().is_absolute());
    }

    #[test]
    fn a_script_beside_the_manifest_is_found_by_its_directory() {
        let text = "[daemon]\nrun = ['sh', '{manifest_dir}/daemon.sh', '{state_dir}']\n\
                    env = { LIB = '{manifest_dir}' }";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subject.toml");
        std::fs::write(&path, text).unwrap();
        let manifest = Manifest::load(&path).unwrap();
        let script = folder.path().join("daemon.sh");
        assert_eq!(manifest.daemon.run[1..], [script.to_str().unwrap(), "{state_dir}"]);
        assert_eq!(manifest.daemon.env["LIB"], folder.path().to_str().unwrap());
    }

    #[test]
    fn a_client_needs_no_daemon_and_every_other_profile_does() {
        let client = "[client]\nconnect = ['true']\nprotocol = 'acme/1'\n[subject]\nprofiles = ['client']";
        let manifest = parse(client).unwrap();
        assert_eq!(manifest.subject.name, "true");
        assert!(manifest.daemon.run.is_empty());
        for text in ["", client] {
            let fault = parse(&text.replace("['client']", "['client', 'proof']")).unwrap_err();
            assert!(fault.to_string().contains("`daemon.run` is missing"), "{fault}");
        }
    }

    #[test]
    fn a_fault_names_its_key_and_what_was_probably_meant() {
        use miette::Diagnostic as _;
        let texts = [
            ("[daemon]\nrun = ['true']\nready_timeout = 5", "daemon.ready_timeout", "ready_timeout_ms"),
            ("[daemon]\nrun = ['true']\n[bindings]\npage = '/'", "bindings", "binding"),
            ("[daemon]\nrun = ['true', '{state}']", "{state}", "{state_dir}"),
            ("[daemon]\nrun = ['no-such-program-here']", "no-such-program-here", "PATH"),
            (
                "[daemon]\nrun = ['true']\nunnamed = { run = ['true'], component = 'x' }",
                "map",
                "subject.component",
            ),
            ("[subject]\nprofiles = ['cor']\n[daemon]\nrun = ['true']", "profile `cor`", "core"),
            (
                "[daemon]\nrun = ['true']\n[binding]\nstream = { path = '/', topic = ['jobs'] }",
                "binding.topic",
                "topics",
            ),
        ];
        for (text, key, meant) in texts {
            let fault = parse(text).unwrap_err();
            assert!(fault.to_string().contains(key), "{fault}");
            let help = fault.help().map(|help| help.to_string()).unwrap_or_default();
            assert!(help.contains(meant), "{fault}: {help}");
        }
        for (stream, emit, key, rule) in [
            ("topics = ['jobs']", "", "binding.emit.topic", "one of `binding.stream.topics`"),
            ("topics = []", "topic = 'note'", "binding.stream.topics", "at least one"),
            ("topics = ['a,b']", "topic = 'a,b'", "binding.stream.topics", "letters"),
            ("topics = ['gap']", "topic = 'gap'", "binding.stream.topics", "`gap`"),
            ("", "status = 404", "binding.emit.status", "200 to 299"),
            ("", "id = 'id'", "binding.emit.id", "JSON pointer"),
            ("", "largest_body = 0", "binding.emit.largest_body", "bytes"),
        ] {
            let with = |more: &str| if more.is_empty() { String::new() } else { format!(", {more}") };
            let text = format!(
                "[daemon]\nrun = ['true']\n[binding]\nstream = {{ path = '/'{} }}\n\
                 emit = {{ method = 'POST', path = '/'{} }}",
                with(stream),
                with(emit)
            );
            let fault = parse(&text).unwrap_err().to_string();
            assert!(fault.contains(key) && fault.contains(rule), "{fault}");
        }
        for text in [
            "",
            "[daemon]",
            "[daemon]\nrun = []",
            "[daemon]\nrun = 'true'",
            "[daemon]\nrun = ['true']\nready_timeout_ms = 0",
            "[daemon]\nrun = ['true']\ndrain_ms = 0",
            "[daemon]\nrun = ['true']\nunnamed = ['true']",
            "[subject]\ncomponent = '../x'\n[daemon]\nrun = ['true']",
            "[subject]\ncomponent = 'Acme'\n[daemon]\nrun = ['true']",
            "[daemon]\nrun = ['true']\n[binding]\ncredential = '../x'",
            "[daemon]\nrun = ['true']\n[binding]\nshutdown = { method = 'post', path = '/x' }",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_variable_is_the_component_in_capitals() {
        let variable = |component: &str| {
            let text = format!("[subject]\ncomponent = '{component}'\n[daemon]\nrun = ['true']");
            parse(&text).unwrap().subject.state_dir_variable()
        };
        assert_eq!(variable("acme").unwrap(), "ACME_STATE_DIR");
        assert_eq!(variable("acme-tools2").unwrap(), "ACME_TOOLS2_STATE_DIR");
        assert!(parse("[daemon]\nrun = ['true']").unwrap().subject.state_dir_variable().is_none());
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
        for section in ["subject", "daemon", "binding", "client", "browser"] {
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
        assert_eq!(default("daemon", "ready_timeout_ms"), manifest.daemon.ready_timeout_ms);
        assert_eq!(default("daemon", "stand_down_timeout_ms"), manifest.daemon.stand_down_timeout_ms);
        assert_eq!(default("daemon", "drain_ms"), manifest.daemon.drain_ms);
        let bindings = parse(
            "[daemon]\nrun = ['true']\n[binding]\nstream = { path = '/s' }\nemit = { method = 'POST', path = '/e' }",
        );
        let bindings = serde_json::to_value(bindings.unwrap().binding).unwrap();
        for (key, defaults) in [
            ("stream", &["topics"][..]),
            ("emit", &["topic", "status", "id", "largest_body"]),
        ] {
            let properties =
                schema["properties"]["binding"]["properties"][key]["properties"].as_object().unwrap();
            let known: BTreeSet<&String> = bindings[key].as_object().unwrap().keys().collect();
            assert_eq!(known, properties.keys().collect(), "{key}");
            for default in defaults {
                assert_eq!(bindings[key][default], properties[*default]["default"], "{key}.{default}");
            }
        }
        assert_eq!(default("binding", "registration"), manifest.binding.registration);
        assert_eq!(default("binding", "credential"), manifest.binding.credential);
        assert_eq!(default("binding", "lock"), manifest.binding.lock);
        assert_eq!(default("binding", "log"), manifest.binding.log);
        assert_eq!(default("binding", "handshake")["path"], manifest.binding.handshake.path);
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
            Manifest::parse(text, "template").unwrap().place(Path::new("/")).unwrap();
            let value: serde_json::Value = toml::from_str(text).unwrap();
            assert!(jsonschema::is_valid(&schema, &value));
        }
        let manifest = Manifest::parse(&whole, "template").unwrap();
        assert!(manifest.client.is_some() && manifest.browser.is_some() && manifest.daemon.origins.is_some());
    }

    /// The template with some of its lines taken out or put elsewhere, and some characters changed.
    fn damaged() -> impl Strategy<Value = String> {
        let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..4);
        let lines =
            proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4);
        // Every key is there, and most are commented out.
        let bare = TEMPLATE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line));
        let bare = bare.collect::<Vec<_>>().join("\n");
        (prop::sample::select(vec![TEMPLATE.to_owned(), bare]), lines, edits).prop_map(
            |(text, lines, edits)| {
                let mut all: Vec<&str> = text.lines().collect();
                for (from, to) in lines {
                    let line = all.remove(from.index(all.len()));
                    if let Some(place) = to.index(all.len() * 2 + 1).checked_sub(all.len()) {
                        all.insert(place, line);
                    }
                }
                let mut chars: Vec<char> = all.join("\n").chars().collect();
                for (index, to) in edits {
                    let at = index.index(chars.len());
                    chars[at] = to;
                }
                chars.into_iter().collect()
            },
        )
    }

    prop_compose! {
        fn commands()(rest in proptest::collection::vec("[^{}]{0,12}", 0..3)) -> Vec<String> {
            std::iter::once("true".to_owned()).chain(rest).collect()
        }
    }

    prop_compose! {
        fn manifests()(
            name in "[a-z]{1,9}", run in commands(), env in proptest::collection::btree_map("[A-Z]{1,5}", "[^{}]{0,9}", 0..3),
            times in (1_u64..=600_000, 1_u64..=600_000), file in "[a-z.]{0,5}[a-z]", path in "/[!-z]{0,9}",
            client in proptest::option::of(commands()),
        ) -> toml::Table {
            let mut table = toml::toml! {
                [subject]
                [daemon]
                [binding]
            };
            let mut put = |section: &str, key: &str, value: toml::Value| {
                table.entry(section).or_insert_with(|| toml::Table::new().into()).as_table_mut().unwrap().insert(key.to_owned(), value);
            };
            put("subject", "name", name.into());
            put("daemon", "run", run.into());
            put("daemon", "env", env.into_iter().map(|(key, value)| (key, value.into())).collect::<toml::Table>().into());
            put("daemon", "ready_timeout_ms", i64::try_from(times.0).unwrap().into());
            put("daemon", "stand_down_timeout_ms", i64::try_from(times.1).unwrap().into());
            put("binding", "registration", file.into());
            put("binding", "handshake", toml::Table::from_iter([("path".to_owned(), path.into())]).into());
            if let Some(client) = client {
                put("client", "protocol", "acme/1".into());
                put("client", "connect", client.into());
            }
            table
        }
    }

    /// What a manifest means, for a comparison.
    fn meaning(manifest: &Manifest) -> serde_json::Value {
        serde_json::to_value(manifest).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

        /// Whatever the text: no panic, and a fault that can be shown with its place.
        #[test]
        fn no_text_panics(text in prop_oneof![damaged(), ".{0,80}"]) {
            if let Err(fault) = Manifest::parse(&text, "subject.toml") {
                let message = fault.to_string();
                prop_assert!(message.starts_with("subject.toml: ") && message.len() > "subject.toml: ".len(), "{message}");
                for label in fault.labels().into_iter().flatten() {
                    let place = fault.source_code().unwrap().read_span(label.inner(), 0, 0);
                    prop_assert!(place.is_ok(), "{message}: {label:?} in {text:?}");
                }
            }
        }

        #[test]
        fn a_manifest_means_the_same_when_it_is_written_again(table in manifests()) {
            let text = table.to_string();
            let manifest = Manifest::parse(&text, "subject.toml").map_err(|fault| TestCaseError::fail(format!("{fault}: {text}")))?;
            prop_assert_eq!(&manifest.daemon.run[..], &table["daemon"]["run"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()[..]);
            prop_assert_eq!(&manifest.binding.registration, table["binding"]["registration"].as_str().unwrap());
            let again = Manifest::parse(&toml::to_string(&manifest).unwrap(), "subject.toml").unwrap();
            prop_assert_eq!(meaning(&again), meaning(&manifest));
        }
    }

    #[test]
    fn the_template_means_the_same_when_it_is_written_again() {
        let manifest = Manifest::parse(TEMPLATE, "subject.toml").unwrap();
        let again = Manifest::parse(&toml::to_string(&manifest).unwrap(), "subject.toml").unwrap();
        assert_eq!(meaning(&again), meaning(&manifest));
    }
}
