//! Requests that have not authenticated: their bounds, and that they delay and fill nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Home, Raw, until};

/// The routes that take a body without authentication, with the header that they require.
const DOORS: [(&str, &str); 2] = [
    ("/page", "Content-Type: application/x-www-form-urlencoded\r\n"),
    ("/v1/handoff", "Content-Type: application/json\r\n"),
];

/// A connection on which a stranger has sent a head, and a part of the body.
fn stranger(home: &Home, (path, kind): (&str, &str), rest: &str) -> TcpStream {
    let authority = Raw::connect(home).authority().to_owned();
    let mut stream = TcpStream::connect(&authority).unwrap();
    let request = format!("POST {path} HTTP/1.1\r\nHost: {authority}\r\n{kind}{rest}");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A daemon that has not read the whole body may reset the connection after its answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn bodies_of_strangers_are_bounded_in_size_and_time() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let began = Instant::now();
    let slow = DOORS.map(|door| stranger(&home, door, "Content-Length: 100\r\n\r\n{"));
    for door in DOORS {
        let announced = stranger(&home, door, "Content-Length: 4097\r\n\r\n{");
        let chunk = format!("Transfer-Encoding: chunked\r\n\r\n1001\r\n{}\r\n", "x".repeat(0x1001));
        for stream in [announced, stranger(&home, door, &chunk)] {
            let answer = answer(stream);
            assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        }
    }
    for stream in slow {
        let answer = answer(stream);
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
    }
    assert!((3..10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[test]
fn open_requests_of_strangers_are_not_work() {
    let home = Home::new();
    let mut daemon = home.run(&[]);
    let _slow = DOORS.map(|door| stranger(&home, door, "Content-Length: 100\r\n\r\n{"));
    let (code, status) = Raw::connect(&home).ask("GET /v1/status", None);
    assert_eq!((code, &status["active_requests"]), (200, &json!(0)));
    let began = Instant::now();
    let seen = home.locald(&["stop", "--if-idle"]);
    assert_eq!(seen.code, 0, "{seen:?}");
    assert_eq!(daemon.ended().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn requests_of_strangers_are_not_activity() {
    let home = Home::new();
    let mut daemon = home.run_with(&["--mode", "auto"], &[("LOCALD_IDLE_TIMEOUT_SECONDS", "1")]);
    let authority = Raw::connect(&home).authority().to_owned();
    until("it leaves", || {
        if let Ok(mut stream) = TcpStream::connect(&authority) {
            let _ = write!(stream, "GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
            answer(stream);
        }
        (!daemon.is_alive()).then_some(())
    });
    assert_eq!(daemon.ended().code(), Some(0));
    assert!(daemon.log().contains("idle"), "{}", daemon.log());
}

#[test]
fn strangers_do_not_fill_the_log() {
    let home = Home::new();
    let daemon = home.run_with(&[], &[("LOCALD_LOG", "debug")]);
    let mut stranger = Raw::connect(&home);
    for _ in 0..500 {
        assert_eq!(stranger.bare("GET /v1/status", "", "").status, 401);
        assert_eq!(stranger.bare("GET /", "", "").status, 401);
    }
    let lines = daemon.log().lines().count();
    assert!(lines < 100, "{lines} lines");
}
