//! Names and addresses that lead to the daemon, and pages that the engine takes for public or secure ones.

use std::time::{Duration, Instant};

use local_daemon_harness::browser::Kind;
use local_daemon_harness::platform::which;
use local_daemon_harness::process::Subject;
use serde_json::{Value, json};

use super::scene::{Scene, brief, is_one_of, is_success, origin, path_of, told};
use crate::case::case;
use crate::outcome::{Outcome, deviation, ensure, inconclusive, not_applicable, untestable};
use crate::stage::Stage;

/// Asks every path with the credential, from a page of the daemon's own, whatever it is called there.
const ASK_ALL: &str = "const seen = {};
    for (const path of arg.paths) seen[`GET ${path}`] = await ask(path, { headers: bearer() });
    seen.change = await ask(arg.emit_path,
        { method: arg.emit_method, headers: { ...bearer(), ...json }, body: arg.emit_body });
    return seen";

/// What [`ASK_ALL`] takes.
fn asks(stage: &mut Stage, scene: &Scene) -> Outcome<Value> {
    let mut arg = scene.arg(stage, 0)?;
    let stream = stage.stream_route().ok().map(|stream| stream.path);
    let mut paths = stage.paths();
    // A stream that opens has no end to wait for.
    paths.retain(|path| Some(path) != stream.as_ref());
    let handshake = stage.handshake_route().path;
    if !paths.contains(&handshake) {
        paths.push(handshake);
    }
    arg["paths"] = json!(paths);
    arg["emit_path"] = json!(path_of(&arg["emit"]));
    Ok(arg)
}

/// A page that has the daemon's own name and port is served what it asks for with the credential.
fn right_name(stage: &mut Stage, scene: &Scene, arg: &Value) -> Outcome {
    let Some(_front) = scene.page_at(stage, "127.0.0.1")? else {
        return inconclusive("the engine does not open 127.0.0.1");
    };
    let seen = scene.run(stage, ASK_ALL, arg)?;
    if !is_success(&seen["change"]) {
        let told = told(&seen["change"]);
        return inconclusive(format!("the change by the right name: {told}"));
    }
    stage.control("by 127.0.0.1 the change of such a page is served");
    Ok(())
}

/// What the page asks by this name is 421; `false` where the engine does not get there by it.
fn is_misdirected(stage: &mut Stage, scene: &Scene, arg: &Value, name: &str) -> Outcome<bool> {
    let Some(front) = scene.page_at(stage, name)? else {
        return Ok(false);
    };
    let seen = scene.run(stage, ASK_ALL, arg)?;
    let requests = front.ledger().requests();
    let named = |host: &str| host.starts_with(name);
    if requests.is_empty() || !requests.iter().all(|request| request.header("host").is_some_and(named)) {
        return inconclusive(format!("{} requests arrived from {name}, not all by it", requests.len()));
    }
    stage.precondition(format!("{} requests of a page at {name} arrived", requests.len()));
    for (path, seen) in seen.as_object().into_iter().flatten() {
        ensure!(seen["status"] == 421, "{path} by {name}: {}", told(seen));
    }
    Ok(true)
}

/// A page at a name that was rebound to this machine asks every route with the credential: 421.
#[case("PER-3", "PER-7")]
fn rebound_name_refused(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let arg = asks(stage, &scene)?;
    stage.expect("421 for each");
    right_name(stage, &scene, &arg)?;
    if !is_misdirected(stage, &scene, &arg, scene.rebound_name())? {
        return inconclusive("the engine does not open the rebound name");
    }
    Ok(())
}

/// The daemon is opened by other spellings of a loopback address: 421, unless the engine makes a right one of
/// it.
#[case("PER-3", "PER-7")]
fn other_spellings_of_loopback_refused(stage: &mut Stage) -> Outcome {
    let scene = Scene::set(stage)?;
    let arg = asks(stage, &scene)?;
    stage.expect("421 by each name that arrives as it is written");
    right_name(stage, &scene, &arg)?;
    let (mut refused, mut others) = (Vec::new(), Vec::new());
    for name in [
        "localhost.",
        "foo.localhost",
        "0.0.0.0",
        "[::ffff:7f00:1]",
        "127.1",
        "2130706433",
    ] {
        if is_misdirected(stage, &scene, &arg, name)? {
            refused.push(name);
        } else {
            others.push(name);
        }
    }
    if refused.is_empty() {
        return inconclusive("none arrives");
    }
    stage.observed(format!(
        "421 by {}; not reached, or made another name: {}",
        refused.join(", "),
        others.join(", ")
    ));
    Ok(())
}

/// A page of the public internet reaches the daemon: nothing arrives unless the user grants it, then the
/// allowlist decides; a form arrives always, and is refused.
#[case("PER-13", "PER-8")]
fn public_page_needs_a_grant(stage: &mut Stage) -> Outcome {
    let scene = Scene::set_allowing(stage, |browser, listed| vec![origin(listed), origin(browser.public())])?;
    if is_one_of(&scene, &[Kind::Webkit]) {
        return not_applicable(
            "WebKitGTK (2.50) knows no local network access: public pages reach loopback as any",
        );
    }
    let arg = scene.arg(stage, 0)?;
    stage.expect("nothing arrives ungranted but the form, which is 401; granted, the read is served");
    scene.control(stage)?;
    let before = scene.arrived(&path_of(&arg["read"])).len();
    scene.permit("loopback-network", false)?;
    let public = origin(scene.public());
    scene.visit_at(stage, &public)?;
    // Firefox waits for the user, Chromium without a window answers for them.
    let read = "return ask(arg.read, \
                { method: arg.read_method, headers: bearer(), signal: AbortSignal.timeout(1500) })";
    let seen = scene.run(stage, read, &arg)?;
    let arrived = scene.arrived(&path_of(&arg["read"]));
    if is_success(&seen) || arrived.len() != before {
        let after = brief(&arrived[before..]);
        return deviation(format!("ungranted: {}; arrived: {after}", told(&seen)));
    }
    stage.observed(format!("ungranted: {}, nothing arrives", told(&seen)));
    scene.permit("loopback-network", true)?;
    let seen = scene.run(stage, read, &arg)?;
    let after = brief(&scene.arrived(&path_of(&arg["read"]))[before..]);
    scene.permit("loopback-network", false)?;
    ensure!(is_success(&seen), "granted: {}; arrived: {after}", told(&seen));
    stage.observed(format!("granted: {after}"));
    // A form that leads the whole tab there needs no grant.
    let script = "submit(arg.emit, 'x', 'y')";
    scene.visit_at(stage, &public)?;
    scene.run(stage, script, &arg)?;
    let path = path_of(&arg["emit"]);
    let posts = scene.wait_arrived("the form", 1, |arrived| {
        arrived.request.method == "POST"
            && arrived.request.target == path
            && arrived.header("content-type") == Some("text/plain")
    })?;
    ensure!(posts.iter().all(|post| post.status == Some(401)), "{}", brief(&posts));
    stage.observed(brief(&posts));
    Ok(())
}

/// A page at `https://127.0.0.1`, and its origin. The engines are told to take any certificate.
fn secure_site(stage: &mut Stage) -> Outcome<(Subject, String)> {
    const START: Duration = Duration::from_secs(10);
    let Some(openssl) = which("openssl") else {
        return untestable("no openssl here, which serves the page over TLS");
    };
    let program = openssl.to_string_lossy().into_owned();
    let certify = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1 \
                   -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem";
    let serve = "s_server -accept 127.0.0.1:0 -key key.pem -cert cert.pem -WWW";
    let command = |words: &str| -> Vec<String> {
        let words = words.split_whitespace().map(str::to_owned);
        std::iter::once(program.clone()).chain(words).collect()
    };
    let certified = stage.arena().launch("certificate", command(certify)).start()?;
    let exit = certified.wait_exit(Instant::now() + START);
    if exit.as_ref().is_none_or(|exit| exit.code != Some(0)) {
        return untestable("openssl makes no certificate");
    }
    std::fs::write(stage.arena().home().join("page.html"), "<!doctype html><title>suite</title>")?;
    let server = stage.arena().launch("secure page", command(serve)).start()?;
    match server.wait_listening(Instant::now() + START) {
        Some(address) => Ok((server, format!("https://127.0.0.1:{}", address.port()))),
        None => untestable("openssl serves no page"),
    }
}

/// An allowlisted page that was served over TLS reads and follows the stream: served where the engine lets it
/// ask.
#[case("PER-13", "PER-15")]
fn secure_page_reaches_the_daemon(stage: &mut Stage) -> Outcome {
    let (_server, secure) = secure_site(stage)?;
    let scene = Scene::set_allowing(stage, |_, listed| vec![origin(listed), secure.clone()])?;
    let arg = scene.arg(stage, 0)?;
    stage.expect("Chromium and Firefox let the page read and follow the stream; WebKit lets nothing through");
    scene.control(stage)?;
    scene.visit_at(stage, &format!("{secure}/page.html"))?;
    let script = "const seen = await ask(arg.read, { method: arg.read_method, headers: bearer() });
                  if (seen.error || !arg.notes) return { seen };
                  follow('s', arg.notes);
                  await until(() => window.streams.s.opened, 'the stream');
                  return { seen, stream: told('s') }";
    let seen = scene.run(stage, script, &arg)?;
    let mut arrived = scene.arrived(&path_of(&arg["read"]));
    arrived.retain(|arrived| arrived.header("origin") == Some(&secure));
    let after = format!("{}; arrived: {}", told(&seen["seen"]), brief(&arrived));
    // A page over TLS may not fetch without it, to WebKitGTK (2.50) also where that is this machine.
    if is_one_of(&scene, &[Kind::Webkit]) {
        if !arrived.is_empty() {
            return deviation(after);
        }
        stage.observed(format!("the engine lets nothing through: {after}"));
        return Ok(());
    }
    if arrived.is_empty() {
        return deviation(after);
    }
    ensure!(is_success(&seen["seen"]), "{after}");
    stage.observed(after);
    Ok(())
}
