//! Launcher files: the command that wrote one may be gone when its ticket has ended.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use local_daemon::StateDir;
use local_daemon::browser::TICKET_LIFETIME;

use super::Context;

/// How often launcher files are looked at while there are any, the first time when the first ticket has ended: none gets
/// as old as 60 s.
const EVERY: Duration = Duration::from_secs(10);

/// Removes launcher files whose ticket has ended (BROW-17).
pub(super) async fn sweep(context: Arc<Context>) {
    let directory = StateDir::at(context.handle.state_dir());
    loop {
        while remove_ended(&directory) > 0 {
            tokio::time::sleep(EVERY).await;
        }
        context.launchers.notified().await;
        tokio::time::sleep(TICKET_LIFETIME).await;
    }
}

/// Removes them, and says how many are left.
fn remove_ended(directory: &StateDir) -> usize {
    let (ended, live): (Vec<_>, Vec<_>) =
        directory.launchers().unwrap_or_default().into_iter().partition(|path| has_ended(path));
    for path in ended {
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "a launcher file could not be removed");
        }
    }
    live.len()
}

/// Whether the ticket in a launcher file works no more, by the clock of the files. One from the future is of a clock that
/// was set back, and nobody's.
pub(crate) fn has_ended(path: &Path) -> bool {
    let written = fs::symlink_metadata(path).and_then(|facts| facts.modified());
    written.is_ok_and(|written| written.elapsed().map_or(true, |age| age > TICKET_LIFETIME))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use local_daemon::state_directory::LAUNCHER;

    use super::*;
    use crate::daemon::tests::start;

    /// Hours of the paused clock.
    async fn until(is_so: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if is_so() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("it never came");
    }

    #[tokio::test(start_paused = true)]
    async fn a_launcher_is_gone_within_a_minute_of_its_ticket() {
        let (dir, started) = start().await;
        let sweeper = tokio::spawn(sweep(started.context.clone()));
        let launcher = |name: &str, age| {
            let path = dir.path().join(format!("{LAUNCHER}{name}.html"));
            let file = File::create(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            (path, file)
        };
        let began = tokio::time::Instant::now();
        started.context.launchers.notify_one();
        let (ended, _) = launcher("ended", TICKET_LIFETIME + Duration::from_secs(1));
        let (live, file) = launcher("live", Duration::ZERO);
        until(|| !ended.exists()).await;
        assert!(live.exists() && began.elapsed() < Duration::from_mins(1));
        // Its ticket ends too, and nobody tells of another.
        file.set_modified(SystemTime::now() - 2 * TICKET_LIFETIME).unwrap();
        until(|| !live.exists()).await;
        sweeper.abort();
    }
}
