#!/usr/bin/env python3
"""A client of the tally, which finds the daemon, proves it, and starts it where there is none (chapter 09).

    client.py connect [--state-dir DIR] [--no-spawn] [--replace] [--deadline SECONDS] [--json]
    client.py rotate  [--state-dir DIR]
"""

import argparse
import fcntl
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time

import contract
import files
from contract import CREDENTIAL, FOREIGN, LATE, LOCK, RECORD, REFUSED, SPEC, UNREACHABLE, Malformed
from files import Refused

STATUS = {"ready": 0, "absent": 10, "stale": 11, "busy": 12, "foreign": 13, "incompatible": 14, "invalid": 15}
STATUS |= {"spawn-failed": 16, "unreachable": 17}
LOCK_BOUND = 1.0  # seconds that it waits for the lock, and that it holds it (CONN-17, CONN-19)
POLL_FIRST, POLL_LAST = 0.025, 0.25  # seconds between two looks while it waits (CONN-28)
MOST_FAILURES, MINUTE = 3, 60.0  # spawns that did not become ready, in how many seconds (CONN-21)
LOG, FAILURES = "daemon.log", "spawn-failures.json"
COULD_NOT_ASK = 17  # the exit status of a daemon that could not ask the one of the record (CONV-35)
RAISED = (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_DATA)  # CONN-48


class Outcome(Exception):
    """The end of a call: one of the words of STATUS, and for `ready` the daemon's record (CONN-1). `counts`: whether a
    start that ended like this is one of the failures of CONN-21."""

    def __init__(self, word, text="", record=None, counts=True):
        super().__init__(text)
        self.word, self.text, self.record, self.counts = word, text, record, counts


class Client:
    def __init__(self, options):
        self.directory = files.state_dir(options.state_dir, "tally")
        self.spawns, self.replace = not options.no_spawn, options.replace
        self.protocol = os.environ.get("TALLY_PROTOCOL", "tally/1")
        self.deadline = time.monotonic() + options.deadline  # of the whole call (CONN-10)
        self.seen = None  # the record that was probed last, which is not asked again after a spawn (CONN-23)
        self.lock = None

    def left(self):
        return max(self.deadline - time.monotonic(), 0)

    # Looking.

    def read(self):
        """The record that is there now, or None. Nothing is concluded from a record alone (REG-13)."""
        path = os.path.join(self.directory, RECORD)
        try:
            files.check_state_dir(self.directory)
            return contract.parse_record(files.read_checked(path))
        except FileNotFoundError:
            self.absent = f"there is no {path}"
        except Malformed as fault:
            self.absent = f"{path} is malformed: {fault}"  # as good as none, but said (REG-11)
        return None

    def judge(self, record):
        """What a record's daemon is, as an Outcome; `draining` besides the words of STATUS."""
        self.seen, at = record, record["url"]
        where, why = contract.place(self.directory, record)
        if where == contract.ELSEWHERE:
            return Outcome("unreachable", f"the daemon at {at} cannot be asked: {why}")
        if where == contract.GONE:
            return Outcome("stale", f"the daemon at {at} has gone: {why}")
        path = os.path.join(self.directory, CREDENTIAL)
        try:
            credential = contract.read_credential(path)
        except FileNotFoundError:
            return Outcome("invalid", f"{path}: there is a record and no credential")
        kind, status, body = contract.probe(record, credential, min(contract.PROBE, self.left()))
        if kind == REFUSED:
            return Outcome("stale", f"nobody listens at {at}")
        if kind == UNREACHABLE:
            return Outcome("unreachable", f"the daemon at {at} cannot be asked: {body}")  # the client's own (CONN-37)
        if kind == LATE:
            return Outcome("busy", f"the daemon at {at} does not answer in time")  # and may be alive (CONN-7)
        if kind == FOREIGN:
            return Outcome("foreign", f"what answers at {at} does not prove itself")
        if body.get("id") != record["id"]:
            return Outcome("stale", f"another daemon has the port of {at}")  # HS-27
        if body.get("spec") != SPEC:
            return Outcome("incompatible", f"the daemon at {at} is of another contract")
        if body.get("state") == "draining":
            return Outcome("draining", f"the daemon at {at} is leaving")
        theirs = body.get("protocol")
        if theirs != self.protocol:  # the whole text, and of nothing but the proven answer (GATE-4 to GATE-6)
            outcome = Outcome("incompatible", f"the daemon speaks {theirs}, this client {self.protocol}")
            outcome.displaceable = type(theirs) is str and contract.may_displace(self.protocol, theirs)
            return outcome
        if body.get("state") != "ready" or status != 200:
            return Outcome("foreign", f"the daemon at {at} is in no known state")
        return Outcome("ready", record=record)  # CONN-4

    def look(self):
        """Reads and probes, and reads again before anything is concluded (CONN-11, CONN-14). Raises `ready`."""
        while record := self.read():
            outcome = self.judge(record)
            if outcome.word == "ready":
                raise outcome
            if outcome.word == "draining" or self.read() == record or not self.left():
                return outcome
        try:
            contract.read_credential(os.path.join(self.directory, CREDENTIAL))  # a bad one counts here too (CONN-9)
        except FileNotFoundError:
            pass
        return Outcome("absent", self.absent)

    def connect(self):
        """One call. Always ends in an Outcome."""
        outcome, poll = self.look(), POLL_FIRST
        while True:
            if outcome.word == "draining":  # its successor is there or about to be: no spawn now (CONN-13, HS-33)
                time.sleep(min(poll, self.left()))
                poll = min(poll * 2, POLL_LAST)
                if not self.left():
                    raise Outcome("busy", outcome.text)
                outcome = self.look()
            elif not self.spawns or self.barred(outcome):
                raise outcome
            elif self.lock is None:
                self.have_lock()  # then looks again: whoever held it has just started a daemon (CONN-18)
                outcome = self.look()
            else:
                self.spawn()

    def barred(self, outcome):
        """Whether a daemon was found that this client must not displace: an incompatible one (GATE-8), and one that it
        cannot ask (CONN-38), unless it has the order to replace that (CONN-49)."""
        displaceable = self.replace or getattr(outcome, "displaceable", False)
        return outcome.word in ("incompatible", "unreachable") and not displaceable

    # Starting a daemon.

    def have_lock(self):
        """Waits for the lock, for a second at most; without it the call goes on all the same (CONN-16, CONN-17)."""
        files.have_state_dir(self.directory)
        self.lock = -1
        until = time.monotonic() + min(LOCK_BOUND, self.left())
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self.lock = os.open(os.path.join(self.directory, LOCK), flags, 0o600)
            while True:
                try:
                    return fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= until:
                        return self.unlock()
                    time.sleep(POLL_FIRST)
        except OSError:
            self.unlock()

    def unlock(self):
        if self.lock is not None and self.lock >= 0:
            os.close(self.lock)
        self.lock = -1

    def spawn(self):
        """Starts one daemon, which is told to yield (CONN-20, CONN-22), and waits for whichever comes."""
        failures = self.failures()
        if len(failures) >= MOST_FAILURES:
            seconds = math.ceil(failures[0][0] + MINUTE - time.time())
            when = f"{MOST_FAILURES} starts failed within a minute, the next may be in {seconds} s"  # CONN-43
            raise Outcome("spawn-failed", f"{when}; the last: {failures[-1][1]}")
        own = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "daemon.py")]
        program = [os.environ["TALLY_DAEMON"]] if os.environ.get("TALLY_DAEMON") else own
        log = files.open_log(os.path.join(self.directory, LOG))
        said = os.lseek(log, 0, os.SEEK_END)
        try:
            try:
                # A session of its own (CONN-30), nothing of ours but the log (CONN-31), and `/` (CONN-32).
                child = subprocess.Popen(
                    [*program, "--state-dir", self.directory, "--yield", *(["--replace"] if self.replace else [])],
                    **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": log},
                    **{"start_new_session": True, "cwd": "/", "close_fds": True, "preexec_fn": begin_afresh},
                )
            except OSError as error:  # the program did not run (CONN-42)
                raise Outcome("spawn-failed", f"{program[0]}: {error.strerror}", counts=False) from None
            self.wait(child, lambda: os.pread(log, 4096, said).decode(errors="replace").strip())
        except Outcome as outcome:
            if outcome.word != "ready" and outcome.counts:
                entry = [time.time(), outcome.text]
                files.replace(os.path.join(self.directory, FAILURES), json.dumps([*failures, entry]).encode())
            raise
        finally:
            os.close(log)

    def failures(self):
        """Time and text of each spawn of the last minute that did not become ready (CONN-21)."""
        try:
            content = files.read_checked(os.path.join(self.directory, FAILURES))
            return [[at, text] for at, text in json.loads(content) if 0 <= time.time() - at < MINUTE][-MOST_FAILURES:]
        except (OSError, Refused, ValueError, TypeError):
            return []

    def wait(self, child, said):
        """Probes each new record, whoever published it (CONN-24), until one is ready, the child fails or time is up."""
        began, poll, last = time.monotonic(), POLL_FIRST, Outcome("spawn-failed", "no daemon was ready in time")
        while True:
            status = child.poll()  # and no zombie stays (CONN-33)
            if status == 0:
                self.seen = None  # it yielded: a daemon is there, and may be the one from before (CONN-25)
            if status is not None or time.monotonic() - began > LOCK_BOUND:
                self.unlock()  # CONN-19
            if (record := self.read()) and record != self.seen:
                outcome = self.judge(record)
                if outcome.word == "ready":
                    raise outcome
                if outcome.word in ("draining", "busy"):
                    self.seen = None  # not its last word
                last = Outcome("busy", outcome.text) if outcome.word in ("draining", "busy") else last
            if status:  # an error, and nobody else is ready (CONN-26)
                how = f"status {status}" if status > 0 else f"signal {-status}"
                text = f"the daemon ended with {how}: {said()}"  # CONN-27, CONN-44, CONN-45
                raise Outcome("spawn-failed", text, counts=status != COULD_NOT_ASK)
            if not self.left():
                raise last
            time.sleep(min(poll, self.left()))
            poll = min(poll * 2, POLL_LAST)


def begin_afresh():
    """Between fork and exec: no blocked or ignored signal is left to the daemon, and no lowered limit (CONN-47, CONN-48);
    the umask is main()'s."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for limit in RAISED:
        most = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most, most))


def rotate(directory):
    """Replaces the credential as a whole (CRED-14); a running daemon follows."""
    files.check_state_dir(directory)
    files.replace(os.path.join(directory, CREDENTIAL), contract.base64url(os.urandom(32)).encode() + b"\n")


def main():
    contract.dump_nothing()
    os.umask(0o077)  # what it creates is for its owner alone (DIR-16)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an ignored one leaves no status of a child (CONN-46)
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["connect", "rotate"])
    parser.add_argument("--state-dir", metavar="DIR")
    parser.add_argument("--no-spawn", action="store_true", help="start nothing, change nothing")
    parser.add_argument("--replace", action="store_true", help="displace an incompatible daemon")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", default=10.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    client = Client(options)
    try:
        rotate(client.directory) if options.command == "rotate" else client.connect()
        return 0
    except Outcome as end:
        outcome = end
    except (Refused, OSError) as fault:
        outcome = Outcome("invalid", str(fault))  # the path and the fault (CONN-9, DIR-14)
    told = {"outcome": outcome.word}
    if outcome.record:
        told |= {member: outcome.record[member] for member in ("id", "url", "pid", "version")}
    if outcome.text:
        told["error"] = outcome.text
    print(json.dumps(told) if options.json else "\n".join(f"{name}: {value}" for name, value in told.items()))  # CONN-3
    return STATUS[outcome.word]  # CONN-2


if __name__ == "__main__":
    sys.exit(main())
