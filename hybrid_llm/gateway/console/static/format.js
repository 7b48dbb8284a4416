// Numbers, times and names for people.

/** Milliseconds, with a unit that fits. */
export function milliseconds(value) {
  if (value === null || value === undefined) return "unknown";
  if (value >= 60_000) return `${(value / 60_000).toFixed(1)} min`;
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} ms`;
}

/** An amount of money. */
export function money(value, currency) {
  const isSmall = value !== 0 && Math.abs(value) < 0.01;
  const amount = isSmall ? value.toFixed(6).replace(/0+$/, "") : value.toFixed(2);
  return `${amount}${currency ? ` ${currency}` : ""}`;
}

/** A share as a percentage. */
export function percent(value) {
  return value === null || value === undefined ? "unknown" : `${Math.round(value * 100)} %`;
}

/** Mebibytes, as GiB where they are many. */
export function mebibytes(value) {
  return value >= 1024 ? `${(value / 1024).toFixed(1)} GiB` : `${Math.round(value)} MiB`;
}

/** "1 token", "2 tokens". */
export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** A value that a rule read. */
export function signal(value) {
  if (typeof value !== "number") return String(value);
  if (value >= 2 ** 31 - 1) return "unknown";
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}

/** The time of day of a time in seconds. */
export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

/** In which form a request leaves the device: "with pseudonyms (2 × EMAIL, 1 × TEL), sealed". */
export function sentForm({ pseudonymised, replaced, sealed }) {
  const counts = Object.entries(replaced ?? {}).map(([kind, number]) => `${number} × ${kind}`);
  const form = pseudonymised ? `with pseudonyms (${counts.join(", ")})` : "as it is";
  return sealed ? `${form}, sealed` : form;
}

/** The tags of a request; those that detectors set are marked. */
export function tagNames({ declared, detected }) {
  return [...declared, ...detected.map((tag) => `${tag} (found)`)].join(", ");
}
