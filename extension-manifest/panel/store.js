// What the panel keeps: for good in storage.local, until the browser ends in storage.session.

const MOST_CITED = 20; // answers whose citations are kept

export const SETTINGS = {
  transport: "auto", // auto, native, http, webrtc
  url: "http://127.0.0.1:8080",
  token: null,
  model: "",
};

export const TRANSPORTS = {
  auto: ["native", "http"],
  native: ["native"],
  http: ["http"],
  webrtc: ["webrtc"],
};

export async function settings() {
  return chrome.storage.local.get(SETTINGS);
}

export async function saveSettings(changes) {
  await chrome.storage.local.set(changes);
}

/** A selection to summarise, until a panel has taken it on. */
export async function keepTask(task) {
  await chrome.storage.session.set({ task: { ...task, id: crypto.randomUUID() } });
}

/** The task for the panel of this window; nobody else gets it then. */
export async function takeTask(windowId) {
  const { task } = await chrome.storage.session.get("task");
  if (!task || (task.windowId ?? windowId) !== windowId) return null;
  await chrome.storage.session.remove("task");
  return task;
}

export function onTask(listener) {
  chrome.storage.session.onChanged.addListener(({ task }) => task?.newValue && listener());
}

/** The answer that is being written, so that a panel that opens again can follow it. */
export async function keepRunning(windowId, running) {
  await chrome.storage.session.set({ [`running-${windowId}`]: running });
}

export async function running(windowId) {
  const key = `running-${windowId}`;
  return (await chrome.storage.session.get(key))[key] ?? null;
}

export async function keepCitations(answerId, found) {
  const { citations = {} } = await chrome.storage.session.get("citations");
  citations[answerId] = found;
  for (const old of Object.keys(citations).slice(0, -MOST_CITED)) delete citations[old];
  await chrome.storage.session.set({ citations });
}

export async function citationsOf(answerId) {
  const { citations = {} } = await chrome.storage.session.get("citations");
  return citations[answerId] ?? null;
}
