//! Where a daemon listens: at what it was given, at the port that it prefers, or elsewhere.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use local_daemon::daemon::{Builder, Error, ListenerErrorKind, listen_fds};
use local_daemon::{Client, Daemon};

fn builder(state_dir: &Path) -> Builder {
    Daemon::builder("acme", "acme/1").state_dir(state_dir)
}

/// Serves until a client has found the daemon, and returns the recorded port.
async fn found(builder: Builder, state_dir: &Path) -> u16 {
    let daemon = builder.start().await.unwrap();
    let handle = daemon.handle();
    let serving = tokio::spawn(daemon.serve(axum::Router::new()));
    handle.published().await;
    let client = Client::new("acme", "acme/1").unwrap().state_dir(state_dir);
    let connected = tokio::task::spawn_blocking(move || client.connect()).await.unwrap().unwrap();
    handle.stop();
    serving.await.unwrap().unwrap();
    connected.registration().url.port()
}

fn listener(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap()
}

/// Returns a port that was free a moment ago.
fn free_port() -> u16 {
    listener("127.0.0.1:0").local_addr().unwrap().port()
}

#[tokio::test]
async fn a_given_listener_is_where_clients_find_the_daemon() {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state");
    let given = listener("127.0.0.1:0");
    let port = given.local_addr().unwrap().port();
    assert_eq!(found(builder(&state_dir).listener(given), &state_dir).await, port);
}

#[tokio::test]
async fn a_preferred_port_is_taken_if_it_is_free() {
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state");
    let taken = listener("127.0.0.1:0");
    let other = taken.local_addr().unwrap().port();
    let port = found(builder(&state_dir).port(other), &state_dir).await;
    assert_ne!(port, other);
    let free = free_port();
    assert_eq!(found(builder(&state_dir).port(free), &state_dir).await, free);
}

#[tokio::test]
async fn a_listener_that_cannot_be_a_daemons_is_refused_with_its_fault() {
    let home = tempfile::tempdir().unwrap();
    let shared = listener("127.0.0.1:0");
    rustix::net::sockopt::set_socket_reuseport(&shared, true).unwrap();
    let twice = listener("127.0.0.1:0");
    // Any socket can be called a listener.
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = listener("127.0.0.1:0");
    let connected = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    for (listeners, expected) in [
        (vec![listener("0.0.0.0:0")], ListenerErrorKind::NotLoopback),
        (vec![listener("127.0.0.2:0")], ListenerErrorKind::NotLoopback),
        (vec![listener("127.0.0.1:0"), listener("127.0.0.1:0")], ListenerErrorKind::OtherPort),
        (vec![twice.try_clone().unwrap(), twice], ListenerErrorKind::Repeated),
        (vec![shared], ListenerErrorKind::Shared),
        (vec![TcpListener::from(OwnedFd::from(datagrams))], ListenerErrorKind::NotListening),
        (vec![TcpListener::from(OwnedFd::from(connected))], ListenerErrorKind::NotListening),
    ] {
        let builder = listeners.into_iter().fold(builder(&home.path().join("state")), Builder::listener);
        match builder.start().await.map(|_| ()) {
            Err(error @ Error::Listener { kind, .. }) => {
                assert_eq!((kind, error.exit_status()), (expected, 2));
            }
            other => panic!("{expected:?}: {other:?}"),
        }
    }
    let elsewhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 1));
    let refused = builder(&home.path().join("state")).publication([elsewhere]).await;
    assert!(matches!(refused, Err(Error::Listener { .. })), "{refused:?}");
}

/// What the next test runs as a process of its own.
#[test]
fn activated() {
    if std::env::var_os("ACTIVATED").is_none() {
        return;
    }
    let taken = listen_fds().unwrap();
    println!("took {}", taken[0].local_addr().unwrap());
    assert!(listen_fds().unwrap().is_empty(), "they are taken once");
}

#[test]
fn sockets_of_a_service_manager_are_taken_by_the_process_that_they_are_for() {
    for (setting, is_taken) in [
        ("LISTEN_PID=$$ LISTEN_FDS=1", true),
        ("LISTEN_PID=$$ LISTEN_FDS=2", false),
        ("LISTEN_PID=$$ LISTEN_FDS=x", false),
        ("LISTEN_PID=1 LISTEN_FDS=1", false),
    ] {
        let passed = listener("127.0.0.1:0");
        let address = passed.local_addr().unwrap();
        let script = format!("{setting} exec \"$0\" --exact listeners::activated --nocapture 3<&0 4<&-");
        let output = Command::new("sh")
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap())
            .env("ACTIVATED", "1")
            .stdin(Stdio::from(OwnedFd::from(passed)))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.contains(&format!("took {address}")), is_taken, "{setting}: {said}");
        assert_eq!(output.status.success(), is_taken, "{setting}");
    }
}
