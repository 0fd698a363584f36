"""Requests as bytes, framed well and badly; the answers are read by h11."""

import concurrent.futures
import contextlib
import json
import socket

import h11

from support import bearer, check, url

HOST, PORT = url().removeprefix("http://").rsplit(":", 1)
OWN = f"Host: {HOST}:{PORT}\r\n"
AUTH = f"Authorization: {bearer()['Authorization']}\r\n"
GET, POST = "GET /v1/status HTTP/1.1", "POST /v1/events HTTP/1.1"
CHUNKED = "Transfer-Encoding: chunked\r\n"
NOTE = b'{"topic":"note","data":1}'


def length(body):
    return f"Content-Length: {len(body)}\r\n"


def in_chunks(body):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def request(start, fields="", body=b"", host=OWN, auth=AUTH):
    typed = "Content-Type: application/json\r\n" if start.startswith("POST") else ""
    return f"{start}\r\n{host}{auth}{typed}{fields}\r\n".encode("latin1") + body


def posted(text):
    return request(POST, length(text), text)


def ask(data, ends):
    """Sends `data`, and no more of it if `ends`; returns what comes back within a second or until the end."""
    with socket.create_connection((HOST, int(PORT)), timeout=5) as connection:
        connection.sendall(data)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        connection.settimeout(1)
        answer = b""
        with contextlib.suppress(TimeoutError):
            while received := connection.recv(65536):
                answer += received
        return answer


def read(answer, methods):
    """Returns the statuses of the answers, as h11 reads them and as HTTP and the problem schema ask."""
    statuses = []
    for method in methods:
        if not answer:
            break
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(answer)
        body = b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                client.receive_data(b"")
            elif isinstance(event, h11.InformationalResponse):
                statuses.append(event.status_code)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
        statuses.append(head.status_code)
        judge(head.status_code, {name.decode(): value.decode() for name, value in head.headers}, body)
        answer = client.trailing_data[0]
    assert not answer, f"{answer[:60]} follows {statuses}"
    return statuses


def judge(status, fields, body):
    required = {401: "www-authenticate", 405: "allow", 426: "upgrade"}
    missing = [name for name in ("date", required.get(status, "date")) if status < 500 and name not in fields]
    assert not missing, f"{status} without {missing}"
    if body and "problem+json" in fields.get("content-type", ""):
        problem = json.loads(body)
        assert problem["status"] == status and problem["code"], problem


CASES = []


def case(what, data, *expected, methods=("GET",) * 6, ends=False):
    CASES.append((what, data, expected, methods, ends))


# D3: a body whose framing is wrong is not one that is too large.
for what, body in {
    "a chunk size that is no number": b"ZZ\r\n",
    "a chunk size with 0x": b"0x19\r\n" + NOTE + b"\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": b"fffffffffffffffff\r\n" + NOTE + b"\r\n0\r\n\r\n",
    "a chunk longer than its size": b"5\r\n" + NOTE + b"\r\n0\r\n\r\n",
}.items():
    for route in ("events", "shutdown", "tickets", "handoff"):
        case(f"400 to {what} for /v1/{route}", request(f"POST /v1/{route} HTTP/1.1", CHUNKED, body), [400])
case("400 to a body that ends early, or no answer", request(POST, "Content-Length: 100\r\n", NOTE), [400], [], ends=True)
case("413 to 70 kB", posted(b"x" * 70_000), [413])
case("413 to 70 kB in chunks", request(POST, CHUNKED, in_chunks(b"x" * 70_000)), [413])
case("413 to 20 MB that are only announced", request(POST, "Content-Length: 20000000\r\nExpect: 100-continue\r\n"), [413])

# D4: an empty Last-Event-ID is none.
case("200 to an empty Last-Event-ID", request("HEAD /v1/events HTTP/1.1", "Last-Event-ID:\r\n"), [200], methods=("HEAD",))
case("400 to an empty ?after", request("GET /v1/events?after= HTTP/1.1"), [400])
case("400 to a Last-Event-ID that is none", request("GET /v1/events HTTP/1.1", "Last-Event-ID: x\r\n"), [400])

# D5: a note that readers in other languages refuse.
case("400 to half of a surrogate pair", posted(b'{"topic":"note","data":"\\ud800"}'), [400])
case("400 to 100 nested lists", posted(b'{"topic":"note","data":' + b"[" * 100 + b"]" * 100 + b"}"), [400])
case("201 to 63 nested lists", posted(b'{"topic":"note","data":' + b"[" * 63 + b"]" * 63 + b"}"), [201])

# D6: an invalid Host is 400, a valid one that is foreign 421.
for what, host in {
    "no Host": "",
    "an empty Host": "Host:\r\n",
    "two equal Hosts": OWN + OWN,
    "two Hosts": OWN + "Host: evil.example\r\n",
    "a Host with a user": f"Host: a@{HOST}:{PORT}\r\n",
    "a Host with a space": f"Host: {HOST} :{PORT}\r\n",
}.items():
    case(f"400 to {what}", request(GET, host=host), [400])
for host in ("evil.example", f"evil.example:{PORT}", f"LOCALHOST:{PORT}", f"{HOST}:1"):
    case(f"421 to the Host {host.replace(PORT, 'PORT')}", request(GET, host=f"Host: {host}\r\n"), [421])
for host in ("127.0.0.1", "localhost", "[::1]"):
    case(f"200 to the Host {host}", request(GET, host=f"Host: {host}:{PORT}\r\n"), [200])
case("200 to an absolute target", request(f"GET http://{HOST}:{PORT}/v1/status HTTP/1.1"), [200])
case("421 to a foreign absolute target", request("GET http://evil.example/v1/status HTTP/1.1"), [421])

# D9: transfer codings, the bearer, HEAD, types, Accept, what a page may read.
case("400 to two lines of chunked", request(POST, CHUNKED + CHUNKED, in_chunks(NOTE)), [400])
case("400 to chunked, chunked", request(POST, "Transfer-Encoding: chunked, chunked\r\n", in_chunks(NOTE)), [400])
case("200 to a bearer after two spaces", request(GET, auth=AUTH.replace("Bearer ", "Bearer  ")), [200])
case("200 to a bearer in lower case", request(GET, auth=AUTH.replace("Bearer", "bearer")), [200])
case("415 to a note of another type", request(POST, length(NOTE), NOTE).replace(b"application/json", b"text/xml"), [415])
case("415 to a note that is compressed", request(POST, "Content-Encoding: gzip\r\n" + length(NOTE), NOTE), [415])
case("404 and 200 to HEAD and GET in turn", request("HEAD /nope HTTP/1.1") + request(GET), [404, 200], methods=("HEAD", "GET"))
case(
    "200 to HEAD of a stream, and to what follows",
    request("HEAD /v1/events HTTP/1.1") + request(GET),
    [200, 200],
    methods=("HEAD", "GET"),
)
case("405 to HEAD of the handshake", request("HEAD /.well-known/local-daemon HTTP/1.1"), [405], methods=("HEAD",))

# D10 and the rest: what is read in order, and where a connection ends.
case("201 to Expect of HTTP/1.0", request(POST.replace("1.1", "1.0"), "Expect: 100-continue\r\n" + length(NOTE), NOTE), [201])
case("100 and 201 to Expect", request(POST, "Expect: 100-continue\r\n" + length(NOTE), NOTE), [100, 201], [201])
case("401 to Expect of a stranger", request(POST, "Expect: 100-continue\r\n" + length(NOTE), auth=""), [401])
case("five pipelined requests", request(GET) * 5, [200] * 5)
case(
    "pipelined requests of every kind",
    request(GET) + request("GET /nope HTTP/1.1") + request(GET, auth="") + request("DELETE /v1/status HTTP/1.1") + posted(NOTE),
    [200, 404, 401, 405, 201],
)
case("nothing after Connection: close", request(GET, "Connection: close\r\n") + request(GET), [200])
case("400 to two lengths", request(POST, length(NOTE) + "Content-Length: 3\r\n", NOTE), [400])
case(
    "400 to both framings, or an end after them",
    request(POST, "Content-Length: 3\r\n" + CHUNKED, in_chunks(NOTE)) + request(GET),
    [400],
    [201],
)
case("400 to a space before a colon", request(GET, "X : a\r\n"), [400])
case("400 to a bare CR in a value", request(GET, "X: a\rb\r\n"), [400])
case("414 to a target of 40 kB", request("GET /v1/status?" + "a" * 40_000 + " HTTP/1.1"), [414])
case("431 to a field of 70 kB", request(GET, "X: " + "a" * 70_000 + "\r\n"), [431])


def seen(data, methods, ends):
    try:
        return read(ask(data, ends), methods)
    except Exception as error:  # Whatever h11 or the socket raises is the verdict.
        return f"{type(error).__name__} {error}"


def verdict(answer, expected):
    assert answer.result() in expected, f"{answer.result()}, expected {' or '.join(map(str, expected))}"


# At once, since most answers end only with the wait for more.
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    answers = [pool.submit(seen, data, methods, ends) for _, data, _, methods, ends in CASES]
for (what, _, expected, _, _), answer in zip(CASES, answers):
    check("h11", what, lambda: verdict(answer, expected))
