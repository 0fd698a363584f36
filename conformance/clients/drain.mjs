// Event sources that open again while a displaced daemon still waits for a slow request.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import net from 'node:net';
import { EventSource } from 'eventsource';
import { EventSource as UndiciEventSource } from 'undici';
import { bearer, check, locald, record, sleep, stateDir, until, url } from './support.mjs';

const { host, port } = new URL(url());
const slow = net.connect(Number(port), '127.0.0.1').on('error', () => {});
const { authorization } = bearer();
slow.write(`POST /v1/events HTTP/1.1\r\nHost: ${host}\r\nAuthorization: ${authorization}\r\nContent-Length: 100\r\n\r\n{`);

const token = authorization.split(' ')[1];
const readers = Object.entries({ eventsource: EventSource, 'undici EventSource': UndiciEventSource }).map(([name, Source]) => {
  const seen = [];
  const source = new Source(`${process.env.PROXY}/v1/events?token=${token}`);
  for (const topic of ['superseded', 'gap']) source.addEventListener(topic, () => seen.push(topic));
  return { name, source, seen };
});
await until(() => readers.every(({ source }) => source.readyState === 1));
const first = record().id;
spawn(locald, ['run', '--state-dir', stateDir], { stdio: 'ignore', detached: true }).unref();
await until(() => record().id !== first);
await sleep(6000);
for (const { name, source, seen } of readers) {
  await check(name, 'comes back while the displaced daemon drains', () => {
    assert.deepEqual(seen, ['superseded', 'gap']);
    assert.equal(source.readyState, 1);
  });
}
process.exit();
