//! Fetches across origins: what the engine asks first, what it sends, what the page may see.

use serde_json::json;

use super::scene::{SEEN, Scene, at, brief, ensure_blocked, is_success, of_method, path_of, told};
use crate::case::case;
use crate::fixtures::http::{Follower, marker};
use crate::outcome::{Outcome, deviation, ensure, inconclusive};
use crate::stage::Stage;

const READ: &str = "return ask(arg.read, { method: arg.read_method, headers: bearer() })";
const EMIT: &str = "return ask(arg.emit, \
                    { method: arg.emit_method, headers: { ...bearer(), ...json }, body: arg.emit_body })";

/// An allowlisted page reads and changes something with the credential: the engine asks beforehand, and each
/// is served.
#[case("PER-15", "PER-13", "PER-16", "PER-17")]
fn allowlisted_fetch(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let number = marker(stage);
    let arg = scene.arg(stage, number)?;
    stage.expect("OPTIONS and the verb arrive for each; the page sees 2xx");
    scene.visit(stage, &scene.listed)?;
    for (what, script, url, method) in [
        ("the read", READ, &arg["read"], &arg["read_method"]),
        ("the change", EMIT, &arg["emit"], &arg["emit_method"]),
    ] {
        let seen = scene.run(stage, script, &arg)?;
        let arrived = scene.arrived(&path_of(url));
        let after = brief(&arrived);
        ensure!(is_success(&seen), "{what}: {}; arrived: {after}", told(&seen));
        let method = method.as_str().unwrap_or_default();
        if of_method(&arrived, "OPTIONS").is_empty() || of_method(&arrived, method).len() != 1 {
            return deviation(format!("{what}: not a preflight and one request: {after}"));
        }
        stage.observed(after);
    }
    Ok(())
}

/// A page that is not allowlisted reads with the credential: the engine asks, is refused, and sends nothing
/// more.
#[case("PER-8", "PER-9", "PER-10")]
fn unlisted_fetch_blocked(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let number = marker(stage);
    let arg = scene.arg(stage, number)?;
    stage.expect("OPTIONS arrives and is refused, nothing else; the page sees a TypeError");
    scene.visit(stage, &scene.unlisted)?;
    for (what, script, url) in [
        ("the read", READ, &arg["read"]),
        ("the change", EMIT, &arg["emit"]),
    ] {
        let seen = scene.run(stage, script, &arg)?;
        let arrived = scene.arrived(&path_of(url));
        ensure_blocked(what, &seen)?;
        let preflights = of_method(&arrived, "OPTIONS");
        let after = format!("{what}: {}", brief(&arrived));
        ensure!(preflights.len() == arrived.len(), "{after}");
        if preflights.is_empty() {
            return deviation(format!("{after}, not even a preflight"));
        }
        let refused = preflights.iter().all(|preflight| preflight.status == Some(403));
        ensure!(refused, "{after}");
        stage.observed(after);
    }
    // What needs no preflight is answered, and not to be seen.
    let seen = scene.run(stage, "return ask(`${arg.read}?simple`)", &arg)?;
    let mut simple = scene.arrived(&path_of(&arg["read"]));
    simple.retain(|arrived| arrived.request.target.ends_with("?simple"));
    ensure_blocked("a read that needs no preflight", &seen)?;
    let refused = simple.iter().all(|arrived| arrived.status == Some(403));
    ensure!(refused, "a read that needs no preflight: {}", brief(&simple));
    // A dead port would look the same to the page.
    let seen = scene.run(stage, "return ask(arg.read, { mode: 'no-cors' })", &arg)?;
    if seen["type"] != "opaque" {
        return inconclusive(format!("the page cannot reach the daemon: {}", told(&seen)));
    }
    stage.control("without CORS the same page reaches the daemon");
    scene.control(stage)
}

/// A page of an allowlisted server, opened at other names of that server, reads with the credential: blocked.
#[case("PER-10")]
fn another_name_blocked(stage: &mut Stage) -> Outcome {
    const LISTED: &str = "app.localhost";
    let scene =
        Scene::set_allowing(stage, |_, listed| vec![super::scene::origin(listed), at(LISTED, listed)])?;
    let arg = scene.arg(stage, 0)?;
    stage.expect("a TypeError at localhost and at a name below a listed one, 2xx at 127.0.0.1");
    for name in ["localhost", &format!("below.{LISTED}")] {
        let from = at(name, &scene.listed);
        scene.visit_at(stage, &from)?;
        let seen = scene.run(stage, READ, &arg)?;
        let mut arrived = scene.arrived(&path_of(&arg["read"]));
        arrived.retain(|arrived| arrived.header("origin") == Some(&from));
        ensure_blocked(name, &seen)?;
        ensure!(arrived.iter().all(|arrived| arrived.request.method == "OPTIONS"), "{}", brief(&arrived));
        stage.observed(brief(&arrived));
    }
    scene.control(stage)
}

/// An allowlisted page tries a method that the route does not take and a header that is not listed: both end
/// with the preflight.
#[case("PER-16", "PER-17")]
fn unlisted_method_or_header_blocked(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let arg = scene.arg(stage, 0)?;
    stage.expect("OPTIONS alone arrives; the page sees a TypeError");
    scene.control(stage)?;
    let path = path_of(&arg["read"]);
    for (what, script) in [
        ("DELETE", "return ask(arg.read, { method: 'DELETE', headers: bearer() })"),
        ("PUT", "return ask(arg.read, { method: 'PUT', headers: bearer() })"),
        (
            "a header of the page's own",
            "return ask(arg.read, { method: arg.read_method, headers: { ...bearer(), 'X-Other': '1' } })",
        ),
    ] {
        let before = scene.arrived(&path).len();
        let seen = scene.run(stage, script, &arg)?;
        let all = scene.arrived(&path);
        let arrived = &all[before.min(all.len())..];
        ensure_blocked(what, &seen)?;
        let preflights = of_method(arrived, "OPTIONS");
        ensure!(preflights.len() == arrived.len(), "{what}: {}", brief(arrived));
        stage.observed(format!("{what}: {}", brief(arrived)));
    }
    Ok(())
}

/// Pages, allowlisted or not, send what needs no preflight: a text, a beacon, a form. It arrives, is refused
/// and has no effect.
#[case("PER-2", "PER-8", "PER-21")]
fn simple_requests_change_nothing(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let stream = stage.stream_route()?.ask(&scene.live).bearer(&scene.live);
    let mut follower = Follower::open(&scene.live, &stream)?;
    stage
        .expect("each arrives; 403 for the page that is not allowlisted, 401 for the one that is; no effect");
    let numbers = [marker(stage), marker(stage)];
    for (page, actor, status, number) in [
        ("not allowlisted", &scene.unlisted, 403, numbers[0]),
        ("allowlisted", &scene.listed, 401, numbers[1]),
    ] {
        let arg = scene.arg(stage, number)?;
        let path = path_of(&arg["emit"]);
        // A form says `name=value`: the sign ends up in a member that nobody asks for.
        let body = arg["emit_body"].as_str().unwrap_or_default().trim_end();
        let name = format!("{},\"x\":\"", body.strip_suffix('}').unwrap_or(body));
        let mut extended = arg.clone();
        extended["form"] = json!(name);
        scene.visit(stage, actor)?;
        let from = super::scene::origin(actor);
        let script = "await ask(arg.emit, { method: 'POST', mode: 'no-cors', body: arg.emit_body });
                      navigator.sendBeacon(arg.emit, arg.emit_body);
                      submit(arg.emit, arg.form, '\"}', 'frame');";
        scene.run(stage, script, &extended)?;
        let arrived = scene.wait_arrived(page, 3, |arrived| {
            arrived.request.method == "POST"
                && arrived.request.target == path
                && arrived.header("origin") == Some(&from)
        })?;
        ensure!(arrived.iter().all(|arrived| arrived.status == Some(status)), "{page}: {}", brief(&arrived));
        stage.observed(format!("{page}: {}", brief(&arrived)));
    }
    let last = marker(stage);
    let emit = stage.emit_route(last)?.ask(&scene.live).bearer(&scene.live);
    scene.live.served(&emit.named("a good note after them"))?;
    if !follower.wait_for(last, std::time::Instant::now() + SEEN) {
        return inconclusive("the stream does not show a good note");
    }
    stage.control("a note with the credential appears on the stream");
    for number in numbers {
        ensure!(!follower.has(number), "a note of a refused request is on the stream");
    }
    Ok(())
}

/// An allowlisted page reads in the mode without CORS: the engine takes the credential off, and the daemon
/// refuses.
#[case("PER-21")]
fn no_cors_carries_no_credential(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let number = marker(stage);
    let arg = scene.arg(stage, number)?;
    stage.expect("no Authorization and no JSON arrive; 401");
    scene.visit(stage, &scene.listed)?;
    let script = "const init = { mode: 'no-cors', headers: { ...bearer(), ...json } };
                  return [await ask(arg.read, init),
                          await ask(arg.emit, { ...init, method: 'POST', body: arg.emit_body })]";
    let seen = scene.run(stage, script, &arg)?;
    let mut arrived = scene.arrived(&path_of(&arg["read"]));
    if arg["emit"] != arg["read"] {
        arrived.extend(scene.arrived(&path_of(&arg["emit"])));
    }
    if arrived.len() != 2 || seen[0]["type"] != "opaque" {
        return inconclusive(format!("arrived: {}; {}", brief(&arrived), told(&seen[0])));
    }
    let json = |value: &str| value.contains("json");
    if arrived.iter().any(|arrived| {
        arrived.header("authorization").is_some() || arrived.header("content-type").is_some_and(json)
    }) {
        return deviation("the engine lets the credential or the type through");
    }
    scene.all_unauthorized(stage, &arrived)
}

/// An allowlisted page reads, its origin is removed, and it reads again while the engine still holds the
/// preflight.
#[case("PER-19")]
fn removed_origin_refused_after_its_preflight(stage: &mut Stage) -> Outcome {
    // The list is changed by command, so that nothing of it may stand in the daemon's own arguments.
    let scene = Scene::set_allowing(stage, |_, _| Vec::new())?;
    let arg = scene.arg(stage, 0)?;
    let origin = super::scene::origin(&scene.listed);
    stage.expect("403 for the request after the removal, with or without another preflight");
    let added = stage.add_origin(&origin)?;
    if added.code != Some(0) {
        return inconclusive(format!("the origin was not added: {added}"));
    }
    scene.control(stage)?;
    let path = path_of(&arg["read"]);
    let before = scene.arrived(&path).len();
    let seen = scene.run(stage, READ, &arg)?;
    let all = scene.arrived(&path);
    let cached = of_method(&all[before..], "OPTIONS").is_empty();
    if !is_success(&seen) {
        return inconclusive(format!("the second read: {}", told(&seen)));
    }
    let held = if cached { "holds" } else { "does not hold" };
    stage.precondition(format!("the engine {held} the preflight"));
    let removed = stage.remove_origin(&origin)?;
    if removed.code != Some(0) {
        return inconclusive(format!("the origin was not removed: {removed}"));
    }
    let before = all.len();
    let seen = scene.run(stage, READ, &arg)?;
    let all = scene.arrived(&path);
    let after = &all[before..];
    ensure_blocked("after the removal", &seen)?;
    let refused = !after.is_empty() && after.iter().all(|arrived| arrived.status == Some(403));
    ensure!(refused, "after the removal: {}", brief(after));
    stage.observed(brief(after));
    Ok(())
}
