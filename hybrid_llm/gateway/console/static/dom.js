// Makes elements. Whatever comes from a model or a server becomes a text node: there is no HTML of others here.

/** An element `tag` with properties, attributes (as `attrs`), listeners (as `on`) and children. */
export function el(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  fill(made, options, children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element. */
export function svg(tag, attrs = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attrs)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function fill(made, { attrs = {}, on = {}, ...properties }, children) {
  Object.assign(made, properties);
  for (const [name, value] of Object.entries(attrs)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
}

const PATHS = {
  edge: "M4 6h16v10H4zM2 19h20",
  cloud: "M7 18a4 4 0 0 1-.6-7.95A6 6 0 0 1 18 9.5 4.3 4.3 0 0 1 17.5 18z",
  none: "M12 3l7 3v5c0 5-3.2 8.4-7 10-3.800-1.600-7-5-7-10V6z",
  mask: "M4 7c5-1.500 11-1.500 16 0v4c0 4-2.500 6-4.500 6S13 15 12 15s-1.500 2-3.500 2S4 15 4 11zM8 11h2M14 11h2",
  plain: "M5 12h13M13 6l6 6-6 6",
  alert: "M12 4l9 16H3zM12 10v4M12 17v.5",
  clock: "M12 7v5l3 2M12 3a9 9 0 1 0 .01 0z",
};

/** One of the icons, hidden from screen readers: there is always a word beside it. */
export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}

/** A small labelled fact, such as where an answer comes from. */
export function badge(kind, text, iconName) {
  return el("span", { className: `badge ${kind}` }, iconName ? icon(iconName) : null, text);
}

/** What is shown where there is nothing yet, or where something is wrong. */
export function emptyState(title, text, ...more) {
  return el("div", { className: "empty" }, el("h2", { textContent: title }), el("p", { textContent: text }), ...more);
}

/** A row of a table; with the tag `th`, its head. */
function row(cells, tag = "td") {
  return el(
    "tr",
    {},
    cells.map((cell) =>
      el(tag, { attrs: tag === "th" ? { scope: "col" } : {} }, cell instanceof Node ? cell : String(cell ?? "")),
    ),
  );
}

/** A table that scrolls where it is too wide; `label` names it for screen readers. */
export function table(label, head, rows) {
  return el(
    "div",
    { className: "scroll", tabIndex: 0, attrs: { role: "region", "aria-label": label } },
    el(
      "table",
      {},
      el("thead", {}, row(head, "th")),
      el(
        "tbody",
        {},
        rows.map((cells) => row(cells)),
      ),
    ),
  );
}

/** A list of names and values; a value that is empty is left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return el(
    "dl",
    { className: "facts" },
    shown.map(([name, value]) => el("div", {}, el("dt", { textContent: name }), el("dd", {}, value))),
  );
}

/** A bar for a share from 0 to 1. */
export function bar(share, attrs = { "aria-hidden": "true" }) {
  const fill = el("div", { className: share > 0.9 ? "fill high" : "fill" });
  fill.style.width = `${Math.round(Math.min(1, Math.max(0, share)) * 100)}%`;
  return el("div", { className: "bar-track", attrs }, fill);
}

/** What went wrong, or cannot be had now. */
export function failure(text, attrs = {}) {
  return el("p", { className: "failure", attrs }, icon("alert"), el("span", { textContent: text }));
}

/** Replace what `parent` holds. */
export function show(parent, ...children) {
  parent.replaceChildren(...children.flat().filter(Boolean));
}

/** Say something to screen readers. */
export function announce(text) {
  document.getElementById("announce").textContent = text;
}
