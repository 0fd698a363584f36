"""The event stream (chapter 11): one log, and for each subscriber a place in it."""

import json
import re
import threading
import time

TOPICS = {"lifecycle", "warning", "origins", "sessions", "proxies", "note"}
MOST_EVENTS, MOST_BYTES = 4096, 4 * 1024 * 1024  # held by the log (STR-21)
MOST_NOTE = 64 * 1024  # bytes of a note's body (STR-8)
PIECE = 64 * 1024  # bytes, and one event more, are all that is held for one subscriber (STR-23)
LOOK = 0.5  # seconds between two looks whether a subscriber is still there, and welcome (STR-24, PER-42)
SILENT = 10.0  # seconds until a comment; 15 are the most (STR-27)

ID = re.compile("([0-9a-f]{8})-(0|[1-9][0-9]{0,99})", re.ASCII)


def frame(topic, data, name=None):
    """An event; one without a name is about the stream itself, and not in the log (STR-14, STR-19)."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    content = json.dumps({"topic": topic, "at": at, "data": data})  # on one line, whatever is in it
    return ((f"id: {name}\n" if name else "") + f"event: {topic}\ndata: {content}\n\n").encode()


class Log:
    """Numbered frames, which are made once and are the same for everybody (STR-13). It never waits for a subscriber."""

    def __init__(self, epoch):
        self.epoch = epoch
        self.changed = threading.Condition()  # for these:
        self.frames, self.size = {}, 0  # by number: topic and frame
        self.first = self.next = 1  # the oldest number that is held, and the one to come (STR-11)
        self.last_word = None

    def id(self, number):
        return f"{self.epoch}-{number}"  # STR-10

    def append(self, topic, data):
        with self.changed:
            name = self.id(self.next)
            content = frame(topic, data, name)
            self.frames[self.next] = topic, content
            self.next += 1
            self.size += len(content)
            while len(self.frames) > MOST_EVENTS or self.size > MOST_BYTES:  # and not before (STR-22)
                self.size -= len(self.frames.pop(self.first)[1])
                self.first += 1
            self.changed.notify_all()
        return name

    def end(self, word):
        """`superseded` or `shutdown`, which ends every stream (STR-28, STR-29)."""
        with self.changed:
            self.last_word = frame(word, {})
            self.changed.notify_all()

    def place_after(self, name):
        """The number with which a stream begins; 0, which is never held, where the one after `name` is not (STR-18)."""
        with self.changed:
            if name is None:
                return self.next  # STR-3
            epoch, number = ID.fullmatch(name).groups()
            place = int(number) + 1
            return place if epoch == self.epoch and place <= self.next else 0

    def follow(self, place, topics, is_wanted, is_new):
        """What a subscriber is sent, in pieces, for as long as `is_wanted()`. One that `is_new` names no id; it receives the
        place where it begins, so that it can come back there before its first event (STR-32)."""
        opening = f"id: {self.id(place - 1)}\n" if is_new else ""
        yield f"retry: 500\n{opening}\n".encode()  # STR-2
        said = looked = time.monotonic()
        while True:
            piece, length, last_word = [], 0, None
            with self.changed:
                if place == self.next and not self.last_word:
                    self.changed.wait(LOOK)
                if place < self.first:
                    piece.append(frame("gap", {"first": self.id(self.first)}))  # STR-17, STR-26
                    place = self.first
                while place < self.next and length < PIECE:
                    topic, content = self.frames[place]
                    place += 1
                    if topic in topics:  # STR-4
                        piece.append(content)
                        length += len(content)
                if place == self.next:
                    last_word = self.last_word
            now = time.monotonic()
            if now - looked >= LOOK:
                if not is_wanted():
                    return
                looked = now
            if not piece and now - said >= SILENT:
                piece.append(b":\n")  # with an empty line after it, some clients dispatch an empty event
            if last_word:
                piece.append(last_word)
            if piece:
                yield b"".join(piece)
                said = time.monotonic()
            if last_word:
                return
