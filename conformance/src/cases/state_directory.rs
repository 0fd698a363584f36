//! The state directory: chapter 02.

mod made;
mod place;
mod refused;

use std::path::{Path, PathBuf};

use local_daemon_harness::files::Snapshot;

pub(super) use self::refused::{between_good_starts, refused_as_it_is};
use crate::outcome::{Outcome, ensure};
use crate::stage::Stage;

/// Nothing in `directory` is other than in `before`.
fn unchanged(what: &str, directory: &Path, before: &Snapshot) -> Outcome {
    let differences = before.diff(&Snapshot::of(directory)?);
    let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
    ensure!(differences.is_empty(), "{what}: {}", differences.join(", "));
    Ok(())
}

/// A path beside the arena's state directory.
pub(super) fn beside(stage: &Stage, name: &str) -> PathBuf {
    stage.state_dir().with_file_name(name)
}
