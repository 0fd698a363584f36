'use strict';
// Before anything else, so that neither a ticket nor /page stays in the address: a reload is a GET of / (BROW-24).
const ticket = new URLSearchParams(location.hash.slice(1)).get('ticket');
history.replaceState(null, '', '/');

const TOPICS = ['lifecycle', 'warning', 'origins', 'sessions', 'proxies', 'note'];
// About the stream itself: they have no id.
const ASIDE = ['gap', 'superseded', 'shutdown'];
const MOST_EVENTS = 200;
const POLL_MS = 5000;
// How long a daemon may be silent before the page says what to do about it.
const PATIENCE_MS = 6000;

const one = (selector, within = document) => within.querySelector(selector);
const make = (name, ...content) => {
  const element = document.createElement(name);
  element.append(...content);
  return element;
};
const styled = (name, style, ...content) => {
  const element = make(name, ...content);
  element.className = style;
  return element;
};

// The token: in this tab's storage for this origin, and nowhere else (BROW-24).
const KEY = 'page-token';
const handed = one('meta[name=page-token]');
if (handed.content) sessionStorage.setItem(KEY, handed.content);
handed.remove();
const token = () => sessionStorage.getItem(KEY);

let status = null;
let statusAt = 0;
let stream = null;
let lastId = null;
let retries = 0;
let lostAt = null;
let ended = false;

// BROW-45: an earlier owner of the port may have left answers in the cache.
const call = (method, path, body) => fetch(path, {
  method,
  cache: 'no-store',
  headers: { Authorization: `Bearer ${token()}`, ...(body && { 'Content-Type': 'application/json' }) },
  body: body && JSON.stringify(body),
  signal: AbortSignal.timeout(POLL_MS),
});

// ---- What the page says of itself

function say(state, text) {
  const place = one('#state');
  if (place.textContent === text) return;
  place.dataset.state = state;
  place.textContent = text;
}

function notice(title, text) {
  const place = one('#notice');
  place.hidden = !title;
  if (!title) return;
  one('h2', place).textContent = title;
  one('p', place).textContent = text;
}

// The end of this page: nothing but a new ticket opens it again.
function end(title, text) {
  ended = true;
  stream?.close();
  sessionStorage.removeItem(KEY);
  say('ended', 'Not connected');
  notice(title, text);
  one('#stop').hidden = true;
  one('#confirm').close();
  one('#live').classList.add('over');
  one('#live').inert = true;
  if (status) one('#facts dd').textContent = 'ended';
}

function lost() {
  if (ended) return;
  lostAt ??= Date.now();
  say('lost', 'Connection lost, trying again');
  if (Date.now() - lostAt > PATIENCE_MS) {
    notice('The daemon does not answer', 'This page goes on trying. If the daemon was ended, open a new page:');
  }
}

function found() {
  lostAt = null;
  retries = 0;
  notice('');
  say('live', 'Live');
}

// ---- The daemon's facts

const count = (number, what) => `${number} ${what}${number === 1 ? '' : 's'}`;

function span(seconds) {
  const units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return '0 s';
  let rest = seconds;
  return units.slice(first, first + 2).map(([name, size]) => {
    const whole = Math.floor(rest / size);
    rest %= size;
    return whole ? `${whole} ${name}` : '';
  }).filter(Boolean).join(' ');
}

const uptime = () => span(status.uptime_seconds + Math.floor((performance.now() - statusAt) / 1000));
const clock = (at) => new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

function when(at) {
  const time = styled('time', 'when', clock(at));
  time.dateTime = at;
  time.title = new Date(at).toLocaleString();
  return time;
}

function fact(name, text, id) {
  const value = make('dd', text);
  if (id) value.id = id;
  return [make('dt', name), value];
}

function showFacts() {
  const life = status.mode === 'auto'
    ? `leaves when nobody has used it for ${span(status.idle_timeout_seconds)}; an open page counts as use`
    : 'runs until it is stopped';
  const memory = status.memory_bytes === null ? [] : fact('Memory', `${(status.memory_bytes / 1048576).toFixed(1)} MiB`);
  one('#facts').replaceChildren(
    ...fact('State', status.state === 'ready' ? 'ready' : 'stands down'),
    ...fact('Mode', `${status.mode}: ${life}`),
    ...fact('Up for', uptime(), 'uptime'),
    ...fact('Protocol', status.protocol),
    ...fact('Version', status.version),
    ...fact('Process', String(status.pid)),
    ...fact('Address', status.url),
    ...fact('Id', status.id),
    ...memory,
    ...fact('Log', status.log_path ?? 'standard error of the daemon'),
  );
}

function program(agent) {
  const known = agent?.match(/(Firefox|Edg|Chrome|Version)\/(\d+)/);
  if (!known) return agent ?? '';
  const names = { Edg: 'Edge', Version: 'Safari' };
  return `${names[known[1]] ?? known[1]} ${known[2]}`;
}

function showListeners() {
  const items = status.listeners.map((listener) => {
    let name = 'A program with the credential';
    if (listener.is_own) name = 'This page';
    else if (listener.origin) name = listener.origin;
    else if (listener.is_page) name = 'Another page of this daemon';
    const about = styled('div', 'who', [program(listener.agent), 'since '].filter(Boolean).join(', '), when(listener.since));
    about.title = listener.agent ?? '';
    return make('li', make('div', name), about);
  });
  one('#listeners').replaceChildren(...items);
  one('#listeners-title').textContent = `Connected: ${count(items.length, 'open stream')}`;
}

// Text from the server that the user may copy into a terminal must be an origin, as the daemon's list accepts it.
const ORIGIN = /^[a-z][a-z0-9+.-]*:\/\/(?:\[[0-9a-f:]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([1-9]\d{0,4}))?$/;
function isOrigin(text) {
  const parts = ORIGIN.exec(text);
  return parts !== null && Number(parts[1] ?? 0) < 65536;
}

function command(text) {
  const place = styled('div', 'command', make('code', text));
  withCopy(place);
  return place;
}

function showOrigins() {
  const known = [...one('#origins').children].map((item) => item.dataset.origin);
  // A list that is the same keeps the place of the keyboard.
  if (known.join() !== status.origins.join()) {
    one('#origins').replaceChildren(...status.origins.map((origin) => {
      const item = make('li', make('div', origin));
      if (isOrigin(origin)) item.append(command(`locald origins remove ${origin}`));
      item.dataset.origin = origin;
      return item;
    }));
  }
  one('#no-origins').hidden = status.origins.length > 0;
}

// Asks how the daemon is; false: it does not answer.
async function refresh() {
  let answer;
  try {
    answer = await call('GET', '/v1/status');
    if (answer.ok) status = await answer.json();
  } catch {
    lost();
    return false;
  }
  if (ended) return false;
  // 421: the page host ended with the launch that served this page.
  if (answer.status === 401 || answer.status === 421) {
    end('This page is not let in any more', 'The daemon was restarted, or the page’s token was revoked. Open a new page:');
    return false;
  }
  if (!answer.ok) {
    lost();
    return false;
  }
  statusAt = performance.now();
  one('#live').hidden = false;
  one('#stop').hidden = false;
  showFacts();
  showListeners();
  showOrigins();
  return true;
}

// ---- The one stream (BROW-29)

function listen() {
  stream?.close();
  // From the first event that the daemon still holds, or after the last that was seen here.
  const after = lastId ?? `${status.id.slice(0, 8)}-0`;
  stream = new EventSource(`/v1/events?${new URLSearchParams({ topics: TOPICS.join(','), after, token: token() })}`);
  stream.onopen = () => { found(); refresh(); };
  stream.onerror = () => {
    lost();
    // BROW-30: an engine that goes on by itself is let to.
    if (!ended && stream.readyState === EventSource.CLOSED) again();
  };
  for (const topic of [...TOPICS, ...ASIDE]) stream.addEventListener(topic, receive);
}

let retry = 0;
function again() {
  clearTimeout(retry);
  retry = setTimeout(async () => {
    if (await refresh()) listen();
    else if (!ended) again();
  }, Math.min(10000, 500 * 2 ** retries++));
}

function receive({ type, data, lastEventId }) {
  if (lastEventId) lastId = lastEventId;
  const event = JSON.parse(data);
  show(type, event);
  if (type === 'superseded') {
    end('Another locald has taken the place of this one', 'What this page shows is over: its token ended with its daemon. Open the page of the new one:');
  } else if (type === 'shutdown') {
    end('The daemon has stopped', 'This starts it again and opens a new page:');
  } else {
    refreshSoon();
  }
}

let soon = 0;
function refreshSoon() {
  clearTimeout(soon);
  soon = setTimeout(refresh, 200);
}

const REASONS = {
  displaced: 'another one has taken its place',
  'record-removed': 'its registration was removed',
  'directory-removed': 'its state directory is gone',
  requested: 'it was asked to stop',
  signal: 'it was told to by a signal',
  idle: 'nobody has used it for a while',
};

function sentence(topic, data) {
  switch (topic) {
    case 'lifecycle':
      if (data.what === 'ready') return 'The daemon is ready.';
      if (data.what === 'reloaded') return 'The daemon has read its configuration again, since it had changed.';
      if (data.what === 'credential-rotated') return 'The credential was replaced.';
      if (data.what === 'draining') return `The daemon stands down: ${REASONS[data.reason] ?? data.reason}.`;
      return `The daemon: ${data.what}.`;
    case 'warning': return `Warning: ${data.message}${data.origin ? ` (${data.origin})` : ''}`;
    case 'origins': return data.what === 'added' ? `${data.origin} may call from now on.` : `${data.origin} may call no more.`;
    case 'note': return `Note: ${typeof data === 'string' ? data : JSON.stringify(data)}`;
    case 'gap': return 'Events are missing here: the daemon no longer holds them.';
    case 'superseded': return 'The stream ended: another daemon has taken over.';
    case 'shutdown': return 'The stream ended: the daemon has stopped.';
    default: return `${topic}: ${[data.what, data.name ?? data.id].filter(Boolean).join(' ')}`;
  }
}

function show(topic, { at, data }) {
  const item = make('li', when(at), make('span', sentence(topic, data).slice(0, 1000)));
  item.className = topic;
  const list = one('#events');
  list.prepend(item);
  while (list.children.length > MOST_EVENTS) list.lastElementChild.remove();
  one('#no-events').hidden = true;
}

// ---- What the user does

function withCopy(place) {
  const button = make('button', 'Copy');
  button.type = 'button';
  const text = one('code', place).textContent;
  button.setAttribute('aria-label', `Copy “${text}”`);
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(one('code', place));
      button.textContent = 'Selected';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });
  place.append(button);
}

// Why a request was refused, in the daemon's words.
async function fault(answer) {
  const problem = await answer.json().catch(() => ({}));
  return problem.detail ?? `The daemon answered ${answer.status}.`;
}

// Sends what a form or dialog is for; it says itself what is wrong.
async function act(place, path, body) {
  const alert = one('.fault', place);
  alert.textContent = '';
  try {
    const answer = await call('POST', path, body);
    if (answer.ok) return true;
    alert.textContent = await fault(answer);
  } catch {
    alert.textContent = 'The daemon does not answer.';
  }
  return false;
}

one('#note').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  if (await act(form, '/v1/events', { topic: 'note', data: form.elements.text.value })) form.reset();
});

one('#stop').addEventListener('click', () => {
  const others = status.listeners.filter((listener) => !listener.is_own).length;
  one('#confirm-text').textContent = others
    ? `${count(others, 'other stream')} will end, and whatever uses it has to start it again.`
    : 'Nobody else has a stream open. Whatever uses it next starts it again.';
  one('#confirm .fault').textContent = '';
  one('#confirm').showModal();
});
one('#cancel').addEventListener('click', () => one('#confirm').close());
one('#confirmed').addEventListener('click', async () => {
  const dialog = one('#confirm');
  if (await act(dialog, '/v1/shutdown', { id: status.id })) {
    dialog.close();
    if (!ended) say('lost', 'Stopping');
  }
});

// ---- From here on it lives

async function begin() {
  for (const place of document.querySelectorAll('.command')) withCopy(place);
  if (ticket) {
    // BROW-27: an address that --print-url gave.
    say('lost', 'Connecting');
    const form = make('form');
    Object.assign(form, { method: 'post', action: '/page', hidden: true });
    const field = make('input');
    Object.assign(field, { name: 'ticket', value: ticket });
    form.append(field);
    document.body.append(form);
    form.submit();
    return;
  }
  if (handed.content && location.hostname.endsWith('.localhost')) {
    // WebKit reloads the answer to a POST by another POST (BROW-27). At other hosts a cache might answer this request.
    say('lost', 'Connecting');
    location.replace('/');
    return;
  }
  if (!token()) {
    say('ended', 'Not connected');
    notice('This page is opened from a terminal', 'A ticket lets it in, which works once and for 30 seconds. This gets one and opens the page:');
    return;
  }
  say('lost', 'Connecting');
  if (await refresh()) listen();
  else if (!ended) again();

  setInterval(() => {
    if (ended) return;
    if (lostAt) lost();
    if (status && one('#uptime')) one('#uptime').textContent = uptime();
  }, 1000);
  setInterval(() => { if (!ended && !lostAt && !document.hidden) refresh(); }, POLL_MS);
  // Back from elsewhere: an engine may have closed the stream on the way.
  addEventListener('pageshow', ({ persisted }) => {
    if (persisted && !ended && stream?.readyState === EventSource.CLOSED) again();
  });
}

begin();
