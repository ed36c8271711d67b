// The overview: programmers, routes, breakers, budget.
const kpi = (name, link) => {
  const value = h("span", { class: "value" });
  const note = h("span", { class: "note" });
  const element = h(link ? "a" : "div", { class: "card kpi", href: link }, h("span", { class: "name" }, name), value, note);
  return { element, value, note };
};
const valueOf = (element, value, of) => {
  const shown = typeof value === "number" ? number(value) : value;
  const text = of === undefined ? shown : `${shown} / ${number(of)}`;
  if (element.textContent === text) return;
  element.replaceChildren(shown, of === undefined ? "" : h("small", {}, ` / ${number(of)}`));
};

const budgetCard = () => {
  const spent = h("i", { class: "spent" });
  const reserved = h("i", { class: "reserved" });
  const mark = h("span", { class: "mark-at" });
  const bar = h("div", { class: "bar", role: "img" }, spent, reserved, mark);
  mark.style.height = "100%";
  const value = h("span", { class: "value" });
  const note = h("span", { class: "note" });
  const element = h("section", { class: "card kpi wide", "aria-label": "Budget" }, h("span", { class: "name" }, "Budget today"), value, bar, note);
  const update = (budget) => {
    const limit = budget.max_daily_spend_usd;
    if (limit === null) {
      set(value, usd(budget.spent_usd));
      bar.hidden = true;
      set(note, "spent; no limit");
      return;
    }
    const share = (amount) => (Number(limit) > 0 ? Math.min(100, (100 * Number(amount)) / Number(limit)) : 100);
    const text = `${usd(budget.spent_usd)} of ${usd(limit)}`;
    if (value.textContent !== text) value.replaceChildren(usd(budget.spent_usd), h("small", {}, ` of ${usd(limit)}`));
    spent.style.width = `${share(budget.spent_usd)}%`;
    reserved.style.width = `${Math.min(share(budget.reserved_usd), 100 - share(budget.spent_usd))}%`;
    mark.style.left = `${share(budget.alert_threshold_usd)}%`;
    mark.hidden = Number(budget.alert_threshold_usd) === 0;
    bar.classList.toggle("alert", budget.alert);
    const left = `${usd(budget.reserved_usd)} reserved, ${usd(budget.left_usd)} left`;
    attribute(bar, "aria-label", `${text} spent, ${left}; warning at ${usd(budget.alert_threshold_usd)}`);
    element.title = `warns at ${usd(budget.alert_threshold_usd)}; the day ends ${budget.day_ends ? moment(budget.day_ends) : "never"}`;
    set(note, `${left}${budget.alert ? " · above the alert threshold" : ""}${budget.set_for_today ? " · limit set for today" : ""}`);
    note.className = budget.alert ? "note warn" : "note";
  };
  return { element, update };
};

// The weakness of a sandbox that is not the whole one; empty for an unknown one.
const weaknessOf = (sandbox) => {
  if (!sandbox) return "";
  if (sandbox.level !== "strict") return `sandbox ${sandbox.level}`;
  if (sandbox.network === "host") return "sandbox with network";
  return sandbox.proc === "shared" ? "sandbox shows processes" : "";
};

const programmerCard = ({ id }) => {
  const state = h("span", { class: "badge" });
  const llm = h("span", { class: "llm mono grow" });
  const backup = h("span", { class: "badge plain", "data-tone": "warn", hidden: true }, "backup");
  const sandbox = h("span", { class: "badge plain", "data-tone": "warn", hidden: true });
  const text = h("span", {});
  const link = h("a", {});
  const since = h("span", { class: "muted small" });
  const probe = h("span", { class: "muted small" });
  const paused = h("span", { class: "badge plain", "data-tone": "warn", hidden: true });
  const what = h("div", { class: "what" }, text, link);
  const name = h("span", { class: "name grow" });
  const buttons = pauseButtons({ what: "programmer", id }, true);
  const worker = h("span", { class: "worker grow muted small llm" });
  const element = h("li", { class: "card programmer" },
    h("div", { class: "row" }, name, h("span", { class: "marks" }, since, probe, state)), h("div", { class: "row" }, llm, paused, backup), what, h("div", { class: "row foot" }, worker, sandbox, buttons.element));
  const update = (programmer) => {
    set(name, programmer.agent);
    const word = programmer.unknown ? "unknown" : programmer.state;
    attribute(element, "data-state", word);
    attribute(element, "data-id", programmer.id);
    setBadge(state, word);
    const pause = pauseOf({ what: "programmer", id }) ?? pauseOf({ what: "all" });
    paused.hidden = !pause || programmer.state !== "busy";
    set(paused, pause?.pause === "drain" ? "draining" : "paused");
    set(llm, programmer.current_llm);
    llm.title = `primary ${programmer.primary_llm}${programmer.backup_llm ? `, backup ${programmer.backup_llm}` : ""}`;
    backup.hidden = !programmer.using_backup;
    const { task } = programmer;
    set(link, task ? pool.live.running[task] || task : "");
    link.title = task ?? "";
    link.hidden = !task;
    if (task) attribute(link, "href", `#/tasks/${encodeURIComponent(task)}`);
    counting(since, "since", task ? programmer.since : programmer.shut && pause ? pause.since : null);
    counting(probe, "until", task || pause ? null : programmer.circuit?.until);
    const reason = task ? "" : programmer.reason || `waiting for a task · ${programmer.capabilities.join(", ") || "no capabilities"}`;
    attribute(what, "data-quiet", !task && !programmer.reason ? "" : null);
    say(text, programmer.using_backup && programmer.circuit && !task ? `${reason} · ${programmer.circuit.detail}` : reason);
    attribute(what, "title", text.textContent);
    set(worker, programmer.worker ? programmer.worker.replace(/^worker /, "") : "");
    worker.title = programmer.worker ?? "";
    const weakness = weaknessOf(programmer.sandbox);
    sandbox.hidden = !weakness;
    set(sandbox, weakness);
    attribute(sandbox, "title", weakness ? programmer.sandbox.why ?? weakness : null);
    buttons.update();
  };
  return { element, update };
};

// The log knows the waiting tasks. Other messages are copies that will be dropped, or tasks that
// came straight over AMQP; which of the two is unknown until they are delivered.
const moreMessages = (messages, tasks) => (messages > tasks ? ` · ${number(messages)} message${messages === 1 ? "" : "s"}` : "");
const routeRow = ({ name }) => {
  const title = h("span", { class: "mono" }, name);
  const nums = h("span", { class: "nums" });
  const age = h("span", { class: "muted small" });
  const oldest = h("span", {});
  age.append("oldest ", oldest);
  const who = h("span", { class: "muted small" });
  const paused = h("span", { class: "badge plain", "data-tone": "warn", hidden: true }, "paused");
  const buttons = pauseButtons({ what: "route", name }, false);
  const running = h("i", { class: "running" });
  const waiting = h("i", { class: "waiting" });
  const load = h("div", { class: "load", "aria-hidden": "true" }, running, waiting);
  const element = h("li", { class: "route" }, h("div", { class: "line" }, h("span", { class: "title" }, title, " ", paused), nums), h("span", { class: "small" }, who, age), buttons.element, load);
  const update = (route) => {
    const wait = Math.max(route.waiting ?? 0, route.waiting_tasks);
    set(nums, `${number(route.running)} running · ${route.waiting === null ? "?" : number(route.waiting_tasks)} waiting${moreMessages(route.waiting, route.waiting_tasks)}`);
    set(who, `${route.programmers.length} able${route.oldest_waiting ? " · " : ""}`);
    age.hidden = !route.oldest_waiting;
    counting(oldest, "since", route.oldest_waiting);
    const most = Math.max(route.programmers.length, wait + route.running, 1);
    running.style.width = `${(100 * route.running) / most}%`;
    waiting.style.width = `${(100 * wait) / most}%`;
    paused.hidden = !pauseOf({ what: "route", name });
    buttons.update();
  };
  return { element, update };
};

const breakerKey = (breaker) => JSON.stringify([breaker.llm, breaker.base_url, breaker.host, breaker.scope]);
const breakerRow = () => {
  const llm = h("span", { class: "mono" });
  const state = h("span", { class: "badge" });
  const text = h("span", { class: "muted small" });
  const when = h("span", { class: "countdown small" });
  const probe = h("button", { type: "button", class: "ghost tiny", onclick: () => act(probe, () => orderBreaker(llm.textContent, "probe"), `${llm.textContent} is probed now`) }, "Probe now");
  const element = h("li", { class: "breaker" }, llm, state, text, h("span", { class: "next" }, when, probe));
  const tone = { closed: "good", open: "bad", half_open: "warn" };
  const update = (breaker) => {
    set(llm, breaker.llm);
    set(state, breaker.state.replace("_", "-"));
    attribute(state, "data-tone", tone[breaker.state]);
    probe.hidden = breaker.state !== "open" || !pool.mayAct;
    offered(probe);
    const { programmer, host } = breaker.scope ?? {};
    const of = programmer ? `for Prog-${programmer}` : host ? `for the host ${host}` : "for the whole pool";
    if (breaker.state === "closed") {
      set(text, `closed since ${clock(breaker.since)}, ${of}${breaker.probed_by ? `; probed by Prog-${breaker.probed_by}` : ""}`);
      counting(when, "until", null);
      return;
    }
    set(text, `${breaker.failures} × ${breaker.reason ?? "failure"}, ${of}, since ${clock(breaker.since)}${breaker.state === "half_open" ? `; Prog-${breaker.probed_by} is probing` : "; next probe"}`);
    counting(when, "until", breaker.until);
  };
  return { element, update };
};

const poolView = () => {
  const programmers = kpi("Available");
  const running = kpi("Running", "#/tasks?status=running");
  const waiting = kpi("Waiting", "#/tasks?status=queued");
  const oldest = h("span", {});
  const messages = document.createTextNode("");
  waiting.note.append(document.createTextNode(""), oldest, messages);
  const backup = kpi("On backup LLM");
  const done = kpi("Succeeded", "#/tasks?status=succeeded");
  const budget = budgetCard();
  const grid = h("ul", { class: "programmers" });
  const routes = h("ul", { class: "card list" });
  const breakers = h("ul", { class: "card list" });
  const calm = h("div", { class: "card" }, empty("All LLMs answer", "When an LLM fails, its breaker is shown here with the time of the next probe."));
  const latest = latestTasks();
  const all = pauseButtons({ what: "all" }, false, " the pool");
  const filter = h("input", { type: "search", placeholder: "Filter programmers", "aria-label": "Filter programmers", oninput: () => update() });
  const skeleton = h("div", { class: "programmers", "aria-label": "Loading" }, Array.from({ length: 6 }, () => h("div", { class: "card panel" }, h("div", { class: "skeleton" }))));
  const section = (title, ...rest) => h("section", { "aria-label": title }, ...rest);
  const element = h("div", {},
    h("h1", { class: "sr" }, "Pool"),
    h("div", { class: "kpis" }, programmers.element, running.element, waiting.element, done.element, backup.element, budget.element),
    skeleton, h("div", { class: "columns", hidden: true },
      h("div", { class: "stack" },
        section("Programmers", h("div", { class: "head" }, h("h2", {}, "Programmers"), h("span", { class: "grow" }), h("div", {}, filter), all.element), grid),
        section("Latest tasks", h("div", { class: "head" }, h("h2", {}, "Latest tasks"), h("span", { class: "grow" }), h("a", { href: "#/tasks" }, "All tasks")), latest.element)),
      h("div", { class: "stack" },
        section("Routes", h("div", { class: "head" }, h("h2", {}, "Routes")), routes),
        section("Breakers", h("div", { class: "head" }, h("h2", {}, "LLM breakers")), breakers, calm))));
  const matches = (programmer) => {
    const wanted = filter.value.trim().toLowerCase();
    return !wanted || JSON.stringify([programmer.agent, programmer.state, programmer.reason, programmer.current_llm, programmer.capabilities, programmer.task]).toLowerCase().includes(wanted);
  };
  const update = () => {
    if (!pool.live) return;
    const { status, counts } = pool.live;
    skeleton.hidden = true;
    skeleton.nextElementSibling.hidden = false;
    // Without the broker no heartbeats arrive, so the last known states are outdated.
    const deaf = status.detail && status.uncounted_queues === status.routes.length;
    valueOf(programmers.value, deaf ? "?" : status.available, status.pool_size);
    set(programmers.note, deaf ? "unknown" : status.unavailable ? status.programmers.some((programmer) => programmer.unknown) ? status.detail ? "unknown" : "waiting for heartbeats" : `${number(status.unavailable)} shut or down` : "all available");
    programmers.note.className = deaf || status.unavailable ? "note warn" : "note";
    valueOf(running.value, counts.running);
    const busy = status.programmers.filter((programmer) => programmer.state === "busy").length;
    set(running.note, deaf ? "unknown" : `${number(busy)} busy`);
    const counted = status.uncounted_queues === 0;
    const tasks = status.routes.reduce((sum, route) => sum + route.waiting_tasks, 0);
    valueOf(waiting.value, counted ? tasks : "?");
    messages.textContent = counted ? moreMessages(status.total_queue_depth, tasks) : "";
    const first = status.routes.map((route) => route.oldest_waiting).filter(Boolean).sort()[0];
    counting(oldest, "since", first);
    oldest.previousSibling.textContent = first ? "oldest " : counted ? "no tasks waiting" : "unknown";
    const bad = ["failed", "rejected", "expired"].filter((word) => counts[word]).map((word) => `${number(counts[word])} ${word}`);
    valueOf(done.value, counts.succeeded ?? 0);
    set(done.note, `${bad.join(", ") || "none failed"}, since the log began`);
    done.note.className = bad.length ? "note bad" : "note";
    valueOf(backup.value, deaf ? "?" : status.using_backup);
    set(backup.note, deaf ? "unknown" : status.using_backup ? "their primary LLM is out" : "all on their primary LLM");
    budget.update(status.budget);
    all.update();
    filter.parentElement.hidden = status.programmers.length < 12;
    keyed(grid, status.programmers.filter(matches), (programmer) => programmer.id, programmerCard);
    keyed(routes, status.routes, (route) => route.name, routeRow);
    keyed(breakers, status.breakers, breakerKey, breakerRow);
    breakers.hidden = status.breakers.length === 0;
    calm.hidden = !breakers.hidden;
    set(calm.querySelector("strong"), deaf ? "LLM states are unknown" : "All LLMs answer");
  };
  pool.changed.add(update);
  update();
  return { element, title: "Pool", list: latest, close: () => { pool.changed.delete(update); latest.close(); } };
};
