//! A scene for each outcome of a connect.

use std::any::Any;

use local_daemon_harness::actors::{FakeDaemon, Squatter};
use local_daemon_harness::files::set_mode;
use local_daemon_harness::record::{Record, Url};

use crate::fixtures::client::{World, play, play_published, publish, squat};
use crate::fixtures::daemon::DeadPort;
use crate::fixtures::worlds::{hold_alive, other_network};
use crate::outcome::{Outcome, Stop};
use crate::stage::{Call, Stage};

/// What keeps a scene standing.
pub(super) type Standing = Vec<Box<dyn Any>>;

/// The outcomes of a connect that does not spawn.
pub(super) const WITHOUT_SPAWN: [&str; 8] = [
    "ready",
    "absent",
    "stale",
    "busy",
    "foreign",
    "incompatible",
    "invalid",
    "unreachable",
];

/// Arranges the state directory so that a connect has to end in `outcome`, with `pid` in every record.
pub(super) fn arrange(stage: &Stage, world: &World, outcome: &str, pid: u32) -> Outcome<Standing> {
    world.write_credential(stage)?;
    if stage.record_path().exists() {
        std::fs::remove_file(stage.record_path())?;
    }
    let published = |daemon: FakeDaemon| -> Outcome<Standing> {
        let played = play_published(stage, daemon.pid(pid))?;
        Ok(vec![Box::new(played)])
    };
    let daemon = world.daemon();
    match outcome {
        "ready" => published(daemon),
        "absent" => Ok(Vec::new()),
        "stale" => {
            let port = DeadPort::new()?;
            publish(stage, &Record::new(Url::of(port.address), pid))?;
            Ok(vec![Box::new(port)])
        }
        "busy" => published(daemon.draining()),
        "foreign" => {
            let (actor, record) = squat(stage, Squatter::answering(200, "{}"))?;
            publish(stage, &record.with_pid(pid))?;
            Ok(vec![Box::new(actor)])
        }
        "incompatible" => published(daemon.protocol("another/1")),
        "invalid" => {
            let standing = published(daemon)?;
            set_mode(stage.credential_path(), 0o644)?;
            Ok(standing)
        }
        "unreachable" => {
            let alive = hold_alive(stage)?;
            let played = play(stage, daemon.pid(pid))?;
            publish(stage, &played.record.clone().with_world(other_network()))?;
            Ok(vec![Box::new(played), Box::new(alive)])
        }
        other => Err(Stop::Fault(format!("no scene for {other}"))),
    }
}

/// A connect that does not spawn, which waits for a draining daemon only as long as it has to.
pub(super) fn look() -> Call {
    Call::connect().within(1)
}
