//! Two products on this crate, `locald` and `acme`, whose daemons run each other's commands: neither meets the other's daemon.
//! `acme` is this test program, run again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, process, thread};

use axum::Router;
use axum::extract::Path as Word;
use axum::routing::get;
use local_daemon::claim::Reason;
use local_daemon::{Client, Daemon, Launch};
use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use serde_json::Value;

use crate::support::{Foreground, Output, until};

/// What makes this program `acme`, and what it does: `run` is its daemon, `tool WORD` lets its daemon run `locald WORD`, and
/// `reap WORD` does so while another thread reaps every child of the process.
const ROLE: &str = "ACME_ROLE";
/// Where `acme` finds `locald`.
const TOOL: &str = "ACME_TOOL";
/// The state directory of its client. Its daemon does not read this, but gets the directory from its launcher.
const PLACE: &str = "ACME_PLACE";
const ARGS: &[&str] = &["--exact", "products::acme", "--nocapture"];

/// The program `acme`. Without a role it does nothing.
#[test]
fn acme() {
    let Ok(role) = env::var(ROLE) else {
        return;
    };
    match role.split_once(' ') {
        None => run(),
        Some((how, word)) => {
            if how == "reap" {
                thread::spawn(reap);
            }
            println!("\nACME {}", tool(word));
        }
    }
}

fn run() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let router = Router::new().route("/v1/tool/{word}", get(async |Word(word): Word<String>| locald(&word)));
    let ended =
        runtime.block_on(Daemon::builder("acme", "acme/1").yields(true).stop_on_signals(true).serve(router));
    process::exit(ended.map_or(1, Reason::exit_status));
}

fn reap() {
    loop {
        // Without children there is nothing to wait for yet.
        let _ = rustix::process::wait(WaitOptions::empty());
        thread::yield_now();
    }
}

/// A daemon's tool inherits what the daemon has.
fn locald(word: &str) -> String {
    let output = Command::new(env::var_os(TOOL).unwrap()).args([word, "--json"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn tool(word: &str) -> String {
    let launch = Launch::new(env::current_exe().unwrap()).args(ARGS).env(ROLE, "run");
    let client = Client::new("acme", "acme/1").unwrap().state_dir(env::var_os(PLACE).unwrap());
    let answer = client.connect_or_spawn(&launch).unwrap().get(&format!("/v1/tool/{word}")).unwrap();
    assert_eq!(answer.status, 200);
    String::from_utf8(answer.body).unwrap()
}

fn record(place: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(place.join("registration.json")).ok()?).ok()
}

/// A user of both products. The drop ends their daemons.
struct User {
    home: tempfile::TempDir,
}

impl User {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn acme_place(&self) -> PathBuf {
        self.home.path().join("of acme")
    }

    fn default_place(&self, component: &str) -> PathBuf {
        self.home.path().join(".local/state").join(component)
    }

    /// A command of this user, in the environment that a daemon has, or a fresh one.
    fn command(&self, program: impl AsRef<Path>, daemon: Option<&Value>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env_clear().stdin(Stdio::null());
        if let Some(record) = daemon {
            let environ = fs::read_to_string(format!("/proc/{}/environ", record["pid"])).unwrap();
            assert!(environ.contains("LOCAL_DAEMON_LAUNCH="), "{environ}");
            command.envs(environ.split_terminator('\0').filter_map(|entry| entry.split_once('=')));
        } else {
            command.env("HOME", self.home.path()).env("PATH", env::var_os("PATH").unwrap());
            command.env(TOOL, assert_cmd::cargo::cargo_bin!("locald")).env(PLACE, self.acme_place());
        }
        command
    }

    fn acme(&self, role: &str, daemon: Option<&Value>) -> Command {
        let mut command = self.command(env::current_exe().unwrap(), daemon);
        command.args(ARGS).env(ROLE, role);
        command
    }

    /// What `locald` answers that acme's daemon runs.
    fn tool(&self, role: &str, daemon: Option<&Value>) -> Value {
        let seen = Output::of(&mut self.acme(role, daemon));
        let answer = seen.stdout.lines().find_map(|line| line.strip_prefix("ACME "));
        serde_json::from_str(answer.unwrap_or_else(|| panic!("{seen:?}"))).unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for place in [
            self.acme_place(),
            self.default_place("acme"),
            self.default_place("locald"),
        ] {
            let pid = record(&place).and_then(|record| i32::try_from(record["pid"].as_i64()?).ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

#[test]
fn two_products_that_start_each_other_never_meet_the_others_daemon() {
    let user = User::new();
    let locald = assert_cmd::cargo::cargo_bin!("locald");
    let (acme_place, locald_place) = (user.acme_place(), user.default_place("locald"));

    // acme's daemon starts locald's.
    let seen = user.tool("tool connect", None);
    assert_eq!(
        (seen["outcome"].as_str(), seen["state_dir"].as_str()),
        (Some("ready"), locald_place.to_str())
    );
    let (first, second) = (record(&acme_place).unwrap(), record(&locald_place).unwrap());
    assert_eq!((&first["protocol"], &second["protocol"]), (&"acme/1".into(), &"locald/1".into()));
    assert_eq!(seen["id"], second["id"]);
    // The same holds in the environment of locald's daemon, which was started by acme's.
    assert_eq!(user.tool("tool status", Some(&second))["status"]["id"], second["id"]);
    let status = Output::of(user.command(locald, Some(&first)).args(["status", "--json"]));
    assert_eq!(status.json()["status"]["id"], second["id"]);

    // Daemons in the foreground, each in the environment of the other product's daemon.
    let mut acme_run = user.acme("run", Some(&second));
    let mut run = user.command(locald, Some(&first));
    let mut daemon = Foreground::spawn(run.arg("run").stderr(Stdio::piped()));
    daemon.wait_for_log("published");
    assert_eq!(record(&locald_place).unwrap()["pid"], daemon.pid().as_raw_nonzero().get());
    let _acme = Foreground::spawn(acme_run.stderr(Stdio::piped()));
    until("acme publishes", || record(&user.default_place("acme")));
    assert_eq!(record(&acme_place), Some(first));
    assert!(daemon.is_alive());
}

/// CONN-46.
#[test]
fn a_client_whose_process_reaps_every_child_starts_a_daemon() {
    let user = User::new();
    assert_eq!(user.tool("reap connect", None)["outcome"], "ready");
}
