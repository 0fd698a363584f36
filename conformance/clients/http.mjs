// The npm clients of HTTP: refusals of long bodies, answers of every kind on connections that are kept, `Expect`, HEAD.
import assert from 'node:assert/strict';
import http from 'node:http';
import axios from 'axios';
import got from 'got';
import ky from 'ky';
import nodeFetch from 'node-fetch';
import superagent from 'superagent';
import * as undici from 'undici';
import { bearer, check, url } from './support.mjs';

const base = url();
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const ports = new Set();

function nodeHttp(method, path, headers, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(base + path, { method, headers, agent }, (response) => {
      ports.add(response.socket.localPort);
      response.resume().on('end', () => resolve(response.statusCode)).on('error', reject);
    });
    request.on('error', reject).end(body);
  });
}

const read = async (response) => {
  await response.text();
  return response.status;
};
const clients = {
  'node:http': nodeHttp,
  fetch: async (method, path, headers, body) => read(await fetch(base + path, { method, headers, body })),
  undici: async (method, path, headers, body) => {
    const response = await undici.request(base + path, { method, headers, body });
    await response.body.text();
    return response.statusCode;
  },
  axios: async (method, path, headers, data) =>
    (await axios({ method, url: base + path, headers, data, maxBodyLength: Infinity, validateStatus: null })).status,
  got: async (method, path, headers, body) =>
    (await got(base + path, { method, headers, body, throwHttpErrors: false, retry: { limit: 0 } })).statusCode,
  ky: async (method, path, headers, body) =>
    read(await ky(base + path, { method, headers, body, throwHttpErrors: false, retry: 0 })),
  superagent: async (method, path, headers, body) => {
    const request = superagent(method, base + path).set(headers).ok(() => true);
    return (await (body ? request.send(body.toString()) : request)).status;
  },
  'node-fetch': async (method, path, headers, body) => read(await nodeFetch(base + path, { method, headers, body })),
};

const json = { 'content-type': 'application/json' };
const refusals = [
  [401, 'a stranger', 900_000, json],
  [413, 'its user', 100_000, { ...json, ...bearer() }],
  [413, 'its user', 20_000_000, { ...json, ...bearer() }],
];
for (const [client, send] of Object.entries(clients)) {
  for (const [status, who, size, headers] of refusals) {
    const body = Buffer.alloc(size, 'x');
    await check(client, `reads ${status} to ${size / 1000} kB of ${who} in 20 of 20`, async () => {
      const seen = {};
      for (let attempt = 0; attempt < 20; attempt++) {
        const lost = (error) => error.cause?.code ?? error.code ?? error.message;
        const answer = await send('POST', '/v1/events', headers, body).catch(lost);
        seen[answer] = (seen[answer] ?? 0) + 1;
      }
      assert.equal(JSON.stringify(seen), `{"${status}":20}`);
    });
  }
}

const known = bearer();
const answers = [
  ['GET', '/v1/status', known, 200],
  ['HEAD', '/v1/status', known, 200],
  ['GET', '/nope', known, 404],
  ['GET', '/v1/status', {}, 401],
  ['PUT', '/v1/events', known, 405],
  ['GET', '/v1/status', { ...known, 'local-daemon-protocol': 'other/9' }, 426],
  ['GET', '/v1/events?topics=unknown', known, 400],
  ['HEAD', '/v1/events', known, 200],
];
for (const [client, send] of Object.entries(clients)) {
  await check(client, `reads ${answers.length * 3} answers of every kind`, async () => {
    const seen = [];
    for (const [method, path, headers] of [...answers, ...answers, ...answers]) seen.push(await send(method, path, headers));
    const expected = answers.map((answer) => answer[3]);
    assert.deepEqual(seen, [...expected, ...expected, ...expected]);
  });
}
await check('node:http', 'keeps one connection for 21 answers', async () => {
  ports.clear();
  // Node gives up the connection of an answer to HEAD that announces no length.
  const kept = answers.filter(([method, path]) => method !== 'HEAD' || path !== '/v1/events');
  for (const [method, path, headers] of [...kept, ...kept, ...kept]) await nodeHttp(method, path, headers);
  assert.equal(ports.size, 1);
});

const note = '{"topic":"note","data":1}';
const expecting = (headers) =>
  new Promise((resolve, reject) => {
    let asked = false;
    const announced = { ...json, ...headers, expect: '100-continue', 'content-length': note.length };
    const request = http.request(`${base}/v1/events`, { method: 'POST', headers: announced }, (response) => {
      response.resume().on('end', () => resolve([response.statusCode, asked]));
    });
    request.on('continue', () => {
      asked = true;
      request.end(note);
    });
    request.on('error', reject).flushHeaders();
  });
await check('node:http', 'is asked for the body that it announced', async () => {
  assert.deepEqual(await expecting(known), [201, true]);
});
await check('node:http', 'is refused before it sends the body that it announced', async () => {
  assert.deepEqual(await expecting({}), [401, false]);
});
await check('undici', 'reads 200 pipelined answers in order', async () => {
  const client = new undici.Client(base, { pipelining: 10 });
  const sent = Array.from({ length: 200 }, async (_, i) => {
    const request = { method: i % 3 ? 'GET' : 'HEAD', path: i % 5 ? '/v1/status' : '/nope', headers: known };
    const response = await client.request(request);
    await response.body.text();
    return response.statusCode === (i % 5 ? 200 : 404);
  });
  assert.ok((await Promise.all(sent)).every(Boolean));
  await client.close();
});
process.exit();
