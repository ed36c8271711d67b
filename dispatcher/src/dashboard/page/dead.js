// Dead letters: list, retry, drop. The dispatcher takes all messages out of the queue to list them,
// so the list is loaded on request or when the number of messages changes, never by a timer.
const letterPath = (id, rest = "") => `/dead/${encodeURIComponent(id)}${rest}`;

const letterRow = (reload) => ({ id }) => {
  const kind = h("span", { class: "badge plain", "data-tone": "bad" });
  const message = h("span", {});
  const about = h("span", { class: "muted small" });
  const when = h("span", {});
  const body = h("div", { class: "letter-body", hidden: true });
  const open = h("button", { type: "button", class: "open", "aria-expanded": "false", onclick: () => toggle() }, h("span", {}, kind, " ", message), h("span", { class: "muted small" }, about, when));
  const gone = (said) => (answer) => {
    if (!answer) return;
    toast(said(answer));
    reload();
  };
  const retry = h("button", { type: "button", class: "tiny", onclick: (event) => act(event.currentTarget, async () => (await request("POST", letterPath(id, "/retry"), {})).json()).then(gone((answer) => answer.detail)) }, "Retry");
  const drop = h("button", { type: "button", class: "tiny danger", onclick: async (event) => {
    const button = event.currentTarget;
    if (await confirmed("Drop this message?", `${message.textContent}. It cannot be restored.`, "Drop message")) act(button, () => request("DELETE", letterPath(id))).then(gone(() => "The message is dropped"));
  } }, "Drop");
  const actions = h("span", { class: "actions" }, retry, drop);
  const toggle = async () => {
    const opened = body.hidden;
    body.hidden = !opened;
    attribute(open, "aria-expanded", String(opened));
    if (!opened || body.dataset.known) return;
    body.replaceChildren(h("div", { class: "skeleton" }));
    try {
      const { routing_key: key, properties, body: text, is_utf8: isText, letter } = await get(letterPath(id));
      body.dataset.known = "yes";
      body.replaceChildren(
        h("dl", { class: "facts" }, fact("Id", mono(id)), fact("Task", letter.task_id && h("a", { class: "mono", href: `#/tasks/${encodeURIComponent(letter.task_id)}` }, letter.task_id)), fact("Routing key", key && mono(key)), Object.entries(properties).map(([name, value]) => fact(name, mono(value))).flat()),
        h("pre", { class: "term", tabindex: 0, "aria-label": "Body" }, plain(text) || "The body is empty."),
        h("div", { class: "hint" }, `${number(letter.bytes)} bytes${isText ? "" : ", not valid UTF-8"}`));
    } catch (error) {
      body.replaceChildren(h("div", { class: "problem" }, error.message));
    }
  };
  const element = h("li", { class: "letter", "data-id": id }, h("div", { class: "line" }, open, actions), body);
  const update = (letter) => {
    const cut = letter.reason.indexOf(": ");
    set(kind, cut < 0 ? letter.reason : letter.reason.slice(0, cut));
    set(message, cut < 0 ? "" : letter.reason.slice(cut + 2));
    const words = [letter.task_id && `task ${letter.task_id}`, letter.from && `from ${letter.from}`, `${number(letter.bytes)} bytes`].filter(Boolean);
    set(about, `${words.join(" · ")}${letter.at ? " · " : ""}`);
    counting(when, "ago", letter.at);
    actions.hidden = !pool.mayAct;
    offered(retry, drop);
  };
  return { element, update };
};

const deadView = () => {
  const total = h("span", { class: "muted" });
  const list = h("ul", { class: "card list letters", "aria-label": "Dead letters", hidden: true });
  const none = h("div", { class: "card" }, h("div", { class: "empty" }, h("div", { class: "skeleton" })));
  const again = h("button", { type: "button", class: "tiny", onclick: () => load() }, "Refresh");
  const retryAll = h("button", { type: "button", class: "tiny", hidden: true, onclick: () => everyOne() }, "Retry all");
  const dropAll = h("button", { type: "button", class: "tiny danger", hidden: true, onclick: () => everything() }, "Drop all");
  let letters = null;
  let count = null;
  let seen = null;
  let closed = false;
  let loading = false;
  const everything = async () => {
    if (!(await confirmed(`Drop all ${number(count)} messages?`, "They cannot be restored.", `Drop ${number(count)} messages`))) return;
    await act(dropAll, async () => {
      for (let left = 1; left > 0;) {
        const answer = await (await request("DELETE", "/dead")).json();
        left = answer.dropped ? answer.left ?? 0 : 0;
      }
    }, "All messages are dropped");
    load();
  };
  const everyOne = async () => {
    const done = await act(retryAll, async () => {
      for (let taken = 0; ;) {
        const { retried, kept, total: left } = await (await request("POST", "/dead/retry", {})).json();
        taken += retried.length;
        if (!retried.length || left <= kept.length) return { taken, left };
      }
    });
    if (done) toast(`${number(done.taken)} retried${done.left ? `; ${number(done.left)} could not be retried and are still here` : ""}`);
    load();
  };
  const load = async () => {
    if (loading) return;
    loading = true;
    again.disabled = true;
    seen = pool.live?.dead ?? null;
    try {
      const answer = await get("/dead");
      if (closed) return;
      letters = answer.letters;
      count = answer.total;
      none.replaceChildren(empty("No dead letters", "Messages that could not be handled are listed here with the reason: for example messages that are not tasks, and tasks that kill their worker."));
    } catch (error) {
      if (closed) return;
      if (error.status === 401) tokenGiven().then(load);
      if (!letters) none.replaceChildren(empty("Failed to load the dead letters", error.message));
      else toast(error.message, true);
    } finally {
      loading = false;
      again.disabled = false;
    }
    draw();
  };
  const draw = () => {
    const some = letters?.length > 0;
    list.hidden = !some;
    none.hidden = some;
    retryAll.hidden = dropAll.hidden = !some || !pool.mayAct;
    offered(retryAll, dropAll);
    set(total, letters ? `${number(count)} message${count === 1 ? "" : "s"}${count > letters.length ? `, showing the oldest ${number(letters.length)}` : ""}` : "");
    keyed(list, letters ?? [], (letter) => letter.id, letterRow(load));
  };
  const update = () => {
    draw();
    const now = pool.live?.dead ?? null;
    if (letters && now !== null && now !== seen) load();
  };
  const move = (step) => {
    const rows = [...list.querySelectorAll(".open")];
    const current = rows.indexOf(document.activeElement?.closest?.(".letter")?.querySelector(".open"));
    rows[Math.max(0, Math.min(rows.length - 1, current + step))]?.focus();
  };
  const element = h("div", {},
    h("div", { class: "head wrap" }, h("h1", {}, "Dead letters"), total, h("span", { class: "grow" }), again, retryAll, dropAll), none, list);
  pool.changed.add(update);
  load();
  return { element, title: "Dead letters", list: { move }, close: () => { closed = true; pool.changed.delete(update); } };
};
