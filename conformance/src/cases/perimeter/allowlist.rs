//! The list of origins, and changes of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use local_daemon_harness::files::set_mode;
use local_daemon_harness::record;
use local_daemon_harness::wait::until;
use local_daemon_spec::vectors;

use crate::case::case;
use crate::fixtures::daemon::further_state_dir;
use crate::fixtures::http::{ANSWER, Ask, Follower, LISTED, LISTED_TOO, UNLISTED, marker};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, inconclusive, not_applicable};
use crate::stage::{ReadyDaemon, Stage, Start};

/// Origins that a daemon might think good of by itself.
fn likely(live: &ReadyDaemon) -> Vec<String> {
    let port = live.port();
    let mut origins: Vec<String> = [
        LISTED,
        LISTED_TOO,
        UNLISTED,
        "null",
        "*",
        "http://localhost",
        "http://localhost:3000",
        "http://localhost:5173",
        "http://localhost:8080",
        "http://localhost:4200",
        "http://127.0.0.1",
        "http://127.0.0.1:3000",
        "http://127.0.0.1:8000",
        "https://localhost",
        "file://",
        "app://localhost",
        "tauri://localhost",
        "http://tauri.localhost",
        "https://tauri.localhost",
        "capacitor://localhost",
        "ionic://localhost",
        "electron://localhost",
        "vscode-webview://0",
        "vscode-file://vscode-app",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "moz-extension://0f4b1c1e-1b1a-4f2e-8f57-6c7d6e6f7a8b",
        "https://locald.dev",
        "https://app.localhost",
        "https://github.com",
        "https://vscode.dev",
        "http://192.168.0.17:3000",
        "http://host.docker.internal",
    ]
    .map(str::to_owned)
    .into();
    origins.extend([
        format!("https://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{}", port ^ 1),
    ]);
    origins.retain(|origin| *origin != live.own_origin());
    origins
}

/// From each of these origins the good request, and a preflight, are 403.
fn refused(live: &ReadyDaemon, origins: &[String]) -> Outcome {
    let read = live.read_route();
    let asks: Vec<Ask> = origins
        .iter()
        .flat_map(|origin| {
            let good = read.ask(live).bearer(live).origin(origin);
            let preflight = read.ask(live).preflight(origin, "GET");
            [
                good.named(format!("from {origin}", origin = in_words(&origin))),
                preflight.named(format!("preflight from {origin}", origin = in_words(&origin))),
            ]
        })
        .collect();
    live.all_answered(&asks, &[403])
}

/// From this origin the good request is served, and a preflight is answered 204.
fn admitted(live: &ReadyDaemon, origin: &str) -> Outcome {
    let read = live.read_route();
    let good = read.ask(live).bearer(live).origin(origin);
    live.served(&good.named(format!("from {origin}")))?;
    let preflight = read.ask(live).preflight(origin, "GET");
    live.answered(&preflight.named(format!("preflight from {origin}")), &[204])?;
    Ok(())
}

/// A daemon whose list nobody has touched is asked from development servers, extensions, desktop shells and
/// the vendor's likely sites, with the credential and by preflight: 403.
#[case("PER-39")]
fn no_origin_admitted_by_default(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("403 for each, 2xx for its own");
    let own = live.own_origin();
    let read = stage.read_route();
    let good = read.ask(&live).bearer(&live).origin(&own);
    live.served(&good.named("from its own origin"))?;
    let origins = likely(&live);
    live.between_controls(|| refused(&live, &origins))
}

/// The entries of the vectors, and whether each is one serialised origin.
fn entries() -> Vec<(String, bool)> {
    let mut entries: Vec<(String, bool)> = vectors::cases("origins")
        .iter()
        .filter(|vector| vector["kind"] == "entry")
        .filter_map(|vector| Some((vector["input"].as_str()?.to_owned(), vector["accept"].as_bool()?)))
        .collect();
    let more = [
        "https://app.example,https://b.example",
        "https://app.example/*",
        ".example",
        "https://.example",
        "https://app..example",
        "https://?pp.example",
        "https:app.example",
        "//app.example",
        "https://app.example\\",
        "https://bücher.example",
        "https://app.example:0",
        "regex:.*",
        "self",
        "localhost",
        "http://localhost:3000-4000",
    ];
    entries.extend(more.map(|entry| (entry.to_owned(), false)));
    entries
}

/// What a daemon that took a bad entry for something might admit by it: the entry, what it looks like, anybody.
fn meant_by(entry: &str) -> Vec<String> {
    let mut origins: Vec<String> = [
        "https://app.example",
        "http://app.example",
        "http://127.0.0.1:5173",
        UNLISTED,
        "null",
    ]
    .map(str::to_owned)
    .into();
    // What cannot stand in a header cannot be asked from.
    if !entry.is_empty() && entry.bytes().all(|byte| byte.is_ascii_graphic()) {
        origins.push(entry.to_owned());
    }
    origins
}

/// Daemons are started with each entry of the vectors that is not one serialised origin: none admits anything
/// by it, whether it starts or not. With the good ones they admit exactly that origin.
#[case("PER-40", deadline_s = 180)]
fn bad_entry_refused_at_start(stage: &mut Stage) -> Outcome {
    if stage.manifest().daemon.origins.is_none() {
        return not_applicable("the manifest has no `daemon.origins`");
    }
    stage.expect("no daemon that admits anything by a bad entry");
    let (mut ended, mut ignored) = (0, 0);
    for (place, (entry, good)) in entries().into_iter().enumerate() {
        let state_dir = further_state_dir(stage, &format!("of-entry-{place}"))?;
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir).allowing(&*entry))?;
        if good {
            let live = stage.ready(&daemon)?;
            admitted(&live, &entry)?;
        } else {
            let looked = until(stage.ready_deadline(), || {
                if daemon.exit().is_some() {
                    return Some(None);
                }
                stage.find(&state_dir).ok().map(Some)
            });
            match looked {
                Some(None) => ended += 1,
                Some(Some(live)) => {
                    refused(&live, &meant_by(&entry))?;
                    ignored += 1;
                }
                None => {
                    return inconclusive(format!(
                        "with {entry} it is neither ready nor ends",
                        entry = in_words(&entry)
                    ));
                }
            }
        }
        daemon.kill_group();
    }
    stage.observed(format!("bad entries: {ended} daemons ended, {ignored} admitted nothing by it"));
    Ok(())
}

/// The command that adds an origin is given each of those entries: it fails, and nothing is admitted by it.
#[case("PER-40", deadline_s = 180)]
fn bad_entry_refused_by_command(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("the command fails, and nothing is admitted");
    let entries = entries();
    live.between_controls(|| {
        for (entry, _) in entries.iter().filter(|(_, good)| !good) {
            let exit = stage.add_origin(entry)?;
            ensure!(exit.code != Some(0), "{entry} was added: {exit}", entry = in_words(&entry));
            refused(&live, &meant_by(entry))?;
        }
        for (entry, _) in entries.iter().filter(|(_, good)| *good) {
            let exit = stage.add_origin(entry)?;
            ensure!(exit.code == Some(0), "{entry} was not added: {exit}", entry = in_words(&entry));
            admitted(&live, entry)?;
        }
        refused(&live, &[UNLISTED.to_owned(), "null".to_owned()])
    })
}

/// Runs the command that changes the list, which has to succeed.
fn change(stage: &mut Stage, adds: bool, origin: &str) -> Outcome<Instant> {
    let exit = if adds { stage.add_origin(origin)? } else { stage.remove_origin(origin)? };
    let how = if adds { "add" } else { "remove" };
    ensure!(exit.code == Some(0), "{how} {origin}: {exit}");
    Ok(exit.at)
}

/// Origins are added and removed, ten times, and asked from right after the command has returned: served and
/// refused. One of them is the daemon's own at another of its names.
#[case("PER-41", "PER-12", deadline_s = 60)]
fn change_of_the_list_at_once(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("served from the moment that it is added, 403 from the moment that it is removed");
    let other = if live.target.authority.starts_with("localhost") {
        "127.0.0.1"
    } else {
        "localhost"
    };
    let other_name = format!("http://{other}:{}", live.port());
    let both = [LISTED.to_owned(), other_name.clone()];
    live.between_controls(|| {
        refused(&live, &both)?;
        change(stage, true, LISTED_TOO)?;
        for _ in 0..10 {
            for origin in &both {
                change(stage, true, origin)?;
                admitted(&live, origin)?;
            }
            for origin in &both {
                change(stage, false, origin)?;
                refused(&live, std::slice::from_ref(origin))?;
            }
            // What nobody touched stays.
            admitted(&live, LISTED_TOO)?;
        }
        stage.observed("20 additions and 20 removals were followed at once");
        Ok(())
    })
}

/// The list is edited by hand: the file that holds it is replaced by one of mode 0644, with one origin taken off and another
/// one put on. Neither is admitted; with mode 0600 again, the new one is, and the one that was taken off is not.
#[case("PER-48")]
fn loose_file_admits_nothing_more(stage: &mut Stage) -> Outcome {
    const SOON: Duration = Duration::from_secs(5);
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("403 for the origin that was taken off, and for the one that only this file names");
    change(stage, true, LISTED)?;
    change(stage, true, LISTED_TOO)?;
    admitted(&live, LISTED)?;
    let Some((path, text)) = file_of_the_list(stage)? else {
        return not_applicable("no file in the state directory holds the list as text");
    };
    stage.precondition(format!("{} holds the list", path.display()));
    record::replace(&path, text.replace(LISTED, UNLISTED).as_bytes(), 0o644)?;
    let read = stage.read_route();
    let status = |origin: &str| {
        let ask = read.ask(&live).bearer(&live).origin(origin);
        live.exchange(&ask.bytes()).map(|answer| answer.status)
    };
    let ends = until(Instant::now() + SOON, || (status(LISTED) == Ok(403)).then_some(()));
    ensure!(
        ends.is_some(),
        "5 s after the file no longer names it, {LISTED} is answered {}",
        in_words(&status(LISTED))
    );
    refused(&live, &[LISTED.to_owned(), UNLISTED.to_owned()])?;
    set_mode(&path, 0o600)?;
    let again = until(Instant::now() + SOON, || matches!(status(UNLISTED), Ok(200..=299)).then_some(()));
    if again.is_none() {
        return inconclusive("it does not follow a file of mode 0600 that is edited by hand");
    }
    stage.control("with mode 0600 the origin that it names is admitted");
    refused(&live, &[LISTED.to_owned()])
}

/// The file in the state directory that names both listed origins, and its text.
fn file_of_the_list(stage: &Stage) -> Outcome<Option<(PathBuf, String)>> {
    for entry in std::fs::read_dir(stage.state_dir())? {
        let path = entry?.path();
        if let Ok(text) = std::fs::read_to_string(&path)
            && [LISTED, LISTED_TOO].iter().all(|origin| text.contains(origin))
        {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// An origin is added, its preflight answered and its request served; it is removed, and the same request is
/// sent without another preflight, as a browser does that holds one: 403.
#[case("PER-19")]
fn removed_origin_refused_after_its_preflight(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("403 for every request after the removal");
    change(stage, true, LISTED)?;
    change(stage, true, LISTED_TOO)?;
    admitted(&live, LISTED)?;
    stage.precondition("the preflight of the origin was answered 204, and its request served");
    change(stage, false, LISTED)?;
    let read = stage.read_route();
    let mut asks = vec![
        read.ask(&live).bearer(&live).origin(LISTED).named("a read"),
        read.ask(&live).origin(LISTED).named("a read without the credential"),
        read.ask(&live).preflight(LISTED, "GET").named("a preflight"),
    ];
    if let Ok(stream) = stage.stream_route() {
        asks.push(stream.ask(&live).bearer(&live).origin(LISTED).named("the event stream"));
    }
    if let Ok(emit) = stage.emit_route(7) {
        asks.push(emit.ask(&live).bearer(&live).origin(LISTED).named("a change"));
    }
    live.between_controls(|| live.all_answered(&asks, &[403]))?;
    admitted(&live, LISTED_TOO)
}

/// Streams are open from two origins and from none. One origin is removed: its streams end within 2 s, the
/// others go on delivering.
#[case("PER-42")]
fn streams_of_a_removed_origin_end(stage: &mut Stage) -> Outcome {
    const BOUND: Duration = Duration::from_secs(2);
    const LATE: Duration = Duration::from_millis(700);
    let stream = stage.stream_route()?;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("its streams end within 2 s of the command's end; the others deliver what happens then");
    change(stage, true, LISTED)?;
    change(stage, true, LISTED_TOO)?;
    let token = stage.manifest().binding.stream.clone().and_then(|stream| stream.query_token);
    let bearing = || stream.ask(&live).bearer(&live);
    let mut removed = vec![("its stream", Follower::open(&live, &bearing().origin(LISTED))?)];
    if let Some(token) = token {
        let ask = stream.ask(&live).parameter(&token, &live.credential.text()).origin(LISTED);
        removed.push(("its stream by query token", Follower::open(&live, &ask)?));
    }
    let mut kept = vec![
        ("the other origin's stream", Follower::open(&live, &bearing().origin(LISTED_TOO))?),
        ("a stream of no origin", Follower::open(&live, &bearing())?),
        ("a stream of its own origin", Follower::open(&live, &bearing().origin(&live.own_origin()))?),
    ];
    let number = marker(stage);
    let emits = stage.emit_route(number).is_ok();
    if emits {
        let emit = stage.emit_route(number)?.ask(&live).bearer(&live);
        live.served(&emit.named("a number for all"))?;
        for (what, follower) in removed.iter_mut().chain(&mut kept) {
            let came = follower.wait_for(number, Instant::now() + ANSWER);
            ensure!(came, "{what} delivers nothing while its origin is listed");
        }
    }
    stage.precondition(format!("{} streams are open and deliver", removed.len() + kept.len()));
    let at = change(stage, false, LISTED)?;
    for (what, follower) in &mut removed {
        let ended = follower.wait_end(at + BOUND + LATE);
        ensure!(ended, "{what} goes on for more than 2 s after the removal");
    }
    stage.observed(format!("{} streams ended after {} ms", removed.len(), at.elapsed().as_millis()));
    if emits {
        let number = marker(stage);
        let emit = stage.emit_route(number)?.ask(&live).bearer(&live);
        live.served(&emit.named("a number for who is left"))?;
        for (what, follower) in &mut kept {
            let came = follower.wait_for(number, Instant::now() + ANSWER);
            ensure!(came, "{what} ended with it");
        }
    }
    Ok(())
}
