//! A client that is refused, and a client that cannot ask.

use std::io::Read as _;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use local_daemon_harness::actors::{Bind, Squatter};
use local_daemon_harness::files::Watch;
use local_daemon_harness::platform::reset;
use local_daemon_harness::record::{Record, Url};
use local_daemon_harness::strace::Point;
use local_daemon_harness::wait::until;
use rustix::io::Errno;

use crate::case::case;
use crate::fixtures::client::{
    Part, Played, SOON, Spy, bystander, connects, furnished, lives, not_started, play_published, publish,
    squat,
};
use crate::fixtures::daemon::{DeadPort, NOBODYS_PID, changes};
use crate::fixtures::trace::{call_under, trace, was_failed};
use crate::fixtures::words::in_words;
use crate::fixtures::worlds::sandbox;
use crate::outcome::{Outcome, Stop, ensure, inconclusive};
use crate::stage::{Answer, Call, Command, Stage};

/// What keeps a client from asking: the system call that fails, and the error by name and number.
type Obstacle = (&'static str, &'static str, Errno);

/// A sandbox, no descriptor, no port, no route and no memory.
const OBSTACLES: [Obstacle; 9] = [
    ("connect", "EPERM", Errno::PERM),
    ("connect", "EACCES", Errno::ACCESS),
    ("connect", "EMFILE", Errno::MFILE),
    ("connect", "ENFILE", Errno::NFILE),
    ("connect", "EADDRNOTAVAIL", Errno::ADDRNOTAVAIL),
    ("connect", "ENETUNREACH", Errno::NETUNREACH),
    ("connect", "EHOSTUNREACH", Errno::HOSTUNREACH),
    ("connect", "ENOBUFS", Errno::NOBUFS),
    ("socket", "EMFILE", Errno::MFILE),
];

/// Calls the client with an obstacle in its way; inconclusive if it asked the daemon of the record.
fn hinder(stage: &mut Stage, name: &str, good: &Played, obstacle: Obstacle, call: Call) -> Outcome<Answer> {
    let (syscall, error, _) = obstacle;
    let heard = good.actor.ledger().connections().len();
    let strace = trace(stage, name, Point::at([&[syscall][..]]).failing(error))?;
    let answer = stage.ask(call_under(call, &strace))?;
    was_failed(stage, &strace, name)?;
    if good.actor.ledger().connections().len() > heard {
        return inconclusive(format!("{name}: the client connected"));
    }
    Ok(answer)
}

/// Whether an answer names an error of the system, by its name or in the system's words.
fn names(answer: &Answer, name: &str, error: Errno) -> bool {
    let words = std::io::Error::from(error).to_string();
    let words = words.split(" (os error").next().unwrap_or_default().to_lowercase();
    let text = answer.text();
    text.contains(name) || text.to_lowercase().contains(&words)
}

/// A good daemon is published, and the client's socket(2) or connect(2) fails with one error after the other.
#[case("CONN-37", deadline_s = 60)]
fn unreachable_whatever_keeps_it_from_asking(stage: &mut Stage) -> Outcome {
    let (_world, good) = furnished(stage)?;
    stage.expect("unreachable, and the error of the system");
    for obstacle in OBSTACLES {
        let (syscall, name, error) = obstacle;
        let what = format!("{syscall}-{name}");
        let answer = hinder(stage, &what, &good, obstacle, Call::connect())?;
        answer.must_be_after("unreachable", &what)?;
        ensure!(names(&answer, name, error), "{what}: the error is not named: {answer}");
    }
    connects(stage, &good)
}

/// A good daemon is published, and each of the client's connections is refused.
#[case("CONN-52")]
fn unreachable_when_each_connection_is_refused(stage: &mut Stage) -> Outcome {
    let (_world, good) = furnished(stage)?;
    stage.expect("unreachable");
    let refusal = ("connect", "ECONNREFUSED", Errno::CONNREFUSED);
    let answer = hinder(stage, "refusal", &good, refusal, Call::connect())?;
    answer.must_be("unreachable")?;
    connects(stage, &good)
}

/// A good daemon is published whose pid is that of a bystander. The client cannot ask it, and is called to start a
/// daemon, to stop that one, also by force, to restart it and to repair its record.
#[case("CONN-38", deadline_s = 100)]
fn concludes_nothing_when_it_cannot_ask(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("the record as it was, no process started or ended, and no success");
    let client = stage.client()?;
    let decoy = bystander(stage)?;
    let good = play_published(stage, world.daemon().pid(decoy.pid()))?;
    connects(stage, &good)?;
    let spy = match (&client.connect_or_spawn, &client.daemon) {
        (Some(_), Some(_)) => Some(Spy::new(stage, Part::Ends(1, "started"))?),
        _ => None,
    };
    let name = stage.manifest().binding.registration.clone();
    let commands = [
        (Command::Connect, true),
        (Command::Spawn, client.connect_or_spawn.is_some()),
        (Command::Stop, client.stop.is_some()),
        (Command::ForceStop, client.force_stop.is_some()),
        (Command::Restart, client.restart.is_some()),
        (Command::Repair, client.repair.is_some()),
    ];
    for obstacle in [OBSTACLES[0], OBSTACLES[2], OBSTACLES[4]] {
        for (command, _) in commands.into_iter().filter(|(_, there)| *there) {
            let what = format!("{command}-{}", obstacle.1, command = in_words(&command));
            let call = Call::new(command);
            let call = match &spy {
                Some(spy) => call.stand(spy.program()),
                None => call,
            };
            let watch = Watch::on(stage.state_dir())?;
            let answer = hinder(stage, &what, &good, obstacle, call)?;
            let changed = changes(&watch.events(), &name);
            ensure!(changed.is_empty(), "{what}: {}: {answer}", in_words(&changed));
            if let Some(spy) = &spy {
                not_started(stage, spy, &what)?;
            }
            lives(&decoy, &format!("by {what}"))?;
            // No requirement says what a repair answers that leaves the record.
            if command != Command::Repair {
                answer.must_be_after("unreachable", &what)?;
                ensure!(answer.exit.code != Some(0), "{what}: success: {answer}");
            }
        }
    }
    connects(stage, &good)
}

/// A client in a network namespace of its own meets a record without a world: `localhost` refuses at 127.0.0.1 and has no
/// `[::1]`, and then there is no loopback at all.
#[case("CONN-37")]
fn a_family_that_is_not_there_refuses_nothing(stage: &mut Stage) -> Outcome {
    let _ = furnished(stage)?;
    stage.expect("stale if one family refuses and the other is missing, unreachable if both are missing");
    let port = DeadPort::new()?;
    let url = Url::parse(&format!("http://localhost:{}", port.address.port()));
    let url = url.ok_or_else(|| Stop::Fault("no URL of localhost".to_owned()))?;
    publish(stage, &Record::new(url, NOBODYS_PID))?;
    let without_v6 = sandbox("ip link set lo up && ip -6 address flush dev lo && exec \"$@\"")?;
    let answer = stage.ask(Call::connect().under(&without_v6))?;
    stage.precondition("the client was called in a network that has 127.0.0.1 alone");
    answer.must_be_after("stale", "with 127.0.0.1 alone")?;
    let without_any = sandbox("exec \"$@\"")?;
    let answer = stage.ask(Call::connect().under(&without_any))?;
    answer.must_be_after("unreachable", "without a loopback")
}

/// The record leads to a listener that resets each connection, and to one that closes it without an answer.
#[case("CONN-7", "CONN-6")]
fn busy_when_it_breaks_off_each_time(stage: &mut Stage) -> Outcome {
    let _ = furnished(stage)?;
    stage.expect("busy, after more than one connection");
    for (what, squatter) in [("reset", Squatter::resetting()), ("closed", Squatter::closing())] {
        let (actor, _) = squat(stage, squatter)?;
        let answer = stage.ask(Call::connect())?;
        answer.must_be_after("busy", what)?;
        let connections = actor.ledger().connections().len();
        ensure!(connections > 1, "{what}: {connections} connections");
    }
    Ok(())
}

/// A listener that takes one connection, stops listening, reads a request, and then resets or closes the connection.
fn ends_with_a_request(resets: bool) -> Outcome<(SocketAddr, JoinHandle<bool>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let thread = std::thread::spawn(move || {
        let taken = until(Instant::now() + SOON, || listener.accept().ok());
        drop(listener);
        let Some((mut stream, _)) = taken else {
            return false;
        };
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let (mut request, mut piece) = (Vec::new(), [0; 4096]);
        while !request.ends_with(b"\r\n\r\n")
            && let Ok(length @ 1..) = stream.read(&mut piece)
        {
            request.extend_from_slice(&piece[..length]);
        }
        let _ = if resets { reset(&stream) } else { stream.shutdown(Shutdown::Both) };
        request.ends_with(b"\r\n\r\n")
    });
    Ok((address, thread))
}

/// The record's listener ends with the client's request unanswered. No other case runs meanwhile: what it starts has the
/// listener for a moment too.
#[case("CONN-7", exclusive)]
fn stale_when_it_is_gone_at_the_second_probe(stage: &mut Stage) -> Outcome {
    let _ = furnished(stage)?;
    stage.expect("stale");
    for (what, resets) in [("reset", true), ("closed", false)] {
        let (address, listener) = ends_with_a_request(resets)?;
        publish(stage, &Record::new(Url::of(address), NOBODYS_PID))?;
        let answer = stage.ask(Call::connect())?;
        if !listener.join().unwrap_or(false) {
            return inconclusive("the listener was not asked");
        }
        stage.precondition(format!("{what}: the listener took a request, and was gone"));
        answer.must_be_after("stale", what)?;
    }
    Ok(())
}

/// The record's daemon resets the first connection and answers the next one.
#[case("CONN-7")]
fn ready_when_it_answers_the_second_probe(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("ready");
    let daemon = world.daemon();
    let part = daemon.clone().part().after_resets(1);
    let actor = part.noted(stage.transcript(), "played daemon").start(Bind::V4)?;
    publish(stage, &daemon.record(actor.address()))?;
    let answer = stage.ask(Call::connect())?;
    if actor.ledger().connections().is_empty() {
        return inconclusive("the daemon was not asked");
    }
    answer.must_be_ready_with(&daemon.id)
}
