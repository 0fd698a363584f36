// What a request is allowed before any route sees it, and how a refusal reads (chapter 10).

import fs from 'node:fs';
import path from 'node:path';
import { SECRET } from './contract.mjs';
import { readChecked, replace } from './files.mjs';

const CONFIG = 'config.toml';
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

// The status that refuses the Host headers and the target's own authority, or null (PER-3 to PER-6).
export function hostFault(hosts, target, port) {
  const names = ['127.0.0.1', 'localhost', '[::1]'].map((name) => `${name}:${port}`);
  const absolute = /^http:\/\/([^/?#]*)/i.exec(target);
  if (hosts.length !== 1) return 400;
  return names.includes(hosts[0]) && (!absolute || names.includes(absolute[1])) ? null : 421;
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

// Whether `text/plain` is wanted more than JSON (PER-37).
export function prefersText(accept) {
  const wanted = new Map();
  for (const part of accept.join(',').toLowerCase().split(',')) {
    const [kind, ...parameters] = part.split(';').map((word) => word.trim());
    const quality = parameters.find((word) => word.startsWith('q='))?.slice(2) ?? '1';
    wanted.set(kind, /^[01](\.\d{0,3})?$/.test(quality) ? Number(quality) : 0);
  }
  const any = wanted.get('*/*') ?? 0;
  const json = ['json', 'problem+json', '*'].map((kind) => wanted.get(`application/${kind}`) ?? any);
  return (wanted.get('text/plain') ?? wanted.get('text/*') ?? 0) > Math.max(...json);
}

// An error. It repeats nothing of the request, which may hold the credential (CRED-9, PER-27, PER-35).
export function problem(status, code, title, headers = {}) {
  return { status, body: { title, status, code }, headers, kind: 'application/problem+json' };
}
