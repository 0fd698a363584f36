//! Told to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use local_daemon_harness::files::{EntryKind, Snapshot};
use local_daemon_harness::http::{self, Request, Response};
use local_daemon_harness::process::Signal;
use local_daemon_harness::proof;
use local_daemon_harness::wait::{ms, until};

use crate::case::case;
use crate::fixtures::dumps::Dumps;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{Daemon, PROBE, ReadyDaemon, Stage, Start};

/// Requests with the credential in every place, right and wrong, with and without authentication.
fn tell_tales(live: &ReadyDaemon) -> Vec<(String, Request)> {
    let (binding, text) = (&live.manifest().binding, live.credential.text());
    let (host, handshake) = (&live.target.authority, &live.target.path);
    let bearer = proof::bearer(&live.credential);
    let get = |path: &str| Request::get(host, path);
    let mut plain: Vec<(String, Request)> = Vec::new();
    // As text in the three places of a URL, in each form that text can have.
    let forms = proof::forms(live.credential.bytes()).into_iter();
    for form in forms.filter_map(|form| String::from_utf8(form).ok()).filter(|form| form.is_ascii()) {
        plain.push(("path".to_owned(), get(&format!("/nowhere/{form}"))));
        plain.push(("query".to_owned(), get(&format!("/nowhere?token={form}"))));
        plain.push(("handshake's query".to_owned(), get(&format!("{handshake}?token={form}"))));
    }
    // Forms that a log misses which searches for the text, or for a word that equals the text.
    let encoded = proof::percent_encoded(&text);
    for path in [
        format!("/nowhere/{encoded}"),
        format!("/nowhere?token={encoded}"),
        format!("/nowhere%2F{text}"),
        format!("/nowhere%3Ftoken%3D{text}"),
        format!("/nowhere_{text}"),
        format!("/{text}x?q=x{text}"),
        format!("/nowhere/x_x%2F{text}%3D"),
    ] {
        plain.push(("encoded or longer path".to_owned(), get(&path)));
    }
    if let Some(stream) = &binding.stream {
        for form in [&text, &encoded, &format!("x_{text}"), &format!("x%2F{text}%3D")] {
            for query in ["topics=", "topics=note,", "after="] {
                plain.push((format!("stream's {query}"), get(&format!("{}?{query}{form}", stream.path))));
            }
        }
        plain.push(("Last-Event-ID".to_owned(), get(&stream.path).header("Last-Event-ID", &text)));
    }
    for (name, value) in [
        ("X-Token", text.clone()),
        ("X-Token", encoded.clone()),
        ("X-Token", format!("x_{text}_x")),
        ("Cookie", format!("token={text}")),
        ("Referer", format!("http://{host}/?token={text}")),
        ("Origin", format!("http://{text}.example")),
        ("Accept", format!("text/{text}")),
        ("Content-Type", format!("text/{text}")),
        ("Local-Daemon-Protocol", text.clone()),
        (text.as_str(), "a name".to_owned()),
    ] {
        plain.push((format!("header {name}"), get(handshake).header(name, &value)));
        plain.push((format!("header {name}"), get("/nowhere").header(name, &value)));
    }
    plain.push(("method".to_owned(), Request::new(&text, handshake).host(host)));
    plain.push((
        "body".to_owned(),
        Request::new("POST", "/nowhere").host(host).json(format!("{{\"token\":\"{text}\"}}")),
    ));
    plain.push((
        "handshake's body".to_owned(),
        Request::new("POST", handshake).host(host).json(format!("\"{text}\"")),
    ));
    // Bodies of the routes that the chapters define; a daemon without these routes sees unknown paths.
    let post = |path: &str, body: String| Request::new("POST", path).host(host).json(body);
    for (path, body) in [
        ("/v1/events", format!(r#"{{"topic":"{text}","data":1}}"#)),
        ("/v1/events", format!(r#"{{"topic":"note","data":1,"{text}":1,"{text}":2}}"#)),
        ("/v1/tickets", format!(r#"{{"kind":"{text}"}}"#)),
        ("/v1/tickets", format!(r#"{{"kind":"handoff","origin":"{text}"}}"#)),
        ("/v1/handoff", format!(r#"{{"ticket":"{text}"}}"#)),
        ("/v1/handoff", format!(r#"{{"{text}":"x"}}"#)),
        ("/v1/shutdown", format!(r#"{{"id":"{text}"}}"#)),
    ] {
        plain.push((format!("body to {path}"), post(path, body)));
    }
    for body in [format!("ticket={text}"), format!("{text}=x")] {
        let form = Request::new("POST", "/page").host(host);
        let form = form.header("Content-Type", "application/x-www-form-urlencoded").body(body);
        plain.push(("form".to_owned(), form.clone()));
        plain.push(("form, to be shown".to_owned(), form.header("Accept", "text/html")));
    }
    let path = format!("/v1/page-tokens/{text}");
    plain.push(("id of a page token".to_owned(), Request::new("DELETE", &path).host(host)));
    for operation in [&binding.authenticated_read, &binding.mutation].into_iter().flatten() {
        let to = |path: &str| Request::new(&operation.method, path).host(host);
        let path = operation.path.as_str();
        plain.push((format!("path below {path}"), to(&format!("{path}/{text}"))));
        // Bodies that no operation takes: an unknown member, another type, half an object.
        for body in [
            format!("{{\"{text}\":1}}"),
            format!("\"{text}\""),
            format!("{{\"id\":\"{text}\","),
        ] {
            plain.push((format!("body to {path}"), to(path).json(body)));
        }
    }
    let authenticated = plain.iter().map(|(what, request)| {
        (format!("{what}, authenticated"), request.clone().header("Authorization", &bearer))
    });
    let mut all: Vec<(String, Request)> = plain.iter().cloned().chain(authenticated).collect();
    // Authentication that is nearly right.
    for value in [
        format!("Basic {text}"),
        format!("Token {text}"),
        format!("Bearer {text}x"),
        format!("Bearer {text} {text}"),
        format!("Bearer\t{text}"),
        format!("Bearer{text}"),
        text.clone(),
        format!("Local-Daemon-Proof nonce=\"{text}\", mac=\"{text}\""),
        format!("Local-Daemon-Proof {text}"),
        bearer.clone(),
    ] {
        all.push(("authorization".to_owned(), get(handshake).header("Authorization", &value)));
        all.push(("authorization".to_owned(), get("/nowhere").header("Authorization", &value)));
    }
    all.push((
        "host".to_owned(),
        Request::get(&format!("{text}:1"), handshake).header("Authorization", &bearer),
    ));
    all.push((
        "large header".to_owned(),
        get(handshake).header("X-Token", &format!("{text} ").repeat(4_000)),
    ));
    all
}

/// Sends every tell-tale request; returns how many were answered, with every answer.
fn tell_all(live: &ReadyDaemon) -> Vec<(String, Response)> {
    let mut answers = Vec::new();
    let mut unanswered = 0;
    for (what, request) in tell_tales(live) {
        // Not noted: it would be the credential, over and over.
        match http::exchange(live.target.address, &request.bytes(), Instant::now() + PROBE) {
            Ok(response) => answers.push((what, response)),
            Err(_) => unanswered += 1,
        }
    }
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for (_, response) in &answers {
        *statuses.entry(response.status).or_default() += 1;
    }
    live.observed(format!(
        "{} requests that hold the credential were answered, by status: {statuses}; {unanswered} were not",
        answers.len(),
        statuses = in_words(&statuses)
    ));
    answers
}

/// Requests hold the credential in path, query, method, header and body, with and without authentication, so
/// that an error that repeats what it refuses repeats it. No answer holds it in any form.
#[case("CRED-9")]
fn not_in_answers(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("no answer that holds the credential in any form, in a header or in the body");
    live.between_controls(|| {
        let answers = tell_all(&live);
        if answers.is_empty() {
            return inconclusive("no request was answered");
        }
        for (what, response) in answers {
            let head: Vec<String> =
                response.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            let head = head.join("\n");
            for (place, bytes) in [("headers", head.as_bytes()), ("body", &response.body)] {
                ensure!(
                    !proof::holds(bytes, live.credential.bytes()),
                    "credential in the {what}: the {} has it in its {place}",
                    response.status
                );
            }
        }
        Ok(())
    })
}

/// A daemon that is asked to log everything gets requests with the credential in every place, right and
/// wrong, and is stopped. Its output and every file but the credential are searched for it in every form
/// (jupyter_server#1681, mcp-memory-service#1117).
#[case("CRED-8")]
fn not_in_output_or_files(stage: &mut Stage) -> Outcome {
    stage.expect("the credential in no output and in no file but its own, in any form");
    // The usual names of the switch, and the subject's own, so that what is hidden at the usual level is seen too.
    let start = Start::new().verbose();
    let start = start.var("RUST_LOG", "trace").var("LOG_LEVEL", "trace").var("DEBUG", "*");
    let daemon = stage.launch_with(start.clone())?;
    let live = stage.ready(&daemon)?;
    live.between_controls(|| {
        if tell_all(&live).is_empty() {
            return inconclusive("no request was answered");
        }
        Ok(())
    })?;
    nowhere_else(&live, "after the requests")?;
    daemon.signal(Signal::TERM)?;
    if daemon.wait_exit(stage.stand_down_deadline()).is_none() {
        return inconclusive("the daemon does not end on SIGTERM");
    }
    let again = stage.launch_with(start)?;
    stage.ready(&again)?;
    nowhere_else(&live, "after a restart")?;
    let mut written = 0;
    for daemon in [daemon, again] {
        daemon.kill_group();
        let output = daemon.wait_output_end(ms(1_000)).unwrap_or_else(|| daemon.output());
        for (stream, bytes) in [
            ("standard output", output.stdout()),
            ("standard error", output.stderr()),
        ] {
            written += bytes.len();
            ensure!(
                !proof::holds(&bytes, live.credential.bytes()),
                "{} wrote the credential to {stream}",
                daemon.name
            );
        }
    }
    stage.observed(format!("{written} bytes of output"));
    Ok(())
}

/// No file of the case's world but the credential holds the credential.
fn nowhere_else(live: &ReadyDaemon, when: &str) -> Outcome {
    let (root, own) = (live.arena().path().to_owned(), live.credential_path());
    let mut searched = 0;
    for (name, entry) in Snapshot::of(&root)?.0 {
        let path = root.join(&name);
        if entry.facts.kind != EntryKind::File || path == own {
            continue;
        }
        // What is gone by now was a temporary file.
        let Ok(bytes) = fs::read(&path) else { continue };
        searched += 1;
        ensure!(
            !proof::holds(&bytes, live.credential.bytes()),
            "{when} {} holds the credential",
            name.display()
        );
    }
    live.observed(format!("{when} {searched} other files were searched"));
    Ok(())
}

/// What a sampler has seen.
#[derive(Default)]
struct Samples {
    looks: usize,
    strings: BTreeSet<OsString>,
}

/// Looks at the arguments and environments of a daemon's processes until it is told to stop.
struct Sampler {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Samples>>,
    thread: std::thread::JoinHandle<()>,
}

impl Sampler {
    fn of(daemon: &Daemon) -> Self {
        let (stop, samples) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Samples::default())));
        let thread = {
            let (stop, samples, daemon) = (Arc::clone(&stop), Arc::clone(&samples), daemon.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let processes = daemon.tree();
                    let strings = processes
                        .iter()
                        .flat_map(|process| process.argv().into_iter().chain(process.environ()));
                    let strings: Vec<OsString> = strings.collect();
                    let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
                    samples.strings.extend(strings);
                    samples.looks += 1;
                    drop(samples);
                    std::thread::yield_now();
                }
            })
        };
        Self { stop, samples, thread }
    }

    fn samples(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has seen a string that ends so.
    fn sees(&self, end: &str, deadline: Instant) -> bool {
        let is_seen = || self.samples().strings.iter().any(|string| string.to_string_lossy().ends_with(end));
        until(deadline, || is_seen().then_some(())).is_some()
    }

    /// Ends it; returns how often it looked, and every string that it saw.
    fn stop(self) -> Samples {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The arguments and the environment of every process of a daemon are looked at again and again: in a first
/// launch, in one that finds the credential, while requests are answered, and during the stop (cqs#1337,
/// podscape#99).
#[case("CRED-7")]
fn not_in_arguments_or_environment(stage: &mut Stage) -> Outcome {
    stage.expect("the credential in no argument and no variable of any process of the daemon, in any form");
    for launch in ["a first launch", "a launch that finds the credential"] {
        let daemon = stage.launch()?;
        let sampler = Sampler::of(&daemon);
        let live = stage.ready(&daemon)?;
        let binding = stage.manifest().binding.clone();
        for operation in [&binding.authenticated_read, &binding.mutation].into_iter().flatten() {
            let request = live.operation(operation);
            // What it answers is judged elsewhere; here it may be the reason to start something.
            let _ = live.send(&request.header("Authorization", &proof::bearer(&live.credential)));
        }
        // The control: the sampler sees what is there to be seen. On a busy host it may take a while.
        let tag = stage.arena().tag().to_owned();
        if !sampler.sees(&tag, stage.ready_deadline()) {
            return inconclusive(format!("{launch}: the suite's own tag was not seen in any environment"));
        }
        daemon.signal(Signal::TERM)?;
        let ended = daemon.wait_exit(stage.stand_down_deadline()).is_some();
        let Samples { looks, strings: seen } = sampler.stop();
        stage.control(format!(
            "{launch}: in {looks} looks at its processes the suite's own tag was seen in an environment"
        ));
        if !ended {
            return inconclusive(format!("{launch}: it does not end on SIGTERM"));
        }
        for string in seen {
            if proof::holds(string.as_bytes(), live.credential.bytes()) {
                let name = string.to_string_lossy().split('=').next().unwrap_or_default().to_owned();
                return fail(format!("{launch}: an argument or variable holds the credential: {name}"));
            }
        }
    }
    Ok(())
}

/// A daemon dies of a signal that leaves a core dump, as another process does before it. No file that it leaves holds the
/// credential in any form, and its limit keeps a dump from being handed to a program.
#[case("CRED-15")]
fn not_in_a_core_dump(stage: &mut Stage) -> Outcome {
    stage.expect("no dump with the credential when the daemon has died");
    let dumps = Dumps::seen(stage)?;
    let daemon = stage.launch_with(Start::new().setup(Dumps::setup()).cwd(dumps.place()))?;
    let live = stage.ready(&daemon)?;
    dumps.ensure_without(stage, &daemon, live.credential.bytes())
}
