// The chat: prompts, choices and answers of one conversation.

import { backendChoice, chosenTags, deadlineChoice, tagChoice } from "./choices.js";
import { Conversation } from "./conversation.js";
import { announce, el, emptyState, icon, show } from "./dom.js";
import { Turn } from "./turn.js";

const NEAR_END = 120;
const EXAMPLES = [
  "Is this review positive? 'A warm, funny film.'",
  "Write to ann@example.org that the parcel has arrived.",
  "Patient 4711, MRN 00481516, has a fever. What is 12 + 30?",
];

export function chatView(context) {
  const view = new Chat(context);
  return {
    element: view.element,
    open: () => view.open(),
    stop: () => view.stop(),
    policyChanged: () => view.drawTags(),
  };
}

class Chat {
  constructor(context) {
    this.context = context;
    this.conversation = new Conversation();
    this.running = null;
    this.log = el("div", { className: "log", attrs: { role: "log", "aria-label": "Conversation" } });
    const title = el("h1", { className: "hidden-text", textContent: "Chat" });
    this.element = el("div", { className: "chat" }, title, this.log, this.composer());
    this.begin();
  }

  composer() {
    const { overview } = this.context;
    this.prompt = el("textarea", {
      id: "prompt",
      rows: 1,
      placeholder: "Ask something",
      on: { keydown: (event) => this.onKey(event), input: () => this.fit() },
    });
    this.backend = backendChoice(overview.backends, "backend");
    this.deadline = deadlineChoice(overview.deadline_s, "deadline");
    this.tags = el("div", { className: "tags-slot" });
    this.send = el("button", { type: "submit", className: "primary", textContent: "Send" });
    this.halt = el("button", { type: "button", textContent: "Stop", hidden: true, on: { click: () => this.stop() } });
    this.fresh = el("button", {
      type: "button",
      className: "quiet",
      textContent: "New conversation",
      on: { click: () => this.restart() },
    });
    this.drawTags();
    return el(
      "form",
      { className: "composer", on: { submit: (event) => this.submit(event) } },
      el(
        "div",
        { className: "prompt-row" },
        el("label", { className: "hidden-text", htmlFor: "prompt", textContent: "Prompt" }),
        this.prompt,
        this.send,
        this.halt,
      ),
      el("div", { className: "options" }, this.tags, this.backend.element, this.deadline.element, this.fresh),
    );
  }

  drawTags() {
    const { tags, key_tags: own } = this.context.overview;
    const chosen = this.group ? chosenTags(this.group) : new Set();
    this.group = tagChoice(tags, { id: "tag", fixed: new Set([...this.conversation.tags, ...own]), chosen });
    show(this.tags, this.group);
  }

  begin() {
    const notices = this.context.overview.backends.map((each) => each.notice).filter(Boolean);
    show(
      this.log,
      emptyState(
        "What would you like to know?",
        "Each answer shows where it was answered and why, and what left this device.",
        el(
          "ul",
          { className: "examples" },
          EXAMPLES.map((text) =>
            el("li", {}, el("button", { type: "button", textContent: text, on: { click: () => this.propose(text) } })),
          ),
        ),
        notices.map((text) => el("p", { className: "note" }, icon("alert"), text)),
      ),
    );
  }

  propose(text) {
    this.prompt.value = text;
    this.fit();
    this.prompt.focus();
  }

  open() {
    if (matchMedia("(pointer: fine)").matches) this.prompt.focus();
  }

  fit() {
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${Math.min(this.prompt.scrollHeight + 2, 220)}px`;
  }

  onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.element.querySelector("form").requestSubmit();
  }

  submit(event) {
    event.preventDefault();
    const text = this.prompt.value.trim();
    if (!text || this.running) return;
    this.log.querySelector(".empty")?.remove();
    this.log.append(
      el(
        "article",
        { className: "turn user", attrs: { "aria-label": "You" } },
        el("p", { className: "text", textContent: text }),
      ),
    );
    this.conversation.turns.push({ role: "user", content: text });
    this.conversation.carry(chosenTags(this.group));
    this.prompt.value = "";
    this.fit();
    this.drawTags();
    this.answer();
  }

  stop() {
    this.running?.abort();
  }

  async answer() {
    const turn = new Turn(this.context);
    this.log.append(turn.element);
    this.busy(new AbortController());
    this.follow(true);
    const { conversation } = this;
    const asked = [...conversation.turns];
    const preview = conversation.preview();
    conversation.turns = asked.slice(0, -1); // a prompt without an answer is no part of what follows
    try {
      const found = await conversation.ask(asked, {
        backend: this.backend.select.value,
        deadline: Number(this.deadline.input.value) || 0,
        signal: this.running.signal,
        onText: (piece) => {
          turn.add(piece);
          this.follow();
        },
        onReasoning: (piece) => {
          turn.think(piece);
          this.follow();
        },
      });
      if (found.text && found.finish !== "content_filter")
        conversation.turns = [...asked, { role: "assistant", content: found.text }];
      await turn.end(found, preview);
    } catch (error) {
      await turn.fail(error, preview);
    }
    turn.offerRetry(() => this.retry(turn, asked));
    this.busy(null);
    this.follow();
  }

  retry(turn, asked) {
    if (this.running) return;
    this.conversation.turns = asked;
    while (turn.element.nextSibling) turn.element.nextSibling.remove();
    turn.element.remove();
    this.answer();
  }

  busy(controller) {
    this.running = controller;
    this.send.hidden = Boolean(controller);
    this.halt.hidden = !controller;
    for (const button of this.log.querySelectorAll(".retry")) button.disabled = Boolean(controller);
  }

  restart() {
    this.stop();
    this.conversation.forget();
    this.conversation = new Conversation();
    this.drawTags();
    this.begin();
    this.prompt.focus();
    announce("A new conversation has begun.");
  }

  /** Keep the end in sight, unless the reader has scrolled away from it. */
  follow(always = false) {
    const page = document.scrollingElement;
    if (always || page.scrollHeight - page.scrollTop - innerHeight < NEAR_END) page.scrollTop = page.scrollHeight;
  }
}
