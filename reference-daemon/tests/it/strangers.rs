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

/// Sends a request whose body is refused unread, and reads its answer only after the whole body was sent.
fn refused(home: &Home, headers: &str, size: usize) -> String {
    let authority = Raw::connect(home).authority().to_owned();
    let mut stream = TcpStream::connect(&authority).unwrap();
    let head =
        format!("POST /v1/events HTTP/1.1\r\nHost: {authority}\r\n{headers}Content-Length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let body = vec![b'x'; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let sent = stream.write(&body[..left.min(body.len())]).expect("the daemon reads on");
        left -= sent;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer, and then the end");
    answer
}

/// PER-49: a client that sends its whole body before it reads the answer is not cut off.
#[test]
fn a_refusal_reaches_a_client_whose_body_is_on_its_way() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let credential = format!("Authorization: Bearer {}\r\n", home.credential());
    for _ in 0..20 {
        for (headers, size, status) in [
            ("", 900_000, 401),
            ("Host: evil.example\r\n", 900_000, 400),
            (&*credential, 200_000, 413),
            (&credential, 20_000_000, 413),
        ] {
            let answer = refused(&home, headers, size);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{size}: {answer}");
            // No request is sent after one that is discarded.
            assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
        }
    }
}

/// A short body that comes with its head costs no connection.
#[test]
fn a_refusal_of_a_short_body_keeps_the_connection() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let mut raw = Raw::connect(&home);
    for body in ["", "x", &"x".repeat(1000)] {
        assert_eq!(raw.bare("POST /v1/events", "", body).status, 401);
    }
    assert_eq!(raw.with_credential("GET /v1/status", "", "").status, 200);
}

/// PER-49: and no one holds a connection so for long, or sends without end.
#[test]
fn what_is_discarded_is_bounded() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let authority = Raw::connect(&home).authority().to_owned();
    let begin = || {
        let mut stream = TcpStream::connect(&authority).unwrap();
        let head =
            format!("POST /v1/events HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 100000000\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        (stream, Instant::now())
    };
    let (mut fast, began) = begin();
    let sent = (0..10_000).take_while(|_| fast.write_all(&[b'x'; 4 * 1024]).is_ok()).count() * 4;
    assert!((1024..16 * 1024).contains(&sent), "{sent} KiB");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let (mut slow, began) = begin();
    while slow.write_all(b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(10), "it is still open");
    }
    assert!(began.elapsed() > Duration::from_millis(1800), "{:?}", began.elapsed());
}

/// PER-46: a connection that only waits for its client to read is no work. The quickest of a few stops is not slow by load.
#[test]
fn what_is_discarded_delays_no_stop() {
    let home = Home::new();
    for is_user in [false, true] {
        let stop = || {
            let mut daemon = home.run(&[]);
            let credential = format!("Authorization: Bearer {}\r\n", home.credential());
            let headers = if is_user { &*credential } else { "" };
            let authority = Raw::connect(&home).authority().to_owned();
            let mut stream = TcpStream::connect(&authority).unwrap();
            let head = format!(
                "POST /v1/events HTTP/1.1\r\nHost: {authority}\r\n{headers}Content-Length: 100000000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let began = Instant::now();
            assert_eq!(home.locald(&["stop"]).code, 0);
            assert_eq!(daemon.ended().code(), Some(0));
            began.elapsed()
        };
        let quickest = (0..5).map(|_| stop()).min().unwrap();
        assert!(quickest < Duration::from_millis(400), "{is_user}: {quickest:?}");
    }
}
