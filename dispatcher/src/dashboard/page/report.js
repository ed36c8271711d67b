// Results and costs of the tasks of a period, as a table; also as CSV, and as an HTML page to keep.
const SPANS = [["24h", "24 hours"], ["7d", "7 days"], ["30d", "30 days"], ["all", "all"]];
const KINDS = [["llm", "LLM"], ["programmer", "Programmer"], ["route", "Route"], ["label", "Label"]];
const share = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);
const dollars = (value) => (value === null || value === undefined ? "–" : usd(value));
const half = (times, name = "p50") => (times ? took(times[name]) : "–");
const COLUMNS = [
  ["Tasks", (group) => number(group.tasks)], ["Success", (group) => share(group.success_rate)], ["First try", (group) => share(group.first_attempt_rate)],
  ["On backup", (group) => number(group.failovers)], ["Tokens in", (group) => number(group.input_tokens)], ["Tokens out", (group) => number(group.output_tokens)],
  ["Cost", (group) => dollars(group.cost_usd)], ["Cost per success", (group) => dollars(group.cost_per_succeeded_usd)],
  ["Run p50", (group) => half(group.duration_ms)], ["Run p90", (group) => half(group.duration_ms, "p90")], ["Run p99", (group) => half(group.duration_ms, "p99")], ["Queued", (group) => half(group.queued_ms)],
];

const reportTable = (by, groups, total) => {
  const row = (group, tag) => h("tr", {}, h(tag, { scope: "row", class: "mono" }, group.name), COLUMNS.map(([name, value]) => h("td", { "data-name": name }, value(group))));
  return h("table", { class: "report" },
    h("caption", { class: "sr" }, `Tasks by ${by}`),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, by), COLUMNS.map(([name]) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, groups.map((group) => row(group, "th"))),
    h("tfoot", {}, row(total, "th")));
};

const reportView = (parameters) => {
  const asked = parameters.get("by") ?? "llm";
  const choose = (name, title, items, value) => h("select", { name, "aria-label": title, onchange: () => put() }, items.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
  const since = choose("since", "Period", SPANS, parameters.get("since") ?? "7d");
  const by = choose("by", "Group by", KINDS, asked.split(":")[0]);
  const label = h("input", { name: "label", placeholder: "label, e.g. run_id", "aria-label": "Label", value: asked.startsWith("label:") ? asked.slice(6) : "", onchange: () => put() });
  const table = h("div", { class: "card scroll", tabindex: 0, role: "region", "aria-label": "Report" }, h("div", { class: "empty" }, h("div", { class: "skeleton" })));
  const failures = h("div", { class: "chips" });
  const words = h("p", { class: "muted small" });
  const grouped = () => (by.value === "label" ? `label:${label.value.trim()}` : by.value);
  const query = (more) => new URLSearchParams({ since: since.value, by: grouped(), ...more });
  let version = 0;
  let closed = false;
  const put = () => {
    history.replaceState(null, "", `#/report?${query()}`);
    load();
  };
  const load = async () => {
    version += 1;
    const mine = version;
    label.hidden = by.value !== "label";
    if (grouped() === "label:") {
      table.replaceChildren(empty("Choose a label", "Enter its name, for example run_id."));
      [words, failures].forEach((element) => element.replaceChildren());
      return;
    }
    try {
      const report = await get(`/report?${query()}`);
      if (!closed && mine === version) draw(report);
    } catch (error) {
      if (closed || mine !== version) return;
      if (error.status === 401) tokenGiven().then(load);
      table.replaceChildren(empty("Failed to load the report", error.message, h("br"), h("button", { type: "button", class: "tiny", onclick: load }, "Try again")));
    }
  };
  const draw = (report) => {
    const kind = KINDS.find(([key]) => key === by.value)[1];
    if (report.total.tasks === 0) table.replaceChildren(empty("No tasks ended in this period", "Choose a longer period."));
    else table.replaceChildren(reportTable(by.value === "label" ? label.value.trim() : kind, report.groups, report.total));
    const lost = report.without_details ? ` The details of ${number(report.without_details)} are no longer in the log.` : "";
    set(words, `${number(report.total.tasks)} tasks, up to ${moment(report.until)}.${lost}`);
    failures.replaceChildren(...Object.entries(report.total.failures).map(([error, count]) => h("span", { class: "badge plain", "data-tone": "bad" }, `${error} × ${number(count)}`)));
  };
  // Fetched instead of linked, because a link cannot send the token.
  const download = (format) => async (event) => {
    const file = await act(event.currentTarget, async () => (await request("GET", `/report?${query({ format })}`)).blob());
    if (!file) return;
    const url = URL.createObjectURL(file);
    h("a", { href: url, download: `report.${format}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  };
  const element = h("div", {},
    h("div", { class: "head wrap" }, h("h1", {}, "Report"), h("span", { class: "grow" }), since, by, label,
      h("button", { type: "button", onclick: () => load() }, "Refresh"),
      h("button", { type: "button", id: "csv", onclick: download("csv") }, "CSV"), h("button", { type: "button", id: "html", title: "One page with plots, to keep", onclick: download("html") }, "HTML")),
    table, words, failures);
  load();
  return { element, title: "Report", close: () => { closed = true; } };
};
