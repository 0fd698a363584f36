//! Requests whose origin is hidden or does not count: redirected ones, those of opaque origins, upgrades.

use local_daemon_harness::proof;
use serde_json::json;

use super::scene::{
    Arrived, Scene, brief, ensure_blocked, of_method, origin, path_of, percent_encoded, told,
};
use crate::case::case;
use crate::outcome::{Outcome, deviation, ensure, inconclusive};
use crate::stage::Stage;

/// A fetch of an allowlisted page is redirected to the daemon: by its own server it loses the credential, by
/// another one its origin too.
#[case("PER-11", "PER-21")]
fn redirected_fetch_refused(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let mut arg = scene.arg(stage, 0)?;
    stage.expect("401 without the credential from its own server, 403 for the origin null from another one");
    scene.control(stage)?;
    let path = path_of(&arg["read"]);
    let script = "return ask(`${arg.by}/to?${arg.read}`, { headers: bearer() })";
    for (what, by, status, from) in [
        ("its own server", &scene.listed, 401, origin(&scene.listed)),
        ("another server", &scene.unlisted, 403, "null".to_owned()),
    ] {
        arg["by"] = json!(origin(by));
        let before = scene.arrived(&path).len();
        let seen = scene.run(stage, script, &arg)?;
        let all = scene.arrived(&path);
        let arrived = &all[before..];
        let after = format!("redirected by {what}: {}", brief(arrived));
        if arrived.is_empty() {
            return inconclusive(format!("{after}; {}", told(&seen)));
        }
        let requests = of_method(arrived, "GET");
        if arrived.iter().any(|arrived| arrived.header("authorization").is_some()) {
            return deviation(format!("{after}, with the credential"));
        }
        // Where it asks beforehand, Firefox does so in the name of the page, and then sends `null`.
        if requests.iter().any(|request| request.header("origin") != Some(&from)) {
            return deviation(format!("{after}, not from {from}"));
        }
        let refused = requests.iter().all(|request| request.status == Some(status));
        ensure!(refused, "{after}");
        let of_null = |arrived: &&Arrived| arrived.header("origin") == Some("null");
        let mut of_null = arrived.iter().filter(of_null);
        ensure!(of_null.all(|arrived| arrived.status == Some(403)), "{after}");
        if status == 403 {
            ensure_blocked(what, &seen)?;
        }
        stage.observed(after);
    }
    Ok(())
}

/// A sandboxed frame, a data: frame and a file read: each sends the origin null, and is refused.
#[case("PER-11")]
fn null_origins_refused(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    let path = path_of(&arg["read"]);
    stage.expect("403 for the origin null, and a TypeError");
    scene.control(stage)?;
    // A read without and one with the credential: a simple request and a preflight.
    let reads = |from: &str| {
        format!(
            "Promise.all([{{}}, {{ Authorization: {} }}].map(headers => \
             fetch({}, {{ headers }}).then(answer => answer.status, error => error.name)))",
            json!(proof::bearer(&scene.live.credential)),
            json!(format!("{}?from={from}", arg["read"].as_str().unwrap_or_default())),
        )
    };
    let document =
        |from: &str| format!("<script>{}.then(seen => parent.postMessage(seen, '*'))</script>", reads(from));
    let mut frames = vec![
        ("sandbox", json!({ "sandbox": "allow-scripts", "srcdoc": document("sandbox") })),
        ("data", json!({ "src": format!("data:text/html,{}", percent_encoded(&document("data"))) })),
    ];
    let file = stage.arena().path().join("page.html");
    std::fs::write(&file, "<!doctype html><title>suite</title>")?;
    frames.push(("file", json!(null)));
    for (from, attributes) in frames {
        let seen = if attributes.is_null() {
            scene.visit_at(stage, &format!("file://{}", file.display()))?;
            scene.run(stage, &format!("return {}", reads(from)), &arg)?
        } else {
            scene.run(stage, "return framed(arg)", &attributes)?
        };
        let mut arrived = scene.arrived(&path);
        arrived.retain(|arrived| arrived.request.target.ends_with(&format!("from={from}")));
        let after = format!("{from}: {}", brief(&arrived));
        if arrived.is_empty() {
            return inconclusive(format!("{after}; the page saw {seen}"));
        }
        if arrived.iter().any(|arrived| arrived.header("origin") != Some("null")) {
            return deviation(format!("{after}, not from the origin null"));
        }
        ensure!(arrived.iter().all(|arrived| arrived.status == Some(403)), "{after}");
        ensure!(seen == json!(["TypeError", "TypeError"]), "{from}: the page saw {seen}");
        stage.observed(after);
    }
    Ok(())
}

/// A page that is not allowlisted opens a WebSocket with a good query token: refused, and the page sees code
/// 1006.
#[case("PER-28")]
fn web_socket_refused(stage: &mut Stage) -> Outcome {
    let scene = Scene::set_following(stage)?;
    let arg = scene.arg(stage, 0)?;
    stage.expect("403 for the upgrade; the page sees an error and code 1006");
    scene.visit(stage, &scene.unlisted)?;
    let script = "const socket = new WebSocket(arg.notes.replace('http:', 'ws:'));
                  const events = [];
                  socket.onopen = () => events.push('open');
                  socket.onerror = () => events.push('error');
                  return new Promise(done => { socket.onclose = event => done({ events, code: event.code }); })";
    let seen = scene.run(stage, script, &arg)?;
    let arrived = scene.arrived(&path_of(&arg["stream"]));
    let [request] = &arrived[..] else {
        return inconclusive(format!("arrived: {}", brief(&arrived)));
    };
    let from = origin(&scene.unlisted);
    if request.header("upgrade").is_none() || request.header("origin") != Some(&from) {
        return deviation(format!("no upgrade with its origin: {}", brief(&arrived)));
    }
    ensure!(request.status == Some(403), "{}", brief(&arrived));
    ensure!(seen["code"] == 1006 && seen["events"] == json!(["error"]), "the page saw {seen}");
    stage.observed(brief(&arrived));
    scene.control(stage)
}
