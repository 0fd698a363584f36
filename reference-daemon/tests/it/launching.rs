//! How a daemon is started: what it takes over from the caller's process, and what the caller says if it fails.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{Foreground, Home, Manner, Output, Squatter, chmod, until};

/// The command, run by a wrapper such as `env`.
pub(crate) fn under(wrapper: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(wrapper[0]);
    wrapped
        .args(&wrapper[1..])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// The command, run by a shell that first does something to its own process.
fn after(first: &str, command: &Command) -> Command {
    under(&["sh", "-c", &format!("{first}; exec \"$@\""), "sh"], command)
}

/// A program to start as the daemon.
fn script(home: &Home, text: &str) -> PathBuf {
    let path = home.state_dir().with_file_name("a daemon");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    chmod(&path, 0o700);
    path
}

/// A command whose daemon is another program.
fn with_daemon(home: &Home, args: &[&str], program: impl AsRef<Path>) -> Output {
    Output::of(home.command(args).env("LOCALD_DAEMON", program.as_ref()))
}

pub(crate) fn pid(home: &Home) -> Pid {
    let pid = home.record().unwrap()["pid"].as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

fn proc(pid: Pid, file: &str) -> String {
    let bytes = fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn has_ended(pid: Pid) -> bool {
    // A zombie of a container without an init has ended as well.
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

/// CONN-46.
#[test]
fn an_ignored_sigchld_is_no_failed_start() {
    const IGNORING: &[&str] = &["env", "--ignore-signal=CHLD"];
    let home = Home::new();
    let seen = Output::of(&mut under(IGNORING, &home.command(&["start"])));
    assert_eq!(seen.code, 0, "{seen:?}");
    let first = home.record().unwrap();
    let seen = Output::of(&mut under(IGNORING, &home.command(&["restart"])));
    assert_eq!(seen.code, 0, "{seen:?}");
    assert_ne!(home.record().unwrap()["id"], first["id"]);
    assert_eq!(home.daemons().len(), 1);
    assert!(!home.file("spawn-failures.json").exists());

    for (browser, code, word) in [
        ("true", 19, "true was started"),
        ("/no/such/browser", 1, "No such file"),
    ] {
        let open = home.command(&["open", "--browser", browser]);
        let seen = Output::of(&mut under(IGNORING, &open));
        assert_eq!(seen.code, code, "{seen:?}");
        assert!(format!("{}{}", seen.stdout, seen.stderr).contains(word), "{seen:?}");
    }
    let failing = home.command(&["start"]);
    let seen = Output::of(under(IGNORING, &failing).env("LOCALD_DAEMON", "/no/such/daemon"));
    assert_eq!(seen.code, 0, "there is one: {seen:?}");
    assert_eq!(home.locald(&["stop"]).code, 0);
    let seen = Output::of(under(IGNORING, &failing).env("LOCALD_DAEMON", "/no/such/daemon"));
    assert!(seen.code == 16 && seen.stderr.contains("No such file"), "{seen:?}");
    let silent = script(&home, "exit 3");
    let seen = Output::of(under(IGNORING, &failing).env("LOCALD_DAEMON", silent));
    assert_eq!(seen.stderr.contains("exit status 3"), cfg!(not(local_daemon_portable)), "{seen:?}");
}

/// A daemon that may only be slow is not ended: the error says that it runs on, and how to end it.
#[test]
fn a_start_that_fails_names_the_daemon_that_it_leaves_behind() {
    let home = Home::new();
    let hung = script(&home, "exec sleep 60");
    let seen = with_daemon(&home, &["connect", "--deadline", "1"], hung);
    assert_eq!(seen.code, 16, "{seen:?}");
    let pid = seen.stderr.split_once("`kill ").unwrap().1.split_once('`').unwrap().0;
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    assert!(proc(pid, "cmdline").starts_with("sleep\0"), "{seen:?}");
    kill_process(pid, Signal::KILL).unwrap();
    until("it has ended", || has_ended(pid).then_some(()));
    // One that has ended is not named.
    let seen = with_daemon(&home, &["connect", "--deadline", "5"], script(&home, "exit 3"));
    assert!(seen.code == 16 && !seen.stderr.contains("kill"), "{seen:?}");
}

/// CONN-47, CONN-48.
#[test]
fn a_daemon_begins_with_a_state_of_its_own() {
    let home = Home::new();
    let hindered = "ulimit -S -t 600; ulimit -S -f 1000; ulimit -S -n 200; umask 000";
    let start = under(
        &[
            "env",
            "--ignore-signal=CHLD,USR1,USR2,WINCH,ALRM",
            "--block-signal=TERM,INT,HUP,USR1,CHLD",
        ],
        &home.command(&["start"]),
    );
    let seen = Output::of(&mut after(hindered, &start));
    assert_eq!(seen.code, 0, "{seen:?}");
    let daemon = pid(&home);
    let status = proc(daemon, "status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("no {name}: {status}")).to_owned()
    };
    let ignored = u64::from_str_radix(&field("SigIgn"), 16).unwrap();
    // Without Linux's own call the two signals stay as they were that the C library reserves.
    let kept = if cfg!(local_daemon_portable) { 0b11 << 31 } else { 0 };
    // SIGPIPE is ignored by each program in Rust.
    assert_eq!((field("SigBlk"), ignored & !kept), ("0".repeat(16), 1 << 12));
    assert_eq!(field("Umask"), "0077");
    let limits = proc(daemon, "limits");
    for name in [
        "Max cpu time",
        "Max file size",
        "Max address space",
        "Max data size",
        "Max open files",
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let [soft, hard, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        assert_eq!(soft, hard, "{name}");
    }
    kill_process(daemon, Signal::TERM).unwrap();
    until("it ends", || has_ended(daemon).then_some(()));
    assert!(home.record().is_none());
}

/// CRED-15: neither daemon nor client leaves a core dump, and the programs that they start have their caller's limit.
#[test]
fn a_hard_limit_that_allows_no_byte_makes_it_undumpable() {
    let home = Home::new();
    let calls = home.state_dir().with_file_name("calls");
    let strace = [
        "strace",
        "-qq",
        "-e",
        "trace=prctl",
        "-o",
        calls.to_str().unwrap(),
    ];
    for (limit, is_undumpable) in [("--core=0:0", true), ("--core=0:1", false)] {
        let wrapper = [&["prlimit", limit][..], &strace].concat();
        Output::of(&mut under(&wrapper, &home.command(&["status"])));
        let seen = fs::read_to_string(&calls).unwrap();
        assert_eq!(seen.contains("PR_SET_DUMPABLE, SUID_DUMP_DISABLE"), is_undumpable, "{limit}: {seen}");
    }
}

#[test]
fn only_this_process_has_its_limit_of_core_dumps() {
    const LIMIT: &str = "ulimit -S -c 2000";
    let home = Home::new();
    let core = |limits: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
        let words: Vec<String> = line.unwrap().split_whitespace().map(str::to_owned).collect();
        (words[0].clone(), words[1].clone())
    };
    let cat = after(LIMIT, Command::new("cat").arg("/proc/self/limits")).output().unwrap().stdout;
    let caller = core(&String::from_utf8(cat).unwrap());
    let own = ("1".to_owned(), caller.1.clone());
    let recorded = |name: &str| home.state_dir().with_file_name(name);
    let recording = |name: &str, then: &str| {
        let text = format!("cat /proc/self/limits > '{}'\n{then}", recorded(name).display());
        let program = script(&home, &text);
        let named = recorded(&format!("{name}.sh"));
        fs::rename(program, &named).unwrap();
        named
    };
    let command = home.command(&[]);
    let daemon = recording("daemon", &format!("exec '{}' \"$@\"", command.get_program().display()));
    let browser = recording("browser", "");
    let mut open = home.command(&["open", "--browser", browser.to_str().unwrap()]);
    open.env("LOCALD_DAEMON", daemon);
    let seen = Output::of(&mut after(LIMIT, &open));
    // That browser opens no page.
    assert_eq!(seen.code, 19, "{seen:?}");
    for name in ["daemon", "browser"] {
        assert_eq!(core(&fs::read_to_string(recorded(name)).unwrap()), caller, "{name}");
    }
    assert_eq!(core(&proc(pid(&home), "limits")), own);

    let squatter = Squatter::new(Manner::Mute);
    home.pretend(squatter.port);
    let mut client = after(LIMIT, &home.command(&["status"]));
    let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("it asks", || (!squatter.heard().is_empty()).then_some(()));
    let client_pid = Pid::from_child(&client);
    let limits = proc(client_pid, "limits");
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(core(&limits), own);
}

#[test]
fn run_unblocks_what_it_handles() {
    let home = Home::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut run = under(&["env", "--block-signal=TERM,INT,HUP"], &home.command(&["run"]));
        let mut daemon = Foreground::spawn(run.stderr(Stdio::piped()));
        daemon.wait_for_log("published");
        daemon.signal(Signal::HUP);
        daemon.signal(signal);
        assert_eq!(daemon.ended().code(), Some(0));
    }
}

/// CONN-42.
#[test]
fn a_program_that_cannot_be_executed_does_not_count() {
    let home = Home::new();
    let directory = home.state_dir().with_file_name("no program");
    fs::create_dir_all(&directory).unwrap();
    let plain = home.state_dir().with_file_name("not executable");
    fs::write(&plain, "").unwrap();
    for (program, word) in [
        ("/no/such/daemon", "No such file"),
        ("no-such-daemon", "No such file"),
        (directory.to_str().unwrap(), "Permission denied"),
        (plain.to_str().unwrap(), "Permission denied"),
    ] {
        let seen = with_daemon(&home, &["connect"], program);
        assert!(seen.code == 16 && seen.stderr.contains(word) && seen.stderr.contains(program), "{seen:?}");
    }
    // Executable by its mode alone: the kernel refuses it, after the fork.
    chmod(&plain, 0o700);
    fs::write(&plain, "\0").unwrap();
    let seen = with_daemon(&home, &["connect"], &plain);
    assert!(seen.code == 16 && seen.stderr.contains("Exec format error"), "{seen:?}");
    // Nor does a child that could not ask.
    let unable =
        script(&home, "set -- $LOCAL_DAEMON_LAUNCH; eval \"echo unreachable a sandbox >&$2\"; exit 17");
    for _ in 0..3 {
        let seen = with_daemon(&home, &["connect"], &unable);
        assert!(seen.code == 16 && seen.stderr.contains("a sandbox"), "{seen:?}");
    }
    assert_eq!(home.locald(&["connect"]).code, 0);
}

/// CONN-21, CONN-43.
#[test]
fn an_explicit_start_is_not_held_back() {
    let home = Home::new();
    let failing = script(&home, "echo the port is taken >&2; exit 1");
    for _ in 0..3 {
        let seen = with_daemon(&home, &["connect"], &failing);
        assert!(seen.code == 16 && !seen.stderr.contains("again in"), "{seen:?}");
    }
    let seen = home.locald(&["connect", "--json"]);
    let detail = seen.json()["detail"].as_str().unwrap().to_owned();
    let seconds = detail.split("may be tried again in ").nth(1).and_then(|rest| rest.split(' ').next());
    let seconds: u64 = seconds.unwrap_or_else(|| panic!("{detail}")).parse().unwrap();
    assert!(
        seen.code == 16 && (1..=60).contains(&seconds) && detail.contains("the port is taken"),
        "{seen:?}"
    );
    assert!(home.daemons().is_empty());

    let seen = home.locald(&["doctor", "--json"]).json();
    let checks = seen["checks"].as_array().unwrap();
    let starts = checks.iter().find(|check| check["check"] == "starts").unwrap();
    assert_eq!(starts["level"], "warn");
    let detail = starts["detail"].as_str().unwrap();
    assert!(detail.contains("the port is taken") && detail.contains("again in"), "{detail}");

    assert_eq!(home.locald(&["start"]).code, 0);
    for _ in 0..3 {
        assert_eq!(home.locald(&["stop"]).code, 0);
        assert_eq!(with_daemon(&home, &["connect"], &failing).code, 16);
    }
    assert_eq!(home.locald(&["connect"]).code, 16);
    assert_eq!(home.locald(&["restart"]).code, 0);
}

/// CONN-44, CONN-45.
#[test]
fn a_failed_start_tells_how_this_child_ended_and_what_it_said() {
    let home = Home::new();
    assert_eq!(home.locald(&["start"]).code, 0);
    assert_eq!(home.locald(&["stop"]).code, 0);
    assert!(fs::read_to_string(home.file("daemon.log")).unwrap().contains("standing down"));
    for (text, status, said) in [
        ("exit 3", "exit status 3", "it said nothing"),
        ("echo; echo boom >&2; echo >&2; exit 0", "exit status 0", "boom"),
        ("echo bang >&2; kill -9 $$", "signal 9", "bang"),
    ] {
        let failing = script(&home, text);
        let seen = with_daemon(&home, &["start", "--json"], failing);
        let detail = seen.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(seen.code, 16, "{seen:?}");
        assert!(detail.ends_with(&format!("daemon.log): {said}")), "{detail}");
        // The other systems cannot learn it.
        assert_eq!(detail.contains(status), cfg!(not(local_daemon_portable)), "{detail}");
    }
}

/// CONN-50.
#[test]
fn a_restart_that_could_not_start_ends_nothing() {
    let home = Home::new();
    let mut daemon = home.run(&[]);
    let record = home.record();
    let seen = with_daemon(&home, &["restart"], "/no/such/daemon");
    assert!(seen.code == 16 && seen.stderr.contains("/no/such/daemon"), "{seen:?}");
    // Programs that are there and cannot be executed, which only an execution tells.
    let program = script(&home, "");
    // Other systems have no trial.
    if cfg!(not(local_daemon_portable)) {
        for text in ["", "echo no first line", "#!/no/such/interpreter\n"] {
            fs::write(&program, text).unwrap();
            let seen = with_daemon(&home, &["restart"], &program);
            assert_eq!(seen.code, 16, "{text:?}: {seen:?}");
            assert_eq!(home.record(), record, "{text:?}");
        }
    }
    fs::remove_file(home.file("daemon.log")).unwrap();
    symlink("/dev/null", home.file("daemon.log")).unwrap();
    let seen = home.locald(&["restart", "--json"]);
    assert_eq!((seen.code, seen.json()["outcome"].as_str()), (15, Some("invalid")), "{seen:?}");
    assert_eq!(home.record(), record);
    assert!(daemon.is_alive());
    assert_eq!(home.locald(&["status"]).code, 0);
}

fn fifo(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

/// DIR-20, CONN-10.
#[test]
fn a_log_that_is_no_file_of_the_user_is_invalid() {
    for (make, word) in [
        ((|path| fifo(path)) as fn(&Path), "not a regular file"),
        (|path| symlink("/dev/null", path).unwrap(), "symbolic link"),
        (|path| fs::create_dir(path).unwrap(), "directory"),
        (|path| File::create(path).map(|_| chmod(path, 0o644)).unwrap(), "0644"),
    ] {
        let home = Home::new();
        assert_eq!(home.locald(&["credential", "rotate"]).code, 0);
        let log = home.file("daemon.log");
        make(&log);
        let began = Instant::now();
        let seen = home.locald(&["connect", "--json", "--deadline", "5"]);
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!((seen.code, seen.json()["outcome"].as_str()), (15, Some("invalid")), "{seen:?}");
        let detail = seen.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(log.to_str().unwrap()) && detail.contains(word), "{detail}");
        assert!(home.record().is_none() && home.daemons().is_empty());
    }
}

/// CONN-17.
#[test]
fn a_lock_that_is_no_file_holds_no_call_up() {
    for make in [
        fifo as fn(&Path),
        |path| symlink("/dev/zero", path).unwrap(),
        |path| fs::create_dir(path).unwrap(),
    ] {
        let home = Home::new();
        assert_eq!(home.locald(&["credential", "rotate"]).code, 0);
        make(&home.file("registration.lock"));
        let seen = home.locald(&["connect", "--deadline", "5"]);
        assert_eq!(seen.code, 0, "{seen:?}");
    }
}

/// CONN-9.
#[test]
fn a_bad_credential_is_invalid_also_without_a_record() {
    for record in [None, Some("{\"id\"")] {
        let home = Home::new();
        home.pretend(1);
        let path = home.file("registration.json");
        match record {
            None => fs::remove_file(path).unwrap(),
            Some(text) => fs::write(path, text).unwrap(),
        }
        for (spoil, word) in [
            ((|path| chmod(path, 0o644)) as fn(&Path), "0644"),
            (|path| fs::write(path, "short\n").unwrap(), "damaged"),
            (|path| fs::remove_file(path).and_then(|()| fs::create_dir(path)).unwrap(), "not a regular file"),
        ] {
            let credential = home.file("credential");
            spoil(&credential);
            for args in [
                &["connect", "--json"][..],
                &["connect", "--no-spawn", "--json"],
                &["start", "--json"],
            ] {
                let seen = home.locald(args);
                assert_eq!((seen.code, seen.json()["outcome"].as_str()), (15, Some("invalid")), "{seen:?}");
                let detail = seen.json()["detail"].as_str().unwrap().to_owned();
                assert!(detail.contains(credential.to_str().unwrap()) && detail.contains(word), "{detail}");
            }
            assert!(!home.file("daemon.log").exists(), "nothing was spawned");
            chmod(&credential, 0o600);
        }
    }
}

/// DIR-18: what a launcher passed to one process means nothing to another one, whatever descriptor that has at the number.
#[test]
fn what_another_process_was_told_is_not_believed() {
    let home = Home::new();
    assert_eq!(home.locald(&["start"]).code, 0);
    let first = home.record();
    let environ = proc(pid(&home), "environ");
    let told = environ.split('\0').find_map(|entry| entry.strip_prefix("LOCAL_DAEMON_LAUNCH=")).unwrap();
    let [component, _, identity, directory] = told.splitn(4, ' ').collect::<Vec<_>>()[..] else {
        panic!("{told}")
    };
    assert_eq!((component, Path::new(directory)), ("locald", &*home.state_dir()));

    let other = Home::new();
    fs::create_dir_all(other.state_dir().parent().unwrap()).unwrap();
    let path = other.state_dir().with_file_name("a pipe");
    fifo(&path);
    let pipe = File::options().read(true).write(true).open(&path).unwrap();
    let metadata = pipe.metadata().unwrap();
    let real = format!("{}:{}", metadata.dev(), metadata.ino());
    let own = other.state_dir().display().to_string();
    let place = home.state_dir().display().to_string();
    for (told, own_directory, believed) in [
        (told.to_owned(), true, false),
        (format!("locald 9 {identity} {place}"), true, false),
        (format!("acme 9 {real} {place}"), true, false),
        (format!("locald 2 {real} {place}"), true, false),
        (format!("locald 9 {real}"), true, false),
        // With the pipe that the process really has, it is believed.
        (format!("locald 9 {real} {own}"), false, true),
    ] {
        let mut run = Command::new(home.command(&[]).get_program());
        run.arg("run").env("LOCAL_DAEMON_LAUNCH", &told).env("LOCALD_LOG", "info");
        let elsewhere = other.state_dir().with_file_name("elsewhere");
        run.env("LOCALD_STATE_DIR", if own_directory { other.state_dir() } else { elsewhere.clone() });
        let shell = format!("exec 9<>'{}'", path.display());
        let mut daemon = Foreground::spawn(after(&shell, &run).stderr(Stdio::piped()));
        daemon.wait_for_log("published");
        assert_eq!(other.record().unwrap()["pid"], json!(daemon.pid().as_raw_nonzero().get()), "{told}");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0));
        assert_eq!(rustix::io::ioctl_fionread(&pipe).unwrap() > 0, believed, "{told}");
        assert!(!elsewhere.exists());
        assert_eq!(home.record(), first, "{told}");
    }
}

/// DIR-17.
#[test]
fn the_variable_of_all_products_is_ignored_and_doctor_says_so() {
    let home = Home::new();
    let place = home.state_dir().with_file_name("of all");
    let mut status = home.command(&["connect", "--json"]);
    assert_eq!(Output::of(status.env("LOCAL_DAEMON_STATE_DIR", &place)).code, 0);
    assert!(!place.exists());
    let mut doctor = home.command(&["doctor"]);
    let seen = Output::of(doctor.env("LOCAL_DAEMON_STATE_DIR", &place));
    assert_eq!((seen.code, seen.stdout.matches("LOCAL_DAEMON_STATE_DIR").count()), (0, 1), "{seen:?}");
    assert!(seen.stdout.contains("LOCALD_STATE_DIR"), "{seen:?}");
    assert!(!home.locald(&["doctor"]).stdout.contains("LOCAL_DAEMON_STATE_DIR"));
}
