//! Publishing: chapter 05.

mod failing;
mod listener;
mod replacing;
mod whole;

use crate::case::Case;

/// The cases of the chapter.
pub(crate) const CASES: &[Case] = &[
    Case::core(
        "publish/loopback-only",
        &["PUB-1"],
        "Every TCP port on which the processes of a ready daemon listen is looked up; each has a loopback address.",
        listener::loopback_only,
    ),
    Case::core(
        "publish/port-is-exclusive",
        &["PUB-2"],
        "While a daemon is ready, sockets that ask for port sharing (SO_REUSEPORT, SO_REUSEADDR) and one that does not \
         try to bind its port. The same kind of socket was seen to share another port.",
        listener::port_is_exclusive,
    ),
    Case::core(
        "publish/partial-record-never-observed",
        &["PUB-3", "PUB-7"],
        "200 daemons (fewer where they start slowly) are started over each other, ten at a time, while readers open and \
         read the record as fast as they can. Stems from paseo#4803.",
        whole::partial_record_never_observed,
    )
    .deadline_s(60),
    Case::core(
        "publish/answers-from-the-first-instant",
        &["PUB-4"],
        "At the very notification that a record came into place, a handshake goes to its URL. Many daemons publish over \
         each other. Stems from opencode 1.18, which accepted connections before it served.",
        whole::answers_from_the_first_instant,
    )
    .deadline_s(40),
    Case::core(
        "publish/temporary-of-its-own-renamed-into-place",
        &["PUB-5"],
        "The events of many publishes are followed: each record comes by a rename from a file that was created in the \
         state directory for it, under a name that no other publish used.",
        whole::temporary_of_its_own,
    )
    .deadline_s(60),
    Case::core(
        "publish/last-writer-wins",
        &["PUB-7"],
        "A second daemon is started on the state directory of a healthy one, which has run for longer than a re-read \
         interval and gives no sign of leaving.",
        replacing::last_writer_wins,
    ),
    Case::core(
        "publish/replaces-whatever-stands-there",
        &["PUB-7"],
        "Daemons are started where the record is stale, names a living process, is empty, cut, oversized or of loose \
         mode, or is a symbolic link. Stems from claude-code#72898 and paseo#1304.",
        replacing::replaces_whatever_stands_there,
    ),
    Case::core(
        "publish/locks-of-others-do-not-hold-it-up",
        &["PUB-8"],
        "The suite holds exclusive locks, of both kinds that Unix has, on the lock file, and one on every other file of \
         the state directory and on the directory; a daemon is started.",
        replacing::locks_of_others,
    ),
    Case::core(
        "publish/killed-at-every-step-recovers",
        &["PUB-9", "PUB-3"],
        "A first launch and a launch over an old record are watched event by event. Then each is repeated and killed \
         (SIGKILL) at each of these events, and a daemon is started on what is left. Stems from paseo#4803.",
        failing::killed_at_every_step,
    )
    .deadline_s(100),
    Case::core(
        "publish/cannot-publish-and-says-so",
        &["PUB-10"],
        "At the record's name there is a directory with a file in it, over which nothing can be renamed.",
        failing::cannot_publish,
    ),
    Case::core(
        "publish/failed-start-leaves-files",
        &["PUB-11"],
        "Starts fail because no file may be written beyond a few bytes, because the record cannot be replaced, and \
         because the credential's mode is loose. Stems from bitcoin#28784.",
        failing::failed_start_leaves_files,
    ),
    Case::core(
        "publish/own-record-never-rewritten",
        &["PUB-12"],
        "A daemon that owns its record is left to its re-reads for 2.5 s, with requests and other changes in its state \
         directory; every event about the record is looked at.",
        failing::own_record_never_rewritten,
    ),
    Case::core(
        "publish/failed-publish-leaves-no-temporary",
        &["PUB-13"],
        "A publish fails at its last step, and the names in the state directory are compared with those before.",
        failing::failed_publish_leaves_no_temporary,
    ),
];
