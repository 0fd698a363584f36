//! Chapter 09: one call, one answer.

use std::cell::RefCell;
use std::net::TcpStream;
use std::process::ExitStatus;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::child::{Child, Event, Lock, Unstarted, exhausted, remember_failure};
use super::faults;
use crate::credential::Credential;
use crate::fault::broken;
use crate::gate::protocol;
use crate::handshake::{Body, SPEC};
use crate::platform;
use crate::probe::{Probe, probe};
use crate::registration::{Found, Record};
use crate::state_directory::faults::make_carelessly;
use crate::state_directory::{CREDENTIAL, Fault, RECORD, StateDir};
use crate::world::{Place, place};

/// The shortest and the longest pause between two looks.
const PAUSES: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(250)];
/// The exit status of a daemon in whose place there is another.
pub(super) const DISPLACED: i32 = 20;

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Ready,
    Absent,
    Stale,
    Busy,
    Foreign,
    Incompatible,
    Invalid,
    SpawnFailed,
    Unreachable,
}

impl Outcome {
    /// The word for programs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Absent => "absent",
            Self::Stale if broken("CONN-1.merged") => "absent",
            Self::Stale => "stale",
            Self::Busy => "busy",
            Self::Foreign => "foreign",
            Self::Incompatible => "incompatible",
            Self::Invalid => "invalid",
            Self::SpawnFailed => "spawn-failed",
            Self::Unreachable => "unreachable",
        }
    }

    /// The exit status of a command.
    pub(super) fn status(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Absent => 10,
            Self::Stale if broken("CONN-1.merged") => 10,
            Self::Stale => 11,
            Self::Busy => 12,
            Self::Foreign => 13,
            Self::Incompatible => 14,
            Self::Invalid => 15,
            Self::SpawnFailed => 16,
            Self::Unreachable => 17,
        }
    }
}

/// The daemon that proved itself, and where.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub(super) record: Record,
    pub(super) body: Body,
}

/// What a call came to.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// What a person is told.
    pub(super) message: String,
    pub(super) daemon: Option<Box<Daemon>>,
}

impl Answer {
    pub(super) fn new(outcome: Outcome, message: impl std::fmt::Display) -> Self {
        Self { outcome, message: message.to_string(), daemon: None }
    }

    /// What a program is told.
    pub(super) fn to_json(&self, diagnostics: &[String]) -> Value {
        let mut answer = json!({"outcome": self.outcome.word(), "message": self.message});
        if let Some(daemon) = &self.daemon {
            let Daemon { record, body } = &**daemon;
            answer["url"] = json!(record.url);
            answer["id"] = json!(body.id);
            answer["pid"] = json!(body.pid);
            answer["protocol"] = json!(body.protocol);
            answer["version"] = json!(body.version);
        }
        if !diagnostics.is_empty() {
            answer["diagnostics"] = json!(diagnostics);
        }
        answer
    }
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        if broken("DIR-14.silent") || broken("CONN-9.silent") {
            return Self::new(Outcome::Invalid, "the state directory cannot be used");
        }
        Self::new(Outcome::Invalid, fault)
    }
}

/// What stands in the place of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Nothing,
    Malformed(String),
    Record(Record),
}

/// The state directory at one moment.
#[derive(Clone, PartialEq, Eq)]
struct Look {
    seen: Seen,
    credential: Option<Credential>,
}

/// What is to be made of a look.
enum Judgement {
    /// This is the end of the call, whatever else may happen.
    Final(Answer),
    /// The daemon is leaving: there will be another record.
    Draining,
    /// This is the answer, unless a daemon is started.
    Curable(Answer),
}

impl Judgement {
    /// The answer where nothing more is done about it.
    fn into_answer(self) -> Answer {
        match self {
            Self::Final(answer) | Self::Curable(answer) => answer,
            Self::Draining => Answer::new(Outcome::Busy, "the daemon is draining"),
        }
    }
}

/// A daemon that is the one of the record, and the connection on which it proved itself.
pub(super) struct Proven {
    pub(super) record: Record,
    pub(super) body: Body,
    pub(super) credential: Credential,
    pub(super) stream: TcpStream,
}

/// One call.
pub(super) struct Client {
    pub(super) directory: StateDir,
    /// The wire protocol that is spoken.
    pub(super) protocol: String,
    /// Whether a daemon may be started.
    pub(super) spawns: bool,
    /// Whether any incompatible daemon may be displaced.
    pub(super) replaces: bool,
    /// Whether the daemon ends with this process.
    pub(super) private: bool,
    /// Whether the user asks for the start itself.
    pub(super) explicit: bool,
    /// When the call has to be over.
    pub(super) deadline: Instant,
    /// What a person who looks for a fault wants to know.
    pub(super) diagnostics: RefCell<Vec<String>>,
}

impl Client {
    /// Finds the daemon, or starts one.
    pub(super) fn connect(&self) -> Answer {
        if let Some(answer) = self.remembered() {
            return answer;
        }
        let answer = self.find_or_start().unwrap_or_else(|end| end);
        if let Some(daemon) = &answer.daemon
            && answer.outcome == Outcome::Ready
        {
            faults::remember(&self.directory, &daemon.record);
        }
        answer
    }

    /// The daemon of an earlier call, in the fault of one who does not look again.
    fn remembered(&self) -> Option<Answer> {
        let seen = Seen::Record(faults::remembered(&self.directory)?);
        let credential = Credential::read(&self.directory).ok()?;
        let answer = self.judge(&Look { seen, credential }).into_answer();
        (answer.outcome == Outcome::Ready).then_some(answer)
    }

    /// `Err` is an answer that came early.
    fn find_or_start(&self) -> Result<Answer, Answer> {
        if broken("CONN-12.directory") {
            self.directory.prepare()?;
        }
        if broken("CONN-12.lock") {
            drop(Lock::wait(&self.directory, self.deadline));
        }
        let mut before = self.only_curable(self.settle())?;
        let enough = || match exhausted(&self.directory) {
            _ if broken("CONN-21.no-budget") => Ok(()),
            _ if self.explicit && !broken("CONN-21.holds-back") => Ok(()),
            Some(_) if broken("CONN-21.silent") => {
                Err(Answer::new(Outcome::SpawnFailed, "three daemons failed within a minute"))
            }
            Some((why, _)) if broken("CONN-43.silent") => {
                Err(Answer::new(Outcome::SpawnFailed, format!("three daemons failed within a minute: {why}")))
            }
            Some((why, seconds)) => {
                let when = format!("three daemons failed within a minute, the next may start in {seconds} s");
                Err(Answer::new(Outcome::SpawnFailed, format!("{when}: {why}")))
            }
            None => Ok(()),
        };
        enough()?;
        make_carelessly(self.directory.path(), "DIR-22.client", "DIR-23.client");
        self.directory.prepare()?;
        let lock = Lock::wait(&self.directory, self.deadline);
        if lock.is_none() && broken("CONN-17.fails") {
            return Err(Answer::new(Outcome::Busy, "another client holds the lock"));
        }
        // Whoever held the lock may just have started a daemon.
        if !["CONN-18.once", "CONN-15.crowd", "CONN-14.spawns"].iter().any(|fault| broken(fault)) {
            before = self.only_curable(self.settle())?;
        }
        enough()?;
        if self.replaces && broken("CONN-34.replaces-first") {
            faults::remove_record(&self.directory);
        }
        faults::before_a_spawn(&self.directory);
        let mut spawns = 0;
        let (answer, counts) = loop {
            let (answer, counts) = match Child::spawn(&self.directory, self.private, self.replaces) {
                Ok(child) => {
                    let answer = self.wait_for(&child, before.clone()).unwrap_or_else(Answer::from);
                    (answer, !child.could_not_ask())
                }
                Err(Unstarted::Log(fault)) => (fault.into(), false),
                Err(Unstarted::Program(why)) => {
                    let why = format!("cannot start a daemon: {why}");
                    (Answer::new(Outcome::SpawnFailed, why), broken("CONN-42.counts"))
                }
            };
            spawns += 1;
            let again = broken("CONN-20.again") && answer.outcome == Outcome::SpawnFailed && spawns < 3;
            if !again {
                break (answer, counts);
            }
        };
        if answer.outcome != Outcome::Ready && counts {
            remember_failure(&self.directory, &answer.message);
        }
        drop(lock);
        Ok(answer)
    }

    /// Goes on only where a daemon may be started and would help.
    fn only_curable(&self, settled: (Judgement, Seen)) -> Result<Seen, Answer> {
        match settled {
            (Judgement::Curable(_), seen) if (self.spawns || broken("CONN-12.spawns")) && !self.is_late() => {
                Ok(seen)
            }
            (judgement, seen) => match judgement.into_answer() {
                answer if answer.outcome == Outcome::Ready && self.spawns && broken("CONN-15.crowd") => {
                    Ok(seen)
                }
                answer => Err(answer),
            },
        }
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline && !broken("CONN-10.none")
    }

    /// Reads and probes until the state directory stands still, and tells what it then shows.
    fn settle(&self) -> (Judgement, Seen) {
        let mut drained = None;
        let mut pause = PAUSES[0];
        let mut look = match self.look() {
            Ok(look) => look,
            Err(fault) => return (Judgement::Final(fault.into()), Seen::Nothing),
        };
        loop {
            let judgement = match self.judge(&look) {
                // One that drains may be too busy to say so again.
                Judgement::Curable(answer)
                    if answer.outcome == Outcome::Busy && drained.as_ref() == Some(&look.seen) =>
                {
                    Judgement::Draining
                }
                judgement => judgement,
            };
            let waits = match judgement {
                Judgement::Final(Answer { outcome: Outcome::Ready, .. }) => return (judgement, look.seen),
                Judgement::Draining => true,
                _ => false,
            };
            let once = broken("CONN-14.once")
                || (broken("CONN-14.reports") && !self.spawns)
                || (broken("CONN-14.spawns") && self.spawns);
            if once && !waits {
                return (judgement, look.seen);
            }
            if waits && !self.is_late() {
                drained = Some(look.seen.clone());
                thread::sleep(pause.min(self.deadline.saturating_duration_since(Instant::now())));
                pause = PAUSES[1].min(pause * 2);
            }
            let again = match self.look() {
                Ok(look) => look,
                Err(fault) => return (Judgement::Final(fault.into()), look.seen),
            };
            if self.is_late() || (again == look && !waits) {
                return (judgement, look.seen);
            }
            if !(waits && broken("CONN-13.same-record")) {
                look = again;
            }
        }
    }

    /// Reads the record and the credential.
    fn look(&self) -> Result<Look, Fault> {
        let seen = match Record::read(&self.directory, RECORD) {
            Found::Record(record) => Seen::Record(record),
            Found::Malformed(why) if broken("REG-11.silent") => Seen::Malformed(why),
            Found::Malformed(why) => {
                if broken("CONV-29.malformed") {
                    faults::remove_record(&self.directory);
                }
                let note = format!("{}: malformed: {why}", self.directory.file(RECORD).display());
                let mut diagnostics = self.diagnostics.borrow_mut();
                if !diagnostics.contains(&note) {
                    diagnostics.push(note);
                }
                Seen::Malformed(why)
            }
            Found::Absent | Found::NoDirectory => Seen::Nothing,
            Found::Refused(_) if broken("CONN-9.absent") => Seen::Nothing,
            Found::Refused(fault) => return Err(fault),
        };
        let credential = match Credential::read(&self.directory) {
            Err(_) if broken("CONN-9.no-credential") => None,
            Err(_) if seen == Seen::Nothing && broken("CONN-9.no-record") => None,
            credential => credential?,
        };
        Ok(Look { seen, credential })
    }

    /// The daemon of the record, if it is there and proves itself, with the connection on which it did.
    pub(super) fn find(&self) -> Result<Proven, Answer> {
        let mut look = self.look()?;
        loop {
            let judgement = match self.hear(&look) {
                Ok(proven) => return Ok(proven),
                Err(judgement) => judgement,
            };
            let again = self.look()?;
            if again == look || self.is_late() {
                return Err(judgement.into_answer());
            }
            look = again;
        }
    }

    /// Judges a record by its world alone, if that is enough.
    fn locate(&self, record: &Record) -> Option<Judgement> {
        let place = place(&self.directory, record);
        let first = match place {
            Place::Here => return None,
            Place::Elsewhere(_) => broken("CONN-39.connects"),
            Place::EarlierBoot => broken("CONN-40.connects"),
            Place::DeadNamespace => broken("CONN-41.connects"),
        };
        if first && let Ok(Some(credential)) = Credential::read(&self.directory) {
            drop(probe(record, &credential, self.deadline));
        }
        let gone = |why| Some(Judgement::Curable(Answer::new(Outcome::Stale, why)));
        match place {
            Place::Here => None,
            Place::Elsewhere(why) => Some(self.cannot_ask(record, why)),
            Place::EarlierBoot => gone("the machine has been started again since the record was written"),
            Place::DeadNamespace => gone("the network namespace of the record's daemon is gone"),
        }
    }

    /// Judges a daemon that cannot be asked: the call is over, unless it replaces whatever is there.
    fn cannot_ask(&self, record: &Record, why: String) -> Judgement {
        faults::where_it_cannot_ask(&self.directory, record);
        let answer = Answer::new(Outcome::Unreachable, why);
        if (self.replaces && !broken("CONN-49.gives-up")) || broken("CONN-38.spawns") {
            Judgement::Curable(answer)
        } else {
            Judgement::Final(answer)
        }
    }

    /// Probes the record, if there is one.
    fn hear(&self, look: &Look) -> Result<Proven, Judgement> {
        let curable = |outcome, message: String| Err(Judgement::Curable(Answer::new(outcome, message)));
        let (record, credential) = match (&look.seen, &look.credential) {
            (Seen::Nothing, _) if broken("CONN-5.missing") => {
                return curable(Outcome::Stale, "nobody is there".to_owned());
            }
            (Seen::Nothing, _) => return curable(Outcome::Absent, "there is no record".to_owned()),
            (Seen::Malformed(why), _) if broken("REG-11.error") || broken("CONN-5.malformed") => {
                return Err(Judgement::Final(Fault::new(self.directory.file(RECORD), why).into()));
            }
            (Seen::Malformed(why), _) => {
                return curable(Outcome::Absent, format!("the record is malformed: {why}"));
            }
            (Seen::Record(record), _) if let Some(judgement) = self.locate(record) => return Err(judgement),
            (Seen::Record(_), None) => {
                let path = self.directory.file(CREDENTIAL);
                let fault = Fault::new(path, "there is a record and no credential");
                return Err(Judgement::Curable(fault.into()));
            }
            (Seen::Record(record), Some(credential)) => (record, credential),
        };
        if broken("REG-13.dead-pid") && !platform::lives(record.pid) {
            return curable(Outcome::Absent, "the daemon has ended".to_owned());
        }
        if broken("GATE-6.refuses") && record.protocol.as_ref().is_some_and(|told| *told != self.protocol) {
            let message = "the record names another protocol";
            return Err(Judgement::Final(Answer::new(Outcome::Incompatible, message)));
        }
        if broken("GATE-5.record") && faults::is_of_another_release(&record.version) {
            let message = "the record names another version";
            return Err(Judgement::Final(Answer::new(Outcome::Incompatible, message)));
        }
        let probed = probe(record, credential, self.deadline);
        faults::after_a_probe(&self.directory, record, &probed);
        let (body, stream) = match probed {
            Probe::Unreachable(why) => return Err(self.cannot_ask(record, why)),
            Probe::Refused(why) if broken("CONN-6.refused") => return curable(Outcome::Absent, why),
            Probe::Broken(why) if broken("CONN-7.reset-is-foreign") => return curable(Outcome::Foreign, why),
            Probe::Refused(why) | Probe::Broken(why)
                if broken("REG-13.presence") || (broken("REG-13.pid") && platform::lives(record.pid)) =>
            {
                return Err(Judgement::Final(Answer::new(Outcome::Busy, why)));
            }
            Probe::Refused(why) => return curable(Outcome::Stale, why),
            Probe::Late(why) if broken("CONN-7.late") => return curable(Outcome::Stale, why),
            Probe::Broken(why) | Probe::Late(why) => return curable(Outcome::Busy, why),
            Probe::Foreign(why) => return curable(Outcome::Foreign, why),
            Probe::Proven(None, _) => {
                let message = "the daemon follows another specification";
                return Err(Judgement::Final(Answer::new(Outcome::Incompatible, message)));
            }
            Probe::Proven(Some(body), stream) => (body, stream),
        };
        if body.id != record.id && broken("CONN-6.other") {
            return curable(Outcome::Foreign, format!("another daemon is there: {}", body.id));
        }
        if body.id != record.id && !broken("HS-27.any-id") && !broken("CONN-4.any-id") {
            return curable(Outcome::Stale, format!("another daemon is there: {}", body.id));
        }
        Ok(Proven { record: record.clone(), body, credential: credential.clone(), stream })
    }

    /// Probes the record and judges what answers.
    fn judge(&self, look: &Look) -> Judgement {
        let Proven { record, body, .. } = match self.hear(look) {
            Ok(proven) => proven,
            Err(judgement) => return judgement,
        };
        if !body.ready && !broken("HS-33.ready") && !broken("CONN-4.draining") {
            let busy = Answer::new(Outcome::Busy, "the daemon is draining");
            if broken("HS-33.fails") {
                return Judgement::Final(busy);
            }
            if broken("CONN-7.draining") {
                return Judgement::Final(Answer::new(Outcome::Stale, "the daemon has left"));
            }
            if broken("HS-33.spawns") || (broken("CONN-13.spawns") && self.spawns) {
                return Judgement::Curable(busy);
            }
            return Judgement::Draining;
        }
        let told = match &record.protocol {
            Some(told) if broken("GATE-6.believes") => told,
            _ => &body.protocol,
        };
        let fits = (*told == self.protocol || faults::tolerates(told, &self.protocol))
            && !(broken("GATE-5.handshake") && faults::is_of_another_release(&body.version));
        let compatible = (body.spec == SPEC || broken("GATE-7.any-spec")) && fits;
        let (outcome, message) = if compatible {
            (Outcome::Ready, "the daemon is ready".to_owned())
        } else {
            let message =
                format!("the daemon speaks {} of {}, not {}", body.protocol, body.spec, self.protocol);
            let outcome = match () {
                () if broken("GATE-7.absent") => Outcome::Absent,
                () if broken("GATE-7.stale") => Outcome::Stale,
                () => Outcome::Incompatible,
            };
            (outcome, message)
        };
        let may_displace = self.replaces
            || is_older(&body.protocol, &self.protocol)
            || faults::displaces(&body.protocol, &self.protocol);
        if may_displace && !compatible && self.spawns && broken("CONN-34.signal") {
            faults::end(body.pid);
        }
        let answer = Answer { outcome, message, daemon: Some(Box::new(Daemon { record, body })) };
        if compatible || !may_displace {
            Judgement::Final(answer)
        } else {
            Judgement::Curable(answer)
        }
    }

    /// Waits for a daemon to be ready, this child or another. What was seen `before` is no news.
    fn wait_for(&self, child: &Child, before: Seen) -> Result<Answer, Fault> {
        let mut old = Some(before).filter(|_| !broken("CONN-23.waits"));
        let mut ended = None;
        let mut last = None;
        let mut pause = PAUSES[0];
        loop {
            if let Some(status) = child.failure(ended) {
                return Ok(self.failed(child, status));
            }
            let look = self.look()?;
            let stranger = match &look.seen {
                Seen::Record(record) => broken("CONN-24.own-child") && record.pid != child.pid,
                _ => false,
            };
            let news = old.as_ref() != Some(&look.seen) && look.seen != Seen::Nothing;
            if news && !stranger {
                let answer = self.judge(&look).into_answer();
                if answer.outcome == Outcome::Ready {
                    return Ok(answer);
                }
                last = Some(answer);
            }
            match ended {
                Some(_) if broken("CONN-26.deadline") && !self.is_late() => {}
                Some(status) if !matches!(status.code(), Some(0 | DISPLACED)) => {
                    return Ok(self.failed(child, status));
                }
                _ if !self.is_late() => {}
                Some(status) if broken("CONN-25.late") => return Ok(self.failed(child, status)),
                // One that yielded has not failed, even if whoever is there does not answer any more.
                _ => {
                    let late =
                        || Answer::new(Outcome::Busy, "the daemon that was started is not ready in time");
                    return Ok(last.unwrap_or_else(late));
                }
            }
            let wait = pause.min(self.deadline.saturating_duration_since(Instant::now()));
            pause = PAUSES[1].min(pause * 2);
            match child.events.recv_timeout(wait) {
                Ok(Event::Ended(status)) => {
                    ended = Some(status);
                    child.status.set(ended);
                    if status.success() && !broken("CONN-25.waits") {
                        // It yielded: whoever is there proved itself to it, the one from before too.
                        old = None;
                    }
                }
                Ok(Event::Changed) => pause = PAUSES[0],
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(wait),
            }
        }
    }

    /// The answer after a child that ended like this.
    fn failed(&self, child: &Child, status: ExitStatus) -> Answer {
        let mut words = child.last_words();
        if broken("CONN-27.swallowed") {
            words.clear();
        }
        // Whatever it said: an error may be shown to anybody.
        if let Ok(Some(credential)) = Credential::read(&self.directory) {
            words = words.replace(&credential.text(), "[credential]");
        }
        let how = if broken("CONN-45.silent") { String::new() } else { format!(" ({status})") };
        Answer::new(Outcome::SpawnFailed, format!("the daemon that was started ended{how}: {words}"))
    }
}

/// Whether two identifiers have one name, and the first the lower number.
fn is_older(theirs: &str, ours: &str) -> bool {
    match (protocol(theirs), protocol(ours)) {
        (Some((their_name, theirs)), Some((our_name, ours))) => their_name == our_name && theirs < ours,
        _ => false,
    }
}
