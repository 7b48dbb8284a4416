// Controls that the chat and the dry run share: privacy tags, backend, deadline.

import { el } from "./dom.js";

/** What a tag means, in one line. */
function meaning({ allow, pseudonymise }) {
  if (!allow.includes("cloud")) return allow.length ? "stays on this device" : "goes nowhere";
  return pseudonymise ? "goes to the cloud with pseudonyms" : "may go to the cloud";
}

/** The tags of the policy as boxes to check. `fixed` are checked and stay so. */
export function tagChoice(tags, { id, fixed = new Set(), chosen = new Set() } = {}) {
  const group = el("fieldset", { className: "tags" }, el("legend", { textContent: "Privacy tags" }));
  if (!tags.length) group.append(el("span", { className: "muted", textContent: "the policy has none" }));
  for (const tag of tags) {
    const box = el("input", {
      type: "checkbox",
      value: tag.name,
      id: `${id}-${tag.name}`,
      checked: fixed.has(tag.name) || chosen.has(tag.name),
      disabled: fixed.has(tag.name),
    });
    const title = `${tag.name} ${meaning(tag)}${fixed.has(tag.name) ? "; it stays set here" : ""}`;
    group.append(
      el(
        "label",
        { className: "chip", title },
        box,
        el("span", { textContent: tag.name }),
        el("span", { className: "hidden-text", textContent: `: ${meaning(tag)}` }),
      ),
    );
  }
  return group;
}

/** The names of the tags that are checked. */
export function chosenTags(group) {
  return new Set(Array.from(group.querySelectorAll("input:checked"), (box) => box.value));
}

/** A wish for a backend: the policy decides, or one of them alone. */
export function backendChoice(backends, id) {
  const select = el(
    "select",
    { id },
    el("option", { value: "auto", textContent: "auto" }),
    backends.map((each) => el("option", { value: each.name, textContent: each.name, title: each.model })),
  );
  return {
    select,
    element: el("div", { className: "field" }, el("label", { htmlFor: id, textContent: "Backend" }), select),
  };
}

/** Seconds until the whole answer must be there. */
export function deadlineChoice(usual, id) {
  const input = el("input", {
    id,
    type: "number",
    min: 0.1,
    step: "any",
    placeholder: String(usual),
    inputMode: "decimal",
  });
  return {
    input,
    element: el("div", { className: "field short" }, el("label", { htmlFor: id, textContent: "Deadline (s)" }), input),
  };
}
