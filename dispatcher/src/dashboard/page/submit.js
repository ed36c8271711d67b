// The form for a new task.
const REMEMBERED = "pool-repository";
// Words of a command line: quotes keep words together, a backslash keeps the next character.
const words = (line) => [...line.matchAll(/(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+/g)].map(([word]) =>
  word.replace(/\\(.)|"((?:[^"\\]|\\.)*)"|'([^']*)'/g, (_, escaped, double, single) => escaped ?? double?.replace(/\\(.)/g, "$1") ?? single ?? ""));
const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

const openSubmit = () => {
  if (document.querySelector("dialog#submit")) return;
  const field = (name, input, hint) => h("label", { class: "field" }, name, input, hint && h("span", { class: "hint" }, hint));
  const instruction = h("textarea", { name: "instruction", required: true, rows: 5, placeholder: "What is to be changed, in plain words" });
  const repository = h("input", { name: "repository", required: true, placeholder: "app, or https://…", value: localStorage.getItem(REMEMBERED) ?? "" });
  const base = h("input", { name: "base", placeholder: "default branch" });
  const files = h("textarea", { name: "files", rows: 2, placeholder: "src/lib.rs" });
  const checks = h("textarea", { name: "checks", rows: 2, placeholder: "tests: cargo test" });
  const labels = h("input", { name: "labels", placeholder: "run_id=2026-01-31" });
  const cost = h("input", { name: "cost", inputmode: "decimal", placeholder: "as the pool file says" });
  const time = h("input", { name: "timeout", inputmode: "numeric", placeholder: "as the pool file says" });
  const own = h("input", { name: "id", placeholder: "made up", pattern: "[A-Za-z0-9_][A-Za-z0-9_\\-]{0,63}" });
  const offered = [...new Set((pool.live?.status.programmers ?? []).flatMap((programmer) => programmer.capabilities))].sort();
  const boxes = offered.map((capability) => h("input", { type: "checkbox", name: "capability", value: capability, onchange: () => route() }));
  const able = h("span", { class: "hint", "aria-live": "polite" });
  const route = () => {
    const wanted = boxes.filter((box) => box.checked).map((box) => box.value);
    const programmers = (pool.live?.status.programmers ?? []).filter((programmer) => wanted.every((capability) => programmer.capabilities.includes(capability)));
    set(able, programmers.length ? `${programmers.length} programmer${programmers.length === 1 ? "" : "s"} can do it` : "no programmer offers all of these");
  };
  route();
  const problem = h("div", { class: "problem", role: "alert", hidden: true });
  const send = h("button", { class: "primary" }, "Submit");
  // Sent again after an error it is the same task.
  const made = `t-${[...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  const message = () => {
    const task = { instruction: instruction.value, repository: repository.value.trim() };
    const capabilities = boxes.filter((box) => box.checked).map((box) => box.value);
    task.id = own.value.trim() || made;
    if (base.value.trim()) task.base = base.value.trim();
    if (capabilities.length) task.capabilities = capabilities;
    if (lines(files.value).length) task.files = lines(files.value);
    const acceptance = lines(checks.value).map((line, index) => {
      const [, name, command] = /^([A-Za-z0-9_ .-]+):\s+(.*)$/.exec(line) ?? [null, `check ${index + 1}`, line];
      return { name, run: words(command) };
    });
    if (acceptance.length) task.acceptance = acceptance;
    const pairs = labels.value.split(/[\s,]+/).filter(Boolean).map((pair) => [pair.split("=")[0], pair.split("=").slice(1).join("=")]);
    if (pairs.length) task.labels = Object.fromEntries(pairs);
    const limits = {};
    if (cost.value.trim()) limits.max_cost_usd = cost.value.trim();
    if (time.value.trim()) limits.timeout_s = Number(time.value);
    if (Object.keys(limits).length) task.limits = limits;
    return task;
  };
  const submit = async (event) => {
    event.preventDefault();
    send.disabled = true;
    problem.hidden = true;
    try {
      const taken = await (await request("POST", "/tasks", message())).json();
      localStorage.setItem(REMEMBERED, repository.value.trim());
      dialog.remove();
      toast(`${taken.id} is ${taken.status}`);
      location.hash = `#/tasks/${encodeURIComponent(taken.id)}`;
    } catch (error) {
      problem.hidden = false;
      set(problem, error.message);
    } finally {
      send.disabled = false;
    }
  };
  const form = h("form", { onsubmit: submit },
    h("div", { class: "title" }, h("h2", {}, "New task")),
    h("div", { class: "body" },
      field("Instruction", instruction), field("Repository", repository, "A path below a configured root, or an https or ssh URL."),
      offered.length ? h("fieldset", {}, h("legend", {}, "The programmer must offer"), h("div", { class: "chips" }, boxes.map((box) => h("label", { class: "chip" }, box, " ", box.value))), able) : null,
      field("Acceptance checks", checks, "One a line: a name, a colon, and a command that must exit 0 (no shell)."),
      h("details", {}, h("summary", { class: "muted" }, "More: base, files, labels, limits, id"), h("div", { class: "body" },
        h("div", { class: "two" }, field("Base", base), field("Labels", labels, "key=value, more with a space between.")),
        field("Files to begin with", files, "One a line, relative to the repository."),
        h("div", { class: "two" }, field("Costs at most (USD)", cost), field("Takes at most (s)", time)), field("Id", own))),
      problem),
    h("div", { class: "foot" }, h("button", { type: "button", onclick: () => dialog.remove() }, "Close"), send));
  const dialog = h("dialog", { id: "submit", "aria-label": "New task", onclose: () => dialog.remove() }, form);
  document.body.append(dialog);
  dialog.showModal();
  instruction.focus();
};
