"""Forwards connections to the daemon that the record names now, and cuts them when asked. Usage: proxy.py STATE_DIR PORT_FILE

`GET /_cut` resets every connection and refuses new ones, until `GET /_serve`.
"""

import asyncio
import json
import os
import re
import sys

STATE_DIR, PORT_FILE = sys.argv[1:]
live, serving = set(), True


async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def control(path):
    global serving
    serving = path == b"/_serve"
    if not serving:
        for writer in list(live):
            writer.transport.abort()


async def serve(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split(b" ", 2)[1]
    if path in (b"/_cut", b"/_serve"):
        control(path)
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        return
    if not serving:
        writer.transport.abort()
        return
    with open(f"{STATE_DIR}/registration.json", encoding="utf-8") as record:
        host = json.load(record)["url"].removeprefix("http://")
    address, port = host.rsplit(":", 1)
    daemon_reader, daemon_writer = await asyncio.open_connection(address, int(port))
    live.update((writer, daemon_writer))
    try:
        # A connection is one request, so that the next one goes to the daemon that there is by then.
        fields = re.sub(rb"(?i)\r\n(host|connection):[^\r]*", b"", head).removesuffix(b"\r\n")
        daemon_writer.write(fields + b"Host: " + host.encode() + b"\r\nConnection: close\r\n\r\n")
        await asyncio.gather(copy(reader, daemon_writer), copy(daemon_reader, writer))
    finally:
        live.difference_update((writer, daemon_writer))
        daemon_writer.close()


async def connection(reader, writer):
    try:
        await serve(reader, writer)
    except (OSError, asyncio.IncompleteReadError, ValueError):
        writer.transport.abort()
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    with open(f"{PORT_FILE}.new", "w", encoding="utf-8") as file:
        file.write(str(server.sockets[0].getsockname()[1]))
    os.rename(f"{PORT_FILE}.new", PORT_FILE)
    await server.serve_forever()


asyncio.run(main())
