// The frame of the page: views, keys of the keyboard, theme, the key of the gateway, and whether it can be reached.

import { ApiError, data, onLink, setKey } from "./api.js";
import { chatView } from "./chat.js";
import { decisionsView } from "./decisions.js";
import { announce, el, emptyState, show } from "./dom.js";
import { dryRunView } from "./dryrun.js";
import { liveView } from "./live.js";
import { policyView } from "./policy.js";
import { spendingView } from "./spending.js";

const VIEWS = [
  { name: "chat", title: "Chat", make: chatView },
  { name: "live", title: "Live", make: liveView },
  { name: "decisions", title: "Decisions", make: decisionsView },
  { name: "spending", title: "Spending", make: spendingView },
  { name: "policy", title: "Policy", make: policyView },
  { name: "dry-run", title: "Dry run", make: dryRunView },
];
const OVERVIEW_MS = 10_000;
const byId = (id) => document.getElementById(id);
const main = byId("main");
const state = { overview: null, open: null, made: new Map() };

/** What every view gets: the overview, which is read again from time to time. */
const context = {
  get overview() {
    return state.overview;
  },
};

function makeTabs() {
  show(
    byId("tabs"),
    VIEWS.map((view, at) =>
      el(
        "li",
        {},
        el("a", { href: `#${view.name}`, id: `tab-${view.name}`, title: `${view.title} (${at + 1})` }, view.title),
      ),
    ),
  );
}

/** Scroll the tabs, not the page: `scrollIntoView` would let Tab go on from there, past the link to the content. */
function centre(tab) {
  const tabs = byId("tabs");
  const [one, all] = [tab.getBoundingClientRect(), tabs.getBoundingClientRect()];
  tabs.scrollLeft += one.left + one.width / 2 - (all.left + all.width / 2);
}

function openView() {
  const view = VIEWS.find((each) => `#${each.name}` === location.hash) ?? VIEWS[0];
  for (const each of VIEWS) {
    const tab = byId(`tab-${each.name}`);
    if (each !== view) tab.removeAttribute("aria-current");
    else {
      tab.setAttribute("aria-current", "page");
      centre(tab);
    }
  }
  document.title = `${view.title} – hybrid-llm console`;
  if (!state.overview) return;
  state.open?.hide?.();
  if (!state.made.has(view.name)) state.made.set(view.name, view.make(context));
  state.open = state.made.get(view.name);
  main.className = `view-${view.name}`;
  show(main, state.open.element);
  state.open.open?.();
  announce(view.title);
}

async function refresh() {
  const before = state.overview;
  try {
    state.overview = await data("overview");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (!before) showStart(error);
    return;
  }
  if (!before) openView();
  else if (before.digest !== state.overview.digest) for (const view of state.made.values()) view.policyChanged?.();
}

function showStart(error) {
  if (error.status === 401) return;
  show(
    main,
    emptyState(
      error.status ? "The gateway refuses this page" : "The gateway is not there",
      error.message,
      el("button", { type: "button", className: "primary", textContent: "Try again", on: { click: refresh } }),
    ),
  );
}

function showLink(link) {
  const words = { ok: "", gone: "Gateway not reached", key: "Key needed" };
  const shown = byId("link");
  if (shown.textContent !== words[link]) shown.textContent = words[link];
  shown.classList.toggle("bad", link !== "ok");
  if (link === "key" && !byId("key-dialog").open) {
    byId("key-dialog").showModal();
  }
}

function listenForKey() {
  const dialog = byId("key-dialog");
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    setKey(byId("key").value.trim());
    byId("key-error").textContent = "";
    try {
      const overview = await data("overview");
      state.made.clear();
      state.overview = overview;
      byId("key").value = "";
      dialog.close();
      openView();
    } catch (error) {
      setKey("");
      byId("key-error").textContent = error.status === 401 ? "This key is not known here." : error.message;
    }
  });
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function showTheme() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Use the ${isDark() ? "light" : "dark"} theme`);
}

function toggleTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("hybrid-llm-theme", theme);
  showTheme();
}

function isWriting(target) {
  return target instanceof HTMLElement && target.matches("input, textarea, select, [contenteditable]");
}

function onKey(event) {
  if (event.key === "Escape") state.open?.stop?.();
  if (isWriting(event.target) || event.ctrlKey || event.altKey || event.metaKey) return;
  if (!byId("shortcuts").checked || document.querySelector("dialog[open]")) return;
  const view = VIEWS[Number(event.key) - 1];
  if (view) location.hash = view.name;
  else if (event.key === "t") toggleTheme();
  else if (event.key === "?") byId("help").showModal();
  else if (event.key === "/") {
    location.hash = "chat";
    openView();
    byId("prompt")?.focus();
    event.preventDefault();
  }
}

makeTabs();
listenForKey();
showTheme();
onLink(showLink);
byId("theme").addEventListener("click", toggleTheme);
byId("help-open").addEventListener("click", () => byId("help").showModal());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash names the view
  main.focus();
});
addEventListener("hashchange", openView);
addEventListener("visibilitychange", () => document.hidden || refresh());
addEventListener("keydown", onKey);
setInterval(() => document.hidden || refresh(), OVERVIEW_MS);
openView();
refresh();
