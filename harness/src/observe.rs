//! What happened in one run on one state directory, as a trace that a model of the protocol can be asked about
//! (`spec/schemas/observed-trace.schema.json`).
//!
//! A [`Recorder`] needs nothing of the case beside it. It watches the directory from the moment it is there: inotify
//! says what changed in which order, fanotify whether this process did it. It knows of the subjects that it is
//! [told of](Recorder::launched) when they started, which signals they were sent and how they ended.
//!
//! Nothing is known more exactly than it was seen: each observation has two instants between which it happened. Changes
//! of files are in the order of the kernel's events; everything between two moments at which both queues were empty has
//! the same instants.

mod watch;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use inotify::{Inotify, WatchMask};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

use self::watch::{Observation, Seen, TOLD_LATE, Watched, appears};
use crate::platform;
use crate::process::Subject;
use crate::wait::{Shared, lock, ms};

/// Records one run.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    record: PathBuf,
    seen: Shared<Seen>,
    subjects: Mutex<Vec<Launched>>,
    answers: Mutex<Vec<Observation>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Launched {
    number: usize,
    yields: bool,
    after: Instant,
    by: Instant,
    subject: Arc<Subject>,
}

impl Recorder {
    /// Records what happens on the state directory at `state_dir`, which need not be there yet (its parent has to be),
    /// and where the record has the name `registration`.
    pub fn start(state_dir: &Path, registration: &str) -> io::Result<Self> {
        let began = Instant::now();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let seen = Shared::new(Seen::default());
        let parent = Inotify::init()?;
        let above = state_dir.parent().ok_or(io::ErrorKind::InvalidInput)?;
        parent.watches().add(above, WatchMask::CREATE | WatchMask::MOVED_TO)?;
        let (directory, name) = (state_dir.to_owned(), registration.to_owned());
        let thread = {
            let (seen, wake) = (seen.clone(), Arc::clone(&wake));
            std::thread::spawn(move || {
                let ended = match appears(parent, &directory, &wake) {
                    Ok(true) => Watched::new(directory, &name).and_then(|mut watched| {
                        let mut files = watched.begin(began)?;
                        seen.update(|seen| seen.files.append(&mut files));
                        watched.follow(&wake, &seen)
                    }),
                    Ok(false) => {
                        seen.update(|seen| seen.whole_until = Some(Instant::now()));
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = ended {
                    seen.update(|seen| {
                        seen.ends.get_or_insert(format!("the state directory cannot be watched: {error}"));
                    });
                }
            })
        };
        Ok(Self {
            began,
            record: state_dir.join(registration),
            seen,
            subjects: Mutex::default(),
            answers: Mutex::default(),
            wake,
            thread: Some(thread),
        })
    }

    /// The subject of this number was started between the two instants, and told to yield or not.
    pub fn launched(&self, number: usize, subject: &Arc<Subject>, yields: bool, after: Instant, by: Instant) {
        lock(&self.subjects).push(Launched { number, yields, after, by, subject: Arc::clone(subject) });
    }

    /// A handshake that was sent after the one instant was answered by the other, with this body.
    ///
    /// Waits until the watch has begun, for a second at most: what the caller does next is to be seen.
    pub fn answered(&self, after: Instant, by: Instant, body: &[u8]) {
        let begun = |seen: &Seen| (seen.whole_until.is_some() || seen.ends.is_some()).then_some(());
        self.seen.wait(ms(1_000), begun);
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return;
        };
        let what = json!({
            "what": "answered", "pid": body["pid"], "id": body["id"], "state": body["state"],
        });
        lock(&self.answers).push(Observation { after, by, what });
    }

    /// Ends the recording; the trace, of a case of this name. From `helpers` on, processes of the subject ran that are no
    /// daemons, such as clients: who but the suite changed a file is not known then.
    pub fn finish(mut self, case: &str, helpers: Option<Instant>) -> Value {
        self.end();
        let Seen { files, whole_until, mut ends } = self.seen.update(std::mem::take);
        let subjects = std::mem::take(&mut *lock(&self.subjects));
        let number = |pid: &Value| {
            let pid = pid.as_u64()?;
            let found = subjects.iter().find(|launched| u64::from(launched.subject.pid()) == pid);
            found.map(|launched| launched.number)
        };
        let mut whole = whole_until.unwrap_or(self.began);
        let mut observations = Vec::new();
        for mut file in files {
            if helpers.is_some_and(|since| since <= file.by) && file.what["by"] == "other" {
                file.what["by"] = Value::Null;
            }
            if let Some(pid) = file.what.as_object_mut().and_then(|what| what.remove("pid")) {
                let daemon = number(&pid);
                if daemon.is_none() && !pid.is_null() && file.what["by"] == "other" {
                    whole = whole.min(file.after);
                    ends = Some("a daemon published whose start was not seen".to_owned());
                    break;
                }
                file.what["daemon"] = json!(daemon);
            }
            observations.push(file);
        }
        let mut others = std::mem::take(&mut *lock(&self.answers));
        others.retain_mut(|answer| {
            let daemon = number(&answer.what["pid"]);
            if let Some(what) = answer.what.as_object_mut() {
                what.remove("pid");
                what.insert("daemon".to_owned(), json!(daemon));
            }
            daemon.is_some() && answer.what["id"].is_string() && answer.what["state"].is_string()
        });
        for (after, by) in platform::take_unnoticed(&self.record) {
            let what = json!({"what": "record-touched", "by": "suite"});
            others.push(Observation { after, by, what });
        }
        for launched in &subjects {
            others.extend(launched.observations());
        }
        // What came later may have had causes that were not seen any more.
        observations.extend(others.into_iter().filter(|other| other.by <= whole));
        observations.sort_by_key(|observation| observation.by);
        let micros = |at: Instant| at.saturating_duration_since(self.began).as_micros();
        let events = observations.into_iter().map(|observation| {
            let mut event = Map::new();
            event.insert("after_us".to_owned(), json!(u64::try_from(micros(observation.after)).ok()));
            event.insert("by_us".to_owned(), json!(u64::try_from(micros(observation.by)).ok()));
            if let Value::Object(what) = observation.what {
                event.extend(what);
            }
            Value::Object(event)
        });
        json!({"trace": 1, "case": case, "events": events.collect::<Vec<_>>(), "ends": ends})
    }

    fn end(&mut self) {
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

impl Launched {
    fn observations(&self) -> Vec<Observation> {
        let daemon = self.number;
        let started = json!({"what": "daemon-started", "daemon": daemon, "yields": self.yields});
        let mut all = vec![Observation { after: self.after, by: self.by, what: started }];
        for (at, signal) in self.subject.signals() {
            let what = match signal {
                Signal::STOP => "paused",
                Signal::CONT => "resumed",
                Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT => "asked-to-stop",
                _ => continue,
            };
            // A call that was under way when the process stopped may still come to its end.
            let at = if signal == Signal::STOP { at + TOLD_LATE } else { at };
            all.push(Observation { after: at, by: at, what: json!({"what": what, "daemon": daemon}) });
        }
        if let Some(exit) = self.subject.exit() {
            let what = json!({
                "what": "exited", "daemon": daemon, "status": exit.code, "signal": exit.signal,
            });
            all.push(Observation { after: self.after, by: exit.at, what });
        }
        all
    }
}
