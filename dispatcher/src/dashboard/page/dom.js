// Builds elements from values. Texts become text nodes only, so texts of tasks, agents and file
// names are never markup.
const h = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
};
const set = (element, text) => {
  const wanted = text === undefined || text === null ? "" : String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
};
const attribute = (element, name, value) => {
  if (value === undefined || value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
};
const $ = (id) => document.getElementById(id);

// Updates children for these items, kept by key, so that focus and scroll positions stay.
const keyed = (parent, items, key, create) => {
  const known = parent.keyed ?? (parent.keyed = new Map());
  const wanted = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    wanted.add(id);
    let child = known.get(id);
    if (!child) known.set(id, (child = create(item)));
    if (child.element === place) place = place.nextElementSibling;
    else parent.insertBefore(child.element, place);
    child.update(item);
  }
  for (const [id, child] of known) {
    if (!wanted.has(id)) {
      child.element.remove();
      known.delete(id);
    }
  }
};

// Time by the dispatcher's clock.
let clockOffset = 0;
const now = () => Date.now() + clockOffset;
const span = (ms) => {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
};
const coarse = (ms) => {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
};
const took = (ms) => (ms < 1000 ? `${ms} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : span(ms));
const clock = (time) => new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
// Shows the times in a dispatcher's sentence in the reader's time zone.
const humane = (text) => (text ?? "").replace(/(?:(\d{4}-\d\d-\d\d) )?(\d\d:\d\d(?::\d\d)?) UTC/g, (_, day, time) => {
  const at = `${day ?? new Date(now()).toISOString().slice(0, 10)}T${time}Z`;
  return day ? moment(at) : clock(at);
}).replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z/g, (time) => (now() - Date.parse(time) < 6e7 && Date.parse(time) - now() < 6e7 ? clock(time) : moment(time)));
// The same, with text between backticks as code.
const rich = (text) => humane(text).split(/`([^`\n]+)`/).map((part, index) => (index % 2 ? h("code", {}, part) : part));
const say = (element, text) => {
  if (element.dataset.said === text) return;
  element.dataset.said = text;
  element.replaceChildren(...rich(text));
};
const moment = (time) => new Date(time).toLocaleString();
// Elements with a running time: `data-since` counts up from a time, `data-until` down to one.
const count = (element) => {
  const { since, until, ago } = element.dataset;
  if (ago) set(element, `${coarse(now() - Date.parse(ago))} ago`);
  else if (since) set(element, span(now() - Date.parse(since)));
  else if (until) {
    const left = Date.parse(until) - now();
    set(element, left > 0 ? `in ${span(left + 999)}` : "now");
  }
};
const counting = (element, kind, time) => {
  if (!time) {
    delete element.dataset[kind];
    set(element, "");
    return;
  }
  if (element.dataset[kind] !== time) {
    element.dataset[kind] = time;
    element.title = moment(time);
  }
  count(element);
};
setInterval(() => isAway() || document.querySelectorAll("[data-since], [data-until], [data-ago]").forEach(count), 1000);

const usd = (text) => {
  if (text === undefined || text === null) return "";
  const value = Number(text);
  if (value === 0) return "$0";
  return value < 0.01 ? `$${Number(value.toPrecision(2))}` : `$${value.toFixed(2)}`;
};
const number = (value) => Number(value).toLocaleString("en");

const TONES = { succeeded: "good", failed: "bad", rejected: "bad", cancelled: "quiet", expired: "bad", running: "active", queued: "warn", idle: "good", busy: "active", shut: "warn", down: "bad" };
const badge = (word) => h("span", { class: "badge", "data-tone": TONES[word] ?? "quiet" }, word);
const setBadge = (element, word) => {
  set(element, word);
  attribute(element, "data-tone", TONES[word] ?? "quiet");
};
const empty = (title, ...rest) => h("div", { class: "empty" }, h("strong", {}, title), ...rest);

const toast = (text, bad) => {
  const element = h("div", { class: bad ? "toast bad" : "toast" }, rich(text));
  $("toasts").append(element);
  setTimeout(() => element.remove(), bad ? 9000 : 4000);
};
