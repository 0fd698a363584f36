//! What the cases of the perimeter send, and how they look at an answer.

use std::time::{Duration, Instant};

use local_daemon_harness::http::{Connection, HttpFault, Response};
use local_daemon_harness::proof;
use serde_json::Value;

use crate::manifest::{Operation, fill};
use crate::outcome::Outcome;
use crate::stage::{Daemon, Live, PROBE, Stage, Start};

/// The origins that cases allowlist: those of the vectors.
pub(in crate::cases) const LISTED: &str = "https://app.example";
/// The second of them.
pub(in crate::cases) const LISTED_TOO: &str = "http://127.0.0.1:5173";
/// An origin that no case allowlists.
pub(in crate::cases) const UNLISTED: &str = "https://evil.example";
/// The methods that cases walk through.
pub(in crate::cases) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// A path that no daemon has.
pub(in crate::cases) const UNKNOWN: &str = "/no/such/route";
/// How long an answer may take beside the other cases of a loaded machine.
pub(in crate::cases) const ANSWER: Duration = PROBE.saturating_mul(3);

/// A request, put together header by header: whatever of it is said twice is sent twice.
#[derive(Debug, Clone)]
pub(in crate::cases) struct Ask {
    /// How reports call it.
    pub(in crate::cases) what: String,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
}

impl Ask {
    /// `method target` with the daemon's own `Host` and nothing else.
    pub(in crate::cases) fn new(live: &Live, method: &str, target: &str) -> Self {
        Self {
            what: format!("{method} {target}"),
            method: method.to_owned(),
            target: target.to_owned(),
            headers: vec![("Host".to_owned(), live.target.authority.clone())],
            body: None,
        }
    }

    /// Called so in reports.
    pub(in crate::cases) fn named(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    /// With these `Host` headers instead.
    pub(in crate::cases) fn hosts<'a>(mut self, hosts: impl IntoIterator<Item = &'a str>) -> Self {
        self.headers.retain(|(name, _)| name != "Host");
        let hosts = hosts.into_iter();
        self.headers.splice(0..0, hosts.map(|host| ("Host".to_owned(), host.to_owned())));
        self
    }

    /// With another method.
    pub(in crate::cases) fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// With another target.
    pub(in crate::cases) fn target(mut self, target: impl Into<String>) -> Self {
        self.target = target.into();
        self
    }

    /// With one more header.
    pub(in crate::cases) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without the headers of this name.
    pub(in crate::cases) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self
    }

    /// With one more `Origin`.
    pub(in crate::cases) fn origin(self, origin: &str) -> Self {
        self.with("Origin", origin)
    }

    /// With the credential.
    pub(in crate::cases) fn bearer(self, live: &Live) -> Self {
        self.with("Authorization", &proof::bearer(&live.credential))
    }

    /// As a browser asks before `method` may be sent from `origin`.
    pub(in crate::cases) fn preflight(self, origin: &str, method: &str) -> Self {
        self.method("OPTIONS").origin(origin).with("Access-Control-Request-Method", method)
    }

    /// With one more query parameter.
    pub(in crate::cases) fn parameter(mut self, name: &str, value: &str) -> Self {
        let and = if self.target.contains('?') { '&' } else { '?' };
        self.target = format!("{}{and}{name}={value}", self.target);
        self
    }

    /// With a body, whose type a header says.
    pub(in crate::cases) fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The bytes of it.
    pub(in crate::cases) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let mut say = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        };
        for (name, value) in &self.headers {
            say(name, value);
        }
        let frames =
            |name: &str| matches!(&*name.to_ascii_lowercase(), "content-length" | "transfer-encoding");
        if !self.headers.iter().any(|(name, _)| frames(name))
            && (self.body.is_some() || !matches!(&*self.method, "GET" | "HEAD" | "OPTIONS"))
        {
            say("Content-Length", &self.body.as_ref().map_or(0, String::len).to_string());
        }
        (head + "\r\n" + self.body.as_deref().unwrap_or_default()).into_bytes()
    }
}

/// A route that the manifest binds.
#[derive(Debug, Clone)]
pub(in crate::cases) struct Route {
    pub(in crate::cases) method: String,
    pub(in crate::cases) path: String,
    pub(in crate::cases) body: Option<String>,
}

impl Route {
    fn of(operation: &Operation) -> Self {
        Self {
            method: operation.method.clone(),
            path: operation.path.clone(),
            body: operation.body.clone(),
        }
    }

    /// The request that the route is for, without authentication.
    pub(in crate::cases) fn ask(&self, live: &Live) -> Ask {
        let ask = Ask::new(live, &self.method, &self.path);
        match &self.body {
            Some(body) => ask.with("Content-Type", "application/json").body(body),
            None => ask,
        }
    }
}

/// What reads something: the bound operation, or the handshake, which every daemon has.
pub(in crate::cases) fn read_route(stage: &Stage) -> Route {
    let binding = &stage.manifest().binding;
    binding.authenticated_read.as_ref().map_or_else(|| handshake_route(stage), Route::of)
}

/// The handshake.
pub(in crate::cases) fn handshake_route(stage: &Stage) -> Route {
    let handshake = &stage.manifest().binding.handshake;
    Route {
        method: handshake.method.clone(),
        path: handshake.path.clone(),
        body: None,
    }
}

/// What changes something.
pub(in crate::cases) fn mutation_route(stage: &mut Stage) -> Outcome<Route> {
    match &stage.manifest().binding.mutation {
        Some(operation) => Ok(Route::of(operation)),
        None => stage.not_applicable("the manifest has no `binding.mutation`"),
    }
}

/// The event stream.
pub(in crate::cases) fn stream_route(stage: &mut Stage) -> Outcome<Route> {
    match &stage.manifest().binding.stream {
        Some(stream) => Ok(Route { method: "GET".to_owned(), path: stream.path.clone(), body: None }),
        None => stage.not_applicable("the manifest has no `binding.stream`"),
    }
}

/// What makes the number `n` appear on the stream.
pub(in crate::cases) fn emit_route(stage: &mut Stage, n: u64) -> Outcome<Route> {
    let Some(operation) = stage.manifest().binding.emit.clone() else {
        return stage.not_applicable("the manifest has no `binding.emit`");
    };
    let n = n.to_string();
    let route = Route::of(&operation);
    Ok(Route {
        path: fill(&route.path, &[("n", &n)]),
        body: route.body.map(|body| fill(&body, &[("n", &n)])),
        ..route
    })
}

/// A number that stands for itself wherever it turns up.
pub(in crate::cases) fn marker(stage: &mut Stage) -> u64 {
    1_000_000_000 + stage.rng().below(1_000_000_000)
}

/// The paths of every bound operation, the page, and paths that are no route.
pub(in crate::cases) fn paths(stage: &Stage) -> Vec<String> {
    let binding = &stage.manifest().binding;
    let mut paths = vec![binding.handshake.path.clone(), "/".to_owned()];
    paths.extend(binding.operations().map(|operation| operation.path.clone()));
    paths.extend(binding.stream.as_ref().map(|stream| stream.path.clone()));
    paths.extend([UNKNOWN, "/favicon.ico", "/health", "/v1", "/index.html"].map(str::to_owned));
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// A daemon with both listed origins on its list.
pub(in crate::cases) fn launch_listed(stage: &mut Stage) -> Outcome<(Daemon, Live)> {
    let daemon = stage.launch_with(Start::new().allowing(LISTED).allowing(LISTED_TOO))?;
    let live = stage.ready(&daemon)?;
    Ok((daemon, live))
}

/// The port that a daemon listens on.
pub(in crate::cases) fn port(live: &Live) -> u16 {
    live.target.address.port()
}

/// The origin of the daemon's own pages, at the name by which its record calls it.
pub(in crate::cases) fn own_origin(live: &Live) -> String {
    format!("http://{}", live.target.authority)
}

/// One exchange on a connection of its own. Of an event stream only the head is read.
pub(in crate::cases) fn exchange(live: &Live, bytes: &[u8]) -> Result<Response, HttpFault> {
    let deadline = Instant::now() + ANSWER;
    let mut connection = Connection::open(live.target.address, deadline)?;
    // Whoever refuses may do so before it has read everything.
    let sent = connection.send(bytes, deadline);
    let mut response = connection.read_beginning(deadline).map_err(|fault| sent.err().unwrap_or(fault))?;
    if response.status != 200 || response.media_type().as_deref() != Some("text/event-stream") {
        connection.read_body(&mut response, deadline)?;
    }
    Ok(response)
}

/// Sends bytes that have to be answered; the transcript has only `what` they are.
pub(in crate::cases) fn answer_to(
    stage: &mut Stage,
    live: &Live,
    what: &str,
    bytes: &[u8],
) -> Outcome<Response> {
    let what = stage.transcript().redact(what);
    stage.transcript().note("suite", "request", &what);
    match exchange(live, bytes) {
        Ok(response) => {
            let seen = response.summary(stage.transcript());
            stage.transcript().note("suite", "answer", seen);
            Ok(response)
        }
        Err(fault) => stage.fail(format!("{what}: {fault}")),
    }
}

/// Sends a request that has to be answered.
pub(in crate::cases) fn answer(stage: &mut Stage, live: &Live, ask: &Ask) -> Outcome<Response> {
    answer_to(stage, live, &ask.what, &ask.bytes())
}

/// The answer has one of these statuses.
pub(in crate::cases) fn ensure_status(
    stage: &mut Stage,
    what: &str,
    response: &Response,
    statuses: &[u16],
) -> Outcome {
    let seen = response.summary(stage.transcript());
    stage.ensure(statuses.contains(&response.status), format!("{what}: answered {seen}, not {statuses:?}"))
}

/// Sends a request that has to be answered with one of these statuses.
pub(in crate::cases) fn answered(
    stage: &mut Stage,
    live: &Live,
    ask: &Ask,
    statuses: &[u16],
) -> Outcome<Response> {
    let response = answer(stage, live, ask)?;
    ensure_status(stage, &ask.what, &response, statuses)?;
    Ok(response)
}

/// Sends each of `asks` and expects one of `statuses`; says how many there were.
pub(in crate::cases) fn all_answered(
    stage: &mut Stage,
    live: &Live,
    asks: &[Ask],
    statuses: &[u16],
) -> Outcome {
    for ask in asks {
        answered(stage, live, ask, statuses)?;
    }
    stage.observed(format!("{} requests were answered {statuses:?}", asks.len()));
    Ok(())
}

/// Sends a request in its good form, which the daemon has to serve: what is refused beside it means something then.
pub(in crate::cases) fn served(stage: &mut Stage, live: &Live, ask: &Ask) -> Outcome<Response> {
    let response = answer(stage, live, ask)?;
    let seen = response.summary(stage.transcript());
    stage.ensure(
        (200..300).contains(&response.status),
        format!("{}, in good form: answered {seen}", ask.what),
    )?;
    Ok(response)
}

/// Whether a header that is a list holds `member`, in any case of letters.
pub(in crate::cases) fn lists(response: &Response, name: &str, member: &str) -> bool {
    response
        .all(name)
        .iter()
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(member))
}

/// The headers of an answer that begin with `Access-Control-`.
pub(in crate::cases) fn cors(response: &Response) -> Vec<String> {
    response
        .headers
        .iter()
        .filter(|(name, _)| name.to_ascii_lowercase().starts_with("access-control-"))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect()
}

/// The texts of a member that is a list.
pub(in crate::cases) fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a vector cites a requirement.
pub(in crate::cases) fn cites(vector: &Value, id: &str) -> bool {
    texts(&vector["requirements"]).contains(&id)
}

/// Somebody who reads an event stream.
#[derive(Debug)]
pub(in crate::cases) struct Follower {
    connection: Connection,
    text: Vec<u8>,
    /// The head of the answer.
    pub(in crate::cases) head: Response,
}

impl Follower {
    /// Opens the stream; that it does not open is a violation.
    pub(in crate::cases) fn open(stage: &mut Stage, live: &Live, ask: &Ask) -> Outcome<Self> {
        let what = stage.transcript().redact(&ask.what);
        stage.transcript().note("suite", "request", &what);
        let deadline = Instant::now() + ANSWER;
        let open = || -> Result<Self, HttpFault> {
            let mut connection = Connection::open(live.target.address, deadline)?;
            // With it, the end of the stream is the end of the connection.
            connection.send(&ask.clone().with("Connection", "close").bytes(), deadline)?;
            let head = connection.read_beginning(deadline)?;
            Ok(Self { connection, text: Vec::new(), head })
        };
        match open() {
            Ok(follower) if follower.head.status == 200 => Ok(follower),
            Ok(follower) => stage.fail(format!("{what}: answered {}", follower.head.status)),
            Err(fault) => stage.fail(format!("{what}: {fault}")),
        }
    }

    /// Reads until `number` has come.
    pub(in crate::cases) fn wait_for(&mut self, number: u64, deadline: Instant) -> bool {
        self.wait_for_line(&number.to_string(), deadline).is_some()
    }

    /// Reads until a line has come that holds `part`, and gives it back.
    pub(in crate::cases) fn wait_for_line(&mut self, part: &str, deadline: Instant) -> Option<String> {
        loop {
            let text = String::from_utf8_lossy(&self.text);
            if let Some(line) =
                text.split_inclusive('\n').find(|line| line.contains(part) && line.ends_with('\n'))
            {
                return Some(line.trim_end().to_owned());
            }
            match self.connection.read_some(deadline) {
                Ok(bytes) if !bytes.is_empty() => self.text.extend(bytes),
                _ => return None,
            }
        }
    }

    /// Whether `number` has come.
    pub(in crate::cases) fn has(&self, number: u64) -> bool {
        String::from_utf8_lossy(&self.text).contains(&number.to_string())
    }

    /// Reads until the stream ends (`true`) or the deadline passes.
    pub(in crate::cases) fn wait_end(&mut self, deadline: Instant) -> bool {
        self.connection.wait_closed(deadline)
    }
}
