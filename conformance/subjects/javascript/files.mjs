// The state directory and its files: made for their owner alone, and checked before they are trusted (chapter 02).

import crypto from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

const { O_RDONLY, O_RDWR, O_CREAT, O_APPEND, O_NOFOLLOW, O_NONBLOCK } = fs.constants;
export const MOST = 64 * 1024; // bytes of a file (DIR-9)

// A file check failed (DIR-6 to DIR-9). The message names the path and the fault (DIR-11).
export class Refused extends Error {
  constructor(where, fault) {
    super(`${where}: ${fault}`);
  }
}

// The system failed to read the file, which says nothing about it.
export class Unread extends Refused {}

export const random = (bytes) => crypto.randomBytes(bytes).toString('hex');
export const lacksFamily = (error) => ['EADDRNOTAVAIL', 'EAFNOSUPPORT'].includes(error.code);
export const isMissing = (error) => error.code === 'ENOENT';

// Where both sides look (DIR-1 to DIR-3, DIR-17), without a final slash, by which the system would follow a link. The
// directory is named by the option or by the component's own variable. A child gets it by the option, so there is no
// variable that could speak to another process (DIR-18).
export function stateDir(option, component) {
  const variable = `${component.toUpperCase().replaceAll(/[^A-Z0-9]/g, '_')}_STATE_DIR`;
  const named = option || process.env[variable];
  if (named) return path.resolve(named);
  const base = process.env.XDG_STATE_HOME ?? '';
  return path.join(path.isAbsolute(base) ? base : path.join(os.homedir(), '.local/state'), component);
}

// The file checks, on what the open descriptor tells and not on what stood at the path before.
export function check(where, facts, kind) {
  if (kind === 'directory' ? !facts.isDirectory() : !facts.isFile()) {
    throw new Refused(where, kind === 'directory' ? 'is not a directory' : 'is not a regular file');
  }
  const self = process.geteuid();
  if (facts.uid !== self) throw new Refused(where, `belongs to user ${facts.uid}, not to user ${self}`);
  if (facts.mode & 0o077) {
    throw new Refused(where, `has mode ${(facts.mode & 0o7777).toString(8)}: group or others are let in`);
  }
  if (kind === 'file' && facts.size > MOST) throw new Refused(where, `is larger than ${MOST} bytes`);
}

// Opens without following a link, or waiting for whoever writes to a FIFO, and gives the descriptor to `use`. An error
// for which isMissing() holds goes through.
function withChecked(where, kind, use) {
  let fd;
  try {
    fd = fs.openSync(where, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    if (isMissing(error)) throw error;
    if (error.code === 'ELOOP') throw new Refused(where, 'is a symbolic link');
    const Kind = ['EACCES', 'EPERM', 'ENXIO'].includes(error.code) ? Refused : Unread;
    throw new Kind(where, `cannot be opened: ${error.code}`);
  }
  try {
    check(where, fs.fstatSync(fd), kind);
    return use(fd);
  } finally {
    fs.closeSync(fd);
  }
}

// The log of a daemon that is about to be started, open for reading too, if it may be written (DIR-20).
export function openLog(where) {
  let fd;
  try {
    fd = fs.openSync(where, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK, 0o600);
  } catch (error) {
    throw new Refused(where, error.code === 'ELOOP' ? 'is a symbolic link' : `cannot be opened: ${error.code}`);
  }
  const facts = fs.fstatSync(fd);
  if (facts.isFile() && facts.uid === process.geteuid()) return fd;
  fs.closeSync(fd);
  throw new Refused(where, facts.isFile() ? `belongs to user ${facts.uid}` : 'is not a regular file');
}

export function checkStateDir(where) {
  withChecked(where, 'directory', () => {});
}

// A file's content, never more than the bound even if the file grows meanwhile.
export function readChecked(where) {
  return withChecked(where, 'file', (fd) => {
    const buffer = Buffer.alloc(MOST + 1);
    let length = 0;
    try {
      for (let got; length <= MOST && (got = fs.readSync(fd, buffer, length, MOST + 1 - length)); ) length += got;
    } catch (error) {
      throw new Unread(where, `cannot be read: ${error.code}`);
    }
    if (length > MOST) throw new Refused(where, `is larger than ${MOST} bytes`);
    return buffer.subarray(0, length);
  });
}

// A finished file under a name that was free, of mode 0600 from the start, and flushed (DIR-5, PUB-5, PUB-6).
export function writeNew(where, content) {
  const fd = fs.openSync(where, 'wx', 0o600);
  try {
    fs.writeFileSync(fd, content);
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

export function unlink(where) {
  try {
    fs.unlinkSync(where);
  } catch {}
}

// Puts a finished file in the place of what is there: a reader sees either, whole (PUB-3, PUB-5, CRED-14).
export function replace(where, content) {
  const finished = prepare(where, content);
  finished.put();
}

// The same in two steps: between them, whoever has to ask something at the last moment does.
export function prepare(where, content) {
  const temporary = `${where}.tmp-${random(8)}`;
  const giveUp = () => unlink(temporary); // PUB-13
  const trying = (step) => {
    try {
      step();
    } catch (error) {
      giveUp();
      throw error;
    }
  };
  trying(() => writeNew(temporary, content));
  return { put: () => trying(() => fs.renameSync(temporary, where)), giveUp };
}

// NFS, SMB, 9p, AFS and Ceph, as statfs(2) names them.
const NETWORK = new Set([0x6969, 0x517b, 0xff534d42, 0xfe534d42, 0x01021997, 0x5346414f, 0x00c36400]);

// Creates a directory and the missing ones above it, but none in another user's directory (DIR-22).
function makeMissing(where) {
  const above = path.dirname(where);
  if (!fs.existsSync(above)) makeMissing(above);
  const owner = fs.statSync(above).uid;
  if (owner && owner !== process.geteuid()) {
    throw new Refused(where, `cannot be created: ${above} belongs to user ${owner}`);
  }
  try {
    fs.mkdirSync(where, { mode: 0o700 }); // DIR-4, DIR-23; the program has seen to the umask
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
}

export function haveStateDir(where) {
  try {
    if (!fs.lstatSync(where, { throwIfNoEntry: false })) makeMissing(where);
  } catch (error) {
    throw error instanceof Refused ? error : new Refused(where, `cannot be created: ${error.code}`); // DIR-12
  }
  checkStateDir(where);
  if (NETWORK.has(fs.statfsSync(where).type >>> 0)) throw new Refused(where, 'is on a network filesystem'); // DIR-13
}
