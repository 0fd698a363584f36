// What the scripts share: the daemon that is asked, and a line for each check.
import fs from 'node:fs';

export const stateDir = process.env.STATE_DIR;
export const locald = process.env.LOCALD;
export const record = () => JSON.parse(fs.readFileSync(`${stateDir}/registration.json`, 'utf8'));
export const url = () => record().url;
export const bearer = () => ({ authorization: `Bearer ${fs.readFileSync(`${stateDir}/credential`, 'utf8').trim()}` });
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const line = (verdict, client, text) => console.log(`${verdict.padEnd(5)} ${client.padEnd(26)} ${text}`);

/** Prints whether `body` passed, and what it threw if not. */
export async function check(client, what, body) {
  try {
    await body();
    line('ok', client, what);
  } catch (error) {
    const said = [error.code, error.message, error.cause?.code].filter(Boolean).join(' ');
    line('FAIL', client, `${what}: ${said.replace(/\s+/g, ' ').slice(0, 300)}`);
  }
}

/** Waits until `isMet` holds; returns whether it did within the time. */
export async function until(isMet, ms = 10_000) {
  for (const end = Date.now() + ms; !isMet(); await sleep(20)) if (Date.now() > end) return false;
  return true;
}

// A client whose socket fails where nobody listens has lost the answer as well.
process.on('uncaughtException', (error) => line('FAIL', 'node', `uncaught: ${error.code ?? ''} ${error.message}`));
