// The event stream (chapter 11): one log, and for each subscriber a place in it.

import { EventEmitter } from 'node:events';
import v8 from 'node:v8';
import vm from 'node:vm';
import { within } from './http1.mjs';

export const TOPICS = ['lifecycle', 'warning', 'origins', 'sessions', 'proxies', 'note'];
const [MOST_EVENTS, MOST_BYTES] = [4096, 4 * 1024 * 1024]; // held by the log (STR-21)
export const MOST_NOTE = 64 * 1024; // bytes of a note's body (STR-8)
const PIECE = 64 * 1024; // bytes, and one event more, are all that is held for one subscriber (STR-23)
const LOOK = 500; // ms between two looks whether a subscriber's origin is still welcome (PER-42)
const TIDY = 250; // ms until memory that nobody holds any more is given back (STR-24)
// With an empty line after it, some clients dispatch an empty event.
const COMMENT = Buffer.from(':\n');
const SILENT = 10_000; // ms until a comment; 15 s are the most (STR-27)

export const ID = /^([0-9a-f]{8})-(0|[1-9][0-9]{0,99})$/;

// V8's collector, which is had when it is first needed: a start must be quick (DIR-10).
let collect = () => {
  v8.setFlagsFromString('--expose-gc');
  collect = vm.runInNewContext('gc');
  collect();
};

// An event; one without an id is about the stream itself, and not in the log (STR-14, STR-19). `data` is JSON already,
// because JSON.parse rounds large numbers.
function frame(topic, data, id) {
  const at = new Date().toISOString();
  const lines = [`event: ${topic}`, `data: {"topic":"${topic}","at":"${at}","data":${data}}`, '', ''];
  return Buffer.from((id ? [`id: ${id}`, ...lines] : lines).join('\n'));
}

// Numbered frames, which are made once and are the same for everybody (STR-13). It never waits for a subscriber.
export class Log {
  #frames = new Map(); // by number: topic and frame
  #size = 0;
  #first = 1; // the oldest number that is held (STR-11)
  #next = 1; // the one to come
  #lastWord = null;
  #tidying = null;
  #changes = new EventEmitter().setMaxListeners(0);

  constructor(epoch) {
    this.epoch = epoch;
  }

  #id(number) {
    return `${this.epoch}-${number}`; // STR-10
  }

  append(topic, data) {
    const id = this.#id(this.#next);
    const content = frame(topic, data, id);
    this.#frames.set(this.#next, { topic, content });
    this.#next += 1;
    this.#size += content.length;
    while (this.#frames.size > MOST_EVENTS || this.#size > MOST_BYTES) { // and not before (STR-22)
      this.#size -= this.#frames.get(this.#first).content.length;
      this.#frames.delete(this.#first);
      this.#first += 1;
      this.#tidy();
    }
    this.#changes.emit('change');
    return id;
  }

  // `superseded` or `shutdown`, which ends every stream (STR-28, STR-29).
  end(word) {
    this.#lastWord = frame(word, '{}');
    this.#changes.emit('change');
  }

  // Frames lie outside of V8's heap, and V8, left alone, lets tens of MiB of those pile up that nobody holds.
  #tidy() {
    this.#tidying ??= setTimeout(() => {
      this.#tidying = null;
      collect();
    }, TIDY).unref();
  }

  // The number with which a stream begins; 0, which is never held, where the one after `id` is not (STR-18).
  placeAfter(id) {
    if (!id) return this.#next; // STR-3
    const [, epoch, number] = ID.exec(id);
    const place = Number(number) + 1;
    return epoch === this.epoch && place <= this.#next ? place : 0;
  }

  // What a subscriber is sent, some frames at a time and none of them copied, until it has `gone` or is not wanted any more.
  // One that `isNew` names no id; it receives the place where it begins, so that it can come back there before its first
  // event (STR-32).
  async *follow(place, topics, gone, isWanted, isNew) {
    let isThere = true;
    let wake = () => {};
    const change = () => wake();
    this.#changes.on('change', change);
    gone.then(() => {
      isThere = false;
      wake();
    });
    try {
      yield [Buffer.from(`retry: 500\n${isNew ? `id: ${this.#id(place - 1)}\n` : ''}\n`)]; // STR-2
      for (let [due, look] = [within(SILENT), within(LOOK)]; isThere; ) {
        if (performance.now() > look) {
          if (!isWanted()) return;
          look = within(LOOK);
        }
        const piece = [];
        if (place < this.#first) {
          piece.push(frame('gap', JSON.stringify({ first: this.#id(this.#first) }))); // STR-17, STR-26
          place = this.#first;
        }
        for (let length = 0; place < this.#next && length < PIECE; place += 1) {
          const { topic, content } = this.#frames.get(place);
          if (!topics.includes(topic)) continue; // STR-4
          piece.push(content);
          length += content.length;
        }
        const isLast = this.#lastWord && place === this.#next;
        if (isLast) piece.push(this.#lastWord);
        if (!piece.length && performance.now() > due) piece.push(COMMENT);
        if (piece.length) {
          yield piece;
          due = within(SILENT);
        }
        if (isLast) return;
        if (place < this.#next || this.#lastWord) continue;
        let timer;
        await new Promise((resolve) => {
          wake = resolve;
          timer = setTimeout(resolve, LOOK);
        });
        clearTimeout(timer);
      }
    } finally {
      this.#changes.off('change', change);
      this.#tidy();
    }
  }
}
