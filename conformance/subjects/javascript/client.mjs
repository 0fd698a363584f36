#!/usr/bin/env node
// A client of the tally, which finds the daemon, proves it, and starts it where there is none (chapter 09).
//
//     client.mjs connect [--state-dir DIR] [--no-spawn] [--replace] [--deadline SECONDS] [--json]
//     client.mjs rotate  [--state-dir DIR]

import { spawn } from 'node:child_process';
import crypto from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as contract from './contract.mjs';
import { CREDENTIAL, FOREIGN, LATE, LOCK, Malformed, RECORD, REFUSED, SPEC, UNREACHABLE } from './contract.mjs';
import { Refused, checkStateDir, haveStateDir, isMissing, openLog, readChecked, replace, stateDir } from './files.mjs';

const WORDS = ['absent', 'stale', 'busy', 'foreign', 'incompatible', 'invalid', 'spawn-failed', 'unreachable'];
const STATUS = { ready: 0, ...Object.fromEntries(WORDS.map((word, place) => [word, 10 + place])) };
const [POLL_FIRST, POLL_LAST] = [25, 250]; // ms between two looks while it waits (CONN-28)
const LOCK_BOUND = 1000; // ms to wait for the lock, and ms to hold it (CONN-17, CONN-19)
const [MOST_FAILURES, MINUTE] = [3, 60_000]; // spawns that did not become ready, in how many ms (CONN-21)
const [LOG, FAILURES] = ['daemon.log', 'spawn-failures.json'];
const COULD_NOT_ASK = 17; // the exit status of a daemon that could not ask the one of the record (CONV-35)
const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = fs.constants;

// The end of a call: one of the words of STATUS, and for `ready` the daemon's record (CONN-1). `counts` says whether a start
// that ended like this is one of the failures of CONN-21.
class Outcome extends Error {
  constructor(word, text = '', more = {}) {
    super(text);
    Object.assign(this, { word, text, counts: true }, more);
  }
}

class Client {
  constructor(options) {
    this.directory = stateDir(options['state-dir'], 'tally');
    this.spawns = !options['no-spawn'];
    this.replace = options.replace;
    this.protocol = process.env.TALLY_PROTOCOL ?? 'tally/1';
    this.deadline = performance.now() + Number(options.deadline) * 1000; // of the whole call (CONN-10)
    this.seen = null; // the record that was probed last, which is not asked again after a spawn (CONN-23)
  }

  left() {
    return Math.max(this.deadline - performance.now(), 0);
  }

  pause(poll) {
    return sleep(Math.min(poll, this.left()));
  }

  // Looking.

  // The record that is there now, or null. Nothing is concluded from a record alone (REG-13).
  read() {
    const where = path.join(this.directory, RECORD);
    try {
      checkStateDir(this.directory);
      return contract.parseRecord(readChecked(where));
    } catch (error) {
      if (isMissing(error)) this.absent = `there is no ${where}`;
      else if (error instanceof Malformed) this.absent = `${where} is malformed: ${error.message}`; // but said (REG-11)
      else throw error;
      return null;
    }
  }

  // What a record's daemon is, as an Outcome; `draining` besides the words of STATUS.
  async judge(record) {
    this.seen = record;
    const at = record.url;
    const place = await contract.place(this.directory, record);
    if (place?.elsewhere) return new Outcome('unreachable', `the daemon at ${at} cannot be asked: ${place.elsewhere}`);
    if (place?.gone) return new Outcome('stale', `the daemon at ${at} has gone: ${place.gone}`);
    const where = path.join(this.directory, CREDENTIAL);
    let credential;
    try {
      credential = contract.readCredential(where);
    } catch (error) {
      if (!isMissing(error)) throw error;
      return new Outcome('invalid', `${where}: there is a record and no credential`);
    }
    const found = await contract.probe(record, credential, Math.min(contract.PROBE, this.left()));
    const { kind, status, body, why } = found;
    if (kind === REFUSED) return new Outcome('stale', `nobody listens at ${at}`);
    // That is the client's own (CONN-37).
    if (kind === UNREACHABLE) return new Outcome('unreachable', `the daemon at ${at} cannot be asked: ${why}`);
    // Late is not dead (CONN-7).
    if (kind === LATE) return new Outcome('busy', `the daemon at ${at} does not answer in time`);
    if (kind === FOREIGN) return new Outcome('foreign', `what answers at ${at} does not prove itself`);
    if (body.id !== record.id) return new Outcome('stale', `another daemon has the port of ${at}`); // HS-27
    if (body.spec !== SPEC) return new Outcome('incompatible', `the daemon at ${at} is of another contract`);
    if (body.state === 'draining') return new Outcome('draining', `the daemon at ${at} is leaving`);
    const theirs = body.protocol;
    if (theirs !== this.protocol) {
      // The whole text, and of nothing but the proven answer (GATE-4 to GATE-6).
      const displaceable = typeof theirs === 'string' && contract.mayDisplace(this.protocol, theirs);
      return new Outcome('incompatible', `the daemon speaks ${theirs}, this client ${this.protocol}`, { displaceable });
    }
    if (body.state === 'ready' && status === 200) return new Outcome('ready', '', { record }); // CONN-4
    return new Outcome('foreign', `the daemon at ${at} is in no known state`);
  }

  // Reads and probes, and reads again before anything is concluded (CONN-11, CONN-14). Throws `ready`.
  async look() {
    for (let record; (record = this.read()); ) {
      const outcome = await this.judge(record);
      if (outcome.word === 'ready') throw outcome;
      if (outcome.word === 'draining' || same(this.read(), record) || !this.left()) return outcome;
    }
    try {
      contract.readCredential(path.join(this.directory, CREDENTIAL)); // a bad one counts here too (CONN-9)
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
    return new Outcome('absent', this.absent);
  }

  // One call. Always ends in an Outcome.
  async connect() {
    let outcome = await this.look();
    for (let poll = POLL_FIRST, looked = false; ; ) {
      if (outcome.word === 'draining') {
        // Its successor is there or about to be: no spawn now (CONN-13, HS-33).
        await this.pause(poll);
        poll = Math.min(poll * 2, POLL_LAST);
        if (!this.left()) throw new Outcome('busy', outcome.text);
        outcome = await this.look();
      } else if (!this.spawns || this.barred(outcome)) {
        throw outcome;
      } else if (!looked) {
        looked = true;
        haveStateDir(this.directory);
        await this.waitForLock();
        outcome = await this.look(); // CONN-18
      } else {
        await this.spawn();
      }
    }
  }

  // Whether a daemon was found that this client must not displace: an incompatible one (GATE-8), and one that it cannot
  // ask (CONN-38), unless it has the order to replace that (CONN-49).
  barred({ word, displaceable }) {
    return ['incompatible', 'unreachable'].includes(word) && !this.replace && !displaceable;
  }

  // Starting a daemon.

  // Waits for the lock, a second at most; without it the call goes on all the same (CONN-16, CONN-17). Node has no
  // flock(2): the tool of that name takes the lock for the open file, which is ours as well, and leaves it locked. We
  // give it back after another second, or with our end, when the daemon is ready or has failed (CONN-19).
  async waitForLock() {
    let lock;
    try {
      lock = fs.openSync(path.join(this.directory, LOCK), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600);
    } catch {
      return;
    }
    const seconds = Math.min(LOCK_BOUND, this.left()) / 1000;
    const tool = spawn('flock', ['--timeout', String(seconds), '3'], { stdio: ['ignore', 'ignore', 'ignore', lock] });
    await new Promise((resolve) => tool.on('error', resolve).on('exit', resolve));
    setTimeout(() => fs.closeSync(lock), LOCK_BOUND).unref();
  }

  // Starts one daemon, which is told to yield (CONN-20, CONN-22), and waits for whichever comes.
  async spawn() {
    const failures = this.failures();
    if (failures.length >= MOST_FAILURES) {
      const seconds = Math.ceil((failures[0][0] + MINUTE - Date.now()) / 1000);
      const when = `${MOST_FAILURES} starts failed within a minute, the next may be in ${seconds} s`; // CONN-43
      throw new Outcome('spawn-failed', `${when}; the last: ${failures.at(-1)[1]}`);
    }
    const own = fileURLToPath(new URL('daemon.mjs', import.meta.url));
    const program = process.env.TALLY_DAEMON ? [process.env.TALLY_DAEMON] : [process.execPath, own];
    const log = openLog(path.join(this.directory, LOG));
    const before = fs.fstatSync(log).size;
    const said = () => {
      const buffer = Buffer.alloc(4096);
      return buffer.toString('utf8', 0, fs.readSync(log, buffer, 0, 4096, before)).trim();
    };
    try {
      const replaces = this.replace ? ['--replace'] : [];
      const [command, ...words] = [...program, '--state-dir', this.directory, '--yield', ...replaces];
      // A session of its own (CONN-30), nothing of ours but the log (CONN-31), and `/` (CONN-32). Node itself leaves no
      // blocked or ignored signal to a child (CONN-47), and hears of its end whatever SIGCHLD was (CONN-46).
      let child;
      try {
        child = spawn(command, words, { detached: true, stdio: ['ignore', 'ignore', log], cwd: '/' });
      } catch (error) {
        child = { exitCode: null, failed: `${command}: ${error.code}` };
      }
      child.on?.('error', (error) => (child.failed = `${command}: ${error.code}`)).unref();
      await this.wait(child, said);
    } catch (outcome) {
      if (outcome instanceof Outcome && outcome.word !== 'ready' && outcome.counts) {
        replace(path.join(this.directory, FAILURES), JSON.stringify([...failures, [Date.now(), outcome.text]]));
      }
      throw outcome;
    }
  }

  // Time and text of each spawn of the last minute that did not become ready (CONN-21).
  failures() {
    try {
      const entries = JSON.parse(readChecked(path.join(this.directory, FAILURES)));
      return entries.filter(([at]) => at <= Date.now() && Date.now() - at < MINUTE).slice(-MOST_FAILURES);
    } catch {
      return [];
    }
  }

  // Probes each new record, whoever published it (CONN-24), until one is ready, the child fails or time is up.
  async wait(child, said) {
    let last = new Outcome('spawn-failed', 'no daemon was ready in time');
    for (let poll = POLL_FIRST; ; poll = Math.min(poll * 2, POLL_LAST)) {
      const { exitCode: status, signalCode: signal, failed } = child; // Node reaps it (CONN-33)
      if (status === 0) this.seen = null; // it yielded: a daemon is there, and may be the one from before (CONN-25)
      const record = this.read();
      if (record && !same(record, this.seen)) {
        const outcome = await this.judge(record);
        if (outcome.word === 'ready') throw outcome;
        if (outcome.word === 'draining' || outcome.word === 'busy') {
          this.seen = null; // not its last word
          last = new Outcome('busy', outcome.text);
        }
      }
      if (failed) throw new Outcome('spawn-failed', failed, { counts: false }); // the program did not run (CONN-42)
      if (status || signal) { // an error, and no other daemon is ready (CONN-26)
        const text = `the daemon ended with ${signal ?? `status ${status}`}: ${said()}`; // CONN-27, CONN-44, CONN-45
        throw new Outcome('spawn-failed', text, { counts: status !== COULD_NOT_ASK });
      }
      if (!this.left()) throw last;
      await this.pause(poll);
    }
  }
}

function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

// Replaces the credential as a whole (CRED-14); a running daemon follows.
function rotate(directory) {
  checkStateDir(directory);
  replace(path.join(directory, CREDENTIAL), crypto.randomBytes(32).toString('base64url') + '\n');
}

async function main() {
  contract.dumpNothing();
  process.umask(0o077); // what it creates is for its owner alone (DIR-16)
  const options = {
    'state-dir': { type: 'string' },
    'no-spawn': { type: 'boolean' }, // starts nothing, changes nothing (CONN-12)
    replace: { type: 'boolean' }, // displaces an incompatible daemon
    deadline: { type: 'string', default: '10' },
    json: { type: 'boolean' },
  };
  let given;
  try {
    given = parseArgs({ options, allowPositionals: true });
    const [command, ...more] = given.positionals;
    if (!['connect', 'rotate'].includes(command) || more.length) throw new Error('connect or rotate?');
    if (!(Number(given.values.deadline) > 0)) throw new Error('--deadline takes seconds');
  } catch (error) {
    console.error(error.message);
    return 2;
  }
  const client = new Client(given.values);
  let outcome;
  try {
    if (given.positionals[0] === 'rotate') return rotate(client.directory);
    await client.connect();
  } catch (end) {
    outcome = end;
    // A file check, or an error of the system's: the path and the fault (CONN-9, DIR-14).
    if (end instanceof Refused || end.code) outcome = new Outcome('invalid', end.message);
    else if (!(end instanceof Outcome)) throw end;
  }
  const { word, text, record } = outcome;
  const told = { outcome: word };
  if (record) for (const member of ['id', 'url', 'pid', 'version']) told[member] = record[member];
  if (text) told.error = text;
  const lines = Object.entries(told).map(([name, value]) => `${name}: ${value}`);
  console.log(given.values.json ? JSON.stringify(told) : lines.join('\n')); // CONN-3
  return STATUS[word]; // CONN-2
}

process.exit(await main());
