//! Cookies, which have no port, and pages that outlive their server.

use local_daemon_harness::actors::{Actor, Bind, Squatter, response};
use serde_json::{Value, json};

use super::scene::{Arrived, Scene, at, brief, is_success, origin, told};
use crate::case::case;
use crate::outcome::{Outcome, deviation, ensure, inconclusive};
use crate::stage::Stage;

/// The names under which a daemon might look for a credential.
const NAMES: [&str; 6] = [
    "token",
    "credential",
    "session",
    "auth",
    "Authorization",
    "local-daemon",
];

/// A server at another port of this machine that sets strict cookies with this value.
fn baker(stage: &Stage, value: &str) -> Outcome<Actor> {
    let value = value.to_owned();
    let baker = Squatter::responding(move |_, _| {
        let cookies = NAMES.map(|name| format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict"));
        let mut headers: Vec<(&str, &str)> = vec![("Content-Type", "text/html")];
        headers.extend(cookies.iter().map(|cookie| ("Set-Cookie", cookie.as_str())));
        response(200, &headers, b"<!doctype html><title>suite</title>")
    });
    Ok(baker.noted(stage.transcript(), "baker").start(Bind::V4)?)
}

/// The requests that carry a cookie of the baker.
fn with_cookie(arrived: &[Arrived]) -> Vec<Arrived> {
    let with = arrived
        .iter()
        .filter(|arrived| arrived.header("cookie").is_some_and(|cookie| cookie.contains("credential=")));
    with.cloned().collect()
}

/// Nothing of it was served. What an engine asks for by itself is no page's request.
fn ensure_all_refused(arrived: &[Arrived]) -> Outcome {
    let refused = |arrived: &Arrived| arrived.status.is_some_and(|status| (400..500).contains(&status));
    ensure!(arrived.iter().all(refused), "{}", brief(arrived));
    Ok(())
}

/// Another port of this machine has set strict cookies that hold the credential. They arrive with every kind
/// of request, and open nothing.
#[case("PER-23")]
fn cookies_open_nothing(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    let baker = baker(stage, arg["token"].as_str().unwrap_or_default())?;
    stage.expect("the cookies arrive, and every request is refused");
    scene.visit(stage, &baker)?;
    let script = "const init = { credentials: 'include' };
                  const bare = `${arg.stream ?? arg.read}?topics=${arg.topic}`;
                  new EventSource(bare, { withCredentials: true });
                  new WebSocket(bare.replace('http:', 'ws:'));
                  const add = (kind, by) => {
                      document.body.append(Object.assign(document.createElement(kind), { src: `${arg.read}?by=${by}` }));
                  };
                  add('iframe', 'frame');
                  add('img', 'image');
                  await ask(`${arg.read}?by=no-cors`, { ...init, mode: 'no-cors' });
                  return ask(`${arg.read}?by=fetch`, init)";
    let asks =
        |arrived: &Arrived| arrived.request.target.contains('?') && arrived.request.method != "OPTIONS";
    for (page, count) in [(&scene.listed, 6), (&scene.unlisted, 12)] {
        scene.visit(stage, page)?;
        let seen = scene.run(stage, script, &arg)?;
        ensure!(!is_success(&seen), "with credentials: {}", told(&seen));
        scene.wait_arrived("every kind of request", count, asks)?;
    }
    // A navigation carries no origin. Whether the engine shows its refusal is its own matter.
    let url = format!("{}?by=navigation", arg["read"].as_str().unwrap_or_default());
    let _ = scene.open(&url);
    let arrived = scene.wait_arrived("the navigation", 13, asks)?;
    let carried = with_cookie(&arrived);
    if carried.is_empty() {
        return inconclusive(format!("no cookie arrived: {}", brief(&arrived)));
    }
    stage.precondition(format!(
        "{} of {} requests carried the cookies of another port",
        carried.len(),
        arrived.len()
    ));
    ensure_all_refused(&arrived)?;
    stage.observed(brief(&carried));
    scene.control(stage)
}

/// One port of this machine sets cookies, and another one the same with the credential in them: they arrive,
/// and open nothing.
#[case("PER-23")]
fn overwritten_cookies_open_nothing(stage: &mut Stage) -> Outcome {
    const FIRST: &str = "of-the-first-port";
    let scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    let first = baker(stage, FIRST)?;
    let second = baker(stage, arg["token"].as_str().unwrap_or_default())?;
    stage.expect("what the first port set arrives, then what the second one set in its place; 401 for both");
    let read = "return ask(`${arg.read}?by=${arg.by}`, { credentials: 'include' })";
    let mut carried = Vec::new();
    for (by, baker) in [("first", &first), ("second", &second)] {
        scene.visit(stage, baker)?;
        scene.visit(stage, &scene.listed)?;
        let mut arg = arg.clone();
        arg["by"] = json!(by);
        scene.run(stage, read, &arg)?;
        let arrived =
            scene.wait_arrived(by, 1, |arrived| arrived.request.target.ends_with(&format!("by={by}")))?;
        let statuses = arrived.iter().all(|arrived| arrived.status == Some(401));
        ensure!(statuses, "{}", brief(&arrived));
        carried.extend(arrived.last().and_then(|arrived| arrived.header("cookie")).map(str::to_owned));
    }
    let [before, after] = &carried[..] else {
        return inconclusive(format!("{} of 2 requests carried cookies", carried.len()));
    };
    let token = arg["token"].as_str().unwrap_or_default();
    if !before.contains(FIRST) || after.contains(FIRST) || !after.contains(token) {
        return deviation("one port's cookies do not take the place of another's");
    }
    stage.precondition(
        "the second port's cookies, which hold the credential, took the place of the first one's",
    );
    scene.control(stage)
}

/// Strict cookies of 127.0.0.1 do not come along from a page at localhost, and it is refused without them.
#[case("PER-23")]
fn no_strict_cookie_across_names(stage: &mut Stage) -> Outcome {
    let scene = Scene::set_allowing(stage, |_, listed| vec![origin(listed), at("localhost", listed)])?;
    let arg = scene.arg(stage, 0)?;
    let baker = baker(stage, arg["token"].as_str().unwrap_or_default())?;
    stage.expect("no cookie from localhost, cookies from 127.0.0.1; 401 for both");
    scene.visit(stage, &baker)?;
    let mut sorts: Vec<Vec<Arrived>> = Vec::new();
    for name in ["localhost", "127.0.0.1"] {
        scene.visit_at(stage, &at(name, &scene.listed))?;
        let mut arg = arg.clone();
        arg["read"] = json!(format!("{}?by={name}", arg["read"].as_str().unwrap_or_default()));
        scene.run(stage, "return ask(arg.read, { credentials: 'include' })", &arg)?;
        let arrived =
            scene.wait_arrived(name, 1, |arrived| arrived.request.target.ends_with(&format!("by={name}")))?;
        ensure!(arrived.iter().all(|arrived| arrived.status == Some(401)), "{}", brief(&arrived));
        sorts.push(arrived);
    }
    if with_cookie(&sorts[1]).is_empty() {
        return inconclusive("no cookie arrived from 127.0.0.1 either");
    }
    stage.control("from a page at 127.0.0.1 the cookies arrive");
    if !with_cookie(&sorts[0]).is_empty() {
        return deviation("strict cookies arrive from localhost");
    }
    stage.observed("no cookie from localhost");
    Ok(())
}

/// A page of a server that has died asks the daemon that has got its port, as same-origin as can be, with
/// cookies: it is refused, and no answer holds a secret.
#[case("PER-21", "PER-23")]
fn stale_page_gets_nothing(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let mut arg = scene.arg(stage, 0)?;
    let token = arg["token"].as_str().unwrap_or_default().to_owned();
    let baker = baker(stage, &token)?;
    stage.expect("401 for whatever the stale page asks, and no answer with a secret");
    // The baker is the server that dies: its page stays, and its cookies.
    scene.visit(stage, &baker)?;
    let taken_over = scene.take_over(baker)?;
    let mut paths = stage.paths();
    paths.push("/page".to_owned());
    arg["paths"] = json!(paths);
    let script = "const seen = {};
                  for (const path of arg.paths) seen[path] = await ask(path, { credentials: 'include' });
                  return seen";
    let seen = scene.run(stage, script, &arg)?;
    let arrived: Vec<String> = taken_over
        .ledger()
        .requests()
        .iter()
        .filter(|request| request.header("cookie").is_some())
        .map(|request| request.target.clone())
        .collect();
    if arrived.len() < paths.len() {
        return inconclusive(format!("with cookies arrived only {}", arrived.join(", ")));
    }
    stage.precondition(format!(
        "the page of a dead server asked {} paths at its old port, with cookies and as same-origin",
        arrived.len()
    ));
    for (path, seen) in seen.as_object().into_iter().flatten() {
        let refused = seen["status"].as_u64() == Some(401);
        ensure!(refused, "{path}: {}", told(seen));
        let body = seen["body"].as_str().unwrap_or_default();
        ensure!(!body.contains(&token), "{path}: the answer holds the credential");
    }
    // The same page, by the credential: what was refused was not the front.
    let script = "return ask(arg.path, { method: arg.read_method, headers: bearer() })";
    arg["path"] = Value::String(super::scene::path_of(&arg["read"]));
    let seen = scene.run(stage, script, &arg)?;
    if !is_success(&seen) {
        return inconclusive(format!("with the credential: {}", told(&seen)));
    }
    stage.control("with the credential the same page is served");
    Ok(())
}
