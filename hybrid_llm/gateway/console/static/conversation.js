// One conversation, in the memory of this tab alone: it is gone when the tab is closed or a new one begins.

import { ApiError, data, events, send } from "./api.js";

const TRIES = 8;
const PAUSE_MS = 120;

/** A random name for a session; works also where the page is not served securely. */
function sessionName() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `console-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

export class Conversation {
  constructor() {
    this.session = sessionName();
    this.turns = [];
    this.tags = new Set();
  }

  /** Tags of earlier turns hold for later ones too, since every request holds them all. */
  carry(tags) {
    for (const tag of tags) this.tags.add(tag);
  }

  /** What asks `console/data/preview` about the conversation as it is now. */
  preview() {
    return { prompt: [...this.turns], privacy: [...this.tags], session: this.session };
  }

  /**
   * Ask for the turn after `turns`. `onText` and `onReasoning` get each piece as it comes.
   * Returns `{text, requestId, finish}`; an ApiError that it raises has the `requestId` and the `text` so far.
   */
  async ask(turns, { backend, deadline, signal, onText, onReasoning }) {
    const hybrid = { privacy: [...this.tags], session: this.session };
    if (deadline) hybrid.deadline = deadline;
    const body = { model: backend, messages: turns, stream: true, hybrid };
    const answer = { text: "", requestId: "", finish: "" };
    try {
      const response = await send("v1/chat/completions", { body, signal });
      answer.requestId = response.headers.get("x-request-id") ?? "";
      for await (const event of events(response)) take(event, answer, onText, onReasoning);
      if (!answer.finish) throw new ApiError(0, "cut", "The connection to the gateway was lost in mid-answer.");
    } catch (error) {
      if (error.name === "AbortError") return { ...answer, finish: "stopped" };
      const typed =
        error instanceof ApiError ? error : new ApiError(0, "cut", "The connection to the gateway was lost.");
      throw Object.assign(typed, { requestId: answer.requestId || typed.requestId, text: answer.text });
    }
    return answer;
  }

  /** Wipe what the gateway holds of this conversation. */
  async forget() {
    await data("forget", { body: { session: this.session } }).catch(() => {});
  }
}

function take(event, answer, onText, onReasoning) {
  if (event.error) throw new ApiError(502, event.error.code, event.error.message);
  const [choice] = event.choices;
  if (!choice) return;
  const piece = choice.delta.content ?? "";
  answer.text += piece;
  answer.finish = choice.finish_reason ?? answer.finish;
  if (choice.delta.reasoning_content) onReasoning(choice.delta.reasoning_content);
  if (piece) onText(piece);
}

/** The decision behind a request: it is noted when the request is over, so that a stopped one may take a moment. */
export async function decisionOf(requestId) {
  for (let tried = 0; requestId && tried < TRIES; tried += 1) {
    try {
      return await data(`decisions/${encodeURIComponent(requestId)}`);
    } catch (error) {
      if (error.status !== 404) return null;
      await new Promise((resolve) => {
        setTimeout(resolve, PAUSE_MS);
      });
    }
  }
  return null;
}
