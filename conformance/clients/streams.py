"""The PyPI clients of server-sent events, all on one daemon at once: what they see of a burst, of cuts, of a quiet daemon, and of
another daemon that takes over."""

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import threading
import time

import aiohttp
import httpx
import httpx_sse
import requests
import sseclient
from aiohttp_sse_client.client import EventSource

from support import LOCALD, STATE_DIR, bearer, check, equal, record, until, url

PROXY = os.environ["PROXY"]
logging.disable()  # What a client logs of an answer is in its exception too.
session = requests.Session()


def of_sseclient(to, headers, opened):
    response = requests.get(to, headers=headers, stream=True, timeout=20)
    response.raise_for_status()
    opened()
    for event in sseclient.SSEClient(response).events():
        yield event.event, event.id, event.data


def of_httpx_sse(to, headers, opened):
    with httpx.Client(timeout=20) as client, httpx_sse.connect_sse(client, "GET", to, headers=headers) as source:
        source.response.raise_for_status()
        opened()
        for event in source.iter_sse():
            yield event.event, event.id, event.data


async def source_of_aiohttp(to, headers, opened):
    return EventSource(to, headers=headers, session=aiohttp.ClientSession(), on_open=opened)


def of_aiohttp(to, headers, opened):
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        source = loop.run_until_complete(source_of_aiohttp(to, headers, opened))
        try:
            loop.run_until_complete(source.connect())
            while True:
                event = loop.run_until_complete(anext(source))
                yield event.type, event.last_event_id, event.data
        finally:
            loop.run_until_complete(source._session.close())


class Reader:
    """A caller of one of these clients, which opens the stream again where it ended."""

    def __init__(self, name, events, path):
        self.name, self.seen, self.opens = name, [], 0
        threading.Thread(target=self.read, args=(events, PROXY + path), daemon=True).start()

    def opened(self):
        self.opens += 1

    def read(self, events, to):
        last = ""
        while True:
            try:
                known = {"Last-Event-ID": last} if last else {}
                for event, event_id, data in events(to, {**bearer(), **known}, self.opened):
                    last = event_id or last
                    self.seen.append((event, data))
            except (OSError, RuntimeError, aiohttp.ClientError, httpx.HTTPError):
                pass  # It was cut, or there is no daemon yet.
            time.sleep(0.5)

    def notes(self):
        return [json.loads(data)["data"] for event, data in self.seen if event == "note"]


CLIENTS = [("sseclient-py", of_sseclient), ("httpx-sse", of_httpx_sse), ("aiohttp-sse-client", of_aiohttp)]


class Opened(Exception):
    pass


def opens_without_id(events):
    def opened():
        raise Opened

    with contextlib.suppress(Opened):
        next(events(f"{url()}/v1/events", {**bearer(), "Last-Event-ID": ""}, opened))


def readers(path):
    opened = [Reader(name, events, path) for name, events in CLIENTS]
    each(opened, "opens", lambda reader: wait(lambda: reader.opens == 1))
    return opened


def each(all_readers, what, body):
    for reader in all_readers:
        check(reader.name, what, lambda: body(reader))


def wait(is_met, seconds=10):
    if not until(is_met, seconds):
        raise AssertionError("not within the time")


def post(data):
    response = session.post(f"{url()}/v1/events", json={"topic": "note", "data": data}, headers=bearer())
    equal(response.status_code, 201)


def many(prefix, count):
    return [f"{prefix} {i}" for i in range(count)]


def cut_during(prefix, count):
    requests.get(f"{PROXY}/_cut", timeout=5)
    for data in many(prefix, count):
        post(data)
    requests.get(f"{PROXY}/_serve", timeout=5)


def reads(expected):
    def body(reader):
        until(lambda: len(reader.notes()) >= len(expected))
        equal(reader.notes(), expected)

    return body


for name, events in CLIENTS:
    check(name, "opens with an empty Last-Event-ID", lambda: opens_without_id(events))

# sseclient-py and aiohttp-sse-client leave out the id of a block without data, so they lose nothing only if they open with `after`.
cold = readers(f"/v1/events?topics=note&after={record()['id'][:8]}-0")
cut_during("unseen", 3)
each(cold, "loses nothing if it is cut before the first event", reads(many("unseen", 3)))

alone = Reader("httpx-sse", of_httpx_sse, "/v1/events?topics=note")
until(lambda: alone.opens == 1)
cut_during("alone", 3)
check(alone.name, "knows from the first block where the stream began", lambda: reads(many("alone", 3))(alone))

warm = readers("/v1/events")
expected = many("burst", 1000)
for data in expected:
    post(data)
each(warm, "reads a burst of 1000 in order", reads(expected))

cut_during("cut", 200)
expected += many("cut", 200)
each(warm, "resumes after a cut, and loses nothing", reads(expected))

before = [(reader, len(reader.seen), reader.opens) for reader in warm]
time.sleep(11)
for reader, seen, opens in before:
    quiet = lambda: (equal(reader.seen[seen:], []), equal(reader.opens, opens))
    check(reader.name, "sees no event in 11 s of a quiet daemon", quiet)

marks = {reader: len(reader.seen) for reader in warm}
subprocess.Popen([LOCALD, "run", "--state-dir", STATE_DIR], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def is_superseded(reader):
    names = lambda: [event for event, data in reader.seen[marks[reader]:] if data]
    until(lambda: "gap" in names())
    equal([name for name in names() if name != "lifecycle"], ["superseded", "gap"])


each(warm, "is superseded, and goes on after a gap", is_superseded)
post("next")
each(warm, "reads from the next daemon", reads(expected + ["next"]))
