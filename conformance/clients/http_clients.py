"""The PyPI clients of HTTP: refusals of long bodies, answers of every kind on connections that are kept, connections that idled."""

import asyncio
import collections
import http.client
import sys

import aiohttp
import httpx
import requests
import urllib3

from support import bearer, check, equal, url

BASE = url()
KNOWN = bearer()
JSON = {"Content-Type": "application/json"}


def chunks(size):
    for start in range(0, size, 65536):
        yield b"x" * min(65536, size - start)


async def chunks_async(size):
    for chunk in chunks(size):
        yield chunk


def of_http_client(method, path, headers, body=None):
    connection = http.client.HTTPConnection(BASE.removeprefix("http://"), timeout=20)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def of_aiohttp(method, path, headers, body=None):
    async def ask():
        async with aiohttp.ClientSession() as session:
            async with session.request(method, BASE + path, data=body, headers=headers) as response:
                await response.read()
                return response.status

    return asyncio.run(ask())


def of_urllib3(method, path, headers, body=None):
    return urllib3.request(method, BASE + path, body=body, headers=headers, retries=False, timeout=20).status


def of_httpx(method, path, headers, body=None):
    return httpx.request(method, BASE + path, content=body, headers=headers, timeout=20).status_code


def of_requests(method, path, headers, body=None):
    return requests.request(method, BASE + path, data=body, headers=headers, timeout=20).status_code


CLIENTS = [
    ("requests", of_requests, chunks),
    ("httpx", of_httpx, chunks),
    ("urllib3", of_urllib3, chunks),
    ("aiohttp", of_aiohttp, chunks_async),
    ("http.client", of_http_client, chunks),
]
REFUSALS = [
    (401, "a stranger", 900_000, JSON),
    (413, "its user", 100_000, {**JSON, **KNOWN}),
    (413, "its user", 20_000_000, {**JSON, **KNOWN}),
]


def refusals():
    for client, send, in_chunks in CLIENTS:
        for status, who, size, headers in REFUSALS:
            for form, body in (("", lambda size: b"x" * size), (" in chunks", in_chunks)):

                def attempts():
                    seen = collections.Counter()
                    for _ in range(20):
                        try:
                            seen[send("POST", "/v1/events", headers, body(size))] += 1
                        except Exception as error:  # The client has lost the answer.
                            seen[type(error).__name__] += 1
                    equal(dict(seen), {status: 20})

                check(client, f"reads {status} to {size // 1000} kB{form} of {who} in 20 of 20", attempts)


PREFLIGHT = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
ANSWERS = [
    ("GET", "/v1/status", KNOWN, 200),
    ("GET", "/v1/status", {**KNOWN, "Local-Daemon-Protocol": "other/9"}, 426),
    ("GET", "/nope", KNOWN, 404),
    ("GET", "/v1/status", {}, 401),
    ("PUT", "/v1/events", KNOWN, 405),
    ("HEAD", "/v1/events", KNOWN, 200),
    ("GET", "/v1/status", {**KNOWN, "Origin": "https://evil.example"}, 403),
    ("GET", "/v1/events?topics=unknown", KNOWN, 400),
    ("OPTIONS", "/v1/status", PREFLIGHT, 204),
    ("GET", "/v1/status?" + "a" * 9000, KNOWN, 414),
    ("GET", "/v1/status", {**KNOWN, "Host": "evil.example"}, 421),
] * 3


async def answers_of_aiohttp():
    async with aiohttp.ClientSession() as session:
        seen = []
        for method, path, headers, _ in ANSWERS:
            async with session.request(method, BASE + path, headers=headers) as response:
                await response.read()
                seen.append(response.status)
        return seen


def answers():
    """On the connections that each client keeps."""
    pool, client, session = urllib3.PoolManager(), httpx.Client(), requests.Session()
    connection = http.client.HTTPConnection(BASE.removeprefix("http://"), timeout=20)

    def on_connection(method, path, headers):
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status

    askers = {
        "requests": lambda method, path, headers: session.request(method, BASE + path, headers=headers).status_code,
        "httpx": lambda method, path, headers: client.request(method, BASE + path, headers=headers).status_code,
        "urllib3": lambda method, path, headers: pool.request(method, BASE + path, headers=headers, retries=False).status,
        "http.client": on_connection,
    }
    expected = [status for *_, status in ANSWERS]
    what = f"reads {len(ANSWERS)} answers of every kind"
    for name, ask in askers.items():
        check(name, what, lambda: equal([ask(*request) for *request, _ in ANSWERS], expected))
    check("aiohttp", what, lambda: equal(asyncio.run(answers_of_aiohttp()), expected))


def idle():
    """The daemon closes a connection that has idled for 10 s. What is sent at that very moment is lost, as HTTP has it."""

    async def one(seconds, seen):
        async with aiohttp.ClientSession(headers=KNOWN) as session:
            async with session.get(f"{BASE}/v1/status") as response:
                await response.read()
            await asyncio.sleep(seconds)
            async with session.post(f"{BASE}/v1/events", json={"topic": "note", "data": 1}) as response:
                seen[response.status] += 1

    async def many():
        seen = collections.Counter()
        await asyncio.gather(*(one(seconds, seen) for seconds in [9] * 50 + [11] * 50))
        equal(dict(seen), {201: 100})

    check("aiohttp", "posts on 100 connections that idled for 9 s and 11 s", lambda: asyncio.run(many()))


if "slow" in sys.argv:
    idle()
else:
    refusals()
    answers()
