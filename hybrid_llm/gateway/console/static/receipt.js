// The receipt of an answer: where it was answered and why, what left the device, what was tried, and what it took.

import { data } from "./api.js";
import { badge, el, facts, icon, show, table } from "./dom.js";
import { count, milliseconds, money, sentForm, signal } from "./format.js";

/** Errors of the library in words; any other shows its own name. */
const ERRORS = {
  AllBackendsFailed: "All backends failed",
  ContentRefused: "Refused by a guardrail",
  DeadlineExceeded: "The deadline passed",
  NoEligibleBackend: "No backend is eligible",
  PrivacyViolation: "Held back for privacy",
  QuotaExceeded: "The budget is spent",
  StreamInterrupted: "The answer broke off",
};

/** The facts that matter first, as badges. `decision` is a document of `console/data/decisions`. */
export function summary(decision, overview) {
  const cost = decision.cost ? badge("plain", money(decision.cost, overview.currency)) : null;
  return [where(decision, overview), leaving(decision), took(decision), cost].filter(Boolean);
}

/** Why the answer comes from where it comes from, in one line. */
export function reason({ order, excluded, because, rule }) {
  const others = Object.entries(excluded)
    .map(([name, why]) => `${name}: ${why}`)
    .join("; ");
  if (!order.length) return `No backend is eligible (${others})`;
  if (order.length === 1 && others) return `Only ${order[0]} is eligible (${others})`;
  return because || rule;
}

function where(decision, overview) {
  if (decision.error === "cancelled") return badge("plain", "Stopped");
  if (decision.error) return badge("bad", ERRORS[decision.error] ?? decision.error, "alert");
  const model = overview.backends.find((each) => each.name === decision.backend)?.model;
  const named = [decision.location === decision.backend ? "" : decision.backend, model].filter(Boolean).join(", ");
  const place = decision.location === "edge" ? "On this device" : "In the cloud";
  return badge(
    decision.location,
    `${place}${named ? `: ${named}` : ""}${decision.cached ? ", from the cache" : ""}`,
    decision.location,
  );
}

function leaving({ departures }) {
  if (!departures.length) return badge("none", "Nothing left the device", "none");
  if (departures.some((each) => !each.pseudonymised)) return badge("cloud", "Left as it is", "plain");
  const values = Math.max(...departures.map((each) => Object.values(each.replaced).reduce((sum, one) => sum + one, 0)));
  return badge("mask", `Left with ${count(values, "pseudonym")}`, "mask");
}

function took({ timings, error }) {
  return timings.total_ms && !error ? badge("plain", milliseconds(timings.total_ms), "clock") : null;
}

/** The whole receipt. `prompt`, if it is known here, makes the request that shows what the cloud sees. */
export function receipt(decision, { currency = "", prompt = null } = {}) {
  return el(
    "div",
    { className: "receipt" },
    section("Decision", why(decision)),
    section("Privacy", privacy(decision, prompt)),
    section("Work", work(decision, currency)),
  );
}

function section(title, ...parts) {
  return el("section", {}, el("h2", { textContent: title }), ...parts);
}

function why(decision) {
  return [
    el("p", { className: "reason", textContent: reason(decision) }),
    facts([
      ["Rule", `${decision.rule || "none"}${decision.because ? `: ${decision.because}` : ""}`],
      ["Order", decision.order.join(", then ") || "no backend is eligible"],
      ["Policy", `${decision.policy} ${decision.digest}`],
      ...(decision.order.length > 1
        ? Object.entries(decision.excluded).map(([name, why]) => [`Not ${name}`, why])
        : []),
    ]),
    rules(decision.trace),
  ];
}

/** What each rule read: those that held, then the others. */
export function rules(trace) {
  if (!trace.length) return null;
  const [held, others] = [trace.filter((rule) => rule.matched), trace.filter((rule) => !rule.matched)];
  return el(
    "div",
    {},
    held.length ? ruleList(held) : null,
    others.length
      ? el(
          "details",
          { className: "why" },
          el("summary", { textContent: `${count(others.length, "rule")} did not hold` }),
          ruleList(others),
        )
      : null,
  );
}

function ruleList(trace) {
  return el(
    "ol",
    { className: "rules" },
    trace.map((rule) =>
      el(
        "li",
        { className: rule.matched ? "held" : "" },
        el("span", { className: "rule-name", textContent: rule.rule }),
        el("span", { textContent: rule.because }),
        el("code", { textContent: rule.condition || "always" }),
        values(rule.values),
      ),
    ),
  );
}

function values(read) {
  const shown = read.filter(([, value]) => value !== true);
  return shown.length
    ? el("span", {
        className: "read",
        textContent: shown.map(([name, value]) => `${name} = ${signal(value)}`).join(", "),
      })
    : null;
}

function privacy(decision, prompt) {
  const left = decision.departures.length
    ? el(
        "ul",
        { className: "plain-list" },
        decision.departures.map((each) => el("li", {}, departure(each, decision))),
      )
    : "nothing";
  return [
    facts([
      ["Tags declared", decision.declared.join(", ") || "none"],
      ["Tags found", decision.detected.join(", ") || "none"],
      ["Left the device", left],
    ]),
    prompt && decision.departures.some((each) => each.pseudonymised) ? onDemand(decision, prompt) : null,
  ];
}

function departure(call, decision) {
  const { backend } = call;
  const failed = decision.attempts.some((one) => one.backend === backend && one.error && one.error !== "Cancelled");
  return `to ${backend}, ${sentForm(call)}${failed && backend !== decision.backend ? "; the call failed" : ""}`;
}

/** A button that shows the prompt as the cloud sees it, to whoever has typed it. */
function onDemand(decision, prompt) {
  const shown = el("div", { attrs: { "aria-live": "polite" } });
  const button = el("button", { type: "button", className: "small", textContent: "Show what the cloud saw" });
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const { current } = await data("preview", { body: prompt });
      const changed = current.digest === decision.digest ? "" : "The policy has changed since. ";
      show(
        shown,
        el("p", { className: "muted", textContent: `${changed}Only this page shows it, since you typed it here.` }),
        current.shown
          ? current.shown.map((text) => el("pre", { textContent: text }))
          : el("p", { textContent: "It may not go to the cloud now." }),
      );
      button.remove();
    } catch (error) {
      show(shown, el("p", { className: "error", textContent: error.message }));
      button.disabled = false;
    }
  });
  return el("div", {}, button, shown);
}

function work(decision, currency) {
  const { usage, timings } = decision;
  return [
    facts([
      [
        "Tokens",
        `${usage.prompt_tokens} read${usage.cached_prompt_tokens ? ` (${usage.cached_prompt_tokens} from the prefix cache)` : ""}, ${usage.completion_tokens} written`,
      ],
      ["First token", timings.ttft_ms ? milliseconds(timings.ttft_ms) : ""],
      ["Each further", timings.tpot_ms ? milliseconds(timings.tpot_ms) : ""],
      ["Whole answer", timings.total_ms ? milliseconds(timings.total_ms) : ""],
      ["Cost", decision.cost ? money(decision.cost, currency) : "none"],
      ["Ended by", decision.error || decision.finish_reason],
      ["Request", el("code", { textContent: decision.id })],
    ]),
    attempts(decision.attempts),
    ...decision.continuations.map((each) =>
      note(`It broke off after ${count(each.tokens, "token")}, and ${each.backend} continued it.`),
    ),
    ...decision.warnings.map((each) =>
      note(`${each.count} × ${each.kind} in the answer could not be restored: the model changed the pseudonym.`),
    ),
  ];
}

function attempts(made) {
  if (!made.length) return null;
  const rows = made.map((one) => [
    one.backend + (one.hedge ? " (hedge)" : ""),
    outcome(one),
    one.tokens,
    milliseconds(one.elapsed_ms),
  ]);
  return table("Attempts", ["Attempt", "Outcome", "Tokens", "Time"], rows);
}

function outcome({ error, reason }) {
  if (!error) return "answered";
  if (error === "Cancelled") return "cancelled";
  return reason ? `${error} (${reason})` : error;
}

function note(text) {
  return el("p", { className: "note" }, icon("alert"), text);
}
