"""HTTP/1.1 over one connection, as far as a loopback daemon and its clients need it (chapter 10, "Bounds").

The daemon reads requests with it, the client answers. Neither trusts the other side, so that every read has a bound in
bytes and one in time.
"""

import re
import socket
import time

# What a daemon takes is more than the second column of chapter 10's table and less than the third (PER-29, PER-30).
MOST_TARGET = 8 * 1024  # bytes of a request target
MOST_HEADERS = 32 * 1024  # bytes of a header section
MOST_HEAD = 96 * 1024  # bytes of a head that is read at all, so that its refusal suits origin and Accept (PER-13)
MOST_BODY = 1024 * 1024  # bytes of a request's body
MOST_FRAMING = 4 * 1024  # bytes of a chunk's size line, or of all trailers

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")  # no bare CR or LF, which would be two headers to somebody
STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-9][0-9]{2})( .*)?", re.ASCII)
CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(;.*)?")


class Closed(Exception):
    """The other side has closed the connection, in the middle of a message or between two."""


class Broken(Exception):
    """The message is not HTTP, or is beyond the bounds; says with which status a daemon answers it."""

    def __init__(self, status, code, title):
        super().__init__(title)
        self.status, self.code, self.title = status, code, title


TARGET_TOO_LONG = Broken(414, "uri_too_long", "Request target too long")
HEADERS_TOO_LARGE = Broken(431, "headers_too_large", "Headers too large")


class Head:
    """A start line, the headers in their order, and the body, which is read when somebody asks for it."""

    def __init__(self, start, headers, size):
        self.start, self.headers, self.size = start, headers, size
        self.method = self.target = ""
        self.closes = False  # whether the connection ends with it
        self.body, self.length = iter(()), 0  # pieces of bytes, and how many bytes are announced

    def all(self, name):
        """The values of every header of this name. Two of them are never quietly one (PER-5, PER-11, PER-24)."""
        return [value for key, value in self.headers if key == name]

    def whole_body(self, most):
        """The body, if it has no more than `most` bytes (PER-30)."""
        body, closes = b"", self.closes
        self.closes = True  # what is left of a body that is not read to its end would be taken for the next request
        while len(body) <= most and self.length <= most:
            if (piece := next(self.body, None)) is None:
                self.closes = closes
                return body
            body += piece
        raise Broken(413, "body_too_large", "Body too large")


class Connection:
    """A socket with a buffer of what has been received and not yet read. A client sets `spare`: how many bytes other than the
    body it may receive (HS-31)."""

    def __init__(self, sock, spare=None):
        self.sock, self.buffer, self.spare = sock, b"", spare
        self.has_sent_head = False  # a whole one, ever

    def peek(self):
        """Notes whether a whole head has arrived, without reading it."""
        self.sock.setblocking(False)
        try:
            self.has_sent_head = b"\r\n\r\n" in self.sock.recv(MOST_HEADERS, socket.MSG_PEEK)
        except OSError:
            pass

    def room(self):
        """How many bytes may be received when nothing in the buffer is the body."""
        if self.spare is None:
            return 65536
        if self.spare <= len(self.buffer):
            raise HEADERS_TOO_LARGE
        return self.spare - len(self.buffer)

    def receive(self, deadline, most=65536):
        """Adds what comes next to the buffer, or raises TimeoutError at the deadline, a time of `time.monotonic`."""
        self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        data = self.sock.recv(most)
        if not data:
            raise Closed
        self.buffer += data

    def take(self, end, skip=0):
        """Cuts the first `end` bytes off the buffer, and `skip` more that nobody needs."""
        taken, self.buffer = self.buffer[:end], self.buffer[end + skip :]
        return taken

    def take_framing(self, end, skip):
        """Takes bytes that are not the body."""
        if self.spare is not None:
            if self.spare < end + skip:
                raise HEADERS_TOO_LARGE
            self.spare -= end + skip
        return self.take(end, skip)

    def line(self, deadline, most):
        while (end := self.buffer.find(b"\r\n")) < 0:
            if len(self.buffer) > most:
                raise Broken(400, "invalid_request", "Line too long")
            self.receive(deadline, self.room())
        return self.take_framing(end, 2)

    def head(self, deadline, most=MOST_HEAD):
        """Reads a start line and its headers, whole by the deadline (PER-33)."""
        while True:
            while self.buffer.startswith(b"\r\n"):  # empty lines before a request mean nothing
                self.take_framing(0, 2)
            end = self.buffer.find(b"\r\n\r\n")
            if (end if end >= 0 else len(self.buffer)) > most:
                long_line = b"\r\n" not in self.buffer[:most]
                raise TARGET_TOO_LONG if long_line else HEADERS_TOO_LARGE
            if end >= 0:
                break
            self.receive(deadline, self.room())
        start, *lines = self.take_framing(end, 4).split(b"\r\n")
        headers = []
        for text in lines:
            name, colon, value = text.partition(b":")
            if not (colon and TOKEN.fullmatch(name) and VALUE.fullmatch(value)):
                raise Broken(400, "invalid_request", "Malformed header")  # a folded line, "Host : x", a bare LF
            headers.append((name.decode().lower(), value.decode("latin-1").strip(" \t")))
        if not VALUE.fullmatch(start):
            raise Broken(400, "invalid_request", "Malformed start line")
        return Head(start.decode("latin-1"), headers, end - len(start))

    def answer(self, deadline, most):
        """Reads the head of an answer, after any interim ones, and its status; the body has `most` bytes at most."""
        while True:
            head = self.head(deadline)
            status = STATUS_LINE.fullmatch(head.start)
            if not status:
                raise Broken(400, "invalid_request", "Malformed status line")
            if status[1] >= "200":
                head.body = self.body(head, lambda: deadline, to_the_end=most)
                return head, int(status[1])

    def body(self, head, until, to_the_end=0):
        """The pieces of the body, as its headers frame it. What is framed twice two parsers read in two ways: refused.
        `until()` gives the deadline of each read; `to_the_end`: an answer without a length ends with its connection, or after
        so many bytes."""
        codings, lengths = head.all("transfer-encoding"), head.all("content-length")
        if codings:
            if lengths or [coding.lower() for coding in codings] != ["chunked"]:
                raise Broken(400, "invalid_request", "Unknown framing")
            return self.chunks(until)
        if not lengths:
            return self.rest(to_the_end, until)
        if len(lengths) > 1 or not re.fullmatch("[0-9]{1,15}", lengths[0], re.ASCII):
            raise Broken(400, "invalid_request", "Unknown length")
        head.length = int(lengths[0])
        return self.bytes(head.length, until)

    def bytes(self, length, until):
        while length:
            if not self.buffer:
                self.receive(until(), min(length, 65536))
            piece = self.take(length)
            length -= len(piece)
            yield piece

    def chunks(self, until):
        while True:
            size = CHUNK_SIZE.fullmatch(self.line(until(), MOST_FRAMING))
            if not size:
                raise Broken(400, "invalid_request", "Malformed chunk")
            if not (length := int(size[1], 16)):
                break
            yield from self.bytes(length, until)
            if self.line(until(), MOST_FRAMING):
                raise Broken(400, "invalid_request", "Malformed chunk")
        trailers = 0
        while line := self.line(until(), MOST_FRAMING):
            trailers += len(line)
            if trailers > MOST_FRAMING:
                raise Broken(400, "invalid_request", "Trailers too large")

    def rest(self, most, until):
        while most:
            try:
                if not self.buffer:
                    self.receive(until(), min(most, 65536))
            except Closed:
                return
            piece = self.take(most)
            most -= len(piece)
            yield piece

    def write(self, data, patience):
        """The other side may take its time, as long as it takes something (PER-33)."""
        self.sock.settimeout(patience)
        rest = memoryview(data)
        while rest:
            rest = rest[self.sock.send(rest) :]

    def is_closed(self):
        """Whether the other side will send nothing more; what it has sent stays to be read."""
        self.sock.setblocking(False)
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False

    def cut(self):
        """Shuts the connection down, so that its thread sees the end."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self, patience):
        """Ends the connection so that the other side can read the last answer: to close with bytes unread is a reset,
        which throws that answer away. So the rest is read and dropped, within bounds in time and in bytes."""
        deadline, dropped = time.monotonic() + patience, 0
        try:
            self.sock.shutdown(socket.SHUT_WR)
            while time.monotonic() < deadline and dropped < MOST_BODY:
                dropped += len(self.buffer)
                self.buffer = b""
                self.receive(deadline)
        except (OSError, Closed):
            pass
        self.sock.close()
