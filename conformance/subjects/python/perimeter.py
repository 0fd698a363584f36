"""What a request is allowed before any route sees it, and how a refusal reads (chapter 10)."""

import ipaddress
import json
import os
import re

import contract
import files

CONFIG = "config.toml"

PLAIN = r"[A-Za-z0-9._~!$&'()*+,;=-]"
HOST = re.compile(
    rf"(?:\[(?:[vV][0-9a-fA-F]+\.(?:{PLAIN}|:)+|(?P<address>[0-9a-fA-F:.]+))\]|(?:{PLAIN}|%[0-9a-fA-F]{{2}})+)"
    r"(?::[0-9]*)?",
    re.ASCII,
)
ABSOLUTE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)", re.ASCII)
PROOF = re.compile(r'(?ia)local-daemon-proof +(nonce|mac)="([^"]*)"[ \t]*,[ \t]*(nonce|mac)="([^"]*)"')


def serialised_origin(text):
    """Whether this may stand on the allowlist: one origin as a browser writes it (PER-40)."""
    host = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:]+\]"
    match = re.fullmatch(f"([a-z][a-z0-9+.-]*)://({host})(?::([1-9][0-9]{{0,4}}))?", text, re.ASCII)
    default = {"http": "80", "https": "443"}
    if not match or match[1] in ("file", "ftp", "ws", "wss"):
        return False  # no page has one of these
    if match[3] and (int(match[3]) > 65535 or match[3] == default.get(match[1])):
        return False
    host = match[2]
    try:
        if host[0] == "[":
            return str(ipaddress.IPv6Address(host[1:-1])) == host[1:-1]
        # What ends in a number is an IPv4 address to a browser, in whatever spelling.
        return not re.search(r"(^|\.)(\d+|0x[0-9a-f]*)\.?$", host) or str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False


def allowlist(directory):
    """The list of this moment, which is empty until the user adds to it (PER-39, PER-41), and if its file fails a check
    (PER-48)."""
    import tomllib  # here, because it takes longer to load than a start that needs no list should

    try:
        allowed = tomllib.loads(files.read_checked(os.path.join(directory, CONFIG)).decode())["origins"]["allow"]
        return [origin for origin in allowed if serialised_origin(origin)]
    except (OSError, files.Refused, ValueError, LookupError, TypeError):
        return []


def change_allowlist(directory, change, origin):
    """Adds or removes an origin; a running daemon sees it with its next request."""
    allowed = [other for other in allowlist(directory) if other != origin] + [origin] * (change == "add")
    # A TOML array of plain strings is written as a JSON array is.
    files.replace(os.path.join(directory, CONFIG), f"[origins]\nallow = {json.dumps(allowed)}\n".encode())


def is_host(text):
    """Whether this is a host, which is not empty, with an optional port, as RFC 3986 writes them (PER-5)."""
    match = HOST.fullmatch(text)
    try:
        return bool(match) and (match["address"] is None or bool(ipaddress.IPv6Address(match["address"])))
    except ValueError:
        return False


def host_fault(hosts, target, port):
    """The status that refuses the Host headers and the target's own authority, or None (PER-3 to PER-6)."""
    own = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    absolute = ABSOLUTE.match(target)
    names = hosts + ([absolute["authority"]] if absolute else [])
    if len(hosts) != 1 or not all(map(is_host, names)):
        return 400
    is_own = set(names) <= own and (not absolute or absolute["scheme"].lower() == "http")
    return None if is_own else 421


def origin_of(origins, host, allowed):
    """`absent`, `same`, `listed` or `refused` (PER-8 to PER-12). `allowed()` gives the list of this moment (PER-19)."""
    if not origins:
        return "absent"
    if len(origins) > 1 or origins[0] == "null":
        return "refused"
    return "same" if origins[0] == f"http://{host}" else "listed" if origins[0] in allowed() else "refused"


def parse_proof(text):
    """Nonce and MAC of an Authorization header, each once and of the right form, or None (HS-19)."""
    match = PROOF.fullmatch(text)
    given = {match[1].lower(): match[2], match[3].lower(): match[4]} if match else {}
    if len(given) < 2 or not all(contract.SECRET.fullmatch(value) for value in given.values()):
        return None
    return given["nonce"], given["mac"]


def prefers_text(accept):
    """Whether `text/plain` is given a higher quality than JSON, each by the closest range that covers it (PER-37)."""
    wanted = {}
    for part in ",".join(accept).lower().split(","):
        kind, *parameters = [word.strip() for word in part.split(";")]
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        wanted[kind] = float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 0.0

    def quality_of(*kinds):
        return next((wanted[kind] for kind in kinds if kind in wanted), 0.0)

    return quality_of("text/plain", "text/*", "*/*") > quality_of("application/json", "application/*", "*/*")


class Answer:
    def __init__(self, status, body=None, headers=(), kind="application/json", pieces=None):
        self.status, self.body, self.headers, self.kind, self.pieces = status, body, list(headers), kind, pieces


def problem(status, code, title, headers=()):
    """An error. It repeats nothing of the request, which may hold the credential (CRED-9, PER-27, PER-35)."""
    return Answer(status, {"title": title, "status": status, "code": code}, headers, "application/problem+json")
