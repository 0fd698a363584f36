//! Made for its owner alone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use local_daemon_harness::files::{EntryKind, Facts, FileEventKind, Snapshot, Watch, make_private, set_mode};
use local_daemon_harness::platform::Setup;
use local_daemon_harness::process::{Signal, read_as, run_as};
use local_daemon_harness::record::replace;
use local_daemon_harness::strace::{MKDIR, Point};
use local_daemon_harness::wait::ms;

use crate::case::case;
use crate::fixtures::refused_start::{between_good_starts, refused, sibling, unchanged};
use crate::fixtures::trace::{launch_under, trace};
use crate::fixtures::words::in_words;
use crate::fixtures::worlds::alive_in;
use crate::outcome::{Outcome, ensure, inconclusive, untestable};
use crate::stage::{Stage, Start};

const UMASKS: [u32; 4] = [0o000, 0o022, 0o077, 0o777];

fn under(umask: u32, path: &Path) -> Start {
    let setup = Setup { umask: Some(umask), ..Setup::default() };
    Start::new().state_dir(path).setup(setup)
}

/// A thread that looks at the modes of paths as fast as it can and keeps the first loose sight of each.
struct Looker {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<PathBuf, Facts>>>,
    thread: Option<JoinHandle<()>>,
}

impl Looker {
    fn at(paths: Vec<PathBuf>) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<BTreeMap<_, _>>>::default());
        let thread = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for path in &paths {
                        if let Some(facts) = Facts::of(path).ok().filter(Facts::is_loose) {
                            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                            seen.entry(path.clone()).or_insert(facts);
                        }
                    }
                    std::thread::yield_now();
                }
            })
        };
        Self { stop, seen, thread: Some(thread) }
    }

    fn loose(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(path, facts)| format!("{}: {facts}", path.display())).collect()
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// No entry was seen with a mode that lets group or others do something, neither by notification nor by looking.
fn never_loose(umask: u32, watch: &Watch, looker: &Looker) -> Outcome {
    let overflow = watch.events().iter().any(|event| event.kind == FileEventKind::Overflow);
    if overflow {
        return inconclusive("the kernel dropped notifications");
    }
    let events = watch.loose().into_iter().filter_map(|event| {
        let facts = event.facts?;
        Some(format!("{} at {}: {facts}", event.name.display(), in_words(&event.kind)))
    });
    let loose: Vec<String> = events.chain(looker.loose()).collect();
    ensure!(loose.is_empty(), "under umask {umask:03o}: {}", loose.join("; "));
    Ok(())
}

/// A daemon is started where there is no state directory, under the umasks 000, 022, 077 and 777.
/// Notifications and a thread that does nothing but look see the directory's mode from the instant it exists.
#[case("DIR-4")]
fn created_owner_only(stage: &mut Stage) -> Outcome {
    stage.expect("mode 0700 under every umask, and never a group or other bit before");
    for umask in UMASKS {
        let name = format!("state-{umask:03o}");
        let path = sibling(stage, &name);
        let watch = Watch::on(stage.arena().path())?;
        let looker = Looker::at(vec![path.clone()]);
        let daemon = stage.launch_with(under(umask, &path))?;
        let ready = stage.ready(&daemon);
        never_loose(umask, &watch, &looker)?;
        ready?;
        if watch.wait_event(ms(1_000), FileEventKind::Created, &name).is_none() {
            return inconclusive(format!("nobody was seen to create {name}"));
        }
        stage.precondition(format!("{name} was created under observation"));
        let facts = Facts::of(&path)?;
        stage.observed(format!("umask {umask:03o}: {facts}"));
        ensure!(facts.mode == 0o700, "under umask {umask:03o}: {facts}");
        daemon.kill_group();
    }
    Ok(())
}

/// A daemon is started in an empty state directory, used and stopped, under the umasks 000, 022, 077 and 777.
/// Every file's mode is looked at whenever something happens to it, and all of them once it is ready.
#[case("DIR-5")]
fn files_owner_only_from_creation(stage: &mut Stage) -> Outcome {
    stage.expect("files of mode 0600 and directories of mode 0700 under every umask, and never a looser one");
    for umask in UMASKS {
        let path = sibling(stage, &format!("state-{umask:03o}"));
        make_private(&path)?;
        let binding = stage.manifest().binding.clone();
        let names = [&binding.registration, &binding.credential].map(|name| path.join(name));
        let watch = Watch::on(&path)?;
        let looker = Looker::at(names.to_vec());
        let daemon = stage.launch_with(under(umask, &path))?;
        let ready = stage.ready(&daemon);
        never_loose(umask, &watch, &looker)?;
        let live = ready?;
        exact_modes(umask, &path)?;
        if let Some(mutation) = &binding.mutation {
            let request = live
                .operation(mutation)
                .header("Authorization", &local_daemon_harness::proof::bearer(&live.credential));
            // What it answers is judged elsewhere; here it only has to have had a reason to write something.
            let _ = live.send(&request);
        }
        daemon.signal(Signal::TERM)?;
        if daemon.wait_exit(stage.stand_down_deadline()).is_none() {
            return inconclusive(format!("{} does not end on SIGTERM", daemon.name));
        }
        let created: Vec<String> = watch
            .events()
            .into_iter()
            .filter(|event| matches!(event.kind, FileEventKind::Created | FileEventKind::MovedTo))
            .map(|event| event.name.to_string_lossy().into_owned())
            .collect();
        if !created.contains(&binding.credential) || !created.contains(&binding.registration) {
            return inconclusive(format!("nobody was seen to create {}", names[0].display()));
        }
        stage.precondition(format!("umask {umask:03o}: {} names appeared under observation", created.len()));
        never_loose(umask, &watch, &looker)?;
    }
    Ok(())
}

/// Every file below `path` has mode 0600 and every directory 0700.
fn exact_modes(umask: u32, path: &Path) -> Outcome {
    let odd: Vec<String> = Snapshot::of(path)?
        .0
        .into_iter()
        .filter_map(|(name, entry)| {
            let right = match entry.facts.kind {
                EntryKind::Directory => 0o700,
                EntryKind::Link => entry.facts.mode,
                _ => 0o600,
            };
            (entry.facts.mode != right).then(|| format!("{}: {}", name.display(), entry.facts))
        })
        .collect();
    ensure!(odd.is_empty(), "under umask {umask:03o}, once ready: {}", odd.join("; "));
    Ok(())
}

/// A daemon is started under umask 000, below a directory that is open to everybody. The user nobody, who can
/// read a file beside the state directory, tries to list it and to read the record and the credential.
#[case("DIR-4", "DIR-5")]
fn closed_to_other_users(stage: &mut Stage) -> Outcome {
    let nobody = stage.another_user()?;
    stage.expect("nobody may neither list the directory nor read the record or the credential");
    stage.arena().let_others_in()?;
    let open = sibling(stage, "open");
    fs::write(&open, "open")?;
    set_mode(&open, 0o644)?;
    let setup = Setup { umask: Some(0), ..Setup::default() };
    let daemon = stage.launch_with(Start::new().setup(setup))?;
    stage.ready(&daemon)?;
    let control = |stage: &mut Stage| match read_as(nobody, &open, ms(2_000)) {
        Ok(Ok(bytes)) if bytes == b"open" => {
            stage.control("nobody reads a file of mode 0644 beside the state directory");
            Ok(())
        }
        other => untestable(format!(
            "the user `nobody` cannot read a file that all may read: {other}",
            other = in_words(&other)
        )),
    };
    control(stage)?;
    for path in [stage.record_path(), stage.credential_path()] {
        let read = read_as(nobody, &path, ms(2_000))?;
        let name = path.file_name().unwrap_or_default().display().to_string();
        ensure!(read.is_err(), "nobody reads {name}");
        stage.observed(format!("{name}: {}", read.err().unwrap_or_default()));
    }
    let argv = [
        "ls".into(),
        "-a".into(),
        "--".into(),
        stage.state_dir().as_os_str().to_owned(),
    ];
    let listed = run_as(nobody, argv, ms(2_000))?;
    let refused = listed.is_some_and(|(exit, output)| exit.code != Some(0) && output.stdout().is_empty());
    ensure!(refused, "nobody lists the state directory");
    control(stage)
}

/// A daemon is held right before it creates its state directory, and a link to a directory of mode 0755, then such a directory,
/// is placed at the name: that directory keeps its mode.
#[case("DIR-21")]
fn mode_of_what_was_placed_is_kept(stage: &mut Stage) -> Outcome {
    stage.expect("mode 0755 as before");
    between_good_starts(stage, |stage, _| {
        for (what, is_link) in [("a link", true), ("a directory", false)] {
            let (path, target) = (sibling(stage, &format!("state-{is_link}")), sibling(stage, "target"));
            let strace = trace(stage, what, Point::at([MKDIR]).of(&path).held_before())?;
            let daemon = launch_under(stage, Start::new().state_dir(&path), &strace)?;
            let Some(call) = strace.wait_held(&daemon, stage.ready_deadline()) else {
                return inconclusive(format!("it was not seen to make {}", path.display()));
            };
            let placed = if is_link { &target } else { &path };
            fs::DirBuilder::new().mode(0o755).create(placed)?;
            set_mode(placed, 0o755)?;
            if is_link {
                symlink(&target, &path)?;
            }
            stage.precondition(format!("{what} was placed while it was held at {call}"));
            strace.release(&daemon)?;
            // A refused directory ends it, and it has changed modes by then if it does at all.
            let exit = daemon.wait_exit(stage.ready_deadline());
            stage.observed(exit.map_or_else(|| "it runs".to_owned(), |exit| exit.to_string()));
            let facts = Facts::of(placed)?;
            ensure!(facts.mode == 0o755, "the directory, with {what} at the name, is now: {facts}");
            daemon.kill_group();
        }
        Ok(())
    })
}

/// A daemon is started in a state directory with a `daemon.alive` of mode 0640.
#[case("DIR-21")]
fn mode_of_its_lock_is_kept(stage: &mut Stage) -> Outcome {
    stage.expect("mode 0640 as before");
    let path = alive_in(stage.arena().make_state_dir()?);
    replace(&path, b"", 0o640)?;
    let (_daemon, _live) = stage.launch_ready()?;
    stage.control("the daemon is ready");
    let facts = Facts::of(&path)?;
    ensure!(facts.mode == 0o640, "{}: {facts}", path.display());
    Ok(())
}

/// A daemon that runs as root is started with state directories, one with missing parents, in a directory of the user nobody.
#[case("DIR-22", "DIR-11")]
fn nothing_made_in_the_directory_of_another_user(stage: &mut Stage) -> Outcome {
    let nobody = stage.another_user()?;
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing made");
    between_good_starts(stage, |stage, _| {
        let home = sibling(stage, "another-home");
        make_private(&home)?;
        let below = [home.join("state"), home.join(".local/state/component")];
        let daemon = stage.launch_with(Start::new().state_dir(home.join("own/state")))?;
        stage.ready(&daemon)?;
        stage.control("it was ready with a missing parent in a directory of its own user");
        daemon.kill_group();
        fs::remove_dir_all(home.join("own"))?;
        chown(&home, Some(nobody.uid), Some(nobody.gid))?;
        let before = Snapshot::of(&home)?;
        for path in below {
            refused(stage, "in a directory of nobody", Start::new().state_dir(&path), &home)?;
            unchanged("in a directory of nobody", &home, &before)?;
        }
        Ok(())
    })
}

/// A daemon is started twice below two missing parents of its state directory, under the umasks 000, 022, 077, 177 and 777.
#[case("DIR-23", deadline_s = 90)]
fn parents_owner_only(stage: &mut Stage) -> Outcome {
    stage.expect("parents of mode 0700 under every umask, and a second start that works");
    for umask in [0o000, 0o022, 0o077, 0o177, 0o777] {
        let first = sibling(stage, &format!("parents-{umask:03o}"));
        let second = first.join("second");
        let path = second.join("state");
        let looker = Looker::at(vec![first.clone(), second.clone()]);
        for start in ["the first", "the second"] {
            let daemon = stage.launch_with(under(umask, &path))?;
            let ready = stage.ready(&daemon);
            for parent in [&first, &second] {
                let Ok(facts) = Facts::of(parent) else { continue };
                ensure!(facts.mode == 0o700, "under umask {umask:03o}, {}: {facts}", parent.display());
            }
            let loose = looker.loose();
            ensure!(loose.is_empty(), "under umask {umask:03o}: {}", loose.join("; "));
            ready?;
            stage.precondition(format!("umask {umask:03o}: {start} start was ready"));
            daemon.kill_group();
        }
    }
    Ok(())
}
