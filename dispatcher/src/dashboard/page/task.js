// One task: its facts, its timeline and its result.
const fact = (name, value) => (value === undefined || value === null || value === "" || value === false ? [] : [h("dt", {}, name), h("dd", {}, value)]);
const mono = (text) => h("span", { class: "mono" }, text);
const ANSI = /\u001b\[[0-9;?]*[ -/]*[@-~]|\u001b\][^\u0007]*\u0007|[\u0000-\u0008\u000b-\u001f\u007f]/g;
const plain = (text) => text.replace(ANSI, "");

// Git quotes unusual file names as C does, with bytes above ASCII in octal.
const unquoted = (written) => {
  const name = written.replace(/\t$/, ""); // Git appends a tab to names with spaces.
  if (!name.startsWith('"')) return name;
  const bytes = [];
  for (const [, octal, escaped, plain] of name.slice(1, -1).matchAll(/\\([0-7]{3})|\\(.)|([^\\]+)/gu)) {
    if (octal) bytes.push(parseInt(octal, 8));
    else bytes.push(...new TextEncoder().encode(plain ?? { n: "\n", t: "\t", r: "\r" }[escaped] ?? escaped));
  }
  return new TextDecoder().decode(new Uint8Array(bytes));
};
const patchFiles = (patch) => {
  const files = [];
  let file = null;
  for (const line of patch.split("\n")) {
    if (line.startsWith("diff --git ")) {
      file = { name: line.slice(11), lines: [], plus: 0, minus: 0, body: false };
      files.push(file);
    } else if (file) {
      if (line.startsWith("@@")) file.body = true;
      if (!file.body) {
        const named = /^(?:\+\+\+|---|rename to|copy to) (.*)$/.exec(line);
        if (named && named[1] !== "/dev/null") file.name = unquoted(named[1]).replace(/^[ab]\//, "");
        if (/^(new file|deleted file|old mode|new mode|rename|Binary)/.test(line)) file.lines.push(["meta", line]);
      } else {
        const kind = { "+": "add", "-": "del", "@": "hunk", " ": "same" }[line[0]] ?? "meta";
        if (kind === "add") file.plus += 1;
        if (kind === "del") file.minus += 1;
        if (line) file.lines.push([kind, line]);
      }
    }
  }
  return files;
};
const MOST_LINES = 3000;
const diffFile = (file) => {
  let [before, after] = [0, 0];
  const rest = file.lines.slice(MOST_LINES);
  const draw = ([kind, line]) => {
    const hunk = kind === "hunk" && /^@@ -(\d+)(?:,\d+)? \+(\d+)/.exec(line);
    if (hunk) [before, after] = [Number(hunk[1]), Number(hunk[2])];
    const left = kind === "del" || kind === "same" ? before++ : "";
    const right = kind === "add" || kind === "same" ? after++ : "";
    return h("div", { class: kind }, h("span", { class: "no" }, left), h("span", { class: "no" }, right), line);
  };
  const body = h("div", { class: "diff", tabindex: 0, role: "region", "aria-label": `Changes of ${file.name}` }, file.lines.slice(0, MOST_LINES).map(draw));
  const more = rest.length ? h("button", { type: "button", class: "tiny", onclick: () => { body.append(...rest.map(draw)); more.remove(); } }, `Show ${number(rest.length)} more lines`) : null;
  return h("details", { class: "file", open: true },
    h("summary", {}, h("span", { class: "grow" }, file.name), h("span", { class: "plus" }, `+${file.plus}`), h("span", { class: "minus" }, `−${file.minus}`)), body, more);
};

const checkRow = (check) => {
  const passed = check.exit_status === 0;
  return h("details", { class: "check", open: !passed },
    h("summary", {}, h("span", { class: "badge", "data-tone": passed ? "good" : "bad" }, passed ? "passed" : "failed"), h("span", { class: "grow mono" }, check.name),
      h("span", { class: "muted small" }, `${check.exit_status === null ? "stopped" : `exit ${check.exit_status}`}${check.tries > 1 ? ` · ${check.tries} tries` : ""} · ${took(check.duration_ms)}`)),
    h("pre", {}, plain(check.output_tail) || "No output."));
};

// Appends output of the agent or a check at the end.
const addOutput = (term, { check, text }) => {
  const last = term.lastElementChild;
  const goesOn = last?.matches("pre") && (last.dataset.check ?? null) === check;
  if (!goesOn) {
    if (check !== null || term.querySelector("pre")) term.append(h("h3", { class: "by" }, check === null ? "Agent" : `Check: ${check}`));
    term.append(h("pre", { "data-check": check }));
  }
  term.lastElementChild.append(plain(text));
};

// Groups programmers with the same reason.
const MOST_REASONS = 5;
const alike = (programmers) => {
  const groups = new Map();
  for (const { id, detail, state } of programmers) groups.set(detail || state, [...(groups.get(detail || state) ?? []), id]);
  return [...groups];
};
const listed = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);

const refused = (attempts) => !attempts ? "" : [[attempts.addresses, "to other machines"], [attempts.names, "questions to name servers"], [attempts.local_ports, "to local ports without a server"]]
  .filter(([count]) => count).map(([count, what]) => `${number(count)} ${what}`).join(", ");

const taskView = (id, list = "#/tasks") => {
  const state = h("span", { class: "badge" });
  const cancel = h("button", { type: "button", class: "danger", onclick: async () => {
    const surely = task?.status !== "running" || await confirmed("Cancel this task?", `Prog-${task.programmer} is working on it. It is stopped, and its work so far is lost.`, "Cancel task");
    if (surely) await act(cancel, () => cancelTask(id), `${id} is cancelled`).then(load);
  } }, "Cancel");
  const retry = h("button", { type: "button", class: "primary", onclick: async (event) => {
    const again = await act(event.currentTarget, () => retryTask(id), "Submitted again as a new task");
    if (again?.task_id) location.hash = `#/tasks/${encodeURIComponent(again.task_id)}`;
  } }, "Retry");
  const why = h("div", { class: "why", hidden: true, role: "status" });
  const instruction = h("div", { class: "instruction" });
  const facts = h("dl", { class: "facts" });
  const timeline = h("ol", { class: "timeline" });
  const heard = h("div", {});
  const tail = h("div", {});
  const term = h("div", { class: "term mono", tabindex: 0, role: "log", "aria-label": "Output of the agent and the checks" }, heard, tail);
  const note = h("span", { class: "muted small" });
  const output = h("section", { class: "card", "aria-label": "Output", hidden: true }, h("div", { class: "head" }, h("h2", {}, "Output"), h("span", { class: "grow" }), note), term);
  const checks = h("section", { class: "card", "aria-label": "Checks", hidden: true });
  const diff = h("section", { class: "card", "aria-label": "Diff", hidden: true });
  const lost = h("div", { class: "hint" });
  const element = h("div", {},
    h("div", { class: "task-top" }, h("a", { href: list }, "← Tasks"), h("h1", {}, id), state, h("div", { class: "actions" }, cancel, retry)),
    h("div", { class: "columns" },
      h("div", { class: "stack" }, why, h("section", { class: "card panel", "aria-label": "Instruction" }, instruction), checks, diff, output),
      h("div", { class: "stack" },
        h("section", { class: "card panel", "aria-label": "Facts" }, facts),
        h("section", { class: "card panel", "aria-label": "Timeline" }, h("div", { class: "head" }, h("h2", {}, "Timeline")), timeline, lost))));
  let task = null;
  let closed = false;
  let patched = false;
  let reasons = null;

  // The result contains the end of the agent's output; show it unless it was seen live.
  const showTail = () => {
    const end = plain(task?.result?.log_tail ?? "").trim();
    const seen = !end || [...heard.querySelectorAll("pre:not([data-check])")].some((one) => one.textContent.includes(end));
    if (!seen) output.hidden = false;
    const text = seen ? "" : end;
    if (tail.dataset.text === text) return;
    tail.dataset.text = text;
    tail.replaceChildren(...(seen ? [] : [h("h3", { class: "by" }, "Agent: end of the output, from the result"), h("pre", {}, end)]));
  };
  const showResult = async () => {
    const { result } = task;
    if (!result) return;
    why.hidden = !result.error;
    delete why.dataset.key;
    why.className = "why bad";
    if (result.error) why.replaceChildren(`${result.status}: ${result.error.kind}`, h("div", { class: "detail" }, rich(result.error.message)),
      ...(result.sandbox?.hints ?? []).map((hint) => h("div", { class: "detail small" }, "Hint: ", rich(hint))));
    checks.hidden = !result.acceptance?.length;
    const failed = (result.acceptance ?? []).filter((check) => check.exit_status !== 0).length;
    checks.replaceChildren(h("div", { class: "head" }, h("h2", {}, "Acceptance checks"), h("span", { class: "grow" }), h("span", { class: "muted small" }, failed ? `${failed} failed` : "all passed")), ...(result.acceptance ?? []).map(checkRow));
    showTail();
    const total = result.files_changed_total ?? result.files_changed?.length ?? 0;
    if (patched || !total) return;
    patched = true;
    const patch = await getText(path(id, "/patch")).catch((error) => error);
    if (closed) return;
    diff.hidden = false;
    const files = patch instanceof Error ? [] : patchFiles(patch);
    diff.replaceChildren(h("div", { class: "head" }, h("h2", {}, "Changes"), h("span", { class: "grow" }), h("span", { class: "muted small" }, `${number(total)} file${total === 1 ? "" : "s"}`)),
      ...(patch instanceof Error ? [h("div", { class: "empty" }, patch.message)] : files.map(diffFile)));
  };
  const showFacts = () => {
    const { result, task: message } = task;
    const usage = result?.usage;
    const timings = result?.timings;
    const times = [timings?.queued_ms && `${took(timings.queued_ms)} in the queue`, timings?.run_ms && `${took(timings.run_ms)} running`, timings?.llm_ms && `${took(timings.llm_ms)} of it in LLM calls`, timings?.acceptance_ms && `${took(timings.acceptance_ms)} in checks`].filter(Boolean).join(", ");
    const running = task.status === "running" && h("span", {});
    if (running) counting(running, "since", task.started_at);
    facts.replaceChildren(
      ...fact("Programmer", task.programmer && `Prog-${task.programmer}`),
      ...fact("LLM", !result && task.programmer && mono(pool.live?.status.programmers.find((one) => one.id === task.programmer)?.current_llm ?? "")),
      ...fact("LLM", result?.llm && mono(`${result.llm}${result.used_backup ? " (backup)" : ""}`)),
      ...fact("Running for", running),
      ...fact("Time", times),
      ...fact("Cost", usage && h("strong", {}, usd(usage.cost_usd), usage.estimated ? " (estimated)" : "")),
      ...fact("Tokens", usage?.calls ? `${number(usage.input_tokens)} in, ${number(usage.output_tokens)} out, ${usage.calls} call${usage.calls === 1 ? "" : "s"}${usage.failed_calls ? `, ${usage.failed_calls} failed` : ""}` : ""),
      ...fact("Refused by the sandbox", refused(result?.sandbox?.network_attempts)),
      ...fact("Attempts", task.attempts > 1 ? task.attempts : ""), ...fact("Agent runs", result?.runs > 1 ? result.runs : ""),
      ...fact("Route", mono(task.route)),
      ...fact("Submitted", task.submitted_at && moment(task.submitted_at)), ...fact("Finished", task.finished_at && moment(task.finished_at)),
      ...fact("Repository", message && mono(message.repository)), ...fact("Base", message?.base && mono(message.base)),
      ...fact("Files", message?.files?.length && mono(message.files.join("\n"))),
      ...fact("Branch", result?.branch && mono(result.branch)), ...fact("Commit", result?.commit && mono(result.commit.slice(0, 12))),
      ...fact("Retry of", message?.retry_of && h("a", { class: "mono", href: `#/tasks/${encodeURIComponent(message.retry_of)}` }, message.retry_of)),
      ...fact("Labels", Object.keys(task.labels ?? {}).length ? h("span", { class: "chips" }, Object.entries(task.labels).map(([key, value]) => h("a", { class: "chip", href: `#/tasks?${new URLSearchParams({ label: `${key}=${value}` })}` }, `${key}=${value}`))) : ""));
  };
  // One request at a time, and one more if something has changed meanwhile.
  let asking = false;
  let askAgain = false;
  const showWhy = async () => {
    if (!task || task.status !== "queued" || reasons === false) return;
    askAgain = asking;
    if (asking) return;
    asking = true;
    const answer = await get(path(id, "/why")).catch((error) => error);
    asking = false;
    if (askAgain) setTimeout(showWhy, 1000);
    if (closed || task.status !== "queued") return;
    if (answer instanceof Error) {
      if (answer.missing) reasons = false;
      return;
    }
    why.hidden = !answer.sentence;
    why.className = "why";
    const key = JSON.stringify([answer.sentence, answer.programmers]);
    if (why.dataset.key === key) return;
    why.dataset.key = key;
    const lines = alike(answer.programmers ?? []).map(([text, ids]) => h("div", {}, `${listed(ids.map((one) => `Prog-${one}`))}: `, rich(text)));
    const rest = lines.splice(MOST_REASONS);
    why.replaceChildren(...rich(answer.sentence), h("div", { class: "detail small" }, lines, rest.length ? h("details", {}, h("summary", {}, `${rest.length} more`), rest) : null));
  };
  const load = async () => {
    try {
      task = await get(path(id));
    } catch (error) {
      if (closed) return;
      if (!task) element.replaceChildren(h("div", { class: "task-top" }, h("a", { href: list }, "← Tasks"), h("h1", {}, id)), h("div", { class: "card" }, empty("Failed to load this task", error.message)));
      return;
    }
    if (closed) return;
    setBadge(state, task.status);
    set(instruction, task.task?.instruction ?? task.summary ?? "");
    if (!instruction.textContent) set(instruction, "This task was published straight to the broker; its instruction is known when it has finished.");
    if (task.status === "running") why.hidden = true;
    update();
    showFacts();
    showWhy();
    await showResult();
  };
  const update = () => {
    const open = task && ["queued", "running"].includes(task.status);
    cancel.hidden = !open || !pool.mayAct;
    retry.hidden = !task || !RETRIED.includes(task.status) || !pool.mayAct;
    offered(cancel, retry);
    showWhy();
  };
  // A programmer that sends no heartbeats reports no end of its task; the pool's state shows it.
  let looking = false;
  const follow = async () => {
    update();
    const open = task && ["queued", "running"].includes(task.status);
    if (!open || looking || !pool.live || isAway() || (task.status === "running") === (id in pool.live.running)) return;
    looking = true;
    await load();
    looking = false;
  };
  const stop = listen(path(id, "/events"), {
    timeline: ({ lines, problem }) => {
      timeline.replaceChildren(...lines.map((line) => h("li", { "data-tone": line.tone, class: line.accepted ? "" : "refused" }, h("span", {}, rich(line.text)), h("time", { datetime: line.at, title: moment(line.at) }, clock(line.at)))));
      set(lost, problem ?? (lines.length ? "" : "The log has no more events of this task."));
      load();
    },
    output: ({ reset, sections, attempt, programmer, left_out: missing }) => {
      output.hidden = false;
      const pinned = term.scrollTop + term.clientHeight > term.scrollHeight - 30;
      if (reset) {
        heard.replaceChildren(missing ? h("div", { class: "gap" }, `[… ${missing} bytes omitted …]`) : "");
        set(note, attempt ? `from Prog-${programmer}` : "");
      }
      for (const section of sections) addOutput(heard, section);
      showTail();
      if (pinned) term.scrollTop = term.scrollHeight;
    },
  }, (connection) => connection === "live" && task && load());
  cancel.hidden = true;
  retry.hidden = true;
  setBadge(state, "loading");
  pool.changed.add(follow);
  load();
  return { element, title: id, isTask: true, close: () => { closed = true; stop(); pool.changed.delete(follow); } };
};
