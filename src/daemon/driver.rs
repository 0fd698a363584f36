//! The driver: performs what the claim asks for, from the launch until it has exited.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use local_daemon_proto::claim::{ClaimEffect, ClaimEvent, Reason};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use super::Error;
use super::publication::Readiness;
use super::shared::Shared;
use crate::platform::Watch;
use crate::state_directory::{FileError, StateDir};

/// Performs the effects of the claim until it has exited. A daemon that cannot publish ends with the error (PUB-10) and
/// has changed no file of another's (PUB-11).
pub(super) async fn drive(
    shared: &Arc<Shared>,
    watch: Option<AsyncFd<Watch>>,
    drain: Duration,
    readiness: &mut Readiness,
) -> Result<Reason, Error> {
    let mut files = Files::default();
    // It ends with this call, also if that is dropped.
    let mut watching = JoinSet::new();
    if let Some(watch) = watch {
        watching.spawn(follow(watch, shared.clone()));
    }
    let mut failure = None;
    let mut unreachable = None;
    loop {
        let Some(effect) = shared.claim().effect() else {
            break;
        };
        let outcome = match effect {
            ClaimEffect::Await(bound) => {
                shared.wait(bound.min(shared.patience())).await;
                shared.look_at_origins();
                // Binds the port on a family that has come up meanwhile.
                shared.other_family.try_hold();
                ClaimEvent::Done
            }
            ClaimEffect::Pause(bound) => {
                shared.pause(bound).await;
                ClaimEvent::Done
            }
            ClaimEffect::Drain => {
                shared.drain(drain).await;
                ClaimEvent::Done
            }
            ClaimEffect::Probe(record) => {
                let url = record.url;
                let (outcome, detail) = shared.probe(record).await;
                unreachable = detail.map(|detail| Error::Unreachable { url, detail });
                outcome
            }
            ClaimEffect::Close => ClaimEvent::Done,
            effect => {
                let performed = files.perform(shared, &effect);
                let why = performed.as_ref().err().map(ToString::to_string);
                shared.conditions.note(&format!("the state directory does not allow {effect:?}"), why);
                performed.unwrap_or_else(|fault| {
                    failure = Some(fault);
                    ClaimEvent::Failed
                })
            }
        };
        let (serving, reason) = {
            let mut claim = shared.claim();
            claim.handle(outcome);
            (claim.is_serving(), claim.reason())
        };
        if serving && !shared.published.send_replace(true) {
            readiness.say(&format!("ready {}", shared.id));
            shared.streams.ready();
        }
        if let Some(why) = reason
            && shared.reason.send_if_modified(|now| now.replace(why).is_none())
        {
            tracing::info!(id = %shared.id, reason = why.as_str(), "standing down");
            let cause = shared.cause.get().copied().unwrap_or("signal");
            shared.streams.end(why, cause, &shared.state_dir);
        }
    }
    match (shared.claim().reason(), failure) {
        (Some(Reason::Failed), Some(fault)) => {
            readiness.say(&format!("failed {fault}"));
            Err(fault.into())
        }
        (Some(Reason::Unreachable), failure) => {
            let nothing_known = Error::Unreachable { url: shared.url, detail: String::new() };
            let error = unreachable.or(failure.map(Error::from)).unwrap_or(nothing_known);
            readiness.say(&format!("unreachable {error}"));
            Err(error)
        }
        (reason, _) => {
            readiness.say("yielded");
            Ok(reason.unwrap_or(Reason::Failed))
        }
    }
}

/// Wakes the driver when the state directory changes. It only makes things faster: the driver also wakes by itself.
async fn follow(watch: AsyncFd<Watch>, shared: Arc<Shared>) {
    while let Ok(mut ready) = watch.readable().await {
        ready.get_inner().take();
        ready.clear_ready();
        shared.changed.notify_one();
    }
}

/// The temporary and the taken file of this daemon.
#[derive(Default)]
struct Files {
    temporary: Option<PathBuf>,
    taken: Option<PathBuf>,
    /// Held from right before the first publish until the process ends (REG-15). It is not taken earlier, because a daemon
    /// that may yield tests it: two of them would keep each other out.
    life_lock: Option<File>,
}

impl Files {
    fn perform(&mut self, shared: &Shared, effect: &ClaimEffect) -> Result<ClaimEvent, FileError> {
        let state_dir = &shared.state_dir;
        Ok(match effect {
            ClaimEffect::WriteTemporary => {
                self.drop_temporary(state_dir)?;
                self.temporary = Some(state_dir.write_temporary(&shared.registration())?);
                ClaimEvent::Done
            }
            ClaimEffect::DropTemporary => {
                self.drop_temporary(state_dir)?;
                ClaimEvent::Done
            }
            ClaimEffect::ReadRecord => ClaimEvent::Record(shared.look()?),
            ClaimEffect::Publish => match self.temporary.take() {
                Some(temporary) => {
                    let temporary = self.hold_life_lock(shared, temporary)?;
                    state_dir.publish(&temporary).inspect_err(|_| self.temporary = Some(temporary))?;
                    tracing::info!(id = %shared.id, url = %shared.url, path = %state_dir.path().display(), "published");
                    ClaimEvent::Done
                }
                None => ClaimEvent::Failed,
            },
            ClaimEffect::ListTaken => ClaimEvent::Taken(!state_dir.taken_of(shared.id)?.is_empty()),
            ClaimEffect::UnlinkTaken => {
                for taken in state_dir.taken_of(shared.id)? {
                    state_dir.unlink_taken(&taken)?;
                }
                ClaimEvent::Done
            }
            ClaimEffect::Take => {
                self.taken = state_dir.take(shared.id)?;
                if self.taken.is_some() { ClaimEvent::Done } else { ClaimEvent::Missing }
            }
            ClaimEffect::ReadTaken => match &self.taken {
                Some(taken) => ClaimEvent::Record(state_dir.read_taken(taken)),
                None => ClaimEvent::Missing,
            },
            ClaimEffect::UnlinkOwn => {
                if let Some(taken) = self.taken.take() {
                    state_dir.unlink_taken(&taken)?;
                }
                ClaimEvent::Done
            }
            // What the driver or the launch performs.
            ClaimEffect::Listen
            | ClaimEffect::ReadCredential
            | ClaimEffect::CreateCredential
            | ClaimEffect::Probe(_)
            | ClaimEffect::Await(_)
            | ClaimEffect::Pause(_)
            | ClaimEffect::Drain
            | ClaimEffect::Close => ClaimEvent::Failed,
        })
    }

    /// Takes a share of the life lock, once. A daemon that cannot have it leaves `netns` and `boot` out of its record, whose
    /// temporary file is written again (REG-15).
    fn hold_life_lock(&mut self, shared: &Shared, temporary: PathBuf) -> Result<PathBuf, FileError> {
        if self.life_lock.is_some() || shared.world.netns.is_none() {
            return Ok(temporary);
        }
        let fault = match shared.state_dir.hold_life_lock() {
            Ok(lock) => {
                self.life_lock = Some(lock);
                return Ok(temporary);
            }
            Err(fault) => fault,
        };
        tracing::warn!(error = %fault, "the life lock is not held, so the record does not tell the network namespace");
        shared
            .state_dir
            .drop_temporary(&temporary)
            .inspect_err(|_| self.temporary = Some(temporary))?;
        let mut record = shared.registration();
        (record.world.netns, record.world.boot) = (None, None);
        shared.state_dir.write_temporary(&record)
    }

    fn drop_temporary(&mut self, state_dir: &StateDir) -> Result<(), FileError> {
        self.temporary.take().map_or(Ok(()), |temporary| state_dir.drop_temporary(&temporary))
    }
}
