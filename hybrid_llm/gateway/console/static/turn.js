// One answer on the page: it shows as it comes, and then its receipt.

import { decisionOf } from "./conversation.js";
import { announce, badge, el, failure } from "./dom.js";
import { receipt, summary } from "./receipt.js";

export class Turn {
  constructor(context) {
    this.context = context;
    this.text = document.createTextNode("");
    this.reasoning = null;
    this.body = el("p", { className: "text waiting" }, this.text);
    this.facts = el("div", { className: "turn-facts" });
    this.element = el(
      "article",
      { className: "turn", attrs: { "aria-label": "Answer", "aria-busy": "true" } },
      this.body,
      this.facts,
    );
  }

  add(piece) {
    this.body.classList.remove("waiting");
    this.text.appendData(piece);
  }

  /** A piece of the model's reasoning, which is no part of the answer. */
  think(piece) {
    if (!this.reasoning) {
      this.reasoning = document.createTextNode("");
      this.body.before(
        el(
          "details",
          { className: "why reasoning" },
          el("summary", { textContent: "Reasoning" }),
          el("p", { className: "text muted" }, this.reasoning),
        ),
      );
    }
    this.reasoning.appendData(piece);
  }

  async end({ requestId, finish, text }, preview) {
    this.settle();
    if (finish === "content_filter") this.facts.append(badge("mask", "Held back by a guardrail", "alert"));
    else if (!text)
      this.body.append(
        el("span", {
          className: "muted",
          textContent: finish === "stopped" ? "Stopped before the first word." : "The answer is empty.",
        }),
      );
    if (finish === "length") this.facts.append(badge("mask", "Cut at the limit of tokens", "alert"));
    await this.explain(requestId, preview);
  }

  async fail(error, preview) {
    this.settle();
    if (!error.text) this.body.remove();
    this.element.append(failure(error.message, { role: "alert" }), this.facts);
    await this.explain(error.requestId, preview);
  }

  settle() {
    this.body.classList.remove("waiting");
    this.element.setAttribute("aria-busy", "false");
  }

  async explain(requestId, preview) {
    const decision = await decisionOf(requestId);
    if (!decision) return;
    const badges = summary(decision, this.context.overview);
    const details = el(
      "details",
      { className: "why" },
      el("summary", { textContent: "Why" }),
      receipt(decision, { prompt: preview, currency: this.context.overview.currency }),
    );
    this.facts.append(...badges);
    this.element.append(details);
    announce(badges.map((each) => each.textContent).join(". "));
  }

  offerRetry(retry) {
    this.facts.append(
      el("button", { type: "button", className: "quiet small retry", textContent: "Retry", on: { click: retry } }),
    );
  }
}
