// What a daemon and its local clients agree on: record, credential, proof, protocol (chapters 03, 04, 07 and 08).

import { spawn, spawnSync } from 'node:child_process';
import crypto from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { Closed, Connection, Late, within } from './http1.mjs';
import { MOST, Refused, isMissing, lacksFamily, random, readChecked, unlink, writeNew } from './files.mjs';

export const VERSION = '1.0.0'; // of daemon and client; nothing is decided by it (GATE-5)
export const SPEC = 'local-daemon/1';
export const HANDSHAKE = '/.well-known/local-daemon';
export const [RECORD, CREDENTIAL, LOCK] = ['registration.json', 'credential', 'registration.lock'];
export const PROBE = 2000; // ms of one handshake (HS-24)

// 32 bytes in base64url: the last character has two bits to spare.
export const SECRET = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/;
const ID = /^[0-9a-f]{32}$/;
const PROTOCOL = /^([a-z0-9][a-z0-9._-]{0,63})\/([1-9][0-9]{0,9})$/;
const URL_TEXT = /^http:\/\/((127\.0\.0\.1|localhost|\[::1\]):([1-9][0-9]{0,4}))\/?$/;

const ALIVE = 'daemon.alive';
const WORLD = ['host', 'boot', 'netns', 'pidns'];
const MOST_LEVELS = 64; // of objects and arrays in a note (STR-31)
const TEST_BOUND = 0.4; // seconds for which another process may hold the lock that only tests it
const { O_RDONLY, O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = fs.constants;

// The content is wrong.
export class Malformed extends Error {}

// The record.

// One JSON object in UTF-8 with unique keys at every depth and nothing around it (REG-9). JSON.parse takes the last of
// two equal keys, makes 1.0 an integer and lets lone surrogates pass, so the text is gone through once more, token by
// token. Returns the object; for each of its members, the text of the value without the white space between tokens; and whether
// readers in other languages read all of it as this program does (STR-31).
export function strictJson(content) {
  let text, value;
  try {
    // A byte order mark is left in, so that the parser refuses it.
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(content);
    value = JSON.parse(text);
  } catch {
    throw new Malformed('not one JSON text in UTF-8');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Malformed('no JSON object');
  const open = []; // for each object or array around the token: the keys so far, or null
  const written = Object.create(null);
  let isReadAlike = true;
  let [key, member, before] = [null, null, null];
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    if (open.length === 1) member = before === ':' ? key : null;
    if (member !== null) written[member] = (written[member] ?? '') + token;
    if (/^[-0-9]/.test(token) && !Number.isFinite(Number(token))) isReadAlike = false;
    if (token === '{') open.push(new Set());
    else if (token === '[') open.push(null);
    else if (token === '}' || token === ']') open.pop();
    else if (token[0] === '"') {
      const string = JSON.parse(token);
      if (/\p{Surrogate}/u.test(string)) throw new Malformed('a lone surrogate');
      const keys = open.at(-1);
      if (keys && (before === '{' || before === ',')) {
        if (keys.has(string)) throw new Malformed('two equal keys');
        keys.add(string);
        key = string;
      }
    }
    if (open.length > MOST_LEVELS) isReadAlike = false;
    before = token;
  }
  return { value, written, isReadAlike };
}

// The id alone, by which a daemon tells whose record it is (CONV-3).
export function parseOwner(content) {
  const { id } = strictJson(content).value;
  if (typeof id !== 'string' || !ID.test(id)) throw new Malformed('no id of 32 lowercase hexadecimal digits');
  return id;
}

// Authority and addresses of a record's url, by its text (REG-10); for `localhost` both are tried (HS-32).
export function parseUrl(text) {
  const [, authority, host, port] = URL_TEXT.exec(text) ?? [];
  if (!port || Number(port) > 65535) return null;
  const hosts = host === 'localhost' ? ['127.0.0.1', '::1'] : [host.replace(/[[\]]/g, '')];
  return { authority, addresses: hosts.map((host) => ({ host, port: Number(port) })) };
}

// A record that a reader accepts (REG-9, REG-10, REG-12).
export function parseRecord(content) {
  parseOwner(content);
  const { value, written } = strictJson(content);
  for (const member of ['version', 'url', 'protocol', 'socket', 'started_at', ...WORLD]) {
    const counts = ['version', 'url'].includes(member) || Object.hasOwn(value, member);
    if (counts && typeof value[member] !== 'string') throw new Malformed(`${member} is no string`);
  }
  if (!/^[1-9][0-9]{0,9}$/.test(written.pid ?? '') || value.pid > 2147483647) {
    throw new Malformed('pid is no integer from 1 to 2147483647');
  }
  const url = parseUrl(value.url);
  if (!url) throw new Malformed('url is no loopback address with a port');
  return { ...value, ...url };
}

// The world of a daemon (chapter 03).

// What this process knows of its own, in the forms of a record (REG-14).
export function world() {
  const reads = {
    host: () => {
      const id = fs.readFileSync('/etc/machine-id', 'utf8').replace(/\s/g, '');
      const hash = crypto.createHmac('sha256', id).update('local-daemon/1 host').digest('hex');
      return id && hash.slice(0, 32);
    },
    boot: () => fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').replace(/\s/g, ''),
    netns: () => fs.readlinkSync('/proc/self/ns/net'),
    pidns: () => fs.readlinkSync('/proc/self/ns/pid'),
  };
  const found = {};
  for (const member of WORLD) {
    try {
      const value = reads[member]();
      if (value) found[member] = value;
    } catch {}
  }
  return found;
}

// An open `daemon.alive` with that lock, or null if another process has one that excludes it. Node has no flock(2): the
// tool of that name takes the lock for the open file, which is ours as well.
export async function lock(directory, kind) {
  const flags = kind === '--shared' ? O_RDWR | O_CREAT : O_RDONLY;
  const fd = fs.openSync(path.join(directory, ALIVE), flags | O_NOFOLLOW | O_NONBLOCK, 0o600);
  const tool = spawn('flock', [kind, '--timeout', String(TEST_BOUND), '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] });
  const status = await new Promise((resolve) => tool.on('error', () => resolve(null)).on('exit', resolve));
  if (status === 0) return fd;
  fs.closeSync(fd);
  return null;
}

// Whether a daemon holds its lock, or may hold it (CONN-40, CONN-41).
async function aDaemonLives(directory) {
  try {
    const fd = await lock(directory, '--exclusive');
    if (fd === null) return true;
    fs.closeSync(fd);
    return false;
  } catch (error) {
    return !isMissing(error);
  }
}

// Why a record's daemon is not to be asked: it is `gone`, or it runs `elsewhere`; null if it can be asked. Only what both
// sides know is compared.
export async function place(directory, record) {
  const ours = world();
  const known = (member) => Object.hasOwn(record, member) && Object.hasOwn(ours, member);
  const differs = (member) => known(member) && record[member] !== ours[member];
  if (differs('host')) return { elsewhere: 'the record is of another host' }; // CONN-39
  if (differs('boot')) { // CONN-40
    if (!known('host')) return null;
    if (!(await aDaemonLives(directory))) return { gone: 'the machine has been started again' };
    // A container can have a boot of its own on the same machine.
    return known('netns') && !differs('netns') ? null : { elsewhere: 'the daemon runs in another boot' };
  }
  if (!differs('netns')) return null; // another pid namespace counts for signals alone
  if (await aDaemonLives(directory)) return { elsewhere: 'the daemon runs in another network namespace' }; // CONN-41
  return { gone: "the daemon's network namespace is gone" };
}

// The credential and the proof.

// The 43 characters, with or without one newline after them (CRED-6).
export function parseCredential(content) {
  const text = content.toString('latin1').replace(/\n$/, '');
  if (!SECRET.test(text)) throw new Malformed('is not 43 characters of base64url that encode 32 bytes');
  return text;
}

export function readCredential(where) {
  const content = readChecked(where);
  try {
    return parseCredential(content);
  } catch (fault) {
    throw new Refused(where, fault.message);
  }
}

// No core dump holds the credential (CRED-15): a file would be longer than a byte, and at exactly this limit no dump is piped to
// a program. Node has no setrlimit(2), so this needs a tool of util-linux; without it, there is a dump.
export function dumpNothing() {
  spawnSync('prlimit', ['--core=1:', '--pid', String(process.pid)], { stdio: 'ignore' });
}

// Links a finished file to the name, replacing nothing, and adopts whichever is there then (CRED-1 to CRED-5).
export function haveCredential(directory) {
  const where = path.join(directory, CREDENTIAL);
  try {
    return readCredential(where);
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
  const temporary = `${where}.tmp-${random(8)}`;
  try {
    writeNew(temporary, crypto.randomBytes(32).toString('base64url') + '\n');
    fs.linkSync(temporary, where);
  } catch (error) {
    if (error.code !== 'EEXIST') throw new Refused(where, `cannot be written: ${error.code}`);
  } finally {
    unlink(temporary);
  }
  return readCredential(where);
}

function mac(credential, ...lines) {
  return crypto.createHmac('sha256', Buffer.from(credential, 'base64url')).update(lines.join('\n')).digest('base64url');
}

export function clientMac(credential, authority, nonce) {
  return mac(credential, `${SPEC} client`, authority, nonce);
}

// D binds the body, so that whoever sits in between cannot change it (HS-21).
export function daemonMac(credential, authority, nonce, body) {
  return mac(credential, `${SPEC} daemon`, authority, nonce, crypto.createHash('sha256').update(body).digest('hex'));
}

// Digests of equal length, compared in constant time (HS-12, PER-22).
export function equal(one, other) {
  const [a, b] = [one, other].map((text) => crypto.createHash('sha256').update(text).digest());
  return crypto.timingSafeEqual(a, b);
}

// The MAC in the headers `Local-Daemon-Proof` of an answer: exactly one, of the right form (HS-21).
export function parseAnswer(values) {
  const text = values.length === 1 && /^"(.*)"$/.exec(values[0])?.[1];
  return text && SECRET.test(text) ? text : null;
}

// Name and number of a protocol identifier, or null (GATE-1).
export function parseProtocol(text) {
  const [, name, number] = PROTOCOL.exec(text) ?? [];
  return name && Number(number) <= 2147483647 ? { name, number: Number(number) } : null;
}

// Only the newer one of the same name, so that there is an end (GATE-8).
export function mayDisplace(ours, theirs) {
  const [a, b] = [parseProtocol(ours), parseProtocol(theirs)];
  return Boolean(a && b && a.name === b.name && a.number > b.number);
}

// The probe, by which a client, and a daemon that was told to yield, learns who is at the recorded address.

// Of two answers, from the two addresses of `localhost`, the higher counts.
export const [REFUSED, FOREIGN, LATE, UNREACHABLE, PROVEN] = [0, 1, 2, 3, 4];
const OWN = 250; // ms that a connection to a listener of its own may take
const BROKEN = -1; // something listened, and broke the connection off

// What the recorded address is, and the handshake's status and body if it proved itself (HS-24 to HS-32); `why` is the
// error of the system if this process cannot ask.
export async function probe(record, credential, patience = PROBE) {
  const { addresses, authority } = record;
  const ask = async (address) => {
    const found = await probeTwice(address, authority, credential, patience);
    return { ...found, isThere: found.kind !== UNREACHABLE || (await hasFamily(address)) };
  };
  const found = await Promise.all(addresses.map(ask));
  // A family that this host does not have says nothing about the other one.
  const there = found.filter(({ isThere }) => isThere);
  const best = (there.length ? there : found).reduce((best, next) => (next.kind > best.kind ? next : best));
  const why = best.kind === REFUSED && (await ownFault());
  return why ? { kind: UNREACHABLE, why } : best;
}

// Why this process cannot reach a listener of its own either (CONN-52); null if it can, or cannot listen.
async function ownFault() {
  const server = net.createServer((socket) => socket.destroy());
  const listens = new Promise((resolve) => server.on('error', () => resolve(false)).on('listening', () => resolve(true)));
  server.listen({ host: '127.0.0.1', port: 0 });
  if (!(await listens)) return null;
  const socket = net.connect(server.address().port, '127.0.0.1');
  const error = await new Promise((resolve) => {
    socket.on('connect', () => resolve(null)).on('error', ({ message }) => resolve(message));
    socket.setTimeout(OWN, () => resolve('no answer in time'));
  });
  socket.destroy();
  server.close();
  return error && `nor can a listener of its own be reached: ${error}`;
}

async function hasFamily({ host }) {
  const server = net.createServer();
  const error = await new Promise((resolve) => server.on('error', resolve).listen({ host, port: 0 }, () => resolve(null)));
  server.close();
  return !(error && lacksFamily(error));
}

// What breaks the connection off may be about to end: once more, and then it counts as silent (CONN-7).
async function probeTwice(address, authority, credential, patience) {
  const began = performance.now();
  let found = await probeAddress(address, authority, credential, patience);
  if (found.kind === BROKEN) {
    found = await probeAddress(address, authority, credential, Math.max(patience - (performance.now() - began), 1));
  }
  return found.kind === BROKEN ? { kind: LATE } : found;
}

async function probeAddress(address, authority, credential, patience) {
  const deadline = within(patience);
  const nonce = crypto.randomBytes(32).toString('base64url'); // HS-28
  const proof = `Local-Daemon-Proof nonce="${nonce}", mac="${clientMac(credential, authority, nonce)}"`;
  const head = `GET ${HANDSHAKE} HTTP/1.1\r\nHost: ${authority}\r\nAuthorization: ${proof}\r\nConnection: close\r\n\r\n`;
  // No redirects (HS-29), no proxy (HS-30), a bound on everything but the body (HS-31).
  const socket = net.connect(address);
  const connection = new Connection(socket, MOST);
  let answer;
  try {
    await connection.write(head, deadline);
    answer = await connection.answer(deadline);
    const body = await answer.wholeBody(MOST);
    const given = parseAnswer(answer.all('local-daemon-proof'));
    if (!given || !equal(given, daemonMac(credential, authority, nonce, body))) return { kind: FOREIGN }; // HS-26
    return { kind: PROVEN, status: answer.status, body: strictJson(body).value };
  } catch (fault) {
    if (fault instanceof Late) return { kind: LATE };
    if (!(fault instanceof Closed)) return { kind: FOREIGN };
    const { code, syscall, message } = socket.errored ?? {};
    if (syscall === 'connect') {
      if (code === 'ECONNREFUSED') return { kind: REFUSED };
      return code === 'ETIMEDOUT' ? { kind: LATE } : { kind: UNREACHABLE, why: message }; // CONN-37
    }
    return { kind: code || !(answer || connection.buffer.length) ? BROKEN : FOREIGN };
  } finally {
    socket.destroy();
  }
}
