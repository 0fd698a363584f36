//! The daemon-wide stream.

use serde_json::{Value, json};

use crate::support::{Home, Raw, assert_fits, vectors};

fn field<'a>(frame: &'a [(String, String)], name: &str) -> Option<&'a str> {
    frame.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
}

/// The event of a frame: its id, and its data, which fits the schema and bears the event's name.
fn event(frame: &[(String, String)]) -> (Option<String>, Value) {
    let data: Value = serde_json::from_str(field(frame, "data").unwrap()).unwrap();
    assert_fits("events.schema.json", &data);
    assert_eq!(data["topic"].as_str(), field(frame, "event"));
    (field(frame, "id").map(str::to_owned), data)
}

/// An open stream whose first word, the time to wait before a new try, was read.
fn listen(home: &Home, query: &str, headers: &str) -> Raw {
    let mut raw = Raw::connect(home);
    let head = raw.send(&format!("GET /v1/events{query}"), headers);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.to_ascii_lowercase().contains("content-type: text/event-stream"), "{head}");
    let opening = raw.frame().unwrap();
    assert_eq!(field(&opening, "retry"), Some("500"));
    // STR-32
    let names_place = query.contains("after=") || !headers.is_empty();
    assert_eq!(field(&opening, "id").is_none(), names_place, "{opening:?}");
    assert_eq!(opening.len(), if names_place { 1 } else { 2 });
    raw
}

fn note(home: &Home, data: &Value) -> String {
    let (status, answer) =
        Raw::connect(home).ask("POST /v1/events", Some(&json!({"topic": "note", "data": data})));
    assert_eq!(status, 201, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

#[test]
fn everybody_sees_a_note_and_resumes_after_it() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let epoch = home.record().unwrap()["id"].as_str().unwrap()[..8].to_owned();
    let mut streams = [listen(&home, "", ""), listen(&home, "?topics=note", "")];
    let ids: Vec<String> =
        (1..=3).map(|n| note(&home, &json!({"n": n, "text": "a\nb\r\n\r\nid: x"}))).collect();
    // The first event is the daemon's own: it is ready.
    assert_eq!(ids, [2, 3, 4].map(|n| format!("{epoch}-{n}")));
    for stream in &mut streams {
        for (id, n) in ids.iter().zip(1..) {
            let (seen, data) = event(&stream.frame().unwrap());
            assert_eq!((seen.as_ref(), &data["data"]["n"]), (Some(id), &json!(n)));
        }
    }
    let after = format!("?after={}", ids[0]);
    let header = format!("Last-Event-ID: {}\r\n", ids[1]);
    for (query, header, expected) in [
        (&*after, "", &ids[1]),
        ("", &*header, &ids[2]),
        // A browser that reconnects sends the header, and its address still says where it began.
        (&*after, &*header, &ids[2]),
    ] {
        let frame = listen(&home, query, header).frame().unwrap();
        assert_eq!(event(&frame).0.as_ref(), Some(expected));
    }
}

#[test]
fn a_place_that_is_not_held_is_a_gap_and_never_silence() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let second = note(&home, &json!("one"));
    let mut stream = listen(&home, "?after=00000000-7", "");
    let (id, gap) = event(&stream.frame().unwrap());
    assert_eq!((id, &gap["topic"]), (None, &json!("gap")));
    let (first, ready) = event(&stream.frame().unwrap());
    assert_eq!(gap["data"]["first"].as_str(), first.as_deref());
    assert_eq!(ready["data"]["what"], "ready");
    assert_eq!(event(&stream.frame().unwrap()).0, Some(second));
}

#[test]
fn a_note_is_bounded_and_only_a_note() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    for (body, status, code) in [
        (json!({"topic": "lifecycle", "data": 1}), 400, "invalid_request"),
        (json!({"topic": "note"}), 400, "invalid_request"),
        (json!({"topic": "note", "data": "x".repeat(64 * 1024)}), 413, "body_too_large"),
    ] {
        let (seen, problem) = Raw::connect(&home).ask("POST /v1/events", Some(&body));
        assert_eq!((seen, problem["code"].as_str()), (status, Some(code)));
    }
    for chunks in ["ZZ\r\n", "0x1\r\nx\r\n", "FFFFFFFFFFFFFFFFF\r\n", "1\nx\n"] {
        let mut raw = Raw::connect(&home);
        raw.begin("POST /v1/events", &format!("Transfer-Encoding: chunked\r\n\r\n{chunks}"));
        assert!(raw.head().starts_with("HTTP/1.1 400"), "malformed, and not too large: {chunks:?}");
    }
    let mut stream = listen(&home, "", "");
    note(&home, &json!("x".repeat(60_000)));
    assert_eq!(event(&stream.frame().unwrap()).1["data"].as_str().map(str::len), Some(60_000));
}

/// STR-32: a stream that is cut before its first event has a place to come back to.
#[test]
fn what_happens_after_a_cut_before_the_first_event_is_not_lost() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let before = note(&home, &json!("before"));
    let mut raw = Raw::connect(&home);
    raw.send("GET /v1/events?topics=note", "");
    let opening = raw.frame().unwrap();
    assert_eq!(field(&opening, "id"), Some(&*before));
    raw.close();
    let missed: Vec<String> = (0..3).map(|n| note(&home, &json!(n))).collect();
    let mut stream = listen(&home, "?topics=note", &format!("Last-Event-ID: {before}\r\n"));
    for id in missed {
        assert_eq!(event(&stream.frame().unwrap()).0, Some(id));
    }
}

/// STR-20, STR-33.
#[test]
fn an_empty_id_is_none_in_the_header_and_refused_in_the_query() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let id = note(&home, &json!(1));
    for (query, header, status) in [
        ("", "Last-Event-ID:\r\n", 200),
        ("", "Last-Event-ID: x\r\n", 400),
        ("?after=", "", 400),
        ("?after", "", 400),
        ("?after=", &format!("Last-Event-ID: {id}\r\n"), 400),
        ("?after=x", &format!("Last-Event-ID: {id}\r\n"), 400),
        (&format!("?after={id}"), "Last-Event-ID: x\r\n", 400),
        (&format!("?after={id}"), "Last-Event-ID:\r\n", 200),
    ] {
        let head = Raw::connect(&home).send(&format!("GET /v1/events{query}"), header);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{query} {header}: {head}");
    }
}

/// The `lifecycle` events of chapter 11 that are neither the first nor the last.
#[test]
fn a_changed_configuration_and_a_rotation_are_told() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let opening = listen(&home, "", "");
    let mut stream = listen(&home, "?topics=lifecycle", "");
    assert_eq!(home.locald(&["origins", "add", "https://app.example"]).code, 0);
    let (reloaded, what) = event(&stream.frame().unwrap());
    assert_eq!(what["data"], json!({"what": "reloaded"}));
    drop(opening);
    assert_eq!(home.locald(&["credential", "rotate"]).code, 0);
    // CRED-16: the stream ends with the credential, and what happened is read by resuming.
    while stream.frame().is_some() {}
    let mut resumed = listen(&home, &format!("?topics=lifecycle&after={}", reloaded.unwrap()), "");
    let (_, what) = event(&resumed.frame().unwrap());
    assert_eq!(what["data"], json!({"what": "credential-rotated"}));
}

/// STR-31: the notes of the vectors, and each accepted one passed on as it came.
#[test]
fn a_note_is_one_that_every_reader_reads() {
    let home = Home::new();
    let _daemon = home.run(&[]);
    let mut stream = listen(&home, "?topics=note", "");
    let mut raw = Raw::connect(&home);
    for case in vectors("notes") {
        // The one that is not text is refused by any reader of JSON.
        let Some(body) = case["input"].as_str() else { continue };
        let answer = raw.with_credential("POST /v1/events", "", body);
        let expected = if case["accept"] == true { 201 } else { 400 };
        assert_eq!(answer.status, expected, "{}: {}", case["name"], answer.body);
        if expected == 400 {
            assert_eq!(answer.json()["code"], "invalid_request");
            continue;
        }
        let frame = stream.frame().unwrap();
        assert_eq!(field(&frame, "id"), answer.json()["id"].as_str());
        if let Some(data) = body.strip_prefix("{\"topic\":\"note\",\"data\":") {
            let passed_on = format!("\"data\":{data}");
            assert!(field(&frame, "data").unwrap().ends_with(&passed_on) || body.contains("\"x\""), "{case}");
        }
    }
}

#[test]
fn a_stop_is_the_last_word() {
    let home = Home::new();
    let mut daemon = home.run(&[]);
    let mut stream = listen(&home, "", "");
    assert_eq!(home.locald(&["stop"]).code, 0);
    let (_, draining) = event(&stream.frame().unwrap());
    assert_eq!(draining["data"], json!({"what": "draining", "reason": "requested"}));
    let (id, last) = event(&stream.frame().unwrap());
    assert_eq!((id, &last["topic"]), (None, &json!("shutdown")));
    assert_eq!(stream.frame(), None, "and then a clean end");
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn a_displaced_daemon_names_its_successor() {
    let home = Home::new();
    let mut daemon = home.run(&[]);
    let mut stream = listen(&home, "?topics=note", "");
    let _successor = home.run(&[]);
    let (_, last) = event(&stream.frame().unwrap());
    assert_eq!(
        (&last["topic"], &last["data"]["successor"]),
        (&json!("superseded"), &home.record().unwrap()["id"])
    );
    assert_eq!(stream.frame(), None);
    assert_eq!(daemon.ended().code(), Some(20));
}
