// The panel: its parts, and how they are wired.

import { Chat, emptyState } from "./panel/chat.js";
import { Connection } from "./panel/connection.js";
import { icon, show } from "./panel/dom.js";
import { Models } from "./panel/models.js";
import { activeTab } from "./panel/page.js";
import { Sessions } from "./panel/sessions.js";
import { onTask, saveSettings, settings, takeTask } from "./panel/store.js";

const $ = (id) => document.getElementById(id);
const { id: windowId } = await chrome.windows.getCurrent();

function dress(id, name, label) {
  const button = $(id);
  button.prepend(icon(name));
  if (label) Object.assign(button, { title: label, ariaLabel: label });
  return button;
}

const prompt = $("prompt");
const send = dress("send", "send");
const stop = dress("stop", "stop");
const pageButton = dress("page-button", "page");
pageButton.append("Ask this page");
pageButton.title = "Answer from the page in the tab, with the passages it rests on";

const fix = document.createElement("section");
Object.assign(fix, { id: "fix", hidden: true, ariaLabel: "What to do" });
$("log").before(fix);

const empty = emptyState([
  ["page", "Ask about this page", () => askPage(true)],
  ["pencil", "Help me write a short e-mail", () => suggest("Write a short, friendly e-mail that ")],
  ["check", "Explain something in simple words", () => suggest("Explain in simple words: ")],
]);

const models = new Models({
  select: $("model"),
  strip: $("loading"),
  bar: $("loading-bar"),
  text: $("loading-text"),
  busy: () => chat.busy,
  ready: () => connection.ready,
  onChoice: async (model) => {
    await saveSettings({ model });
    if (!chat.session) return;
    const asked = { session_id: chat.session.id, model: model || null };
    connection.agent.call("update_session", asked).catch(() => {});
  },
});

const chat = new Chat({
  log: $("log"),
  empty,
  models,
  windowId,
  onSession: (session) => {
    $("title").textContent = session?.title || "New chat";
  },
  onBusy: (busy) => {
    show(send, !busy);
    show(stop, busy);
    // The button that had the focus is gone: it goes where one writes on.
    if (document.activeElement === document.body) prompt.focus();
    if (!busy) takeOn(); // it may have come meanwhile
  },
  onTrouble: (error) => connection.refused(error),
});

const sessions = new Sessions({
  element: $("sessions"),
  button: dress("sessions-button", "menu", "Chats"),
  ready: () => connection.ready,
  current: () => chat.session?.id,
  onOpen: (id) => chat.open(id).then(() => prompt.focus()),
  onGone: (id) => chat.session?.id === id && chat.clear(),
});

const connection = new Connection({
  button: $("connection-button"),
  label: $("connection-label"),
  sheet: $("connection"),
  fix,
  onReady: async (agent) => {
    await models.use(agent, (await settings()).model);
    sessions.use(agent);
    await chat.use(agent);
    usable(true);
    takeOn();
  },
  onEvent: (event) => {
    if (event.type === "model") models.changed(event.data);
    if (event.type === "session") sessionChanged(event.data);
    if (event.type === "gap") sessions.changed();
  },
  onState: (state) => usable(state === "ready"),
});

function usable(yes) {
  show($("log"), yes);
  for (const part of [
    prompt,
    send,
    pageButton,
    $("model"),
    $("new-button"),
    $("sessions-button"),
  ]) {
    part.disabled = !yes;
  }
  if (yes && document.activeElement === document.body) prompt.focus();
}

function sessionChanged({ session, state, title }) {
  sessions.changed();
  if (session !== chat.session?.id) return;
  if (state === "deleted") chat.clear();
  else if (title) $("title").textContent = title;
  if (state === "message") chat.refresh();
}

/** A selection that the menu has sent. */
async function takeOn() {
  if (!connection.ready || chat.busy) return;
  const task = await takeTask(windowId);
  if (task) await chat.summarise(task);
}
onTask(takeOn);

async function askPage(on) {
  pageButton.setAttribute("aria-pressed", String(on));
  prompt.placeholder = on ? "Ask about this page" : "Ask anything";
  const tab = on ? await activeTab() : null;
  const title = document.createElement("span");
  title.textContent = tab?.title || "The page in the tab";
  $("context").replaceChildren(icon("page"), title);
  show($("context"), on);
  prompt.focus();
}

function suggest(text) {
  prompt.value = text;
  prompt.focus();
}

async function submit() {
  const text = prompt.value.trim();
  if (!text || chat.busy || prompt.disabled) return;
  prompt.value = "";
  if (pageButton.getAttribute("aria-pressed") === "true") await chat.askPage(text);
  else await chat.ask(text);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
stop.addEventListener("click", () => chat.stop());
pageButton.addEventListener("click", () =>
  askPage(pageButton.getAttribute("aria-pressed") !== "true"),
);
dress("new-button", "plus", "New chat").addEventListener("click", () => {
  chat.clear();
  prompt.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented) return;
  if (!$("connection").hidden) {
    connection.openSheet(false);
    $("connection-button").focus();
  } else if (!$("sessions").hidden) sessions.open(false);
  else if (chat.busy) chat.stop();
});
document.addEventListener("pointerdown", ({ target }) => {
  if (!$("connection").contains(target) && !$("connection-button").contains(target))
    connection.openSheet(false);
  if (!$("sessions").contains(target) && !$("sessions-button").contains(target))
    show($("sessions"), false);
});
// A page that the person moves to is the one that is asked about.
chrome.tabs.onActivated.addListener(() => !$("context").hidden && askPage(true));

connection.start();
