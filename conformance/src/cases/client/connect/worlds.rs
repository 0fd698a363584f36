//! Records of other worlds: another machine, an earlier boot, another network namespace.

use std::collections::BTreeSet;

use local_daemon_harness::record::{Record, Url};
use local_daemon_harness::strace::Point;
use local_daemon_harness::world::World as Told;

use crate::case::case;
use crate::fixtures::client::{Part, Played, Spy, furnished, not_started, publish};
use crate::fixtures::daemon::{DeadPort, NOBODYS_PID};
use crate::fixtures::trace::{call_under, trace, was_failed};
use crate::fixtures::worlds::{
    alive_in, here, hold_alive, other_boot, other_host, other_network, other_pids, sandbox,
};
use crate::outcome::{Outcome, ensure, not_applicable};
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
    ensure!(own, "{what}: not ready with a daemon of its own: {answer}, {now:?}");
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

/// A good daemon's record tells an earlier boot of this machine, also with another network namespace.
#[case("CONN-40")]
fn an_earlier_boot_is_over(stage: &mut Stage) -> Outcome {
    let good = settled(stage)?;
    stage
        .expect("stale without a connection, and ready with a daemon of its own for a client that may spawn");
    let both = Told { netns: other_network().netns, ..other_boot()? };
    concludes(stage, &good, other_boot()?, "an earlier boot", "stale", Call::connect())?;
    concludes(stage, &good, both, "an earlier boot and another network", "stale", Call::connect())?;
    starts_another(stage, &good, other_boot()?, "an earlier boot, for a client that may spawn")
}

/// A good daemon's record tells another boot, as that of a container can on the same machine: in this network namespace,
/// in another and in an unknown one while the suite holds a lock on `daemon.alive`, and afterwards.
#[case("CONN-40")]
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

/// Eight calls at once on the record of a network namespace that is gone.
#[case("CONN-41", "CONN-15", deadline_s = 60)]
fn many_callers_after_a_dead_network(stage: &mut Stage) -> Outcome {
    const CALLERS: usize = 8;
    let _ = furnished(stage)?;
    stage.expect("all of them ready, on one id");
    let port = DeadPort::new()?;
    drop(hold_alive(stage)?);
    publish(stage, &Record::new(Url::of(port.address), NOBODYS_PID).with_world(other_network()))?;
    stage.precondition(format!("no process holds a lock on {}", alive_in(stage.state_dir()).display()));
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(stage.call(Call::spawn())?);
    }
    let mut ids = BTreeSet::new();
    for caller in &callers {
        let answer = stage.answer(caller)?;
        answer.must_be("ready")?;
        ids.insert(answer.id.unwrap_or_default());
    }
    let live = stage.find(stage.state_dir());
    let one = ids.len() == 1 && live.as_ref().is_ok_and(|live| ids.contains(&live.record.id));
    ensure!(one, "the callers were ready with {ids:?}, and there is {live:?}");
    Ok(())
}

/// A daemon runs, and a client in a network namespace of its own shares its state directory. The daemon is ended without
/// warning, and the client starts one inside; then it is the other way round. Stems from gradle#38054.
#[case("CONN-41", deadline_s = 60)]
fn a_sandbox_with_a_network_of_its_own(stage: &mut Stage) -> Outcome {
    if stage.manifest().daemon.run.is_empty() || stage.client()?.connect_or_spawn.is_none() {
        return not_applicable("the subject has no daemon, or a client that starts none");
    }
    let within = sandbox("ip link set lo up && exec \"$@\"")?;
    stage.expect("unreachable while the daemon of the other network lives, and then one of its own");
    let (daemon, live) = stage.launch_ready()?;
    if live.record.world.netns.is_none() {
        return not_applicable("the record has no `netns`");
    }
    for call in [Call::connect(), Call::spawn()] {
        let answer = stage.ask(call.under(&within))?;
        answer.must_be_after("unreachable", "from inside, while the daemon lives")?;
    }
    let now = stage.find(stage.state_dir()).map(|live| live.record.id);
    ensure!(now.as_ref() == Ok(&live.record.id), "the daemon of the record is another or none: {now:?}");
    daemon.kill_group();
    let answer = stage.ask(Call::spawn().under(&within))?;
    answer.must_be_after("ready", "from inside, after its end")?;
    let inside = answer.id;
    let answer = stage.ask(Call::spawn())?;
    answer.must_be_after("unreachable", "from outside, while the daemon inside lives")?;
    stage.arena().end_leaks();
    let answer = stage.ask(Call::spawn())?;
    answer.must_be_after("ready", "from outside, after its end")?;
    let now = stage.find(stage.state_dir()).map(|live| live.record.id);
    let other = now.as_ref().is_ok_and(|id| ![Some(&live.record.id), inside.as_ref()].contains(&Some(id)));
    ensure!(other, "no daemon of the last call is ready: {now:?}");
    Ok(())
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
    ensure!(other, "{what}: no other daemon is ready: {now:?}, after {answer}");
    stage.arena().end_leaks();
    Ok(())
}
