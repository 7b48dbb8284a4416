// What each tenant has spent, and what is left of today's budget.

import { data } from "./api.js";
import { bar, el, emptyState, failure, show, table } from "./dom.js";
import { count, money } from "./format.js";
import { polling } from "./poll.js";

export function spendingView(context) {
  const body = el("div", {});
  const element = el("div", { className: "page" }, el("h1", { textContent: "Spending" }), body);
  const poll = polling(
    async () => draw(body, await data("spending"), context.overview),
    (error) => show(body, emptyState("No spending to show", error.message)),
    5000,
  );
  return { element, ...poll };
}

function draw(body, spending, overview) {
  const { lines, today, budget, currency, excluded } = spending;
  if (!lines.length) {
    const limit =
      budget === null
        ? "The policy sets no budget."
        : `The policy allows ${money(budget, currency)} a day for each tenant.`;
    show(body, emptyState("Nothing is spent", `Backends without a price cost nothing. ${limit}`));
    return;
  }
  const own = lines.filter((line) => line.day === today);
  show(
    body,
    el("p", {
      className: "lead",
      textContent: `Days begin at 00:00 UTC. ${budget === null ? "The policy sets no budget." : `Each tenant may spend ${money(budget, currency)} a day.`}`,
    }),
    Object.entries(excluded).map(([name, why]) => failure(`Not for a request now: ${name}. ${why}`)),
    el("h2", { textContent: "Today" }),
    el(
      "div",
      { className: "cards" },
      own.map((line) => todayCard(line, budget, currency)),
    ),
    own.length ? null : el("p", { className: "muted", textContent: "Nothing is spent today." }),
    el("h2", { textContent: "Days" }),
    days(lines, currency),
    overview.tenant
      ? el("p", { className: "muted", textContent: `Only what ${overview.tenant} has spent: the key belongs to it.` })
      : null,
  );
}

function todayCard(line, budget, currency) {
  const total = line.spent + line.reserved;
  const used = budget ? total / budget : null;
  const parts = [
    el("div", { className: "card-head" }, el("h3", { textContent: line.tenant || "no tenant" })),
    el("p", { className: "amount", textContent: money(line.spent, currency) }),
    el("p", {
      className: "muted",
      textContent: `${count(line.requests, "request")}${line.reserved ? `, ${money(line.reserved, currency)} reserved by running ones` : ""}`,
    }),
  ];
  if (used !== null)
    parts.push(
      bar(used, { role: "img", "aria-label": `${Math.round(used * 100)} % of the budget` }),
      el("p", { className: "muted", textContent: `${money(Math.max(0, budget - total), currency)} left` }),
    );
  return el("section", { className: "card", attrs: { "aria-label": line.tenant || "no tenant" } }, parts);
}

function days(lines, currency) {
  const rows = lines.map((line) => [
    line.day,
    line.tenant || "no tenant",
    line.requests,
    money(line.spent, line.currency || currency),
    money(line.reserved, line.currency || currency),
  ]);
  return table("Spending by day", ["Day", "Tenant", "Requests", "Spent", "Reserved"], rows);
}
