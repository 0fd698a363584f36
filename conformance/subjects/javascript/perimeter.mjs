// What a request is allowed before any route sees it, and how a refusal reads (chapter 10).

import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { SECRET } from './contract.mjs';
import { readChecked, replace } from './files.mjs';

const CONFIG = 'config.toml';
const PLAIN = "[A-Za-z0-9._~!$&'()*+,;=-]";
const HOST = new RegExp(
  `^(?:\\[(?:[vV][0-9a-fA-F]+\\.(?:${PLAIN}|:)+|(?<address>[0-9a-fA-F:.]+))\\]|(?:${PLAIN}|%[0-9a-fA-F]{2})+)(?::[0-9]*)?$`,
);
export const ABSOLUTE = /^([A-Za-z][A-Za-z0-9+.-]*):\/\/([^/?#]*)/;
const PROOF = /^local-daemon-proof +(nonce|mac)="([^"]*)"[ \t]*,[ \t]*(nonce|mac)="([^"]*)"$/i;

// Whether this may stand on the allowlist: one origin as a browser writes it (PER-40).
export function serialisedOrigin(text) {
  if (!/^[a-z][a-z0-9+.-]*:\/\/[a-z0-9_[:][a-z0-9._:[\]-]*$/.test(text) || text.includes('..')) return false;
  try {
    const url = new URL(text); // writes host and port as a browser does
    if (['file:', 'ftp:', 'ws:', 'wss:'].includes(url.protocol)) return false; // no page has one of these
    return url.port !== '0' && text === `${url.protocol}//${url.host}`;
  } catch {
    return false;
  }
}

// The list of this moment, which is empty until the user adds to it (PER-39, PER-41), and if its file fails a check (PER-48).
export function allowlist(directory) {
  try {
    // Of TOML this program reads what it writes: an array of plain strings, which is written as JSON's is.
    const [, list] = /^\[origins\]\nallow = (\[.*\])$/m.exec(readChecked(path.join(directory, CONFIG)).toString());
    return JSON.parse(list).filter(serialisedOrigin);
  } catch {
    return [];
  }
}

// Adds or removes an origin; a running daemon sees it with its next request.
export function changeAllowlist(directory, change, origin) {
  const allowed = allowlist(directory).filter((other) => other !== origin);
  if (change === 'add') allowed.push(origin);
  replace(path.join(directory, CONFIG), `[origins]\nallow = ${JSON.stringify(allowed)}\n`);
}

// Whether this is a host, which is not empty, with an optional port, as RFC 3986 writes them (PER-5).
function isHost(text) {
  const { address } = HOST.exec(text)?.groups ?? { address: '' };
  return address === undefined || net.isIPv6(address);
}

// The status that refuses the Host headers and the target's own authority, or null (PER-3 to PER-6).
export function hostFault(hosts, target, port) {
  const own = ['127.0.0.1', 'localhost', '[::1]'].map((name) => `${name}:${port}`);
  const [isAbsolute, scheme, authority] = ABSOLUTE.exec(target) ?? [];
  const names = isAbsolute ? [...hosts, authority] : hosts;
  if (hosts.length !== 1 || !names.every(isHost)) return 400;
  const isForeign = isAbsolute && scheme.toLowerCase() !== 'http';
  return names.every((name) => own.includes(name)) && !isForeign ? null : 421;
}

// `absent`, `same`, `listed` or `refused` (PER-8 to PER-12). `allowed()` gives the list of this moment (PER-19).
export function originOf(origins, host, allowed) {
  if (!origins.length) return 'absent';
  if (origins.length > 1 || origins[0] === 'null') return 'refused';
  return origins[0] === `http://${host}` ? 'same' : allowed().includes(origins[0]) ? 'listed' : 'refused';
}

// Nonce and MAC of an Authorization header, each once and of the right form, or null (HS-19).
export function parseProof(text) {
  const [, one, first, other, second] = PROOF.exec(text) ?? [];
  if (!one || one.toLowerCase() === other.toLowerCase() || !SECRET.test(first) || !SECRET.test(second)) return null;
  return one.toLowerCase() === 'nonce' ? { nonce: first, mac: second } : { nonce: second, mac: first };
}

// Whether `text/plain` is given a higher quality than JSON, each by the closest range that covers it (PER-37).
export function prefersText(accept) {
  const wanted = new Map();
  for (const part of accept.join(',').toLowerCase().split(',')) {
    const [kind, ...parameters] = part.split(';').map((word) => word.trim());
    const quality = parameters.find((word) => word.startsWith('q='))?.slice(2) ?? '1';
    wanted.set(kind, /^[01](\.\d{0,3})?$/.test(quality) ? Number(quality) : 0);
  }
  const qualityOf = (...kinds) => wanted.get(kinds.find((kind) => wanted.has(kind))) ?? 0;
  return qualityOf('text/plain', 'text/*', '*/*') > qualityOf('application/json', 'application/*', '*/*');
}

// An error. It repeats nothing of the request, which may hold the credential (CRED-9, PER-27, PER-35).
export function problem(status, code, title, headers = {}) {
  return { status, body: { title, status, code }, headers, kind: 'application/problem+json' };
}
