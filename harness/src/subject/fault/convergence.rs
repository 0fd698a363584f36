//! The faults of convergence, chapter 06.

use super::{Fault, fault};

pub(super) const FAULTS: &[Fault] = &[
    fault(
        "CONV-1.notified-only",
        "re-reads the record only when it is notified",
    ),
    fault(
        "CONV-1.slow-poll",
        "re-reads the record every 6 s, and asks for no notification",
    ),
    fault(
        "CONV-2.polls",
        "re-reads the record every second, and asks for no notification",
    ),
    fault(
        "CONV-3.whole-record",
        "takes a record that differs in any member for another's",
    ),
    fault("CONV-3.by-pid", "knows its record by the pid"),
    fault("CONV-4.once", "takes one unparsable read for a displacement"),
    fault(
        "CONV-4.at-once-again",
        "reads an unparsable record again, without a pause",
    ),
    fault(
        "CONV-4.same-file",
        "reads the file again that it has opened, and not the name",
    ),
    fault(
        "CONV-4.grows",
        "takes an unparsable record that grows for its successor's",
    ),
    fault("CONV-5.runs-on", "waits for a record that can be parsed"),
    fault("CONV-5.clears", "removes a record that cannot be parsed"),
    fault(
        "CONV-6.stands-down",
        "takes a record that cannot be read for another's",
    ),
    fault(
        "CONV-6.removed",
        "takes a record that cannot be read for a removed one",
    ),
    fault(
        "CONV-7.republishes",
        "publishes again after a pause, as its record may be old",
    ),
    fault("CONV-7.settles", "gives the machine 5 s after a pause"),
    fault(
        "CONV-7.goes-by-an-old-look",
        "publishes again when there was a pause since it read its own id",
    ),
    fault(
        "CONV-8.no-bound",
        "waits for its streams and requests as long as they take",
    ),
    fault(
        "CONV-8.waits-for-connections",
        "waits for the end of idle connections too",
    ),
    fault("CONV-9.unlinks", "removes the record when it is displaced"),
    fault(
        "CONV-9.clears-the-dead",
        "removes the record of a process that is dead when it is displaced by it",
    ),
    fault(
        "CONV-9.moves-aside",
        "moves the record aside when it is displaced",
    ),
    fault("CONV-9.restores", "puts its record back when it is displaced"),
    fault(
        "CONV-9.takes-back",
        "puts its record back when the daemon that displaced it is draining",
    ),
    fault("CONV-10.goes-on", "takes new work as long as it runs"),
    fault("CONV-11.ready-again", "is ready again when its record returns"),
    fault(
        "CONV-11.publishes-again",
        "publishes again if its successor leaves while it drains",
    ),
    fault("CONV-12.status-zero", "ends with status 0 when it is displaced"),
    fault("CONV-33.status-one", "ends with status 1 when it is stopped"),
    fault(
        "CONV-13.settling",
        "ignores who publishes in its first two seconds",
    ),
    fault(
        "CONV-13.older-record",
        "ignores a record that was written a while ago",
    ),
    fault(
        "CONV-13.yielding-stays",
        "stays for the client that started it when it is displaced by its like",
    ),
    fault(
        "CONV-13.taken-file",
        "leaves when any daemon of the directory stops",
    ),
    fault(
        "CONV-13.stops-with-it",
        "ends when the daemon that it was to displace has stopped meanwhile",
    ),
    fault("CONV-14.unread", "moves the record without having read it"),
    fault("CONV-15.unlinks", "reads the record, compares, and removes it"),
    fault(
        "CONV-15.backup-name",
        "moves the record to one name that all daemons share",
    ),
    fault(
        "CONV-15.makes-sure",
        "removes the record where the file that it took is gone",
    ),
    fault("CONV-16.keeps-the-taken", "leaves its taken file"),
    fault("CONV-16.keeps-the-record", "ends without touching the record"),
    fault("CONV-17.clears", "removes whatever it took"),
    fault(
        "CONV-17.clears-the-dead",
        "removes what it took if the process that it names is dead",
    ),
    fault("CONV-17.puts-back", "renames what it took by mistake back"),
    fault("CONV-18.tries-again", "tries to move the record until it can"),
    fault("CONV-18.unlinks-instead", "removes a record that it cannot move"),
    fault(
        "CONV-18.mends",
        "sets the record's mode right before it takes it off",
    ),
    fault(
        "CONV-19.after-the-drain",
        "takes its record off when the drain is over",
    ),
    fault("CONV-20.once", "hears the first stop signal only"),
    fault("CONV-21.stands-down", "does not look for taken files"),
    fault(
        "CONV-21.under-the-lock",
        "publishes again under a lock of registration.lock",
    ),
    fault("CONV-22.keeps", "leaves the taken files from which it came back"),
    fault(
        "CONV-22.by-name",
        "removes the taken files that bear its id in their name, too",
    ),
    fault(
        "CONV-22.one",
        "leaves all but one of the taken files from which it came back",
    ),
    fault(
        "CONV-22.clears-all",
        "removes every taken file when it comes back",
    ),
    fault(
        "CONV-23.publishes-again",
        "publishes again when its record was removed",
    ),
    fault("CONV-23.runs-on", "runs on without a record"),
    fault("CONV-24.creates-again", "creates a directory that was removed"),
    fault("CONV-24.runs-on", "runs on without a state directory"),
    fault(
        "CONV-25.record-later",
        "makes sure for 4 s that the record stays away",
    ),
    fault(
        "CONV-25.directory-later",
        "makes sure for 4 s that the directory stays away",
    ),
    fault("CONV-26.never", "publishes although it was told to yield"),
    fault("CONV-26.status-one", "calls it an error to yield"),
    fault(
        "CONV-26.after-publishing",
        "publishes first, and then looks whether to yield",
    ),
    fault("CONV-27.any-record", "yields to any record of another daemon"),
    fault("CONV-27.busy", "yields to who does not answer"),
    fault("CONV-27.unproven", "yields to who answers and proves nothing"),
    fault("CONV-27.draining", "yields to a daemon that is draining"),
    fault("CONV-27.other-protocol", "yields to a daemon of another protocol"),
    fault("CONV-27.older", "yields to a daemon of an older protocol"),
    fault(
        "CONV-34.asks-once",
        "does not ask who published while it asked another",
    ),
    fault(
        "CONV-28.ends-the-old",
        "ends the process that the old record names",
    ),
    fault("CONV-28.ends-the-new", "ends the process that displaced it"),
];
