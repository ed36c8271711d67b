// The acceptance checks in the form for a new task: one line for each, and below it its options.
// Splits a command line: quotes keep words together, a backslash keeps the next character.
const WORD = /(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+/g;
const words = (line) => [...line.matchAll(WORD)].map(([word]) =>
  word.replace(/\\(.)|"((?:[^"\\]|\\.)*)"|'([^']*)'/g, (_, escaped, double, single) => escaped ?? double?.replace(/\\(.)/g, "$1") ?? single ?? ""));
const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

const NAMED_CHECK = /^([A-Za-z0-9_ .-]+):(?:\s+(.*))?$/;
const checkOf = (line, index) => {
  const [, name, command = ""] = NAMED_CHECK.exec(line) ?? [null, `check ${index + 1}`, line];
  return { name, command };
};

// Files in one text: a line with === and a path, then the content. Null if the text begins otherwise.
const FILE = /^===\s+(.*\S)\s*$/;
const filesIn = (text) => {
  const files = [];
  for (const line of text.split("\n")) {
    const [, path] = FILE.exec(line) ?? [];
    if (path) files.push({ path, lines: [] });
    else if (files.length) files.at(-1).lines.push(line);
    else if (line.trim()) return null;
  }
  return files.map(({ path, lines }) => [path, lines.join("\n").replace(/\n*$/, lines.some(Boolean) ? "\n" : "")]);
};
const isInside = (path) => !/^[/-]|\\/.test(path) && path.split("/").every((part) => part && ![".", "..", ".git"].includes(part.toLowerCase()));
const isPattern = (pattern) => !/^[/!]|\\/.test(pattern) && pattern.split("/").every((part) => part && part !== "." && part !== ".." && (part === "**" || !part.includes("**")));

// The mistakes in these fields, as sentences.
const CHECK_MISTAKES = {
  checks: (text) => {
    const bad = lines(text).map(checkOf).find(({ command }) => !command || command.replace(WORD, "").trim());
    if (!bad) return "";
    return bad.command ? `A quote of “${bad.name}” is not closed, or it ends with a backslash.` : `“${bad.name}” has no command after its colon.`;
  },
  tries: (text) => (/^\s*(0*[1-5])?\s*$/.test(text) ? "" : "Enter a number from 1 to 5."),
  overlay: (text) => {
    const files = filesIn(text);
    if (!files) return "Begin with === and a path, for example === tests/test_hidden.py.";
    const paths = files.map(([path]) => path);
    const bad = paths.find((path) => !isInside(path));
    if (bad) return `“${bad}” is not a path in the repository.`;
    const twice = paths.find((path, index) => paths.indexOf(path) < index);
    return twice ? `“${twice}” is there twice.` : "";
  },
  protect: (text) => {
    const bad = lines(text).find((pattern) => !isPattern(pattern));
    return bad ? `“${bad}” is not a pattern of paths from the root of the repository, for example tests/**.` : "";
  },
};

// Shows the options of each check in `lines(checks.value)`. A check keeps its options when it moves,
// and when its name is edited.
const checkOptions = (checks, field) => {
  const rows = new Map();
  const element = h("div", { class: "checks" });
  let shown = [];
  const create = () => {
    const before = h("select", { name: "before" }, [["", "may pass or fail"], ["fails", "must fail"], ["passes", "must pass"]].map(([value, text]) => h("option", { value }, text)));
    const tries = h("input", { name: "tries", inputmode: "numeric", placeholder: "1" });
    const overlay = h("textarea", { name: "overlay", rows: 3, placeholder: "=== tests/test_hidden.py" });
    const title = h("legend", {});
    const row = h("fieldset", {}, title, h("div", { class: "two" },
      field("On the base commit", before, "Tried before the agent runs."),
      field("Tries", tries, "More than 1 for a flaky check.")),
    field("Hidden files", overlay, "A line with === and a path, then the content. Only this check sees them."));
    const rename = (name) => {
      set(title, `Options of “${name}”`);
      [before, tries, overlay].forEach((input) => { input.dataset.check = name; });
    };
    const values = () => {
      const options = {};
      if (before.value) options.before = before.value;
      if (Number(tries.value) > 1) options.tries = Number(tries.value);
      const files = filesIn(overlay.value);
      if (files?.length) options.overlay = Object.fromEntries(files);
      return options;
    };
    return { row, rename, values };
  };
  const show = () => {
    const names = lines(checks.value).map(checkOf).map(({ name }) => name);
    if (names.join("\n") === shown.join("\n")) return;
    names.forEach((name, index) => {
      const old = shown[index];
      const edited = names.length === shown.length && !rows.has(name) && !names.includes(old);
      if (edited) {
        rows.set(name, rows.get(old));
        rows.delete(old);
      } else if (!rows.has(name)) rows.set(name, create());
      rows.get(name).rename(name);
    });
    element.replaceChildren(...new Set(names.map((name) => rows.get(name).row)));
    shown = names;
  };
  const acceptance = () => lines(checks.value).map(checkOf).map(({ name, command }) => ({ name, run: words(command), ...rows.get(name)?.values() }));
  return { element, show, acceptance };
};
