// Getting to the server and staying there: which way, and what the person can do when none works.

import { TabAgent } from "../client/tabagent.js";
import { delay, pause } from "../client/patience.js";
import {
  commandCard,
  connectionSheet,
  pairingCard,
  problemCard,
  startingCard,
  stoppedCard,
} from "./fixes.js";
import { announce, show } from "./dom.js";
import { saveSettings, settings, TRANSPORTS } from "./store.js";

const LOOK_MS = 3000; // whether a stopped server is there again
const LABELS = { native: "Native", http: "HTTP", webrtc: "WebRTC" };
/** What says that we are not, or no longer, known there. */
const UNKNOWN = new Set(["pairing-required", "unauthorized", "origin-not-allowed"]);

export class Connection {
  agent = null;
  ready = false;
  #stop = new AbortController();
  #settings = null;
  #hurry = null;

  /** `onReady` is called after every new connection, `onEvent` with what changes on the server. */
  constructor({ label, button, sheet, fix, onReady, onEvent, onState }) {
    Object.assign(this, { label, button, sheet, fix, onReady, onEvent, onState });
    button.addEventListener("click", () => this.openSheet(this.sheet.hidden));
  }

  /** Connect as the settings say, and again whenever that is lost. */
  async start() {
    this.#stop.abort();
    this.agent?.close();
    this.ready = false;
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#settings = await settings();
    this.agent = this.#client(TRANSPORTS[this.#settings.transport] ?? TRANSPORTS.auto);
    const { agent } = this; // what one that was left says is no news
    agent.addEventListener(
      "connection",
      ({ detail }) => agent === this.agent && this.#changed(detail),
    );
    agent.addEventListener("status", ({ detail }) => agent === this.agent && this.#status(detail));
    await this.#stay(signal).catch((error) => signal.aborted || Promise.reject(error));
  }

  openSheet(open) {
    show(this.sheet, open);
    this.button.setAttribute("aria-expanded", String(open));
    if (!open) return;
    this.sheet.replaceChildren(connectionSheet(this, this.#settings));
    this.sheet.querySelector("select").focus();
  }

  async change(changes) {
    if (changes.url && changes.url !== this.#settings.url) changes.token = null;
    await saveSettings(changes);
    this.openSheet(false);
    await this.start();
  }

  /** Do not wait for the next attempt. */
  hurry() {
    this.#hurry?.abort();
  }

  /** A request failed because we are not known any more: pair anew. */
  refused(error) {
    if (UNKNOWN.has(error?.code) && this.ready) this.start();
  }

  #client(transports) {
    return new TabAgent({ transports, url: this.#settings.url, token: () => this.#settings.token });
  }

  async #stay(signal) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        const hello = await this.agent.connect({ signal });
        if (hello.state === "pairing-required") await this.#pair(signal);
        await this.#begin(signal);
        attempt = 0;
        for await (const event of this.agent.events({ signal })) this.onEvent(event);
        await this.#stopped(signal);
        continue;
      } catch (error) {
        const trouble = await this.#letIn(error, signal).catch((again) => again);
        if (signal.aborted) return;
        if (!trouble) continue;
        this.#failed(trouble);
      }
      this.#hurry = new AbortController();
      await pause(delay(attempt), AbortSignal.any([signal, this.#hurry.signal])).catch(() => {});
      if (signal.aborted) return;
    }
  }

  async #begin(signal) {
    const { hello, agent } = this;
    if (agent.via === "native" && !this.#settings.token && hello.state !== "open") {
      // The browser vouches for us here. With a token the other ways are open as well.
      const { token } = await agent.pair({ signal }).catch(() => ({ token: null }));
      await this.#keep(token);
    }
    this.ready = true;
    this.#show("connected", LABELS[agent.via]);
    show(this.fix, false);
    await this.onReady(agent);
  }

  /** Somebody has stopped the server. It is not for us to start it again before we are told. */
  async #stopped(signal) {
    const { url } = this.hello;
    this.ready = false;
    this.agent.reconnect();
    this.#show("failed", "Stopped");
    this.#showFix(stoppedCard({ again: () => this.hurry() }));
    this.#hurry = new AbortController();
    const until = AbortSignal.any([signal, this.#hurry.signal]);
    const stopped = Date.now();
    while (!until.aborted && !(await begunSince(stopped, url)))
      await pause(LOOK_MS, until).catch(() => {});
  }

  get hello() {
    return this.agent.hello;
  }

  /** Where the trouble is that we are not known, ask to be let in. What trouble there is then. */
  async #letIn(error, signal) {
    const causes = Object.values(error.causes ?? {});
    if (signal.aborted || ![error, ...causes].some(({ code }) => UNKNOWN.has(code))) return error;
    if (this.#settings.token) {
      await this.#keep(null); // it was revoked, or is another server's
      this.agent.reconnect();
    }
    await this.#pair(signal);
    return null;
  }

  async #pair(signal) {
    this.ready = false;
    this.onState("pairing");
    // A data channel is for those who have a token; one is asked for over HTTP.
    const asker = this.#settings.transport === "webrtc" ? this.#client(["http"]) : this.agent;
    const onPending = (pending) => {
      this.#show("pairing", "Approval needed");
      this.#showFix(pairingCard(pending));
      announce(`TabAgent waits for your approval. The code is ${pending.code}.`);
    };
    const { token } = await asker.pair({ name: "TabAgent side panel", signal, onPending });
    await this.#keep(token);
    this.agent.reconnect();
    announce("Approved");
  }

  async #keep(token) {
    this.#settings.token = token;
    await saveSettings({ token });
  }

  #changed({ state, transport, error }) {
    if (state === "connecting" && !this.ready) this.#show("connecting", "Connecting");
    if (state === "lost") this.#show("connecting", "Reconnecting");
    if (state === "lost" && error?.causes) this.#failed(error);
    if (state === "connected" && this.ready) {
      this.#show("connected", LABELS[transport]);
      show(this.fix, false);
      this.onState("ready");
    }
  }

  #status({ state, elapsed_ms: elapsed }) {
    if (state !== "starting") return;
    this.#show("connecting", "Starting");
    if (!this.ready) this.#showFix(startingCard(elapsed));
  }

  #failed(error) {
    this.#show("failed", "Not connected");
    const again = () => this.hurry();
    const open = () => this.openSheet(true);
    const causes = error.causes ?? { [this.agent.via ?? "native"]: error };
    const installed = !/^host-/.test(causes.native?.code ?? "");
    const card = installed
      ? problemCard(error, this.#settings.url, { again, open })
      : commandCard(causes, this.#settings.url, { again, open });
    // The same trouble again is no news: who reads or copies it is left in peace.
    if (this.fix.hidden || this.fix.dataset.about !== card.dataset.about) this.#showFix(card);
  }

  #showFix(card) {
    this.fix.dataset.about = card.dataset.about ?? "";
    this.fix.replaceChildren(card);
    show(this.fix, true);
    this.onState("fix");
  }

  #show(state, text) {
    this.button.dataset.state = state;
    this.label.textContent = text;
  }
}

/** Whether another server is there, without having one started. The old one may take its time. */
async function begunSince(moment, url) {
  if (!url) return false;
  try {
    const signal = AbortSignal.timeout(2000);
    const reply = await fetch(`${url}/health`, { signal, cache: "no-store" });
    return (await reply.json()).uptime_s * 1000 < Date.now() - moment;
  } catch {
    return false;
  }
}
