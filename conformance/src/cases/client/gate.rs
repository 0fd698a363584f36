//! The client's side of the protocol gate: chapter 08.

use serde_json::{Map, Value, json};

use crate::case::case;
use crate::fixtures::client::{
    Part, Played, Spy, World, furnished, not_started, play, play_published, publish,
};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure};
use crate::stage::{Call, Stage};

fn split(protocol: &str) -> (String, u32) {
    let (name, number) = protocol.split_once('/').unwrap_or((protocol, "1"));
    (name.to_owned(), number.parse().unwrap_or(1))
}

/// A proven daemon of this protocol, published.
fn of(stage: &mut Stage, world: &World, protocol: &str) -> Outcome<Played> {
    play_published(stage, world.daemon().protocol(protocol))
}

/// Proven daemons speak protocols that begin like the client's, that it begins, of other numbers and of other
/// names: each of them is incompatible.
#[case("GATE-4")]
fn client_takes_its_own_protocol_alone(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("incompatible");
    let (name, number) = split(&world.protocol);
    let mut others = vec![
        format!("{name}/{number}0"),
        format!("{name}/{number}1"),
        format!("{name}/{}", number + 1),
        format!("{name}x/{number}"),
        format!("{name}.x/{number}"),
        format!("x{name}/{number}"),
        format!("another/{number}"),
        format!("{name}/2147483647"),
    ];
    others.extend((number > 1).then(|| format!("{name}/{}", number - 1)));
    others.extend((name.len() > 1).then(|| format!("{}/{number}", &name[..name.len() - 1])));
    for other in others {
        let _played = of(stage, &world, &other)?;
        let answer = stage.ask(Call::connect())?;
        answer.must_be_after("incompatible", &format!("{} meets {other}", world.protocol))?;
    }
    // These are no identifiers at all; what they are called instead is not this requirement's business.
    for other in [
        world.protocol.to_uppercase(),
        format!(" {}", world.protocol),
        format!("{}\n", world.protocol),
        format!("{name}/0{number}"),
        name,
    ] {
        let _played = of(stage, &world, &other)?;
        let answer = stage.ask(Call::connect())?;
        ensure!(
            answer.outcome != "ready",
            "{} meets {other}: {answer}",
            world.protocol,
            other = in_words(&other)
        );
    }
    Ok(())
}

/// Record and handshake name other versions than the client's, older, newer, empty and none that is one.
#[case("GATE-5")]
fn client_ignores_versions(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("ready");
    for (of_record, of_daemon) in [
        ("999.0.0", "999.0.0"),
        ("0.0.1", "0.0.1"),
        ("1.0.0", "2.0.0"),
        ("", ""),
        ("next", "not a version"),
    ] {
        let played = play(stage, world.daemon().version(of_daemon))?;
        publish(stage, &played.record.with_version(of_record))?;
        let answer = stage.ask(Call::connect())?;
        let before = format!(
            "version {of_record} in the record, {of_daemon} in the answer",
            of_record = in_words(&of_record),
            of_daemon = in_words(&of_daemon)
        );
        answer.must_be_after("ready", &before)?;
    }
    Ok(())
}

/// The record names another protocol than the proven answer: the answer alone counts, both ways.
#[case("GATE-6")]
fn client_asks_the_daemon_not_the_record(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("ready where the daemon speaks the client's protocol, incompatible where it does not");
    for (of_record, of_daemon, outcome) in [
        ("another/9", &*world.protocol, "ready"),
        ("no identifier", &world.protocol, "ready"),
        ("", &world.protocol, "ready"),
        (&world.protocol, "another/9", "incompatible"),
    ] {
        let played = play(stage, world.daemon().protocol(of_daemon))?;
        publish(stage, &played.record.with_protocol(of_record))?;
        let answer = stage.ask(Call::connect())?;
        let before = format!(
            "the record says {of_record}, the daemon {of_daemon}",
            of_record = in_words(&of_record),
            of_daemon = in_words(&of_daemon)
        );
        answer.must_be_after(outcome, &before)?;
    }
    Ok(())
}

/// A proven daemon of another version of the specification.
fn of_another_contract(stage: &mut Stage, world: &World, spec: Value) -> Outcome<Played> {
    let members = Map::from_iter([("spec".to_owned(), spec)]);
    play_published(stage, world.daemon().members(members))
}

/// A proven daemon speaks another protocol, and one another version of this specification: incompatible,
/// whether the client may spawn or not.
#[case("GATE-7")]
fn client_says_incompatible(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("incompatible");
    let spawns = stage.client()?.connect_or_spawn.is_some();
    for scene in [
        "another/1",
        "local-daemon/2",
        "local-daemon/1.1",
        "local-daemon/10",
    ] {
        let _played = if scene == "another/1" {
            of(stage, &world, scene)?
        } else {
            of_another_contract(stage, &world, json!(scene))?
        };
        let answer = stage.ask(Call::connect())?;
        answer.must_be_after("incompatible", scene)?;
        if spawns {
            let answer = stage.ask(Call::spawn())?;
            answer.must_be_after("incompatible", &format!("{scene}, with a spawn allowed"))?;
        }
    }
    Ok(())
}

/// A client that may spawn meets proven daemons of its own name with a higher number, of another name with a
/// lower one, of a longer name, and of another contract: nothing is started, and nothing changes
/// (opencode#35455).
#[case("GATE-8")]
fn client_displaces_no_newer_daemon(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("incompatible, nothing started, nothing changed");
    let spy = Spy::new(stage, Part::Runs)?;
    let (name, number) = split(&world.protocol);
    // A number that is lower than another one as a number, and higher as a text.
    let ours = stage.manifest().daemon.protocol_override.as_ref();
    let ours = ours.map(|_| format!("{name}/9"));
    let number = if ours.is_some() { 9 } else { number };
    let daemons = [
        format!("{name}/{}", number + 1),
        format!("{name}/{number}0"),
        "0/1".to_owned(),
        format!("{name}0/1"),
    ];
    for protocol in daemons {
        let _played = of(stage, &world, &protocol)?;
        stays(stage, &spy, ours.as_ref(), &protocol)?;
    }
    let _played = of_another_contract(stage, &world, json!("local-daemon/2"))?;
    stays(stage, &spy, None, "another contract")
}

/// A client that may spawn ends `incompatible`, and leaves everything as it is.
fn stays(stage: &mut Stage, spy: &Spy, ours: Option<&String>, meets: &str) -> Outcome {
    let record = std::fs::read(stage.record_path())?;
    let call = Call::spawn().stand(spy.program());
    let call = ours.iter().fold(call, |call, ours| call.protocol(*ours));
    let answer = stage.ask(call)?;
    not_started(stage, spy, &format!("against a daemon of {meets}"))?;
    answer.must_be_after("incompatible", meets)?;
    let same = std::fs::read(stage.record_path()).is_ok_and(|now| now == record);
    ensure!(same, "the record of a daemon of {meets} was changed");
    Ok(())
}
