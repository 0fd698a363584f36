//! Records of other worlds: another machine, an earlier boot, another network namespace.

use local_daemon_harness::strace::Point;
use local_daemon_harness::world::World as Told;

use crate::case::case;
use crate::fixtures::client::{Part, Played, Spy, furnished, not_started, publish};
use crate::fixtures::trace::{call_under, trace, was_failed};
use crate::fixtures::words::in_words;
use crate::fixtures::worlds::{here, hold_alive, other_boot, other_host, other_network, other_pids};
use crate::outcome::{Outcome, ensure};
use crate::stage::{Answer, Call, Stage};

/// A daemon that proves itself. The client was seen to be ready with it by a record of its own world.
fn settled(stage: &mut Stage) -> Outcome<Played> {
    let (_, good) = furnished(stage)?;
    publish(stage, &good.record.clone().with_world(here()?))?;
    let answer = stage.ask(Call::connect())?;
    answer.must_be_ready_with(&good.daemon.id)?;
    stage.control("the client was ready by a record of its own world");
    Ok(good)
}

/// Publishes the record of a good daemon as one of another world. The call must end in `outcome` without a connection.
fn concludes(
    stage: &mut Stage,
    good: &Played,
    world: Told,
    what: &str,
    outcome: &str,
    call: Call,
) -> Outcome<Answer> {
    publish(stage, &good.record.clone().with_world(world))?;
    let heard = good.actor.ledger().connections().len();
    let answer = stage.ask(call)?;
    let more = good.actor.ledger().connections().len() - heard;
    ensure!(more == 0, "{what}: {more} connections to its address: {answer}");
    answer.must_be_after(outcome, what)?;
    Ok(answer)
}

/// The same with a client that may spawn, which must start nothing.
fn starts_nothing(stage: &mut Stage, good: &Played, world: Told, what: &str) -> Outcome {
    let client = stage.client()?;
    if client.connect_or_spawn.is_none() || client.daemon.is_none() {
        return Ok(());
    }
    let spy = Spy::new(stage, Part::Ends(1, "started"))?;
    concludes(stage, good, world, what, "unreachable", Call::spawn().stand(spy.program()))?;
    not_started(stage, &spy, what)
}

/// A client that may spawn ends ready with a daemon of its own.
fn starts_another(stage: &mut Stage, good: &Played, world: Told, what: &str) -> Outcome {
    if stage.client()?.connect_or_spawn.is_none() {
        return Ok(());
    }
    let answer = concludes(stage, good, world, what, "ready", Call::spawn())?;
    let now = stage.find(stage.state_dir()).map(|live| live.record.id);
    let own = now.as_ref().is_ok_and(|id| *id != good.daemon.id && answer.id.as_ref() == Some(id));
    ensure!(own, "{what}: not ready with a daemon of its own: {answer}, {now}", now = in_words(&now));
    Ok(())
}

/// A good daemon's record tells another machine, with the boot and the namespaces of this one and with others.
#[case("CONN-39")]
fn another_host_cannot_be_asked(stage: &mut Stage) -> Outcome {
    let good = settled(stage)?;
    stage.expect("unreachable, nothing started, and no connection");
    let all = Told {
        boot: other_boot()?.boot,
        netns: other_network().netns,
        ..other_host()?
    };
    for (what, world) in [
        ("another host", other_host()?),
        ("another host in every way", all),
    ] {
        concludes(stage, &good, world, what, "unreachable", Call::connect())?;
    }
    starts_nothing(stage, &good, other_host()?, "another host, for a client that may spawn")
}

/// A good daemon's record tells another boot, as that of a container can on the same machine: in this network namespace,
/// in another and in an unknown one while the suite holds a lock on `daemon.alive`, and afterwards.
#[case("CONN-40", "CONN-51")]
fn a_lock_tells_whether_another_boot_lives(stage: &mut Stage) -> Outcome {
    let good = settled(stage)?;
    stage.expect("while the lock is held, ready in this network and else unreachable; afterwards stale");
    let boot = other_boot()?;
    let both = Told { netns: other_network().netns, ..boot.clone() };
    let unknown = Told { netns: None, ..boot.clone() };
    let alive = hold_alive(stage)?;
    publish(stage, &good.record.clone().with_world(boot.clone()))?;
    let answer = stage.ask(Call::connect())?;
    answer.must_be_ready_with(&good.daemon.id)?;
    concludes(stage, &good, both.clone(), "another network", "unreachable", Call::connect())?;
    concludes(stage, &good, unknown, "an unknown network", "unreachable", Call::connect())?;
    starts_nothing(stage, &good, both, "another network, for a client that may spawn")?;
    drop(alive);
    concludes(stage, &good, boot, "with the lock let go", "stale", Call::connect())?;
    Ok(())
}

/// A good daemon's record tells another network namespace of this boot: without `daemon.alive`, while the suite holds a
/// lock on it, and afterwards. Another pid namespace alone changes nothing.
#[case("CONN-41")]
fn a_lock_tells_whether_another_network_lives(stage: &mut Stage) -> Outcome {
    let good = settled(stage)?;
    stage.expect("unreachable while the lock is held, and else stale; no connection");
    publish(stage, &good.record.clone().with_world(other_pids()?))?;
    let answer = stage.ask(Call::connect())?;
    answer.must_be_after("ready", "another pid namespace")?;
    let network = other_network;
    concludes(stage, &good, network(), "without the file", "stale", Call::connect())?;
    let alive = hold_alive(stage)?;
    concludes(stage, &good, network(), "with the lock held", "unreachable", Call::connect())?;
    starts_nothing(stage, &good, network(), "with the lock held, for a client that may spawn")?;
    drop(alive);
    concludes(stage, &good, network(), "with the lock let go", "stale", Call::connect())?;
    starts_another(stage, &good, network(), "with the lock let go, for a client that may spawn")
}

/// A client with the order to replace meets the record of another host, of a network namespace that lives, and a daemon
/// to which it may not connect.
#[case("CONN-49", deadline_s = 60)]
fn replaces_what_it_cannot_ask(stage: &mut Stage) -> Outcome {
    let good = settled(stage)?;
    stage.expect("a ready daemon of another id in the record's place");
    let _alive = hold_alive(stage)?;
    for (what, world) in [
        ("another host", other_host()?),
        ("another network", other_network()),
    ] {
        concludes(stage, &good, world.clone(), what, "unreachable", Call::connect())?;
        let answer = concludes(stage, &good, world, what, "ready", Call::spawn().replacing())?;
        replaced(stage, &good, what, &answer)?;
    }
    publish(stage, &good.record)?;
    let strace = trace(stage, "replace", Point::at([&["connect"][..]]).failing("EPERM"))?;
    // The client cannot ask its new daemon either, so the answer itself is not judged.
    let answer = stage.ask(call_under(Call::spawn().replacing().within(4), &strace))?;
    was_failed(stage, &strace, "connect-or-spawn")?;
    replaced(stage, &good, "a sandbox", &answer)
}

/// Another daemon than the good one is ready.
fn replaced(stage: &mut Stage, good: &Played, what: &str, answer: &Answer) -> Outcome {
    let now = stage.find(stage.state_dir()).map(|live| live.record.id);
    let other = now.as_ref().is_ok_and(|id| *id != good.daemon.id);
    ensure!(other, "{what}: no other daemon is ready: {now}, after {answer}", now = in_words(&now));
    stage.arena().end_leaks();
    Ok(())
}
