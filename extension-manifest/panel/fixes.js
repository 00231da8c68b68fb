// Cards that say what is wrong with the connection and what to do, to the letter.

import { copyButton, h, icon } from "./dom.js";

const OURS = "bilglblhpjjkdfdpaaiabfopbicipchc"; // what the key in manifest.json makes
const NAMES = { auto: "Automatic", native: "Native host", http: "HTTP", webrtc: "WebRTC" };

function command(text) {
  return h(
    "div",
    { className: "command" },
    h("code", {}, text),
    copyButton(() => text, "Copy the command"),
  );
}

function card(about, title, ...content) {
  const heading = h("h2", {}, icon("warning"), title);
  return h(
    "div",
    { className: "card fix", role: "group", "aria-label": title, "data-about": about },
    heading,
    ...content,
  );
}

function actions({ again, open }) {
  return h(
    "div",
    { className: "buttons" },
    h("button", { type: "button", className: "primary", onclick: again }, "Try again"),
    h("button", { type: "button", className: "plain", onclick: open }, "Connection settings"),
  );
}

/** The browser as `tabagent native install --browser` calls it. */
export function browserName() {
  const brands = (navigator.userAgentData?.brands ?? []).map(({ brand }) => brand).join(" ");
  if (/Edge/.test(brands)) return "edge";
  if (/Brave/.test(brands) || navigator.brave) return "brave";
  return /Google Chrome/.test(brands) ? "chrome" : "chromium";
}

export function installCommand() {
  const own = chrome.runtime.id === OURS ? "" : ` --extension-id ${chrome.runtime.id}`;
  return `tabagent native install --browser ${browserName()}${own}`;
}

/** The native host is missing, or does not know this extension. */
export function commandCard(causes, url, does) {
  const forbidden = causes.native.code === "host-forbidden";
  const content = [
    h(
      "p",
      {},
      forbidden
        ? "TabAgent's native host is installed, but not for this extension. Run this once:"
        : "The browser does not find TabAgent on this machine yet. Run this once in a terminal:",
    ),
    command(installCommand()),
    h("p", {}, "This panel goes on by itself as soon as that is done."),
  ];
  if (causes.http) {
    content.push(
      h(
        "p",
        { className: "note" },
        `Without the native host, a running server does as well. None answers at ${url}; start one with:`,
      ),
      command("tabagent serve"),
    );
  }
  return card(
    `host ${causes.native.code} ${Boolean(causes.http)}`,
    "TabAgent is not set up here",
    ...content,
    actions(does),
  );
}

/** The server cannot be reached, or says no. */
export function problemCard(error, url, does) {
  const unreachable = ["server-unreachable", "no-transport", "connection-lost"].includes(
    error.code,
  );
  const content = unreachable
    ? [
        h("p", {}, `No server answers at ${url}. Start it with:`),
        command("tabagent serve"),
        h("p", {}, "It is tried again every few seconds."),
        error.message.includes(url) && !error.causes?.native
          ? null
          : h("p", { className: "note" }, error.message),
      ]
    : [h("p", {}, error.message), h("p", { className: "note" }, `Code: ${error.code}`)];
  const title = unreachable ? "TabAgent is not running" : (error.problem?.title ?? "Not connected");
  return card(`problem ${error.code}`, title, ...content, actions(does));
}

export function stoppedCard({ again }) {
  return card(
    "stopped",
    "TabAgent was stopped",
    h("p", {}, "What you said is kept. Once it runs again, this panel goes on by itself."),
    h(
      "div",
      { className: "buttons" },
      h("button", { type: "button", className: "primary", onclick: again }, "Start it again"),
    ),
  );
}

export function startingCard(elapsed) {
  const seconds = Math.round((elapsed ?? 0) / 1000);
  return h(
    "div",
    { className: "empty", "data-about": "starting" },
    h("span", { className: "spinner" }),
    h("h2", {}, "Starting TabAgent"),
    h("p", {}, seconds > 2 ? `${seconds} seconds so far` : "This takes a moment."),
  );
}

export function pairingCard({ code, expires_at: until }) {
  const clock = new Date(until).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return card(
    `pairing ${code}`,
    "Approve this extension",
    h(
      "p",
      {},
      "TabAgent answers only to extensions that you have approved. In a terminal on the machine that serves, compare the code and run:",
    ),
    h(
      "div",
      {
        className: "pairing-code",
        id: "pairing-code",
        "aria-label": `Code ${[...code].join(" ")}`,
      },
      code,
    ),
    command(`tabagent clients approve ${code}`),
    h("p", { className: "note" }, `The code is good until ${clock}. This panel goes on by itself.`),
  );
}

/** How we are connected, and how to do it differently. */
export function connectionSheet(connection, { transport, url }) {
  const { hello, agent } = connection;
  const way = h(
    "select",
    {},
    ...Object.entries(NAMES).map(([value, name]) => h("option", { value }, name)),
  );
  way.value = transport;
  const address = h("input", { type: "url", value: url, spellcheck: false });
  const save = () => {
    const given = address.value.trim().replace(/\/+$/, "");
    if (!/^http:\/\/(127\.0\.0\.1|localhost)(:\d+)?$/.test(given)) {
      address.setCustomValidity("http://127.0.0.1 or http://localhost, and a port");
      address.reportValidity();
      return;
    }
    connection.change({ transport: way.value, url: given });
  };
  address.addEventListener("input", () => address.setCustomValidity(""));
  const facts =
    connection.ready && hello
      ? [
          ["Connected over", NAMES[agent.via] ?? "nothing now"],
          ["Server", `TabAgent ${hello.version}`],
          ["HTTP address", hello.url ?? "none"],
          ["Access", hello.access],
        ]
      : [["State", "Not connected"]];
  return h(
    "div",
    {},
    h("h2", {}, "Connection"),
    h("dl", { className: "facts" }, ...facts.flatMap(([k, v]) => [h("dt", {}, k), h("dd", {}, v)])),
    h("label", { className: "field" }, h("span", {}, "Way to the server"), way),
    h("label", { className: "field" }, h("span", {}, "Address of the server"), address),
    h(
      "div",
      { className: "buttons" },
      h("button", { type: "button", className: "primary", onclick: save }, "Connect"),
      h(
        "button",
        { type: "button", className: "plain", onclick: () => connection.openSheet(false) },
        "Close",
      ),
    ),
  );
}
