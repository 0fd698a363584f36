#!/usr/bin/env -S node --optimize-for-size
// A daemon that keeps a tally: a subject of the profiles core, proof, perimeter and streams, in Node's standard library.
//
//     daemon.mjs [--state-dir DIR] [--yield [--replace]] [--allow-origin ORIGIN]... [origins add|remove ORIGIN]
//
// The order of a launch is that of chapter 05: state directory, credential, listen, serve, publish. Everything runs on
// one thread: what touches the record does so in one go, and no request comes in between. Written for Linux; ids such
// as CONV-1 name requirements, whose text is in `spec/chapters`.

import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import * as contract from './contract.mjs';
import { CREDENTIAL, Malformed, PROVEN, RECORD, SPEC, VERSION } from './contract.mjs';
import { Refused, Unread, haveStateDir, isMissing, prepare, random, readChecked, stateDir, unlink } from './files.mjs';
import { changeAllowlist, serialisedOrigin } from './perimeter.mjs';
import { Server } from './server.mjs';

const REREAD = 500; // ms between two looks at the record; 2 s is the most (CONV-1)
const [RETRIES, RETRY] = [5, 60]; // further reads of an unparsable record, ms between them (CONV-4)
const DRAIN = 3000; // ms for open work once the daemon stands down
const DISPLACED = 20; // the exit status that tells a supervisor not to restart (CONV-12, CONV-32)

// The record cannot be put in place.
class Unpublished extends Error {}

// The record's daemon cannot be asked whether it is ready.
class Unreachable extends Error {}

class Daemon {
  id = random(16); // REG-3, REG-4
  leaving = false; // once true, never false again (CONV-11)
  alive = null; // the descriptor of the lock that it holds for life (REG-15)
  server = new Server(this);

  constructor(directory, protocol, allowed, replaces) {
    Object.assign(this, { directory, protocol, allowed, replaces, path: path.join(directory, RECORD) });
  }

  // A launch.

  // From nothing to published. False: there is a daemon to yield to.
  async start(yields) {
    haveStateDir(this.directory);
    this.credential = contract.haveCredential(this.directory);
    await this.server.start(); // it answers, `draining`, before anybody can read where (PUB-4)
    if (!(await this.publish(yields && (() => this.anotherIsReady())))) return false;
    this.server.log.append('lifecycle', '{"what":"ready"}');
    return true;
  }

  // CONV-26. A daemon that published during the probe is asked as well (CONV-34). One that cannot be asked is not published
  // over (CONV-35). In every other case this one publishes, also if there is no good record (CONV-27).
  async anotherIsReady() {
    let asked = null;
    let why = null;
    for (let round = 0; round < 2; round += 1) {
      let record;
      try {
        record = contract.parseRecord(readChecked(this.path));
      } catch (error) {
        if (error instanceof Unread && !this.replaces) throw new Unreachable(error.message); // CONV-37
        return false;
      }
      if (JSON.stringify(record) === asked) break;
      asked = JSON.stringify(record);
      const place = await contract.place(this.directory, record);
      why = place?.elsewhere;
      if (place) continue;
      const { kind, status, body, why: error } = await contract.probe(record, this.credential);
      why = error;
      const wanted = { spec: SPEC, id: record.id, protocol: this.protocol, state: 'ready' };
      const isReady = Object.keys(wanted).every((member) => kind === PROVEN && body[member] === wanted[member]);
      if (isReady && status === 200) return true;
    }
    if (why && !this.replaces) throw new Unreachable(`the daemon of ${this.path} cannot be asked: ${why}`);
    return false;
  }

  // Over whatever is there (PUB-7), whole at every moment (PUB-3). False: `unless` said so right before.
  async publish(unless) {
    const { id, protocol } = this; // protocol: REG-8
    const url = `http://${this.server.authority}`;
    const record = { id, version: VERSION, url, pid: process.pid, protocol, ...contract.world() };
    let finished;
    try {
      finished = prepare(this.path, JSON.stringify(record));
      if (unless && (await unless())) {
        finished.giveUp();
        return false;
      }
      // A daemon that yields has no lock, which another one would take for a daemon that lives.
      this.alive ??= await contract.lock(this.directory, '--shared').catch(() => null);
      if (this.alive === null) {
        // Without the lock (PUB-8) nothing can be told of the network namespace (REG-15).
        finished.giveUp();
        delete record.netns;
        finished = prepare(this.path, JSON.stringify(record));
      }
      finished.put();
      return true;
    } catch (error) {
      if (error instanceof Unreachable) {
        finished.giveUp();
        throw error;
      }
      throw new Unpublished(`${this.path}: cannot be published: ${error.code}`); // PUB-10
    }
  }

  // Whose record is it?

  // Whether this id is in the file, by a read of this moment (HS-15).
  isOwn(file) {
    try {
      return contract.parseOwner(readChecked(file)) === this.id;
    } catch {
      return false;
    }
  }

  owns() {
    return this.isOwn(this.path);
  }

  // Looks at the record until there is a reason to stand down; resolves to the exit status for it (chapter 06).
  async watch() {
    let wake = () => {};
    let stopped = false;
    for (const signal of ['SIGTERM', 'SIGINT']) {
      process.on(signal, () => {
        if (this.leaving) process.exit(0); // whoever asks twice means it (CONV-20)
        stopped = true;
        wake();
      });
    }
    try {
      // A notification saves the wait where there is one (CONV-2); nothing rests on it (CONV-1).
      fs.watch(this.directory, () => wake()).on('error', () => {});
    } catch {}
    for (;;) {
      const changed = new Promise((resolve) => (wake = resolve));
      const status = stopped ? 0 : await this.look();
      if (status !== null) return status;
      await Promise.race([changed, sleep(REREAD)]);
      this.followCredential();
    }
  }

  // A replaced credential counts from now on (CRED-11, CRED-12); a missing or refused one does not (CRED-13).
  followCredential() {
    try {
      this.credential = contract.readCredential(path.join(this.directory, CREDENTIAL));
    } catch {}
  }

  // The exit status for which there is a reason to stand down, or null.
  async look() {
    for (let attempt = 0; attempt <= RETRIES; attempt += 1) {
      if (attempt) await sleep(RETRY); // somebody writes in place (CONV-4)
      try {
        // By the id alone, whatever else the record says (CONV-3, GATE-3).
        return contract.parseOwner(readChecked(this.path)) === this.id ? null : DISPLACED;
      } catch (error) {
        if (isMissing(error)) return this.lookForTaken();
        if (!(error instanceof Malformed)) return null; // says nothing about who owns it (CONV-6)
      }
    }
    return DISPLACED; // CONV-5
  }

  // No record: somebody took it off by mistake and left it for this daemon to find, or it was removed.
  async lookForTaken() {
    let names;
    try {
      names = fs.readdirSync(this.directory);
    } catch (error) {
      return isMissing(error) ? 0 : null; // the directory is gone, and stays so (CONV-24)
    }
    const taken = names.filter((name) => name.startsWith(`${RECORD}.taken-`));
    const own = taken.map((name) => path.join(this.directory, name)).filter((file) => this.isOwn(file));
    if (!own.length) return 0; // CONV-23
    await this.publish(); // CONV-21
    own.forEach(unlink); // and only these (CONV-22)
    return null;
  }

  // Standing down.

  async standDown(status) {
    this.leaving = true;
    if (status === 0 && this.owns()) {
      const taken = `${this.path}.taken-${this.id}-${random(8)}`; // CONV-14
      try {
        fs.renameSync(this.path, taken); // never an unlink of the record (CONV-15), and before the drain (CONV-19)
        if (this.isOwn(taken)) fs.unlinkSync(taken); // CONV-16; what is another's stays for that one to find (CONV-17)
      } catch {} // CONV-18
    }
    this.server.log.end(status === DISPLACED ? 'superseded' : 'shutdown');
    const deadline = performance.now() + DRAIN;
    while (this.server.working && performance.now() < deadline) await sleep(20);
    return status;
  }
}

function usage(text) {
  fs.writeSync(2, `tally: ${text}\n`);
  process.exit(2);
}

async function main() {
  contract.dumpNothing();
  process.umask(0o077); // nothing is open to others at any moment, whatever the caller's umask is (DIR-4, DIR-5)
  process.on('SIGHUP', () => {}); // the terminal may go (LIFE-36)
  const options = {
    version: { type: 'boolean' },
    'state-dir': { type: 'string' },
    yield: { type: 'boolean' },
    replace: { type: 'boolean' }, // does not yield to a daemon that cannot be asked
    'allow-origin': { type: 'string', multiple: true, default: [] },
  };
  let given;
  try {
    given = parseArgs({ options, allowPositionals: true });
  } catch (error) {
    usage(error.message);
  }
  const { values, positionals: words } = given;
  if (values.version) return console.log(`tally (JavaScript) ${VERSION}`);
  const protocol = process.env.TALLY_PROTOCOL ?? 'tally/1';
  if (!contract.parseProtocol(protocol)) usage('TALLY_PROTOCOL is no protocol identifier');
  const command = words.slice(0, -1).join(' ');
  if (words.length && !['origins add', 'origins remove'].includes(command)) usage('unknown command');
  for (const origin of [...values['allow-origin'], ...words.slice(2)]) {
    if (!serialisedOrigin(origin)) usage(`not an origin as a browser writes it: ${origin}`); // PER-40
  }
  const directory = stateDir(values['state-dir'], 'tally');
  let status = 0;
  try {
    if (words.length) {
      haveStateDir(directory);
      changeAllowlist(directory, words[1], words[2]);
    } else {
      const daemon = new Daemon(directory, protocol, values['allow-origin'], values.replace);
      if (await daemon.start(values.yield)) status = await daemon.standDown(await daemon.watch());
    }
  } catch (fault) {
    fs.writeSync(2, `tally: ${fault.message}\n`); // path and fault (DIR-11, PUB-10)
    status = fault instanceof Refused ? 15 : fault instanceof Unreachable ? 17 : 1;
  }
  process.exit(status); // connections that are still open end with the process (CONV-8)
}

await main();
