// The daemon's HTTP server: connections within their bounds, the checks of chapter 10, the handshake and the tally.

import { STATUS_CODES } from 'node:http';
import net from 'node:net';
import * as contract from './contract.mjs';
import { HANDSHAKE, SPEC, VERSION } from './contract.mjs';
import * as http1 from './http1.mjs';
import { Broken, Closed, Connection, Late, MOST_BODY, Request } from './http1.mjs';
import { allowlist, hostFault, originOf, parseProof, prefersText, problem } from './perimeter.mjs';

const [HEAD_MS, BODY_MS, WRITE_MS] = [8000, 15000, 15000]; // PER-33
const [MOST_CONNECTIONS, MOST_TURNED_AWAY] = [256, 64];
const MOST_REFUSED = 500; // refused handshakes in a second (PER-31, PER-32)
const ROUTES = new Map([
  [HANDSHAKE, ['GET']],
  ['/v1/tally', ['GET', 'POST']],
]);

const within = (ms) => performance.now() + ms;

// Serves for a daemon, which says who it is and in which state.
export class Server {
  working = 0; // requests whose answer is not sent
  #connections = 0;
  #tally = 0;
  #refused = { second: 0, count: 0 };

  constructor(daemon) {
    this.daemon = daemon;
    this.listener = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#connected(socket));
    this.listener.maxConnections = MOST_CONNECTIONS + MOST_TURNED_AWAY;
  }

  // PUB-1. Node asks for SO_REUSEADDR and not for SO_REUSEPORT, with which no other socket gets the port (PUB-2).
  async start() {
    const listen = (host) =>
      new Promise((resolve, reject) => {
        this.listener.once('error', reject);
        this.listener.listen({ host, port: 0, backlog: 1024, exclusive: true }, resolve);
      });
    await listen('127.0.0.1').catch(() => listen('::1'));
    const { address, family, port } = this.listener.address();
    this.port = port;
    this.authority = `${family === 'IPv6' ? `[${address}]` : address}:${port}`; // as it stands in the record's url
  }

  // Connections.

  async #connected(socket) {
    const connection = new Connection(socket);
    this.#connections += 1;
    socket.once('close', () => (this.#connections -= 1));
    try {
      if (this.#connections > MOST_CONNECTIONS) {
        const answer = problem(503, 'overloaded', 'Too many connections', { 'Retry-After': '1' }); // PER-31
        await this.#send(connection, answer, new Request(), true);
      } else {
        while (await this.#serveOne(connection));
      }
    } catch (end) {
      if (![Closed, Late, Broken].some((kind) => end instanceof kind)) console.error(end); // a fault of this program
    }
    await connection.close(2000);
  }

  // Whether the connection can take one more request.
  async #serveOne(connection) {
    const request = new Request();
    let answer;
    try {
      await connection.head(request, within(HEAD_MS), () => within(BODY_MS));
    } catch (fault) {
      if (fault instanceof Broken) answer = problem(fault.status, fault.code, fault.title);
      else if (fault instanceof Closed || !connection.buffer.length) throw fault;
      else answer = problem(408, 'request_timeout', 'Request timeout');
      await this.#send(connection, answer, request, true);
      return false;
    }
    this.working += 1;
    try {
      answer = await this.#answer(connection, request);
      await this.#send(connection, answer, request, request.closes);
    } finally {
      this.working -= 1;
    }
    if (!request.closes) await request.wholeBody(MOST_BODY); // what nobody asked for is in front of the next request
    return !request.closes;
  }

  async #send(connection, answer, request, closes) {
    const { status, headers, kind = 'application/json' } = answer;
    const fields = { ...headers, 'Cache-Control': 'no-store' }; // PER-38
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
    if (closes) fields.Connection = 'close';
    const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`);
    const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n`;
    const content = body && request.method !== 'HEAD' ? Buffer.from(body) : Buffer.alloc(0);
    await connection.write(Buffer.concat([Buffer.from(head), content]), within(WRITE_MS));
  }

  // Requests.

  // The checks in their order (PER-1), and what each answer to an allowlisted origin carries (PER-13, PER-14).
  async #answer(connection, request) {
    const origins = request.all('origin');
    const allowed = () => [...this.daemon.allowed, ...allowlist(this.daemon.directory)];
    const origin = originOf(origins, request.all('host').join(), allowed);
    let answer;
    try {
      answer = await this.#checked(connection, request, origin);
    } catch (fault) {
      if (fault instanceof Broken) answer = problem(fault.status, fault.code, fault.title);
      else if (fault instanceof Late) answer = problem(408, 'request_timeout', 'Request timeout');
      else throw fault;
    }
    const cors = { 'Access-Control-Allow-Origin': origins[0], Vary: 'Origin' };
    if (origin === 'listed') Object.assign(answer.headers, cors);
    return answer;
  }

  async #checked(connection, request, origin) {
    if (request.target.length > http1.MOST_TARGET) throw http1.targetTooLong();
    if (request.size > http1.MOST_HEADERS) throw http1.headersTooLarge();
    const fault = hostFault(request.all('host'), request.target, this.port); // on every path (PER-7)
    if (fault) return problem(fault, fault === 421 ? 'misdirected' : 'invalid_request', "Not this daemon's address");
    if (origin === 'refused') return problem(403, 'origin_refused', 'Origin refused');
    const [, path, query = ''] = /^([^?]*)(?:\?(.*))?$/s.exec(request.target.replace(/^http:\/\/[^/?#]*/i, '') || '/');
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
    if (!methods) return problem(404, 'not_found', 'Not found');
    if (!methods.includes(request.method)) {
      return problem(405, 'method_not_allowed', 'Method not allowed', { Allow: methods.join(', ') });
    }
    if (path === HANDSHAKE) return this.#handshake(admitted.nonce);
    if (request.method === 'POST') return this.#add(connection, request);
    return { status: 200, body: { tally: this.#tally }, headers: {} };
  }

  // Null where it is not authenticated; else an object, with the nonce where it was by a proof (PER-23 to PER-25).
  #authenticated(request, path, query) {
    const { authority, daemon } = { authority: this.authority, daemon: this.daemon };
    const values = request.all('authorization');
    if (values.length !== 1 || new URLSearchParams(query).has('token')) return null;
    const [, scheme, token] = /^([^ ]*) ?(.*)$/.exec(values[0]);
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

  async #add(connection, request) {
    if (this.daemon.leaving) return problem(503, 'draining', 'This daemon is leaving'); // CONV-10
    if (request.all('expect').join().toLowerCase() === '100-continue') {
      await connection.write('HTTP/1.1 100 Continue\r\n\r\n', within(WRITE_MS));
    }
    const body = await request.wholeBody(MOST_BODY);
    let number;
    try {
      number = contract.strictJson(body).value.add;
    } catch {}
    if (!Number.isInteger(number) || number < 0 || number > 1000) {
      return problem(400, 'invalid_request', 'Not a JSON object with a number to add');
    }
    this.#tally += number;
    return { status: 200, body: { tally: this.#tally }, headers: {} };
  }
}
