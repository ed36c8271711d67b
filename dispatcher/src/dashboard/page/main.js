// Switches views, shows the connection, handles the keyboard.
let view = null;
// The reader's place in the list of tasks, while one of the tasks is open.
let back = null;
const show = (made, name) => {
  view?.close();
  view = made;
  $("main").replaceChildren(made.element);
  document.title = `${made.title} · Programmer Pool`;
  document.querySelectorAll(".top nav a").forEach((link) => attribute(link, "aria-current", link.dataset.view === name ? "page" : null));
};
const nowhere = (place) => ({
  element: h("div", { class: "card" }, empty("Page not found", `There is no view ${place}.`, h("br"), h("a", { href: "#/" }, "Go to the pool"))),
  title: "Page not found",
  close: () => {},
});
const router = () => {
  const [place, query] = location.hash.replace(/^#/, "").split("?");
  if (place === "main") return $("main").focus();
  const task = /^\/tasks\/(.+)$/.exec(place);
  const before = view?.place ? { hash: view.place(), top: window.scrollY } : view?.isTask ? back : null;
  const top = before?.hash === location.hash ? before.top : 0;
  back = before;
  window.scrollTo(0, 0);
  if (task) show(taskView(decodeURIComponent(task[1]), back?.hash), "tasks");
  else if (place === "/tasks") show(tasksView(new URLSearchParams(query), top), "tasks");
  else if (place === "/budget") show(budgetView(), "budget");
  else if (place === "/report") show(reportView(new URLSearchParams(query)), "report");
  else if (place === "/dead") show(deadView(), "dead");
  else if (place === "" || place === "/") show(poolView(), "pool");
  else show(nowhere(place), null);
};

const connectionShown = (state, why) => {
  pool.connection = state;
  const shown = { live: "live", stale: "stale", lost: "disconnected", connecting: "connecting" };
  // A new attempt to connect does not hide that the last one failed.
  if (state === "connecting" && $("connection").dataset.state === "lost") return;
  pool.needsToken = state === "lost" && why === 401;
  // A dispatcher that cannot see the pool shows stale data.
  const seen = state === "live" && pool.live?.status.detail ? "stale" : state;
  attribute($("connection"), "data-state", seen);
  set($("connection").querySelector(".word"), pool.needsToken ? "token needed" : shown[seen]);
  $("new-task").disabled = isAway();
  bannerShown();
  changed();
};
// The banner: a text, and a button if there is something to do.
const news = () => {
  if (isAway()) {
    if (pool.needsToken) return ["This dispatcher needs a token.", "Enter token", () => askForToken()];
    return [`No connection to the dispatcher${pool.live ? "; the page shows the last known state" : ""}. Reconnecting …`];
  }
  const target = { what: "all" };
  const paused = pauseOf(target);
  const text = paused ? `The pool is ${paused.pause === "drain" ? "being drained" : "paused"} since ${humane(paused.since)}: no programmer takes tasks.` : "";
  const trouble = pool.live?.status.detail;
  // A hint for messages about a broker that is away, and a log that cannot be read.
  const next = /\bbroker\b/.test(trouble ?? "") ? "Check that RabbitMQ is running (scripts/local-pool status); see docs/operate/troubleshooting.md. " : "";
  if (trouble) return [`Dispatcher: ${humane(trouble)}. ${next}${text}`];
  return paused && pool.mayAct ? [text, "Resume", (event) => act(event.currentTarget, () => resumeWhat(target), "The pool is resumed")] : [text];
};
const bannerShown = () => {
  const banner = $("banner");
  const [text, verb, perform] = news();
  banner.className = $("connection").dataset.state === "lost" ? "banner bad" : "banner";
  banner.hidden = !text;
  const key = JSON.stringify([text, verb]);
  if (banner.dataset.key === key) return;
  banner.dataset.key = key;
  banner.replaceChildren(h("span", {}, rich(text)), verb ? h("button", { type: "button", class: "tiny", onclick: perform }, verb) : "");
};
const accessShown = () => {
  const key = $("key");
  key.hidden = pool.mayAct;
  bannerShown();
  $("new-task").hidden = !pool.mayAct;
};

let stopEvents = () => {};
const restart = () => {
  stopEvents();
  stopEvents = listen("/events", {
    hello: ({ time, may_act: mayAct, resumed }) => {
      clockOffset = Date.parse(time) - Date.now();
      pool.mayAct = mayAct;
      accessShown();
      changed();
      if (!resumed) pool.tasks.forEach((heard) => heard({ many: true, tasks: [] }));
    },
    state: (live) => {
      pool.live = live;
      const { queued, running } = live.counts;
      set($("open-count"), number(queued + running));
      $("open-count").hidden = queued + running === 0;
      set($("dead-count"), number(live.dead ?? 0));
      $("dead-count").hidden = !live.dead;
      connectionShown("live");
    },
    tasks: (news) => pool.tasks.forEach((heard) => heard(news)),
  }, connectionShown);
};

const HELP = [["/", "search tasks"], ["n", "new task"], ["j k", "next, previous"], ["Enter", "open task"], ["p t", "pool, tasks"], ["b r d", "budget, report, dead letters"], ["Esc", "back"], ["?", "show keys"]];
const help = () => {
  const dialog = h("dialog", { "aria-label": "Keys", onclose: () => dialog.remove() }, h("form", { onsubmit: (event) => { event.preventDefault(); dialog.remove(); } },
    h("div", { class: "title" }, h("h2", {}, "Keys")),
    h("div", { class: "body" }, h("dl", { class: "facts" }, HELP.map(([keys, what]) => [h("dt", {}, keys.split(" ").map((key) => [h("kbd", {}, key), " "])), h("dd", {}, what)]))),
    h("div", { class: "foot" }, h("button", { class: "primary" }, "Close"))));
  document.body.append(dialog);
  dialog.showModal();
};
const focusSearch = () => {
  if (!view?.search) {
    history.pushState(null, "", "#/tasks");
    router();
  }
  view.search.focus();
  view.search.select();
};
const KEYS = {
  "/": focusSearch,
  n: () => pool.mayAct && !isAway() && openSubmit(),
  "?": help,
  p: () => { location.hash = "#/"; },
  t: () => { location.hash = "#/tasks"; },
  b: () => { location.hash = "#/budget"; },
  r: () => { location.hash = "#/report"; },
  d: () => { location.hash = "#/dead"; },
  j: () => view?.list?.move(1),
  k: () => view?.list?.move(-1),
  ArrowDown: (event) => document.activeElement?.closest?.(".task-row") && view?.list?.move(1) !== event,
  ArrowUp: (event) => document.activeElement?.closest?.(".task-row") && view?.list?.move(-1) !== event,
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest?.("input, textarea, select");
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (/^#\/tasks\/./.test(location.hash)) location.hash = back?.hash ?? "#/tasks";
    return;
  }
  if (typing || (event.key.startsWith("Arrow") && !event.target.closest?.(".task-row"))) return;
  const perform = KEYS[event.key];
  if (!perform) return;
  event.preventDefault();
  perform(event);
});
$("new-task").addEventListener("click", openSubmit);
$("key").addEventListener("click", () => askForToken("Without the token, this page is read-only."));
$("connection").addEventListener("click", restart);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
window.addEventListener("hashchange", router);
router();
restart();
