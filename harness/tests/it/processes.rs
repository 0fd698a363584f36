//! Subjects are launched, watched, reaped and ended with all that came of them.

use local_daemon_harness::arena::{Arena, Shape};
use local_daemon_harness::platform::{self, Setup};
use local_daemon_harness::process::{LaunchFault, Proc, Signal, SocketState, Subject, read_as, unread};
use local_daemon_harness::wait::{ms, until};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

fn sh(arena: &Arena, script: &str) -> Subject {
    arena.launch("subject", ["sh", "-c", script]).start().unwrap()
}

/// Waits for the first line that a script prints, as a number.
fn first_number(subject: &Subject) -> u32 {
    let output = subject.wait_output(ms(5_000), |output| output.stdout().contains(&b'\n')).expect("a line");
    String::from_utf8(output.stdout())
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn an_exit_is_seen_with_its_status_and_reaped() {
    let arena = Arena::new().unwrap();
    let subject = sh(&arena, "echo out; echo err >&2; exit 7");
    let exit = subject.wait_exit(ms(5_000)).expect("it exits");
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    assert_eq!(Proc::of(subject.pid()), None, "no zombie is left");
    let output = subject.wait_output_end(ms(5_000)).unwrap();
    assert_eq!((output.stdout(), output.stderr()), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert!(subject.signal(Signal::TERM).is_err(), "a reaped pid is nobody to signal");
    let said: Vec<String> = arena.transcript().events().into_iter().map(|event| event.what).collect();
    for what in ["start", "stdout", "stderr", "exit"] {
        assert!(said.iter().any(|said| said == what), "{what} in {said:?}");
    }
}

#[test]
fn a_deadline_passes_without_an_exit_and_a_signal_ends_it() {
    let arena = Arena::new().unwrap();
    let subject = sh(&arena, "exec sleep 600");
    let before = Instant::now();
    assert_eq!(subject.wait_exit(ms(30)), None);
    assert!(before.elapsed() >= Duration::from_millis(30));
    subject.signal(Signal::TERM).unwrap();
    assert_eq!(subject.wait_exit(ms(5_000)).unwrap().signal, Some(Signal::TERM.as_raw()));
}

#[test]
fn a_drop_ends_the_whole_group() {
    let arena = Arena::new().unwrap();
    let subject = sh(&arena, "sleep 600 & echo $!; wait");
    let child = Proc::of(first_number(&subject)).unwrap();
    assert!(subject.tree().iter().any(|process| process.pid == child.pid));
    let pid = subject.pid();
    drop(subject);
    assert!(child.wait_gone(ms(1)), "the child is ended");
    assert_eq!(Proc::of(pid), None, "the subject is reaped");
}

#[test]
fn a_stopped_subject_is_seen_stopped_and_goes_on() {
    let arena = Arena::new().unwrap();
    let subject = sh(&arena, "sleep 600 & echo $!; wait");
    let child = first_number(&subject);
    subject.stop().unwrap();
    for pid in [subject.pid(), child] {
        assert_eq!(Proc::of(pid).unwrap().state, 'T');
    }
    subject.cont().unwrap();
    let runs = || (Proc::of(child)?.state != 'T').then_some(());
    assert_eq!(until(ms(5_000), runs), Some(()));
}

/// Sees the `sleep` of this pid among the leaks of the arena.
fn is_found_to_leak(arena: &Arena, orphan: u32) {
    let found = || {
        let mut leaks = arena.leaks().into_iter();
        leaks.find(|leak| leak.process.pid == orphan && leak.argv[0] == "sleep")
    };
    assert!(until(ms(5_000), found).is_some(), "{:?}", arena.leaks());
}

#[test]
fn an_orphan_in_a_session_of_its_own_is_a_leak_and_is_ended() {
    let arena = Arena::new().unwrap();
    let subject = sh(&arena, "setsid sleep 600 >/dev/null 2>&1 & echo $!");
    let orphan = first_number(&subject);
    subject.wait_exit(ms(5_000)).expect("the shell exits");
    is_found_to_leak(&arena, orphan);
    let other = Arena::new().unwrap();
    assert_eq!(other.leaks(), [], "a leak belongs to its own case");
    assert_eq!(arena.end_leaks().len(), 1);
    assert_eq!(arena.leaks(), []);
    let reaped = || Proc::of(orphan).is_none().then_some(());
    assert_eq!(until(ms(5_000), reaped), Some(()), "the orphan is reaped");
}

#[test]
fn a_leak_that_wiped_its_environment_is_found_by_what_it_holds() {
    let arena = Arena::new().unwrap();
    let subject = sh(&arena, "cd /; env -i setsid sleep 600 >$HOME/log 2>&1 & echo $!");
    let orphan = first_number(&subject);
    subject.wait_exit(ms(5_000)).expect("the shell exits");
    is_found_to_leak(&arena, orphan);
    arena.end_leaks();
    assert_eq!(arena.leaks(), []);
}

#[test]
fn a_held_subject_and_its_children_are_no_leak() {
    let arena = Arena::new().unwrap();
    let subject = sh(&arena, "setsid sleep 600 & echo $!; wait");
    first_number(&subject);
    assert!(arena.processes().len() >= 2);
    assert_eq!(arena.leaks(), []);
}

#[test]
fn listening_sockets_are_those_of_the_tree() {
    let arena = Arena::new().unwrap();
    // A program that inherits a listener counts as listening.
    let inherited = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let subject = arena.launch("subject", ["sleep", "600"]).start().unwrap();
    let address = inherited.local_addr().unwrap();
    drop(inherited);
    assert_eq!(subject.wait_listening(ms(5_000)), Some(address));
    assert_eq!(subject.listening(), [address]);
    let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mine = own.local_addr().unwrap();
    assert!(!subject.sockets().iter().any(|socket| socket.local == mine));
    let me = local_daemon_harness::process::sockets(&[Proc::of(std::process::id()).unwrap()]);
    assert!(me.iter().any(|socket| socket.local == mine && socket.state == SocketState::Listen));
}

#[test]
fn what_a_peer_has_not_read_is_counted() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (local, remote) = (listener.local_addr().unwrap(), sender.local_addr().unwrap());
    sender.write_all(b"seven..").unwrap();
    let counted =
        |bytes: usize| until(ms(5_000), || (unread(local, remote) == Some(bytes)).then_some(())).is_some();
    assert!(counted(7));
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.read_exact(&mut [0; 7]).unwrap();
    assert!(counted(0));
    assert_eq!(unread(local, local), None);
}

#[test]
fn output_is_bounded_and_the_subject_is_not_blocked_by_it() {
    let arena = Arena::new().unwrap();
    let subject = sh(&arena, "head -c 3000000 /dev/zero");
    assert_eq!(subject.wait_exit(ms(10_000)).expect("it is not blocked").code, Some(0));
    let output = subject.wait_output_end(ms(5_000)).unwrap();
    let kept = local_daemon_harness::process::MOST_OUTPUT;
    assert_eq!((output.stdout().len(), output.dropped), (kept, 3_000_000 - kept as u64));
}

#[test]
fn the_environment_is_fixed_and_points_inside() {
    let arena = Arena::shaped(Shape::Spaces).unwrap();
    let subject = arena.launch("subject", ["env"]).start().unwrap();
    let output = subject.wait_output_end(ms(5_000)).unwrap();
    let output = String::from_utf8(output.stdout()).unwrap();
    let mut names: Vec<&str> = output.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    let mut expected: Vec<String> = arena.env().into_keys().map(|name| name.into_string().unwrap()).collect();
    expected.sort();
    assert_eq!(names, expected);
    assert!(output.contains(&format!("HOME={}", arena.home().display())));
}

#[test]
fn arenas_are_private_have_their_shape_and_vanish() {
    let long = Arena::shaped(Shape::Long).unwrap();
    assert_eq!(long.make_state_dir().unwrap().as_os_str().len(), 200);
    let spaces = Arena::shaped(Shape::Spaces).unwrap();
    assert!(spaces.make_state_dir().unwrap().to_str().unwrap().contains(' '));
    for arena in [&long, &spaces] {
        for path in [arena.path(), arena.state_dir(), &arena.home()] {
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700, "{}", path.display());
        }
    }
    let path = spaces.path().to_owned();
    std::fs::set_permissions(spaces.state_dir(), std::fs::Permissions::from_mode(0o000)).unwrap();
    drop(spaces);
    assert!(!path.exists());
}

#[test]
fn what_cannot_be_launched_says_why() {
    let arena = Arena::new().unwrap();
    let start = |argv: &[&str]| arena.launch("subject", argv.iter().copied()).start().err();
    assert!(matches!(start(&[]), Some(LaunchFault::Empty)));
    assert!(matches!(start(&["/no/such/program"]), Some(LaunchFault::NoSuchProgram(_))));
    assert!(matches!(start(&["no-such-program"]), Some(LaunchFault::NoSuchProgram(_))));
    assert!(matches!(start(&["/etc/passwd"]), Some(LaunchFault::NotExecutable(_))));
    let nowhere = arena.launch("subject", ["true"]).cwd("/no/such/directory").start();
    assert!(matches!(nowhere, Err(LaunchFault::NoSuchDirectory(_))));
}

#[test]
fn a_setup_blocks_and_ignores_signals() {
    let arena = Arena::new().unwrap();
    let setup = Setup {
        blocked: &[Signal::TERM],
        ignored: &[Signal::HUP, Signal::CHILD],
        ..Setup::default()
    };
    let subject = arena.launch("subject", ["sleep", "600"]).setup(setup).start().unwrap();
    let process = Proc::of(subject.pid()).unwrap();
    let mask = |field: &str| u64::from_str_radix(&process.status(field).unwrap(), 16).unwrap();
    assert_eq!(mask("SigBlk"), 1 << 14);
    assert_eq!(mask("SigIgn") & 0x7fff_ffff, 1 << 16 | 1);
    let (soft, hard) = process.limit("Max open files").unwrap();
    assert!(soft.parse::<u64>().unwrap() <= hard.parse::<u64>().unwrap());
}

#[test]
fn a_setup_hands_a_pipe_over_at_many_numbers() {
    let arena = Arena::new().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let setup = Setup { everywhere: Some(writer.as_raw_fd()), ..Setup::default() };
    let script = "echo 3 >&3; echo 9 >&9; exec sleep 600";
    let subject = arena.launch("subject", ["sh", "-c", script]).setup(setup).start().unwrap();
    drop(writer);
    let mut said = [0; 4];
    reader.read_exact(&mut said).unwrap();
    assert_eq!(said, *b"3\n9\n");
    let process = until(ms(5_000), || Proc::of(subject.pid()).filter(|process| process.comm == "sleep"));
    let held = process.unwrap().descriptors().into_iter().map(|(number, _)| number);
    assert_eq!(held.filter(|number| (3..=12).contains(number)).count(), 10);
}

#[test]
fn a_setup_gives_a_session_a_umask_and_a_bound_on_files() {
    let arena = Arena::new().unwrap();
    let script = "echo $$; umask; head -c 5000 /dev/zero >big; exec sleep 600";
    let setup = Setup {
        own_session: true,
        umask: Some(0o077),
        file_size: Some(4096),
        ..Setup::default()
    };
    let subject = arena.launch("subject", ["sh", "-c", script]).setup(setup).start().unwrap();
    let output = subject.wait_output(ms(5_000), |output| output.stdout().ends_with(b"77\n")).unwrap();
    assert!(output.stdout().ends_with(b"0077\n"));
    assert_eq!(Proc::of(subject.pid()).unwrap().session, subject.pid());
    let big = arena.home().join("big");
    let bounded = || (big.metadata().ok()?.len() == 4096).then_some(());
    assert_eq!(until(ms(5_000), bounded), Some(()));
}

#[test]
fn another_user_reads_what_the_mode_allows_and_no_more() {
    let Some(nobody) = platform::nobody().filter(|_| platform::is_root()) else {
        return; // Without a second user there is nobody to read as.
    };
    let arena = Arena::new().unwrap();
    arena.let_others_in().unwrap();
    let directory = arena.make_state_dir().unwrap();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711)).unwrap();
    let file = |name: &str, mode| {
        let path = directory.join(name);
        local_daemon_harness::record::write_new(&path, b"secret", mode).unwrap();
        path
    };
    let read = |path: &Path| read_as(nobody, path, ms(5_000)).unwrap();
    assert_eq!(read(&file("open", 0o644)), Ok(b"secret".to_vec()));
    assert!(read(&file("closed", 0o600)).unwrap_err().contains("denied"));
}

/// What is forked for another case has every descriptor of the suite until it executes its program.
#[test]
fn a_process_that_the_suite_has_just_forked_is_no_leak_of_another_case() {
    let (arena, other) = (Arena::new().unwrap(), Arena::new().unwrap());
    let _open = std::fs::File::create(arena.path().join("open")).unwrap();
    std::thread::scope(|scope| {
        let fork = || {
            for _ in 0..150 {
                let subject = other.launch("subject", ["true"]).start().unwrap();
                subject.wait_exit(ms(5_000)).unwrap();
            }
        };
        let forks: Vec<_> = (0..4).map(|_| scope.spawn(fork)).collect();
        while !forks.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let leaks = arena.leaks();
            assert!(leaks.is_empty(), "{leaks:?}");
        }
    });
}
