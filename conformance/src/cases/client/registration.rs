//! What a client makes of a record: chapter 03.

use local_daemon_harness::actors::FakeDaemon;
use local_daemon_harness::proof::random_hex;
use local_daemon_harness::record::{Record, Url};
use local_daemon_harness::world::World;
use local_daemon_spec::vectors::{bytes, cases};
use serde_json::{Value, json};

use crate::case::case;
use crate::fixtures::client::{Played, bystander, furnished, lives, play_published, publish, write_record};
use crate::fixtures::daemon::{DeadPort, NOBODYS_PID};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, Stop, ensure};
use crate::stage::{Call, Stage};

fn fault(why: &str) -> Stop {
    Stop::Fault(why.to_owned())
}

/// The bytes of a record's vector, with the id and the port of a daemon that is there; `None` where the vector is about
/// the file and not about its content.
fn record_bytes(case: &Value, played: &Played) -> Option<Vec<u8>> {
    const ID: &str = "5f0c2a9be17d4836a1c04f9d2e6b8370";
    let mut case = case.clone();
    if let Some(text) = case["input"].as_str() {
        let port = played.actor.address().port().to_string();
        case["input"] = text.replace(ID, &played.daemon.id).replace("49152", &port).into();
    }
    let bytes = bytes(&case, "input");
    let checked = |id: &Value| id == "DIR-14";
    let file = !case["accept"].as_bool()? && case["requirements"].as_array()?.iter().any(checked);
    (!file).then_some(bytes)
}

/// Records that are not one JSON object in UTF-8 with unique keys, lack a member or hold one in another form
/// (the vectors of records.json) lead to a daemon that would prove itself: absent, and nothing is sent.
#[case("REG-9", deadline_s = 180)]
fn client_takes_no_malformed_record(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("absent, and nothing sent");
    let heard = good.actor.ledger().connections().len();
    for case in cases("records").iter().filter(|case| case["accept"] == false) {
        // What is wrong with the url is judged apart.
        let name = case["name"].as_str().unwrap_or_default();
        let Some(bytes) = record_bytes(case, &good).filter(|_| !name.starts_with("url-")) else {
            continue;
        };
        write_record(stage, &bytes)?;
        refused(stage, &good, heard, &format!("a record with {} ({name})", case["why"]))?;
    }
    Ok(())
}

/// The client is absent before a record that it must not take, and the daemon that it leads to hears nothing.
fn refused(stage: &mut Stage, good: &Played, heard: usize, what: &str) -> Outcome {
    let answer = stage.ask(Call::connect())?;
    let more = good.actor.ledger().connections().len() - heard;
    ensure!(more == 0, "{what}: the client connected: {answer}");
    answer.must_be_after("absent", what)
}

/// Records in every form that is allowed (the vectors of records.json) lead to a daemon: ready, or unreachable if a
/// record names another host, and in no case absent.
#[case("REG-9")]
fn client_takes_every_good_record(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("ready, or unreachable for another host");
    for case in cases("records").iter().filter(|case| case["accept"] == true) {
        let of_chapter = |id: &Value| id == "REG-9" || id == "DIR-14";
        let ours = case["requirements"].as_array().is_some_and(|ids| ids.iter().any(of_chapter));
        let text = case["input"].as_str().unwrap_or_default();
        let Some(bytes) = record_bytes(case, &good).filter(|_| ours && text.contains("127.0.0.1:49152"))
        else {
            continue;
        };
        write_record(stage, &bytes)?;
        let answer = stage.ask(Call::connect())?;
        let what = format!("a record with {} ({})", case["why"], case["name"]);
        let tells_host = Record::parse(&bytes).is_ok_and(|record| record.world.host.is_some());
        let elsewhere = tells_host && World::own().host.is_some();
        answer.must_be_after(if elsewhere { "unreachable" } else { "ready" }, &what)?;
    }
    Ok(())
}

/// A record with this text as its `url`, for a daemon that is there.
fn with_url(played: &Played, url: &str) -> Vec<u8> {
    let record = json!({"id": played.daemon.id, "version": "1.0.0", "url": url, "pid": NOBODYS_PID});
    record.to_string().into_bytes()
}

/// Records whose `url` is another text than the rule's, each spelling of it included (the vectors of
/// urls.json), lead to a daemon that would prove itself: absent, and nothing is sent.
#[case("REG-10", deadline_s = 180)]
fn client_takes_no_other_url(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("absent, and nothing sent");
    let heard = good.actor.ledger().connections().len();
    let port = good.actor.address().port();
    for case in cases("urls").iter().filter(|case| case["accept"] == false) {
        let url = case["input"].as_str().unwrap_or_default();
        // So that a client that takes it finds a daemon there. Numbers of their own kind, such as 080, stay.
        let url = url.replace("8080", &port.to_string());
        write_record(stage, &with_url(&good, &url))?;
        refused(stage, &good, heard, &format!("the url {url} ({})", case["why"], url = in_words(&url)))?;
    }
    // The port itself, written in ways that a number's parser takes.
    for (host, port) in [
        ("127.0.0.1", format!("0{port}")),
        ("127.0.0.1", format!("+{port}")),
        ("127.0.0.1", format!("{port} ")),
        ("127.0.0.1", format!("{}", u32::from(port) + 65_536)),
        ("localhost", format!("0{port}")),
    ] {
        let url = format!("http://{host}:{port}");
        write_record(stage, &with_url(&good, &url))?;
        refused(stage, &good, heard, &format!("the url {url}", url = in_words(&url)))?;
    }
    Ok(())
}

/// The `url` names 127.0.0.1 and `localhost`, with and without a final slash: ready.
#[case("REG-10")]
fn client_takes_every_good_url(stage: &mut Stage) -> Outcome {
    let (world, _good) = furnished(stage)?;
    stage.expect("ready");
    for (host, end) in [
        ("127.0.0.1", ""),
        ("127.0.0.1", "/"),
        ("localhost", ""),
        ("localhost", "/"),
    ] {
        let id = random_hex::<16>();
        let daemon = FakeDaemon { id, ..world.daemon() };
        let authority = move |port| format!("{host}:{port}");
        let answers = daemon.clone();
        let part = local_daemon_harness::actors::Squatter::responding(move |seen, address| {
            let authority = Some(authority(address.port()));
            let daemon = FakeDaemon { authority, ..answers.clone() };
            daemon.answer(seen, address)
        });
        let actor = part.noted(stage.transcript(), "played daemon");
        let actor = actor.start(local_daemon_harness::actors::Bind::V4)?;
        let text = format!("http://{}{end}", authority(actor.address().port()));
        let url = Url::parse(&text).ok_or_else(|| fault("not a URL"))?;
        publish(stage, &daemon.record(actor.address()).with_url(url))?;
        let answer = stage.ask(Call::connect())?;
        answer.must_be_after("ready", &format!("the url {text}", text = in_words(&text)))?;
    }
    Ok(())
}

/// Two records are malformed in two ways: the client says that there is one, and not the same of both;
/// without a record it says neither.
#[case("REG-11")]
fn client_says_what_is_malformed(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("the record's name, and two explanations");
    let name = stage.manifest().binding.registration.clone();
    let whole = good.record.to_json();
    let cut = whole.trim_end().trim_end_matches('}');
    write_record(stage, cut.as_bytes())?;
    let first = stage.ask(Call::connect())?;
    write_record(stage, &with_url(&good, "http://example.com:80"))?;
    let second = stage.ask(Call::connect())?;
    std::fs::remove_file(stage.record_path())?;
    let none = stage.ask(Call::connect())?;
    for answer in [&first, &second] {
        let said = answer.text().contains(&name);
        ensure!(said, "the malformed {name} is not mentioned: {answer}");
    }
    let told_apart = first.text() != second.text() && first.text() != none.text();
    ensure!(told_apart, "what is wrong is not said: {first}; {second}");
    Ok(())
}

/// A client that may spawn meets a malformed record: the daemon that it starts publishes over it.
#[case("REG-11")]
fn client_starts_over_a_malformed_record(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("ready with a daemon of its own");
    for bytes in [&b""[..], b"{\"id\":", b"[]", b"\xef\xbb\xbf{}"] {
        write_record(stage, bytes)?;
        let answer = stage.ask(Call::spawn())?;
        let own = answer.outcome == "ready" && answer.id.as_ref() != Some(&good.daemon.id);
        let text = String::from_utf8_lossy(bytes);
        ensure!(own, "before the record {text}: {answer}", text = in_words(&text));
        stage.arena().end_leaks();
    }
    Ok(())
}

/// The record and the handshake hold members of every kind that nobody knows.
#[case("REG-12")]
fn client_ignores_unknown_members(stage: &mut Stage) -> Outcome {
    let (world, good) = furnished(stage)?;
    stage.expect("ready");
    for case in cases("records").iter().filter(|case| case["accept"] == true) {
        let ours = case["requirements"].as_array().is_some_and(|ids| ids.iter().any(|id| id == "REG-12"));
        let Some(bytes) = record_bytes(case, &good).filter(|_| ours) else {
            continue;
        };
        write_record(stage, &bytes)?;
        let answer = stage.ask(Call::connect())?;
        answer.must_be_after("ready", &format!("a record with {}", case["name"]))?;
    }
    let members = json!({"future": {"deep": [1, null, {"x": "y"}]}, "nothing": false, "": 1.5, "capabilities": ["new"]});
    let members = members.as_object().cloned().unwrap_or_default();
    let played = play_published(stage, world.daemon().members(members))?;
    let answer = stage.ask(Call::connect())?;
    answer.must_be_ready_with(&played.daemon.id)
}

/// A record names a living process and a port that refuses; another names no process and a daemon that
/// answers: stale, and ready (claude-code#72898).
#[case("REG-13")]
fn client_asks_no_pid(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("stale beside a living process, ready beside none");
    let alive = bystander(stage)?;
    let port = DeadPort::new()?;
    publish(stage, &Record::new(Url::of(port.address), alive.pid()))?;
    let answer = stage.ask(Call::connect())?;
    answer.must_be("stale")?;
    lives(&alive, "when its record was stale")?;
    // Its pid is above the largest that the kernel gives.
    publish(stage, &good.record)?;
    let answer = stage.ask(Call::connect())?;
    answer.must_be_ready_with(&good.daemon.id)
}
