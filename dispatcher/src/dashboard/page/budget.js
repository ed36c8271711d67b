// Today's budget: what is spent, by which LLM and programmer, and a new limit for today.
const shares = (title) => {
  const rows = h("ul", { class: "card list" });
  const none = h("div", { class: "card" }, empty("Nothing spent today"));
  const element = h("section", { "aria-label": title }, h("div", { class: "head" }, h("h2", {}, title)), rows, none);
  const row = () => {
    const name = h("span", { class: "mono" });
    const amount = h("strong", {});
    const part = h("i", { class: "running" });
    const update = ([key, spent, share]) => {
      set(name, key);
      set(amount, usd(spent));
      part.style.width = `${100 * share}%`;
    };
    return { element: h("li", { class: "share" }, name, amount, h("div", { class: "load", "aria-hidden": "true" }, part)), update };
  };
  const update = (amounts) => {
    const all = Object.entries(amounts).filter(([, amount]) => Number(amount) > 0).sort((a, b) => Number(b[1]) - Number(a[1]));
    const sum = all.reduce((so, [, amount]) => so + Number(amount), 0);
    rows.hidden = all.length === 0;
    none.hidden = all.length > 0;
    keyed(rows, all.map(([key, amount]) => [key, amount, Number(amount) / sum]), ([key]) => key, row);
  };
  return { element, update };
};

const budgetView = () => {
  const card = budgetCard();
  const facts = h("dl", { class: "facts" });
  const amount = h("input", { name: "limit", inputmode: "decimal", required: true, pattern: "[0-9]+(\\.[0-9]{1,6})?", placeholder: "60.00" });
  const send = h("button", { class: "primary" }, "Set for today");
  const problem = h("div", { class: "problem", role: "alert", hidden: true });
  const submit = async (event) => {
    event.preventDefault();
    problem.hidden = true;
    send.disabled = true;
    try {
      const now = await (await request("POST", "/budget", { limit_usd: amount.value.trim(), for: "today" })).json();
      amount.value = "";
      show(now);
      if (now.warnings?.length) toast(now.warnings.join("; "), true);
      else toast(`Today's limit is now ${usd(now.max_daily_spend_usd)}`);
    } catch (error) {
      problem.hidden = false;
      set(problem, error.message);
    } finally {
      offered(send);
    }
  };
  const form = h("form", { class: "card panel limit", "aria-label": "Today's limit", hidden: true, onsubmit: submit },
    h("label", { class: "field" }, "New limit for today (USD)", amount, h("span", { class: "hint" }, "Applies until the day ends; then the limit of the pool file applies again. A limit below what is spent stops all paid calls.")),
    problem, h("div", {}, send));
  const byLlm = shares("By LLM");
  const byProgrammer = shares("By programmer");
  const show = (budget) => {
    card.update(budget);
    facts.replaceChildren(
      ...fact("Limit", budget.max_daily_spend_usd === null ? "none" : `${usd(budget.max_daily_spend_usd)}${budget.set_for_today ? " (set for today)" : ""}`),
      ...fact("Spent", usd(budget.spent_usd)),
      ...fact("Lost reservations", Number(budget.lost_usd) > 0 && `${usd(budget.lost_usd)} of it was reserved by workers that were lost; their real cost is unknown`),
      ...fact("Reserved by running tasks", usd(budget.reserved_usd)),
      ...fact("Left", budget.left_usd === null ? "unlimited" : usd(budget.left_usd)),
      ...fact("Alert threshold", budget.max_daily_spend_usd === null || Number(budget.alert_threshold_usd) === 0 ? "" : `${usd(budget.alert_threshold_usd)}${budget.alert ? ", reached" : ""}`),
      ...fact("Day", budget.day && `${budget.day} (${budget.time_zone})`), ...fact("Ends", budget.day_ends && moment(budget.day_ends)));
    form.hidden = !pool.mayAct || budget.max_daily_spend_usd === null;
    byLlm.update(budget.by_llm);
    byProgrammer.update(Object.fromEntries(Object.entries(budget.by_programmer).map(([id, spent]) => [`Prog-${id}`, spent])));
  };
  const skeleton = h("div", { class: "card panel", "aria-label": "Loading" }, h("div", { class: "skeleton" }));
  const content = h("div", { hidden: true },
    card.element,
    h("div", { class: "columns even" },
      h("div", { class: "stack" }, h("section", { class: "card panel", "aria-label": "Today" }, facts), form),
      h("div", { class: "stack" }, byLlm.element, byProgrammer.element)));
  let before = "";
  const update = () => {
    offered(send);
    if (!pool.live) return;
    skeleton.hidden = true;
    content.hidden = false;
    const known = JSON.stringify([pool.live.status.budget, pool.mayAct]);
    if (known !== before) show(pool.live.status.budget);
    before = known;
  };
  pool.changed.add(update);
  update();
  return { element: h("div", { class: "budget" }, h("div", { class: "head" }, h("h1", {}, "Budget")), skeleton, content), title: "Budget", close: () => pool.changed.delete(update) };
};
