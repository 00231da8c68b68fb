// The browser's native messaging: a port to the host, which finds the server or starts it.

import { Conversation } from "./conversation.js";
import { failure } from "./error.js";

export const HOST = "tabagent.host";
// The browser takes 64 MiB; smaller pieces keep the port free for others in between.
const MOST_CHARACTERS = 4 * 2 ** 20;

export class NativeTransport {
  name = "native";
  #port = null;
  #conversation = null;

  constructor({ host = HOST, queue, tell = () => {} } = {}) {
    this.host = host;
    this.queue = queue;
    this.tell = tell;
  }

  static available() {
    return typeof globalThis.chrome?.runtime?.connectNative === "function";
  }

  call(route, payload, options) {
    return this.#open().call(route, payload, options);
  }

  stream(route, payload, options) {
    return this.#open().stream(route, payload, options);
  }

  close(error = failure("closed")) {
    this.#port?.disconnect();
    this.#lost(error);
  }

  #open() {
    if (this.#conversation) return this.#conversation;
    let port;
    try {
      port = chrome.runtime.connectNative(this.host);
    } catch (error) {
      throw failure("host-not-found", String(error.message ?? error), { cause: error });
    }
    const conversation = new Conversation((message) => port.postMessage(message), {
      most: MOST_CHARACTERS,
      queue: this.queue,
      tell: this.tell,
    });
    port.onMessage.addListener((message) => conversation.receive(message, weight(message)));
    port.onDisconnect.addListener(() => {
      const reason = chrome.runtime.lastError?.message ?? "";
      if (this.#port === port) this.#lost(failure(codeOf(reason), reason));
    });
    this.#port = port;
    this.#conversation = conversation;
    return conversation;
  }

  #lost(error) {
    const conversation = this.#conversation;
    this.#port = null;
    this.#conversation = null;
    conversation?.lose(error);
  }
}

/** What the browser says is all there is to go by. */
function codeOf(reason) {
  if (/not found/i.test(reason)) return "host-not-found";
  if (/forbidden/i.test(reason)) return "host-forbidden";
  return "connection-lost";
}

/** About how many bytes an event takes, without writing it out. */
function weight({ event, data }) {
  if (event !== "chunk") return 0;
  const text = data?.choices?.[0]?.delta?.content ?? data?.choices?.[0]?.text ?? data?.text;
  return 512 + (typeof text === "string" ? text.length * 2 : 1024);
}
