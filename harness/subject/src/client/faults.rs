//! The faults of the client.

use std::process::Command;
use std::{fs, io};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::credential::Credential;
use crate::fault::{Fault, broken, fault};
use crate::gate::protocol;
use crate::probe::Probe;
use crate::registration::{Found, Record, VERSION};
use crate::state_directory::faults::{TOLD_DIRECTORY, TOLD_PIPE};
use crate::state_directory::{RECORD, StateDir};

/// Every one, in the order of the specification's chapters.
pub(crate) const FAULTS: &[Fault] = &[
    fault("DIR-3.environment-first", "the variable counts more than the option"),
    fault("DIR-3.runtime-dir", "XDG_RUNTIME_DIR is the default where it is set"),
    fault("DIR-3.not-read", "does not read the variable"),
    fault("DIR-3.old-name-still-read", "reads the variable that was once for all components"),
    fault("DIR-3.other-components-read", "reads any variable whose name ends like its own"),
    fault("DIR-3.hyphen-kept", "leaves the hyphen in the variable's name"),
    fault("DIR-3.relative", "a relative XDG_STATE_HOME is taken, from wherever the client is"),
    fault("DIR-14.link", "opens record and credential through a symbolic link"),
    fault("DIR-14.directory-link", "opens the state directory through a symbolic link"),
    fault("DIR-14.directory", "does not ask who owns the directory and who may enter it"),
    fault("DIR-14.record", "uses a record whatever its owner and mode are"),
    fault("DIR-14.credential", "uses a credential whatever its owner and mode are"),
    fault("DIR-14.owner", "looks at modes and not at owners"),
    fault("DIR-14.write-bits", "minds who may write, not who may read"),
    fault("DIR-14.too-long", "reads a file however long it is"),
    fault("DIR-14.fifo", "opens a FIFO and waits for its writer"),
    fault("DIR-14.silent", "says invalid without path and fault"),
    fault("DIR-16.directory", "creates the directory with the usual umask"),
    fault("DIR-16.lock", "creates the lock with the usual umask"),
    fault("DIR-16.log", "creates the log with the usual umask"),
    fault("DIR-16.umask-applies", "leaves the umask as it is"),
    fault("DIR-20.fifo", "waits for the reader of a FIFO that has the name of the log"),
    fault("DIR-20.link", "opens the log through a symbolic link"),
    fault("DIR-20.owner", "does not check the owner of the log"),
    fault("DIR-20.null", "goes on without a log if it cannot open it"),
    fault("DIR-21.log", "sets the mode of the log that it finds"),
    fault("DIR-22.client", "makes the directory for its daemon whoever those above it belong to"),
    fault("DIR-23.client", "leaves the modes of the parents to the umask"),
    fault("REG-9.mark", "skips a byte order mark"),
    fault("REG-9.trailing", "reads the first value and leaves the rest"),
    fault("REG-9.equal-keys", "takes the last of two equal keys"),
    fault("REG-9.null", "takes a null member for a missing one"),
    fault("REG-9.optional", "does not look at the types of optional members"),
    fault("REG-9.id", "accepts an id in upper case"),
    fault("REG-9.pid", "accepts a pid that is a fraction or a text"),
    fault("REG-9.version", "accepts no empty version"),
    fault("REG-10.normalised", "asks a URL library for the host"),
    fault("REG-10.prefix", "looks only at how the URL begins"),
    fault("REG-10.any-scheme", "accepts https"),
    fault("REG-10.letters", "compares the host without regard to case"),
    fault("REG-10.net", "accepts all of 127.0.0.0/8"),
    fault("REG-10.port", "accepts leading zeros in the port"),
    fault("REG-10.trimmed", "trims white space first"),
    fault("REG-10.no-slash", "accepts no final slash"),
    fault("REG-10.numeric", "does not accept localhost"),
    fault("REG-11.error", "ends with an error at a malformed record"),
    fault("REG-11.silent", "says nothing of a malformed record"),
    fault("REG-12.strict", "refuses unknown members"),
    fault("REG-13.presence", "takes a record for a daemon that is just busy"),
    fault("REG-13.pid", "takes a process at the recorded pid for the daemon"),
    fault("REG-13.dead-pid", "takes a missing process at the recorded pid for the daemon's end"),
    fault("CRED-10.url", "sends the credential in the query"),
    fault("CRED-10.error", "quotes the credential in an error"),
    fault("CRED-10.argument", "hands the credential to its child as an argument"),
    fault("CRED-10.environment", "hands the credential to its child in the environment"),
    fault("CRED-14.in-place", "writes the new credential over the old one"),
    fault("CRED-14.remove-first", "removes the old credential, then renames"),
    fault("CRED-14.loose", "leaves the new credential with the usual mode"),
    fault("CRED-15.client-dumps", "leaves a core dump of the client"),
    fault("CONV-29.stale", "removes a record behind which nobody is"),
    fault("CONV-29.aside", "renames a record behind which nobody is"),
    fault("CONV-29.late", "removes the record of a daemon that did not answer in time"),
    fault("CONV-29.foreign", "removes a record behind which a stranger is"),
    fault("CONV-29.malformed", "removes a malformed record"),
    fault("CONV-29.spawn", "removes the record before it spawns"),
    fault("CONV-29.taken", "tidies up the taken files"),
    fault("CONV-29.repair", "repairs after a time-out too"),
    fault("CONV-30.unlinks", "repairs by an unlink of the record"),
    fault("CONV-30.elsewhere", "repairs the record of another host or of a network namespace that lives"),
    fault(
        "CONV-30.dead-namespace",
        "repairs a record that was not refused because its network namespace is gone",
    ),
    fault("CONV-30.broken-off", "repairs a record whose daemon breaks the connection off"),
    fault("CONV-31.stale", "signals the pid of a stale record"),
    fault("CONV-31.late", "signals the pid of a daemon that did not answer in time"),
    fault("CONV-31.foreign", "signals the recorded pid where a stranger answers"),
    fault("CONV-31.unproven", "a forced stop signals the recorded pid where nothing proved itself"),
    fault("CONV-31.recorded", "a forced stop signals the recorded pid though the daemon told another"),
    fault("CONV-31.told", "a forced stop signals the told pid though the record has another"),
    fault("CONV-31.unasked", "a plain stop signals where the request is refused"),
    fault("CONV-36.signals", "a forced stop signals the recorded pid of another pid namespace"),
    fault("CONV-38.mtime", "repairs taken files by the time of their last write"),
    fault("CONV-38.any-age", "repairs a taken file whenever nobody listens at its address"),
    fault("CONV-39.by-age", "repairs old taken files without a question to their daemon"),
    fault("CONV-32.restarts", "starts a displaced daemon again"),
    fault("HS-24.no-bound", "waits for a handshake as long as for the whole call"),
    fault("HS-24.each-read", "gives each read of a handshake 2 s"),
    fault("HS-25.bearer", "asks with the bearer"),
    fault("HS-25.after-refusal", "asks with the bearer after a 401"),
    fault("HS-25.new-connection", "stops the daemon on another connection than the one that proved itself"),
    fault("HS-26.unproven", "believes an answer without a proof"),
    fault("HS-26.form", "believes any proof of the right form"),
    fault("HS-26.reflected", "believes its own MAC"),
    fault("HS-26.first-header", "believes the first of two proofs"),
    fault("HS-26.draining-first", "believes that something drains before it has proved itself"),
    fault("HS-27.any-id", "takes whichever daemon proves itself for the recorded one"),
    fault("HS-28.constant", "makes the nonce from the address"),
    fault("HS-28.once", "draws one nonce a call"),
    fault("HS-29.follows", "follows a redirect"),
    fault("HS-30.http-proxy", "asks HTTP_PROXY"),
    fault("HS-30.all-proxy", "asks ALL_PROXY"),
    fault("HS-31.body", "reads a body without end"),
    fault("HS-31.a-byte-more", "takes a body of 64 KiB and a byte"),
    fault("HS-31.interim", "has a bound for each interim answer, and none for all of them"),
    fault("HS-31.chunks", "has a bound for each line that frames a chunk, and none for all of them"),
    fault("HS-31.trailers", "has a bound for each trailer, and none for all of them"),
    fault("HS-31.header", "reads a header without end"),
    fault("HS-32.first", "takes localhost for 127.0.0.1"),
    fault("HS-32.resolver", "takes localhost for [::1]"),
    fault("HS-33.ready", "takes draining for ready"),
    fault("HS-33.fails", "gives up at once when the daemon drains"),
    fault("HS-33.spawns", "starts a daemon beside one that drains"),
    fault("GATE-4.prefix", "compares as much as the shorter identifier has"),
    fault("GATE-4.name", "compares the names alone"),
    fault("GATE-4.newer", "accepts a higher number"),
    fault("GATE-4.number", "compares the numbers alone"),
    fault("GATE-4.letters", "compares without regard to case"),
    fault("GATE-5.record", "wants the recorded version to begin like its own"),
    fault("GATE-5.handshake", "wants the told version to begin like its own"),
    fault("GATE-6.refuses", "does not ask where the record names another protocol"),
    fault("GATE-6.believes", "judges by the protocol that the record names"),
    fault("GATE-7.absent", "reports another protocol as absent"),
    fault("GATE-7.stale", "reports another protocol as stale"),
    fault("GATE-7.any-spec", "does not look at the version of the specification"),
    fault("GATE-8.always", "displaces any incompatible daemon"),
    fault("GATE-8.older", "displaces a newer daemon too"),
    fault("GATE-8.other-name", "displaces a daemon of another name and a lower number"),
    fault("GATE-8.text", "compares the numbers as texts"),
    fault("CONN-1.merged", "calls stale absent"),
    fault("CONN-2.one", "exits with 1 whatever is wrong"),
    fault("CONN-2.zero", "exits with 0 whatever is wrong"),
    fault("CONN-2.merged", "exits with 10 for stale"),
    fault("CONN-3.prose", "prints JSON for success alone"),
    fault("CONN-3.chatter", "prints a line before the JSON"),
    fault("CONN-4.unproven", "is ready with an answer without a proof"),
    fault("CONN-4.any-id", "is ready with a daemon of another id"),
    fault("CONN-4.any-protocol", "is ready with a daemon of any protocol"),
    fault("CONN-4.draining", "is ready with a daemon that drains"),
    fault("CONN-5.malformed", "reports a malformed record as invalid"),
    fault("CONN-5.missing", "reports a missing record as stale"),
    fault("CONN-6.refused", "reports a refused connection as absent"),
    fault("CONN-6.reset-is-stale", "reports a reset connection as stale"),
    fault("CONN-6.other", "reports another daemon as foreign"),
    fault("CONN-7.close-is-stale", "reports a connection that was closed without an answer as stale"),
    fault("CONN-7.reset-is-foreign", "reports a connection that breaks off as foreign"),
    fault("CONN-7.gone-is-busy", "takes a refusal at the second probe for silence"),
    fault("CONN-7.second-unheard", "does not believe the proof of a second probe"),
    fault("CONN-7.not-again", "does not ask again when the connection breaks off"),
    fault("CONN-7.late", "reports a daemon that does not answer as stale"),
    fault("CONN-7.draining", "reports a daemon that drains as stale"),
    fault("CONN-8.unauthorized", "reports a 401 as stale"),
    fault("CONN-8.not-found", "reports a 404 as stale"),
    fault("CONN-8.unavailable", "reports a 503 as busy"),
    fault("CONN-8.nonsense", "reports what is no HTTP as stale"),
    fault("CONN-9.absent", "takes a refused record for a missing one"),
    fault("CONN-9.no-credential", "takes a refused credential for a missing one"),
    fault("CONN-9.silent", "does not say what is wrong with which path"),
    fault("CONN-9.no-record", "looks at the credential only if there is a record"),
    fault("CONN-37.sandbox-is-stale", "takes EPERM and EACCES for a refusal"),
    fault("CONN-37.emfile-is-stale", "takes EMFILE and ENFILE for a refusal"),
    fault("CONN-37.no-port-is-stale", "takes EADDRNOTAVAIL for a refusal"),
    fault("CONN-37.no-route-is-stale", "takes ENETUNREACH and EHOSTUNREACH for a refusal"),
    fault("CONN-37.no-buffers-is-busy", "takes ENOBUFS for silence"),
    fault("CONN-37.any-is-foreign", "takes any other error for a stranger"),
    fault("CONN-37.missing-family", "takes a family that this host does not have for a failure of its own"),
    fault("CONN-37.silent", "does not say why it cannot connect"),
    fault("CONN-52.believed", "takes every refusal for the other side's"),
    fault("CONN-38.spawns", "starts a daemon if it cannot ask"),
    fault("CONN-38.not-running", "says that no daemon runs if it cannot ask"),
    fault("CONN-38.repairs", "repairs a record whose daemon it cannot ask"),
    fault("CONN-38.removes", "removes the record of a daemon that it cannot ask"),
    fault("CONN-38.signals", "ends the process of a daemon that it cannot ask"),
    fault("CONN-39.ignored", "asks at the address of another host"),
    fault("CONN-39.stale", "takes the daemon of another host for gone"),
    fault("CONN-39.connects", "connects before it looks at the host"),
    fault("CONN-40.ignored", "asks at the address of an earlier boot"),
    fault("CONN-40.connects", "connects before it looks at the boot"),
    fault("CONN-40.unreachable", "reports a daemon of an earlier boot as one that it cannot ask"),
    fault("CONN-51.lock-ignored", "does not look whether a daemon of another boot lives"),
    fault("CONN-41.ignored", "asks at the address of another network namespace"),
    fault("CONN-41.always", "takes every daemon of another network namespace for alive"),
    fault("CONN-41.stale", "does not look whether a daemon lives in the other network namespace"),
    fault("CONN-41.connects", "connects to the address of a network namespace that is gone"),
    fault("CONN-41.pidns", "takes another pid namespace for another network"),
    fault("CONN-49.gives-up", "does not replace a daemon that it cannot ask"),
    fault("CONN-49.child-yields", "does not tell its child to replace a daemon that it cannot ask"),
    fault("CONN-10.none", "has no deadline"),
    fault("CONN-10.own", "keeps to its own deadline, whatever the caller's is"),
    fault("CONN-10.long", "takes 20 s where nobody says how long"),
    fault("CONN-11.remembers", "asks the daemon of the call before first"),
    fault("CONN-12.spawns", "starts a daemon though it was told not to"),
    fault("CONN-12.directory", "creates the directory before it looks"),
    fault("CONN-12.lock", "creates the lock before it looks"),
    fault("CONN-13.spawns", "starts a daemon beside one that drains"),
    fault("CONN-13.same-record", "asks the draining daemon again and reads no other record"),
    fault("CONN-14.once", "does not read again"),
    fault("CONN-14.reports", "does not read again before it reports"),
    fault("CONN-14.spawns", "does not read again before it spawns"),
    fault("CONN-15.crowd", "lets every caller publish a daemon of its own"),
    fault("CONN-16.no-lock", "does not wait for the lock"),
    fault("CONN-17.for-ever", "waits for the lock as long as it takes"),
    fault("CONN-17.fails", "fails without the lock"),
    fault("CONN-18.once", "does not look again when it has the lock"),
    fault("CONN-19.kept", "keeps the lock as long as it waits"),
    fault("CONN-20.again", "starts another daemon when the first one fails"),
    fault("CONN-21.no-budget", "starts daemons however many have failed"),
    fault("CONN-21.many", "gives up after ten failures"),
    fault("CONN-21.silent", "gives up without the child's words"),
    fault("CONN-21.holds-back", "holds back a restart that the user asks for"),
    fault("CONN-22.displaces", "does not tell its child to yield"),
    fault("CONN-23.waits", "asks at the old address while it waits for the new one"),
    fault("CONN-24.own-child", "waits for the record of its own child alone"),
    fault("CONN-25.late", "takes the end of a child that yielded for a failure in the end"),
    fault("CONN-25.waits", "does not ask the daemon of before the spawn when its child yielded"),
    fault("CONN-25.error", "takes the end of a child that yielded for a failure"),
    fault("CONN-26.deadline", "learns of its child's end by its own deadline"),
    fault("CONN-26.gives-up", "fails with its child, whoever else is there"),
    fault("CONN-27.swallowed", "does not repeat what its child said"),
    fault("CONN-30.same-session", "gives the child a process group, not a session"),
    fault("CONN-30.same-group", "leaves the child in its own process group"),
    fault("CONN-30.ends-with-it", "ends the child when it ends itself"),
    fault("CONN-31.input", "leaves its standard input to the child"),
    fault("CONN-31.output", "leaves its standard output to the child"),
    fault("CONN-31.errors", "leaves its standard error to the child"),
    fault("CONN-31.descriptors", "leaves every other descriptor to the child"),
    fault("CONN-32.callers", "leaves the child in the caller's directory"),
    fault("CONN-33.unreaped", "sees its child's end and does not reap it"),
    fault("CONN-42.counts", "counts a program that cannot be executed as a failed daemon"),
    fault("CONN-42.could-not-ask", "counts a child that could not ask as a failed daemon"),
    fault("CONN-43.silent", "does not say when another daemon may be started"),
    fault("CONN-44.old-words", "repeats the end of the log, whichever daemon wrote it"),
    fault("CONN-45.silent", "does not say how the child ended"),
    fault("CONN-46.wait", "starts a process in between, and takes a status that is missing for a failure"),
    fault("CONN-47.mask", "leaves the signal mask to the child"),
    fault("CONN-47.ignored", "leaves ignored signals to the child"),
    fault("CONN-48.umask", "gives the child the usual umask"),
    fault("CONN-48.limits", "leaves the limits to the child"),
    fault("CONN-50.stops-first", "stops the daemon, and then looks whether another can be started"),
    fault("CONN-50.program-alone", "does not look at the log before it stops the daemon"),
    fault("CONN-50.log-alone", "does not look at the program before it stops the daemon"),
    fault("CONN-34.signal", "signals the daemon that it displaces"),
    fault("CONN-34.removes", "removes the record of the daemon that it displaces"),
    fault("CONN-34.replaces-first", "removes the record of the daemon that it is told to displace"),
    fault("CONN-35.shared", "runs the private daemon in the shared directory"),
    fault("CONN-35.daemon-left", "leaves the private daemon behind"),
    fault("CONN-35.all-left", "leaves the end of the private daemon to the system"),
    fault("CONN-35.directory-left", "leaves the private directory behind"),
    fault("CONN-36.early", "reports success when the old daemon has ended"),
    fault("CONN-36.hopeful", "reports whichever daemon is there after the stop"),
    fault("CONN-36.busy", "takes a daemon that does not answer for stopped"),
];

/// Passes to a child what it should find out by itself.
pub(super) fn tell_the_child(directory: &StateDir, command: &mut Command) {
    if broken("DIR-18.directory") {
        command.env(TOLD_DIRECTORY, directory.path());
    }
    if broken("DIR-18.pipe") {
        command.env(TOLD_PIPE, "6");
    }
    if let Ok(Some(credential)) = Credential::read(directory) {
        if broken("CRED-10.environment") {
            command.env("SUBJECT_CREDENTIAL", credential.text());
        }
        if broken("CRED-10.argument") {
            command.arg("--allow-origin").arg(format!("http://{}.localhost", credential.text()));
        }
    }
}

/// Starts a process in between, whose status counts, in the fault CONN-46.wait.
pub(super) fn try_to_start() -> io::Result<()> {
    if broken("CONN-46.wait") {
        Command::new(std::env::current_exe()?).arg("exit").status()?;
    }
    Ok(())
}

/// Waits for the end of a child and leaves it as it is.
pub(super) fn see_its_end(pid: u32) {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else {
        return;
    };
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let _ = waitid(WaitId::Pid(pid), ended);
    loop {
        std::thread::park();
    }
}

/// Whether a child has ended, reaped or not.
pub(super) fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Ends the process of this number.
pub(super) fn end(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Ends the process that the record names, whoever that is.
pub(super) fn end_recorded(directory: &StateDir) {
    if let Found::Record(record) = Record::read(directory, RECORD) {
        end(record.pid);
    }
}

/// The record of the last daemon that was ready.
const LAST: &str = "last-daemon";

/// The daemon that an earlier call was ready with.
pub(super) fn remembered(directory: &StateDir) -> Option<Record> {
    if !broken("CONN-11.remembers") {
        return None;
    }
    Record::parse(&fs::read(directory.file(LAST)).ok()?).ok()
}

/// Remembers a daemon for later calls.
pub(super) fn remember(directory: &StateDir, record: &Record) {
    if broken("CONN-11.remembers") {
        let _ = fs::write(directory.file(LAST), record.to_json());
    }
}

/// What is done about a record whose probe has failed.
pub(super) fn after_a_probe(directory: &StateDir, record: &Record, probed: &Probe) {
    match probed {
        Probe::Refused(_) => {
            if broken("CONV-29.stale") {
                remove_record(directory);
            }
            if broken("CONV-29.aside") {
                let _ = directory.rename(RECORD, &format!("{RECORD}.stale"));
            }
            if broken("CONV-31.stale") {
                end(record.pid);
            }
        }
        Probe::Late(_) | Probe::Broken(_) => {
            if broken("CONV-29.late") {
                remove_record(directory);
            }
            if broken("CONV-31.late") {
                end(record.pid);
            }
        }
        Probe::Foreign(_) => {
            if broken("CONV-29.foreign") {
                remove_record(directory);
            }
            if broken("CONV-31.foreign") {
                end(record.pid);
            }
        }
        Probe::Proven(..) | Probe::Unreachable(_) => {}
    }
}

/// Does what is wrong about a record whose daemon cannot be asked.
pub(super) fn where_it_cannot_ask(directory: &StateDir, record: &Record) {
    if broken("CONN-38.removes") {
        remove_record(directory);
    }
    if broken("CONN-38.signals") {
        end(record.pid);
    }
}

/// What is done to the state directory before a daemon is started in it.
pub(super) fn before_a_spawn(directory: &StateDir) {
    if broken("CONV-29.spawn") || broken("CONN-34.removes") {
        remove_record(directory);
    }
    if broken("CONV-29.taken") {
        for name in directory.names(&format!("{RECORD}.taken-")) {
            let _ = directory.unlink(&name);
        }
    }
}

/// Whether a version begins with another number than the own one.
pub(super) fn is_of_another_release(version: &str) -> bool {
    version.split('.').next() != VERSION.split('.').next()
}

/// Whether another protocol is taken for the own one.
pub(super) fn tolerates(theirs: &str, ours: &str) -> bool {
    let number = |identifier| protocol(identifier).map_or(0, |(_, number)| number);
    let name = |identifier| protocol(identifier).map(|(name, _)| name);
    (broken("GATE-4.prefix") && (theirs.starts_with(ours) || ours.starts_with(theirs)))
        || (broken("GATE-4.name") && name(theirs) == name(ours))
        || (broken("GATE-4.newer") && name(theirs) == name(ours) && number(theirs) >= number(ours))
        || (broken("GATE-4.number") && number(theirs) == number(ours))
        || (broken("GATE-4.letters") && theirs.eq_ignore_ascii_case(ours))
        || broken("CONN-4.any-protocol")
}

/// Whether a daemon of another protocol is displaced that should not be.
pub(super) fn displaces(theirs: &str, ours: &str) -> bool {
    let (Some((their_name, their_number)), Some((our_name, our_number))) = (protocol(theirs), protocol(ours))
    else {
        return false;
    };
    broken("GATE-8.always")
        || (broken("GATE-8.older") && their_name == our_name)
        || (broken("GATE-8.other-name") && their_number < our_number)
        || (broken("GATE-8.text") && their_name == our_name && theirs < ours)
}

/// Takes the record away.
pub(super) fn remove_record(directory: &StateDir) {
    let _ = directory.unlink(RECORD);
}
