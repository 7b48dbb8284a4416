// A dry run: what the policy in force, and an edited one, decide for a prompt. Nothing is sent to a backend.

import { data } from "./api.js";
import { backendChoice, chosenTags, tagChoice } from "./choices.js";
import { announce, badge, el, emptyState, failure, show } from "./dom.js";
import { sentForm, tagNames } from "./format.js";
import { rules } from "./receipt.js";

const PAUSE_MS = 600;

export function dryRunView(context) {
  const view = new DryRun(context);
  return { element: view.element, open: () => view.open(), policyChanged: () => view.drawTags() };
}

class DryRun {
  constructor(context) {
    this.context = context;
    this.timer = 0;
    this.asked = 0;
    this.prompt = el("textarea", {
      id: "dry-prompt",
      rows: 3,
      value: "Write to ann@example.org that the parcel has arrived.",
      on: { input: () => this.soon() },
    });
    this.editor = el("textarea", {
      id: "editor",
      className: "editor",
      spellcheck: false,
      rows: 24,
      attrs: { autocomplete: "off", autocapitalize: "off", wrap: "off", "aria-describedby": "faults" },
      on: {
        input: () => {
          this.number();
          this.soon();
        },
        scroll: () => this.align(),
        keydown: (event) => this.onKey(event),
      },
    });
    this.lines = el("pre", { className: "editor-lines", attrs: { "aria-hidden": "true" } });
    this.faults = el("div", { id: "faults", className: "faults", attrs: { "aria-live": "polite" } });
    this.results = el("div", { className: "sides" });
    this.backend = backendChoice(context.overview.backends, "dry-backend");
    this.backend.select.addEventListener("change", () => this.soon());
    this.tags = el("div", {});
    this.drawTags();
    this.element = el(
      "div",
      { className: "page wide" },
      el("h1", { textContent: "Dry run" }),
      el("p", {
        className: "lead",
        textContent:
          "Edit a copy of the policy and see what it would decide. Nothing is sent to a backend, and the policy in force stays as it is.",
      }),
      el(
        "form",
        {
          className: "dry",
          on: {
            submit: (event) => {
              event.preventDefault();
              this.run();
            },
          },
        },
        this.promptPart(),
        this.editorPart(),
        this.resultPart(),
      ),
    );
  }

  promptPart() {
    return el(
      "section",
      { className: "dry-prompt" },
      el("label", { htmlFor: "dry-prompt", textContent: "Prompt" }),
      this.prompt,
      el("div", { className: "options" }, this.tags, this.backend.element),
    );
  }

  editorPart() {
    return el(
      "section",
      { className: "dry-editor" },
      el(
        "div",
        { className: "card-head" },
        el("label", { htmlFor: "editor", textContent: "Edited policy" }),
        el("button", {
          type: "button",
          className: "quiet small",
          textContent: "Reset to the policy in force",
          on: { click: () => this.reset() },
        }),
      ),
      el("div", { className: "editor-frame" }, this.lines, this.editor),
      this.faults,
    );
  }

  resultPart() {
    return el(
      "section",
      { className: "dry-results" },
      el(
        "div",
        { className: "card-head" },
        el("h2", { textContent: "Decisions" }),
        el("button", { type: "submit", className: "primary", textContent: "Run" }),
      ),
      this.results,
    );
  }

  drawTags() {
    const chosen = this.group ? chosenTags(this.group) : new Set();
    this.group = tagChoice(this.context.overview.tags, {
      id: "dry-tag",
      chosen,
      fixed: new Set(this.context.overview.key_tags),
    });
    this.group.addEventListener("change", () => this.soon());
    show(this.tags, this.group);
  }

  open() {
    if (!this.editor.value) this.reset();
  }

  async reset() {
    try {
      this.editor.value = (await data("policy")).text;
      this.number();
      await this.run();
    } catch (error) {
      show(this.results, emptyState("No policy to edit", error.message));
    }
  }

  onKey(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.run();
  }

  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.run(), PAUSE_MS);
  }

  number(faulty = new Set()) {
    const total = this.editor.value.split("\n").length;
    show(
      this.lines,
      Array.from({ length: total }, (_, at) =>
        el("span", { className: faulty.has(at + 1) ? "faulty" : "", textContent: `${at + 1}\n` }),
      ),
    );
    this.align();
  }

  align() {
    this.lines.scrollTop = this.editor.scrollTop;
  }

  async run() {
    clearTimeout(this.timer);
    if (!this.prompt.value.trim()) {
      show(this.results, emptyState("No prompt", "Write one, and see where it would go."));
      return;
    }
    this.asked += 1;
    const mine = this.asked;
    const body = {
      prompt: this.prompt.value,
      policy: this.editor.value,
      privacy: [...chosenTags(this.group)],
      backend: this.backend.select.value,
    };
    try {
      const found = await data("preview", { body });
      if (mine === this.asked) this.show(found);
    } catch (error) {
      if (mine === this.asked) show(this.results, failure(error.message, { role: "alert" }));
    }
  }

  show({ current, edited, faults, warnings }) {
    this.number(new Set(faults.map((each) => each.line)));
    this.editor.setAttribute("aria-invalid", String(faults.length > 0));
    show(this.faults, [
      ...faults.map((each) => this.fault(each, "error")),
      ...warnings.map((each) => this.fault(each, "warning")),
    ]);
    const isSame = edited && edited.digest === current.digest;
    show(
      this.results,
      side("In force", current, edited),
      edited
        ? side(isSame ? "Edited (no change yet)" : "Edited", edited, current)
        : el(
            "section",
            { className: "card side" },
            el("h3", { textContent: "Edited" }),
            emptyState("Refused", "A policy with an error never takes effect. Mend it, and the decision shows here."),
          ),
    );
    announce(
      faults.length
        ? `${faults.length} errors in the edited policy`
        : same(current, edited)
          ? "Both decide the same"
          : "The decisions differ",
    );
  }

  fault({ line, column, message, hint }, kind) {
    const position = line ? `${line}:${column}` : "";
    return el(
      "button",
      { type: "button", className: `fault ${kind}`, on: { click: () => this.goTo(line, column) } },
      el("span", { className: "position", textContent: position }),
      el("span", { textContent: `${kind}: ${message}` }),
      hint ? el("span", { className: "muted", textContent: hint }) : null,
    );
  }

  goTo(line, column) {
    const before = this.editor.value
      .split("\n")
      .slice(0, Math.max(0, line - 1))
      .join("\n").length;
    const at = before + (line > 1 ? 1 : 0) + Math.max(0, column - 1);
    this.editor.focus();
    this.editor.setSelectionRange(at, at);
    this.editor.scrollTop = Math.max(0, (line - 6) * parseFloat(getComputedStyle(this.editor).lineHeight));
  }
}

function same(one, other) {
  return one.order.join() === other?.order.join() && one.pseudonymised === other.pseudonymised;
}

/** One decision; what differs from the other one is marked. */
function side(title, shown, other) {
  const differs = (name) => other && !other.refused && JSON.stringify(shown[name]) !== JSON.stringify(other[name]);
  const entry = (name, key, value) =>
    el("div", { className: differs(key) ? "differs" : "" }, el("dt", { textContent: name }), el("dd", {}, value));
  if (shown.refused)
    return el(
      "section",
      { className: "card side" },
      el("h3", { textContent: title }),
      failure(shown.refused),
    );
  return el(
    "section",
    { className: "card side" },
    el(
      "div",
      { className: "card-head" },
      el("h3", { textContent: title }),
      shown.order.length ? badge("plain", `${shown.order[0]} first`) : badge("bad", "No backend", "alert"),
    ),
    el(
      "dl",
      { className: "facts" },
      entry("Order", "order", shown.order.join(", then ") || "no backend is eligible"),
      entry("Rule", "because", `${shown.rule}: ${shown.because}`),
      entry("Tags", "detected", tagNames(shown) || "none"),
      entry("To the cloud", "pseudonymised", toCloud(shown)),
      Object.entries(shown.excluded).map(([name, reason]) => entry(`Not ${name}`, "excluded", reason)),
    ),
    shown.pseudonymised && shown.shown
      ? el("pre", { className: "cloud-text", textContent: shown.shown.join("\n") })
      : null,
    el("details", { className: "why" }, el("summary", { textContent: "What each rule read" }), rules(shown.trace)),
  );
}

function toCloud(shown) {
  return shown.allowed.includes("cloud") ? sentForm(shown) : "nothing may leave this device";
}
