// Asks this gateway, and nobody else. The key, where there is one, lives as long as the tab.

const KEY = "hybrid-llm-key";
const listeners = new Set();
let key = sessionStorage.getItem(KEY) ?? "";

/** An answer that is an error: its HTTP status (0 if the gateway cannot be reached), code and message. */
export class ApiError extends Error {
  constructor(status, code, message, requestId = "") {
    super(message);
    Object.assign(this, { status, code, requestId });
  }
}

/** Keep a key in this tab; "" drops it. */
export function setKey(value) {
  key = value;
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/** Call `listener` with "ok", "gone" or "key" whenever an answer, or none, arrives. */
export function onLink(listener) {
  listeners.add(listener);
}

function report(state) {
  for (const listener of listeners) listener(state);
}

/** Send a request to `path` of this gateway; raises ApiError unless it succeeds. */
export async function send(path, { body, signal, headers = {} } = {}) {
  const options = { signal, headers: { ...headers }, credentials: "omit", cache: "no-store", redirect: "error" };
  if (key) options.headers.authorization = `Bearer ${key}`;
  if (body !== undefined) {
    options.method = "POST";
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    report("gone");
    throw new ApiError(0, "unreachable", "The gateway cannot be reached. Is it still running?");
  }
  report(response.status === 401 ? "key" : "ok");
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const requestId = response.headers.get("x-request-id") ?? "";
  const document = await response.json().catch(() => null);
  const { code = "error", message = `The gateway answered ${response.status}.` } = document?.error ?? {};
  return new ApiError(response.status, code, message, requestId);
}

/** JSON of the console's data. */
export async function data(path, options) {
  return (await send(`console/data/${path}`, options)).json();
}

/** The documents of a stream of server-sent events, one after the other, up to [DONE]. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const line = part.split("\n").find((each) => each.startsWith("data: "));
        if (line === "data: [DONE]") return;
        if (line) yield JSON.parse(line.slice(6));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
