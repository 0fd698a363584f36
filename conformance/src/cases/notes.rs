//! Notes: chapter 18.

use local_daemon_harness::http::Request;
use serde_json::{Value, json};

use crate::case::case;
use crate::fixtures::stream::{LONGEST_NOTE, Poster, brief, id, settled, split, until};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::{ReadyDaemon, Stage};

/// Data that a careless daemon changes, cuts or is confused by.
fn data() -> Vec<String> {
    let texts = [
        json!("a\nb\r\n\r\nid: 00000000-9\nevent: shutdown\n\ndata: x"),
        json!("\u{0}\u{7f}\u{85}\u{2028}\u{feff}é𝄞 \\ \" /"),
        json!([[], {}, [null, [true, {"": ""}]]]),
        json!({"topic": "shutdown", "at": 0, "data": {"id": "x"}, "id": "y"}),
        json!(""),
        json!(false),
        json!(0),
        json!("x".repeat(60_000)),
    ];
    let mut data: Vec<String> = texts.iter().map(Value::to_string).collect();
    // As they stand: null, numbers that need all their digits, and white space between tokens.
    data.extend(
        [
            "null",
            "9007199254740993",
            "-9223372036854775808",
            "18446744073709551615",
            "0.1",
            "1e-7",
            "[1,\n2,\r\n\t3]",
            "{\n\"a\" :\r\n{ \"b\" : \"c\" }\n}",
            "\"\\u00e9\\/\\ud834\\udd1e\"",
        ]
        .map(str::to_owned),
    );
    data
}

/// Notes of every kind of JSON, also what looks like the end of a frame, reach four streams once each, with
/// the answered id and unchanged.
#[case("STR-7")]
fn a_note_reaches_every_stream(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = settled(stage)?;
    let mut poster = Poster::new(&live)?;
    stage.expect("each note once, with its answered id and its data unchanged, on every stream of its topic");
    let mut streams = [
        ("of everything", live.open_stream("")?),
        ("of notes", live.open_stream("?topics=note")?),
        ("of two topics", live.open_stream("?topics=lifecycle,note")?),
    ];
    let data = data();
    let mut posted = Vec::new();
    for data in &data {
        match poster.try_note(data) {
            Ok(id) => posted.push((id, serde_json::from_str::<Value>(data).unwrap_or_default())),
            Err(why) => {
                let data = &data[..data.floor_char_boundary(60)];
                return fail(format!("a note of {data}: {why}", data = in_words(&data)));
            }
        }
    }
    let marker = poster.note("\"the last\"")?;
    let resumed = live.stream_from_the_beginning("&topics=note")?;
    let all = streams.iter_mut().map(|(what, stream)| (*what, stream));
    let mut resumed = resumed;
    for (what, stream) in all.chain([("from the beginning", &mut resumed)]) {
        let seen = until(stream, &marker)?;
        for (id, data) in &posted {
            let with_id: Vec<_> = seen.iter().filter(|event| event.id.as_deref() == Some(id)).collect();
            let whole = matches!(with_id[..], [event] if event.name == "note" && event.payload() == data);
            ensure!(
                whole,
                "a stream {what}: the note {id} came {} times: {}",
                with_id.len(),
                with_id.first().map_or_else(String::new, |event| event.brief())
            );
        }
        let notes = seen.iter().filter(|event| event.name == "note").count();
        ensure!(
            notes == posted.len() + 1,
            "a stream {what}: {notes} notes of {}: {}",
            posted.len() + 1,
            brief(&seen)
        );
    }
    stage.observed(format!("{} notes on 4 streams", posted.len() + 1));
    Ok(())
}

/// Sends what must not be appended between two good notes: the second has the number after the first, and a stream
/// shows nothing between them.
fn appends_nothing(
    live: &ReadyDaemon,
    status: u16,
    requests: impl Fn(&Poster) -> Vec<(String, Request)>,
) -> Outcome {
    let mut poster = Poster::new(live)?;
    live.between_controls(|| {
        let before = poster.note("\"before\"")?;
        live.control(format!("a good note was answered 201 with the id {before}"));
        for (what, request) in requests(&poster) {
            let seen = match poster.send(&request) {
                Ok(answer) => answer.status.to_string(),
                Err(fault) => fault.to_string(),
            };
            live.observed(format!("{what}: {seen}"));
            ensure!(seen == status.to_string(), "{what}: {seen}");
        }
        let after = poster.note("\"after\"")?;
        let next = split(&before).map(|(_, seq)| seq + 1);
        let mut stream = live.resume_stream(&format!("?after={before}"), &[])?;
        let seen = until(&mut stream, &after)?;
        ensure!(
            seen.len() == 1 && split(&after).map(|(_, seq)| seq) == next,
            "between {before} and {after} came: {}",
            brief(&seen)
        );
        Ok(())
    })
}

/// A note whose body is exactly so long.
fn of_length(length: usize) -> String {
    let frame = r#"{"topic":"note","data":""}"#.len();
    format!(r#"{{"topic":"note","data":"{}"}}"#, "x".repeat(length - frame))
}

/// Notes of more than 64 KiB, with and without an announced length, are 413; the numbers of the notes before
/// and after them follow each other.
#[case("STR-8")]
fn a_note_too_long_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = settled(stage)?;
    stage.expect("413 to each note of more than 64 KiB, and nothing appended");
    appends_nothing(&live, 413, |poster| {
        let announced = [LONGEST_NOTE + 1, LONGEST_NOTE + 1024, 1024 * 1024 - 1];
        let mut requests: Vec<_> = announced
            .iter()
            .map(|length| (format!("{length} bytes"), poster.note_request(of_length(*length))))
            .collect();
        // Its length is in no header: it must be counted as it comes.
        let body = of_length(LONGEST_NOTE + 1);
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let chunked = poster.note_request(chunks).unframed().header("Transfer-Encoding", "chunked");
        requests.push((format!("{} bytes in a chunk", body.len()), chunked));
        // White space counts: the body is what is measured.
        let padded = format!("{}{}", of_length(100), " ".repeat(LONGEST_NOTE));
        requests.push(("a short note and 64 KiB of spaces".to_owned(), poster.note_request(padded)));
        requests
    })
}

/// `levels` arrays nested in one another.
fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// Data that readers in other languages refuse or read differently is refused; data just within each bound is accepted.
#[case("STR-31")]
fn notes_that_every_reader_reads(stage: &mut Stage) -> Outcome {
    /// The levels of a note's data: its own object is the first of 64.
    const DEEPEST: usize = 63;
    let (_daemon, live) = settled(stage)?;
    stage.expect("201 for data that every reader reads alike; 400 for the rest, which is not appended");
    let deepest_object = format!("{}1{}", "{\"a\":".repeat(DEEPEST), "}".repeat(DEEPEST));
    let mut poster = Poster::new(&live)?;
    for data in [
        &*nested(DEEPEST),
        &deepest_object,
        &format!("[{}]", vec![nested(DEEPEST - 1); 3].join(",")),
        r#""\ud834\udd1e \\ud800""#,
        "[1.7976931348623157e308,-1.7976931348623157e308,1e-400,0e999]",
        r#"[{"a":1},{"a":2},{"a":{"a":"a"},"A":"a"}]"#,
        r#"{"a":"{\"b\":1,\"b\":2,[[","\u0061 ":"a"}"#,
    ] {
        if let Err(why) = poster.try_note(data) {
            let data = &data[..data.floor_char_boundary(60)];
            return fail(format!("a note of {data}: {why}", data = in_words(&data)));
        }
    }
    stage.control("notes just within each bound were answered 201");
    appends_nothing(&live, 400, |poster| {
        let data = [
            nested(DEEPEST + 1),
            format!("{{\"a\":{}}}", nested(DEEPEST)),
            nested(30_000),
            r#""\ud800""#.to_owned(),
            r#""\udd1e\ud834""#.to_owned(),
            r#"{"\ud834":1}"#.to_owned(),
            r#"["\ud834x\udd1e"]"#.to_owned(),
            "1e999".to_owned(),
            "[-1e309]".to_owned(),
            "1".repeat(400),
            r#"{"a":1,"a":1}"#.to_owned(),
            r#"[{"b":{"a":1,"c":[],"a":2}}]"#.to_owned(),
            r#"{"a":1,"\u0061":2}"#.to_owned(),
        ];
        let body = |data: &String| format!(r#"{{"topic":"note","data":{data}}}"#);
        let mut bodies: Vec<String> = data.iter().map(body).collect();
        // The rest of the note's JSON is judged like its data.
        bodies.extend(
            [
                r#"{"topic":"note","data":1,"data":1}"#,
                r#"{"topic":"note","data":1,"x":{"a":1,"a":1}}"#,
                r#"{"topic":"note","data":1,"x":1e999}"#,
            ]
            .map(str::to_owned),
        );
        let request = |body: String| {
            let what = in_words(&body[..body.floor_char_boundary(60)]);
            (what, poster.note_request(body))
        };
        bodies.into_iter().map(request).collect()
    })
}

/// What is no JSON, no object, without data or of another topic is 400, and nothing is appended.
#[case("STR-9")]
fn only_notes_can_be_posted(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = settled(stage)?;
    stage.expect(
        "400 to each body that is not an object with the topic `note` and a `data`, and nothing appended",
    );
    let other = id(&live, 1);
    appends_nothing(&live, 400, |poster| {
        let mut bodies: Vec<String> = [
            "",
            "null",
            "\"note\"",
            "[\"note\",1]",
            "[{\"topic\":\"note\",\"data\":1}]",
            "{}",
            "{\"topic\":\"note\"}",
            "{\"data\":1}",
            "{\"topic\":null,\"data\":1}",
            "{\"topic\":[\"note\"],\"data\":1}",
            "{\"topic\":\"Note\",\"data\":1}",
            "{\"topic\":\"\",\"data\":1}",
            "{\"topic\":\"note\\nid: 1\",\"data\":1}",
            "{\"topic\":\"note\",\"data\":}",
            "{\"topic\":\"note\",\"data\":1",
            "{\"topic\":\"note\",\"data\":1} x",
            "{topic:'note',data:1}",
            "topic=note&data=1",
        ]
        .map(str::to_owned)
        .into();
        for (topic, data) in [
            ("lifecycle", r#"{"what":"draining"}"#),
            ("warning", r#"{"code":"x","message":"y"}"#),
            ("origins", r#"{"what":"added","origin":"http://localhost:1"}"#),
            ("sessions", r#"{"what":"exited","id":"x"}"#),
            ("proxies", r#"{"what":"removed","name":"x"}"#),
            ("gap", &format!(r#"{{"first":"{other}"}}"#)),
            ("superseded", "{}"),
            ("shutdown", "{}"),
            ("message", "{}"),
        ] {
            bodies.push(format!(r#"{{"topic":"{topic}","data":{data}}}"#));
        }
        let request = |body: String| (in_words(&body), poster.note_request(body));
        bodies.into_iter().map(request).collect()
    })
}
