//! `doctor`: what is wrong in the state directory, and with --fix what of it can be set right without harm.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs};

use clap::Args;
use local_daemon::client;
use local_daemon::connect::ConnectOutcome;
use local_daemon::handshake::Probe;
use local_daemon::registration::{Place, RecordRead};
use local_daemon::state_directory::{
    ALIVE, CONFIG, CREDENTIAL, Diagnostic, FileError, FileErrorKind, LOCK, LOG, REGISTRATION,
};
use local_daemon::{Registration, StateDir};
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::status::LOOK;
use crate::error::{Error, advice, file_advice};
use crate::render::printable;

/// After this long, no process needs what a killed launch or removal left behind.
const LEFTOVER_MIN_AGE: Duration = Duration::from_hours(1);
/// A running daemon removes a launcher file sooner.
const LAUNCHER_MIN_AGE: Duration = Duration::from_mins(1);
/// How long a connection may take that is to be refused.
const REFUSAL_BOUND: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct Doctor {
    /// Set modes right; remove leftovers of an hour, launchers of a minute, and a record of nobody
    #[arg(long)]
    fix: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line of the diagnosis.
#[derive(Serialize)]
struct Check {
    #[serde(rename = "check")]
    what: &'static str,
    level: Level,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

const FIX: &str = "run `locald doctor --fix`";
const BY_HAND: &str = "look at it, and move it away if it is not yours";

/// The diagnosis so far.
struct Diagnosis<'a> {
    directory: &'a StateDir,
    now: SystemTime,
    fix: bool,
    checks: Vec<Check>,
    fixed: Vec<String>,
}

impl Doctor {
    pub(super) fn run(&self, context: &Context) -> Result<u8, Error> {
        let directory = context.directory();
        let mut diagnosis = Diagnosis::new(directory, SystemTime::now(), self.fix);
        diagnosis.environment();
        if diagnosis.state_directory() {
            diagnosis.credential();
            diagnosis.plain_files();
            diagnosis.leftovers()?;
            diagnosis.launchers()?;
            diagnosis.budget();
            diagnosis.record();
            diagnosis.daemon(context);
        }
        let Diagnosis { checks, fixed, .. } = diagnosis;
        let healthy = checks.iter().all(|check| check.level != Level::Fail);
        let outcome = if healthy { "healthy" } else { "unhealthy" };
        let json = json!({"healthy": healthy, "checks": checks, "fixed": fixed});
        context.answer(&text(&checks, &fixed, healthy), outcome, json)?;
        Ok(u8::from(!healthy))
    }
}

fn text(checks: &[Check], fixed: &[String], healthy: bool) -> String {
    let mut lines = Vec::new();
    for Check { what, level, detail, advice } in checks {
        let level = match level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        lines.push(format!("{level:4}  {what:15}  {}", printable(detail)));
        lines.extend(advice.map(|advice| format!("{:23}{advice}", "")));
    }
    lines.extend(fixed.iter().map(|what| format!("fixed {}", printable(what))));
    lines.push(if healthy { "healthy" } else { "not healthy" }.to_owned());
    lines.join("\n")
}

impl<'a> Diagnosis<'a> {
    fn new(directory: &'a StateDir, now: SystemTime, fix: bool) -> Self {
        Self { directory, now, fix, checks: Vec::new(), fixed: Vec::new() }
    }

    fn say(
        &mut self,
        check: &'static str,
        level: Level,
        detail: impl Into<String>,
        advice: Option<&'static str>,
    ) {
        self.checks.push(Check { what: check, level, detail: detail.into(), advice });
    }

    /// Warns of the variable that was once read for all products, and is ignored now.
    fn environment(&mut self) {
        const OLD_VARIABLE: &str = "LOCAL_DAEMON_STATE_DIR";
        if env::var_os(OLD_VARIABLE).is_some() {
            let detail = format!("{OLD_VARIABLE} is set, and ignored");
            self.say("environment", Level::Warn, detail, Some("use LOCALD_STATE_DIR"));
        }
    }

    /// Whether the directory is there and can be looked into.
    fn state_directory(&mut self) -> bool {
        const CHECK: &str = "state directory";
        let shown = self.directory.path().display().to_string();
        let directory = self.directory;
        match self.mended(|| directory.check()) {
            Ok(true) => {
                self.say(CHECK, Level::Ok, shown, None);
                return true;
            }
            Ok(false) => match directory.check_creatable() {
                Ok(()) => {
                    let detail = format!("{shown}: not there yet");
                    self.say(CHECK, Level::Ok, detail, Some("`locald start` makes it"));
                }
                Err(fault) => {
                    self.say(CHECK, Level::Fail, fault.to_string(), Some(file_advice(&fault.kind)));
                }
            },
            Err(fault) => self.refused(CHECK, &fault),
        }
        false
    }

    fn credential(&mut self) {
        const CHECK: &str = "credential";
        let path = self.directory.file(CREDENTIAL).display().to_string();
        let directory = self.directory;
        match self.mended(|| directory.read_credential()) {
            Ok(Some(_)) => self.say(CHECK, Level::Ok, path, None),
            Ok(None) => {
                self.say(CHECK, Level::Ok, format!("{path}: not there yet"), Some("`locald start` makes it"));
            }
            Err(fault) => self.refused(CHECK, &fault),
        }
    }

    fn record(&mut self) {
        const CHECK: &str = "record";
        let path = self.directory.file(REGISTRATION).display().to_string();
        let directory = self.directory;
        let read = self.mended(|| match directory.read_record() {
            (_, Some(Diagnostic::File(fault))) => Err(fault),
            (sight, malformed) => Ok((sight, malformed)),
        });
        match read {
            Ok((RecordRead::Record(record), _)) => {
                self.say(
                    CHECK,
                    Level::Ok,
                    format!("{path}: id {}, pid {}, {}", record.id, record.pid, record.url),
                    None,
                );
            }
            Ok((_, Some(malformed))) => {
                self.say(CHECK, Level::Fail, malformed.to_string(), Some("`locald start` replaces it"));
            }
            Ok(_) => self.say(CHECK, Level::Ok, format!("{path}: none"), None),
            Err(fault) => self.refused(CHECK, &fault),
        }
    }

    /// The files that are trusted less and whose mode counts all the same.
    fn plain_files(&mut self) {
        for (check, name) in [
            ("lock", LOCK),
            ("life lock", ALIVE),
            ("log", LOG),
            ("config", CONFIG),
        ] {
            let directory = self.directory;
            let shown = directory.file(name).display().to_string();
            match self.mended(|| directory.check_file(name)) {
                Ok(true) if name == LOCK && directory.lock(Duration::ZERO).is_none() => {
                    let detail = format!("{shown}: held");
                    self.say(
                        check,
                        Level::Warn,
                        detail,
                        Some("a start is under way; it is given back in a second"),
                    );
                }
                Ok(true) => self.say(check, Level::Ok, shown, None),
                Ok(false) => self.say(check, Level::Ok, format!("{shown}: none"), None),
                Err(fault) => self.refused(check, &fault),
            }
        }
    }

    fn leftovers(&mut self) -> Result<(), Error> {
        // CONV-38: a rename does not change the time of the last write.
        let changed = |meta: &Metadata| UNIX_EPOCH + Duration::from_secs(meta.ctime().max(0).cast_unsigned());
        let (old, young) = self.by_age(self.directory.leftovers()?, LEFTOVER_MIN_AGE, changed);
        let (needed, old): (Vec<_>, Vec<_>) = old.into_iter().partition(|path| self.may_be_needed(path));
        self.left_behind("leftovers", old, young + needed.len(), LEFTOVER_MIN_AGE);
        Ok(())
    }

    /// Launcher files whose daemon was gone before it could remove them (BROW-17).
    fn launchers(&mut self) -> Result<(), Error> {
        let written = |meta: &Metadata| meta.modified().unwrap_or(self.now);
        let (old, young) = self.by_age(self.directory.launchers()?, LAUNCHER_MIN_AGE, written);
        self.left_behind("launchers", old, young, LAUNCHER_MIN_AGE);
        Ok(())
    }

    /// Says whether clients start a daemon at present (CONN-21).
    fn budget(&mut self) {
        const CHECK: &str = "starts";
        match self.directory.held_back() {
            Some(held_back) => {
                let advice = "fix what it says; `locald start` does not wait";
                self.say(CHECK, Level::Warn, held_back.to_string(), Some(advice));
            }
            None => self.say(CHECK, Level::Ok, "not held back", None),
        }
    }

    /// Returns the files that are older than `age`, and the number of the others.
    fn by_age(
        &self,
        mut files: Vec<PathBuf>,
        age: Duration,
        time: impl Fn(&Metadata) -> SystemTime,
    ) -> (Vec<PathBuf>, usize) {
        let all = files.len();
        files.retain(|path| {
            let meta = fs::symlink_metadata(path);
            meta.is_ok_and(|meta| self.now.duration_since(time(&meta)).is_ok_and(|since| since > age))
        });
        let young = all - files.len();
        (files, young)
    }

    /// Whether a daemon that may run needs this taken file: the one that took it, or the one whose record it is (CONV-39).
    fn may_be_needed(&self, path: &Path) -> bool {
        let Some(taker) = StateDir::taker(path) else {
            return false;
        };
        let credential = self.directory.read_credential().ok().flatten();
        let may_run = |record: &Registration| match record.world.seen_from(&client::world()) {
            Place::EarlierBoot => false,
            Place::OtherHost | Place::OtherNetwork => true,
            Place::Here => match credential.as_ref().map(|it| client::look(record, it, REFUSAL_BOUND)) {
                Some(Probe::Proven(theirs)) => theirs.id == record.id || theirs.id == taker,
                Some(Probe::Refused | Probe::Foreign) => false,
                Some(_) => true,
                None => !client::is_refused(record.url, REFUSAL_BOUND),
            },
        };
        let held = self.directory.read_taken(path);
        let published = self.directory.read_record().0;
        let is_takers = matches!(&published, RecordRead::Record(record) if record.id == taker);
        [Some(held), is_takers.then_some(published)]
            .iter()
            .flatten()
            .any(|sight| matches!(sight, RecordRead::Record(record) if may_run(record)))
    }

    /// Reports, and with --fix removes, old files that no process needs. `in_use` others may still be needed.
    fn left_behind(&mut self, check: &'static str, old: Vec<PathBuf>, in_use: usize, old_age: Duration) {
        let age = humantime::format_duration(old_age);
        let mut kept = 0;
        for path in old {
            if !self.fix {
                kept += 1;
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => self.fixed.push(format!("{}: removed", path.display())),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => self.say(check, Level::Warn, format!("{}: {error}", path.display()), None),
            }
        }
        match (kept, in_use) {
            (0, 0) => self.say(check, Level::Ok, "none", None),
            (0, in_use) => self.say(check, Level::Ok, format!("{in_use}, which may be in use"), None),
            (old, _) => self.say(check, Level::Warn, format!("{old}, older than {age}"), Some(FIX)),
        }
    }

    fn daemon(&mut self, context: &Context) {
        const CHECK: &str = "daemon";
        // Read before the probe: what is removed below is what was seen dead, and nothing that came since.
        let before = self.directory.read_record().0;
        let failure = match context.client.clone().deadline(LOOK).connect() {
            Ok(connection) => {
                let theirs = connection.handshake();
                let detail = format!("ready: {} {}, pid {}", theirs.protocol, theirs.version, theirs.pid);
                return self.say(CHECK, Level::Ok, detail, None);
            }
            Err(failure) => failure,
        };
        let level = if failure.outcome == ConnectOutcome::Absent { Level::Ok } else { Level::Fail };
        match before {
            RecordRead::Record(record)
                if failure.outcome == ConnectOutcome::Stale && may_be_removed(&record) =>
            {
                if self.fix && self.remove_stale(&record) {
                    return self.say(CHECK, Level::Ok, "absent", Some(advice(&ConnectOutcome::Absent)));
                }
                let detail = format!("stale: {failure}");
                self.say(
                    CHECK,
                    level,
                    detail,
                    Some("run `locald start`, or `locald doctor --fix` to remove the record"),
                );
            }
            _ => {
                let detail = format!("{}: {failure}", failure.outcome.as_str());
                self.say(CHECK, level, detail, Some(advice(&failure.outcome)));
            }
        }
    }

    /// CONV-30: removes a record by take, verify, leave. One that came in between is left to its owner, who puts it back.
    fn remove_stale(&mut self, record: &Registration) -> bool {
        let id = record.id;
        let holds = |sight: RecordRead| matches!(sight, RecordRead::Record(record) if record.id == id);
        if !holds(self.directory.read_record().0) {
            return false;
        }
        let Ok(Some(taken)) = self.directory.take(id) else {
            return false;
        };
        let removed = holds(self.directory.read_taken(&taken)) && self.directory.unlink_taken(&taken).is_ok();
        if removed {
            self.fixed.push(format!(
                "{}: the stale record is removed",
                self.directory.file(REGISTRATION).display()
            ));
        }
        removed
    }

    fn refused(&mut self, check: &'static str, fault: &FileError) {
        let advice = match &fault.kind {
            FileErrorKind::Mode(_) => FIX,
            kind @ (FileErrorKind::Credential(_) | FileErrorKind::Network) => file_advice(kind),
            _ => BY_HAND,
        };
        self.say(check, Level::Fail, fault.to_string(), Some(advice));
    }

    /// A look at a file or directory, again after its mode was set right.
    fn mended<T>(&mut self, look: impl Fn() -> Result<T, FileError>) -> Result<T, FileError> {
        match look() {
            Err(FileError { path, kind: FileErrorKind::Mode(bits) }) if self.fix => {
                StateDir::close_to_others(&path)?;
                let leaked = path.ends_with(CREDENTIAL) && bits & 0o044 != 0;
                let more = if leaked {
                    "; others could read it: run `locald credential rotate`"
                } else {
                    ""
                };
                self.fixed.push(format!(
                    "{}: mode {bits:04o} is now {:04o}{more}",
                    path.display(),
                    bits & 0o700
                ));
                look()
            }
            seen => seen,
        }
    }
}

/// Whether the record of a daemon that is gone may be removed (CONV-30). A refusal says nothing about a daemon of another
/// network namespace.
fn may_be_removed(record: &Registration) -> bool {
    match record.world.seen_from(&client::world()) {
        Place::Here => client::is_refused(record.url, REFUSAL_BOUND),
        Place::EarlierBoot => true,
        Place::OtherHost | Place::OtherNetwork => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::tests::start;

    /// CONV-38, CONV-39.
    #[tokio::test]
    async fn a_taken_file_stays_while_it_is_young_or_its_daemon_runs() {
        let (_dir, started) = start().await;
        let handle = started.handle();
        tokio::spawn(started.serve());
        handle.published().await;
        let directory = StateDir::at(handle.state_dir());
        let (own, other) = (handle.id().to_string(), "1".repeat(32));
        let record =
            |id: &str, url: &str| json!({"id": id, "version": "1", "url": url, "pid": 1}).to_string();
        let own_record = record(&own, &handle.url().to_string());
        let take = |taker: &str, nonce: &str, content: &str| {
            let name = format!("{REGISTRATION}.taken-{taker}-{}", nonce.repeat(32));
            directory.replace(&name, content.as_bytes()).unwrap();
            directory.file(&name)
        };
        let needed = [
            take(&own, "0", &own_record),
            take(&other, "1", &own_record),
            take(&own, "2", "{}"),
        ];
        let not_needed = [
            take(&other, "3", &record(&other, "http://127.0.0.1:1")),
            take(&other, "4", "{}"),
        ];
        let look = move || {
            let look_at = |now| {
                let mut diagnosis = Diagnosis::new(&directory, now, true);
                diagnosis.leftovers().unwrap();
                diagnosis.fixed.len()
            };
            assert_eq!(look_at(SystemTime::now() + LEFTOVER_MIN_AGE / 2), 0, "none is old");
            assert_eq!(look_at(SystemTime::now() + LEFTOVER_MIN_AGE * 2), 2);
            assert!(needed.iter().all(|path| path.exists()) && !not_needed.iter().any(|path| path.exists()));
        };
        tokio::task::spawn_blocking(look).await.unwrap();
        handle.stop();
    }
}
