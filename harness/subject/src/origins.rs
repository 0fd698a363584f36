//! Chapter 10: the list of the origins that the user admitted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

pub(super) use super::streams::Log;
use crate::browser::Pages;
use crate::fault::broken;
use crate::perimeter::{faults, is_origin};
use crate::state_directory::{Content, Fault, StateDir, random_hex};

/// The file that holds the user's list of origins.
const CONFIG: &str = "config.toml";

/// The origins that the user admitted: those of the launch, and those of the file at this moment.
pub(super) struct Allowlist {
    directory: StateDir,
    launch: Vec<String>,
    file: Mutex<Listed>,
    /// What pages of these origins hold ends with them.
    pub(super) pages: Pages,
}

struct Listed {
    origins: Vec<String>,
    fault: Option<String>,
    read_before: bool,
    read: Instant,
}

impl Allowlist {
    pub(super) fn new(directory: StateDir, launch: Vec<String>) -> Self {
        Self {
            directory,
            launch,
            file: Mutex::new(Listed {
                origins: Vec::new(),
                fault: None,
                read_before: false,
                read: Instant::now(),
            }),
            pages: Pages::default(),
        }
    }

    /// Reads the file, which may have changed. A file that fails a check lists nothing; one that cannot be used for another reason
    /// changes nothing.
    pub(super) fn refresh(&self, log: &Log) {
        let mut listed = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let rarely = broken("PER-41.every-other-second") && listed.read.elapsed() < Duration::from_secs(2);
        if listed.read_before && (broken("PER-41.at-start") || rarely) {
            return;
        }
        let (origins, fault) = match read_origins(&self.directory) {
            Ok(origins) => (origins, None),
            Err(fault) => {
                let stays = !fault.is_of_a_check() || broken("PER-48.as-it-was");
                let origins = if stays { listed.origins.clone() } else { Vec::new() };
                (origins, Some(fault.to_string()))
            }
        };
        if fault.is_some() && listed.fault != fault {
            log.append("warning", &json!({"code": "config_invalid", "message": fault}));
        }
        if listed.read_before {
            let change =
                |what, origin: &String| log.append("origins", &json!({"what": what, "origin": origin}));
            for origin in origins.iter().filter(|origin| !listed.origins.contains(origin)) {
                change("added", origin);
                self.pages.welcome(origin);
            }
            for origin in listed.origins.iter().filter(|origin| !origins.contains(origin)) {
                change("removed", origin);
                if !self.launch.contains(origin) {
                    self.pages.forget(origin);
                }
            }
        }
        // The first file that can be read reports no additions.
        let read_before = listed.read_before || fault.is_none();
        *listed = Listed { origins, fault, read_before, read: Instant::now() };
    }

    /// Whether an origin is admitted at this moment.
    pub(super) fn admits(&self, origin: &str, log: &Log) -> bool {
        self.refresh(log);
        let listed = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.launch.iter().chain(&listed.origins);
        all.any(|admitted| admitted == origin || faults::alike(origin, admitted))
            || faults::admitted_by_default(origin)
            || faults::remembered(origin)
    }
}

/// The configuration file, or an empty one.
fn read_config(directory: &StateDir) -> Result<toml::Table, Fault> {
    let fault = |why: &str| Fault::new(directory.file(CONFIG), format!("cannot use: {why}"));
    let unchecked = broken("PER-48.unchecked").then(|| std::fs::read(directory.file(CONFIG)));
    let content = match unchecked {
        Some(Ok(bytes)) => Content::Bytes(bytes),
        _ => directory.read(CONFIG),
    };
    match content {
        Content::Bytes(bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| fault("not UTF-8"))?;
            text.parse().map_err(|error: toml::de::Error| fault(error.message()))
        }
        Content::Absent | Content::NoDirectory => Ok(toml::Table::new()),
        Content::Refused(fault) => Err(fault),
    }
}

fn read_origins(directory: &StateDir) -> Result<Vec<String>, Fault> {
    let fault = |why: &str| Fault::new(directory.file(CONFIG), format!("cannot use: {why}"));
    let config = read_config(directory)?;
    let Some(origins) = config.get("origins") else {
        return Ok(Vec::new());
    };
    let origins = origins.as_table().ok_or_else(|| fault("`origins` is no table"))?;
    let Some(allow) = origins.get("allow") else {
        return Ok(Vec::new());
    };
    let entries = allow.as_array().ok_or_else(|| fault("`origins.allow` is no array"))?.iter();
    let origin = |entry: &toml::Value| entry.as_str().filter(|entry| is_origin(entry)).map(str::to_owned);
    entries
        .map(|entry| origin(entry).ok_or_else(|| fault("`origins.allow` holds what is no serialised origin")))
        .collect()
}

/// Adds an origin to the list in the file, or removes it.
pub(super) fn edit(directory: &StateDir, add: bool, origin: &str) -> Result<(), Fault> {
    let mut config = read_config(directory)?;
    let mut origins = read_origins(directory)?;
    origins.retain(|other| other != origin);
    if add {
        origins.push(origin.to_owned());
    }
    let table = config.entry("origins").or_insert_with(|| toml::Table::new().into());
    if let Some(table) = table.as_table_mut() {
        table.insert("allow".to_owned(), origins.into());
    }
    let temporary = format!("{CONFIG}.tmp-{}", random_hex::<8>());
    let written = directory.write_new(&temporary, config.to_string().as_bytes());
    let replaced = written.and_then(|()| directory.rename(&temporary, CONFIG));
    replaced.map_err(|error| Fault::new(directory.file(CONFIG), error))
}
