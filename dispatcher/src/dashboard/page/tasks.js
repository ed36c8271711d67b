// The list of tasks: filtered and sorted by the dispatcher. Only visible rows are drawn.
const taskRow = () => {
  const state = h("span", { class: "badge" });
  const summary = h("span", {});
  const id = h("span", { class: "id mono" });
  const error = h("span", { class: "error small" });
  const labels = h("span", { class: "labels" });
  const who = h("span", { class: "who small" });
  const when = h("span", { class: "when small muted" });
  const time = h("span", { class: "took num small" });
  const cost = h("span", { class: "cost num small" });
  const element = h("a", { class: "task-row", role: "listitem" },
    h("span", { class: "state" }, state), h("span", { class: "main" }, summary, h("span", {}, id, error)), labels, who, when, time, cost);
  const update = (task) => {
    attribute(element, "href", `#/tasks/${encodeURIComponent(task.id)}`);
    attribute(element, "data-id", task.id);
    setBadge(state, task.status);
    state.title = task.error ?? "";
    set(summary, task.summary || task.id);
    set(id, task.summary ? task.id : "");
    set(error, task.error ? ` ${task.error}` : "");
    const words = Object.entries(task.labels ?? {}).map(([key, value]) => `${key}=${value}`);
    if (labels.title !== words.join(" ")) {
      labels.title = words.join(" ");
      labels.replaceChildren(...words.slice(0, 3).map((word) => h("span", { class: "chip" }, word)));
    }
    set(who, task.programmer ? `Prog-${task.programmer}` : "");
    attribute(who, "title", task.llm);
    counting(when, "ago", task.submitted_at ?? task.finished_at ?? task.started_at);
    if (task.status === "running") counting(time, "since", task.started_at);
    else {
      counting(time, "since", null);
      set(time, task.finished_at && task.submitted_at ? span(Date.parse(task.finished_at) - Date.parse(task.submitted_at)) : "");
      time.title = "from submission to the end";
    }
    set(cost, task.cost_usd ? usd(task.cost_usd) : "");
  };
  return { element, update };
};

const PAGE = 100;
const HEAD = 80; // The page's header covers this many pixels of the list.
const taskList = (filters, limit) => {
  const rows = h("div", { class: "rows", role: "list", "aria-label": "Tasks" });
  const none = h("div", { hidden: true });
  const element = h("div", { class: limit ? "card tasks short" : "card tasks" },
    h("div", { class: "columns-head", "aria-hidden": "true" }, ...["State", "Task", "Labels", "Programmer", "Submitted"].map((word) => h("span", {}, word)), h("span", { class: "num" }, "Time"), h("span", { class: "num" }, "Cost")), rows, none);
  const list = { element, rows, total: null, onTotal: () => {} };
  let pages = new Map();
  let query = filters();
  let version = 0;
  let timer = null;
  let again = false;
  let loading = 0;
  const height = () => (window.innerWidth <= 900 ? 76 : 48);
  const at = (index) => pages.get(Math.floor(index / PAGE))?.[index % PAGE];
  const shown = () => {
    const total = Math.min(list.total ?? 0, limit ?? Infinity);
    if (limit) return [0, total];
    const top = rows.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / height()) - 8);
    return [Math.min(first, total), Math.min(total, Math.ceil((window.innerHeight - top) / height()) + 8)];
  };
  const draw = () => {
    const [first, last] = shown();
    const total = Math.min(list.total ?? 0, limit ?? Infinity);
    rows.style.height = `${total * height()}px`;
    const visible = [];
    for (let index = first; index < last; index += 1) {
      const task = at(index);
      if (task) visible.push({ index, task });
      else load(Math.floor(index / PAGE));
    }
    keyed(rows, visible, ({ task }) => task.id, () => {
      const row = taskRow();
      return { element: row.element, update: ({ index, task }) => {
        row.element.style.top = `${index * height()}px`;
        attribute(row.element, "aria-posinset", index + 1);
        attribute(row.element, "aria-setsize", total);
        row.update(task);
      } };
    });
    none.hidden = list.total !== 0;
    if (list.total === null || !list.top) return;
    // The list is long enough now to restore the scroll position.
    const { top } = list;
    list.top = 0;
    window.scrollTo(0, top);
  };
  const wanted = new Set();
  const load = async (page) => {
    if (wanted.has(page)) return;
    wanted.add(page);
    loading += 1;
    const mine = version;
    const parameters = new URLSearchParams(query);
    parameters.set("limit", Math.min(PAGE, limit ?? PAGE));
    parameters.set("offset", page * PAGE);
    try {
      const answer = await get(`/tasks?${parameters}`);
      if (mine !== version) return;
      pages.set(page, answer.tasks);
      list.total = answer.total;
      none.replaceChildren(list.nothing?.() ?? empty("No tasks yet"));
      list.onTotal(answer.total);
    } catch (error) {
      if (mine !== version) return;
      none.replaceChildren(empty("Failed to load the tasks", error.message));
      list.total = 0;
    } finally {
      loading -= 1;
      if (mine === version) {
        wanted.delete(page);
        draw();
      }
    }
  };
  // `reload` applies another filter from the top; `fresh` loads the same filter again.
  list.reload = () => {
    query = filters();
    version += 1;
    wanted.clear();
    pages = new Map();
    load(0);
  };
  list.fresh = () => {
    timer = null;
    if (loading || document.hidden) {
      again = true;
      timer = setTimeout(list.fresh, 500);
      return;
    }
    again = false;
    const [first, last] = shown();
    const visible = new Set();
    for (let index = first; index < Math.max(last, first + 1); index += PAGE) visible.add(Math.floor(index / PAGE));
    if (last > first) visible.add(Math.floor((last - 1) / PAGE));
    for (const page of [...pages.keys()]) if (!visible.has(page)) pages.delete(page);
    visible.forEach(load);
  };
  // First update the visible tasks, then the list as a whole.
  const heard = ({ tasks }) => {
    for (const task of tasks) {
      for (const page of pages.values()) {
        const place = page.findIndex((known) => known.id === task.id);
        if (place >= 0) page[place] = task;
      }
    }
    draw();
    if (!timer) timer = setTimeout(list.fresh, again ? 500 : 700);
  };
  // Whether a task that fits may be in the list. Known for certain only if the list is loaded to
  // its end.
  list.mayHave = (fits) => {
    const known = [...pages.values()].flat();
    return known.length < (list.total ?? Infinity) || known.some(fits);
  };
  list.move = (step) => {
    const current = document.activeElement?.closest?.(".task-row");
    const seen = Math.max(0, Math.ceil((HEAD - rows.getBoundingClientRect().top) / height()));
    const index = current ? Number(current.getAttribute("aria-posinset")) - 1 + step : limit ? 0 : seen;
    const target = Math.max(0, Math.min(Math.min(list.total ?? 1, limit ?? Infinity) - 1, index));
    const top = rows.getBoundingClientRect().top + target * height();
    if (top < HEAD) window.scrollBy(0, top - HEAD);
    else if (top + height() > window.innerHeight) window.scrollBy(0, top + height() - window.innerHeight + 8);
    draw();
    rows.querySelector(`[aria-posinset="${target + 1}"]`)?.focus({ preventScroll: true });
  };
  pool.tasks.add(heard);
  const onScroll = () => draw();
  if (!limit) window.addEventListener("scroll", onScroll, { passive: true });
  window.addEventListener("resize", onScroll);
  list.close = () => {
    pool.tasks.delete(heard);
    clearTimeout(timer);
    window.removeEventListener("scroll", onScroll);
    window.removeEventListener("resize", onScroll);
  };
  none.append(h("div", { class: "empty" }, h("div", { class: "skeleton" })));
  none.hidden = false;
  load(0);
  return list;
};

const nothingYet = () => empty("No tasks yet", "Create one with “New task”, or from a shell:", h("br"), h("code", {}, "pool submit --repository app --instruction 'Add a test for parse()'"));
const latestTasks = () => {
  const list = taskList(() => ({}), 8);
  list.nothing = nothingYet;
  return list;
};

const STATES = ["", "queued", "running", "succeeded", "failed", "cancelled", "rejected", "expired"];
const tasksView = (parameters, top = 0) => {
  const values = { status: "", text: "", label: "", programmer: "", llm: "", ...Object.fromEntries(parameters) };
  const filters = () => Object.fromEntries(Object.entries(values).filter(([, value]) => value)
    // A bare key means every task that has the label.
    .map(([name, value]) => [name, name === "label" && !/[=:]/.test(value) ? `${value}=` : value]));
  const place = () => {
    const query = new URLSearchParams(filters()).toString();
    return `#/tasks${query ? `?${query}` : ""}`;
  };
  const put = (name, value) => {
    values[name] = value.trim();
    history.replaceState(null, "", place());
    window.scrollTo(0, 0);
    list.reload();
    update();
  };
  let typing = null;
  const later = (name) => (event) => {
    clearTimeout(typing);
    const { value } = event.currentTarget;
    typing = setTimeout(() => put(name, value), 120);
  };
  const search = h("input", { type: "search", id: "search", placeholder: "Search ids, instructions and labels", "aria-label": "Search tasks", "aria-keyshortcuts": "/", value: values.text, oninput: later("text") });
  const label = h("input", { type: "search", id: "label", placeholder: "label=value", "aria-label": "Label", value: values.label, oninput: later("label") });
  const choice = (name, title) => h("select", { id: name, "aria-label": title, onchange: (event) => put(name, event.currentTarget.value) });
  const programmer = choice("programmer", "Programmer");
  const llm = choice("llm", "LLM");
  const clear = h("button", { type: "button", class: "ghost", onclick: () => {
    for (const name of Object.keys(values)) values[name] = "";
    for (const input of [search, label, programmer, llm]) input.value = "";
    put("text", "");
  } }, "Clear");
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "Status" });
  const buttons = STATES.map((status) => {
    const n = h("span", { class: "n" });
    const button = h("button", { type: "button", "data-status": status, onclick: () => put("status", status) }, status || "all", n);
    tabs.append(button);
    return { status, button, n };
  });
  const list = taskList(filters);
  list.top = top;
  const total = h("span", { class: "muted", id: "total" });
  const cancelAll = h("button", { type: "button", class: "danger tiny", onclick: () => everything("Cancel", cancelTask, (task) => ["queued", "running"].includes(task.status)) }, "Cancel all");
  const retryAll = h("button", { type: "button", class: "tiny", onclick: () => everything("Retry", retryTask, (task) => RETRIED.includes(task.status)) }, "Retry all");
  let busy = false;
  const everything = async (verb, perform, fits) => {
    const answer = await act(null, () => get(`/tasks?${new URLSearchParams({ ...filters(), limit: 5000 })}`));
    if (!answer) return;
    const fitting = answer.tasks.filter(fits).map((task) => task.id);
    const again = verb === "Retry" && fitting.length ? await act(null, () => submittedAgain(values.label && filters().label)) : new Set();
    if (!again) return;
    const ids = fitting.filter((id) => !again.has(id));
    const were = fitting.length - ids.length;
    const known = were ? ` ${number(were)} ${were === 1 ? "was" : "were"} retried before and ${were === 1 ? "is" : "are"} skipped.` : "";
    if (!ids.length) return toast(`None of these ${number(answer.total)} tasks can be ${verb === "Cancel" ? "cancelled" : "retried"}.${known}`);
    const words = Object.entries(filters()).map(([name, value]) => `${name} ${value}`).join(", ") || "all tasks";
    const more = answer.total > answer.tasks.length ? ` These are the newest ${number(answer.tasks.length)} of ${number(answer.total)}.` : "";
    const deed = `${verb} ${number(ids.length)} task${ids.length === 1 ? "" : "s"}`;
    if (!(await confirmed(`${deed}?`, `Tasks that match: ${words}.${more}${known}`, deed))) return;
    busy = true;
    update();
    const result = await bulk(ids, perform, (done) => set(total, `${number(done)} of ${number(ids.length)} …`));
    busy = false;
    update();
    toast(`${number(result.done)} of ${number(ids.length)} tasks done${result.failed ? `; ${number(result.failed)} failed: ${result.first}` : ""}`, result.failed > 0);
    list.reload();
  };
  const nothing = () => (Object.keys(filters()).length ? empty("No tasks match", h("button", { type: "button", class: "tiny", onclick: () => clear.click() }, "Clear filters")) : nothingYet());
  list.nothing = nothing;
  list.onTotal = (count) => {
    set(total, `${number(count)} task${count === 1 ? "" : "s"}`);
    update();
  };
  const options = (select, name, first, items) => {
    const want = JSON.stringify(items);
    if (select.dataset.items === want) return;
    select.dataset.items = want;
    select.replaceChildren(h("option", { value: "" }, first), ...items.map(([value, text]) => h("option", { value }, text)));
    select.value = values[name];
  };
  const update = () => {
    const active = Object.keys(filters()).length > 0;
    clear.hidden = !active;
    const { queued = 0, running = 0 } = pool.live?.counts ?? {};
    const mayBeOpen = queued + running > 0 && list.mayHave((task) => ["queued", "running"].includes(task.status));
    cancelAll.hidden = !active || !pool.mayAct || !list.total || !mayBeOpen || (values.status && !["queued", "running"].includes(values.status));
    for (const button of [cancelAll, retryAll]) button.disabled = busy || isAway();
    retryAll.hidden = !pool.mayAct || !list.total || !RETRIED.includes(values.status);
    const status = pool.live?.status;
    const known = status?.programmers ?? [];
    options(programmer, "programmer", "Any programmer", known.map((one) => [one.id, one.agent]));
    options(llm, "llm", "Any LLM", [...new Set(known.flatMap((one) => [one.primary_llm, one.backup_llm]).filter(Boolean))].sort().map((name) => [name, name]));
    for (const { status: word, button, n } of buttons) {
      attribute(button, "aria-pressed", String(values.status === word));
      const count = word ? pool.live?.counts[word] ?? 0 : undefined;
      set(n, count ? number(count) : "");
      button.hidden = ["rejected", "expired", "cancelled"].includes(word) && !count && values.status !== word;
    }
  };
  const element = h("div", {},
    h("h1", { class: "sr" }, "Tasks"),
    h("div", { class: "filters" },
      h("div", { class: "line" }, h("div", { class: "search" }, search, h("kbd", { "aria-hidden": "true" }, "/")), programmer, llm, label, clear),
      tabs, h("div", { class: "bulk" }, total, cancelAll, retryAll)),
    list.element);
  pool.changed.add(update);
  update();
  return { element, title: "Tasks", search, list, place, close: () => { pool.changed.delete(update); list.close(); } };
};
