//! Event streams as pages follow them.

use std::time::{Duration, Instant};

use local_daemon_harness::browser::Kind;
use local_daemon_harness::process::SocketState;
use local_daemon_harness::wait::until;
use serde_json::{Value, json};

use super::scene::{Arrived, Scene, brief, is_one_of, origin, path_of, percent_encoded};
use crate::case::case;
use crate::outcome::{Outcome, deviation, ensure, inconclusive};
use crate::stage::Stage;

/// Waits in the page until the stream `s` has seen so many numbers.
const WAIT: &str = "await until(() => window.streams.s.numbers.length >= arg.count, `${arg.count} notes`); \
                    return told('s')";

/// An allowlisted page follows the stream by query token; the connection is cut twice while notes are posted.
/// It sees each once, in order.
#[case("STR-15", "STR-12", "PER-26")]
fn event_source_resumes(stage: &mut Stage) -> Outcome {
    let scene = Scene::set_following(stage)?;
    let mut arg = scene.arg(stage, 0)?;
    stage.expect("1 to 6, each once and in order; each further request names the last id");
    scene.visit(stage, &scene.listed)?;
    scene.run(
        stage,
        "follow('s', arg.notes); await until(() => window.streams.s.opened, 'the stream')",
        &arg,
    )?;
    for round in 0..3 {
        scene.emit(stage, round * 2 + 1)?;
        arg["count"] = json!(round * 2 + 1);
        scene.run(stage, WAIT, &arg)?;
        if round < 2 {
            scene.front.cut();
        }
        // Posted while nobody is connected, in the first two rounds.
        scene.emit(stage, round * 2 + 2)?;
        arg["count"] = json!(round * 2 + 2);
        let seen = scene.run(stage, WAIT, &arg)?;
        let expected: Vec<u64> = (1..=round * 2 + 2).collect();
        ensure!(seen["numbers"] == json!(expected), "the page saw {seen}");
    }
    let arrived = scene.arrived(&path_of(&arg["stream"]));
    let named = arrived.iter().filter(|arrived| arrived.header("last-event-id").is_some()).count();
    if arrived.len() < 3 || named + 1 != arrived.len() {
        return deviation(format!("{named} of {} requests name the last id", arrived.len()));
    }
    stage.observed(format!("{} requests, {named} with the last id", arrived.len()));
    Ok(())
}

/// A page that is not allowlisted follows the stream with a good token: the request arrives, and no frame is
/// sent.
#[case("PER-26", "PER-8")]
fn event_source_unlisted_gets_nothing(stage: &mut Stage) -> Outcome {
    let scene = Scene::set_following(stage)?;
    let arg = scene.arg(stage, 0)?;
    stage.expect("the request arrives with its origin, 403; the page's stream closes without an event");
    let follow = "follow('s', arg.notes)";
    scene.visit(stage, &scene.unlisted)?;
    let closed = "await until(() => told('s').closed, 'the end of the stream'); return told('s')";
    let seen = scene.run(stage, &format!("{follow}; {closed}"), &arg)?;
    let arrived = scene.arrived(&path_of(&arg["stream"]));
    if arrived.is_empty() {
        return inconclusive("no request arrived");
    }
    let from = origin(&scene.unlisted);
    if arrived.iter().any(|arrived| arrived.header("origin") != Some(&from)) {
        return deviation(format!("without its origin: {}", brief(&arrived)));
    }
    ensure!(arrived.iter().all(|arrived| arrived.status == Some(403)), "{}", brief(&arrived));
    ensure!(seen["opened"] == 0 && seen["numbers"] == json!([]), "the page saw {seen}");
    stage.observed(brief(&arrived));
    scene.visit(stage, &scene.listed)?;
    scene.run(stage, &format!("{follow}; await until(() => window.streams.s.opened, 'the stream')"), &arg)?;
    stage.control("the same stream opens for the allowlisted page");
    Ok(())
}

/// A page follows the stream with a bad token: 401, and the engine never asks again.
#[case("PER-26", "PER-21")]
fn event_source_bad_token_is_final(stage: &mut Stage) -> Outcome {
    let scene = Scene::set_following(stage)?;
    let mut arg = scene.arg(stage, 0)?;
    let good = arg["notes"].as_str().unwrap_or_default().to_owned();
    let token = arg["token"].as_str().unwrap_or_default();
    let bad = good.replace(token, &"A".repeat(token.len()));
    arg["bad"] = json!(bad);
    stage.expect("401 once; the page's stream is closed for good, while another one reconnects");
    scene.visit(stage, &scene.listed)?;
    let script = "follow('bad', arg.bad); follow('s', arg.notes);
                  await until(() => told('bad').closed && window.streams.s.opened, 'one open and one closed stream')";
    scene.run(stage, script, &arg)?;
    // What is refused has until a cut stream is back to be asked for again.
    scene.front.cut();
    let script = "await until(() => window.streams.s.opened > 1, 'the stream again');
                  return { bad: told('bad'), good: told('s') }";
    let seen = scene.run(stage, script, &arg)?;
    stage.control("a stream with the right token opens, and again after its connection was cut");
    let refused = |arrived: &Arrived| arrived.request.target.contains(&"A".repeat(20));
    let mut arrived = scene.arrived(&path_of(&arg["stream"]));
    arrived.retain(refused);
    ensure!(arrived.iter().all(|arrived| arrived.status == Some(401)), "{}", brief(&arrived));
    if arrived.len() != 1 {
        return deviation(format!("asked {} times: {}", arrived.len(), brief(&arrived)));
    }
    ensure!(seen["bad"]["closed"] == true && seen["bad"]["opened"] == 0, "the page saw {seen}");
    stage.observed(brief(&arrived));
    Ok(())
}

/// The address of the reader that follows the notes.
fn reader(scene: &Scene, arg: &Value) -> String {
    let encoded = percent_encoded(arg["notes"].as_str().unwrap_or_default());
    format!("{}/reader#{encoded}", origin(&scene.listed))
}

/// Waits until the reader has seen `number`, and what it has seen then.
const READ_UNTIL: &str = "await until(() => window.seen.numbers.includes(arg.number), `the note ${arg.number}`); \
                          return window.seen";

/// A page that follows the stream is left and come back to while notes are posted: none is missing, none
/// comes twice.
#[case("STR-15", "STR-12")]
fn away_and_back(stage: &mut Stage) -> Outcome {
    let scene = Scene::set_following(stage)?;
    let mut arg = scene.arg(stage, 0)?;
    stage.expect("1 to 6, each once and in order");
    scene.visit_at(stage, &reader(&scene, &arg))?;
    scene.run(stage, "await until(() => source.readyState === 1, 'the stream')", &arg)?;
    scene.emit(stage, 1)?;
    scene.emit(stage, 2)?;
    arg["number"] = json!(2);
    scene.run(stage, READ_UNTIL, &arg)?;
    scene.visit(stage, &scene.unlisted)?;
    scene.emit(stage, 3)?;
    scene.emit(stage, 4)?;
    scene.back()?;
    scene.emit(stage, 5)?;
    arg["number"] = json!(5);
    scene.run(stage, READ_UNTIL, &arg)?;
    scene.emit(stage, 6)?;
    arg["number"] = json!(6);
    let seen = scene.run(stage, READ_UNTIL, &arg)?;
    ensure!(seen["numbers"] == json!([1, 2, 3, 4, 5, 6]), "the page saw {seen}");
    let arrived = scene.arrived(&path_of(&arg["stream"]));
    // How it comes to be whole is each engine's own way.
    stage.observed(format!("{} loads, {} requests for the stream", seen["loads"], arrived.len()));
    Ok(())
}

/// The daemon is killed and back on its port after a while: the page goes on by itself or by its script, and
/// is told of the gap.
#[case("STR-18", "STR-19")]
fn daemon_restart(stage: &mut Stage) -> Outcome {
    let mut scene = Scene::set_following(stage)?;
    let mut arg = scene.arg(stage, 0)?;
    stage.expect(
        "a gap without an id, then what happens at the new daemon; Firefox by the page's script alone",
    );
    scene.visit_at(stage, &reader(&scene, &arg))?;
    scene.run(stage, "await until(() => source.readyState === 1, 'the stream')", &arg)?;
    scene.emit(stage, 1)?;
    arg["number"] = json!(1);
    scene.run(stage, READ_UNTIL, &arg)?;
    let script = "window.errors = 0; source.addEventListener('error', () => { window.errors += 1; })";
    scene.run(stage, script, &arg)?;
    let port = scene.go_down(stage)?;
    // The first error is the loss of the connection, the second a retry that was refused.
    let script = "await until(() => window.errors > 1, 'a refused retry')";
    scene.run(stage, script, &arg)?;
    scene.come_back(stage, port)?;
    scene.emit(stage, 2)?;
    arg["number"] = json!(2);
    let seen = scene.run(stage, READ_UNTIL, &arg)?;
    ensure!(seen["numbers"] == json!([1, 2]) && seen["gaps"] == 1, "the page saw {seen}");
    let anew = seen["anew"].as_u64().unwrap_or_default() > 0;
    // Firefox closes a stream for good at the first refused retry.
    if anew != is_one_of(&scene, &[Kind::Firefox]) {
        return deviation(format!("the page opened the stream anew {} times", seen["anew"]));
    }
    stage.observed(format!("the page opened the stream anew {} times", seen["anew"]));
    Ok(())
}

/// A tab with an open stream is closed: the daemon has given up its connection within 2 s.
#[case("STR-24")]
fn closed_tab_is_noticed(stage: &mut Stage) -> Outcome {
    const BOUND: Duration = Duration::from_secs(2);
    let scene = Scene::set_following(stage)?;
    // Without a front between them.
    let direct = at_daemon(&scene);
    let arg = scene.arg_at(stage, &direct, 0)?;
    stage.expect("2 s after the tab was closed the daemon holds no connection of it");
    let held = || {
        let sockets = scene.daemon.sockets().into_iter();
        sockets
            .filter(|socket| {
                socket.state != SocketState::Listen && socket.local.port() == scene.live.target.address.port()
            })
            .count()
    };
    scene.open_tab()?;
    scene.visit(stage, &scene.listed)?;
    scene.run(
        stage,
        "follow('s', arg.notes); await until(() => window.streams.s.opened, 'the stream')",
        &arg,
    )?;
    let open = held();
    if open == 0 {
        return inconclusive("the daemon holds no connection of an open stream");
    }
    stage.precondition(format!("the daemon holds {open} connections of the tab"));
    scene.close_tab()?;
    let closed = Instant::now();
    let gone = until(closed + BOUND, || (held() < open).then_some(()));
    ensure!(gone.is_some(), "2 s later it still holds {}", held());
    stage.observed(format!("{} ms", closed.elapsed().as_millis()));
    Ok(())
}

/// The daemon itself, by the name of its address.
fn at_daemon(scene: &Scene) -> String {
    super::scene::daemon_at("127.0.0.1", &scene.live)
}

/// A tab holds six streams, all that an engine opens to one host: each delivers, and what waits for a
/// connection is served once one is free.
#[case("STR-3")]
fn six_streams_in_a_tab(stage: &mut Stage) -> Outcome {
    let scene = Scene::set_following(stage)?;
    let arg = scene.arg(stage, 0)?;
    stage.expect("the note on each; a seventh request waits for a connection, and is then served");
    scene.visit(stage, &scene.listed)?;
    let script = "const names = ['1', '2', '3', '4', '5', '6'];
                  for (const name of names) follow(name, arg.notes);
                  await until(() => names.every(name => window.streams[name].opened), 'six streams');
                  window.seventh = null;
                  ask(arg.read, { method: arg.read_method, headers: bearer() })
                      .then(seen => { window.seventh = seen; });";
    scene.run(stage, script, &arg)?;
    stage.precondition("six streams are open in one tab");
    scene.emit(stage, 1)?;
    let script = "const all = Object.values(window.streams);
                  await until(() => all.every(stream => stream.numbers.length), 'the note on each stream');
                  const waited = window.seventh === null;
                  window.streams['1'].source.close();
                  await until(() => window.seventh, 'the seventh request');
                  return { waited, seventh: window.seventh, numbers: all.map(stream => stream.numbers) }";
    let seen = scene.run(stage, script, &arg)?;
    ensure!(seen["numbers"] == json!(vec![[1]; 6]), "the streams saw {}", seen["numbers"]);
    ensure!(super::scene::is_success(&seen["seventh"]), "{}", super::scene::told(&seen["seventh"]));
    if seen["waited"] != true {
        return deviation("the engine opens more than six connections to a host");
    }
    Ok(())
}
