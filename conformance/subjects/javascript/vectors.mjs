#!/usr/bin/env node
// Runs the test vectors of `spec/vectors` against these modules, as `spec/vectors/README.md` says.

import fs from 'node:fs';
import * as contract from './contract.mjs';
import * as files from './files.mjs';
import * as perimeter from './perimeter.mjs';

function content(vector, name = 'input') {
  const encoded = vector[`${name}_base64`];
  const data = encoded === undefined ? Buffer.from(vector[name]) : Buffer.from(encoded, 'base64');
  const missing = Math.max(0, (vector.pad_to ?? 0) - data.length);
  return Buffer.concat([data, Buffer.alloc(missing, ' ')]);
}

// Whether `parse` takes it, within the bound that whatever reads the file sets.
function accepts(parse, data) {
  try {
    return data.length <= files.MOST && parse(data) !== null;
  } catch (fault) {
    if (fault instanceof contract.Malformed) return false;
    throw fault;
  }
}

function proof(vector) {
  const { kind, credential, authority, nonce, mac } = vector;
  if (kind === 'authorization') return perimeter.parseProof(vector.input) !== null;
  if (kind === 'answer') return contract.parseAnswer(vector.values) !== null;
  const client = contract.clientMac(credential, authority, nonce);
  if (kind === 'verify-client') return contract.equal(client, mac);
  const daemon = contract.daemonMac(credential, authority, nonce, content(vector, 'body'));
  if (kind === 'verify-daemon') return contract.equal(daemon, mac);
  return client === vector.client_mac && daemon === vector.daemon_mac;
}

function protocol({ kind, input, ours, theirs, may_displace }) {
  if (kind === 'identifier') return contract.parseProtocol(input) !== null;
  if (contract.mayDisplace(ours, theirs) !== may_displace) throw new Error('the wrong one may displace');
  return ours === theirs;
}

function origin(vector) {
  if (vector.kind === 'entry') return perimeter.serialisedOrigin(vector.input);
  const decision = perimeter.originOf(vector.origins, vector.host, () => vector.allowlist);
  if (decision !== vector.decision) throw new Error(`decided ${decision}`);
  return decision !== 'refused';
}

function permission({ object, type, mode, owner, size = 0 }) {
  if (type === 'symlink') return false; // never opened
  const facts = {
    isFile: () => type === 'file',
    isDirectory: () => type === 'directory',
    uid: process.geteuid() + (owner === 'other' ? 1 : 0),
    mode: parseInt(mode, 8),
    size,
  };
  try {
    files.check('it', facts, object === 'directory' ? 'directory' : 'file');
    return true;
  } catch {
    return false;
  }
}

function host({ hosts, target, port, accept, statuses }) {
  const fault = perimeter.hostFault(hosts, target, port);
  if (fault !== null && !accept && !statuses.includes(fault)) throw new Error(`refused with ${fault}`);
  return fault === null;
}

const judges = {
  records: (vector) => accepts(contract.parseRecord, content(vector)),
  urls: ({ input, authority }) => authority !== undefined && contract.parseUrl(input)?.authority === authority,
  credentials: (vector) => accepts(contract.parseCredential, content(vector)),
  permissions: permission,
  proof,
  protocols: protocol,
  hosts: host,
  origins: origin,
  notes: (vector) => accepts((body) => contract.strictJson(body).isReadAlike || null, content(vector)),
};

let [right, wrong] = [0, 0];
for (const [name, judge] of Object.entries(judges)) {
  const text = fs.readFileSync(new URL(`../../../spec/vectors/${name}.json`, import.meta.url));
  for (const vector of JSON.parse(text).cases) {
    let accepted;
    try {
      accepted = judge(vector);
    } catch (fault) {
      accepted = fault.message;
    }
    if (accepted === vector.accept) right += 1;
    else {
      wrong += 1;
      console.log(`${name}/${vector.name}: ${accepted}, must be ${vector.accept}: ${vector.why}`);
    }
  }
}
console.log(`${right} passed, ${wrong} failed`);
process.exit(wrong ? 1 : 0);
