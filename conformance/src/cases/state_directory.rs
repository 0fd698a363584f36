//! The state directory: chapter 02.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use local_daemon_harness::arena::Shape;
use local_daemon_harness::files::{EntryKind, Facts, FileEventKind, Snapshot, Watch};
use local_daemon_harness::platform::{self, Setup, User};
use local_daemon_harness::process::{Signal, read_as, run_as};
use local_daemon_harness::record;
use local_daemon_harness::wait::ms;

use crate::case::{Case, Outcome};
use crate::stage::{Live, Stage, Start};

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "state-directory/launch-wins-over-the-environment",
        &["DIR-1"],
        "A daemon whose command names a state directory is started while LOCAL_DAEMON_STATE_DIR names another one. It \
         publishes in the first and leaves the second, and the home, without a record.",
        launch_wins_over_the_environment,
    ),
    Case::core(
        "state-directory/same-in-every-session",
        &["DIR-2"],
        "One daemon after the other is started as a login session, a cron job and a service would start it: another \
         XDG_RUNTIME_DIR or none, another TMPDIR, another working directory, a session of its own. All of them meet in \
         one directory: each displaces the one before (clawpatrol#670, gmux#359).",
        same_in_every_session,
    ),
    Case::core(
        "state-directory/path-with-spaces",
        &["DIR-1"],
        "The state directory's path holds spaces, both kinds of quotes and a letter outside of ASCII.",
        used_as_named,
    )
    .shaped(Shape::Spaces),
    Case::core(
        "state-directory/path-of-200-bytes",
        &["DIR-1"],
        "The state directory's path is 200 bytes long, more than the name of a Unix socket may be.",
        used_as_named,
    )
    .shaped(Shape::Long),
    Case::core(
        "state-directory/created-owner-only",
        &["DIR-4"],
        "A daemon is started where there is no state directory, under the umasks 000, 022, 077 and 777. Notifications \
         and a thread that does nothing but look see the directory's mode from the instant it exists.",
        created_owner_only,
    ),
    Case::core(
        "state-directory/files-owner-only-from-creation",
        &["DIR-5"],
        "A daemon is started in an empty state directory, used and stopped, under the umasks 000, 022, 077 and 777. \
         Every file's mode is looked at whenever something happens to it, and all of them once it is ready.",
        files_owner_only_from_creation,
    ),
    Case::core(
        "state-directory/closed-to-other-users",
        &["DIR-4", "DIR-5"],
        "A daemon is started under umask 000, below a directory that is open to everybody. The user nobody, who can \
         read a file beside the state directory, tries to list it and to read the record and the credential.",
        closed_to_other_users,
    ),
    Case::core(
        "state-directory/symlink-refused",
        &["DIR-6", "DIR-10", "DIR-11"],
        "A daemon is started with a symbolic link in the place of the state directory: to a good state directory, and \
         to nothing.",
        symlink_refused,
    ),
    Case::core(
        "state-directory/symlink-with-a-slash-refused",
        &["DIR-6", "DIR-10", "DIR-11"],
        "A daemon is started with a symbolic link to a good state directory, and the path ends with a slash, as a \
         shell completes it: to the system this means what the link leads to, to the user it is the same path.",
        symlink_with_a_slash_refused,
    ),
    Case::core(
        "state-directory/no-directory-refused",
        &["DIR-6", "DIR-10", "DIR-11"],
        "A daemon is started with a regular file and with a FIFO in the place of the state directory.",
        no_directory_refused,
    ),
    Case::core(
        "state-directory/foreign-owner-refused",
        &["DIR-7", "DIR-10", "DIR-11"],
        "A daemon that runs as root is started with a state directory, and then with a credential, of the user nobody.",
        foreign_owner_refused,
    ),
    Case::core(
        "state-directory/loose-mode-refused",
        &["DIR-8", "DIR-10", "DIR-11"],
        "A daemon is started with a state directory that has one of the six group and other permission bits, or \
         several. It does not mend the mode in silence either.",
        loose_mode_refused,
    ),
    Case::core(
        "state-directory/credential-symlink-refused",
        &["DIR-6", "DIR-10", "DIR-11"],
        "A daemon is started with a symbolic link in the place of the credential: to a good credential elsewhere, and \
         to a name at which nothing is.",
        credential_symlink_refused,
    ),
    Case::core(
        "state-directory/credential-no-file-refused",
        &["DIR-6", "DIR-10", "DIR-11"],
        "A daemon is started with a FIFO, a directory and a socket in the place of the credential. Opening the FIFO \
         must not hang.",
        credential_no_file_refused,
    ),
    Case::core(
        "state-directory/credential-loose-mode-refused",
        &["DIR-8", "DIR-10", "DIR-11"],
        "A daemon is started with a good credential that has one of the six group and other permission bits, or \
         several. It does not mend the mode in silence either.",
        credential_loose_mode_refused,
    ),
    Case::core(
        "state-directory/oversized-credential-refused",
        &["DIR-9", "DIR-10", "DIR-11"],
        "A daemon is started with a credential file that begins well and goes on beyond 64 KiB, up to 1 MiB.",
        oversized_credential_refused,
    ),
    Case::core(
        "state-directory/refusals-name-the-fault",
        &["DIR-11"],
        "A daemon is started with one fault of the state directory or the credential after the other. Each error names \
         the path, and beyond the path no two faults read the same.",
        refusals_name_the_fault,
    ),
    Case::core(
        "state-directory/unwritable-refused",
        &["DIR-12", "DIR-11"],
        "A daemon is started with a state directory that cannot be created: below a regular file, below /proc, and, \
         where the suite is not root, in a directory that it may not write (watchman#543).",
        unwritable_refused,
    ),
];

/// Within this a start that must be refused has ended (DIR-10, DIR-12).
const BOUND: Duration = Duration::from_secs(1);

/// Every single group and other bit, what a usual umask leaves of a file, and all of them.
const LOOSE: [u32; 8] = [0o001, 0o002, 0o004, 0o010, 0o020, 0o040, 0o044, 0o077];

/// Starts the subject where it has to refuse to, and returns what it said: it must end within a second, with a status
/// that is not zero and an error on standard error that names `path` (DIR-10, DIR-11). What a good start took here comes
/// on top: a busy host that takes half a second to begin a program takes as long to begin one that refuses.
pub(super) fn refused(stage: &mut Stage, what: &str, start: Start, path: &Path) -> Outcome<String> {
    let began = Instant::now();
    let bound = BOUND + stage.slowest_start();
    let daemon = stage.launch_with(start)?;
    let exit = daemon.wait_exit(began + bound);
    let Some(exit) = exit.filter(|exit| exit.at.duration_since(began) <= bound) else {
        daemon.kill_group();
        return stage.fail(format!(
            "{what}: {} still ran {} ms after its launch",
            daemon.name,
            bound.as_millis()
        ));
    };
    stage.ensure(
        exit.code.is_some_and(|code| code != 0),
        format!("{what}: {} ended with {exit}", daemon.name),
    )?;
    let said = daemon
        .wait_output_end(ms(1_000))
        .unwrap_or_else(|| daemon.output());
    let said = String::from_utf8_lossy(&said.stderr()).into_owned();
    stage.ensure(
        said.contains(&*path.to_string_lossy()),
        format!(
            "{what}: {exit}, and standard error does not name {}: {}",
            path.display(),
            said.trim_end()
        ),
    )?;
    Ok(said)
}

/// Does starts that must be refused between two good ones in the arena's state directory; `faults` puts back what it
/// changes. Without a good start before, nothing follows; without one after, the subject did not refuse but break.
pub(super) fn between_good_starts(
    stage: &mut Stage,
    faults: impl FnOnce(&mut Stage, &Live) -> Outcome,
) -> Outcome {
    let (daemon, live) = stage.launch_ready()?;
    stage.control("the good form was accepted before");
    daemon.kill_group();
    faults(stage, &live)?;
    let (daemon, _) = stage.launch_ready()?;
    stage.control("the good form was accepted afterwards");
    daemon.kill_group();
    Ok(())
}

/// Nothing in `directory` is other than in `before`.
fn unchanged(stage: &mut Stage, what: &str, directory: &Path, before: &Snapshot) -> Outcome {
    let differences = before.diff(&Snapshot::of(directory)?);
    let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
    stage.ensure(
        differences.is_empty(),
        format!("{what}: {}", differences.join(", ")),
    )
}

/// Neither the record nor the credential in the arena's state directory is other than in `before` (PUB-11).
pub(super) fn files_unchanged(stage: &mut Stage, what: &str, before: &Snapshot) -> Outcome {
    let after = Snapshot::of(stage.state_dir())?;
    for path in [stage.record_path(), stage.credential_path()] {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        stage.ensure(
            before.get(&name) == after.get(&name),
            format!(
                "{what}: {name} was {:?} and is {:?}",
                before.get(&name).map(|entry| entry.facts.to_string()),
                after.get(&name).map(|entry| entry.facts.to_string())
            ),
        )?;
    }
    Ok(())
}

/// A path beside the arena's state directory.
pub(super) fn beside(stage: &Stage, name: &str) -> PathBuf {
    stage.state_dir().with_file_name(name)
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn make_private(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// Another user, where the suite may act as one.
fn another_user(stage: &mut Stage) -> Outcome<User> {
    match platform::nobody().filter(|_| platform::is_root()) {
        Some(user) => Ok(user),
        None => stage.untestable("the suite is not root, or there is no user nobody"),
    }
}

/// Every regular file of this name below `directory`.
fn find(directory: &Path, name: &str) -> Vec<PathBuf> {
    let below = Snapshot::of(directory).unwrap_or_default();
    let named = below
        .0
        .into_keys()
        .filter(|path| path.file_name().is_some_and(|last| last == name));
    named.collect()
}

// Where it is.

fn launch_wins_over_the_environment(stage: &mut Stage) -> Outcome {
    if !stage
        .manifest()
        .daemon
        .run
        .iter()
        .any(|arg| arg.contains("{state_dir}"))
    {
        return stage.not_applicable("the manifest's command does not name the state directory");
    }
    stage.expect("a record in the directory that the command names, and in no other");
    let other = beside(stage, "other");
    make_private(&other)?;
    let before = Snapshot::of(&other)?;
    let start = Start::new().var("LOCAL_DAEMON_STATE_DIR", other.to_string_lossy());
    let daemon = stage.launch_with(start)?;
    stage.ready(&daemon)?;
    unchanged(stage, "the directory that the environment names", &other, &before)?;
    let record = stage.manifest().binding.registration.clone();
    let strays = find(&stage.arena().home(), &record);
    stage.ensure(
        strays.is_empty(),
        format!("further records in the home: {strays:?}"),
    )
}

fn same_in_every_session(stage: &mut Stage) -> Outcome {
    stage.expect("each daemon publishes in the same directory, so that the one before stands down");
    let (run, tmp) = (beside(stage, "run-2"), beside(stage, "tmp-2"));
    make_private(&run)?;
    make_private(&tmp)?;
    let setup = Setup {
        own_session: true,
        ..Setup::default()
    };
    let login = Start::new()
        .var("XDG_RUNTIME_DIR", run.to_string_lossy())
        .setup(setup);
    let cron = Start::new().var("XDG_RUNTIME_DIR", "").var("TMPDIR", "").cwd("/");
    let service = Start::new().var("TMPDIR", tmp.to_string_lossy()).cwd(&tmp);
    let (mut last, _) = stage.launch_ready()?;
    for (session, start) in [("login", login), ("cron", cron), ("service", service)] {
        let daemon = stage.launch_with(start)?;
        stage.ready(&daemon)?;
        let deadline = stage.stand_down_deadline();
        let exit = last.wait_exit(deadline);
        stage.ensure(
            exit.is_some(),
            format!(
                "{} still runs beside {}, started as a {session} session",
                last.name, daemon.name
            ),
        )?;
        last = daemon;
    }
    let record = stage.manifest().binding.registration.clone();
    let strays = find(stage.arena().path(), &record);
    stage.observed(format!("records in the whole world of the case: {strays:?}"));
    stage.ensure(strays.len() == 1, "there are several records")
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
    stage.ensure(
        strays.is_empty(),
        format!("beside the state directory: {strays:?}"),
    )
}

// Made for its owner alone.

const UMASKS: [u32; 4] = [0o000, 0o022, 0o077, 0o777];

fn under(umask: u32, path: &Path) -> Start {
    let setup = Setup {
        umask: Some(umask),
        ..Setup::default()
    };
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
        let (stop, seen) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<Mutex<BTreeMap<_, _>>>::default(),
        );
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
        Self {
            stop,
            seen,
            thread: Some(thread),
        }
    }

    fn loose(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .map(|(path, facts)| format!("{}: {facts}", path.display()))
            .collect()
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
fn never_loose(stage: &mut Stage, umask: u32, watch: &Watch, looker: &Looker) -> Outcome {
    let overflow = watch
        .events()
        .iter()
        .any(|event| event.kind == FileEventKind::Overflow);
    if overflow {
        return stage.inconclusive("the kernel dropped notifications");
    }
    let events = watch.loose().into_iter().filter_map(|event| {
        let facts = event.facts?;
        Some(format!("{} at {:?}: {facts}", event.name.display(), event.kind))
    });
    let loose: Vec<String> = events.chain(looker.loose()).collect();
    stage.ensure(
        loose.is_empty(),
        format!("under umask {umask:03o}: {}", loose.join("; ")),
    )
}

fn created_owner_only(stage: &mut Stage) -> Outcome {
    stage.expect("mode 0700 under every umask, and never a group or other bit before");
    for umask in UMASKS {
        let name = format!("state-{umask:03o}");
        let path = beside(stage, &name);
        let watch = Watch::on(stage.arena().path())?;
        let looker = Looker::at(vec![path.clone()]);
        let daemon = stage.launch_with(under(umask, &path))?;
        let ready = stage.ready(&daemon);
        never_loose(stage, umask, &watch, &looker)?;
        ready?;
        if watch
            .wait_event(ms(1_000), FileEventKind::Created, &name)
            .is_none()
        {
            return stage.inconclusive(format!("nobody was seen to create {name}"));
        }
        stage.precondition(format!("{name} was created under observation"));
        let facts = Facts::of(&path)?;
        stage.observed(format!("umask {umask:03o}: {facts}"));
        stage.ensure(facts.mode == 0o700, format!("under umask {umask:03o}: {facts}"))?;
        daemon.kill_group();
    }
    Ok(())
}

fn files_owner_only_from_creation(stage: &mut Stage) -> Outcome {
    stage.expect("files of mode 0600 and directories of mode 0700 under every umask, and never a looser one");
    for umask in UMASKS {
        let path = beside(stage, &format!("state-{umask:03o}"));
        make_private(&path)?;
        let binding = stage.manifest().binding.clone();
        let names = [&binding.registration, &binding.credential].map(|name| path.join(name));
        let watch = Watch::on(&path)?;
        let looker = Looker::at(names.to_vec());
        let daemon = stage.launch_with(under(umask, &path))?;
        let ready = stage.ready(&daemon);
        never_loose(stage, umask, &watch, &looker)?;
        let live = ready?;
        exact_modes(stage, umask, &path)?;
        if let Some(mutation) = &binding.mutation {
            let request = stage
                .operation(&live, mutation)
                .header("Authorization", &bearer(&live));
            // What it answers is judged elsewhere; here it only has to have had a reason to write something.
            let _ = stage.send(&live, &request);
        }
        daemon.signal(Signal::TERM)?;
        if daemon.wait_exit(stage.stand_down_deadline()).is_none() {
            return stage.inconclusive(format!("{} does not end on SIGTERM", daemon.name));
        }
        let created: Vec<String> = watch
            .events()
            .into_iter()
            .filter(|event| matches!(event.kind, FileEventKind::Created | FileEventKind::MovedTo))
            .map(|event| event.name.to_string_lossy().into_owned())
            .collect();
        if !created.contains(&binding.credential) || !created.contains(&binding.registration) {
            return stage.inconclusive(format!("nobody was seen to create {}", names[0].display()));
        }
        stage.precondition(format!(
            "umask {umask:03o}: {} names appeared under observation",
            created.len()
        ));
        never_loose(stage, umask, &watch, &looker)?;
    }
    Ok(())
}

pub(super) fn bearer(live: &Live) -> String {
    local_daemon_harness::proof::bearer(&live.credential)
}

/// Every file below `path` has mode 0600 and every directory 0700.
fn exact_modes(stage: &mut Stage, umask: u32, path: &Path) -> Outcome {
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
    stage.ensure(
        odd.is_empty(),
        format!("under umask {umask:03o}, once ready: {}", odd.join("; ")),
    )
}

fn closed_to_other_users(stage: &mut Stage) -> Outcome {
    let nobody = another_user(stage)?;
    stage.expect("nobody may neither list the directory nor read the record or the credential");
    stage.arena().let_others_in()?;
    let open = beside(stage, "open");
    fs::write(&open, "open")?;
    set_mode(&open, 0o644)?;
    let setup = Setup {
        umask: Some(0),
        ..Setup::default()
    };
    let daemon = stage.launch_with(Start::new().setup(setup))?;
    stage.ready(&daemon)?;
    let control = |stage: &mut Stage| match read_as(nobody, &open, ms(2_000)) {
        Ok(Ok(bytes)) if bytes == b"open" => {
            stage.control("nobody reads a file of mode 0644 beside the state directory");
            Ok(())
        }
        other => stage.untestable(format!("nobody cannot even read what is open: {other:?}")),
    };
    control(stage)?;
    for path in [stage.record_path(), stage.credential_path()] {
        let read = read_as(nobody, &path, ms(2_000))?;
        let name = path.file_name().unwrap_or_default().display().to_string();
        stage.ensure(read.is_err(), format!("nobody reads {name}"))?;
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
    stage.ensure(refused, "nobody lists the state directory")?;
    control(stage)
}

// Checked before it is trusted: the directory.

fn symlink_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the link, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let (good, link, dangling) = (
            stage.state_dir().to_owned(),
            beside(stage, "link"),
            beside(stage, "dangling"),
        );
        let nothing = beside(stage, "nothing");
        symlink(&good, &link)?;
        symlink(&nothing, &dangling)?;
        let before = Snapshot::of(&good)?;
        for (what, path) in [
            ("a link to a good state directory", &link),
            ("a link to nothing", &dangling),
        ] {
            refused(stage, what, Start::new().state_dir(path), path)?;
            unchanged(stage, what, &good, &before)?;
            stage.ensure(!nothing.exists(), format!("{what}: its target was created"))?;
            let kind = Facts::of(path)?.kind;
            stage.ensure(kind == EntryKind::Link, format!("{what}: it became a {kind:?}"))?;
        }
        Ok(())
    })
}

fn symlink_with_a_slash_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the link, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let (good, link) = (stage.state_dir().to_owned(), beside(stage, "link"));
        symlink(&good, &link)?;
        let before = Snapshot::of(&good)?;
        let slash = format!("{}/", link.display());
        refused(stage, "a link and a slash", Start::new().state_dir(slash), &link)?;
        unchanged(stage, "a link and a slash", &good, &before)
    })
}

fn no_directory_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let (file, fifo) = (beside(stage, "file"), beside(stage, "fifo"));
        record::write_new(&file, b"not a directory\n", 0o600)?;
        platform::make_fifo(&fifo)?;
        for (what, path) in [("a regular file", &file), ("a FIFO", &fifo)] {
            let before = Facts::of(path)?;
            refused(stage, what, Start::new().state_dir(path), path)?;
            let after = Facts::of(path)?;
            stage.ensure(before == after, format!("{what}: was {before} and is {after}"))?;
        }
        stage.ensure(
            fs::read(&file)? == b"not a directory\n",
            "the regular file was written to",
        )
    })
}

fn foreign_owner_refused(stage: &mut Stage) -> Outcome {
    let nobody = another_user(stage)?;
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, _| {
        for (what, path) in [
            ("a state directory of nobody", stage.state_dir().to_owned()),
            ("a credential of nobody", stage.credential_path()),
        ] {
            chown(&path, Some(nobody.uid), Some(nobody.gid))?;
            let before = Snapshot::of(stage.state_dir())?;
            refused(stage, what, Start::new(), &path)?;
            let state_dir = stage.state_dir().to_owned();
            if path == state_dir {
                unchanged(stage, what, &state_dir, &before)?;
            }
            files_unchanged(stage, what, &before)?;
            chown(&path, Some(platform::uid()), None)?;
        }
        Ok(())
    })
}

fn loose_mode_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let path = stage.state_dir().to_owned();
        for bits in LOOSE {
            let what = format!("a state directory of mode {:04o}", 0o700 | bits);
            set_mode(&path, 0o700 | bits)?;
            let before = Snapshot::of(&path)?;
            refused(stage, &what, Start::new(), &path)?;
            unchanged(stage, &what, &path, &before)?;
        }
        set_mode(&path, 0o700)?;
        Ok(())
    })
}

// Checked before it is trusted: the credential.

fn credential_symlink_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the link, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let (path, elsewhere, nothing) = (
            stage.credential_path(),
            beside(stage, "elsewhere"),
            beside(stage, "nothing"),
        );
        fs::rename(&path, &elsewhere)?;
        let content = fs::read(&elsewhere)?;
        for (what, target) in [
            ("a link to a good credential", &elsewhere),
            ("a link to nothing", &nothing),
        ] {
            symlink(target, &path)?;
            let before = Snapshot::of(stage.state_dir())?;
            refused(stage, what, Start::new(), &path)?;
            files_unchanged(stage, what, &before)?;
            stage.ensure(!nothing.exists(), format!("{what}: its target was created"))?;
            stage.ensure(
                fs::read(&elsewhere)? == content,
                format!("{what}: its target was written to"),
            )?;
            fs::remove_file(&path)?;
        }
        fs::rename(&elsewhere, &path)?;
        Ok(())
    })
}

fn credential_no_file_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let (path, good) = (stage.credential_path(), beside(stage, "good"));
        fs::rename(&path, &good)?;
        platform::make_fifo(&path)?;
        refused_as_it_is(stage, "a FIFO", &path)?;
        fs::remove_file(&path)?;
        make_private(&path)?;
        refused_as_it_is(stage, "a directory", &path)?;
        fs::remove_dir(&path)?;
        let socket = UnixListener::bind(&path)?;
        set_mode(&path, 0o600)?;
        refused_as_it_is(stage, "a socket", &path)?;
        drop(socket);
        fs::remove_file(&path)?;
        fs::rename(&good, &path)?;
        Ok(())
    })
}

/// A start in the arena's state directory is refused with an error that names `path`, record and credential stay.
pub(super) fn refused_as_it_is(stage: &mut Stage, what: &str, path: &Path) -> Outcome<String> {
    let before = Snapshot::of(stage.state_dir())?;
    let said = refused(stage, what, Start::new(), path)?;
    files_unchanged(stage, what, &before)?;
    Ok(said)
}

fn credential_loose_mode_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, _| {
        let path = stage.credential_path();
        for bits in LOOSE {
            set_mode(&path, 0o600 | bits)?;
            refused_as_it_is(
                stage,
                &format!("a credential of mode {:04o}", 0o600 | bits),
                &path,
            )?;
        }
        set_mode(&path, 0o600)?;
        Ok(())
    })
}

fn oversized_credential_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, an error that names the path, and nothing changed");
    between_good_starts(stage, |stage, live| {
        let (path, good) = (stage.credential_path(), beside(stage, "good"));
        fs::rename(&path, &good)?;
        // The file begins as a good one: whoever reads only a beginning and never asks for the size accepts it.
        record::write_new(&path, format!("{}\n", live.credential.text()).as_bytes(), 0o600)?;
        let file = fs::OpenOptions::new().write(true).open(&path)?;
        for size in [64 * 1024 + 1, 1024 * 1024] {
            file.set_len(size)?;
            refused_as_it_is(stage, &format!("a credential of {size} bytes"), &path)?;
        }
        fs::rename(&good, &path)?;
        Ok(())
    })
}

fn refusals_name_the_fault(stage: &mut Stage) -> Outcome {
    stage.expect("errors that name the path, and that tell each fault from the others");
    between_good_starts(stage, |stage, _| {
        let (state_dir, good) = (stage.state_dir().to_owned(), beside(stage, "good"));
        let mut directory = Vec::new();
        let (link, file) = (beside(stage, "link"), beside(stage, "file"));
        symlink(&state_dir, &link)?;
        record::write_new(&file, b"", 0o600)?;
        for (what, path) in [("a symbolic link", &link), ("no directory", &file)] {
            let said = refused(stage, what, Start::new().state_dir(path), path)?;
            directory.push((what, beyond(&said, path)));
        }
        set_mode(&state_dir, 0o755)?;
        let said = refused(stage, "a loose mode", Start::new(), &state_dir)?;
        directory.push(("a loose mode", beyond(&said, &state_dir)));
        set_mode(&state_dir, 0o700)?;
        all_different(stage, "the state directory", &directory)?;

        let mut credential = Vec::new();
        let path = stage.credential_path();
        set_mode(&path, 0o644)?;
        let said = refused_as_it_is(stage, "a loose mode", &path)?;
        credential.push(("a loose mode", beyond(&said, &path)));
        set_mode(&path, 0o600)?;
        fs::rename(&path, &good)?;
        symlink(&good, &path)?;
        let said = refused_as_it_is(stage, "a symbolic link", &path)?;
        credential.push(("a symbolic link", beyond(&said, &path)));
        fs::remove_file(&path)?;
        make_private(&path)?;
        let said = refused_as_it_is(stage, "no regular file", &path)?;
        credential.push(("no regular file", beyond(&said, &path)));
        fs::remove_dir(&path)?;
        record::write_new(&path, b"cut\n", 0o600)?;
        let said = refused_as_it_is(stage, "a damaged text", &path)?;
        credential.push(("a damaged text", beyond(&said, &path)));
        fs::rename(&good, &path)?;
        all_different(stage, "the credential", &credential)
    })
}

/// An error without the path that it names, and without what differs from launch to launch.
fn beyond(said: &str, path: &Path) -> String {
    let said = said.replace(&*path.to_string_lossy(), "");
    said.chars()
        .filter(|c| !c.is_ascii_digit())
        .collect::<String>()
        .trim()
        .to_owned()
}

fn all_different(stage: &mut Stage, of: &str, errors: &[(&str, String)]) -> Outcome {
    for (place, (fault, error)) in errors.iter().enumerate() {
        let same = errors[..place].iter().find(|(_, other)| other == error);
        if let Some((other, _)) = same {
            return stage.fail(format!("{of}: {fault} and {other} are told alike: {error}"));
        }
    }
    stage.observed(format!(
        "{of}: {} faults, each told in words of its own",
        errors.len()
    ));
    Ok(())
}

fn unwritable_refused(stage: &mut Stage) -> Outcome {
    stage.expect("an exit within 1 s, not with status 0, and an error that names the path");
    between_good_starts(stage, |stage, _| {
        let file = beside(stage, "file");
        record::write_new(&file, b"", 0o600)?;
        for (what, path) in [
            ("a state directory below a regular file", file.join("state")),
            (
                "a state directory below /proc",
                PathBuf::from("/proc/local-daemon-state"),
            ),
        ] {
            refused(stage, what, Start::new().state_dir(&path), &path)?;
        }
        if !platform::is_root() {
            let path = beside(stage, "read-only");
            fs::DirBuilder::new().mode(0o500).create(&path)?;
            refused(
                stage,
                "a state directory of mode 0500",
                Start::new().state_dir(&path),
                &path,
            )?;
        }
        Ok(())
    })
}
