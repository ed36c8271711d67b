// Requests to the dispatcher, and its event streams. The token stays in this tab (sessionStorage)
// and is never part of a URL.
const TOKEN = "pool-token";
// A refused token is dropped, and a read is repeated without it: reading may need none.
const send = async (path, options) => {
  const token = sessionStorage.getItem(TOKEN);
  const authorization = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers: { ...options.headers, ...authorization } });
  if (response.status !== 401) return response;
  if (token && sessionStorage.getItem(TOKEN) === token) sessionStorage.removeItem(TOKEN);
  askForToken(`${token ? "Wrong token for this dispatcher." : "This needs the token of this dispatcher."}`);
  return token && (options.method ?? "GET") === "GET" ? send(path, options) : response;
};

class Problem extends Error {
  constructor(status, body) {
    const errors = (body?.errors ?? []).map((error) => error.message).filter((message) => message !== body.detail);
    super([body?.detail ?? `the dispatcher answered ${status}`, ...errors].join("\n"));
    this.status = status;
    this.missing = status === 404 && body?.detail?.startsWith("no such path");
  }
}

const respond = async (response) => {
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Problem(response.status, body);
};
const request = async (method, path, body, signal) => {
  const options = { method, headers: body === undefined ? {} : { "Content-Type": "application/json" }, signal };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await send(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the dispatcher does not answer");
  }
  return respond(response);
};
const get = async (path, signal) => (await request("GET", path, undefined, signal)).json();
const getText = async (path) => (await request("GET", path)).text();

// Server-sent events over fetch, because EventSource cannot send a token. `on` has a function for
// each event; `connection` is called with "live", "lost" and "connecting". Returns a function that
// ends the stream.
// A hidden page closes its streams: a browser opens at most six connections to one server, for all
// its tabs.
const asleep = { streams: new Set(), until: null, wake: () => {} };
const sleep = () => {
  if (asleep.until) return;
  asleep.until = new Promise((done) => { asleep.wake = done; });
  asleep.streams.forEach((abort) => abort());
};
const wake = () => {
  asleep.until = null;
  asleep.wake();
};
let drowsy = null;
document.addEventListener("visibilitychange", () => {
  clearTimeout(drowsy);
  if (document.hidden) drowsy = setTimeout(sleep, 10000);
  else wake();
});
window.addEventListener("pagehide", sleep);
window.addEventListener("pageshow", wake);

const SILENT_MS = 40000; // The dispatcher sends something every 15 s.
const listen = (path, on, connection = () => {}) => {
  let stopped = false;
  let last = null;
  let wait = 500;
  let abort = null;
  const end = () => abort?.abort();
  asleep.streams.add(end);
  const once = async () => {
    abort = new AbortController();
    let silence = setTimeout(() => abort.abort(), SILENT_MS);
    try {
      const response = await send(path, { headers: last ? { "Last-Event-ID": last } : {}, signal: abort.signal, cache: "no-store" });
      await respond(response);
      connection("live");
      wait = 500;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let buffer = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done || stopped) return;
        clearTimeout(silence);
        silence = setTimeout(() => abort.abort(), SILENT_MS);
        buffer += value;
        const events = buffer.split("\n\n");
        buffer = events.pop();
        for (const event of events) deliver(event);
      }
    } finally {
      clearTimeout(silence);
    }
  };
  const deliver = (event) => {
    let name = "message";
    const data = [];
    for (const line of event.split("\n")) {
      const [, field, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
      if (field === "event") name = value;
      else if (field === "data") data.push(value);
      else if (field === "id") last = value;
    }
    if (data.length) on[name]?.(JSON.parse(data.join("\n")));
  };
  const forever = async () => {
    while (!stopped) {
      connection("connecting");
      const ended = await once().then(() => null, (error) => error);
      if (stopped) return;
      if (asleep.until) {
        await asleep.until;
        continue;
      }
      if (ended instanceof Problem && ended.status !== 503 && ended.status !== 401) {
        on.problem?.(ended);
        return;
      }
      connection("lost", ended?.status);
      const pause = ended?.status === 401 ? tokenGiven() : new Promise((done) => setTimeout(done, wait));
      await pause;
      wait = Math.min(wait * 1.7, 5000);
    }
  };
  forever();
  return () => {
    stopped = true;
    asleep.streams.delete(end);
    end();
  };
};

// The dialog that asks for the token.
let givers = [];
const tokenGiven = () => new Promise((done) => givers.push(done));
const askForToken = (why) => {
  if (document.querySelector("dialog#token")) return;
  const input = h("input", { type: "password", autocomplete: "off", "aria-label": "Token", required: true });
  const problem = h("div", { class: "hint" }, why ?? "");
  const close = () => dialog.remove();
  const save = (event) => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN, input.value.trim());
    close();
    givers.splice(0).forEach((done) => done());
    restart();
  };
  const form = h("form", { onsubmit: save },
    h("div", { class: "title" }, h("h2", {}, "Token of this dispatcher")),
    h("div", { class: "body" },
      h("label", { class: "field" }, "Token", input, h("span", { class: "hint" }, "The secret that this dispatcher was started with (POOL_API_TOKEN). It stays in this tab.")),
      problem),
    h("div", { class: "foot" }, h("button", { type: "button", onclick: close }, "Cancel"), h("button", { class: "primary" }, "Use token")));
  const dialog = h("dialog", { id: "token", "aria-label": "Token", onclose: close }, form);
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
};
