// What the pages of the cases do, told as JSON. Stands before every script that runs in one.

const bearer = () => ({ Authorization: `${arg.scheme} ${arg.token}` });
const json = { 'Content-Type': 'application/json' };

// The answer to a request, as far as a page may see it, or the name of the error.
async function ask(url, init = {}) {
    try {
        const answer = await fetch(url, { signal: AbortSignal.timeout(10000), ...init });
        return { status: answer.status, type: answer.type, body: await answer.text() };
    } catch (error) {
        return { error: error.name };
    }
}

// What `look` finds, once it finds something: what the daemon has to bring about.
async function until(look, what) {
    const end = Date.now() + 10000;
    for (;;) {
        const found = look();
        if (found) return found;
        if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
        await new Promise(done => setTimeout(done, 10));
    }
}

// The topic that a stream's address asks for, and the number that the suite has put into an event.
const topicOf = url => new URL(url).searchParams.get('topics');
const numberOf = event => Number(/\d+/.exec(JSON.stringify(JSON.parse(event.data).data)));

// Opens an event stream and remembers what it sees, under a name.
function follow(name, url) {
    const source = new EventSource(url);
    const seen = { source, numbers: [], gaps: 0, opened: 0, errors: 0 };
    source.onopen = () => { seen.opened += 1; };
    source.onerror = () => { seen.errors += 1; };
    source.addEventListener(topicOf(url), event => seen.numbers.push(numberOf(event)));
    source.addEventListener('gap', () => { seen.gaps += 1; });
    (window.streams ??= {})[name] = seen;
    return seen;
}

// The same as JSON.
function told(name) {
    const { source, ...seen } = window.streams[name];
    return { ...seen, closed: source.readyState === EventSource.CLOSED };
}

// Submits a form, whose body is `name=value`, in the tab itself or in a frame of this name.
function submit(url, name, value, target) {
    if (target) {
        const frame = document.createElement('iframe');
        frame.name = target;
        document.body.appendChild(frame);
    }
    const form = document.createElement('form');
    Object.assign(form, { method: 'post', action: url, enctype: 'text/plain', target: target ?? '_self' });
    const field = document.createElement('input');
    Object.assign(field, { type: 'hidden', name, value });
    form.append(field);
    document.body.append(form);
    // After the script has told that it has ended.
    setTimeout(() => form.submit(), 0);
}

// What a frame, whose script posts a message, says.
async function framed(attributes) {
    const frame = document.createElement('iframe');
    const said = new Promise((done, failed) => {
        addEventListener('message', event => event.source === frame.contentWindow && done(event.data));
        setTimeout(() => failed(new Error('the frame says nothing')), 10000);
    });
    for (const [name, value] of Object.entries(attributes)) frame.setAttribute(name, value);
    document.body.appendChild(frame);
    return said;
}
