// Requests as messages, over anything that carries them: a native port or a data channel.

import { aborted, failure, TabAgentError } from "./error.js";
import { BoundedQueue } from "./queue.js";

const MOST_JOINED = 128 * 2 ** 20; // characters of a message that came in parts

/** One connection's requests: many at once, ending in any order. */
export class Conversation {
  #running = new Map(); // request id -> {reply} or {queue}
  #parts = new Map(); // request id -> {texts, size}

  /**
   * `post(message, text)` sends one message, which `text` is the JSON of; `most` is how many
   * characters one may have before it goes in parts. `tell(type, detail)` hears of what belongs to
   * no request.
   */
  constructor(post, { most, queue = {}, tell = () => {} }) {
    this.post = post;
    this.most = most;
    this.queue = queue;
    this.tell = tell;
  }

  get running() {
    return this.#running.size;
  }

  call(route, payload, { signal, requestId }) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(aborted(signal));
      const cancel = () => {
        this.#cancel(requestId);
        reject(aborted(signal));
      };
      const settle = (how) => (value) => {
        signal?.removeEventListener("abort", cancel);
        how(value);
      };
      this.#running.set(requestId, { resolve: settle(resolve), reject: settle(reject) });
      signal?.addEventListener("abort", cancel, { once: true });
      this.#begin({ request_id: requestId, route, payload });
    });
  }

  /**
   * Events as `{seq, data}`. Leaving the loop before its end cancels the request; falling behind
   * does so too, unless it is to go on: then the rest can be asked for by its number.
   */
  async *stream(route, payload, { signal, requestId, goOn = false }) {
    if (signal?.aborted) throw aborted(signal);
    const queue = new BoundedQueue(this.queue);
    const cancel = () => {
      this.#cancel(requestId);
      queue.drop(aborted(signal));
    };
    this.#running.set(requestId, { queue, goOn });
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      this.#begin({ request_id: requestId, route, payload });
      for (let event = await queue.next(); !event.done; event = await queue.next()) {
        yield event.value;
      }
    } finally {
      signal?.removeEventListener("abort", cancel);
      this.#cancel(requestId);
    }
  }

  /** A message has come. */
  receive(message, size = 0) {
    if (message.event === "part") return this.#join(message);
    if (message.request_id === null) return this.#general(message);
    this.#parts.delete(message.request_id); // of a message that was cut off by this one
    const request = this.#running.get(message.request_id);
    if (!request) return undefined; // cancelled, or fallen behind
    if (message.event === "chunk") return this.#chunk(message, request, size);
    this.#running.delete(message.request_id);
    if (!message.success) return end(request, new TabAgentError(message.error ?? {}));
    if (message.event === "cancelled") return end(request, failure("cancelled"));
    if (request.resolve) return request.resolve(message.data);
    if (message.event !== "done") request.queue.offer({ seq: 0, data: message.data }, size);
    return request.queue.close();
  }

  /** The connection is gone: everything that runs ends with `error`. */
  lose(error) {
    const running = [...this.#running.values()];
    this.#running.clear();
    this.#parts.clear();
    for (const request of running) end(request, error);
  }

  #chunk({ request_id: id, seq, data }, { queue, reject, goOn }, size) {
    if (!queue) {
      this.#cancel(id);
      return reject(failure("malformed-reply", "a stream, where one reply was asked for"));
    }
    if (queue.offer({ seq, data }, size)) return undefined;
    if (goOn)
      this.#running.delete(id); // what comes now is not kept here
    else this.#cancel(id);
    return queue.close(failure("fell-behind"));
  }

  #general(message) {
    if (message.event === "ping") return this.#post({ route: "pong" });
    if (message.event === "status") return this.tell("status", message.data);
    const error = new TabAgentError(message.error ?? {});
    // Of one message that could not be read nobody knows whose it was, unless one alone waits.
    if (error.code === "server-unreachable" || this.#running.size === 1) this.lose(error);
    return this.tell("problem", error);
  }

  #join({ request_id: id, seq, more, text }) {
    const parts = this.#parts.get(id) ?? { texts: [], size: 0 };
    parts.texts.push(text);
    parts.size += text.length;
    const broken = seq !== parts.texts.length - 1 || parts.size > MOST_JOINED;
    if (more && !broken) return void this.#parts.set(id, parts);
    this.#parts.delete(id);
    try {
      if (!broken) return this.receive(JSON.parse(parts.texts.join("")), parts.size);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
    }
    const request = this.#running.get(id);
    this.#cancel(id);
    return request && end(request, failure("malformed-reply", "its parts do not fit together"));
  }

  #cancel(id) {
    if (!this.#running.delete(id)) return;
    try {
      this.#send({ request_id: id, route: "cancel" });
    } catch {
      // The connection is gone, and the request with it.
    }
  }

  #begin(message) {
    try {
      this.#send(message);
    } catch (error) {
      const request = this.#running.get(message.request_id);
      this.#running.delete(message.request_id);
      end(request, failure("connection-lost", "", { cause: error }));
    }
  }

  #send(message) {
    const text = JSON.stringify(message);
    if (text.length <= this.most) return this.post(message, text);
    const id = message.request_id;
    let seq = 0;
    for (const [piece, more] of pieces(text, this.most)) {
      this.#post({ request_id: id, event: "part", seq: seq++, more, text: piece });
    }
    return undefined;
  }

  #post(message) {
    return this.post(message, JSON.stringify(message));
  }
}

function end({ reject, queue }, error) {
  if (queue) queue.close(error);
  else reject(error);
}

/** Stretches of at most `most` characters, never cut within a character of two halves. */
export function* pieces(text, most) {
  for (let at = 0; at < text.length;) {
    let next = Math.min(at + most, text.length);
    const last = text.charCodeAt(next - 1);
    if (next < text.length && last >= 0xd800 && last <= 0xdbff && next - at > 1) next -= 1;
    yield [text.slice(at, next), next < text.length];
    at = next;
  }
}
