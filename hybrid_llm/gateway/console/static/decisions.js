// The latest decisions of the gateway, without any text of the requests.

import { data } from "./api.js";
import { el, emptyState, failure, show } from "./dom.js";
import { clock, tagNames } from "./format.js";
import { polling } from "./poll.js";
import { reason, receipt, summary } from "./receipt.js";

const MOST = 200;

export function decisionsView(context) {
  const items = el("ol", { className: "decisions" });
  const state = el("div", {});
  const element = el(
    "div",
    { className: "page" },
    el("h1", { textContent: "Recent decisions" }),
    el("p", {
      className: "lead",
      textContent: "The last requests of every client of this gateway: counts, names and times, never a text.",
    }),
    state,
    items,
  );
  let last = 0;
  const poll = polling(
    async () => {
      const { decisions } = await data(`decisions?after=${last}`);
      show(
        state,
        decisions.length || last
          ? null
          : emptyState("No decision yet", "Ask something in the chat, or point a client at this gateway."),
      );
      for (const decision of decisions.reverse()) items.prepend(item(decision, context.overview));
      last = Math.max(last, ...decisions.map((each) => each.number));
      while (items.children.length > MOST) items.lastChild.remove();
    },
    (error) => show(state, failure(error.message)),
  );
  return { element, ...poll };
}

function item(decision, overview) {
  const tags = tagNames(decision);
  const body = el("div", {});
  const details = el(
    "details",
    { className: "why" },
    el(
      "summary",
      {},
      el("time", { textContent: clock(decision.at), dateTime: new Date(decision.at * 1000).toISOString() }),
      el("span", { className: "badges" }, summary(decision, overview)),
      el("span", {
        className: "muted because",
        textContent: [reason(decision), tags && `tags: ${tags}`, decision.tenant].filter(Boolean).join(" · "),
      }),
    ),
    body,
  );
  details.addEventListener("toggle", () => details.open && fill(body, decision, overview));
  return el("li", {}, details);
}

async function fill(body, decision, overview) {
  if (body.firstChild) return;
  try {
    show(body, receipt(await data(`decisions/${encodeURIComponent(decision.id)}`), { currency: overview.currency }));
  } catch (error) {
    const text =
      error.status === 404 ? "It is no longer among the latest ones; what its rules read is gone." : error.message;
    show(body, el("p", { className: "muted", textContent: text }), receipt(decision, { currency: overview.currency }));
  }
}
