// TabAgent for extensions and pages: one object, whichever way leads to the server.

import { failure, TabAgentError } from "./error.js";
import { HttpTransport } from "./http.js";
import { HOST, NativeTransport } from "./native.js";
import { delay, pause } from "./patience.js";
import { EventStream, gone, lost, textOf } from "./stream.js";
import { WebRtcTransport } from "./webrtc.js";

export { EventStream, TabAgentError, textOf };

const URL_OF_SERVER = "http://127.0.0.1:8080";
const PATIENCE_MS = { native: 45_000, http: 10_000, webrtc: 20_000 }; // until the first reply
const WAIT_S = 25; // of a long poll

/**
 * A client. Connects by itself at the first request, and again when the connection is lost.
 *
 * Events: `connection` ({state, transport, hello, error}), `status` (of the native host: a server
 * that starts), `token` (a pairing gave one: keep it), `problem` (of no request in particular).
 */
export class TabAgent extends EventTarget {
  hello = null;
  #names;
  #current = null;
  #connecting = null;
  #failures = 0;
  #methods = null;
  #closed = false;

  constructor({
    transports = ["native", "http"],
    url = URL_OF_SERVER,
    token = null,
    host = HOST,
    resumeFor = 60_000,
    queue = {},
    iceServers = [],
    signalling = "http",
  } = {}) {
    super();
    this.#names = [...transports];
    this.url = url;
    this.token = token; // a string, or a function that finds it
    this.host = host;
    this.resumeFor = resumeFor;
    this.queue = queue;
    this.iceServers = iceServers;
    this.signalling = signalling; // the way that offers of webrtc go
  }

  /** The name of the transport in use; null when there is none now. */
  get via() {
    return this.#current?.name ?? null;
  }

  /** Find a way to the server. Returns what `hello` says; throws why no transport works. */
  async connect({ signal } = {}) {
    await this.transport(signal);
    return this.hello;
  }

  /** One reply. Reads are sent once more when the connection is lost meanwhile. */
  async call(route, payload = {}, { signal, requestId = crypto.randomUUID() } = {}) {
    for (let again = false; ; again = true) {
      const transport = await this.transport(signal);
      try {
        return await transport.call(route, payload, { signal, requestId });
      } catch (error) {
        this.mislay(transport, error);
        if (again || error.code !== "connection-lost" || !this.#reads(route)) throw error;
      }
    }
  }

  /** Events of a request, through lost connections. @returns {EventStream} */
  stream(route, payload = {}, { signal, requestId = crypto.randomUUID() } = {}) {
    return new EventStream(this, { route, payload, signal, requestId, from: 0 });
  }

  /** Follow an answer that was begun before, from event number `from` on. @returns {EventStream} */
  resume(requestId, from = 0, { signal } = {}) {
    return new EventStream(this, { route: null, payload: null, signal, requestId, from });
  }

  /**
   * What changes on the server: models, sessions, documents, pulls. Goes on through lost
   * connections; ends when the server says that it stops, which a native host would undo.
   */
  async *events({ signal } = {}) {
    let last = "";
    for (let attempt = 0; !this.#closed;) {
      let transport = null;
      try {
        transport = await this.transport(signal);
        const asked = last ? { last_event_id: last, stream: true } : { stream: true };
        const requestId = crypto.randomUUID();
        for await (const { data } of transport.stream("events", asked, { signal, requestId })) {
          last = `${data.epoch}:${data.seq}`;
          attempt = 0;
          yield data;
        }
        return;
      } catch (error) {
        if (signal?.aborted || !(lost(error) || error.code === "fell-behind")) throw error;
        this.mislay(transport, error);
      }
      await pause(delay(++attempt), signal);
    }
  }

  /**
   * Ask to be let in and wait until the owner has approved. `onPending` is handed every code that is
   * to be shown. The token is used from now on, and told of as `token`.
   */
  async pair({ name, signal, onPending = () => {} } = {}) {
    let reply = { secret: undefined };
    for (let attempt = 0; ;) {
      try {
        const wait = reply.secret ? { secret: reply.secret, wait_s: WAIT_S } : {};
        reply = await this.call("pair", name ? { name, ...wait } : wait, { signal });
        attempt = 0;
      } catch (error) {
        if (signal?.aborted || !error.retryable) throw error;
        await pause(Math.max((error.problem?.retry_after ?? 0) * 1000, delay(++attempt)), signal);
        continue;
      }
      if (reply.state === "paired") break;
      onPending(reply);
    }
    if (typeof this.token !== "function") this.token = reply.token;
    this.#tell("token", { token: reply.token, url: reply.url, client_id: reply.client_id });
    return reply;
  }

  // ---- in short -------------------------------------------------------------------------------
  /** A chat completion. `asked` is its messages, or its whole payload. @returns {EventStream} */
  chat(asked, options) {
    return this.stream("chat", Array.isArray(asked) ? { messages: asked } : asked, options);
  }

  async models(options) {
    return (await this.call("models", {}, options)).data;
  }

  async embeddings(input, options) {
    const reply = await this.call("embeddings", { input }, options);
    return reply.data.map((row) => row.embedding);
  }

  health(options) {
    return this.call("health", {}, options);
  }

  /** Say hello anew at the next request: something has changed about who we are. */
  reconnect() {
    this.#current?.close(failure("connection-lost", "it is made anew"));
    this.#current = null;
  }

  /** End everything. What still runs fails with `closed`. */
  close() {
    this.#closed = true;
    this.#current?.close();
    this.#current = null;
  }

  // ---- for the streams ------------------------------------------------------------------------
  /** The transport to use now, connected. */
  async transport(signal) {
    if (this.#closed) throw failure("closed");
    if (this.#current) return this.#current;
    this.#connecting ??= this.#connect().finally(() => (this.#connecting = null));
    await unlessAborted(this.#connecting, signal);
    return this.#current ?? this.transport(signal);
  }

  /** A request failed with `error`: when that means that `transport` is gone, find another. */
  mislay(transport, error) {
    if (transport !== this.#current || !transport || !gone(error)) return;
    transport.close(error);
    this.#current = null;
    this.#tell("connection", { state: "lost", transport: null, error });
  }

  /** Have an answer ended that goes on without us. */
  abandon(requestId) {
    const signal = AbortSignal.timeout(5000);
    this.call("stop_generation", { request_id: requestId }, { signal }).catch(() => {});
  }

  async #connect() {
    await pause(this.#failures ? delay(this.#failures) : 0);
    const causes = {};
    for (const name of this.#names) {
      const transport = this.#make(name);
      if (!transport) continue;
      this.#tell("connection", { state: "connecting", transport: name });
      try {
        const options = {
          signal: AbortSignal.timeout(PATIENCE_MS[name]),
          requestId: crypto.randomUUID(),
        };
        this.hello = await transport.call("hello", {}, options);
        this.#current = transport;
        this.#failures = 0;
        this.#methods ??= await this.#table(transport);
        this.#tell("connection", { state: "connected", transport: name, hello: this.hello });
        return;
      } catch (error) {
        causes[name] = error;
        transport.close();
      }
    }
    this.#failures += 1;
    throw this.#nowhere(causes);
  }

  #make(name) {
    const tell = (type, detail) => this.#tell(type, detail);
    const token = () => (typeof this.token === "function" ? this.token() : this.token);
    const http = () => new HttpTransport({ url: this.url, token });
    const native = () => new NativeTransport({ host: this.host, queue: this.queue, tell });
    switch (name) {
      case "native":
        return NativeTransport.available() ? native() : null;
      case "http":
        return HttpTransport.available() ? http() : null;
      case "webrtc": {
        if (!WebRtcTransport.available()) return null;
        const signalling = this.signalling === "native" ? native() : http();
        const { iceServers, queue } = this;
        return new WebRtcTransport({ signalling, token, iceServers, queue, tell });
      }
      default:
        throw new TypeError(`there is no transport named ${name}`);
    }
  }

  async #table(transport) {
    const options = { signal: AbortSignal.timeout(10_000), requestId: crypto.randomUUID() };
    const { routes } = await transport.call("routes", {}, options);
    return new Map(routes.toReversed().map(({ route, method }) => [route, method]));
  }

  #reads(route) {
    return this.#methods?.get(route) === "GET";
  }

  #nowhere(causes) {
    const found = Object.entries(causes);
    const error =
      found.length === 1
        ? found[0][1]
        : failure("no-transport", found.map(([name, why]) => `${name}: ${why.message}`).join("; "));
    error.causes = causes;
    this.#tell("connection", { state: "lost", transport: null, error });
    return error;
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** `promise`, unless `signal` says stop before: what is waited for goes on for others. */
function unlessAborted(promise, signal) {
  if (!signal) return promise;
  return Promise.race([
    promise,
    new Promise((_, reject) => {
      const stop = () => reject(signal.reason);
      if (signal.aborted) stop();
      signal.addEventListener("abort", stop, { once: true });
      const clear = () => signal.removeEventListener("abort", stop);
      promise.then(clear, clear);
    }),
  ]);
}
