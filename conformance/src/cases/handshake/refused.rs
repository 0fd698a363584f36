//! What is answered to whoever does not show it: nothing.

use local_daemon_harness::http::Request;
use local_daemon_harness::proof::{self, Credential};

use super::exchange::{Attempt, answered, authorized, bearing, conversation, member, refused};
use super::wrong::unauthorized;
use crate::case::case;
use crate::fixtures::malformed::wrong_bearers;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail};
use crate::stage::Stage;

/// The handshake is asked without an Authorization header; also with the credential in the query, a cookie,
/// another header or the body. Each is 401 with WWW-Authenticate.
#[case("HS-6")]
fn no_authorization_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 with WWW-Authenticate for each");
    live.between_controls(|| {
        refused(&live, &unauthorized(&live), |what, response| {
            let challenge = response.header("www-authenticate").unwrap_or_default().trim();
            ensure!(!challenge.is_empty(), "{what}: 401 without WWW-Authenticate");
            Ok(())
        })
    })
}

/// Bearers that a careless comparison takes for the credential: empty, cut, longer, another case, one bit
/// off, another spelling of the same bytes, other schemes, beside a right one. Each is 401.
#[case("HS-7")]
fn wrong_bearer_refused(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for each");
    let attempts: Vec<Attempt> = wrong_bearers(&live.credential)
        .into_iter()
        .map(|(what, value)| (what.to_owned(), authorized(&live, &value)))
        .collect();
    live.between_controls(|| {
        refused(&live, &attempts, |_, _| Ok(()))?;
        // Two headers are one list, which is not the credential as a whole; a server may find them malformed.
        let what = "a wrong bearer and the right one";
        let request = authorized(&live, "Bearer x").header("Authorization", &proof::bearer(&live.credential));
        let response = answered(&live, what, &request)?;
        ensure!(
            matches!(response.status, 400 | 401),
            "{what}: answered {}",
            response.summary(stage.transcript())
        );
        Ok(())
    })
}

/// Seven methods on known, likely and random paths, without authentication and with a wrong bearer: 401,
/// never 404, 405 or 200 (opencode#6355, sccache 0.19: rows 1 and 37).
#[case("HS-8")]
fn every_path_and_method_refused(stage: &mut Stage) -> Outcome {
    const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("401 for every path and method");
    let handshake = live.target.path.clone();
    let mut paths: Vec<String> = [
        "/",
        "/health",
        "/healthz",
        "/metrics",
        "/favicon.ico",
        "/index.html",
        "/v1",
        "/v1/status",
        "/.well-known/",
    ]
    .map(str::to_owned)
    .into();
    paths.extend([
        format!("{handshake}/"),
        format!("{handshake}/x"),
        format!("/x/..{handshake}"),
        handshake.to_ascii_uppercase(),
        handshake.replace('w', "%77"),
        format!("/{}", proof::hex(&stage.rng().bytes(8))),
        format!("/v1/{}?q=1", proof::hex(&stage.rng().bytes(8))),
    ]);
    let binding = &stage.manifest().binding;
    paths.extend(binding.operations().map(|operation| operation.path.clone()));
    paths.extend(binding.stream.as_ref().map(|stream| stream.path.clone()));
    paths.sort();
    paths.dedup();
    let mut attempts: Vec<Attempt> = Vec::new();
    let wrong = proof::bearer(&Credential::random());
    for path in &paths {
        for method in METHODS {
            let request = Request::new(method, path).host(&live.target.authority);
            attempts.push((format!("{method} {path}"), request));
        }
        let request = Request::get(&live.target.authority, path).header("Authorization", &wrong);
        attempts.push((format!("GET {path} with a wrong bearer"), request));
    }
    for method in METHODS.iter().filter(|method| **method != "GET") {
        let request = Request::new(method, &handshake).host(&live.target.authority);
        attempts.push((format!("{method} {handshake}"), request));
    }
    let read = stage.manifest().binding.authenticated_read.clone();
    let control = |stage: &mut Stage, when: &str| -> Outcome {
        let Some(read) = &read else { return Ok(()) };
        let request = live.operation(read).header("Authorization", &proof::bearer(&live.credential));
        let response = answered(&live, "the authenticated read", &request)?;
        if !(200..300).contains(&response.status) {
            let summary = response.summary(stage.transcript());
            return fail(format!("the authenticated read {when}: {summary}"));
        }
        stage.control(format!("the authenticated read was served {when}"));
        Ok(())
    };
    live.between_controls(|| {
        control(stage, "before")?;
        refused(&live, &attempts, |_, _| Ok(()))?;
        control(stage, "afterwards")
    })
}

/// On a connection whose first request was authenticated, the next ones are not, and are refused; also when
/// they were sent together with it.
#[case("HS-6", "HS-8")]
fn authentication_is_for_one_request(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("200, and then 401 for each further request of the connection");
    let bare = Request::get(&live.target.authority, &live.target.path).bytes();
    let other = Request::get(&live.target.authority, "/").bytes();
    let good = bearing(&live).bytes();
    live.between_controls(|| {
        for together in [false, true] {
            let statuses = conversation(&live, &[&good, &bare, &other], together)?
                .iter()
                .map(|response| response.status)
                .collect::<Vec<_>>();
            let how = if together { "sent together" } else { "one after another" };
            stage.observed(format!("{how}: {statuses}", statuses = in_words(&statuses)));
            ensure!(
                statuses.first() == Some(&200) && statuses[1..].iter().all(|status| *status == 401),
                "{how}: {statuses}",
                statuses = in_words(&statuses)
            );
        }
        Ok(())
    })
}

/// Headers and bodies of refused handshakes are searched for the daemon's id, pid, version and protocol,
/// which an accepted handshake tells.
#[case("HS-9")]
fn refusals_tell_no_facts(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    let answer = answered(&live, "the good handshake", &bearing(&live))?;
    let mut facts: Vec<(&str, String)> = Vec::new();
    for name in ["id", "pid", "version", "protocol"] {
        let Some(value) = member(&answer, name) else {
            return fail(format!("the good handshake has no `{name}`"));
        };
        // A shorter text is found by chance in lengths, dates and the version of HTTP.
        if value.len() >= 4 {
            facts.push((name, value));
        } else {
            stage.observed(format!("`{name}` is {value}: too short to be looked for"));
        }
    }
    stage.expect(format!(
        "none of {} in any refusal",
        facts.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    ));
    let wrong = proof::bearer(&Credential::random());
    let wrong_proof = proof::authorization(&Credential::random(), &live.target.authority, &proof::nonce());
    let mut attempts = unauthorized(&live);
    attempts.push(("a wrong bearer".to_owned(), authorized(&live, &wrong)));
    attempts.push(("a wrong proof".to_owned(), authorized(&live, &wrong_proof)));
    attempts.push(("an unknown scheme".to_owned(), authorized(&live, "Negotiate x")));
    for accept in ["text/plain", "text/html", "application/json", "*/*"] {
        let request = authorized(&live, &wrong).header("Accept", accept);
        attempts.push((format!("a wrong bearer that accepts {accept}"), request));
    }
    live.between_controls(|| {
        refused(&live, &attempts, |what, response| {
            // A number in these headers is a time or a length.
            let told = response
                .headers
                .iter()
                .filter(|(name, _)| {
                    !["date", "content-length", "age"].contains(&name.to_ascii_lowercase().as_str())
                })
                .map(|(name, value)| format!("{name}: {value}\n"));
            let text = told.collect::<String>() + &String::from_utf8_lossy(&response.body);
            for (name, value) in &facts {
                ensure!(!holds_word(&text, value), "{what}: the refusal tells the {name}: {text}");
            }
            Ok(())
        })
    })
}

/// Whether `text` holds `word` in any case of letters, and not as a part of a longer word or number.
fn holds_word(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    let inside = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    text.match_indices(&word).any(|(start, found)| {
        !inside(text[..start].chars().next_back()) && !inside(text[start + found.len()..].chars().next())
    })
}
