// The form for a new task.
const REMEMBERED = "pool-repository";
const pairs = (text) => text.split(/[\s,]+/).filter(Boolean);

// The mistake in a field, as a sentence; empty when the field is valid.
const needed = (said) => (text) => (text.trim() ? "" : said);
const like = (pattern, said) => (text) => (!text.trim() || pattern.test(text.trim()) ? "" : said);
const WRONG = {
  instruction: needed("Enter an instruction."),
  repository: needed("Enter a repository."),
  id: like(/^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$/, "An id has at most 64 letters, digits, _ and -, and does not begin with -. Leave it empty to generate one."),
  cost: like(/^[0-9]+(\.[0-9]{1,6})?$/, "Enter dollars as a number, for example 0.50."),
  timeout: like(/^0*[1-9][0-9]*$/, "Enter whole seconds as a number, for example 600."),
  labels: (text) => {
    const bad = pairs(text).find((pair) => !/^[^=]+=/.test(pair));
    return bad ? `“${bad}” is not key=value.` : "";
  },
  ...CHECK_MISTAKES,
};

// The unsubmitted draft; it is restored when the form opens again.
let draft = null;
const keyOf = (input) => (input.type === "checkbox" ? `${input.name} ${input.value}` : [input.name, input.dataset.check].join(" "));
const written = (form) => Object.fromEntries([...form.elements].filter((input) => input.name).map((input) => [keyOf(input), input.type === "checkbox" ? input.checked : input.value]));
const writeAgain = (form) => {
  for (const input of form.elements) {
    const value = draft.values[keyOf(input)];
    if (value === undefined) continue;
    if (input.type === "checkbox") input.checked = value;
    else input.value = value;
    if (value) input.closest("details")?.setAttribute("open", "");
  }
};

const openSubmit = () => {
  if (document.querySelector("dialog#submit")) return;
  const field = (name, input, hint) => h("label", { class: "field" }, name, input, hint && h("span", { class: "hint" }, hint), h("span", { class: "wrong", role: "alert", hidden: true }));
  const instruction = h("textarea", { name: "instruction", required: true, rows: 5, placeholder: "Describe the change in plain words" });
  const repository = h("input", { name: "repository", required: true, placeholder: "app, or https://…", value: localStorage.getItem(REMEMBERED) ?? "" });
  const base = h("input", { name: "base", placeholder: "default branch" });
  const files = h("textarea", { name: "files", rows: 2, placeholder: "src/lib.rs" });
  const checks = h("textarea", { name: "checks", rows: 2, placeholder: "tests: cargo test" });
  const options = checkOptions(checks, field);
  const protect = h("textarea", { name: "protect", rows: 2, placeholder: "tests/**" });
  const labels = h("input", { name: "labels", placeholder: "run_id=2026-01-31" });
  const cost = h("input", { name: "cost", inputmode: "decimal", placeholder: "default of the pool file" });
  const time = h("input", { name: "timeout", inputmode: "numeric", placeholder: "default of the pool file" });
  const own = h("input", { name: "id", placeholder: "generated" });
  const offered = [...new Set((pool.live?.status.programmers ?? []).flatMap((programmer) => programmer.capabilities))].sort();
  const boxes = offered.map((capability) => h("input", { type: "checkbox", name: "capability", value: capability, onchange: () => route() }));
  const able = h("span", { class: "hint", "aria-live": "polite" });
  const route = () => {
    const wanted = boxes.filter((box) => box.checked).map((box) => box.value);
    const programmers = (pool.live?.status.programmers ?? []).filter((programmer) => wanted.every((capability) => programmer.capabilities.includes(capability)));
    set(able, programmers.length ? `${programmers.length} programmer${programmers.length === 1 ? "" : "s"} can do it` : "no programmer has all of these");
  };
  const problem = h("div", { class: "problem", role: "alert", hidden: true });
  const send = h("button", { class: "primary" }, "Submit");
  // The draft keeps its id, so a repeated submission is the same task.
  const made = draft?.made ?? `t-${[...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  const message = () => {
    const task = { instruction: instruction.value, repository: repository.value.trim() };
    const capabilities = boxes.filter((box) => box.checked).map((box) => box.value);
    task.id = own.value.trim() || made;
    if (base.value.trim()) task.base = base.value.trim();
    if (capabilities.length) task.capabilities = capabilities;
    if (lines(files.value).length) task.files = lines(files.value);
    const acceptance = options.acceptance();
    if (acceptance.length) task.acceptance = acceptance;
    if (lines(protect.value).length) task.protect = lines(protect.value);
    const marks = pairs(labels.value).map((pair) => [pair.split("=")[0], pair.split("=").slice(1).join("=")]);
    if (marks.length) task.labels = Object.fromEntries(marks);
    const limits = {};
    if (cost.value.trim()) limits.max_cost_usd = cost.value.trim();
    if (time.value.trim()) limits.timeout_s = Number(time.value);
    if (Object.keys(limits).length) task.limits = limits;
    return task;
  };
  const judge = (input) => {
    const said = WRONG[input.name]?.(input.value) ?? "";
    const wrong = input.closest(".field")?.querySelector(".wrong");
    if (!wrong) return false;
    attribute(input, "aria-invalid", said ? "true" : null);
    wrong.hidden = !said;
    set(wrong, said);
    if (said) input.closest("details")?.setAttribute("open", "");
    return Boolean(said);
  };
  const submit = async (event) => {
    event.preventDefault();
    const [first] = [...form.elements].filter(judge);
    if (first) return first.focus();
    send.disabled = true;
    problem.hidden = true;
    try {
      const taken = await (await request("POST", "/tasks", message())).json();
      draft = null;
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
  const typed = ({ target }) => {
    if (target === checks) options.show();
    draft = { made, values: written(form) };
    if (target.getAttribute("aria-invalid")) judge(target);
  };
  const startOver = () => {
    draft = null;
    dialog.remove();
    openSubmit();
  };
  const form = h("form", { novalidate: true, onsubmit: submit, oninput: typed },
    h("div", { class: "title" }, h("h2", {}, "New task")),
    h("div", { class: "body" },
      field("Instruction", instruction), field("Repository", repository, "A path below a configured root, or an https:// or ssh:// URL."),
      offered.length ? h("fieldset", {}, h("legend", {}, "Required capabilities"), h("div", { class: "chips" }, boxes.map((box) => h("label", { class: "chip" }, box, " ", box.value))), able) : null,
      field("Acceptance checks", checks, "One per line: a name, a colon, and a command that must exit with 0 (no shell)."),
      h("details", { id: "evidence" }, h("summary", { class: "muted" }, "Evidence: protected paths, options of the checks"), h("div", { class: "body" },
        field("Protected paths", protect, "One pattern per line. The change may not contain these files."), options.element)),
      h("details", { id: "more" }, h("summary", { class: "muted" }, "More: base, files, labels, limits, id"), h("div", { class: "body" },
        h("div", { class: "two" }, field("Base", base), field("Labels", labels, "key=value, separated by spaces.")),
        field("Files for the agent", files, "One per line, relative to the repository."),
        h("div", { class: "two" }, field("Cost limit (USD)", cost), field("Time limit (s)", time)), field("Id", own))),
      problem),
    h("div", { class: "foot" }, h("button", { type: "button", class: "ghost", onclick: startOver }, "Reset"), h("button", { type: "button", onclick: () => dialog.remove() }, "Close"), send));
  const dialog = h("dialog", { id: "submit", "aria-label": "New task", onclose: () => dialog.remove() }, form);
  if (draft) {
    writeAgain(form);
    // Only now there are fields for the options of its checks.
    options.show();
    writeAgain(form);
  }
  route();
  document.body.append(dialog);
  dialog.showModal();
  instruction.focus();
};
