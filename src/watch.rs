//! Change notification for the state directory. It only makes things faster: whoever waits also wakes by itself.

use std::path::Path;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::platform;

/// Calls `changed` from a thread of the watcher's whenever a name in the directory may mean something else than
/// before. `None` where notification cannot be had (inotify's limits, an unusual filesystem).
pub(crate) fn watch(directory: &Path, changed: impl Fn() + Send + 'static) -> Option<RecommendedWatcher> {
    if !platform::TELLS_CHANGES {
        return None;
    }
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reads and temporary files being written are not changes of what a name means.
        let matters = match event {
            Ok(event) => !matches!(event.kind, EventKind::Access(_)),
            Err(_) => true,
        };
        if matters {
            changed();
        }
    })
    .ok()?;
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
