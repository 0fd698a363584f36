// HTTP/1.1 over one connection, as far as a loopback daemon and its clients need it (chapter 10, "Bounds").
//
// node:http would be shorter, but cannot do it. As a server it has one answer, 431, for a target and for headers that are too
// long, answers 400 to methods that it does not know before it authenticates the request, and lets the program render neither.
// As a client it bounds each head, but not all of them together. Neither side trusts the other, so every read has a bound in
// bytes and one in time.

// What a daemon takes is more than the second column of chapter 10's table and less than the third (PER-29, PER-30).
export const MOST_TARGET = 8 * 1024; // bytes of a request target
export const MOST_HEADERS = 32 * 1024; // bytes of a header section
const MOST_HEAD = 96 * 1024; // bytes of a head that is read at all: a refusal has to suit origin and Accept (PER-13)
export const MOST_BODY = 1024 * 1024; // bytes of a request's body
const MOST_FRAMING = 4 * 1024; // bytes of a chunk's size line, or of all trailers

const STATUS_LINE = /^HTTP\/1\.[01] ([1-9][0-9]{2})(?: .*)?$/;
const REQUEST_LINE = /^([A-Z]+) (\S+) HTTP\/1\.([01])$/;
// No control characters: a bare CR or LF would be two headers to somebody.
const HEADER = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)$/;
const CHUNK_SIZE = /^([0-9a-fA-F]{1,12})[ \t]*(?:;.*)?$/;

// The other side has closed the connection, in the middle of a message or between two.
export class Closed extends Error {}

// The deadline in so many milliseconds, a time of `performance.now`.
export const within = (ms) => performance.now() + ms;

// Nothing came in time.
export class Late extends Error {}

// The message is not HTTP, or is beyond the bounds; says with which status it is answered.
export class Broken extends Error {
  constructor(status, code, title) {
    super(title);
    Object.assign(this, { status, code, title });
  }
}

const invalid = (title) => new Broken(400, 'invalid_request', title);
export const targetTooLong = () => new Broken(414, 'uri_too_long', 'Request target too long');
export const headersTooLarge = () => new Broken(431, 'headers_too_large', 'Headers too large');

// A request line, the headers in their order, and the body, which is read when somebody asks for it.
export class Request {
  method = '';
  target = '';
  headers = [];
  size = 0; // of the header section
  announced = 0; // bytes of the body
  body = (async function* () {})(); // in pieces
  isOld = false; // of HTTP/1.0
  closes = false; // whether the connection ends with it

  // The values of every header of this name. Two of them are never quietly one (PER-5, PER-11, PER-24).
  all(name) {
    return this.headers.filter(([key]) => key === name).map(([, value]) => value);
  }

  // The body, if it has no more than `most` bytes (PER-30).
  async wholeBody(most) {
    const pieces = [];
    const closes = this.closes;
    this.closes = true; // what is left of a body that is not read to its end would be taken for the next request
    for (let length = 0; length <= most && this.announced <= most; ) {
      const { value, done } = await this.body.next();
      if (done) {
        this.closes = closes;
        return Buffer.concat(pieces);
      }
      pieces.push(value);
      length += value.length;
    }
    throw new Broken(413, 'body_too_large', 'Body too large');
  }
}

// A status line instead of the request line.
export class Answer extends Request {
  status = 0;
}

function readHeaders(message, lines) {
  for (const text of lines) {
    const [, name, value] = HEADER.exec(text) ?? [];
    if (!name) throw invalid('Malformed header'); // a folded line, `Host : x`, a bare LF
    message.headers.push([name.toLowerCase(), value.replace(/^[ \t]+|[ \t]+$/g, '')]);
  }
}

// A socket that is read on demand, with a buffer of what was received and not yet used. A client sets `spare`: how many bytes
// other than the body it may receive (HS-31). What Node itself reads ahead, up to 64 KiB, is not counted.
export class Connection {
  buffer = Buffer.alloc(0);
  hasSentHead = false; // a whole one, ever

  constructor(socket, spare = Infinity) {
    this.socket = socket;
    this.spare = spare;
    socket.on('error', () => {}); // what reads or writes learns of it
  }

  // Adds what comes next to the buffer, or throws Late at the deadline, a time of `performance.now`.
  async receive(deadline) {
    for (;;) {
      const data = this.socket.read();
      if (data) {
        this.buffer = this.buffer.length ? Buffer.concat([this.buffer, data]) : data;
        return;
      }
      if (this.socket.readableEnded || this.socket.destroyed) throw new Closed();
      await this.#happens(['readable', 'end', 'close'], deadline);
    }
  }

  async #happens(events, deadline) {
    let happened, timer;
    try {
      await new Promise((resolve, reject) => {
        happened = resolve;
        // What arrived while this process did not run is in time: immediates are called after input and output.
        const late = () => setImmediate(() => reject(new Late()));
        timer = setTimeout(late, Math.max(deadline - performance.now(), 0));
        for (const event of events) this.socket.on(event, happened);
      });
    } finally {
      clearTimeout(timer);
      for (const event of events) this.socket.off(event, happened);
    }
  }

  // Cuts the first `end` bytes off the buffer, and `skip` more that nobody needs.
  take(end, skip = 0) {
    const taken = this.buffer.subarray(0, end);
    this.buffer = this.buffer.subarray(end + skip);
    return taken;
  }

  // Takes bytes that are not the body.
  takeFraming(end, skip) {
    this.spare -= end + skip;
    if (this.spare < 0) throw headersTooLarge();
    return this.take(end, skip);
  }

  // Receives more, when nothing in the buffer is the body.
  async receiveFraming(deadline) {
    if (this.buffer.length >= this.spare) throw headersTooLarge();
    await this.receive(deadline);
  }

  async line(deadline) {
    let end;
    while ((end = this.buffer.indexOf('\r\n')) < 0) {
      if (this.buffer.length > MOST_FRAMING) throw invalid('Line too long');
      await this.receiveFraming(deadline);
    }
    return this.takeFraming(end, 2).toString('latin1');
  }

  // Reads a start line and the lines of the headers, whole by the deadline (PER-33).
  async section(deadline) {
    let end;
    for (;;) {
      while (this.buffer.indexOf('\r\n') === 0) this.takeFraming(0, 2); // empty lines before a request mean nothing
      end = this.buffer.indexOf('\r\n\r\n');
      if ((end < 0 ? this.buffer.length : end) > MOST_HEAD) {
        throw this.buffer.subarray(0, MOST_HEAD).includes('\r\n') ? headersTooLarge() : targetTooLong();
      }
      if (end >= 0) break;
      await this.receiveFraming(deadline);
    }
    return this.takeFraming(end, 4).toString('latin1').split('\r\n');
  }

  // Reads a request line and the headers into `request`.
  async head(request, deadline, until) {
    const [start, ...lines] = await this.section(deadline);
    const [, method, target, minor] = REQUEST_LINE.exec(start) ?? [];
    if (!method) throw invalid('Malformed request line');
    readHeaders(request, lines);
    const size = lines.reduce((sum, line) => sum + 2 + line.length, 0);
    Object.assign(request, { method, target, size });
    const options = request.all('connection').join(',').toLowerCase().split(',');
    request.isOld = minor === '0';
    request.closes = request.isOld || options.some((option) => option.trim() === 'close');
    request.body = this.body(request, until);
  }

  // Reads the head of an answer, after any interim ones.
  async answer(deadline) {
    for (;;) {
      const [start, ...lines] = await this.section(deadline);
      const answer = new Answer();
      answer.status = Number(STATUS_LINE.exec(start)?.[1]);
      if (!answer.status) throw invalid('Malformed status line');
      readHeaders(answer, lines);
      if (answer.status < 200) continue;
      const until = () => deadline;
      const isFramed = answer.all('transfer-encoding').length || answer.all('content-length').length;
      answer.body = isFramed ? this.body(answer, until) : this.rest(until);
      return answer;
    }
  }

  // The pieces of the body, as its headers frame it. What is framed twice two parsers read in two ways: refused.
  // `until()` gives the deadline of each read.
  body(request, until) {
    const [codings, lengths] = [request.all('transfer-encoding'), request.all('content-length')];
    if (codings.length) {
      if (lengths.length || codings.join().toLowerCase() !== 'chunked') throw invalid('Unknown framing');
      return this.chunks(until);
    }
    if (!lengths.length) return request.body;
    if (lengths.length > 1 || !/^[0-9]{1,15}$/.test(lengths[0])) throw invalid('Unknown length');
    request.announced = Number(lengths[0]);
    return this.bytes(request.announced, until);
  }

  async *bytes(length, until) {
    while (length) {
      if (!this.buffer.length) await this.receive(until());
      const piece = this.take(length);
      length -= piece.length;
      yield piece;
    }
  }

  // Everything until the other side closes.
  async *rest(until) {
    try {
      for (;;) {
        yield this.take(this.buffer.length);
        await this.receive(until());
      }
    } catch (end) {
      if (!(end instanceof Closed)) throw end;
    }
  }

  async *chunks(until) {
    for (;;) {
      const [, size] = CHUNK_SIZE.exec(await this.line(until())) ?? [];
      if (!size) throw invalid('Malformed chunk');
      if (!parseInt(size, 16)) break;
      yield* this.bytes(parseInt(size, 16), until);
      if (await this.line(until())) throw invalid('Malformed chunk');
    }
    let trailers = 0;
    for (let line; (line = await this.line(until())); ) {
      if ((trailers += line.length) > MOST_FRAMING) throw invalid('Trailers too large');
    }
  }

  // Writes one or several parts in one go, and waits until they are out: whoever does not read what we wrote is not written
  // more (PER-33).
  async write(parts, deadline) {
    if (this.socket.destroyed) throw new Closed();
    let sent = false;
    this.socket.cork();
    for (const part of [parts].flat()) this.socket.write(part);
    this.socket.write('', () => {
      sent = true;
      this.socket.emit('sent');
    });
    this.socket.uncork();
    while (!sent) {
      if (this.socket.destroyed) throw new Closed();
      await this.#happens(['sent', 'close'], deadline);
    }
  }

  // Resolves when the other side will send nothing more. What it sends until then is dropped.
  async ended() {
    try {
      for (;;) {
        await this.receive(within(2 ** 30));
        this.buffer = Buffer.alloc(0);
      }
    } catch {}
  }

  // Ends the connection so that the other side can read the last answer: to close with bytes unread is a reset, which
  // throws that answer away. So the rest is read and dropped, within bounds in time and in bytes.
  async close(patience) {
    const deadline = performance.now() + patience;
    this.socket.end();
    try {
      for (let dropped = 0; dropped < MOST_BODY; dropped += this.buffer.length) {
        this.buffer = Buffer.alloc(0);
        await this.receive(deadline);
      }
    } catch {}
    this.socket.destroy();
  }
}
