//! A client that cannot ask, in real sandboxes and after a reboot: the daemon that it cannot ask goes on.

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, kill_process};

use crate::launching::{pid, under};
use crate::support::{Home, Output, until};

/// A sandbox with a network of its own, in which loopback is up.
const SANDBOX: &[&str] = &[
    "unshare",
    "-rn",
    "sh",
    "-c",
    "ip link set lo up && exec \"$@\"",
    "sh",
];
/// The commands that must conclude nothing, with their exit codes.
const COMMANDS: &[(&[&str], i32)] = &[
    (&["status"], 17),
    (&["stop"], 17),
    (&["stop", "--force"], 17),
    (&["connect"], 17),
    (&["restart"], 17),
    (&["open", "--print-url"], 17),
    (&["run", "--yield"], 17),
    (&["doctor", "--fix"], 1),
];

/// Runs each of these commands under the wrapper while a daemon runs, and checks that it is the same one afterwards.
fn concludes_nothing(home: &Home, wrapper: &[&str], word: &str) {
    let before = home.record().unwrap();
    for (args, code) in COMMANDS {
        let seen = Output::of(&mut under(wrapper, &home.command(args)));
        assert_eq!(seen.code, *code, "{args:?}: {seen:?}");
        let said = format!("{}{}", seen.stdout, seen.stderr);
        assert!(said.contains("cannot be asked") && said.contains(word), "{args:?}: {seen:?}");
        assert!(!said.contains("no daemon is running"), "{args:?}: {seen:?}");
    }
    assert_eq!(home.record().unwrap(), before);
    assert_eq!(home.locald(&["status"]).code, 0, "it goes on");
}

/// A host without loopback: nobody could reach the daemon, so none is published, and none is left behind.
#[test]
fn without_loopback_nothing_is_published_and_nothing_left_behind() {
    let home = Home::new();
    // With `--replace` the child is what finds out.
    for (args, code) in [
        (&["run"][..], 17),
        (&["start"], 17),
        (&["start", "--replace"], 16),
        (&["connect"], 17),
    ] {
        let seen = Output::of(&mut under(&["unshare", "-rn"], &home.command(args)));
        assert_eq!(seen.code, code, "{args:?}: {seen:?}");
        let said = format!("{}{}", seen.stdout, seen.stderr);
        assert!(said.contains("Network is unreachable") && !said.contains("published"), "{args:?}: {seen:?}");
        assert!(!home.file("registration.json").exists(), "{args:?}");
        assert_eq!(home.daemons(), [], "{args:?}");
    }
}

/// CONN-37, CONN-38: whatever connect(2) fails with, but a refusal.
#[test]
fn a_failure_to_connect_is_no_answer() {
    let home = Home::new();
    assert_eq!(home.locald(&["start"]).code, 0);
    let errors = [
        ("EPERM", "Operation not permitted"),
        ("EACCES", "Permission denied"),
        ("EMFILE", "Too many open files"),
        ("ENFILE", "Too many open files in system"),
        ("EADDRNOTAVAIL", "Cannot assign requested address"),
        ("ENETUNREACH", "Network is unreachable"),
        ("EHOSTUNREACH", "No route to host"),
        ("ENOBUFS", "No buffer space available"),
    ];
    for (errno, word) in errors {
        let inject = format!("inject=connect:error={errno}");
        let strace = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &inject];
        // A daemon without loopback says so before it looks at any record.
        let no_route = matches!(errno, "ENETUNREACH" | "EHOSTUNREACH");
        let before = home.record().unwrap();
        for (args, code) in COMMANDS.iter().filter(|(args, _)| !(no_route && args[0] == "run")) {
            let seen = Output::of(&mut under(&strace, &home.command(args)));
            assert_eq!(seen.code, *code, "{errno}: {args:?}: {seen:?}");
            let said = format!("{}{}", seen.stdout, seen.stderr);
            assert!(said.contains(word), "{errno}: {args:?}: {seen:?}");
        }
        assert_eq!(home.record().unwrap(), before, "{errno}");
    }
    assert_eq!(home.locald(&["status"]).code, 0, "it goes on");
}

/// CONN-41, CONV-35: a living daemon of another network namespace is left alone, one that died with its namespace is
/// replaced by one daemon.
#[test]
#[cfg_attr(local_daemon_portable, ignore = "a portable record tells no world")]
fn a_sandbox_displaces_nothing_and_shuts_nobody_out() {
    let home = Home::new();
    assert_eq!(home.locald(&["start"]).code, 0);
    concludes_nothing(&home, SANDBOX, "another network namespace");

    // The explicit order gets through, and the daemon outside leaves.
    let replace = Output::of(&mut under(SANDBOX, &home.command(&["start", "--replace"])));
    assert_eq!(replace.code, 0, "{replace:?}");
    let inside = home.record().unwrap();
    assert_eq!(home.locald(&["status"]).code, 17);
    assert_eq!(home.locald(&["stop"]).code, 17);
    kill_process(pid(&home), Signal::KILL).unwrap();
    until("the life lock is free", || (home.locald(&["status"]).code == 11).then_some(()));
    assert_eq!(all_connect(&home), 1);
    assert_ne!(home.record().unwrap()["id"], inside["id"]);
}

/// CONN-40: after a reboot, which is faked by another boot id.
#[test]
#[cfg_attr(local_daemon_portable, ignore = "a portable record tells no world")]
fn a_record_of_an_earlier_boot_is_stale_and_replaced_by_one_daemon() {
    let home = Home::new();
    assert_eq!(home.locald(&["start"]).code, 0);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let record = fs::read_to_string(home.file("registration.json")).unwrap();
    let earlier = record.replace(boot.trim(), "00000000-0000-4000-8000-000000000000");
    assert_ne!(earlier, record, "the record tells the boot");
    let daemon = pid(&home);
    kill_process(daemon, Signal::KILL).unwrap();
    fs::write(home.file("registration.json"), earlier).unwrap();
    assert_eq!(home.locald(&["status"]).code, 11);
    assert_eq!(all_connect(&home), 1);
}

/// CONN-51: a container of the same kernel may have a boot id of its own.
#[test]
#[cfg_attr(local_daemon_portable, ignore = "a portable record tells no world")]
fn another_boot_id_beside_a_living_daemon_displaces_nothing() {
    let home = Home::new();
    assert_eq!(home.locald(&["start"]).code, 0);
    let before = home.record().unwrap();
    let boot = home.file("another boot id");
    fs::write(&boot, "00000000-0000-4000-8000-000000000000\n").unwrap();
    let mount = format!("mount --bind '{}' /proc/sys/kernel/random/boot_id && exec \"$@\"", boot.display());
    for (flags, code) in [("-rm", 0), ("-rmn", 17)] {
        for command in ["status", "connect", "stop"] {
            if (flags, command) == ("-rm", "stop") {
                continue;
            }
            let container = ["unshare", flags, "sh", "-c", &mount, "sh"];
            let seen = Output::of(&mut under(&container, &home.command(&[command])));
            assert_eq!(seen.code, code, "{flags} {command}: {seen:?}");
            assert_eq!(home.record().unwrap(), before, "{flags} {command}");
        }
    }
    assert_eq!(home.locald(&["status"]).code, 0, "it goes on");
}

/// Starts eight clients at once, and returns how many daemons they ended at.
fn all_connect(home: &Home) -> usize {
    let clients: Vec<Child> = (0..8)
        .map(|_| {
            let mut command: Command = home.command(&["connect", "--json"]);
            command.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut ids: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let output = client.wait_with_output().unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(answer["outcome"], "ready", "{answer}");
            answer["id"].to_string()
        })
        .collect();
    ids.sort();
    ids.dedup();
    ids.len()
}

/// LIFE-25: a system without pidfds, or one that forbids them.
#[test]
fn a_daemon_is_stopped_and_restarted_without_a_pidfd() {
    for errno in ["ENOSYS", "EPERM"] {
        let home = Home::new();
        let inject = format!("inject=pidfd_open:error={errno}");
        let strace = ["strace", "-qqq", "-o", "/dev/null", "-e", &inject];
        assert_eq!(home.locald(&["start"]).code, 0);
        let first = home.record().unwrap();
        for (args, code) in [(&["restart"][..], 0), (&["stop"], 0), (&["stop"], 0)] {
            let seen = Output::of(&mut under(&strace, &home.command(args)));
            assert_eq!(seen.code, code, "{errno}: {args:?}: {seen:?}");
            assert_ne!(home.record().map(|record| record["id"].clone()), Some(first["id"].clone()));
        }
        assert_eq!(home.locald(&["status"]).code, 10);
    }
}

/// A descriptor that can write would keep the file system from being mounted read-only.
#[test]
#[cfg_attr(local_daemon_portable, ignore = "a portable daemon holds no life lock")]
fn the_life_lock_is_held_without_the_right_to_write() {
    let home = Home::new();
    assert_eq!(home.locald(&["start"]).code, 0);
    let process = format!("/proc/{}", pid(&home).as_raw_nonzero());
    let held = fs::read_dir(format!("{process}/fd")).unwrap().map(|entry| entry.unwrap());
    let held = held.filter(|entry| fs::read_link(entry.path()).unwrap().ends_with("daemon.alive"));
    let names: Vec<_> = held.map(|entry| entry.file_name()).collect();
    let [name] = names.as_slice() else { panic!("{names:?}") };
    let facts = fs::read_to_string(format!("{process}/fdinfo/{}", name.display())).unwrap();
    let flags = facts.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    let access = u32::from_str_radix(flags.trim(), 8).unwrap() & 0o3;
    assert_eq!(access, 0, "read-only: {facts}");
    assert_eq!(home.locald(&["stop"]).code, 0);
}

/// In a network where IPv6 comes up after the daemon has started: binds `[::1]` at its port first, if `$1` is `taken`, or
/// waits until no other process can.
const LATE_IPV6: &str = r#"
set -e
program=$2 state=$4
locald() { "$program" "$@" --state-dir "$state"; }
port() { sed 's/.*"url":"[^"]*:\([0-9]*\)".*/\1/' "$state/registration.json"; }
bind='import socket,sys,time
s = socket.socket(socket.AF_INET6)
s.bind(("::1", int(sys.argv[1])))
print("bound", flush=True)
sys.stdin.read()'
ip link set lo up
echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6
locald start > /dev/null
echo "before $(locald open --print-url)"
if [ "$1" = taken ]; then
  kill -STOP "$(sed 's/.*"pid":\([0-9]*\).*/\1/' "$state/registration.json")"
  echo 0 > /proc/sys/net/ipv6/conf/lo/disable_ipv6
  mkfifo "$state/../fifo"
  python3 -c "$bind" "$(port)" < "$state/../fifo" > "$state/../bound" &
  exec 3> "$state/../fifo"
  until grep -q bound "$state/../bound"; do sleep 0.05; done
  kill -CONT "$(sed 's/.*"pid":\([0-9]*\).*/\1/' "$state/registration.json")"
else
  echo 0 > /proc/sys/net/ipv6/conf/lo/disable_ipv6
  n=0
  while python3 -c "$bind" "$(port)" < /dev/null > /dev/null 2>&1; do
    n=$((n + 1)); [ $n -lt 200 ]; sleep 0.05
  done
fi
set +e
page=$(locald open --print-url)
echo "after $page $?"
locald stop > /dev/null
"#;

/// BROW-36: the daemon binds its port on a family that comes up, and has no page host if another process was faster.
#[test]
fn ipv6_that_comes_up_later_is_bound_or_ends_the_page_host() {
    for (what, is_kept) in [("free", true), ("taken", false)] {
        let home = Home::new();
        let sandbox = &mut under(&["unshare", "-rn", "sh", "-c", LATE_IPV6, "sh", what], &home.command(&[]));
        let seen = Output::of(sandbox);
        assert_eq!(seen.code, 0, "{what}: {seen:?}");
        let lines: Vec<&str> = seen.stdout.lines().collect();
        let [before, after] = *lines.as_slice() else {
            panic!("{what}: {seen:?}");
        };
        assert!(before.contains(".localhost:"), "{what}: {seen:?}");
        assert_eq!(after.contains(".localhost:"), is_kept, "{what}: {seen:?}");
        assert!(after.ends_with(if is_kept { " 0" } else { " 19" }), "{what}: {seen:?}");
        assert_eq!(seen.stderr.contains("has no host of its own"), !is_kept, "{what}: {seen:?}");
    }
}
