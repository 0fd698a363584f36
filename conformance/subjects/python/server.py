"""The daemon's HTTP server: connections within their bounds, the checks of chapter 10, handshake, tally and events."""

import json
import os
import re
import select
import socket
import threading
import time
import urllib.parse
from email.utils import formatdate
from http import HTTPStatus

import contract
import http1
import streams
from contract import HANDSHAKE, VERSION, Malformed
from perimeter import ABSOLUTE, Answer, allowlist, host_fault, origin_of, parse_proof, prefers_text, problem

HEAD_TIME, BODY_TIME, WRITE_TIME = 8.0, 15.0, 15.0  # seconds (PER-33)
MOST_CONNECTIONS, MOST_TURNED_AWAY = 200, 64
BACKLOG = 4096  # connections that may wait to be taken
MOST_OF_A_STRANGER = 4 * 1024  # bytes of a body (PER-44)
MOST_REFUSED = 500  # refused handshakes in a second (PER-31, PER-32)
EVENTS = "/v1/events"
ROUTES = {HANDSHAKE: {"GET"}, "/v1/tally": {"GET", "HEAD", "POST"}, EVENTS: {"GET", "HEAD", "POST"}}


class Server:
    """Serves for a daemon, which says who it is and in which state. Each connection has a thread of its own (HS-11)."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.log = streams.Log(daemon.id[:8])
        self.lock = threading.Lock()  # for these:
        self.tally, self.working, self.turned_away, self.refused = 0, 0, 0, (0, 0)
        self.connections = {}  # the oldest first, and whether a request of it has authenticated

    def start(self):
        try:
            self.listener = socket.socket(socket.AF_INET)
            # PUB-1; without SO_REUSEADDR and SO_REUSEPORT the port is ours alone (PUB-2).
            self.listener.bind(("127.0.0.1", 0))
            host = "127.0.0.1"
        except OSError as error:
            if not contract.lacks_family(error):
                raise  # a port in use is no missing family (REG-5)
            self.listener = socket.socket(socket.AF_INET6)
            self.listener.bind(("::1", 0))
            host = "[::1]"
        self.listener.listen(BACKLOG)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.authority = f"{host}:{self.port}"  # as it stands in the record's url
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            select.select([self.listener], [], [])
            # All that wait are accepted before any is served: another user can open more at once than threads can be started.
            waiting = []
            try:
                while len(waiting) < BACKLOG:
                    waiting.append(http1.Connection(self.listener.accept()[0]))
            except BlockingIOError:
                pass
            except OSError:  # out of descriptors, most likely
                time.sleep(0.01)
            for connection in waiting:
                connection.peek()
            full = {connection for connection in waiting if not self.has_room_for(connection)}
            for connection in waiting:
                if connection not in full and connection not in self.connections:
                    connection.sock.close()
                    continue
                serve = self.turn_away if connection in full else self.serve
                try:
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()
                except RuntimeError:  # no more threads
                    connection.sock.close()
                    self.leave(connection)

    def has_room_for(self, connection):
        """If there is no room, the oldest stranger is closed, and first one that has not sent a whole head (PER-43): this
        program does not know their users."""
        with self.lock:
            if len(self.connections) >= MOST_CONNECTIONS:
                strangers = [other for other, is_known in self.connections.items() if not is_known]
                if not strangers:
                    return False
                oldest = min(strangers, key=lambda other: other.has_sent_head)
                del self.connections[oldest]
                oldest.cut()
            self.connections[connection] = False
            return True

    def leave(self, connection):
        with self.lock:
            self.connections.pop(connection, None)

    def turn_away(self, connection):
        """PER-31."""
        with self.lock:
            self.turned_away += 1
            patience = 1 if self.turned_away <= MOST_TURNED_AWAY else 0
        try:
            if patience:
                answer = problem(503, "overloaded", "Too many connections", [("Retry-After", "1")])
                self.send(connection, answer, None, True)
        except OSError:
            pass
        connection.close(patience)
        with self.lock:
            self.turned_away -= 1

    def serve(self, connection):
        """The requests of one connection, each of which is judged anew."""
        try:
            while self.serve_one(connection):
                pass
        except (OSError, http1.Closed, http1.Broken):
            pass
        finally:
            connection.close(2)
            self.leave(connection)

    def serve_one(self, connection):
        """Whether the connection can take one more request."""
        request = None
        try:
            request = connection.head(time.monotonic() + HEAD_TIME)
            connection.has_sent_head = True
            line = re.fullmatch(r"([A-Z]+) (\S+) HTTP/1\.([01])", request.start, re.ASCII)
            if not line:
                raise http1.Broken(400, "invalid_request", "Malformed request line")
            request.method, request.target = line[1], line[2]
            request.body = connection.body(request, lambda: time.monotonic() + BODY_TIME)
        except http1.Broken as fault:
            answer = problem(fault.status, fault.code, fault.title)
        except TimeoutError:
            if not connection.buffer:
                return False
            answer = problem(408, "request_timeout", "Request timeout")
        else:
            options = [option.strip().lower() for value in request.all("connection") for option in value.split(",")]
            request.is_old = line[3] == "0"
            request.closes = request.is_old or "close" in options
            with self.lock:
                self.working += 1
            try:
                answer = self.answer(connection, request)
                most = http1.MOST_BODY if self.connections.get(connection) else MOST_OF_A_STRANGER
                request.closes |= request.length > most  # PER-55
                if answer.pieces:
                    self.stream(connection, answer, request)
                else:
                    self.send(connection, answer, request, request.closes)
            finally:
                with self.lock:
                    self.working -= 1
            if not request.closes:
                # A body that was not read is in front of the next request.
                request.whole_body(most)
            return not request.closes
        self.send(connection, answer, request, True)
        return False

    def send(self, connection, answer, request, close):
        kind, body = answer.kind, answer.body
        if body is None:
            content = b""
        elif type(body) is bytes:
            content = body  # the handshake, whose proof covers these bytes
        elif request and prefers_text(request.all("accept")):
            kind = "text/plain; charset=utf-8"
            content = "".join(f"{name}: {value}\n" for name, value in body.items()).encode()
        else:
            content = json.dumps(body).encode()
        headers = [("Content-Type", kind), ("Content-Length", str(len(content)))] if body is not None else []
        head = self.head(answer, headers, close)
        connection.write(head + (b"" if request and request.method == "HEAD" else content), WRITE_TIME)

    def head(self, answer, headers, close):
        headers = [*answer.headers, *headers, ("Cache-Control", "no-store")]  # PER-38, STR-1
        headers.append(("Date", formatdate(usegmt=True)))  # PER-52
        if close:
            headers.append(("Connection", "close"))
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        return "\r\n".join(lines + [f"{name}: {value}" for name, value in headers] + ["", ""]).encode()

    def stream(self, connection, answer, request):
        """In chunks, whose end is told from a cut; a client of HTTP/1.0 knows none."""
        request.closes = True
        kind = ("Content-Type", "text/event-stream")
        framing = [] if request.is_old else [("Transfer-Encoding", "chunked")]
        connection.write(self.head(answer, [kind, *framing], True), WRITE_TIME)
        for piece in answer.pieces:
            connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if framing else piece, WRITE_TIME)
        connection.write(b"0\r\n\r\n" if framing else b"", WRITE_TIME)

    # Requests.

    def answer(self, connection, request):
        """The checks in their order (PER-1), and what each answer to an allowlisted origin carries (PER-13, PER-14)."""
        host = "".join(request.all("host"))
        origin = origin_of(request.all("origin"), host, self.allowed)
        try:
            answer = self.checked(connection, request, origin)
        except http1.Broken as fault:
            answer = problem(fault.status, fault.code, fault.title)
        except TimeoutError:
            answer = problem(408, "request_timeout", "Request timeout")
        if origin == "listed":
            exposed = ("Access-Control-Expose-Headers", "local-daemon-protocol, retry-after")  # PER-51
            answer.headers += [("Access-Control-Allow-Origin", request.all("origin")[0]), ("Vary", "Origin"), exposed]
        return answer

    def allowed(self):
        return self.daemon.allowed + allowlist(self.daemon.directory)

    def checked(self, connection, request, origin):
        if len(request.target) > http1.MOST_TARGET:
            raise http1.TARGET_TOO_LONG
        if request.size > http1.MOST_HEADERS:
            raise http1.HEADERS_TOO_LARGE
        fault = host_fault(request.all("host"), request.target, self.port)  # on every path (PER-7)
        if fault:
            return problem(fault, "misdirected" if fault == 421 else "invalid_request", "Not this daemon's address")
        if origin == "refused":
            return problem(403, "origin_refused", "Origin refused")
        target = ABSOLUTE.sub("", request.target, 1) if ABSOLUTE.match(request.target) else request.target
        path, _, query = target.partition("?")
        route = ROUTES.get(path or "/", set())
        if request.method == "OPTIONS" and origin == "listed" and request.all("access-control-request-method"):
            methods = [("Access-Control-Allow-Methods", ", ".join(sorted(route)))] if route else []  # PER-16
            allowed = ("Access-Control-Allow-Headers", "authorization, content-type, last-event-id")  # PER-17
            return Answer(204, headers=[*methods, allowed, ("Access-Control-Max-Age", "60")])  # PER-15, PER-18
        nonce = self.authenticated(request, path, query)
        if nonce is None:
            if path == HANDSHAKE and self.too_many_refused():
                return problem(503, "overloaded", "Too many refused handshakes", [("Retry-After", "1")])
            # One answer for every path and method, served or not (HS-8, PER-21); it tells nothing of the daemon (HS-9).
            return problem(401, "unauthorized", "Unauthorized", [("WWW-Authenticate", "Bearer, Local-Daemon-Proof")])
        with self.lock:
            if connection in self.connections:
                self.connections[connection] = True
        if not route:
            return problem(404, "not_found", "Not found")
        if request.method not in route:
            return problem(405, "method_not_allowed", "Method not allowed", [("Allow", ", ".join(sorted(route)))])
        if path == HANDSHAKE:
            return self.handshake(nonce)
        if self.daemon.leaving and (path == EVENTS or request.method == "POST"):
            return problem(503, "draining", "This daemon is leaving")  # CONV-10, STR-6
        if request.method == "POST":
            return self.note(connection, request) if path == EVENTS else self.add(connection, request)
        if path == EVENTS and request.method == "HEAD":
            return Answer(200, headers=[("Content-Type", "text/event-stream")])  # PER-54
        return self.follow(connection, request, query, origin) if path == EVENTS else Answer(200, {"tally": self.tally})

    def authenticated(self, request, path, query):
        """None where it is not authenticated; else the nonce of its proof, or "" for a bearer (PER-23 to PER-25)."""
        request.credential = self.daemon.credential
        values, tokens = request.all("authorization"), parameters(query, "token")
        if tokens:  # for EventSource, which sets no headers (PER-25, PER-26)
            is_stream = path == EVENTS and request.method == "GET"
            token = tokens[0] if is_stream and len(tokens) == 1 and not values else ""
            return "" if contract.equal(token, self.daemon.credential) else None
        if len(values) != 1:
            return None
        scheme, _, token = values[0].partition(" ")
        if scheme.lower() == "bearer":
            return "" if contract.equal(token.lstrip(" "), self.daemon.credential) else None  # HS-5, HS-7
        proof = parse_proof(values[0])
        if proof and path == HANDSHAKE and request.method == "GET":  # and nowhere else (HS-23)
            # The authority is our own record's, whatever Host says (HS-17, HS-18, HS-20).
            wanted = contract.client_mac(self.daemon.credential, self.authority, proof[0])
            return proof[0] if contract.equal(proof[1], wanted) else None
        return None

    def too_many_refused(self):
        with self.lock:
            second, count = int(time.monotonic()), 0
            if self.refused[0] == second:
                count = self.refused[1]
            self.refused = (second, count + 1)
        return count >= MOST_REFUSED

    def handshake(self, nonce):
        state = "ready" if not self.daemon.leaving and self.daemon.owns() else "draining"  # HS-13, HS-15, HS-16
        facts = {"spec": contract.SPEC, "protocol": self.daemon.protocol, "id": self.daemon.id, "pid": os.getpid()}
        body = json.dumps({**facts, "version": VERSION, "state": state, "capabilities": []}).encode()
        answer = Answer(200 if state == "ready" else 503, body)  # HS-14
        if nonce:  # and never for an unproven request (HS-21, HS-22)
            proof = contract.daemon_mac(self.daemon.credential, self.authority, nonce, body)
            answer.headers.append(("Local-Daemon-Proof", f'"{proof}"'))
        return answer

    def json(self, connection, request, most):
        """The object in a body of that many bytes; empty where there is none."""
        expects = [value.lower() for value in request.all("expect")]
        if "100-continue" in expects and not request.is_old:  # PER-53
            connection.write(b"HTTP/1.1 100 Continue\r\n\r\n", WRITE_TIME)
        try:
            return contract.strict_json(request.whole_body(most))
        except Malformed:
            return {}

    def add(self, connection, request):
        number = self.json(connection, request, http1.MOST_BODY).get("add")
        if type(number) is not int or not 0 <= number <= 1000:
            return problem(400, "invalid_request", "Not a JSON object with a number to add")
        with self.lock:
            self.tally += number
            return Answer(200, {"tally": self.tally})

    def note(self, connection, request):
        note = self.json(connection, request, streams.MOST_NOTE)
        if note.get("topic") != "note" or "data" not in note or not contract.is_read_alike(note):
            return problem(400, "invalid_request", "Not a JSON object with the topic note and data")  # STR-9, STR-31
        return Answer(201, {"id": self.log.append("note", note["data"])})

    def follow(self, connection, request, query, origin):
        topics = {topic for chosen in parameters(query, "topics") for topic in chosen.split(",")}
        headers = [name for name in request.all("last-event-id") if name]  # an empty one is none (STR-33)
        after = headers + parameters(query, "after")  # the first one counts (STR-16)
        if not topics <= streams.TOPICS or not all(streams.ID.fullmatch(name) for name in after):
            return problem(400, "invalid_request", "Unknown topic, or no event id")  # STR-5, STR-20

        def is_wanted():
            is_welcome = origin != "listed" or request.all("origin")[0] in self.allowed()
            # CRED-16
            return is_welcome and request.credential == self.daemon.credential and not connection.is_closed()

        place = self.log.place_after(after[0] if after else None)
        return Answer(200, pieces=self.log.follow(place, topics or streams.TOPICS, is_wanted, not after))


def parameters(query, name):
    return [value for key, value in urllib.parse.parse_qsl(query, keep_blank_values=True) if key == name]
