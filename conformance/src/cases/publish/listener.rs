//! Where it listens.

use std::net::SocketAddr;

use crate::case::case;
use crate::fixtures::daemon::ensure_exclusive;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, inconclusive};
use crate::stage::Stage;

/// Every TCP port on which the processes of a ready daemon listen is looked up; each has a loopback address.
#[case("PUB-1")]
fn loopback_only(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("every listening address is a loopback address");
    let listening = daemon.listening();
    stage.observed(format!("the subject listens at {listening}", listening = in_words(&listening)));
    let port = live.target.address.port();
    if !listening.iter().any(|address| address.port() == port) {
        return inconclusive(format!("no listener at port {port} is seen among the subject's sockets"));
    }
    let open: Vec<&SocketAddr> =
        listening.iter().filter(|address| !address.ip().to_canonical().is_loopback()).collect();
    ensure!(open.is_empty(), "{open} can be reached from elsewhere", open = in_words(&open));
    Ok(())
}

/// While a daemon is ready, sockets that ask for port sharing (SO_REUSEPORT, SO_REUSEADDR) and one that does
/// not try to bind its port, at each address of it. The same kind of socket was seen to share another port.
#[case("PUB-2")]
fn port_is_exclusive(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("every other socket is refused the address while the daemon listens");
    let mut addresses = daemon.listening();
    addresses.retain(|address| address.port() == live.target.address.port() && address.ip().is_loopback());
    if addresses.is_empty() {
        return inconclusive(format!(
            "no listener at {} is seen among the subject's sockets",
            live.target.address
        ));
    }
    live.between_controls(|| addresses.iter().try_for_each(|address| ensure_exclusive(stage, *address)))
}
