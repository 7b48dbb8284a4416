// The policy in force, line by line, with how often each rule decided or excluded.

import { data } from "./api.js";
import { el, emptyState, show } from "./dom.js";
import { count } from "./format.js";
import { polling } from "./poll.js";
import { coloured } from "./yaml.js";

export function policyView() {
  const body = el("div", {});
  const element = el(
    "div",
    { className: "page wide" },
    el(
      "div",
      { className: "page-head" },
      el("h1", { textContent: "Policy" }),
      el("a", { href: "#dry-run", className: "button", textContent: "Try an edit" }),
    ),
    body,
  );
  let drawn = "";
  const poll = polling(
    async () => {
      const policy = await data("policy");
      const now = JSON.stringify(policy);
      if (now !== drawn) draw(body, policy);
      drawn = now;
    },
    (error) => {
      drawn = "";
      show(body, emptyState("No policy to show", error.message));
    },
    3000,
  );
  return { element, ...poll };
}

function draw(body, policy) {
  const beside = [
    policy.by_tags ? `privacy tags excluded a backend in ${count(policy.by_tags, "request")}` : "",
    policy.by_state ? `a backend could not be used in ${count(policy.by_state, "request")}` : "",
    policy.by_default ? `no rule ordered ${count(policy.by_default, "request")}` : "",
  ]
    .filter(Boolean)
    .join("; ");
  show(
    body,
    el("p", {
      className: "lead",
      textContent: `${policy.name}, ${policy.digest}. ${count(policy.requests, "request")} since the gateway started${beside ? `: ${beside}` : ""}.`,
    }),
    policy.text ? source(policy) : emptyState("The text of this policy is not at hand", "It was made in Python."),
  );
}

function source({ text, rules }) {
  const starts = new Map(rules.map((rule) => [rule.line, rule]));
  const lines = text.replace(/\n$/, "").split("\n");
  return el(
    "div",
    { className: "source scroll", tabIndex: 0, attrs: { role: "region", "aria-label": "Source of the policy" } },
    el(
      "table",
      {},
      el(
        "tbody",
        {},
        lines.map((line, at) => sourceLine(line, at + 1, starts.get(at + 1))),
      ),
    ),
  );
}

function sourceLine(line, number, rule) {
  return el(
    "tr",
    { className: rule ? "rule-line" : "" },
    el("td", { className: "line-number", textContent: number, attrs: { "aria-hidden": "true" } }),
    el("td", {}, el("code", {}, coloured(line)), rule ? times(rule) : null),
  );
}

function times({ kind, rule, decided, excluded }) {
  const [verb, number] = kind === "exclude" ? ["excluded", excluded] : ["decided", decided];
  return el("span", {
    className: number ? `times-badge ${kind}` : "times-badge",
    title: `${rule} ${verb} ${count(number, "time")}`,
    textContent: `${verb} ${number}`,
  });
}
