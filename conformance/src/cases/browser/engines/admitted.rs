//! Pages that the user lets in: the daemon's own, by a ticket, and one of another origin, by a handoff.

use std::time::Instant;

use local_daemon_harness::actors::{Bind, Seen, Squatter, Taken, response};
use local_daemon_harness::browser::page;
use local_daemon_harness::wait::until;
use serde_json::{Value, json};

use super::scene::{
    Arrived, SEEN, Scene, brief, ensure_blocked, front, is_success, of_method, origin, own_page, path_of,
    told,
};
use crate::case::case;
use crate::cases::browser::visit::{Secret, handoff_ticket, page_ticket, page_ticket_at};
use crate::fixtures::http::marker;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, deviation, ensure, fail, inconclusive};
use crate::stage::Stage;

/// Where tickets of the two kinds are redeemed.
const PAGE: &str = "/page";
/// The page itself, after that.
const SHELL: &str = "/";
const HANDOFF: &str = "/v1/handoff";

/// The address that `open --print-url` prints.
fn printed(stage: &mut Stage, scene: &Scene) -> Outcome<String> {
    let ticket = page_ticket(stage, &scene.live)?;
    Ok(format!("{}#ticket={ticket}", own_page(scene, &ticket)))
}

/// The token that a request brings as bearer.
fn token_of(arrived: &Arrived) -> Option<&str> {
    arrived.header("authorization")?.strip_prefix("Bearer ")
}

/// Whether a request is for this path.
fn is_for(arrived: &Arrived, path: &str) -> bool {
    arrived.request.target.split('?').next() == Some(path)
}

/// Waits until the daemon's own page has followed the stream so many times, and says what token it has.
pub(super) fn wait_for_page(
    stage: &mut Stage,
    scene: &Scene,
    arg: &Value,
    streams: usize,
) -> Outcome<String> {
    let stream = path_of(&arg["stream"]);
    scene.wait_arrived("the page's stream", streams, |arrived| {
        is_for(arrived, &stream) && arrived.status == Some(200)
    })?;
    let served = |arrived: &Arrived| arrived.status == Some(200) && token_of(arrived).is_some();
    let served = scene.wait_arrived("a request with the page's token", 1, served)?;
    let token = served.last().and_then(token_of).unwrap_or_default().to_owned();
    stage.transcript().hide(token.as_bytes());
    let credential = scene.live.credential.text();
    ensure!(token != credential, "the page has the credential itself");
    Ok(token)
}

/// The same of a page that was seen to run: that it does not follow is its own doing.
fn ensure_follows(
    stage: &mut Stage,
    scene: &Scene,
    arg: &Value,
    streams: usize,
    what: &str,
) -> Outcome<String> {
    wait_for_page(stage, scene, arg, streams).or_else(|stop| match stop {
        Stop::Inconclusive(why) => fail(format!("{what}: {why}")),
        other => Err(other),
    })
}

/// What the page has kept, and where. Its address is `/`.
const KEPT: &str = "return { address: location.pathname + location.search + location.hash,
                             tab: Object.values(sessionStorage), site: Object.values(localStorage),
                             cookies: document.cookie, markup: document.documentElement.outerHTML,
                             text: document.body.innerText.trim() }";

/// The token is in the storage of the tab, and nowhere else; the address says nothing of a ticket.
pub(super) fn ensure_kept(stage: &mut Stage, scene: &Scene, arg: &Value, token: &str) -> Outcome {
    let kept = scene.run(stage, KEPT, arg)?;
    let holds = |value: &Value| value.to_string().contains(token);
    let address = &kept["address"];
    ensure!(*address == "/", "the page's address is {address}, not /");
    ensure!(holds(&kept["tab"]), "the storage of the tab does not hold the token");
    for place in ["site", "cookies", "markup"] {
        ensure!(!holds(&kept[place]), "the token is in: {place}");
    }
    let cookies = |arrived: &&Arrived| arrived.header("cookie").is_some();
    let all = scene.wait_arrived("requests", 1, |_| true)?;
    ensure!(!all.iter().any(|arrived| cookies(&arrived)), "a cookie came back");
    Ok(())
}

/// Opens a file that posts a ticket, as the command `open` writes it.
pub(super) fn open_by_launcher(stage: &Stage, scene: &Scene, ticket: &Secret) -> Outcome {
    let launcher = stage.arena().path().join("launcher.html");
    let address = own_page(scene, ticket);
    let form = format!(
        "<!doctype html><meta name=referrer content=no-referrer><form method=post action=\"{address}page\">\
         <input type=hidden name=ticket value=\"{ticket}\"></form><script>document.forms[0].submit()</script>"
    );
    std::fs::write(&launcher, form)?;
    scene.visit_at(stage, &format!("file://{}", launcher.display()))
}

/// A file in the browser posts a ticket: the daemon's page opens, keeps its token in the tab alone, and goes
/// on after a reload.
#[case("BROW-19", "BROW-24", "BROW-25", "BROW-27")]
fn own_page_by_its_launcher(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    let ticket = page_ticket(stage, &scene.live)?;
    let address = own_page(&scene, &ticket);
    stage.expect(
        "200 for the ticket from the origin null; the token in the tab's storage alone, also after a reload",
    );
    open_by_launcher(stage, &scene, &ticket)?;
    let posts = scene.wait_arrived("the ticket", 1, |arrived| is_for(arrived, PAGE))?;
    if posts.iter().any(|post| post.header("origin") != Some("null")) {
        return deviation(format!("not from the origin null: {}", brief(&posts)));
    }
    let served = posts.iter().all(|post| post.status == Some(200));
    ensure!(served, "{}", brief(&posts));
    let token = wait_for_page(stage, &scene, &arg, 1)?;
    stage.observed(brief(&posts));
    ensure_kept(stage, &scene, &arg, &token)?;
    // A reload is a load of the shell, which goes on with what the tab has.
    scene.visit_at(stage, &address)?;
    let again = ensure_follows(stage, &scene, &arg, 2, "after a reload the page does not go on")?;
    ensure!(again == token, "after a reload the page has another token");
    ensure_kept(stage, &scene, &arg, &token)?;
    stage.control("a reload goes on with the same token");
    let posts = scene.arrived(PAGE);
    ensure!(posts.len() == 1, "a reload posts a ticket again: {}", brief(&posts));
    Ok(())
}

/// The address with a ticket in its fragment is opened, then the bare one in another tab, which gets nothing.
#[case("BROW-27", "BROW-24", "BROW-18", "BROW-26")]
fn own_page_by_its_address(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    let ticket = page_ticket(stage, &scene.live)?;
    let address = own_page(&scene, &ticket);
    let printed = format!("{address}#ticket={ticket}");
    stage.expect(
        "the ticket arrives in the body of a form alone; another tab has no token and says what to do",
    );
    scene.visit_at(stage, &printed)?;
    scene.wait_arrived("a load of the shell", 1, |arrived| is_for(arrived, SHELL))?;
    stage.precondition("the address with the ticket was opened, and the engine has asked for the shell");
    let token = ensure_follows(stage, &scene, &arg, 1, "the ticket in the fragment does not let it in")?;
    ensure_kept(stage, &scene, &arg, &token)?;
    stage.control("the page of the ticket is let in");
    let posts = scene.arrived(PAGE);
    ensure!(posts.len() == 1 && posts[0].status == Some(200), "{}", brief(&posts));
    for request in scene.front.ledger().requests() {
        let head = request.headers.iter().any(|(_, value)| value.contains(&*ticket));
        ensure!(
            !head && !request.target.contains(&*ticket),
            "the ticket is in the head of {} {}",
            request.method,
            request.target
        );
    }
    scene.open_tab()?;
    let before = scene.front.ledger().requests().len();
    scene.visit_at(stage, &address)?;
    let kept = scene.run(stage, KEPT, &arg)?;
    ensure!(kept["tab"] == json!([]) && !kept.to_string().contains(&token), "another tab holds the token");
    // The command's program is what of its name every form of it has.
    let browser = stage.manifest().browser.clone().unwrap_or_default();
    let program = browser.open.as_deref().and_then(<[String]>::first);
    let program = program.and_then(|program| program.rsplit('/').next().map(str::to_owned));
    let text = kept["text"].as_str().unwrap_or_default();
    let tells = !text.is_empty() && program.is_none_or(|program| text.contains(&program));
    ensure!(tells, "without a token the page does not say what opens it: {text}", text = in_words(&text));
    let shell = scene.arrived(SHELL);
    let statuses: Vec<_> = shell.iter().map(|arrived| arrived.status).collect();
    ensure!(statuses.iter().all(|status| *status == Some(401)), "{}", brief(&shell));
    stage.observed(format!("{} requests, then another tab: {}", before, brief(&shell)));
    Ok(())
}

/// The stream of the daemon's page is closed for good by an answer of 503: the page opens a new one, after the last event.
/// A page may not have read what passed right before the end, so that it is sent it again: once is no failure.
#[case("BROW-30", "BROW-29")]
fn own_page_opens_its_stream_anew(stage: &mut Stage) -> Outcome {
    const ROUNDS: usize = 3;
    let mut scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    let stream = path_of(&arg["stream"]);
    stage.expect("one stream, which begins after the last event that the page has seen");
    let printed = printed(stage, &scene)?;
    scene.visit_at(stage, &printed)?;
    wait_for_page(stage, &scene, &arg, 1)?;
    for round in 1..=ROUNDS {
        let before = marker(stage);
        scene.emit(stage, before)?;
        if !carried(&scene, before) {
            return inconclusive("the page's stream does not carry a note");
        }
        stage.precondition("the page follows the stream, and has been sent a note");
        let open = streams_held(&scene, &stream);
        ensure!(open == 1, "the page holds {open} streams");
        close_for_good(stage, &mut scene, &stream)?;
        let after = marker(stage);
        scene.emit(stage, after)?;
        ensure!(carried(&scene, after), "10 s later the page has not been sent what came then");
        let open = streams_held(&scene, &stream);
        ensure!(open == 1, "the page holds {open} streams");
        stage.observed(brief(&scene.arrived(&stream)));
        if !has_carried(&scene.front.ledger().connections(), before) {
            return Ok(());
        }
        stage.observed(format!("round {round}: the page is sent again what passed right before the end"));
    }
    fail("the page receives events again that it has seen: it does not name its last id")
}

/// Has the page's stream end, and its retry answered 503, after which no engine goes on by itself; a note is sent meanwhile,
/// which the page has to be sent.
fn close_for_good(stage: &mut Stage, scene: &mut Scene, stream: &str) -> Outcome {
    let port = scene.leave_port(stage)?;
    let refusing = Squatter::answering(503, "{}").noted(stage.transcript(), "refusing");
    let refusing = refusing.start(Bind::At(port))?;
    // A request that is cut before its answer is one after which every engine goes on.
    let asked = refusing.ledger().wait_for(Instant::now() + SEEN, |taken| {
        let answered = taken.iter().filter(|taken| taken.statuses().contains(&503));
        let mut requests = answered.flat_map(Taken::requests);
        requests.any(|request| request.target.split('?').next() == Some(stream))
    });
    if asked.is_none() {
        return fail("the page does not ask for its stream again");
    }
    stage.precondition("its retry was answered 503, which closes it for good");
    let meanwhile = marker(stage);
    scene.emit(stage, meanwhile)?;
    refusing.stop();
    scene.front = front(&scene.live, Bind::At(port))?;
    ensure!(carried(scene, meanwhile), "10 s later the page has not been sent what it missed");
    Ok(())
}

/// Whether a note passed on one of these connections.
fn has_carried(taken: &[Taken], note: u64) -> bool {
    let note = note.to_string();
    taken.iter().any(|taken| String::from_utf8_lossy(&taken.answered).contains(&note))
}

/// Waits until a note has passed the front; returns whether it has.
fn carried(scene: &Scene, note: u64) -> bool {
    let deadline = Instant::now() + SEEN;
    scene.front.ledger().wait_for(deadline, |taken| has_carried(taken, note)).is_some()
}

/// Returns how many connections are open that carry the stream.
fn streams_held(scene: &Scene, stream: &str) -> usize {
    let is_for_stream = |request: &Seen| request.target.split('?').next() == Some(stream);
    let taken = scene.front.ledger().connections();
    let open = taken.iter().filter(|taken| taken.closed.is_none());
    open.filter(|taken| taken.requests().iter().any(is_for_stream)).count()
}

/// Other pages put the daemon's page, with a good ticket, into a frame: it is not shown there.
#[case("BROW-22")]
fn own_page_is_not_framed(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let mut arg = scene.arg(stage, 0)?;
    stage.expect("in a frame nothing of the page is shown, and its ticket is not redeemed");
    let ticket = page_ticket(stage, &scene.live)?;
    let bare = own_page(&scene, &ticket);
    let printed = format!("{bare}#ticket={ticket}");
    scene.visit_at(stage, &bare)?;
    let shell = scene.run(stage, KEPT, &arg)?["text"].take();
    let framing = "const frame = document.createElement('iframe');
                   const loaded = new Promise(done => {
                       for (const event of ['load', 'error']) frame.addEventListener(event, () => done(event));
                   });
                   frame.src = arg.src;
                   document.body.append(frame);
                   return loaded.then(event => event.type)";
    let text = "return document.body ? document.body.innerText.trim() : ''";
    arg["src"] = json!(format!("{}/reader", origin(&scene.listed)));
    scene.visit(stage, &scene.unlisted)?;
    scene.run(stage, framing, &arg)?;
    let seen = scene.run_in_frame("return typeof window.seen", json!(null))?;
    if seen != "object" {
        return inconclusive(format!("a page that may be framed does not run: {seen}"));
    }
    stage.control("a page without such headers is framed, and runs there");
    let before = scene.arrived(SHELL).len();
    for by in [&scene.unlisted, &scene.listed] {
        for src in [&bare, &printed] {
            arg["src"] = json!(src);
            scene.visit(stage, by)?;
            scene.run(stage, framing, &arg)?;
            let seen = scene.run_in_frame(text, json!(null))?;
            ensure!(seen != shell, "the frame shows {seen}");
        }
    }
    let loads = scene.arrived(SHELL).split_off(before);
    if loads.len() != 4 {
        return inconclusive(format!("the frames do not ask for the page: {}", brief(&loads)));
    }
    stage.observed(brief(&loads));
    let posts = scene.arrived(PAGE);
    ensure!(posts.is_empty(), "in a frame the ticket is redeemed: {}", brief(&posts));
    // The ticket is still good: what kept it from being redeemed was the frame.
    scene.visit_at(stage, &printed)?;
    wait_for_page(stage, &scene, &arg, 1)?;
    stage.control("the same ticket opens the page where it is not framed");
    Ok(())
}

/// Another page opens the daemon's page, with a good ticket, in a window: neither reaches the other.
#[case("BROW-22")]
fn own_page_has_no_opener(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let mut arg = scene.arg(stage, 0)?;
    stage.expect("to its opener the page is closed, and it knows no opener");
    let button = "const button = document.createElement('button');
                  button.textContent = 'open';
                  button.onclick = () => { window.opened = window.open(arg.to); };
                  document.body.replaceChildren(button)";
    let opener = "return window.opener === null ? 'none' : 'one'";
    let by = origin(&scene.unlisted);
    let other = origin(&scene.listed);
    arg["to"] = json!(other);
    scene.visit_at(stage, &by)?;
    scene.run(stage, button, &arg)?;
    scene.click("button")?;
    let opened =
        "while (!window.opened) await new Promise(done => setTimeout(done, 10)); return window.opened.closed";
    let seen = scene.run(stage, opened, &arg)?;
    if seen != false || !scene.tab_at(&other)? || scene.run(stage, opener, &arg)? != "one" {
        return inconclusive("a page without such headers has no opener either");
    }
    stage.control("a page without such headers is open to its opener, and knows it");
    if !scene.tab_at(&by)? {
        return inconclusive("the opener is gone");
    }
    let ticket = page_ticket(stage, &scene.live)?;
    let own = own_page(&scene, &ticket);
    arg["to"] = json!(format!("{own}#ticket={ticket}"));
    scene.run(stage, button, &arg)?;
    scene.click("button")?;
    wait_for_page(stage, &scene, &arg, 1)?;
    stage.precondition("the page was opened by another one, and follows its stream");
    let closed = "await until(() => window.opened.closed, 'the end of the opened window')";
    scene.run(stage, closed, &arg)?;
    if !scene.tab_at(&own)? {
        return inconclusive("the page has no tab");
    }
    let seen = scene.run(stage, opener, &arg)?;
    ensure!(seen == "none", "the page has an opener");
    Ok(())
}

/// Other pages include the daemon's page as a script and as a style, and fetch it without CORS.
#[case("BROW-22", "BROW-26")]
fn own_page_is_not_included(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let mut arg = scene.arg(stage, 0)?;
    let ticket = page_ticket(stage, &scene.live)?;
    arg["page"] = json!(own_page(&scene, &ticket));
    stage.expect("an error for the script, the style and the fetch; nothing of the page is read");
    let script = "const include = (kind, attributes) => new Promise(done => {
                      const element = Object.assign(document.createElement(kind), attributes);
                      element.onload = () => done('loaded');
                      element.onerror = () => done('error');
                      document.head.append(element);
                  });
                  return { own: await include('script', { src: `${arg.by}/script` }),
                           page: await include('script', { src: arg.page }),
                           read: await include('script', { src: arg.read }),
                           style: await include('link', { rel: 'stylesheet', href: arg.page }),
                           fetched: await ask(arg.page, { mode: 'no-cors' }) }";
    for by in [&scene.unlisted, &scene.listed] {
        arg["by"] = json!(origin(by));
        scene.visit(stage, by)?;
        let seen = scene.run(stage, script, &arg)?;
        if seen["own"] != "loaded" {
            return inconclusive("the page cannot include a script of its own");
        }
        stage.control("a script of the page's own server is loaded");
        for what in ["page", "read", "style"] {
            ensure!(seen[what] == "error", "{what}: {}", seen[what]);
        }
        ensure_blocked("the page, fetched without CORS", &seen["fetched"])?;
    }
    let arrived = scene.arrived(&path_of(&arg["page"]));
    if arrived.len() < 6 {
        return inconclusive(format!("arrived: {}", brief(&arrived)));
    }
    let refused = |arrived: &Arrived| matches!(arrived.status, Some(401 | 403));
    ensure!(arrived.iter().all(refused), "{}", brief(&arrived));
    stage.observed(brief(&arrived));
    scene.control(stage)
}

/// A worker that answers every navigation in the daemon's place.
const HIJACKER: &str = "addEventListener('install', () => skipWaiting());
    addEventListener('activate', event => event.waitUntil(clients.claim()));
    addEventListener('fetch', event => {
        if (event.request.mode !== 'navigate') return;
        event.respondWith(new Response('<!doctype html><title>hijacked</title>', { headers: { 'Content-Type': 'text/html' } }));
    });";

/// A squatter has left a service worker at the port that the daemon gets: it ends, and the daemon answers.
#[case("BROW-28")]
fn foreign_worker_is_removed(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    stage.expect("the worker is replaced by one that ends itself; then the daemon answers for its page");
    let squatter = Squatter::responding(|seen, _| match &*seen.target {
        "/worker" => response(200, &[("Content-Type", "text/javascript")], HIJACKER.as_bytes()),
        _ => page(""),
    });
    let squatter = squatter.noted(stage.transcript(), "squatter").start(Bind::V4)?;
    let address = format!("{}/", origin(&squatter));
    scene.visit_at(stage, &address)?;
    scene.run(
        stage,
        "await navigator.serviceWorker.register('/worker');
         await navigator.serviceWorker.ready;
         if (!navigator.serviceWorker.controller) {
             await new Promise(done => { navigator.serviceWorker.oncontrollerchange = done; });
         }",
        &arg,
    )?;
    let daemon = scene.take_over(squatter)?;
    let title = "return document.title";
    scene.visit_at(stage, &address)?;
    if scene.run(stage, title, &arg)? != "hijacked" {
        return inconclusive("the worker does not answer in the daemon's place");
    }
    stage.precondition("a worker that a squatter left answers for the page at the daemon's port");
    // Engines look after a load, Chromium a second later, whether there is another worker.
    let asked = daemon.ledger().wait_for(Instant::now() + SEEN, |taken| {
        let mut requests = taken.iter().flat_map(Taken::requests);
        requests.any(|request| request.header("service-worker") == Some("script"))
    });
    if asked.is_none() {
        return inconclusive("the engine does not ask for the worker");
    }
    // Its end comes before the next load, because one that was given to a worker which ends does not end in Chromium. The
    // daemon's worker may load the page again by itself, which cuts a script off, for an engine's own bound at worst.
    let gone = until(Instant::now() + SEEN * 3, || {
        let left = "return (await navigator.serviceWorker.getRegistrations()).length";
        let left = scene.run(stage, left, &arg).ok()?;
        (left == 0).then_some(())
    });
    ensure!(gone.is_some(), "30 s after it was asked for, the worker is still registered");
    scene.open_tab()?;
    scene.visit_at(stage, &address)?;
    let title = scene.run(stage, title, &arg)?;
    ensure!(title != "hijacked", "the worker still answers");
    Ok(())
}

/// The daemon is killed under its page, at the page host and at 127.0.0.1, and another launch gets its port:
/// what the page asks with its token is refused.
#[case("BROW-8", "PER-7")]
fn own_page_after_a_restart(stage: &mut Stage) -> Outcome {
    let mut scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    stage.expect("421 for what a page at the host of the launch before asks, 401 for one at 127.0.0.1");
    for (host, status) in [(None, 421), (Some("127.0.0.1"), 401)] {
        let ticket = match host {
            Some(host) => page_ticket_at(stage, &scene.live, host)?,
            None => page_ticket(stage, &scene.live)?,
        };
        scene.visit_at(stage, &format!("{}#ticket={ticket}", own_page(&scene, &ticket)))?;
        let token = wait_for_page(stage, &scene, &arg, 1)?;
        let port = scene.go_down(stage)?;
        scene.come_back(stage, port)?;
        let with_token =
            |arrived: &Arrived| arrived.request.target.contains(&token) || token_of(arrived) == Some(&token);
        let arrived = scene.wait_arrived("a request with the old token", 1, with_token)?;
        ensure!(arrived.iter().all(|arrived| arrived.status == Some(status)), "{}", brief(&arrived));
        stage.observed(brief(&arrived));
    }
    scene.control(stage)
}

/// A page of an allowlisted origin redeems a handoff ticket, and uses its token; so does a page of another
/// origin.
#[case("BROW-32", "BROW-2", "BROW-10", "BROW-11")]
fn handoff_to_one_origin(stage: &mut Stage) -> Outcome {
    let scene = Scene::set_allowing(stage, |_, listed| vec![origin(listed)])?;
    let mut arg = scene.arg(stage, 0)?;
    let to = origin(&scene.listed);
    let ticket = handoff_ticket(stage, &scene.live, &to)?;
    stage.expect(
        "a token for the origin of the ticket, once; it reads and follows from there, and from nowhere else",
    );
    arg["handoff"] = json!(format!("{}{HANDOFF}", origin(&scene.front)));
    let opened =
        format!("{to}/#ldp_ticket={ticket}&ldp_url={}", super::scene::percent_encoded(&origin(&scene.front)));
    scene.visit_at(stage, &opened)?;
    let redeem = "const given = new URLSearchParams(location.hash.slice(1));
                  const body = JSON.stringify({ ticket: given.get('ldp_ticket') });
                  window.redeem = () => ask(arg.handoff, { method: 'POST', headers: json, body });
                  const first = await redeem();
                  const token = first.status === 200 ? JSON.parse(first.body).token : null;
                  return { status: first.status, error: first.error, token }";
    let first = scene.run(stage, redeem, &arg)?;
    let token = first["token"].as_str().unwrap_or_default().to_owned();
    stage.transcript().hide(token.as_bytes());
    ensure!(is_success(&first) && !token.is_empty(), "the ticket: {}", told(&first));
    let credential = arg["token"].as_str().unwrap_or_default().to_owned();
    ensure!(token != credential, "the page has the credential itself");
    let use_it = "return ask(arg.read, { method: arg.read_method, headers: bearer() })";
    let mut with_token = arg.clone();
    with_token["token"] = json!(token);
    with_token["notes"] = json!(arg["notes"].as_str().unwrap_or_default().replace(&credential, &token));
    let seen = scene.run(stage, use_it, &with_token)?;
    ensure!(is_success(&seen), "a read with the token: {}", told(&seen));
    scene.run(
        stage,
        "follow('s', arg.notes); await until(() => window.streams.s.opened, 'the stream')",
        &with_token,
    )?;
    stage.control("the page reads and follows the stream with its token");
    let second = scene.run(stage, "return redeem()", &arg)?;
    ensure!(second["status"] == 401, "the ticket, a second time: {}", told(&second));
    // A page of the daemon's own origin, which needs no list, with the token of another one.
    let Some(other) = scene.page_at(stage, "127.0.0.1")? else {
        return inconclusive("the engine does not open 127.0.0.1");
    };
    with_token["read"] = json!(path_of(&arg["read"]));
    let seen = scene.run(stage, use_it, &with_token)?;
    let arrived = other.ledger().requests().len();
    ensure!(
        arrived > 0 && seen["status"] == 401,
        "with the token from another origin: {}; {arrived} requests arrived",
        told(&seen)
    );
    let posts = of_method(&scene.arrived(HANDOFF), "POST");
    let statuses: Vec<_> = posts.iter().map(|post| post.status).collect();
    ensure!(statuses == [Some(200), Some(401)], "{}", brief(&posts));
    stage.observed(brief(&posts));
    Ok(())
}
