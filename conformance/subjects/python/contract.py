"""What a daemon and its local clients agree on: record, credential, proof, protocol (chapters 03, 04, 07 and 08)."""

import base64
import errno
import fcntl
import hashlib
import hmac
import json
import math
import os
import re
import resource
import socket
import time

import files
import http1
from files import MOST, Refused

VERSION = "1.0.0"  # of daemon and client; nothing is decided by it (GATE-5)
SPEC = "local-daemon/1"
HANDSHAKE = "/.well-known/local-daemon"
RECORD, CREDENTIAL, LOCK, ALIVE = "registration.json", "credential", "registration.lock", "daemon.alive"
WORLD = ("host", "boot", "netns", "pidns")
PROBE = 2.0  # seconds of one handshake (HS-24)
TEST_BOUND = 0.4  # seconds for which another process may hold the lock that only tests it

ID = re.compile("[0-9a-f]{32}")
# 32 bytes in base64url: the last character has two bits to spare.
SECRET = re.compile("[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
PROTOCOL = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})/([1-9][0-9]{0,9})", re.ASCII)
URL = re.compile(r"http://((127\.0\.0\.1|localhost|\[::1\]):([1-9][0-9]{0,4}))/?", re.ASCII)


class Malformed(Exception):
    """The content is wrong."""


# The record.


def strict_json(content):
    """One JSON object in UTF-8 with unique keys at every depth and nothing around it (REG-9). Unless it is told
    otherwise, Python's parser takes the last of two equal keys, NaN, and lone surrogates."""

    def unique(pairs):
        if len(dict(pairs)) != len(pairs):
            raise Malformed("two equal keys")
        return dict(pairs)

    def refuse(word):
        raise Malformed(f"{word} is no JSON")

    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on a lone surrogate
    except (ValueError, RecursionError) as error:  # ValueError: bad UTF-8 and bad JSON, a byte order mark among it
        raise Malformed(f"not one JSON text in UTF-8: {type(error).__name__}") from None
    if type(value) is not dict:
        raise Malformed("no JSON object")
    return value


def is_read_alike(value, levels=64):
    """Whether readers in other languages read this value of `strict_json` as this program does (STR-31)."""
    if isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        return levels > 0 and all(is_read_alike(member, levels - 1) for member in inner)
    try:
        return not isinstance(value, (int, float)) or math.isfinite(value)
    except OverflowError:  # an integer beyond the range of a double
        return False


def parse_owner(content):
    """The id alone, by which a daemon tells whose record it is (CONV-3)."""
    owner = strict_json(content).get("id")
    if type(owner) is not str or not ID.fullmatch(owner):
        raise Malformed("no id of 32 lowercase hexadecimal digits")
    return owner


def parse_record(content):
    """A record that a reader accepts, with `authority` and `addresses` out of its url (REG-9, REG-10, REG-12)."""
    parse_owner(content)
    record = strict_json(content)
    for member in ("version", "url", "protocol", "socket", "started_at", *WORLD):
        if (member in record or member in ("version", "url")) and type(record.get(member)) is not str:
            raise Malformed(f"{member} is no string")
    # bool is an int to Python, and 1.0 a float; neither is an integer here.
    if type(record.get("pid")) is not int or not 1 <= record["pid"] <= 2147483647:
        raise Malformed("pid is no integer from 1 to 2147483647")
    url = URL.fullmatch(record["url"])
    if not url or int(url[3]) > 65535:
        raise Malformed("url is no loopback address with a port")
    hosts = ("127.0.0.1", "::1") if url[2] == "localhost" else (url[2].strip("[]"),)  # HS-32
    return record | {"authority": url[1], "addresses": [(host, int(url[3])) for host in hosts]}


# The world of a daemon (chapter 03).


def world():
    """What this process knows of its own, in the forms of a record (REG-14)."""
    found = {}
    for member, kind in (("netns", "net"), ("pidns", "pid")):
        try:
            found[member] = os.readlink(f"/proc/self/ns/{kind}")
        except OSError:
            pass
    if boot := word("/proc/sys/kernel/random/boot_id"):
        found["boot"] = boot
    if machine := word("/etc/machine-id"):
        found["host"] = hmac.digest(machine.encode(), b"local-daemon/1 host", "sha256")[:16].hex()
    return found


def word(path):
    try:
        with open(path) as file:
            return "".join(file.read().split())
    except (OSError, ValueError):
        return ""


def lock(directory, kind, flags):
    """An open `daemon.alive` with that lock, or None if another process has one that excludes it."""
    fd = os.open(os.path.join(directory, ALIVE), flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + TEST_BOUND
    try:
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                if time.monotonic() >= until:
                    os.close(fd)
                    return None
                time.sleep(0.005)  # a process that only tests it is done in a moment
    except OSError:
        os.close(fd)
        raise


def a_daemon_lives(directory):
    """Whether a daemon holds its lock, or may hold it (CONN-40, CONN-41)."""
    try:
        fd = lock(directory, fcntl.LOCK_EX, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    if fd is not None:
        os.close(fd)
    return fd is None


HERE, ELSEWHERE, GONE = range(3)


def place(directory, record):
    """Where a record's daemon is, and why it is not to be asked. Only what both sides know is compared."""
    ours = world()
    same = {member: record[member] == ours[member] for member in WORLD if member in record and member in ours}
    if not same.get("host", True):
        return ELSEWHERE, "the record is of another host"  # CONN-39
    if not same.get("boot", True):  # CONN-40
        if "host" not in same:
            return HERE, ""
        if not a_daemon_lives(directory):
            return GONE, "the machine has been started again"
        # A container can have a boot of its own on the same machine.
        return (HERE, "") if same.get("netns") else (ELSEWHERE, "the daemon runs in another boot")
    if same.get("netns", True):
        return HERE, ""  # another pid namespace counts for signals alone
    if a_daemon_lives(directory):  # CONN-41
        return ELSEWHERE, "the daemon runs in another network namespace"
    return GONE, "the daemon's network namespace is gone"


# The credential and the proof.


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parse_credential(content):
    """The 43 characters, with or without one newline after them (CRED-6)."""
    text = content.removesuffix(b"\n").decode("latin-1")
    if not SECRET.fullmatch(text):
        raise Malformed("is not 43 characters of base64url that encode 32 bytes")
    return text


def read_credential(path):
    try:
        return parse_credential(files.read_checked(path))
    except Malformed as fault:
        raise Refused(path, fault) from None


def dump_nothing():
    """No core dump holds the credential (CRED-15): a file would be longer than a byte, and at exactly this limit no dump is
    piped to a program. What this process starts may raise its limit again."""
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (1 if most else 0, most))


def have_credential(directory):
    """Links a finished file to the name, replacing nothing, and adopts whichever is there then (CRED-1 to CRED-5)."""
    path = os.path.join(directory, CREDENTIAL)
    try:
        return read_credential(path)
    except FileNotFoundError:
        pass
    temporary = f"{path}.tmp-{os.urandom(8).hex()}"
    try:
        files.write_new(temporary, base64url(os.urandom(32)).encode() + b"\n")
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
    except OSError as error:
        raise Refused(path, f"cannot be written: {error.strerror}") from None
    finally:
        files.unlink(temporary)
    return read_credential(path)


def mac(credential, *lines):
    key = base64.urlsafe_b64decode(credential + "=")
    return base64url(hmac.digest(key, "\n".join(lines).encode(), "sha256"))


def client_mac(credential, authority, nonce):
    return mac(credential, f"{SPEC} client", authority, nonce)


def daemon_mac(credential, authority, nonce, body):
    """D binds the body, so that whoever sits in between cannot change it (HS-21)."""
    return mac(credential, f"{SPEC} daemon", authority, nonce, hashlib.sha256(body).hexdigest())


def equal(one, other):
    """Digests of equal length, compared in constant time (HS-12, PER-22)."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (one, other)]
    return hmac.compare_digest(*digests)


def parse_answer(values):
    """The MAC in the headers `Local-Daemon-Proof` of an answer: exactly one, of the right form (HS-21)."""
    match = re.fullmatch(f'"({SECRET.pattern})"', values[0]) if len(values) == 1 else None
    return match[1] if match else None


def parse_protocol(text):
    """Name and number of a protocol identifier, or None (GATE-1)."""
    match = PROTOCOL.fullmatch(text)
    return (match[1], int(match[2])) if match and int(match[2]) <= 2147483647 else None


def may_displace(ours, theirs):
    """Only the newer one of the same name, so that there is an end (GATE-8)."""
    ours, theirs = parse_protocol(ours), parse_protocol(theirs)
    return bool(ours and theirs) and ours[0] == theirs[0] and ours[1] > theirs[1]


# The probe, by which a client, and a daemon that was told to yield, learns who is at the recorded address.

# Of two answers, from the two addresses of `localhost`, the higher counts.
REFUSED, FOREIGN, LATE, UNREACHABLE, PROVEN = range(5)
OWN = 0.25  # seconds that a connection to a listener of its own may take


def probe(record, credential, patience=PROBE):
    """What the recorded address is, and the handshake's status and body if it proved itself (HS-24 to HS-32); the error
    of the system instead of the body if this process cannot ask."""
    addresses = record["addresses"]
    found = [(address, probe_address(address, record["authority"], credential, patience)) for address in addresses]
    # A family that this host does not have says nothing about the other one.
    there = [answer for address, answer in found if answer[0] != UNREACHABLE or has_family(address)]
    best = max(there or [answer for _, answer in found], key=lambda answer: answer[0])
    why = own_fault() if best[0] == REFUSED else None
    return (UNREACHABLE, 0, why) if why else best


def own_fault():
    """Why this process cannot reach a listener of its own either (CONN-52); None if it can, or cannot listen."""
    try:
        listener = socket.create_server(("127.0.0.1", 0))
    except OSError:
        return None
    with listener:
        try:
            sock = dial(listener.getsockname(), OWN)
        except OSError as error:
            return f"nor can a listener of its own be reached: {error}"
        listener.close()  # in this order the connection is reset, and keeps no port
        sock.close()
    return None


def dial(address, patience):
    sock = socket.socket(family(address))
    try:
        sock.settimeout(patience)
        sock.connect(address)
        return sock
    except BaseException:
        sock.close()
        raise


def family(address):
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def lacks_family(error):
    return error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def has_family(address):
    try:
        with socket.socket(family(address)) as sock:
            sock.bind((address[0], 0))
    except OSError as error:
        return not lacks_family(error)
    return True


def probe_address(address, authority, credential, patience, again=True):
    patience = max(patience, 0.001)  # 0 would mean: do not wait for the connection
    deadline = time.monotonic() + patience
    nonce = base64url(os.urandom(32))  # HS-28
    proof = f'Local-Daemon-Proof nonce="{nonce}", mac="{client_mac(credential, authority, nonce)}"'
    request = f"GET {HANDSHAKE} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: {proof}\r\nConnection: close\r\n\r\n"
    try:
        sock = dial(address, patience)
    except ConnectionRefusedError:
        return REFUSED, 0, None
    except TimeoutError:
        return LATE, 0, None
    except OSError as error:
        return UNREACHABLE, 0, str(error)  # CONN-37
    head = connection = None
    try:
        # No HTTP library: those follow redirects (HS-29), use proxies (HS-30) and read on without end (HS-31).
        with sock:
            sock.sendall(request.encode())
            connection = http1.Connection(sock, spare=MOST)
            head, status = connection.answer(deadline, MOST)
            body = head.whole_body(MOST)
    except TimeoutError:
        return LATE, 0, None
    except (ConnectionError, http1.Closed) as error:
        if isinstance(error, http1.Closed) and (connection.buffer or head):
            return FOREIGN, 0, None
        # Something listened, and may be about to end: once more, and then it counts as silent (CONN-7).
        left = deadline - time.monotonic()
        return probe_address(address, authority, credential, left, again=False) if again else (LATE, 0, None)
    except (OSError, http1.Broken):
        return FOREIGN, 0, None
    proof = parse_answer(head.all("local-daemon-proof"))
    if not proof or not equal(proof, daemon_mac(credential, authority, nonce, body)):
        return FOREIGN, 0, None  # whatever its status and its body are (HS-26)
    try:
        return PROVEN, status, strict_json(body)
    except Malformed:
        return FOREIGN, 0, None
