// What is known now of the device, the network and each backend, as the policy would read it.

import { data } from "./api.js";
import { badge, bar, el, emptyState, facts, show, svg } from "./dom.js";
import { count, mebibytes, milliseconds, percent } from "./format.js";
import { polling } from "./poll.js";

const SAMPLES = 60;
const history = new Map();

export function liveView() {
  const element = el("div", { className: "page" });
  const body = el("div", {});
  element.append(
    el("h1", { textContent: "Live signals" }),
    el("p", { className: "lead", textContent: "What a policy would read now, every two seconds." }),
    body,
  );
  const poll = polling(
    async () => draw(body, await data("signals")),
    (error) => show(body, emptyState("No signals", error.message)),
  );
  return { element, ...poll };
}

function draw(body, { device, network, backends, models }) {
  show(
    body,
    el("h2", { textContent: "Device and network" }),
    el("div", { className: "cards" }, deviceCard(device), networkCard(network)),
    el("h2", { textContent: "Backends" }),
    el(
      "div",
      { className: "cards" },
      backends.map((state) => backendCard(state, models[state.name])),
    ),
  );
}

function card(title, head, ...parts) {
  return el(
    "section",
    { className: "card", attrs: { "aria-label": title } },
    el("div", { className: "card-head" }, el("h3", { textContent: title }), head),
    ...parts,
  );
}

/** A share of something, as a bar with its name. */
function share(name, value, text) {
  if (value === null || value === undefined) return null;
  return el(
    "div",
    { className: "share" },
    el("div", { className: "share-name" }, el("span", { textContent: name }), el("span", { textContent: text })),
    bar(value),
  );
}

function remember(name, value) {
  const past = history.get(name) ?? [];
  past.push(value ?? 0);
  if (past.length > SAMPLES) past.shift();
  history.set(name, past);
  return past;
}

/** The last samples as a line. */
function spark(name, value, highest) {
  const past = remember(name, value);
  const top = Math.max(highest, ...past) || 1;
  const points = past
    .map((each, at) => `${((at + SAMPLES - past.length) / (SAMPLES - 1)) * 100},${24 - (each / top) * 22}`)
    .join(" ");
  return svg(
    "svg",
    { class: "spark", viewBox: "0 0 100 25", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("polyline", { points, fill: "none", "vector-effect": "non-scaling-stroke" }),
  );
}

function deviceCard(device) {
  const used = device.memory_total_mb ? 1 - device.memory_available_mb / device.memory_total_mb : null;
  return card(
    "This device",
    device.throttled ? badge("mask", "Throttled", "alert") : null,
    share("Processors", device.cpu_load, percent(device.cpu_load)),
    spark("cpu", device.cpu_load, 1),
    share("Memory", used, `${mebibytes(device.memory_available_mb)} free of ${mebibytes(device.memory_total_mb)}`),
    share("Battery", device.battery, `${percent(device.battery)}${device.charging ? ", charging" : ""}`),
    share("GPU", device.gpu_load, percent(device.gpu_load)),
    facts([
      ["Temperature", device.temperature_c === null ? null : `${device.temperature_c.toFixed(0)} °C`],
      ["Stalled for memory", device.memory_pressure === null ? null : `${device.memory_pressure.toFixed(1)} %`],
      ["Stalled for processors", device.cpu_pressure === null ? null : `${device.cpu_pressure.toFixed(1)} %`],
      ["Stalled for disks", device.io_pressure === null ? null : `${device.io_pressure.toFixed(1)} %`],
    ]),
  );
}

function networkCard(network) {
  return card(
    "Network",
    network.online ? badge("edge", "Online") : badge("bad", "Offline", "alert"),
    facts([
      ["Route", network.online ? "there is one off this device" : "none off this device"],
      ["Metered", network.metered === null ? "not reported" : network.metered ? "yes" : "no"],
    ]),
  );
}

function stateBadge(state) {
  if (state.breaker === "open") return badge("bad", "Breaker open", "alert");
  if (!state.ready) return badge("bad", "Not ready", "alert");
  if (state.breaker === "half_open") return badge("mask", "Breaker half open", "alert");
  return badge("edge", "Ready");
}

function backendCard(state, model) {
  return card(
    state.name,
    stateBadge(state),
    el("p", {
      className: "muted",
      textContent: [
        model === state.name ? "" : model,
        state.location === "edge" ? "on this device" : "in the cloud",
        state.reason,
      ]
        .filter(Boolean)
        .join(" · "),
    }),
    share("Load", state.load, percent(state.load)),
    facts([
      [
        "First token, predicted",
        `${milliseconds(state.predicted_ttft_ms)} ± ${milliseconds(state.predicted_ttft_error_ms)}`,
      ],
    ]),
    spark(`ttft ${state.name}`, state.predicted_ttft_ms, 1),
    facts([
      ["Each further token", milliseconds(state.predicted_tpot_ms)],
      ["Running, waiting", `${state.active}, ${state.queue}`],
      ["Round trip", state.rtt_ms === null ? null : milliseconds(state.rtt_ms)],
      ["Context window", state.context_window ? count(state.context_window, "token") : "not reported"],
      ["Breaker", state.breaker.replace("_", " ")],
      ["Nodes", state.members.length ? nodes(state.members) : null],
    ]),
  );
}

function nodes(members) {
  return el(
    "ul",
    { className: "plain-list" },
    members.map((each) =>
      el("li", { textContent: `${each.address}: ${each.health}${each.reason ? ` (${each.reason})` : ""}` }),
    ),
  );
}
