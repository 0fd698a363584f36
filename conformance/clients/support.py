"""What the scripts share: the daemon that is asked, and a line for each check."""

import json
import os
import time

STATE_DIR = os.environ["STATE_DIR"]
LOCALD = os.environ["LOCALD"]


def record():
    with open(f"{STATE_DIR}/registration.json", encoding="utf-8") as file:
        return json.load(file)


def url():
    return record()["url"]


def bearer():
    with open(f"{STATE_DIR}/credential", encoding="utf-8") as file:
        return {"Authorization": f"Bearer {file.read().strip()}"}


def line(verdict, client, text):
    print(f"{verdict:5} {client:26} {text}", flush=True)


def check(client, what, body):
    """Prints whether `body` passed, and what it raised if not."""
    try:
        body()
        line("ok", client, what)
    except Exception as error:  # Whatever a client raises is its verdict.
        said = " ".join(f"{type(error).__name__} {error}".split())
        line("FAIL", client, f"{what}: {said[:300]}")


def equal(actual, expected):
    if actual != expected:
        raise AssertionError(f"{actual!r}, expected {expected!r}")


def until(is_met, seconds=10):
    """Waits until `is_met` holds; returns whether it did within the time."""
    end = time.monotonic() + seconds
    while not is_met():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
