//! The registration record: chapter 03.

use crate::case::{Case, Outcome};
use crate::stage::Stage;

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "registration/round-trip-discovery",
        &["REG-2", "REG-5"],
        "A daemon is started in an empty state directory. Its record alone leads to it: the handshake at the recorded \
         URL is answered by the recorded id, and the subject listens at that address.",
        round_trip_discovery,
    ),
    Case::core(
        "registration/pid-holds-the-listener",
        &["REG-6"],
        "The process that the record names is looked up and must hold the listening socket of the recorded URL.",
        pid_holds_the_listener,
    ),
    Case::core(
        "registration/new-id-at-each-launch",
        &["REG-4"],
        "A daemon is started, ended without warning and started again, several times, in one state directory.",
        new_id_at_each_launch,
    ),
];

fn round_trip_discovery(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("the subject listens at the recorded address, 127.0.0.1 or [::1] with a port");
    let listening = daemon.listening();
    stage.observed(format!(
        "the record says {}, the subject listens at {listening:?}",
        live.record.url.text()
    ));
    let numeric = live.record.url.text() == format!("http://{}", live.target.address);
    stage.ensure(numeric, format!("the record's url is {}", live.record.url.text()))?;
    stage.ensure(
        listening.contains(&live.target.address),
        format!("nothing of the subject listens at {}", live.target.address),
    )
}

fn pid_holds_the_listener(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("the recorded pid is that of a process that listens at the recorded address");
    let sockets = daemon.sockets();
    let holders: Vec<u32> = sockets
        .iter()
        .filter(|socket| socket.local == live.target.address)
        .map(|socket| socket.pid)
        .collect();
    let recorded = u32::try_from(live.record.pid).unwrap_or_default();
    stage.observed(format!(
        "the record says pid {recorded}; {} is held by {holders:?}",
        live.target.address
    ));
    stage.ensure(
        holders.contains(&recorded),
        format!("pid {recorded} does not hold {}", live.target.address),
    )
}

fn new_id_at_each_launch(stage: &mut Stage) -> Outcome {
    const LAUNCHES: usize = 4;
    stage.expect(format!("{LAUNCHES} launches publish {LAUNCHES} different ids"));
    let mut ids = Vec::new();
    for _ in 0..LAUNCHES {
        let daemon = stage.launch()?;
        // `ready` takes only a record of an id that was not ready before.
        let live = stage.ready(&daemon)?;
        ids.push(live.record.id);
        daemon.kill_group();
    }
    stage.observed(format!("ids {}", ids.join(", ")));
    Ok(())
}
