//! What is answered to the credential.

use local_daemon_harness::record::{self, Record};

use super::exchange::{
    answered, authorized, bad_members, bearing, ensure_state, hide_record, member, object, restore_record,
};
use crate::case::case;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::Stage;

/// The credential file's 43 characters are sent as a bearer. One answer comes: 200, JSON, ready, and every
/// member of the table in its type.
#[case("HS-1", "HS-2", "HS-5", "HS-13")]
fn bearer_answered_with_every_member(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200, application/json, `state` ready and every member of the table in its type");
    // A reader of the file sends what stands there, character for character.
    let text = std::fs::read_to_string(stage.credential_path())?;
    let from_file = authorized(&live, &format!("Bearer {}", text.trim_end()));
    for (what, request) in [
        ("the bearer", bearing(&live)),
        ("the file's characters", from_file),
        ("the bearer after three spaces", authorized(&live, &format!("Bearer   {}", text.trim_end()))),
    ] {
        let response = answered(&live, what, &request)?;
        stage.observed(format!("{what}: {}", response.summary(stage.transcript())));
        ensure!(response.status == 200, "{what}: answered {}", response.status);
        match object(&response) {
            Err(why) => return fail(format!("{what}: {why}")),
            Ok(body) => {
                let bad = bad_members(&body);
                ensure!(bad.is_empty(), "{what}: missing or of another type: {}", bad.join(", "));
            }
        }
        ensure_state(&live, what, "ready", &response)?;
    }
    Ok(())
}

/// The good handshake is sent as a browser, a script and an old library would: other Accept, encodings,
/// languages, agents, closing connections. It is never redirected, challenged or answered with a page.
#[case("HS-1")]
fn one_exchange_whatever_the_client_is(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect(
        "the same 200 with a JSON object each time, without a redirect, a challenge or a content coding",
    );
    let clients: [(&str, &[(&str, &str)]); 7] = [
        ("no further header", &[]),
        ("curl", &[("User-Agent", "curl/8.5.0"), ("Accept", "*/*")]),
        (
            "a browser",
            &[
                ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101"),
                ("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
                ("Accept-Language", "en-US,en;q=0.5"),
                ("Upgrade-Insecure-Requests", "1"),
            ],
        ),
        ("one that reads text", &[("Accept", "text/plain")]),
        ("one that closes", &[("Connection", "close")]),
        ("one with a cookie", &[("Cookie", "session=1")]),
        ("one that would take a cached answer", &[("If-None-Match", "*")]),
    ];
    for (what, headers) in clients {
        let request =
            headers.iter().fold(bearing(&live), |request, (name, value)| request.header(name, value));
        let response = answered(&live, what, &request)?;
        let location = response.header("location").map(str::to_owned);
        ensure!(location.is_none(), "{what}: redirected to {location}", location = in_words(&location));
        ensure!(response.status == 200, "{what}: answered {}", response.status);
        if let Err(why) = object(&response) {
            return fail(format!("{what}: {why}"));
        }
    }
    stage.observed(format!("{} clients were answered alike", clients.len()));
    Ok(())
}

/// A daemon is started, asked, ended without warning and started again: each answer names the id and the pid
/// of the record that is there.
#[case("HS-3")]
fn id_and_pid_are_the_records(stage: &mut Stage) -> Outcome {
    stage.expect("`id` and `pid` of the answer are those of the record, at each of three launches");
    for launch in 1..=3 {
        let (daemon, live) = stage.launch_ready()?;
        let what = format!("launch {launch}");
        let response = answered(&live, &what, &bearing(&live))?;
        let told = ["id", "pid"].map(|name| member(&response, name).unwrap_or_default());
        let recorded = [live.record.id.clone(), live.record.pid.to_string()];
        let seen = format!(
            "{what}: the record says {recorded}, the handshake {told}",
            recorded = in_words(&recorded),
            told = in_words(&told)
        );
        stage.observed(&seen);
        ensure!(told == recorded, "{seen}");
        // The record may not follow the answer either.
        let now = Record::parse(&std::fs::read(stage.record_path())?);
        let same = now.as_ref() == Ok(&live.record);
        ensure!(same, "{what}: the record changed by itself");
        daemon.kill_group();
    }
    Ok(())
}

/// The answers of a ready daemon and of one that cannot read its record are at most 65536 bytes long.
#[case("HS-4")]
fn body_within_64_kib(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("bodies of at most 65536 bytes");
    let ready = answered(&live, "ready", &bearing(&live))?;
    let bytes = hide_record(stage)?;
    let draining = answered(&live, "with an unreadable record", &bearing(&live))?;
    restore_record(stage, &bytes)?;
    let lengths = [ready.body.len(), draining.body.len()];
    stage.observed(format!("bodies of {lengths} bytes", lengths = in_words(&lengths)));
    ensure!(
        lengths.iter().all(|length| (1..=record::MOST_BYTES).contains(length)),
        "bodies of {lengths} bytes",
        lengths = in_words(&lengths)
    );
    Ok(())
}
