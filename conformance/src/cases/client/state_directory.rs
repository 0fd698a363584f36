//! The client's side of the state directory: chapter 02.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use local_daemon_harness::files::{Facts, FileEventKind, Snapshot, Watch, set_mode};
use local_daemon_harness::platform::{Setup, make_fifo};
use local_daemon_harness::record::{MOST_BYTES, replace};
use local_daemon_harness::strace::{MKDIR, Point};

use crate::case::case;
use crate::fixtures::client::{Part, Played, SOON, Spy, World, furnished, not_started, play};
use crate::fixtures::component::Component;
use crate::fixtures::refused_start::unchanged;
use crate::fixtures::trace::{call_under, trace};
use crate::fixtures::words::{InWords, in_words};
use crate::outcome::{Outcome, Stop, ensure, inconclusive, not_applicable};
use crate::stage::{Call, Command, LATE, Stage};

/// The directory is made with its parents, for its owner alone.
fn make(path: &Path) -> Outcome {
    let mut builder = std::fs::DirBuilder::new();
    Ok(builder.recursive(true).mode(0o700).create(path)?)
}

/// A daemon of its own in the state directory at `path`.
fn daemon_at(stage: &Stage, world: &World, path: &Path) -> Outcome<Played> {
    let name = |own: &Path| own.file_name().unwrap_or_default().to_owned();
    make(path)?;
    let played = play(stage, world.daemon())?;
    let credential = format!("{}\n", world.credential.text());
    replace(&path.join(name(&stage.credential_path())), credential.as_bytes(), 0o600)?;
    replace(&path.join(name(&stage.record_path())), played.record.to_json().as_bytes(), 0o600)?;
    Ok(played)
}

/// Daemons are published in the directory that an option names, in that of the component's variable, below
/// `XDG_STATE_HOME` and below the home: a connect finds the one that the rule names, wherever it runs. One in the
/// directory of the variable that was once for all components, or of another component's, is not found.
#[case("DIR-3")]
fn client_goes_by_the_rule(stage: &mut Stage) -> Outcome {
    let component = Component::of(stage)?;
    let (world, named) = furnished(stage)?;
    stage.expect("the daemon of the directory that the rule names");
    let root = stage.arena().path().to_owned();
    let variable = root.join("variable");
    let by_variable = daemon_at(stage, &world, &variable)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    // The option counts before everything.
    let answer = stage.ask(Call::connect().var(&component.variable, text(&variable)))?;
    answer.must_be_ready_with(&named.daemon.id)?;
    if stage.client()?.unnamed.is_none() {
        stage.observed("the manifest has no `client.unnamed`: only the option's rank was judged");
        return Ok(());
    }
    let (home, xdg) = (stage.arena().home(), root.join("xdg"));
    let by_home = daemon_at(stage, &world, &component.in_home(&home))?;
    let by_xdg = daemon_at(stage, &world, &component.below(&xdg))?;
    let elsewhere = root.join("elsewhere");
    // What must play no part.
    daemon_at(stage, &world, &component.below(&elsewhere))?;
    daemon_at(stage, &world, &elsewhere)?;
    let call = || {
        Call::new(Command::Unnamed)
            .var("XDG_RUNTIME_DIR", text(&elsewhere))
            .var("TMPDIR", text(&elsewhere))
            .under(&["sh", "-c", "cd /; exec \"$@\"", "sh"])
    };
    let xdg_home = || call().var("XDG_STATE_HOME", text(&xdg));
    let mut scenes = vec![
        (
            component.variable.clone(),
            call().var(&component.variable, text(&variable)).var("XDG_STATE_HOME", text(&xdg)),
            &by_variable,
        ),
        (format!("an empty {}", component.variable), xdg_home().var(&component.variable, ""), &by_xdg),
        ("XDG_STATE_HOME".to_owned(), xdg_home(), &by_xdg),
        ("a relative XDG_STATE_HOME".to_owned(), call().var("XDG_STATE_HOME", "state"), &by_home),
        ("an empty XDG_STATE_HOME".to_owned(), call().var("XDG_STATE_HOME", ""), &by_home),
    ];
    for name in component.not_its_own() {
        // Not under a shell, which drops a variable whose name it could not set.
        let call = Call::new(Command::Unnamed).var("XDG_STATE_HOME", text(&xdg));
        scenes.push((name.clone(), call.var(name, text(&elsewhere)), &by_xdg));
    }
    for (what, call, there) in scenes {
        let answer = stage.ask(call)?;
        let found = answer.outcome == "ready" && answer.id.as_ref() == Some(&there.daemon.id);
        ensure!(found, "with {what}: not the daemon there, but {answer}");
    }
    Ok(())
}

/// A client that may spawn makes the state directory, a lock and a log under the umasks 000, 022, 177 and 777: mode
/// 0700 and 0600 from the first instant.
#[case("DIR-16")]
fn client_makes_it_for_its_owner_alone(stage: &mut Stage) -> Outcome {
    stage.expect("mode 0700 and 0600 from the first instant");
    let spy = Spy::new(stage, Part::Ends(1, "no luck"))?;
    let state_dir = stage.state_dir().to_owned();
    let root = stage.arena().path().to_owned();
    for umask in [0, 0o022, 0o177, 0o777] {
        let setup = Setup { umask: Some(umask), ..Setup::default() };
        let call = || Call::spawn().stand(spy.program()).setup(setup);
        let made = Watch::on(&root)?;
        let answer = stage.ask(call())?;
        if !state_dir.is_dir() {
            return Err(Stop::NotReady(format!("no state directory was made: {answer}")));
        }
        stage.precondition("the client made the state directory");
        let events = made.events();
        let name = state_dir.file_name().unwrap_or_default();
        let loose = events
            .iter()
            .filter(|event| event.name == name && event.kind == FileEventKind::Created)
            .find_map(|event| event.facts.clone().filter(Facts::is_loose));
        let seen = loose.map(|facts| facts.to_string());
        ensure!(
            seen.is_none(),
            "umask {umask:03o}: the state directory was made as {seen}",
            seen = in_words(&seen)
        );
        private(&state_dir, umask)?;
        // In one that is there, whatever is made anew is seen from its first instant.
        std::fs::remove_dir_all(&state_dir)?;
        make(&state_dir)?;
        let watch = Watch::on(&state_dir)?;
        stage.ask(call())?;
        spy.seen_started(stage)?;
        let loose = watch.loose();
        let seen = loose
            .first()
            .map(|event| format!("{} as {}", event.name.display(), in_words(&event.facts)));
        ensure!(seen.is_none(), "umask {umask:03o}: {seen}", seen = in_words(&seen));
        private(&state_dir, umask)?;
        std::fs::remove_dir_all(&state_dir)?;
    }
    Ok(())
}

/// The state directory and everything in it is its owner's alone, and his whole.
fn private(state_dir: &Path, umask: u32) -> Outcome {
    for (name, entry) in Snapshot::of(state_dir)?.0 {
        let expected = if name.as_os_str().is_empty() { 0o700 } else { 0o600 };
        ensure!(
            entry.facts.mode == expected,
            "umask {umask:03o}: {} is {}",
            in_words(&name.display().to_string()),
            entry.facts
        );
    }
    Ok(())
}

/// A client that may spawn is held right before it creates the state directory, and a link to a directory of mode 0755 is placed
/// at the name. Then it finds a lock and a log of mode 0640. All of these keep their modes.
#[case("DIR-21")]
fn client_keeps_modes(stage: &mut Stage) -> Outcome {
    stage.expect("the same modes as before");
    let spy = Spy::new(stage, Part::Ends(1, "no luck"))?;
    let (state_dir, target) = (stage.state_dir().to_owned(), stage.arena().path().join("target"));
    let strace = trace(stage, "link", Point::at([MKDIR]).of(&state_dir).held_before())?;
    let caller = stage.call(call_under(Call::spawn().stand(spy.program()), &strace))?;
    let Some(call) = strace.wait_held(&caller, Instant::now() + SOON) else {
        return inconclusive(format!("the client was not seen to make {}", state_dir.display()));
    };
    make(&target)?;
    set_mode(&target, 0o755)?;
    symlink(&target, &state_dir)?;
    stage.precondition(format!("a link was placed while the client was held at {call}"));
    strace.release(&caller)?;
    caller.wait_exit(Instant::now() + SOON);
    let facts = Facts::of(&target)?;
    ensure!(facts.mode == 0o755, "the directory to which the link leads is now: {facts}");
    caller.kill_group();
    std::fs::remove_file(&state_dir)?;
    make(&state_dir)?;
    let lock = state_dir.join(&stage.manifest().binding.lock);
    let found = [lock, stage.log_path()];
    for path in &found {
        replace(path, b"", 0o640)?;
    }
    let answer = stage.ask(Call::spawn().stand(spy.program()))?;
    for path in found {
        let facts = Facts::of(&path)?;
        ensure!(facts.mode == 0o640, "{}: {facts}: {answer}", path.display());
    }
    Ok(())
}

/// A client that runs as root, and may spawn, is given state directories, one with missing parents, in a directory of the user
/// nobody.
#[case("DIR-22", "CONN-9")]
fn client_makes_nothing_in_the_directory_of_another_user(stage: &mut Stage) -> Outcome {
    let nobody = stage.another_user()?;
    stage.expect("an error that names the path, within 1 s, nothing made and no daemon started");
    let spy = Spy::new(stage, Part::Ends(1, "no luck"))?;
    let call = |path: &Path| Call::spawn().stand(spy.program()).state_dir(path);
    let home = stage.arena().path().join("another-home");
    make(&home)?;
    stage.ask(call(&home.join("own/state")))?;
    spy.seen_started(stage)?;
    stage.control("the client started a daemon with a missing parent in a directory of its own user");
    std::fs::remove_dir_all(home.join("own"))?;
    chown(&home, Some(nobody.uid), Some(nobody.gid))?;
    let before = Snapshot::of(&home)?;
    for path in [home.join("state"), home.join(".local/state/component")] {
        let answer = stage.ask(call(&path))?;
        unchanged(&answer.to_string(), &home, &before)?;
        ensure!(spy.starts().len() == 1, "a daemon was started: {answer}");
        answer.must_be_after("invalid", "in a directory of nobody")?;
        let named = answer.text().contains(&*home.to_string_lossy());
        ensure!(named, "{} is not named: {answer}", home.display());
        let quick = answer.after < Duration::from_secs(1) + LATE;
        ensure!(quick, "too late: {answer}");
    }
    Ok(())
}

/// A client that may spawn is called twice below two missing parents of its state directory, under the umasks 000, 022, 077,
/// 177 and 777.
#[case("DIR-23")]
fn client_makes_parents_for_its_owner_alone(stage: &mut Stage) -> Outcome {
    stage.expect("parents of mode 0700 under every umask, and a second call that works");
    for umask in [0o000, 0o022, 0o077, 0o177, 0o777] {
        let spy = Spy::named(stage, &format!("spy-{umask:03o}"), Part::Ends(1, "no luck"))?;
        let first = stage.arena().path().join(format!("parents-{umask:03o}"));
        let second = first.join("second");
        let setup = Setup { umask: Some(umask), ..Setup::default() };
        for times in 1..=2 {
            let answer =
                stage.ask(Call::spawn().stand(spy.program()).setup(setup).state_dir(second.join("state")))?;
            if second.is_dir() {
                stage.precondition(format!("umask {umask:03o}: the client made the parents"));
            }
            for parent in [&first, &second] {
                let Ok(facts) = Facts::of(parent) else { continue };
                ensure!(facts.mode == 0o700, "under umask {umask:03o}, {}: {facts}", parent.display());
            }
            let starts = spy.starts().len();
            ensure!(starts == times, "under umask {umask:03o}: {starts} starts after call {times}: {answer}");
        }
    }
    Ok(())
}

/// The three things that a client checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    Directory,
    Credential,
    Record,
}

impl InWords for Checked {
    fn in_words(&self) -> String {
        match self {
            Self::Directory => "the state directory".to_owned(),
            Self::Credential => "the credential".to_owned(),
            Self::Record => "the record".to_owned(),
        }
    }
}

impl Checked {
    const ALL: [Self; 3] = [Self::Directory, Self::Credential, Self::Record];

    fn path(self, stage: &Stage) -> PathBuf {
        match self {
            Self::Directory => stage.state_dir().to_owned(),
            Self::Credential => stage.credential_path(),
            Self::Record => stage.record_path(),
        }
    }
}

/// With one thing spoilt, the client is `invalid` and names it, and the daemon that would prove itself hears nothing;
/// then everything is put right again.
fn refuses(
    stage: &mut Stage,
    played: &Played,
    checked: Checked,
    what: &str,
    spoil: impl FnOnce(&Path) -> Outcome,
) -> Outcome {
    let path = checked.path(stage);
    // Whatever stands there afterwards, the good one is put back over it.
    let aside = stage.arena().path().join("aside");
    if checked == Checked::Directory {
        copy_directory(&path, &aside)?;
    } else {
        std::fs::copy(&path, &aside)?;
    }
    let heard = played.actor.ledger().connections().len();
    spoil(&path)?;
    let answer = stage.ask(Call::connect())?;
    let more = played.actor.ledger().connections().len() - heard;
    let what = format!("{checked}: {what}", checked = in_words(&checked));
    answer.must_be_after("invalid", &what)?;
    ensure!(more == 0, "{what}: the client connected all the same: {answer}");
    let named = answer.text().contains(&*path.to_string_lossy());
    ensure!(named, "{what}: {} is not named: {answer}", path.display());
    let remove = |path: &Path| match std::fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    };
    remove(&path)?;
    Ok(std::fs::rename(&aside, &path)?)
}

/// A copy of a state directory, with the modes of its files.
fn copy_directory(from: &Path, to: &Path) -> Outcome {
    make(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// State directory, credential and record are symbolic links to good ones.
#[case("DIR-14")]
fn client_refuses_links(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("invalid, the path, and nothing sent");
    let target = stage.arena().path().join("target");
    for checked in Checked::ALL {
        refuses(stage, &good, checked, "a symbolic link", |path| {
            std::fs::rename(path, &target)?;
            Ok(symlink(&target, path)?)
        })?;
        let _ = std::fs::remove_dir_all(&target);
        let _ = std::fs::remove_file(&target);
        refuses(stage, &good, checked, "a symbolic link to nothing", |path| {
            if checked == Checked::Directory {
                std::fs::remove_dir_all(path)?;
            } else {
                std::fs::remove_file(path)?;
            }
            Ok(symlink(&target, path)?)
        })?;
    }
    Ok(())
}

/// State directory, credential and record are of another kind: a file, a directory, a FIFO.
#[case("DIR-14")]
fn client_refuses_other_kinds(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("invalid, the path, and nothing sent");
    refuses(stage, &good, Checked::Directory, "a file", |path| {
        std::fs::remove_dir_all(path)?;
        Ok(replace(path, b"", 0o600)?)
    })?;
    for checked in [Checked::Credential, Checked::Record] {
        refuses(stage, &good, checked, "a directory", |path| {
            std::fs::remove_file(path)?;
            make(path)
        })?;
        refuses(stage, &good, checked, "a FIFO", |path| {
            std::fs::remove_file(path)?;
            Ok(make_fifo(path)?)
        })?;
    }
    Ok(())
}

/// State directory, credential and record have one permission bit for the group or for others.
#[case("DIR-14")]
fn client_refuses_open_modes(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("invalid, the path, and nothing sent");
    for checked in Checked::ALL {
        let own = if checked == Checked::Directory { 0o700 } else { 0o600 };
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            let mode = own | bit;
            refuses(stage, &good, checked, &format!("mode {mode:04o}"), |path| Ok(set_mode(path, mode)?))?;
        }
    }
    Ok(())
}

/// State directory, credential and record belong to another user.
#[case("DIR-14")]
fn client_refuses_other_owners(stage: &mut Stage) -> Outcome {
    let nobody = stage.another_user()?;
    let (_, good) = furnished(stage)?;
    stage.expect("invalid, the path, and nothing sent");
    for checked in Checked::ALL {
        refuses(stage, &good, checked, "another user's", |path| {
            Ok(chown(path, Some(nobody.uid), Some(nobody.gid))?)
        })?;
    }
    Ok(())
}

/// The log is a FIFO with and without a reader, a symbolic link, one to nothing, a directory, and another user's file. The
/// client started a daemon before.
#[case("DIR-20")]
fn client_checks_the_log(stage: &mut Stage) -> Outcome {
    let _ = World::new(stage)?;
    stage.expect("invalid, the path, within the deadline, and no daemon started");
    let spy = Spy::new(stage, Part::Ends(1, "no luck"))?;
    stage.ask(Call::spawn().stand(spy.program()))?;
    spy.seen_started(stage)?;
    let log = stage.log_path();
    if !log.is_file() {
        return not_applicable(format!("the client gives its child no log at {}", log.display()));
    }
    spy.forget()?;
    let spy = Spy::new(stage, Part::Ends(1, "started"))?;
    let target = stage.arena().path().join("target");
    replace(&target, b"precious", 0o600)?;
    let refused = |stage: &mut Stage, what: &str| -> Outcome {
        let answer = stage.ask(Call::spawn().stand(spy.program()).within(3))?;
        not_started(stage, &spy, &format!("with {what} as its log"))?;
        answer.must_be_after("invalid", what)?;
        let named = answer.text().contains(&*log.to_string_lossy());
        ensure!(named, "{what}: {} is not named: {answer}", log.display());
        Ok(())
    };
    std::fs::remove_file(&log)?;
    make_fifo(&log)?;
    refused(stage, "a FIFO")?;
    let reader = File::options().read(true).write(true).open(&log)?;
    refused(stage, "a FIFO with a reader")?;
    drop(reader);
    std::fs::remove_file(&log)?;
    symlink(&target, &log)?;
    refused(stage, "a symbolic link")?;
    let untouched = std::fs::read(&target)? == b"precious";
    ensure!(untouched, "the file to which the link leads was written");
    std::fs::remove_file(&target)?;
    refused(stage, "a symbolic link to nothing")?;
    ensure!(!target.exists(), "the file to which the link leads was made");
    std::fs::remove_file(&log)?;
    make(&log)?;
    refused(stage, "a directory")?;
    std::fs::remove_dir(&log)?;
    let Ok(other) = stage.another_user() else {
        stage.observed("no file of another user was tried: the suite is not root");
        return Ok(());
    };
    replace(&log, b"", 0o600)?;
    chown(&log, Some(other.uid), Some(other.gid))?;
    refused(stage, "another user's file")
}

/// Credential and record are longer than 64 KiB by one byte of white space, and by far.
#[case("DIR-14")]
fn client_refuses_large_files(stage: &mut Stage) -> Outcome {
    let (_, good) = furnished(stage)?;
    stage.expect("invalid, the path, and nothing sent");
    for checked in [Checked::Credential, Checked::Record] {
        for length in [MOST_BYTES + 1, 32 * 1024 * 1024] {
            refuses(stage, &good, checked, &format!("{length} bytes"), |path| {
                let mut bytes = std::fs::read(path)?;
                bytes.resize(length, b' ');
                Ok(replace(path, &bytes, 0o600)?)
            })?;
        }
    }
    Ok(())
}
