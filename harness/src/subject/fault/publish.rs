//! The faults of publishing, chapter 05.

use super::{Fault, fault};

pub(super) const FAULTS: &[Fault] = &[
    fault("PUB-1.every-address", "listens on 0.0.0.0"),
    fault("PUB-1.both-families", "listens on ::, which takes IPv4 as well"),
    fault(
        "PUB-1.second-port",
        "listens on one more port, for other machines",
    ),
    fault(
        "PUB-2.shared-port",
        "asks for port sharing, so that a restart cannot fail",
    ),
    fault("PUB-3.in-place", "truncates the record and writes it"),
    fault(
        "PUB-3.removes-first",
        "removes the old record before it renames the new one",
    ),
    fault(
        "PUB-3.moves-aside",
        "keeps the old record as a backup, and then renames the new one",
    ),
    fault("PUB-3.renames-first", "renames the file while it still writes it"),
    fault("PUB-3.write-error-ignored", "renames what it could write"),
    fault("PUB-4.before-listen", "binds, publishes, and then listens"),
    fault(
        "PUB-4.serves-late",
        "listens, publishes, and serves when it has set up the rest",
    ),
    fault(
        "PUB-4.first-answer-late",
        "loads what it needs for an answer before the first one",
    ),
    fault(
        "PUB-4.in-a-hurry-after-a-stop",
        "publishes before it listens where it finds a credential and no record",
    ),
    fault(
        "PUB-5.one-name",
        "has one name for every temporary file, and truncates what is there",
    ),
    fault("PUB-5.clock-name", "names the temporary file by the second"),
    fault(
        "PUB-5.other-directory",
        "writes the temporary file where temporary files are",
    ),
    fault(
        "PUB-5.reuses-a-leftover",
        "writes into a temporary file that seems to have been left",
    ),
    fault("PUB-6.no-flush", "does not flush"),
    fault("PUB-6.flushes-early", "flushes the file before it writes it"),
    fault("PUB-6.flushes-late", "flushes the record when it is in place"),
    fault("PUB-7.living-pid", "gives way to a record whose process is alive"),
    fault(
        "PUB-7.healthy-stays",
        "gives way to a ready daemon without having been told to",
    ),
    fault(
        "PUB-7.settled-stays",
        "gives way to a ready daemon that has run for a while",
    ),
    fault(
        "PUB-7.only-if-unchanged",
        "gives way to whoever published since its start",
    ),
    fault(
        "PUB-7.not-over-malformed",
        "leaves a record that it cannot read to a person",
    ),
    fault(
        "PUB-7.not-over-loose",
        "leaves a record that others may write to a person",
    ),
    fault(
        "PUB-7.link-followed",
        "publishes where a link in the record's place leads",
    ),
    fault(
        "PUB-7.waits-for-another",
        "waits for the end of another publish that has begun",
    ),
    fault("PUB-8.lock-file", "publishes under a lock of registration.lock"),
    fault(
        "PUB-8.other-kind",
        "publishes under the other kind of lock of registration.lock",
    ),
    fault("PUB-8.record", "publishes under a lock of the record"),
    fault("PUB-8.directory", "publishes under a lock of the directory"),
    fault(
        "PUB-9.leftover",
        "takes a temporary file for a publish that goes on, and ends",
    ),
    fault(
        "PUB-9.empty-leftover",
        "takes an empty temporary file for a full disk, and ends",
    ),
    fault(
        "PUB-9.linked-leftover",
        "takes a credential that has a second name for somebody else's, and ends",
    ),
    fault(
        "PUB-9.lock-directory",
        "looks around under a lock directory, and ends where one is left",
    ),
    fault("PUB-9.pid-file", "ends where a pid file is left"),
    fault("PUB-10.runs-on", "runs on when it cannot publish"),
    fault("PUB-10.status-zero", "ends with status 0 when it cannot publish"),
    fault("PUB-10.no-path", "does not say what it could not publish"),
    fault(
        "PUB-10.directory-waited-for",
        "waits for a directory in the record's place to go away",
    ),
    fault("PUB-10.space-waited-for", "waits for space on a full disk"),
    fault(
        "PUB-11.clears-the-record",
        "removes the old record when it starts",
    ),
    fault("PUB-11.cleans-up", "removes record and credential when it fails"),
    fault(
        "PUB-11.cleans-up-after-a-flush",
        "removes the record when a flush fails",
    ),
    fault(
        "PUB-11.removes-a-refused-credential",
        "removes the credential that it refuses",
    ),
    fault("PUB-12.refreshes", "writes the record again every second"),
    fault(
        "PUB-12.refreshes-once",
        "writes the record again when it has run for 2 s",
    ),
    fault(
        "PUB-12.restores",
        "writes the record again when it is another text",
    ),
    fault(
        "PUB-12.touches",
        "sets the record's time every second, so that it looks alive",
    ),
    fault(
        "PUB-12.makes-sure",
        "writes the record again when something else in its directory was deleted",
    ),
    fault(
        "PUB-13.leaves-it",
        "leaves the temporary file of a publish that failed",
    ),
];
