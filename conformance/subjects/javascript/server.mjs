// The daemon's HTTP server: connections within their bounds, the checks of chapter 10, handshake, tally and events.

import { STATUS_CODES } from 'node:http';
import net from 'node:net';
import * as contract from './contract.mjs';
import { HANDSHAKE, SPEC, VERSION } from './contract.mjs';
import { lacksFamily } from './files.mjs';
import * as http1 from './http1.mjs';
import { Broken, Closed, Connection, Late, MOST_BODY, Request, within } from './http1.mjs';
import { ABSOLUTE, allowlist, hostFault, originOf, parseProof, prefersText, problem } from './perimeter.mjs';
import { ID, Log, MOST_NOTE, TOPICS } from './streams.mjs';

const [HEAD_MS, BODY_MS, WRITE_MS] = [8000, 15000, 15000]; // PER-33
const [MOST_CONNECTIONS, MOST_TURNED_AWAY, BACKLOG] = [200, 64, 4096];
const MOST_OF_A_STRANGER = 4 * 1024; // bytes of a body (PER-44)
const MOST_REFUSED = 500; // refused handshakes in a second (PER-31, PER-32)
const EVENTS = '/v1/events';
const ROUTES = new Map([
  [HANDSHAKE, ['GET']],
  ['/v1/tally', ['GET', 'HEAD', 'POST']],
  [EVENTS, ['GET', 'HEAD', 'POST']],
]);

// Serves for a daemon, which says who it is and in which state.
export class Server {
  working = 0; // requests whose answer is not sent
  #strangers = new Set(); // the connections on which no request has authenticated yet, the oldest first
  #known = new Set(); // the others
  #turnedAway = 0;
  #tally = 0;
  #refused = { second: 0, count: 0 };

  constructor(daemon) {
    this.daemon = daemon;
    this.log = new Log(daemon.id.slice(0, 8));
    this.listener = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#connected(socket));
  }

  // PUB-1. Node asks for SO_REUSEADDR and not for SO_REUSEPORT, with which no other socket gets the port (PUB-2).
  async start() {
    const listen = (host) =>
      new Promise((resolve, reject) => {
        this.listener.once('error', reject);
        this.listener.listen({ host, port: 0, backlog: BACKLOG, exclusive: true }, resolve);
      });
    await listen('127.0.0.1').catch((error) => {
      if (!lacksFamily(error)) throw error; // a port in use is no missing family (REG-5)
      return listen('::1');
    });
    const { address, family, port } = this.listener.address();
    this.port = port;
    this.authority = `${family === 'IPv6' ? `[${address}]` : address}:${port}`; // as it stands in the record's url
  }

  // Connections.

  async #connected(socket) {
    const connection = new Connection(socket);
    if (!this.#hasRoomFor(connection)) return this.#turnAway(connection);
    socket.once('close', () => this.#strangers.delete(connection) || this.#known.delete(connection));
    try {
      while (await this.#serveOne(connection));
    } catch (end) {
      if (![Closed, Late, Broken].some((kind) => end instanceof kind)) console.error(end); // a fault of this program
    }
    await connection.close(2000);
  }

  // If there is no room, the oldest stranger is closed, and first one that has not sent a whole head (PER-43): this program does
  // not know their users.
  #hasRoomFor(connection) {
    if (this.#strangers.size + this.#known.size >= MOST_CONNECTIONS) {
      let [oldest] = this.#strangers;
      if (!oldest) return false;
      for (const other of this.#strangers) {
        if (other.hasSentHead) continue;
        oldest = other;
        break;
      }
      this.#strangers.delete(oldest);
      oldest.socket.destroy();
    }
    this.#strangers.add(connection);
    return true;
  }

  // PER-31
  async #turnAway(connection) {
    if (this.#turnedAway >= MOST_TURNED_AWAY) return connection.socket.destroy();
    this.#turnedAway += 1;
    try {
      const answer = problem(503, 'overloaded', 'Too many connections', { 'Retry-After': '1' });
      await this.#send(connection, answer, new Request(), true);
    } catch {}
    await connection.close(1000);
    this.#turnedAway -= 1;
  }

  // Whether the connection can take one more request.
  async #serveOne(connection) {
    const request = new Request();
    let answer;
    try {
      await connection.head(request, within(HEAD_MS), () => within(BODY_MS));
      connection.hasSentHead = true;
    } catch (fault) {
      if (fault instanceof Broken) answer = problem(fault.status, fault.code, fault.title);
      else if (fault instanceof Closed || !connection.buffer.length) throw fault;
      else answer = problem(408, 'request_timeout', 'Request timeout');
      await this.#send(connection, answer, request, true);
      return false;
    }
    this.working += 1;
    let most;
    try {
      answer = await this.#answer(connection, request);
      most = this.#known.has(connection) ? MOST_BODY : MOST_OF_A_STRANGER;
      request.closes ||= request.announced > most; // PER-55
      if (answer.pieces) await this.#stream(connection, answer, request);
      else await this.#send(connection, answer, request, request.closes);
    } finally {
      this.working -= 1;
    }
    // A body that was not read is in front of the next request.
    if (!request.closes) await request.wholeBody(most);
    return !request.closes;
  }

  async #send(connection, answer, request, closes) {
    const { kind = 'application/json' } = answer;
    const fields = {};
    let { body } = answer;
    if (body) {
      fields['Content-Type'] = kind;
      if (Buffer.isBuffer(body)) {
        // The handshake, whose proof covers these bytes.
      } else if (prefersText(request.all('accept'))) {
        fields['Content-Type'] = 'text/plain; charset=utf-8';
        body = Object.entries(body).map(([name, value]) => `${name}: ${value}\n`).join('');
      } else body = JSON.stringify(body);
      fields['Content-Length'] = Buffer.byteLength(body);
    }
    const content = body && request.method !== 'HEAD' ? Buffer.from(body) : Buffer.alloc(0);
    await connection.write(Buffer.concat([this.#head(answer, fields, closes), content]), within(WRITE_MS));
  }

  #head({ status, headers }, fields, closes) {
    const all = { ...headers, ...fields, 'Cache-Control': 'no-store' }; // PER-38, STR-1
    all.Date = new Date().toUTCString(); // PER-52
    if (closes) all.Connection = 'close';
    const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
    return Buffer.from(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n`);
  }

  // In chunks, whose end is told from a cut; a client of HTTP/1.0 knows none.
  async #stream(connection, answer, request) {
    request.closes = true;
    const write = (data) => connection.write(data, within(WRITE_MS));
    const framing = request.isOld ? {} : { 'Transfer-Encoding': 'chunked' };
    await write(this.#head(answer, { 'Content-Type': 'text/event-stream', ...framing }, true));
    for await (const frames of answer.pieces) {
      const length = frames.reduce((sum, frame) => sum + frame.length, 0);
      await write(request.isOld ? frames : [`${length.toString(16)}\r\n`, ...frames, '\r\n']);
    }
    if (!request.isOld) await write('0\r\n\r\n');
  }

  // Requests.

  // The checks in their order (PER-1), and what each answer to an allowlisted origin carries (PER-13, PER-14).
  async #answer(connection, request) {
    const origins = request.all('origin');
    const origin = originOf(origins, request.all('host').join(), () => this.#allowed());
    let answer;
    try {
      answer = await this.#checked(connection, request, origin);
    } catch (fault) {
      if (fault instanceof Broken) answer = problem(fault.status, fault.code, fault.title);
      else if (fault instanceof Late) answer = problem(408, 'request_timeout', 'Request timeout');
      else throw fault;
    }
    const cors = {
      'Access-Control-Allow-Origin': origins[0],
      'Access-Control-Expose-Headers': 'local-daemon-protocol, retry-after', // PER-51
      Vary: 'Origin',
    };
    if (origin === 'listed') Object.assign(answer.headers, cors);
    return answer;
  }

  #allowed() {
    return [...this.daemon.allowed, ...allowlist(this.daemon.directory)];
  }

  async #checked(connection, request, origin) {
    if (request.target.length > http1.MOST_TARGET) throw http1.targetTooLong();
    if (request.size > http1.MOST_HEADERS) throw http1.headersTooLarge();
    const fault = hostFault(request.all('host'), request.target, this.port); // on every path (PER-7)
    if (fault) return problem(fault, fault === 421 ? 'misdirected' : 'invalid_request', "Not this daemon's address");
    if (origin === 'refused') return problem(403, 'origin_refused', 'Origin refused');
    const [, path, query = ''] = /^([^?]*)(?:\?(.*))?$/s.exec(request.target.replace(ABSOLUTE, '') || '/');
    const methods = ROUTES.get(path);
    if (request.method === 'OPTIONS' && origin === 'listed' && request.all('access-control-request-method').length) {
      const answers = {
        'Access-Control-Allow-Headers': 'authorization, content-type, last-event-id', // PER-17
        'Access-Control-Max-Age': '60', // PER-18
      };
      if (methods) answers['Access-Control-Allow-Methods'] = methods.join(', '); // PER-16
      return { status: 204, headers: answers }; // PER-15
    }
    const admitted = this.#authenticated(request, path, query);
    if (!admitted) {
      if (path === HANDSHAKE && this.#tooManyRefused()) {
        return problem(503, 'overloaded', 'Too many refused handshakes', { 'Retry-After': '1' });
      }
      // One answer for every path and method, served or not (HS-8, PER-21); it tells nothing of the daemon (HS-9).
      return problem(401, 'unauthorized', 'Unauthorized', { 'WWW-Authenticate': 'Bearer, Local-Daemon-Proof' });
    }
    if (this.#strangers.delete(connection)) this.#known.add(connection);
    if (!methods) return problem(404, 'not_found', 'Not found');
    if (!methods.includes(request.method)) {
      return problem(405, 'method_not_allowed', 'Method not allowed', { Allow: methods.join(', ') });
    }
    if (path === HANDSHAKE) return this.#handshake(admitted.nonce);
    if (this.daemon.leaving && (path === EVENTS || request.method === 'POST')) {
      return problem(503, 'draining', 'This daemon is leaving'); // CONV-10, STR-6
    }
    if (request.method === 'POST') return path === EVENTS ? this.#note(connection, request) : this.#add(connection, request);
    if (path === EVENTS && request.method === 'HEAD') {
      return { status: 200, headers: { 'Content-Type': 'text/event-stream' } }; // PER-54
    }
    if (path === EVENTS) return this.#follow(connection, request, query, origin);
    return { status: 200, body: { tally: this.#tally }, headers: {} };
  }

  // Null where it is not authenticated; else an object, with the nonce where it was by a proof (PER-23 to PER-25).
  #authenticated(request, path, query) {
    const { authority, daemon } = { authority: this.authority, daemon: this.daemon };
    const values = request.all('authorization');
    const tokens = new URLSearchParams(query).getAll('token');
    if (tokens.length) { // for EventSource, which sets no headers (PER-25, PER-26)
      const isAlone = path === EVENTS && request.method === 'GET' && tokens.length === 1 && !values.length;
      return isAlone && contract.equal(tokens[0], daemon.credential) ? {} : null;
    }
    if (values.length !== 1) return null;
    const [, scheme, token] = /^([^ ]*) *(.*)$/.exec(values[0]);
    if (scheme.toLowerCase() === 'bearer') return contract.equal(token, daemon.credential) ? {} : null; // HS-5, HS-7
    const proof = parseProof(values[0]);
    // On the handshake alone (HS-23), over the authority of our own record, whatever Host says (HS-17, HS-18, HS-20).
    if (!proof || path !== HANDSHAKE || request.method !== 'GET') return null;
    const wanted = contract.clientMac(daemon.credential, authority, proof.nonce);
    return contract.equal(proof.mac, wanted) ? { nonce: proof.nonce } : null;
  }

  #tooManyRefused() {
    const second = Math.floor(performance.now() / 1000);
    if (this.#refused.second !== second) this.#refused = { second, count: 0 };
    return (this.#refused.count += 1) > MOST_REFUSED;
  }

  #handshake(nonce) {
    const { id, protocol, credential } = this.daemon;
    const state = !this.daemon.leaving && this.daemon.owns() ? 'ready' : 'draining'; // HS-13, HS-15, HS-16
    const facts = { spec: SPEC, protocol, id, pid: process.pid, version: VERSION, state, capabilities: [] };
    const body = Buffer.from(JSON.stringify(facts));
    const headers = {};
    // Never for an unproven request (HS-21, HS-22).
    if (nonce) headers['Local-Daemon-Proof'] = `"${contract.daemonMac(credential, this.authority, nonce, body)}"`;
    return { status: state === 'ready' ? 200 : 503, body, headers }; // HS-14
  }

  // The object in a body of that many bytes, as contract.strictJson has it; empty where there is none.
  async #json(connection, request, most) {
    if (request.all('expect').join().toLowerCase() === '100-continue' && !request.isOld) { // PER-53
      await connection.write('HTTP/1.1 100 Continue\r\n\r\n', within(WRITE_MS));
    }
    const body = await request.wholeBody(most);
    try {
      return contract.strictJson(body);
    } catch {
      return { value: {}, written: {} };
    }
  }

  async #add(connection, request) {
    const number = (await this.#json(connection, request, MOST_BODY)).value.add;
    if (!Number.isInteger(number) || number < 0 || number > 1000) {
      return problem(400, 'invalid_request', 'Not a JSON object with a number to add');
    }
    this.#tally += number;
    return { status: 200, body: { tally: this.#tally }, headers: {} };
  }

  async #note(connection, request) {
    const { value, written, isReadAlike } = await this.#json(connection, request, MOST_NOTE);
    if (value.topic !== 'note' || !Object.hasOwn(value, 'data') || !isReadAlike) {
      return problem(400, 'invalid_request', 'Not a JSON object with the topic note and data'); // STR-9, STR-31
    }
    return { status: 201, body: { id: this.log.append('note', written.data) }, headers: {} };
  }

  #follow(connection, request, query, origin) {
    const parameters = new URLSearchParams(query);
    const topics = parameters.getAll('topics').flatMap((chosen) => chosen.split(','));
    const ids = request.all('last-event-id').filter((id) => id); // an empty one is none (STR-33)
    const after = [...ids, ...parameters.getAll('after')]; // the first one counts (STR-16)
    if (!topics.every((topic) => TOPICS.includes(topic)) || !after.every((id) => ID.test(id))) {
      return problem(400, 'invalid_request', 'Unknown topic, or no event id'); // STR-5, STR-20
    }
    const { credential } = this.daemon;
    const isWelcome = () => origin !== 'listed' || this.#allowed().includes(request.all('origin')[0]);
    const isWanted = () => isWelcome() && credential === this.daemon.credential; // CRED-16
    const place = this.log.placeAfter(after[0]);
    const pieces = this.log.follow(place, topics.length ? topics : TOPICS, connection.ended(), isWanted, !after.length);
    return { status: 200, headers: {}, pieces };
  }
}
