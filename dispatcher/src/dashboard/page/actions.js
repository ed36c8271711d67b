// Operator actions, and the state that all views share.
const pool = { live: null, mayAct: true, connection: "connecting", changed: new Set(), tasks: new Set() };
// The dispatcher is away: no action is possible, and countdowns are unknown.
const isAway = () => $("connection").dataset.state === "lost";
// Disables buttons while the dispatcher is away.
const offered = (...buttons) => buttons.forEach((button) => { button.disabled = isAway(); });
const changed = () => pool.changed.forEach((update) => update());

const confirmed = (title, text, verb) => new Promise((done) => {
  const answer = (value) => () => {
    dialog.remove();
    done(value);
  };
  const no = h("button", { type: "button", onclick: answer(false) }, "Go back");
  const yes = h("button", { type: "button", class: "primary", onclick: answer(true) }, verb);
  const dialog = h("dialog", { "aria-label": title, oncancel: answer(false) },
    h("form", { onsubmit: (event) => event.preventDefault() },
      h("div", { class: "title" }, h("h2", {}, title)), h("div", { class: "body" }, h("p", {}, text)),
      h("div", { class: "foot" }, no, yes)));
  document.body.append(dialog);
  dialog.showModal();
  no.focus();
});

// Runs an action. Its button is disabled meanwhile; a failure is shown as a toast.
const act = async (button, perform, said) => {
  if (button) button.disabled = true;
  try {
    const answer = await perform();
    if (said) toast(said);
    return answer ?? true;
  } catch (error) {
    if (error.status !== 401) toast(error.message, true);
    return null;
  } finally {
    if (button) offered(button);
  }
};
const path = (id, rest = "") => `/tasks/${encodeURIComponent(id)}${rest}`;
const cancelTask = (id) => request("DELETE", path(id));
const retryTask = async (id) => (await request("POST", path(id, "/retry"), {})).json();
// Tasks that have been retried, as `pool retry --failed` finds them: a retry has the labels
// of the task it repeats.
const submittedAgain = async (label) => {
  const again = new Set();
  for (let seen = 0, total = 1; seen < total;) {
    const page = await get(`/tasks?${new URLSearchParams({ ...(label && { label }), limit: 5000, offset: seen })}`);
    page.tasks.forEach((task) => task.retry_of && again.add(task.retry_of));
    seen = page.tasks.length ? seen + page.tasks.length : page.total;
    total = page.total;
  }
  return again;
};
// Succeeded tasks are not offered for a retry; `pool retry --force` can do it.
const RETRIED = ["failed", "cancelled", "expired", "rejected"];
const pauseWhat = (target, pause) => request("POST", "/programmer_pool/pause", { target, pause });
const orderBreaker = (llm, order) => request("POST", "/programmer_pool/breakers", { llm, order });
const resumeWhat = (target) => request("POST", "/programmer_pool/resume", { target });

const sameTarget = (a, b) => a.what === b.what && a.id === b.id && a.name === b.name;
const pauseOf = (target) => pool.live?.status.pauses.find((paused) => sameTarget(paused.target, target));
const nameOf = (target) => (target.what === "all" ? "the pool" : target.what === "programmer" ? `Prog-${target.id}` : `route ${target.name}`);

// Pause and resume buttons for one target; with `drain` also a drain button.
const pauseButtons = (target, drain, what = "") => {
  const name = nameOf(target);
  const button = (word, perform, said) => h("button", { type: "button", class: "ghost tiny", "aria-label": `${word} ${name}`, onclick: (event) => act(event.currentTarget, perform, said) }, word + what);
  const pauseIt = () => act(pause, () => pauseWhat(target, "pause"), `${name} takes no more tasks`);
  const surely = () => target.what !== "all" || confirmed("Pause the pool?", "Programmers take no more tasks until the pool is resumed. Running tasks continue.", "Pause the pool");
  const pause = h("button", { type: "button", class: "ghost tiny", "aria-label": `Pause ${name}`, onclick: async () => (await surely()) && pauseIt() }, `Pause${what}`);
  const draining = drain && button("Drain", () => pauseWhat(target, "drain"), `${name} takes no more tasks; its task is handed back when drain_timeout_s is over`);
  const resume = button("Resume", () => resumeWhat(target), `${name} is resumed`);
  const element = h("span", { class: "pauses" }, pause, draining, resume);
  const update = () => {
    const paused = pauseOf(target);
    pause.hidden = Boolean(paused) || !pool.mayAct;
    if (draining) draining.hidden = paused?.pause === "drain" || !pool.mayAct;
    resume.hidden = !paused || !pool.mayAct;
    offered(...[pause, draining, resume].filter(Boolean));
  };
  return { element, update };
};

// Runs one action on many tasks, a few at a time.
const bulk = async (ids, perform, progress) => {
  const left = [...ids];
  const result = { done: 0, failed: 0, first: null };
  const one = async () => {
    while (left.length) {
      try {
        await perform(left.pop());
        result.done += 1;
      } catch (error) {
        result.failed += 1;
        result.first ??= error.message;
        if (error.status === 401) left.length = 0;
      }
      progress(result.done + result.failed);
    }
  };
  await Promise.all(Array.from({ length: 6 }, one));
  return result;
};
