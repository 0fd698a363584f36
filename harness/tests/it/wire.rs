//! Requests, their distinct faults, both handshakes, and the parts that the suite plays.

use local_daemon_harness::actors::{Bind, FakeDaemon, FakeProof, Squatter, response};
use local_daemon_harness::http::{
    Connection, DaemonProof, HANDSHAKE, HttpFault, Request, Target, Wire, exchange, probe_with_bearer,
    probe_with_proof,
};
use local_daemon_harness::proof::{Credential, bearer, nonce};
use local_daemon_harness::transcript::{REDACTED, Transcript};
use local_daemon_harness::wait::ms;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

fn get(address: SocketAddr) -> Vec<u8> {
    Request::get(&address.to_string(), "/x").bytes()
}

#[test]
fn a_kept_connection_carries_several_answers_and_all_is_in_the_ledger() {
    let squatter = Squatter::answering(401, "{}").start(Bind::V4).unwrap();
    let mut connection = Connection::open(squatter.address(), ms(5_000)).unwrap();
    for _ in 0..3 {
        let answer = connection.exchange(&get(squatter.address()), ms(5_000)).unwrap();
        assert_eq!((answer.status, answer.body.as_slice(), answer.closes), (401, b"{}".as_slice(), false));
        assert_eq!(answer.media_type().as_deref(), Some("application/json"));
    }
    let post = Request::new("POST", "/v1")
        .host("h")
        .header("X-Two", "a")
        .header("x-two", "b")
        .json("[1]");
    connection.exchange(&post.bytes(), ms(5_000)).unwrap();
    drop(connection);
    let ledger = squatter.stop();
    let requests = ledger.requests();
    assert_eq!((ledger.connections().len(), requests.len()), (1, 4));
    assert_eq!((requests[3].method.as_str(), requests[3].body.as_slice()), ("POST", b"[1]".as_slice()));
    assert!(ledger.saw_bytes(b"x-two: b\r\n") && !ledger.saw_bytes(b"x-two: c"));
}

#[test]
fn every_way_of_not_answering_has_its_name() {
    let fault = |squatter: Squatter, millis| {
        let actor = squatter.start(Bind::V4).unwrap();
        exchange(actor.address(), &get(actor.address()), ms(millis)).map(|answer| answer.status)
    };
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(exchange(free, b"", ms(5_000)).map(|_| ()), Err(HttpFault::Refused));
    assert_eq!(fault(Squatter::mute(), 50), Err(HttpFault::TimedOut));
    assert_eq!(fault(Squatter::backlog_only(), 50), Err(HttpFault::TimedOut));
    assert_eq!(fault(Squatter::dripping("{}", Duration::from_mins(1)), 50), Err(HttpFault::TimedOut));
    assert_eq!(fault(Squatter::flooding(), 30_000), Err(HttpFault::TooLarge));
    let closed = fault(Squatter::closing(), 5_000);
    assert!(matches!(closed, Err(HttpFault::Closed(0) | HttpFault::Reset)), "{closed:?}");
    let nonsense = fault(Squatter::responding(|_, _| b"SSH-2.0-x\r\n".to_vec()), 5_000);
    assert!(matches!(nonsense, Err(HttpFault::Malformed(_))), "{nonsense:?}");
    assert_eq!(fault(Squatter::redirecting("http://127.0.0.1:1/"), 5_000), Ok(302));
    assert_eq!(fault(Squatter::dripping("{}", Duration::from_millis(1)), 30_000), Ok(200));
}

#[test]
fn framings_are_read_as_http_defines_them() {
    let read = |answer: &'static str| {
        let actor = Squatter::responding(|_, _| answer.as_bytes().to_vec()).start(Bind::V4).unwrap();
        exchange(actor.address(), &get(actor.address()), ms(5_000)).map(|answer| (answer.status, answer.body))
    };
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n";
    assert_eq!(read(chunked), Ok((200, b"abcde".to_vec())));
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(read(interim), Ok((200, b"x".to_vec())));
    assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n"), Ok((204, Vec::new())));
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx";
    assert!(matches!(read(two), Err(HttpFault::Malformed(_))));
    let bad = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    assert!(matches!(read(bad), Err(HttpFault::Malformed(_))));
}

#[test]
fn a_client_that_says_it_is_done_still_gets_its_answer() {
    let actor = Squatter::answering(200, "{}").start(Bind::V4).unwrap();
    let mut connection = Connection::open(actor.address(), ms(5_000)).unwrap();
    connection.send(&get(actor.address()), ms(5_000)).unwrap();
    connection.finish().unwrap();
    assert_eq!(connection.read_response(ms(5_000)).unwrap().status, 200);
    assert!(connection.wait_closed(ms(5_000)));
}

#[test]
fn a_fake_daemon_proves_itself_or_is_seen_not_to() {
    let credential = Credential::random();
    let probe = |daemon: FakeDaemon, as_credential: &Credential| {
        let actor = daemon.start(Bind::V4).unwrap();
        probe_with_proof(&Target::at(actor.address()), as_credential, &nonce(), ms(5_000)).unwrap()
    };
    let good = FakeDaemon::new(&credential, "acme/1");
    let answer = probe(good.clone(), &credential);
    assert_eq!(answer.ready().map(|handshake| &handshake.id), Some(&good.id), "{answer:?}");

    let draining = probe(FakeDaemon { state: "draining".into(), ..good.clone() }, &credential);
    assert_eq!((draining.response.status, draining.proven().is_some(), draining.ready()), (503, true, None));

    let expected = [
        (FakeProof::Wrong, DaemonProof::Wrong),
        (FakeProof::OtherBody, DaemonProof::Wrong),
        (FakeProof::Reflected, DaemonProof::Wrong),
        (FakeProof::None, DaemonProof::Missing),
    ];
    for (proof, seen) in expected {
        let answer = probe(FakeDaemon { proof, ..good.clone() }, &credential);
        assert_eq!((answer.proof, answer.proven()), (seen, None));
    }
    assert_eq!(probe(good.clone(), &Credential::random()).response.status, 401);
    let elsewhere = FakeDaemon { authority: Some("127.0.0.1:1".into()), ..good };
    assert_eq!(probe(elsewhere, &credential).response.status, 401);
}

#[test]
fn a_bearer_is_accepted_and_seen_for_what_it_is() {
    let credential = Credential::random();
    let actor = FakeDaemon::new(&credential, "acme/1").start(Bind::V4).unwrap();
    let target = Target::at(actor.address());
    probe_with_proof(&target, &credential, &nonce(), ms(5_000)).unwrap();
    assert!(!actor.ledger().saw_secret(&credential), "a proof gives nothing away");
    let answer = probe_with_bearer(&target, &credential, ms(5_000)).unwrap();
    assert_eq!((answer.response.status, answer.proof), (200, DaemonProof::Missing));
    assert!(actor.ledger().saw_secret(&credential));
    let elsewhere =
        Request::get(&target.authority, "/v1/status").header("Authorization", &bearer(&credential));
    assert_eq!(exchange(actor.address(), &elsewhere.bytes(), ms(5_000)).unwrap().status, 404);
}

#[test]
fn a_relay_passes_everything_on_and_is_refused_by_the_authority() {
    let credential = Credential::random();
    let daemon = FakeDaemon::new(&credential, "acme/1").start(Bind::V4).unwrap();
    let relay = Squatter::relaying(daemon.address()).start(Bind::V4).unwrap();
    let honest = Target { address: relay.address(), ..Target::at(daemon.address()) };
    assert!(probe_with_proof(&honest, &credential, &nonce(), ms(5_000)).unwrap().ready().is_some());
    let fooled = Target::at(relay.address());
    assert_eq!(probe_with_proof(&fooled, &credential, &nonce(), ms(5_000)).unwrap().response.status, 401);
    assert_eq!(relay.ledger().requests().len(), 2);
    assert_eq!(relay.ledger().requests()[0].target, HANDSHAKE);
}

#[test]
fn a_front_is_seen_by_nobody_and_keeps_the_ledger() {
    let echo = Squatter::responding(|seen, _| {
        let told = [seen.header("host"), seen.header("origin"), seen.header("x-other")];
        response(207, &[], format!("{} {told:?}", seen.method).as_bytes())
    });
    let daemon = echo.start(Bind::V4).unwrap();
    let front = Squatter::fronting(daemon.address()).start(Bind::V4).unwrap();
    let [own, other] = [&front, &daemon].map(|actor| actor.address().port());
    let mut connection = Connection::open(front.address(), ms(5_000)).unwrap();
    for origin in [own, 5173] {
        let request = Request::new("POST", "/x")
            .host(&format!("localhost:{own}"))
            .header("Origin", &format!("http://127.0.0.1:{origin}"))
            .header("X-Other", &format!("http://127.0.0.1:{own}"))
            .json("{}");
        let answer = connection.exchange(&request.bytes(), ms(5_000)).unwrap();
        let origin = if origin == own { other } else { origin };
        let told = [
            format!("localhost:{other}"),
            format!("http://127.0.0.1:{origin}"),
            format!("http://127.0.0.1:{own}"),
        ];
        let expected = format!("POST {:?}", told.map(Some));
        assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    }
    let taken = front.ledger().connections();
    assert_eq!((taken[0].requests().len(), taken[0].statuses()), (2, vec![207, 207]));
    front.cut();
    assert!(connection.wait_closed(ms(5_000)));
    // Only what was open is cut.
    assert_eq!(exchange(front.address(), &get(front.address()), ms(5_000)).unwrap().status, 207);
}

#[test]
fn what_was_sent_to_a_part_that_never_accepts_is_known_in_the_end() {
    let actor = Squatter::backlog_only().start(Bind::V4).unwrap();
    let mut connection = Connection::open(actor.address(), ms(5_000)).unwrap();
    connection.send(b"GET /secret HTTP/1.1\r\n\r\n", ms(5_000)).unwrap();
    let ledger = actor.stop();
    assert!(ledger.saw_bytes(b"/secret"));
    assert_eq!(ledger.connections().len(), 1);
}

#[test]
fn an_ended_actor_closes_its_connections_and_its_port() {
    let actor = Squatter::mute().start(Bind::V4).unwrap();
    let address = actor.address();
    let mut connection = Connection::open(address, ms(5_000)).unwrap();
    connection.send(b"x", ms(5_000)).unwrap();
    let took = |taken: &[_]| {
        taken.iter().any(|taken: &local_daemon_harness::actors::Taken| !taken.received.is_empty())
    };
    actor.ledger().wait_for(ms(5_000), took).expect("the byte arrives");
    drop(actor);
    assert!(connection.wait_closed(ms(5_000)));
    assert_eq!(exchange(address, b"", ms(5_000)).map(|_| ()), Err(HttpFault::Refused));
    let again = Squatter::mute().start(Bind::At(address)).unwrap();
    assert_eq!(again.address(), address, "a port can be taken over");
}

#[test]
fn a_noted_exchange_is_told_without_the_secret() {
    let (transcript, credential) = (Transcript::new(), Credential::random());
    transcript.hide(credential.bytes());
    let actor = Squatter::responding(|request, _| {
        response(200, &[], request.header("authorization").unwrap_or_default().as_bytes())
    });
    let actor = actor.noted(&transcript, "squatter").start(Bind::V4).unwrap();
    let wire = Wire::new(&transcript, Duration::from_secs(5));
    let before = Instant::now();
    let target = Target::at(actor.address());
    let answer = wire.exchange(target.address, &target.bearing(&credential).bytes()).unwrap();
    assert!(answer.at >= before);
    let echo = String::from_utf8(answer.body.clone()).unwrap();
    assert!(echo.contains(&credential.text()), "the control: it was echoed");
    assert!(answer.summary(&transcript).contains(REDACTED));
    let told = format!("{:?}", transcript.events());
    assert!(told.contains("request") && told.contains("answer") && told.contains("squatter"));
    assert!(told.contains(REDACTED) && !told.contains(&credential.text()));
}

#[test]
fn the_other_family_of_a_port_can_be_squatted() {
    let Ok(v6) = Squatter::mute().start(Bind::V6) else {
        return; // This host has no [::1].
    };
    let same_port = SocketAddr::from(([127, 0, 0, 1], v6.address().port()));
    if let Ok(v4) = Squatter::mute().start(Bind::At(same_port)) {
        assert_eq!(v4.url().authority(), format!("127.0.0.1:{}", v6.address().port()));
    }
    assert_eq!(v6.url().authority(), format!("[::1]:{}", v6.address().port()));
}
