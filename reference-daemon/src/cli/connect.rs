//! `start` and `connect`: find the daemon, and start it where it is missing.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use clap::Args;
use local_daemon::StateDir;
use local_daemon::claim::Reason;
use local_daemon::daemon::Handle;

use super::Context;
use super::launch::{launch, runtime};
use crate::daemon::{self, Mode, Options};
use crate::error::Error;

const NOTES: &str = "\
Examples:
  locald connect --json --deadline 3
  locald connect --private          its state directory is printed, and removed at the end

A daemon that connect starts leaves again when nobody has used it for 300 seconds
(LOCALD_IDLE_TIMEOUT_SECONDS); one that `locald start` starts stays.";

#[derive(Args)]
#[command(after_help = NOTES)]
pub(super) struct Connect {
    /// Only find the daemon; never start one
    #[arg(long)]
    no_spawn: bool,

    /// Displace a daemon of another protocol, or one that cannot be asked
    #[arg(long, conflicts_with_all = ["no_spawn", "private"])]
    replace: bool,

    /// Run a throwaway daemon of your own instead, until standard input ends or Ctrl-C
    #[arg(long, conflicts_with_all = ["no_spawn", "deadline"])]
    private: bool,

    /// Give up after this long
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    deadline: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|seconds| !seconds.is_zero() && *seconds <= Duration::from_hours(1))
        .ok_or_else(|| "expected a number of seconds, more than 0 and at most 3600".to_owned())
}

impl Connect {
    pub(super) fn run(&self, context: &Context) -> Result<u8, Error> {
        if self.private {
            return private(context);
        }
        let client = context.client.clone().deadline(self.deadline).replace(self.replace);
        let connection = if self.no_spawn {
            client.connect()?
        } else {
            client.connect_or_spawn(&launch(context, "auto", self.replace)?)?
        };
        context.ready(&connection)?;
        Ok(0)
    }
}

#[derive(Args)]
pub(super) struct Start {
    /// Displace a daemon of another protocol, or one that cannot be asked
    #[arg(long)]
    replace: bool,
}

impl Start {
    pub(super) fn run(&self, context: &Context) -> Result<u8, Error> {
        let client = context.client.clone().replace(self.replace).ignore_budget(true);
        let connection = client.connect_or_spawn(&launch(context, "manual", self.replace)?)?;
        context.ready(&connection)?;
        Ok(0)
    }
}

/// A temporary state directory, which is removed when this is dropped.
struct Private(PathBuf);

impl Private {
    fn create() -> Result<Self, Error> {
        // It is created as every state directory is (DIR-22, DIR-23).
        let create = |path: &Path| StateDir::at(path).create().map_err(io::Error::other);
        let created = tempfile::Builder::new()
            .prefix("locald-private-")
            .rand_bytes(16)
            .disable_cleanup(true)
            .make_in(env::temp_dir(), create);
        let created = created.map_err(|source| Error::Io {
            path: env::temp_dir(),
            doing: "no temporary directory could be created",
            source,
        })?;
        Ok(Self(created.path().to_owned()))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a daemon in this process, in a state directory that no other process uses (CONN-35).
fn private(context: &Context) -> Result<u8, Error> {
    let directory = Private::create()?;
    let path = directory.0.as_path();
    let client = context.client.clone().state_dir(path);
    let context = Context { client, protocol: context.protocol.clone(), json: context.json };
    let reason = runtime()?.block_on(async {
        let started = daemon::start(options(&context, path)).await?;
        let handle = started.handle();
        let serving = tokio::spawn(started.serve());
        until_published(&handle).await?;
        let client = context.client.clone();
        let connected = tokio::task::spawn_blocking(move || client.connect().map_err(Error::from)).await;
        context.ready(&connected.map_err(|error| Error::Runtime(io::Error::other(error)))??)?;
        stop_at_end_of_input(handle);
        serving
            .await
            .map_err(|error| Error::Runtime(io::Error::other(error)))?
            .map_err(Error::from)
    })?;
    Ok(u8::try_from(reason.exit_status()).unwrap_or(1))
}

fn options(context: &Context, directory: &Path) -> Options {
    Options {
        state_dir: directory.to_owned(),
        protocol: context.protocol.clone(),
        yields: false,
        replaces: false,
        origins: Vec::new(),
        mode: Mode::Manual,
    }
}

async fn until_published(handle: &Handle) -> Result<(), Error> {
    tokio::select! {
        reason = handle.draining() => Err(Error::PrivateEnded(Reason::as_str(reason))),
        () = handle.published() => Ok(()),
    }
}

/// A thread of its own: a read of standard input cannot be given up, and must not hold back the process's end.
fn stop_at_end_of_input(handle: Handle) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        handle.stop();
    });
}
