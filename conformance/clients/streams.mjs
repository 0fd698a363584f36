// The npm clients of server-sent events, all on one daemon at once: what they see of a burst, of cuts, of a quiet daemon, of a
// rotation, of another daemon that takes over, and of a stop.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import { fetchEventSource } from '@microsoft/fetch-event-source';
import { EventSource } from 'eventsource';
import { createParser } from 'eventsource-parser';
import { EventSource as UndiciEventSource } from 'undici';
import { bearer, check, locald, record, sleep, stateDir, until, url } from './support.mjs';

const proxy = process.env.PROXY;
const topics = ['lifecycle', 'warning', 'origins', 'note', 'gap', 'superseded', 'shutdown', 'message'];
const credential = bearer().authorization.split(' ')[1];

// fetch-event-source asks the page whether it is hidden.
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
globalThis.window = globalThis;

/** What one client has seen; `open` begins to read `path` by way of the proxy. */
class Reader {
  constructor(name, open) {
    Object.assign(this, { name, open, events: [], opens: 0, comments: 0 });
  }
  see(event, id, data) {
    this.events.push({ event, id, data: data && JSON.parse(data) });
  }
  of(event) {
    return this.events.filter((seen) => seen.event === event);
  }
  notes() {
    return this.of('note').map((seen) => seen.data.data);
  }
}

function listen(reader, source) {
  source.onopen = () => reader.opens++;
  for (const topic of topics) source.addEventListener(topic, (event) => reader.see(topic, event.lastEventId, event.data));
  reader.close = () => source.close();
  reader.hasEnded = () => source.readyState === 2;
}
const withToken = (path) => `${proxy}${path}${path.includes('?') ? '&' : '?'}token=${credential}`;

async function parse(reader, path) {
  let last;
  reader.close = () => (reader.closed = true);
  while (!reader.closed) {
    try {
      const headers = { ...bearer(), ...(last && { 'last-event-id': last }) };
      const response = await fetch(proxy + path, { headers });
      assert.equal(response.status, 200);
      reader.opens++;
      const parser = createParser({
        onComment: () => reader.comments++,
        onEvent(event) {
          last = event.id ?? last;
          reader.see(event.event, event.id, event.data);
        },
      });
      for await (const text of response.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
    } catch {
      // It was cut, or there is no daemon yet.
    }
    await sleep(500);
  }
}

const readers = () => [
  new Reader('eventsource, header', function (path) {
    const fetchWithBearer = (to, init) => fetch(to, { ...init, headers: { ...init.headers, ...bearer() } });
    listen(this, new EventSource(proxy + path, { fetch: fetchWithBearer }));
  }),
  new Reader('eventsource, ?token', function (path) {
    listen(this, new EventSource(withToken(path)));
  }),
  new Reader('undici EventSource', function (path) {
    listen(this, new UndiciEventSource(withToken(path)));
  }),
  new Reader('fetch-event-source', function (path) {
    const abort = new AbortController();
    this.close = () => abort.abort();
    fetchEventSource(proxy + path, {
      headers: bearer(),
      signal: abort.signal,
      openWhenHidden: true,
      onopen: async (response) => {
        assert.equal(response.status, 200);
        this.opens++;
      },
      onmessage: ({ event, id, data }) => this.see(event, id, data),
      onclose() {
        throw new Error('ended; try again');
      },
      onerror: () => 500,
    });
  }),
  new Reader('eventsource-parser', function (path) {
    parse(this, path);
  }),
];

async function post(data) {
  const body = JSON.stringify({ topic: 'note', data });
  const headers = { ...bearer(), 'content-type': 'application/json' };
  const response = await fetch(`${url()}/v1/events`, { method: 'POST', headers, body });
  assert.equal(response.status, 201);
}
async function postMany(prefix, count) {
  for (let i = 0; i < count; i++) await post(`${prefix} ${i}`);
}
const many = (prefix, count) => Array.from({ length: count }, (_, i) => `${prefix} ${i}`);
const cut = () => fetch(`${proxy}/_cut`);
const serve = () => fetch(`${proxy}/_serve`);
const each = (all, what, body) => Promise.all(all.map((reader) => check(reader.name, what, () => body(reader))));

async function opened(all, path) {
  for (const reader of all) reader.open(typeof path === 'string' ? path : path(reader));
  await each(all, 'opens', async (reader) => assert.ok(await until(() => reader.opens === 1)));
}
const closeAll = (all) => all.forEach((reader) => reader.close());

// A stream that is cut before its first event. npm eventsource 4.1 and eventsource-parser 3.1 leave out the id of a block
// without data, so they lose nothing only if they open with `after`.
const cold = readers();
const knowsFirstId = (reader) => reader.name === 'undici EventSource' || reader.name === 'fetch-event-source';
const beginning = `${record().id.slice(0, 8)}-0`;
await opened(cold, (reader) => `/v1/events?topics=note${knowsFirstId(reader) ? '' : `&after=${beginning}`}`);
await cut();
await postMany('unseen', 3);
await serve();
await each(cold, 'loses nothing if it is cut before the first event', async (reader) => {
  await until(() => reader.opens === 2);
  await until(() => reader.notes().length === 3, 2000);
  assert.deepEqual(reader.notes(), many('unseen', 3));
});
closeAll(cold);

const all = readers();
await opened(all, '/v1/events');
await postMany('burst', 1000);
await each(all, 'reads a burst of 1000 in order', async (reader) => {
  await until(() => reader.notes().length >= 1000);
  assert.deepEqual(reader.notes(), many('burst', 1000));
});

await cut();
await postMany('cut', 200);
await serve();
await each(all, 'resumes after a cut, and loses nothing', async (reader) => {
  await until(() => reader.notes().length >= 1200);
  assert.deepEqual(reader.notes(), [...many('burst', 1000), ...many('cut', 200)]);
});

const before = all.map((reader) => [reader.events.length, reader.opens]);
const comments = () => all.find((reader) => reader.name === 'eventsource-parser').comments;
const commented = comments();
await sleep(11_000);
await check('eventsource-parser', 'reads a comment within 11 s', async () => assert.ok(comments() > commented));
await each(all, 'sees no event in 11 s of a quiet daemon', async (reader) => {
  const [events, opens] = before[all.indexOf(reader)];
  assert.deepEqual(reader.events.slice(events), []);
  assert.equal(reader.opens, opens);
});

await cut();
await postMany('much', 4200);
await serve();
await each(all, 'sees a gap where events are no longer held', async (reader) => {
  await until(() => reader.notes().at(-1) === 'much 4199');
  const gap = reader.events.findIndex((seen) => seen.event === 'gap');
  assert.equal(reader.events[gap].data.data.first, reader.events[gap + 1].id);
  assert.equal(reader.events.length - gap - 1, 4096);
});

fs.appendFileSync(`${stateDir}/config.toml`, '[origins]\nallow = ["https://other.example"]\n');
await each(all, 'is told that the configuration was read again', async (reader) => {
  assert.ok(await until(() => reader.of('lifecycle').some((seen) => seen.data.data.what === 'reloaded')));
});

async function follows(what, last, replace) {
  const marks = all.map((reader) => reader.events.length);
  await replace();
  await each(all, what, async (reader) => {
    const since = () => reader.events.slice(marks[all.indexOf(reader)]).map((seen) => seen.event);
    await until(() => since().includes('gap'), 15_000);
    for (const event of [last, 'gap']) assert.ok(since().includes(event), `${event} is missing in ${since()}`);
  });
  await post(what);
  await each(all, 'reads from the next daemon', async (reader) => {
    assert.ok(await until(() => reader.notes().at(-1) === what));
  });
}
const start = () => spawn(locald, ['run', '--state-dir', stateDir], { stdio: 'ignore', detached: true }).unref();
await follows('is superseded, and goes on after a gap', 'superseded', start);
await follows('is shut down, and goes on after a gap', 'shutdown', async () => {
  execFileSync(locald, ['stop', '--state-dir', stateDir]);
  start();
  await until(() => fs.existsSync(`${stateDir}/registration.json`));
});

// The streams end with the credential that opened them: a client resumes if it reads the credential again.
execFileSync(locald, ['credential', 'rotate', '--state-dir', stateDir]);
const rereads = (reader) => reader.name === 'eventsource, header' || reader.name === 'eventsource-parser';
await each(all.filter(rereads), 'is told that the credential was replaced', async (reader) => {
  assert.ok(await until(() => reader.of('lifecycle').some((seen) => seen.data.data.what === 'credential-rotated')));
});
await each(all.filter((reader) => reader.hasEnded && !rereads(reader)), 'gives up with the old credential', async (reader) => {
  assert.ok(await until(reader.hasEnded));
});
process.exit();
