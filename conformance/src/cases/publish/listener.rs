//! Where it listens.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use crate::case::case;
use crate::fixtures::daemon::bound;
use crate::outcome::{Outcome, Stop, ensure, inconclusive, untestable};
use crate::stage::Stage;

/// Every TCP port on which the processes of a ready daemon listen is looked up; each has a loopback address.
#[case("PUB-1")]
fn loopback_only(stage: &mut Stage) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.expect("every listening address is a loopback address");
    let listening = daemon.listening();
    stage.observed(format!("the subject listens at {listening:?}"));
    let port = live.target.address.port();
    if !listening.iter().any(|address| address.port() == port) {
        return inconclusive(format!("no listener at port {port} is seen among the subject's sockets"));
    }
    let open: Vec<&SocketAddr> =
        listening.iter().filter(|address| !address.ip().to_canonical().is_loopback()).collect();
    ensure!(open.is_empty(), "{open:?} can be reached from elsewhere");
    Ok(())
}

/// While a daemon is ready, sockets that ask for port sharing (SO_REUSEPORT, SO_REUSEADDR) and one that does
/// not try to bind its port. The same kind of socket was seen to share another port.
#[case("PUB-2")]
fn port_is_exclusive(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let (IpAddr::V4(ip), port) = (live.target.address.ip(), live.target.address.port()) else {
        return untestable("the subject listens on IPv6 only");
    };
    stage.expect("every other socket is refused the address while the daemon listens");
    let first = bound(SocketAddrV4::new(ip, 0), true)?;
    rustix::net::listen(&first, 1).map_err(std::io::Error::from)?;
    let shared = rustix::net::getsockname(&first).map_err(std::io::Error::from)?;
    let shared = SocketAddrV4::try_from(shared).map_err(|_| Stop::Fault("not an IPv4 socket".to_owned()))?;
    if let Err(error) = bound(shared, true) {
        return untestable(format!("two sockets cannot share a port here: {error}"));
    }
    stage.control(format!("two sockets that ask for it share port {}", shared.port()));
    let address = SocketAddrV4::new(ip, port);
    live.between_controls(|| {
        let plain = bound(address, false);
        ensure!(plain.is_err(), "a plain socket was bound to {address}");
        let sharing = bound(address, true);
        ensure!(sharing.is_err(), "a socket with SO_REUSEPORT was bound to {address}");
        let reusing = std::net::TcpListener::bind(address);
        ensure!(reusing.is_err(), "a socket with SO_REUSEADDR listens at {address}");
        Ok(())
    })
}
