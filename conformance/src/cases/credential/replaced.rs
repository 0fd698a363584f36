//! Replaced on request, and by nothing else.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use local_daemon_harness::files::set_mode;
use local_daemon_harness::platform;
use local_daemon_harness::proof::Credential;
use local_daemon_harness::record;
use local_daemon_harness::wait::{ms, until};

use super::{FOLLOWS, another, file_of, status};
use crate::case::case;
use crate::cases::browser::visit;
use crate::fixtures::http::{Follower, LISTED, launch_listed};
use crate::fixtures::refused_start::sibling;
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, fail, inconclusive};
use crate::stage::{Daemon, ReadyDaemon, Stage, Start};

/// The credential of a running daemon is replaced. Within 2.5 s it accepts the new one and refuses the old
/// one.
#[case("CRED-11", "CRED-12")]
fn rotation_taken_on(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("within 2.5 s of the replacement 200 for the new credential and 401 for the old one");
    let (old, new) = (live.credential.text(), another(stage));
    let answer = |stage: &Stage, token: &str| status(stage, &live.target, Some(token));
    let before = (answer(stage, &old), answer(stage, &new.text()));
    if before != (Ok(200), Ok(401)) {
        return inconclusive(format!(
            "before the replacement old and new are answered {before}",
            before = in_words(&before)
        ));
    }
    stage.control("before the replacement the old credential was answered 200 and the new one 401");
    record::replace(&stage.credential_path(), &file_of(&new), 0o600)?;
    let began = Instant::now();
    for (which, token, wanted) in [("new", new.text(), 200), ("old", old.clone(), 401)] {
        let mut last = None;
        let came = until(began + FOLLOWS, || {
            last = Some(answer(stage, &token));
            (last == Some(Ok(wanted))).then(|| began.elapsed())
        });
        match came {
            Some(after) => stage.observed(format!("{which}: {wanted} after {} ms", after.as_millis())),
            None => {
                return fail(format!(
                    "2.5 s after the replacement the {which} credential is answered {last}",
                    last = in_words(&last)
                ));
            }
        }
    }
    if let Some(read) = stage.manifest().binding.authenticated_read.clone() {
        let ask = |token: &str| {
            let request = live.operation(&read).header("Authorization", &format!("Bearer {token}"));
            live.send(&request).map(|response| response.status)
        };
        let (with_new, with_old) = (ask(&new.text()), ask(&old));
        ensure!(
            matches!(with_new, Ok(200..=299)) && with_old == Ok(401),
            "{} is answered {with_new} with the new and {with_old} with the old",
            read.path,
            with_new = in_words(&with_new),
            with_old = in_words(&with_old)
        );
    }
    let renewed = live.with_credential(new);
    ensure!(renewed.is_ready(), "after the replacement the daemon is not ready");
    Ok(())
}

/// Streams are open, by bearer and by query token, when the credential is replaced. Within 2.5 s they end, and one that is
/// opened with the new credential goes on.
#[case("CRED-16")]
fn rotation_ends_streams(stage: &mut Stage) -> Outcome {
    /// How late a busy host may show it.
    const LATE: Duration = Duration::from_millis(700);
    let route = stage.stream_route()?;
    let (_daemon, live) = stage.launch_ready()?;
    stage.expect("the end of each stream within 2.5 s of the replacement");
    let mut streams = vec![("by bearer", Follower::open(&live, &route.ask(&live).bearer(&live))?)];
    if let Some(token) = stage.manifest().binding.stream.clone().and_then(|stream| stream.query_token) {
        let ask = route.ask(&live).parameter(&token, &live.credential.text());
        streams.push(("by query token", Follower::open(&live, &ask)?));
    }
    let soon = Instant::now() + Duration::from_secs(1);
    for (what, stream) in &mut streams {
        if stream.wait_end(soon) {
            return inconclusive(format!("the stream {what} ends before the replacement"));
        }
    }
    stage.precondition(format!("{} streams are open, and have been for a second", streams.len()));
    let new = another(stage);
    record::replace(&stage.credential_path(), &file_of(&new), 0o600)?;
    let began = Instant::now();
    for (what, stream) in &mut streams {
        let ended = stream.wait_end(began + FOLLOWS + LATE);
        ensure!(ended, "the stream {what} goes on for more than 2.5 s after the replacement");
    }
    stage.observed(format!("they ended after {} ms", began.elapsed().as_millis()));
    let renewed = live.with_credential(new);
    let mut opened = Follower::open(&renewed, &route.ask(&renewed).bearer(&renewed))?;
    let goes_on = !opened.wait_end(Instant::now() + FOLLOWS);
    ensure!(goes_on, "a stream that is opened with the new credential ends as well");
    Ok(())
}

/// Tickets and page tokens of both kinds are issued, and the credential is replaced. Within 2.5 s all of them are refused;
/// those that are issued with the new credential are good.
#[case("CRED-17")]
fn rotation_ends_tickets_and_tokens(stage: &mut Stage) -> Outcome {
    let (_daemon, live) = launch_listed(stage)?;
    stage.expect("401 for each ticket and page token within 2.5 s of the replacement");
    let tokens = [
        ("a page token", visit::page_token(stage, &live)?, None),
        ("a token of a handoff", visit::handoff_token(stage, &live, LISTED)?, Some(LISTED)),
    ];
    let of = |token: &visit::Secret, origin: Option<&str>| match (visit::read_ask(&live, token), origin) {
        (ask, Some(origin)) => ask.origin(origin),
        (ask, None) => ask,
    };
    let asks = tokens.map(|(what, token, origin)| of(&token, origin).named(what));
    for ask in &asks {
        live.served(ask)?;
    }
    let tickets = [
        visit::page_ask(&live, &visit::page_ticket(stage, &live)?).origin("null"),
        visit::handoff_ask(&live, &visit::handoff_ticket(stage, &live, LISTED)?).origin(LISTED),
    ];
    stage.precondition("page tokens are good, and tickets were issued");
    let new = another(stage);
    record::replace(&stage.credential_path(), &file_of(&new), 0o600)?;
    let began = Instant::now();
    for ask in &asks {
        let refused = || live.exchange(&ask.bytes()).is_ok_and(|answer| answer.status == 401).then_some(());
        let ended = until(began + FOLLOWS, refused);
        ensure!(ended.is_some(), "{}: still good 2.5 s after the replacement", ask.what);
    }
    // A ticket can be tried once only, so after the time in which it may still be good.
    until(began + FOLLOWS, || None::<()>);
    live.all_answered(&tickets, &[401])?;
    let renewed = live.with_credential(new);
    visit::page_token(stage, &renewed)?;
    visit::handoff_token(stage, &renewed, LISTED)?;
    stage.control("tickets and page tokens of the new credential are good");
    Ok(())
}

/// What becomes of a credential file while its daemon runs, and how.
type Damage = (&'static str, fn(&Path, &Credential) -> std::io::Result<()>);

const DAMAGES: &[Damage] = &[
    ("removed", |path, _| fs::remove_file(path)),
    ("emptied", |path, _| fs::OpenOptions::new().write(true).truncate(true).open(path).map(drop)),
    ("cut", |path, other| record::replace(path, &file_of(other)[..30], 0o600)),
    ("replaced by one of mode 0644", |path, other| record::replace(path, &file_of(other), 0o644)),
    ("loosened to 0644", |path, _| set_mode(path, 0o644)),
    ("replaced by a link", |path, other| {
        let (target, link) = (path.with_extension("target"), path.with_extension("link"));
        record::write_new(&target, &file_of(other), 0o600)?;
        symlink(&target, &link)?;
        fs::rename(&link, path)
    }),
    ("replaced by one of 64 KiB and 44 bytes", |path, other| {
        let mut content = file_of(other);
        content.resize(64 * 1024 + 44, b'\n');
        record::replace(path, &content, 0o600)
    }),
];

/// Only where the suite may give files away.
const GIVEN_AWAY: Damage = ("replaced by one of another user", |path, other| {
    let nobody = platform::nobody().ok_or(std::io::ErrorKind::Unsupported)?;
    let given = path.with_extension("given");
    record::write_new(&given, &file_of(other), 0o600)?;
    chown(&given, Some(nobody.uid), Some(nobody.gid))?;
    fs::rename(&given, path)
});

/// A daemon whose credential file goes bad.
struct Afflicted {
    what: &'static str,
    daemon: Daemon,
    live: ReadyDaemon,
    path: PathBuf,
    planted: Credential,
}

/// While daemons run, their credential files are removed, emptied, loosened, linked elsewhere, given away and
/// blown up, mostly with another credential in them. For 2.5 s each daemon accepts the last good one and
/// nothing else, and then takes on a good replacement.
// Takes the 2.5 s in which a daemon must have noticed, because what must be seen is that nothing changes.
#[case("CRED-13")]
fn kept_while_the_file_is_bad(stage: &mut Stage) -> Outcome {
    stage.expect(
        "for 2.5 s 200 for the last good credential and 401 for everything else; then a good one is taken on",
    );
    let mut damages = DAMAGES.to_vec();
    if platform::is_root() && platform::nobody().is_some() {
        damages.push(GIVEN_AWAY);
    }
    let mut afflicted = Vec::new();
    for (number, (what, _)) in damages.iter().enumerate() {
        let state_dir = sibling(stage, &format!("state-{number}"));
        let daemon = stage.launch_with(Start::new().state_dir(&state_dir))?;
        let path = state_dir.join(&stage.manifest().binding.credential);
        let planted = another(stage);
        afflicted.push((what, daemon, path, planted));
    }
    let mut ready = Vec::new();
    for (what, daemon, path, planted) in afflicted {
        let live = stage.ready(&daemon)?;
        ready.push(Afflicted { what, daemon, live, path, planted });
    }
    for one in &ready {
        goes_on(stage, one)?;
    }
    stage.control("before, each daemon answered its credential 200 and everything else 401");
    for (one, (_, damage)) in ready.iter().zip(&damages) {
        damage(&one.path, &one.planted)?;
    }
    let end = Instant::now() + FOLLOWS;
    while Instant::now() < end {
        for one in &ready {
            goes_on(stage, one)?;
        }
        // The event that must not come, and a breath between two rounds.
        if let Some(exit) = ready[0].daemon.wait_exit(ms(100)) {
            return fail(format!("credential {}: the daemon ended, {exit}", ready[0].what));
        }
    }
    stage.observed(format!("{} daemons went on with their last good credential", ready.len()));
    // The control: each of them is still following its file.
    for one in &ready {
        record::replace(&one.path, &file_of(&one.planted), 0o600)?;
    }
    let began = Instant::now();
    for one in &ready {
        let followed = until(began + FOLLOWS, || {
            (status(stage, &one.live.target, Some(&one.planted.text())) == Ok(200)).then_some(())
        });
        ensure!(
            followed.is_some(),
            "credential {}: 2.5 s after a good one is there again, it is not accepted",
            one.what
        );
    }
    stage.control("afterwards each daemon took on a good replacement");
    Ok(())
}

/// The daemon accepts its last good credential, and neither the planted one nor none.
fn goes_on(stage: &mut Stage, one: &Afflicted) -> Outcome {
    let (good, planted) = (one.live.credential.text(), one.planted.text());
    for (token, wanted, what) in [
        (Some(&*good), 200, "the last good credential"),
        (Some(&*planted), 401, "a credential in a file to be refused"),
        (Some(""), 401, "an empty bearer"),
        (None, 401, "no authorization"),
    ] {
        let answer = status(stage, &one.live.target, token);
        ensure!(
            answer == Ok(wanted),
            "credential {}: {what} is answered {answer}",
            one.what,
            answer = in_words(&answer)
        );
    }
    Ok(())
}
