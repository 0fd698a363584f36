#!/usr/bin/env python3
"""Runs the test vectors of `spec/vectors` against these modules, as `spec/vectors/README.md` says."""

import base64
import json
import os
import pathlib
import stat
import sys

import contract
import files
import perimeter

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "spec" / "vectors"


def content(case, name="input"):
    plain = case.get(f"{name}_base64")
    data = base64.b64decode(plain) if plain is not None else case[name].encode()
    return data.ljust(case.get("pad_to", 0), b" ")


def accepts(parse, data):
    """Whether `parse` takes it, within the bound that whatever reads the file sets."""
    try:
        return len(data) <= files.MOST and parse(data) is not None
    except contract.Malformed:
        return False


def url(case):
    match = contract.URL.fullmatch(case["input"])
    return (match[1] if int(match[3]) <= 65535 else None) if match else None


def proof(case):
    kind = case["kind"]
    if kind == "authorization":
        return perimeter.parse_proof(case["input"]) is not None
    if kind == "answer":
        return contract.parse_answer(case["values"]) is not None
    secret, authority, nonce = case["credential"], case["authority"], case["nonce"]
    if kind == "verify-client":
        return contract.equal(contract.client_mac(secret, authority, nonce), case["mac"])
    daemon = contract.daemon_mac(secret, authority, nonce, content(case, "body"))
    if kind == "verify-daemon":
        return contract.equal(daemon, case["mac"])
    return (contract.client_mac(secret, authority, nonce), daemon) == (case["client_mac"], case["daemon_mac"])


def protocol(case):
    if case["kind"] == "identifier":
        return contract.parse_protocol(case["input"]) is not None
    displaces = contract.may_displace(case["ours"], case["theirs"])
    assert displaces == case["may_displace"], f"may_displace is {displaces}: {case['name']}"
    return case["ours"] == case["theirs"]


def origin(case):
    if case["kind"] == "entry":
        return perimeter.serialised_origin(case["input"])
    decision = perimeter.origin_of(case["origins"], case["host"], lambda: case["allowlist"])
    assert decision == case["decision"], f"decided {decision}: {case['name']}"
    return decision != "refused"


def host(case):
    fault = perimeter.host_fault(case["hosts"], case["target"], case["port"])
    assert fault is None or case["accept"] or fault in case["statuses"], f"refused with {fault}: {case['name']}"
    return fault is None


def note(case):
    try:
        return contract.is_read_alike(contract.strict_json(content(case)))
    except contract.Malformed:
        return False


def permission(case):
    kinds = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}
    if case["type"] == "symlink":
        return False  # never opened
    owner = os.geteuid() + (case["owner"] == "other")
    mode = kinds[case["type"]] | int(case["mode"], 8)
    facts = os.stat_result((mode, 0, 0, 1, owner, 0, case.get("size", 0), 0, 0, 0))
    try:
        files.check("it", facts, stat.S_ISDIR if case["object"] == "directory" else stat.S_ISREG)
        return True
    except files.Refused:
        return False


JUDGES = {
    "records": lambda case: accepts(contract.parse_record, content(case)),
    "urls": lambda case: url(case) is not None and url(case) == case.get("authority"),
    "credentials": lambda case: accepts(contract.parse_credential, content(case)),
    "permissions": permission,
    "proof": proof,
    "protocols": protocol,
    "hosts": host,
    "origins": origin,
    "notes": note,
}

wrong, count = 0, 0
for name, judge in JUDGES.items():
    for case in json.loads((VECTORS / f"{name}.json").read_text())["cases"]:
        count += 1
        if judge(case) != case["accept"]:
            wrong += 1
            print(f"{name}/{case['name']}: must be {'accepted' if case['accept'] else 'refused'}: {case['why']}")
print(f"{count - wrong} passed, {wrong} failed")
sys.exit(wrong > 0)
