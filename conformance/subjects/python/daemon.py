#!/usr/bin/env python3
"""A daemon that keeps a tally: a subject of the profiles core, proof, perimeter and streams, in Python's standard library.

    daemon.py [--state-dir DIR] [--yield [--replace]] [--allow-origin ORIGIN]...

The order of a launch is that of chapter 05: state directory, credential, listen, serve, publish. From then on the main
thread only watches the record, and each connection has a thread of its own. Written for Linux; ids such as CONV-1 name
requirements, whose text is in `spec/chapters`.
"""

import argparse
import fcntl
import json
import os
import signal
import stat
import sys
import time

import contract
import files
import perimeter
from contract import CREDENTIAL, RECORD, VERSION, Malformed
from files import Refused, Unread
from server import Server

REREAD = 0.5  # seconds between two looks at the record; 2 s is the most (CONV-1)
RETRIES, RETRY = 5, 0.06  # further reads of an unparsable record, seconds between them (CONV-4)
DRAIN = 3.0  # seconds for open work once the daemon stands down
DISPLACED = 20  # the exit status that tells a supervisor not to restart (CONV-12, CONV-32)
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGIO}


class Unpublished(Exception):
    """The record cannot be put in place."""


class Unreachable(Exception):
    """The record's daemon cannot be asked whether it is ready."""


class Daemon:
    def __init__(self, options):
        self.replaces = options.replace
        self.alive = None  # the descriptor of the lock that it holds for life (REG-15)
        self.protocol, self.allowed = options.protocol, options.allow_origin
        self.id = os.urandom(16).hex()  # REG-3, REG-4
        self.directory = files.state_dir(options.state_dir, "tally")
        self.path = os.path.join(self.directory, RECORD)
        self.leaving = False  # once true, never false again (CONV-11)
        self.server = Server(self)

    # A launch.

    def start(self, yields):
        """From nothing to published. False: there is a daemon to yield to."""
        files.have_state_dir(self.directory)
        self.credential = contract.have_credential(self.directory)
        self.server.start()  # it answers, `draining`, before anybody can read where (PUB-4)
        if not self.publish(self.another_is_ready if yields else lambda: False):
            return False
        self.server.log.append("lifecycle", {"what": "ready"})
        return True

    def another_is_ready(self):
        """CONV-26. A daemon that published during the probe is asked as well (CONV-34). One that cannot be asked is not
        published over (CONV-35). In every other case this one publishes, also if there is no good record (CONV-27)."""
        asked, why = None, None
        for _ in range(2):
            try:
                record = contract.parse_record(files.read_checked(self.path))
            except Unread as fault:
                if self.replaces:
                    return False
                raise Unreachable(str(fault)) from None  # CONV-37
            except (OSError, Refused, Malformed):
                return False
            if record == asked:
                break
            asked, why = record, None
            where, text = contract.place(self.directory, record)
            if where == contract.ELSEWHERE:
                why = text
            if where != contract.HERE:
                continue
            kind, status, body = contract.probe(record, self.credential)
            wanted = {"spec": contract.SPEC, "id": record["id"], "protocol": self.protocol, "state": "ready"}
            if kind == contract.PROVEN and status == 200:
                if all(body.get(member) == value for member, value in wanted.items()):
                    return True
            elif kind == contract.UNREACHABLE:
                why = body
        if why and not self.replaces:
            raise Unreachable(f"the daemon of {self.path} cannot be asked: {why}")
        return False

    def publish(self, unless=lambda: False):
        """Over whatever is there (PUB-7), whole at every moment (PUB-3). False: `unless` said so right before."""
        record = {"id": self.id, "version": VERSION, "url": f"http://{self.server.authority}", "pid": os.getpid()}
        record["protocol"] = self.protocol  # REG-8
        record |= contract.world()
        yielded = False

        def gives_way():
            nonlocal yielded
            yielded = unless()
            return yielded or not self.live()

        try:
            if files.replace(self.path, json.dumps(record).encode(), gives_way):
                return True
            record.pop("netns", None)  # without the lock (PUB-8) nothing can be told of it (REG-15)
            return not yielded and files.replace(self.path, json.dumps(record).encode())
        except OSError as error:
            raise Unpublished(f"{self.path}: cannot be published: {error.strerror}") from None  # PUB-10

    def live(self):
        """Whether it holds its lock, which it takes right before its first publish: a daemon that yields has none."""
        if self.alive is None:
            try:
                self.alive = contract.lock(self.directory, fcntl.LOCK_SH, os.O_RDWR | os.O_CREAT)
            except OSError:
                pass
        return self.alive is not None

    # Whose record is it? Only the main thread acts on it.

    def owner(self):
        """The id in the record, by a read of this moment (HS-15)."""
        return contract.parse_owner(files.read_checked(self.path))

    def owns(self):
        try:
            return self.owner() == self.id
        except (OSError, Refused, Malformed):
            return False

    def watch(self):
        """Looks at the record until there is a reason to stand down; returns the exit status for it (chapter 06)."""
        # SIGIO at a change in the directory saves the wait where there is one (CONV-2); nothing rests on it (CONV-1).
        wanted = fcntl.DN_CREATE | fcntl.DN_DELETE | fcntl.DN_RENAME | fcntl.DN_MODIFY | fcntl.DN_MULTISHOT
        try:
            fcntl.fcntl(files.open_checked(self.directory, stat.S_ISDIR), fcntl.F_NOTIFY, wanted)
        except (OSError, Refused):
            pass
        while True:
            if (status := self.look()) is not None:
                return status
            received = signal.sigtimedwait(SIGNALS, REREAD)
            self.follow_credential()
            if received and received.si_signo in (signal.SIGTERM, signal.SIGINT):
                return 0

    def follow_credential(self):
        """A replaced credential counts from now on (CRED-11, CRED-12); a missing or refused one does not (CRED-13)."""
        try:
            self.credential = contract.read_credential(os.path.join(self.directory, CREDENTIAL))
        except (OSError, Refused):
            pass

    def look(self):
        """The exit status for which there is a reason to stand down, or None."""
        for attempt in range(RETRIES + 1):
            if attempt:
                time.sleep(RETRY)  # somebody writes in place (CONV-4)
            try:
                # By the id alone, whatever else the record says (CONV-3, GATE-3).
                return None if self.owner() == self.id else DISPLACED
            except Malformed:
                continue
            except FileNotFoundError:
                return self.look_for_taken()
            except (OSError, Refused):
                return None  # says nothing about who owns it (CONV-6)
        return DISPLACED  # CONV-5

    def look_for_taken(self):
        """No record: somebody took it off by mistake and left it for this daemon to find, or it was removed."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return 0  # the directory is gone, and stays so (CONV-24)
        except OSError:
            return None
        taken = [os.path.join(self.directory, name) for name in names if name.startswith(f"{RECORD}.taken-")]
        own = [path for path in taken if self.is_own(path)]
        if not own:
            return 0  # CONV-23
        self.publish()  # CONV-21
        for path in own:  # and only these (CONV-22)
            files.unlink(path)
        return None

    def is_own(self, path):
        try:
            return contract.parse_owner(files.read_checked(path)) == self.id
        except (OSError, Refused, Malformed):
            return False

    # Standing down.

    def stand_down(self, status):
        self.leaving = True
        if status == 0 and self.owns():  # CONV-14
            taken = f"{self.path}.taken-{self.id}-{os.urandom(8).hex()}"
            try:
                os.rename(self.path, taken)  # never an unlink of the record (CONV-15), and before the drain (CONV-19)
                if self.is_own(taken):
                    os.unlink(taken)  # CONV-16; what is another's stays for that one to find (CONV-17)
            except OSError:
                pass  # CONV-18
        self.server.log.end("superseded" if status == DISPLACED else "shutdown")
        deadline = time.monotonic() + DRAIN
        while self.server.working and time.monotonic() < deadline:
            received = signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, 0.02)
            if received:
                break  # whoever asks twice means it (CONV-20)
        return status


def main():
    contract.dump_nothing()
    os.umask(0o077)  # nothing is open to others at any moment, whatever the caller's umask is (DIR-4, DIR-5)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # of all threads to come; watch() waits for them
    parser = argparse.ArgumentParser(description="Keeps a tally. `origins` says which web pages may ask for it.")
    parser.add_argument("--version", action="version", version=f"tally (Python) {VERSION}")
    parser.add_argument("--state-dir", metavar="DIR")
    parser.add_argument("--yield", dest="yields", action="store_true", help="end where a daemon is ready")
    parser.add_argument("--replace", action="store_true", help="do not yield to a daemon that cannot be asked")
    parser.add_argument("--allow-origin", metavar="ORIGIN", action="append", default=[])
    parser.add_argument("words", nargs="*", metavar="origins add|remove ORIGIN")
    options = parser.parse_args()
    options.protocol = os.environ.get("TALLY_PROTOCOL", "tally/1")
    if not contract.parse_protocol(options.protocol):
        parser.error("TALLY_PROTOCOL is no protocol identifier")
    if options.words and (options.words[:-1] not in (["origins", "add"], ["origins", "remove"])):
        parser.error("unknown command")
    for origin in options.allow_origin + options.words[2:]:
        if not perimeter.serialised_origin(origin):
            parser.error(f"not an origin as a browser writes it: {origin}")  # PER-40
    daemon = Daemon(options)
    try:
        if options.words:
            files.have_state_dir(daemon.directory)
            perimeter.change_allowlist(daemon.directory, options.words[1], options.words[2])
            status = 0
        else:
            status = daemon.stand_down(daemon.watch()) if daemon.start(options.yields) else 0
    except (Refused, Unpublished, Unreachable, OSError) as fault:
        print(f"tally: {fault}", file=sys.stderr, flush=True)  # path and fault (DIR-11, PUB-10)
        status = {Refused: 15, Unreachable: 17}.get(type(fault), 1)
    os._exit(status)  # connections that are still open end with the process (CONV-8)


if __name__ == "__main__":
    main()
