// Colours of a policy's text; it is only read, never interpreted.

import { el } from "./dom.js";

const PARTS = /(#.*$)|("[^"]*"|'[^']*')|([A-Za-z_][\w.-]*)(?=:(?:\s|$))/g;

/** One line of YAML as nodes: comments, quoted texts and keys are marked. */
export function coloured(line) {
  const nodes = [];
  let at = 0;
  for (const match of line.matchAll(PARTS)) {
    const [text, comment, quoted] = match;
    nodes.push(
      line.slice(at, match.index),
      el("span", { className: comment ? "y-comment" : quoted ? "y-text" : "y-key", textContent: text }),
    );
    at = match.index + text.length;
  }
  nodes.push(line.slice(at));
  return nodes;
}
