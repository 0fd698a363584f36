//! Where it is.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use local_daemon_harness::arena::Shape;
use local_daemon_harness::files::{Snapshot, make_private};
use local_daemon_harness::platform::Setup;
use local_daemon_harness::process::Proc;
use local_daemon_harness::wait::{ms, until};
use rustix::io::ioctl_fionbio;

use crate::case::case;
use crate::fixtures::client::{Part, Spy};
use crate::fixtures::component::Component;
use crate::fixtures::refused_start::{sibling, unchanged};
use crate::fixtures::words::in_words;
use crate::outcome::{Outcome, ensure, inconclusive, not_applicable};
use crate::stage::{Call, Stage, Start};

/// Every regular file of this name below `directory`.
fn find(directory: &Path, name: &str) -> Vec<PathBuf> {
    let below = Snapshot::of(directory).unwrap_or_default();
    let named = below.0.into_keys().filter(|path| path.file_name().is_some_and(|last| last == name));
    named.collect()
}

/// A daemon whose command names a state directory is started while its component's variable and XDG_STATE_HOME name
/// another one. It publishes in the first and leaves the second, and the home, without a record.
#[case("DIR-1")]
fn launch_wins_over_the_environment(stage: &mut Stage) -> Outcome {
    if !stage.manifest().daemon.run.iter().any(|arg| arg.contains("{state_dir}")) {
        return not_applicable("the manifest's command does not name the state directory");
    }
    stage.expect("a record in the directory that the command names, and in no other");
    let other = sibling(stage, "other");
    make_private(&other)?;
    let before = Snapshot::of(&other)?;
    let mut start = Start::new().var("XDG_STATE_HOME", other.to_string_lossy());
    if let Some(variable) = stage.manifest().subject.state_dir_variable() {
        start = start.var(variable, other.to_string_lossy());
    }
    let daemon = stage.launch_with(start)?;
    stage.ready(&daemon)?;
    unchanged("the directory that the environment names", &other, &before)?;
    let record = stage.manifest().binding.registration.clone();
    let strays = find(&stage.arena().home(), &record);
    ensure!(strays.is_empty(), "further records in the home: {strays}", strays = in_words(&strays));
    Ok(())
}

/// A daemon whose command names no state directory is started while its component's variable names one: it publishes
/// there. Then that is unset, and the variable that was once for all components and those of other components name
/// directories of their own: it publishes below XDG_STATE_HOME, and in none of those.
#[case("DIR-17")]
fn its_own_variable_and_no_other(stage: &mut Stage) -> Outcome {
    let component = Component::of(stage)?;
    stage.expect("a record in the directory that the rule gives, and in no other");
    let named = sibling(stage, "named");
    let start = Start::new().unnamed(&named).var(&component.variable, named.to_string_lossy());
    let daemon = stage.launch_with(start)?;
    stage.ready(&daemon)?;
    stage.control(format!("with {} the daemon published in its directory", component.variable));
    daemon.kill_group();
    let own = component.in_home(&stage.arena().home());
    let others = sibling(stage, "others");
    make_private(&others)?;
    let mut start = Start::new().unnamed(&own);
    for name in component.not_its_own() {
        start = start.var(&name, others.join(&name).to_string_lossy());
    }
    let daemon = stage.launch_with(start)?;
    let ready = stage.ready(&daemon);
    let strays = find(&others, &stage.manifest().binding.registration);
    ensure!(strays.is_empty(), "published at {strays}", strays = in_words(&strays));
    ready.map(drop)
}

/// The client starts a program of the suite as its daemon, and the program's environment is read. A daemon is started with
/// these variables, but another home, with a pipe at each descriptor from 3 to 12, and without naming a state directory: it
/// publishes in its own home, and writes into no pipe.
#[case("DIR-18")]
fn believes_nothing_that_another_was_told(stage: &mut Stage) -> Outcome {
    let component = Component::of(stage)?;
    if stage.manifest().client.is_none() {
        return not_applicable("the manifest has no `[client]`");
    }
    stage.expect("a record in the other home and in no other place, and nothing in the pipe");
    let spy = Spy::new(stage, Part::WaitsAndEnds(1))?;
    let caller = stage.call(Call::spawn().stand(spy.program()))?;
    let pid = spy.seen_started(stage)?;
    let told = Proc::of(pid).map(|child| child.environ()).unwrap_or_default();
    caller.kill_group();
    stage.arena().end_leaks();
    if told.is_empty() {
        return inconclusive("the environment of the client's child cannot be read");
    }
    stage.precondition(format!("the client gave its child {} variables", told.len()));
    let home = sibling(stage, "another-home");
    make_private(&home)?;
    let own = component.in_home(&home);
    let (mut reader, writer) = std::io::pipe()?;
    ioctl_fionbio(&reader, true).map_err(std::io::Error::from)?;
    let setup = Setup { everywhere: Some(writer.as_raw_fd()), ..Setup::default() };
    let mut start = Start::new().unnamed(&own).setup(setup);
    for entry in &told {
        if let Some((name, value)) = entry.to_string_lossy().split_once('=') {
            start = start.var(name, value);
        }
    }
    for (name, below) in [
        ("HOME", ""),
        ("XDG_STATE_HOME", ".local/state"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_CONFIG_HOME", ".config"),
        ("XDG_CACHE_HOME", ".cache"),
        ("XDG_RUNTIME_DIR", "run"),
    ] {
        start = start.var(name, home.join(below).to_string_lossy());
    }
    let daemon = stage.launch_with(start)?;
    drop(writer);
    let ready = stage.ready(&daemon);
    let stray = stage.record_path();
    ensure!(
        !stray.exists(),
        "published at {}, in the directory that the client named to another process",
        stray.display()
    );
    ready?;
    // It may write as soon as it is ready, and nothing shows that it will not.
    let mut said = [0; 64];
    let said = until(ms(300), || match reader.read(&mut said) {
        Ok(length) if length > 0 => Some(String::from_utf8_lossy(&said[..length]).into_owned()),
        _ => None,
    });
    ensure!(
        said.is_none(),
        "it wrote {said} into a pipe that has nothing to do with it",
        said = in_words(&said)
    );
    Ok(())
}

/// One daemon after the other is started as a login session, a cron job and a service would start it: another
/// XDG_RUNTIME_DIR or none, another TMPDIR, another working directory, a session of its own. All of them meet
/// in one directory: each displaces the one before (clawpatrol#670, gmux#359).
#[case("DIR-2")]
fn same_in_every_session(stage: &mut Stage) -> Outcome {
    stage.expect("each daemon publishes in the same directory, so that the one before stands down");
    let (run, tmp) = (sibling(stage, "run-2"), sibling(stage, "tmp-2"));
    make_private(&run)?;
    make_private(&tmp)?;
    let setup = Setup { own_session: true, ..Setup::default() };
    let login = Start::new().var("XDG_RUNTIME_DIR", run.to_string_lossy()).setup(setup);
    let cron = Start::new().var("XDG_RUNTIME_DIR", "").var("TMPDIR", "").cwd("/");
    let service = Start::new().var("TMPDIR", tmp.to_string_lossy()).cwd(&tmp);
    let (mut last, _) = stage.launch_ready()?;
    for (session, start) in [("login", login), ("cron", cron), ("service", service)] {
        let daemon = stage.launch_with(start)?;
        stage.ready(&daemon)?;
        let deadline = stage.stand_down_deadline();
        let exit = last.wait_exit(deadline);
        ensure!(
            exit.is_some(),
            "{} still runs beside {}, started as a {session} session",
            last.name,
            daemon.name
        );
        last = daemon;
    }
    let record = stage.manifest().binding.registration.clone();
    let strays = find(stage.arena().path(), &record);
    stage.observed(format!("records in the whole world of the case: {strays}", strays = in_words(&strays)));
    ensure!(strays.len() == 1, "there are several records");
    Ok(())
}

/// The state directory's path holds spaces, both kinds of quotes and a letter outside of ASCII.
#[case("DIR-1", shaped = Shape::Spaces)]
fn path_with_spaces(stage: &mut Stage) -> Outcome {
    used_as_named(stage)
}

/// The state directory's path is 200 bytes long, more than the name of a Unix socket may be.
#[case("DIR-1", shaped = Shape::Long)]
fn path_of_200_bytes(stage: &mut Stage) -> Outcome {
    used_as_named(stage)
}

fn used_as_named(stage: &mut Stage) -> Outcome {
    stage.expect("record and credential in exactly that directory, and nothing beside it");
    let (_daemon, live) = stage.launch_ready()?;
    let state_dir = stage.state_dir().to_owned();
    let expected = ["home", "run", "tmp"].map(std::ffi::OsString::from);
    let strays: Vec<_> = fs::read_dir(stage.arena().path())?
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| !expected.contains(name) && Some(name.as_os_str()) != state_dir.file_name())
        .collect();
    stage.observed(format!(
        "{} bytes of path; ready after {} ms",
        state_dir.as_os_str().len(),
        live.after.as_millis()
    ));
    ensure!(strays.is_empty(), "outside the state directory: {strays}", strays = in_words(&strays));
    Ok(())
}
