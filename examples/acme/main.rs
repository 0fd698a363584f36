//! A small product: a daemon that keeps jobs, and the commands that talk to it.

mod daemon;

use std::process::ExitCode;

use local_daemon::client::{ConnectError, Connection, Request, Stop};
use local_daemon::events::Item;
use local_daemon::{Client, Launch};
use serde_json::{Value, json};

type Done = Result<ExitCode, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    // Before there is a second thread.
    local_daemon::forget_launch();
    local_daemon::disable_core_dumps().ok();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["run", options @ ..] => Ok(daemon::run(options.contains(&"--yield"))),
        ["add", text] => add(text),
        ["list"] => list(),
        ["watch"] => watch(),
        ["connect", options @ ..] => Ok(connect(options.contains(&"--spawn"))),
        ["stop"] => stop(),
        _ => Err("acme run [--yield] | add TEXT | list | watch | connect [--spawn] | stop".into()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("acme: {error}");
        ExitCode::FAILURE
    })
}

/// Finds the daemon, or starts one.
fn daemon(spawns: bool) -> Result<Connection, ConnectError> {
    let client = Client::new("acme", "acme/1").expect("the names are valid, and there is a home");
    let launch = Launch::new(std::env::current_exe().unwrap_or_default()).args(["run", "--yield"]);
    if spawns { client.connect_or_spawn(&launch) } else { client.connect() }
}

fn add(text: &str) -> Done {
    let answer = daemon(true)?.send(Request::post("/v1/jobs").json(&json!({"text": text}))?)?;
    println!("{}", answer.json::<Value>()?["id"]);
    Ok(ExitCode::from(u8::from(!answer.is_success())))
}

fn list() -> Done {
    println!("{:#}", daemon(true)?.get("/v1/jobs")?.json::<Value>()?["jobs"]);
    Ok(ExitCode::SUCCESS)
}

/// Follows the jobs over restarts, until the daemon is stopped.
fn watch() -> Done {
    for item in daemon(true)?.events("/v1/events").topics(["jobs"]) {
        match item? {
            Item::Event(event) => println!("{} {}", event.id, event.data),
            Item::Gap { first, .. } => eprintln!("acme: jobs before {first} are lost"),
            Item::Shutdown => break,
            _ => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints how a connect ended, for scripts.
fn connect(spawns: bool) -> ExitCode {
    let connected = daemon(spawns);
    let said = match &connected {
        Ok(daemon) => json!({"outcome": "ready", "id": daemon.handshake().id}),
        Err(error) => json!({"outcome": error.outcome.as_str(), "error": error.to_string()}),
    };
    println!("{said}");
    connected.map_or_else(|error| error.outcome.exit_code().into(), |_| ExitCode::SUCCESS)
}

fn stop() -> Done {
    daemon(false)?.stop(&Stop::new())?;
    Ok(ExitCode::SUCCESS)
}
