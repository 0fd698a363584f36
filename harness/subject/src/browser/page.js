
"use strict";
const fragment = new URLSearchParams(location.hash.slice(1));
history.replaceState(null, "", "/");
const injected = TOKEN;
if (injected) sessionStorage.setItem("token", injected);
document.currentScript.remove();
let last = null;

async function begin() {
  const ticket = fragment.get("ticket");
  if (ticket) {
    const answer = await fetch("/page", { cache: "no-store", method: "POST", body: new URLSearchParams({ ticket }) });
    const text = await answer.text();
    const found = /const injected = "([^"]+)"/.exec(text);
    if (answer.ok && found) sessionStorage.setItem("token", found[1]);
  }
  const token = sessionStorage.getItem("token");
  if (token) show(token); else say("This page is opened by: daemonspec-subject open");
}

async function show(token) {
  const answer = await fetch("/v1/status", { cache: "no-store", headers: { Authorization: "Bearer " + token } });
  if (!answer.ok) return say("The daemon does not know this page any more. It is opened by: daemonspec-subject open");
  say("Daemon " + (await answer.json()).id);
  follow(token);
}

function say(text) { document.getElementById("what").textContent = text; }

function follow(token) {
  const after = last === null ? "" : "&after=" + encodeURIComponent(last);
  const stream = new EventSource("/v1/events?token=" + encodeURIComponent(token) + after);
  for (const topic of ["lifecycle", "warning", "origins", "note", "gap"]) {
    stream.addEventListener(topic, event => {
      if (event.lastEventId) last = event.lastEventId;
      say(topic + ": " + event.data);
    });
  }
  for (const topic of ["superseded", "shutdown"]) {
    stream.addEventListener(topic, () => {
      stream.close();
      say("The daemon has gone. This page is opened again by: daemonspec-subject open");
    });
  }
  stream.onerror = () => {
    if (stream.readyState !== EventSource.CLOSED) return;
    say("Waiting for the daemon.");
    setTimeout(() => follow(token), 500);
  };
}

addEventListener("DOMContentLoaded", begin);
