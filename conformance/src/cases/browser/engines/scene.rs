//! What the cases arrange alike: a daemon, a front that keeps a ledger before it, two pages, one of which is allowlisted.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::{Duration, Instant};

use local_daemon_harness::actors::{Actor, Bind, Seen, Squatter, Taken, response};
use local_daemon_harness::browser::{Browser, Kind, page};
use local_daemon_harness::proof;
use serde_json::{Value, json};

use crate::cases::browser::visit::Secret;
use crate::engines::Lent;
use crate::outcome::{Outcome, Stop, ensure, inconclusive, not_applicable};
use crate::stage::{Daemon, ReadyDaemon, Stage, Start};

/// How late a request, a frame or an end may be seen on a busy host.
pub(super) const SEEN: Duration = Duration::from_secs(10);

/// What every script begins with.
const PRELUDE: &str = include_str!("page.js");

/// A page that follows a stream by itself, also when it is loaded again.
const READER: &str = include_str!("reader.html");

/// A browser, a daemon and pages.
#[derive(Debug)]
pub(super) struct Scene {
    browser: Lent,
    pub(super) daemon: Daemon,
    pub(super) live: ReadyDaemon,
    /// Where pages reach the daemon.
    pub(super) front: Actor,
    /// Serves pages whose origin, by 127.0.0.1, is allowlisted.
    pub(super) listed: Actor,
    /// Serves pages whose origin is not.
    pub(super) unlisted: Actor,
}

impl Deref for Scene {
    type Target = Browser;

    fn deref(&self) -> &Browser {
        &self.browser
    }
}

/// A request as the ledger has it.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) request: Seen,
    /// What was answered, if anything was.
    pub(super) status: Option<u16>,
}

impl Arrived {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.request.header(name)
    }

    /// In a few words; no header but the origin.
    fn brief(&self) -> String {
        let origin = self.header("origin").unwrap_or("none");
        let status = self.status.map_or("nothing".to_owned(), |status| status.to_string());
        let path = self.request.target.split('?').next().unwrap_or_default();
        format!("{} {path} from origin {origin}: {status}", self.request.method)
    }
}

/// Several, in a few words.
pub(super) fn brief(arrived: &[Arrived]) -> String {
    match arrived {
        [] => "nothing".to_owned(),
        some => some.iter().map(Arrived::brief).collect::<Vec<_>>().join(", "),
    }
}

/// The requests of these methods.
pub(super) fn of_method(arrived: &[Arrived], method: &str) -> Vec<Arrived> {
    let of = arrived.iter().filter(|arrived| arrived.request.method == method);
    of.cloned().collect()
}

/// In the order of their arrival, whichever connection an engine chose.
fn arrived(taken: &[Taken]) -> Vec<Arrived> {
    let of = |taken: &Taken| {
        let statuses = taken.statuses();
        let requests = taken.requests_at().into_iter().enumerate();
        requests
            .map(|(place, (at, request))| {
                let status = statuses.get(place).copied();
                (at, Arrived { request, status })
            })
            .collect::<Vec<_>>()
    };
    let mut all: Vec<(Instant, Arrived)> = taken.iter().flat_map(of).collect();
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, arrived)| arrived).collect()
}

/// Serves an empty page, the reader below `/reader`, a script below `/script`, and below `/to?` a redirection that lets
/// every origin follow.
fn site(stage: &Stage, name: &str) -> Outcome<Actor> {
    let site = Squatter::responding(|seen, _| {
        let origin = seen.header("origin").unwrap_or("null");
        if let Some(to) = seen.target.strip_prefix("/to?") {
            let open = [
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Allow-Headers", "authorization"),
                ("Location", to),
            ];
            let status = if seen.method == "OPTIONS" { 204 } else { 307 };
            return response(status, &open[..if status == 204 { 2 } else { 3 }], b"");
        }
        match &*seen.target {
            "/reader" => page(READER),
            "/script" => response(200, &[("Content-Type", "text/javascript")], b"window.included = true"),
            _ => page(""),
        }
    });
    Ok(site.noted(stage.transcript(), name).start(Bind::V4)?)
}

/// The address of a page, by a name of its host.
pub(super) fn at(name: &str, actor: &Actor) -> String {
    format!("http://{name}:{}", actor.address().port())
}

/// The origin of an actor's pages.
pub(super) fn origin(actor: &Actor) -> String {
    at("127.0.0.1", actor)
}

impl Scene {
    /// Arranges it; what the host or the manifest lacks ends the case.
    pub(super) fn set(stage: &mut Stage) -> Outcome<Self> {
        Self::set_allowing(stage, |_, listed| vec![origin(listed)])
    }

    /// The same for pages that follow a stream: they need one that takes a token in its address, and something to see.
    pub(super) fn set_following(stage: &mut Stage) -> Outcome<Self> {
        let stream = stage.stream_route()?;
        stage.emit_route(0)?;
        if query_token(stage).is_none() {
            return not_applicable(format!(
                "no page can follow {}: it takes no token in its address",
                stream.path
            ));
        }
        Self::set(stage)
    }

    /// The same with another list.
    pub(super) fn set_allowing(
        stage: &mut Stage,
        list: impl FnOnce(&Browser, &Actor) -> Vec<String>,
    ) -> Outcome<Self> {
        let browser = stage.browser()?;
        let (listed, unlisted) = (site(stage, "listed page")?, site(stage, "unlisted page")?);
        let allowing = list(&browser, &listed).into_iter();
        let start = allowing.fold(Start::new(), Start::allowing);
        let daemon = stage.launch_with(start)?;
        let live = stage.ready(&daemon)?;
        let front = front(&live, Bind::V4)?;
        let good = stage.read_route().ask(&live).bearer(&live);
        live.served(&good.named("a read with the credential"))?;
        stage.control("the read is served to whoever has the credential and is no page");
        Ok(Self { browser, daemon, live, front, listed, unlisted })
    }

    /// What scripts know: where the daemon is, by its front, the routes that it has, and the credential.
    pub(super) fn arg(&self, stage: &mut Stage, number: u64) -> Outcome<Value> {
        self.arg_at(stage, &origin(&self.front), number)
    }

    /// The same with the daemon at another address.
    pub(super) fn arg_at(&self, stage: &mut Stage, daemon: &str, number: u64) -> Outcome<Value> {
        let read = stage.read_route();
        let emit = stage.emit_route(number).or_else(|_| stage.mutation_route())?;
        let bearer = proof::bearer(&self.live.credential);
        let (scheme, token) = bearer.split_once(' ').unwrap_or_default();
        let query_token = query_token(stage);
        let stream = stage.stream_route().ok().map(|stream| format!("{daemon}{}", stream.path));
        let topic = stage.topic().ok();
        let notes = stream.as_ref().zip(query_token.as_ref());
        let notes = notes.map(|(stream, parameter)| {
            format!("{stream}?topics={}&{parameter}={token}", topic.as_deref().unwrap_or_default())
        });
        Ok(json!({
            "daemon": daemon,
            "scheme": scheme,
            "token": token,
            "read": format!("{daemon}{}", read.path),
            "read_method": read.method,
            "stream": stream,
            "topic": topic,
            "notes": notes,
            "query_token": query_token,
            "emit": format!("{daemon}{}", emit.path),
            "emit_method": emit.method,
            "emit_body": emit.body,
        }))
    }

    /// Opens the page of an actor, by 127.0.0.1.
    pub(super) fn visit(&self, stage: &Stage, actor: &Actor) -> Outcome {
        self.visit_at(stage, &origin(actor))
    }

    /// Opens a page.
    pub(super) fn visit_at(&self, stage: &Stage, url: &str) -> Outcome {
        stage.transcript().note("page", "open", url);
        Ok(self.browser.open(url)?)
    }

    /// Ends a server whose page is open, and gives its port to the daemon: the page stays, and what it asks now is
    /// same-origin. The port in `Host` and `Origin` is the daemon's own then; their name is the page's.
    pub(super) fn take_over(&self, server: Actor) -> Outcome<Actor> {
        let port = server.address();
        server.stop();
        front(&self.live, Bind::At(port))
    }

    /// Nobody is behind the port of the front any more, and the daemon is killed.
    pub(super) fn go_down(&mut self, stage: &Stage) -> Outcome<SocketAddr> {
        self.daemon.kill_group();
        self.leave_port(stage)
    }

    /// Nobody is behind the port of the front any more.
    pub(super) fn leave_port(&mut self, stage: &Stage) -> Outcome<SocketAddr> {
        let port = self.front.address();
        let nobody = Squatter::closing().noted(stage.transcript(), "nobody").start(Bind::V4)?;
        std::mem::replace(&mut self.front, nobody).stop();
        Ok(port)
    }

    /// A new daemon is behind the port that the front had.
    pub(super) fn come_back(&mut self, stage: &mut Stage, port: SocketAddr) -> Outcome {
        let start = Start::new().allowing(origin(&self.listed));
        self.daemon = stage.launch_with(start)?;
        self.live = stage.ready(&self.daemon)?;
        self.front = front(&self.live, Bind::At(port))?;
        stage.precondition("the daemon is back on its port");
        Ok(())
    }

    /// Opens a page at another name of this machine, and lets the daemon take over its port; nothing where the engine
    /// does not get there, or makes another name of it.
    pub(super) fn page_at(&self, stage: &Stage, name: &str) -> Outcome<Option<Actor>> {
        let server = site(stage, "page")?;
        let url = at(name, &server);
        let opened = self.visit_at(stage, &url);
        let host = self.run(stage, "return location.hostname", &json!({}));
        if opened.is_err() || host.is_ok_and(|host| host != name) {
            return Ok(None);
        }
        self.take_over(server).map(Some)
    }

    /// Runs a script in the page, after the prelude; what it hands back is noted. What `until` waits for is the daemon's to
    /// do.
    pub(super) fn run(&self, stage: &Stage, script: &str, arg: &Value) -> Outcome<Value> {
        let seen = self.browser.run(&format!("{PRELUDE}\n{script}"), arg.clone());
        match seen {
            Ok(seen) => {
                stage.transcript().note("page", "sees", seen.to_string());
                Ok(seen)
            }
            Err(fault) => {
                let fault = stage.transcript().redact(&fault.to_string());
                stage.transcript().note("page", "fault", &fault);
                match fault.find("waited in vain") {
                    Some(start) => Err(Stop::Violation(format!("the page {}", &fault[start..]))),
                    None => Err(Stop::Fault(fault)),
                }
            }
        }
    }

    /// Every request for this path so far that came by the front.
    pub(super) fn arrived(&self, path: &str) -> Vec<Arrived> {
        let mut all = arrived(&self.front.ledger().connections());
        all.retain(|arrived| arrived.request.target.split('?').next() == Some(path));
        all
    }

    /// Waits until so many requests came by the front that `wanted` takes, and were answered. That they do not come is
    /// the engine's doing, so that nothing follows.
    pub(super) fn wait_arrived(
        &self,

        what: &str,
        count: usize,
        wanted: impl Fn(&Arrived) -> bool,
    ) -> Outcome<Vec<Arrived>> {
        let look = |taken: &[Taken]| {
            let mut all = arrived(taken);
            all.retain(|arrived| arrived.status.is_some() && wanted(arrived));
            all
        };
        let deadline = Instant::now() + SEEN;
        let seen = self.front.ledger().wait_for(deadline, |taken| look(taken).len() >= count);
        if let Some(taken) = seen {
            return Ok(look(&taken));
        }
        let seen = brief(&arrived(&self.front.ledger().connections()));
        inconclusive(format!("{what}: {count} requests did not arrive; seen: {seen}"))
    }

    /// A number appears on the stream: what a page's script waits for.
    pub(super) fn emit(&self, stage: &mut Stage, number: u64) -> Outcome {
        let emit = stage.emit_route(number)?.ask(&self.live).bearer(&self.live);
        self.live.served(&emit.named(format!("the note {number}"))).map(drop)
    }

    /// What arrived was answered 401, each of it, and the control still holds.
    pub(super) fn all_unauthorized(&self, stage: &mut Stage, arrived: &[Arrived]) -> Outcome {
        ensure!(arrived.iter().all(|arrived| arrived.status == Some(401)), "{}", brief(arrived));
        stage.observed(brief(arrived));
        self.control(stage)
    }

    /// The allowlisted page reads with the credential, which has to work for the rest to mean something.
    pub(super) fn control(&self, stage: &mut Stage) -> Outcome {
        self.visit(stage, &self.listed)?;
        let arg = self.arg(stage, 0)?;
        let seen =
            self.run(stage, "return ask(arg.read, { method: arg.read_method, headers: bearer() })", &arg)?;
        if !is_success(&seen) {
            return inconclusive(format!("the read of the allowlisted page: {}", told(&seen)));
        }
        stage.control("the same read is served to the allowlisted page");
        Ok(())
    }
}

/// The address, by the front, of the page that a ticket is for; the shell's script redeems one in its fragment.
pub(super) fn own_page(scene: &Scene, ticket: &Secret) -> String {
    format!("{}/", at(ticket.name(), &scene.front))
}

/// The parameter by which the stream takes a token, if it does.
fn query_token(stage: &Stage) -> Option<String> {
    stage.manifest().binding.stream.as_ref()?.query_token.clone()
}

/// A front before a daemon.
pub(super) fn front(live: &ReadyDaemon, bind: Bind) -> Outcome<Actor> {
    let front = Squatter::fronting(live.target.address);
    Ok(front.noted(live.transcript(), "front").start(bind)?)
}

/// Whether a page saw an answer of 2xx.
pub(super) fn is_success(seen: &Value) -> bool {
    seen["status"].as_u64().is_some_and(|status| (200..300).contains(&status))
}

/// Whether a page saw an error that tells nothing.
pub(super) fn is_blocked(seen: &Value) -> bool {
    seen["error"] == "TypeError"
}

/// What a page saw, without bodies.
pub(super) fn told(seen: &Value) -> String {
    match (&seen["error"], &seen["status"]) {
        (Value::String(error), _) => format!("the page saw {error}"),
        (_, Value::Number(status)) => format!("the page saw status {status}"),
        _ => format!("the page saw {seen}"),
    }
}

/// The page sees `TypeError`, and nothing else.
pub(super) fn ensure_blocked(what: &str, seen: &Value) -> Outcome {
    ensure!(is_blocked(seen), "{what}: {}", told(seen));
    Ok(())
}

/// The path of a route, without parameters.
pub(super) fn path_of(url: &Value) -> String {
    let url = url.as_str().unwrap_or_default();
    let path = url.splitn(4, '/').nth(3).unwrap_or_default();
    format!("/{}", path.split(['?', '#']).next().unwrap_or_default())
}

/// The daemon itself, by a name.
pub(super) fn daemon_at(name: &str, live: &ReadyDaemon) -> String {
    format!("http://{name}:{}", live.port())
}

/// Text that stands in a URL whatever it is.
pub(super) fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        // Writing to a string does not fail.
        let _ = write!(encoded, "%{byte:02x}");
        encoded
    })
}

/// Whether the engine is one of these.
pub(super) fn is_one_of(scene: &Scene, kinds: &[Kind]) -> bool {
    kinds.contains(&scene.kind())
}
