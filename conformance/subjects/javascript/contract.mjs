// What a daemon and its local clients agree on: record, credential, proof, protocol (chapters 03, 04, 07 and 08).

import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { MOST, Refused, isMissing, random, readChecked, unlink, writeNew } from './files.mjs';

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

// The content is wrong.
export class Malformed extends Error {}

// The record.

// One JSON object in UTF-8 with unique keys at every depth and nothing around it (REG-9). JSON.parse takes the last of
// two equal keys, makes 1.0 an integer and lets lone surrogates pass, so the text is gone through once more, token by
// token. Returns the object and, for each of its members, the text of the value without the white space between tokens.
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
  let [key, member, before] = [null, null, null];
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    if (open.length === 1) member = before === ':' ? key : null;
    if (member !== null) written[member] = (written[member] ?? '') + token;
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
    before = token;
  }
  return { value, written };
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
  for (const member of ['version', 'url', 'protocol', 'socket', 'started_at']) {
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

export const [REFUSED, FOREIGN, LATE, PROVEN] = [0, 1, 2, 3]; // of two answers, from `localhost`, the higher counts

// What the recorded address is, and the handshake's status and body where it proved itself (HS-24 to HS-32).
export async function probe(record, credential, patience = PROBE) {
  const { addresses, authority } = record;
  const found = await Promise.all(addresses.map((at) => probeAddress(at, authority, credential, patience)));
  return found.reduce((best, next) => (next.kind > best.kind ? next : best));
}

function probeAddress(address, authority, credential, patience) {
  const nonce = crypto.randomBytes(32).toString('base64url'); // HS-28
  const proof = `Local-Daemon-Proof nonce="${nonce}", mac="${clientMac(credential, authority, nonce)}"`;
  return new Promise((resolve) => {
    // No redirects (HS-29); an agent of its own, which knows of no proxy (HS-30); a bound on the head (HS-31).
    const request = http.request({
      ...address,
      path: HANDSHAKE,
      headers: { Host: authority, Authorization: proof },
      agent: new http.Agent(),
      maxHeaderSize: MOST,
    });
    // What has come while this process had no turn counts as come in time: immediates are called after input and output.
    const timer = setTimeout(() => setImmediate(() => end(LATE)), patience);
    const end = (kind, status, body) => {
      clearTimeout(timer);
      request.destroy();
      resolve({ kind, status, body });
    };
    // Node says ECONNRESET for a close without a byte, too, which is what a listener does that is going.
    request.on('error', ({ code }) => end(['ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(code) ? REFUSED : FOREIGN));
    request.on('response', (response) => {
      const pieces = [];
      let length = 0;
      response.on('error', () => end(FOREIGN));
      response.on('data', (piece) => {
        pieces.push(piece);
        if ((length += piece.length) > MOST) end(FOREIGN);
      });
      response.on('end', () => {
        const body = Buffer.concat(pieces);
        const given = parseAnswer(response.headersDistinct['local-daemon-proof'] ?? []);
        if (!given || !equal(given, daemonMac(credential, authority, nonce, body))) return end(FOREIGN); // HS-26
        try {
          end(PROVEN, response.statusCode, strictJson(body).value);
        } catch {
          end(FOREIGN);
        }
      });
    });
    request.end();
  });
}
