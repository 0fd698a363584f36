//! What a black-box suite saw of one run on one state directory (`spec/schemas/observed-trace.schema.json`).
//!
//! An observation says that something happened after one instant and by another. The observations of files are in the
//! order in which the files changed; between others, only what their instants say is known.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// What was seen of a run.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// The format's number: 1.
    pub trace: u32,
    /// Where it was seen.
    #[serde(default)]
    pub case: String,
    /// The observations, those of files in their order.
    pub events: Vec<Event>,
    /// Why nothing more was seen, where that is not the end of the run.
    #[serde(default)]
    pub ends: Option<String>,
}

/// One observation.
#[derive(Deserialize, Clone, Debug)]
pub struct Event {
    /// It happened after this, in microseconds.
    pub after_us: u64,
    /// It had happened by then.
    pub by_us: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// Who changed a file.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The suite itself, which is an administrator, an editor or a stranger to the machines.
    Suite,
    /// Another process.
    Other,
}

/// What can be seen.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "what", rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum What {
    /// A daemon's process was started, and told to yield or not; `null` where that is not known.
    DaemonStarted { daemon: u32, yields: Option<bool> },
    /// From here on, changes of files are seen; the record's id at that moment, `null` where there was none.
    WatchBegan { record: Option<String> },
    /// A record was renamed into place. The daemon is the one whose process id stands in it.
    RecordPut { id: Option<String>, daemon: Option<u32>, by: Option<By> },
    /// The record was renamed to a taken name.
    RecordTaken { file: String, by: Option<By> },
    /// The record was unlinked, or renamed to any other name.
    RecordRemoved { by: Option<By> },
    /// The record was written in place, or its mode changed: what a read shows is not known until the next rename. (Not
    /// every way to write is told of by the kernel, so this has no place among the changes of files.)
    RecordTouched { by: Option<By> },
    /// A taken file came to be in another way.
    TakenPut { file: String, by: Option<By> },
    /// A taken file was unlinked.
    TakenRemoved { file: String, by: Option<By> },
    /// A daemon answered a handshake of this kind; it began after the one instant and ended by the other.
    Answered { daemon: u32, id: String, state: String },
    /// The suite asked a daemon to stop.
    AskedToStop { daemon: u32 },
    /// The suite stopped its process, and saw that it was stopped.
    Paused { daemon: u32 },
    /// The suite let its process go on.
    Resumed { daemon: u32 },
    /// A daemon's process ended: with a status, or by a signal.
    Exited { daemon: u32, status: Option<i32>, signal: Option<i32> },
}

impl What {
    /// Whether it is one of those that are in the order of the files' changes.
    pub fn is_of_files(&self) -> bool {
        matches!(
            self,
            Self::WatchBegan { .. }
                | Self::RecordPut { .. }
                | Self::RecordTaken { .. }
                | Self::RecordRemoved { .. }
                | Self::TakenPut { .. }
                | Self::TakenRemoved { .. }
        )
    }
}

impl Observed {
    /// Reads a trace.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let observed: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if observed.trace != 1 {
            return Err(format!("a trace of format {}, and this is a reader of 1", observed.trace));
        }
        Ok(observed)
    }

    /// The id of each daemon whose id was seen.
    pub fn ids(&self) -> BTreeMap<u32, String> {
        let seen = self.events.iter().filter_map(|event| match &event.what {
            What::RecordPut { id: Some(id), daemon: Some(daemon), by } if *by != Some(By::Suite) => {
                Some((*daemon, id.clone()))
            }
            What::Answered { daemon, id, .. } => Some((*daemon, id.clone())),
            _ => None,
        });
        // The first that was seen of each.
        seen.fold(BTreeMap::new(), |mut ids, (daemon, id)| {
            ids.entry(daemon).or_insert(id);
            ids
        })
    }
}
