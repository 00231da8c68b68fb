// HTTP: each route's method and path come from the server, streams are server-sent events.

import { aborted, failure, TabAgentError } from "./error.js";
import { eventsOf } from "./sse.js";

const IN_QUERY = new Set(["GET", "HEAD", "DELETE"]);

export class HttpTransport {
  name = "http";
  #routes = null;

  /** @param {{url: string, token: () => Promise<string|null>|string|null}} options */
  constructor({ url, token }) {
    this.url = url.replace(/\/+$/, "");
    this.token = token;
  }

  static available() {
    return typeof globalThis.fetch === "function";
  }

  async call(route, payload, { signal, requestId }) {
    const response = await this.#fetch(route, payload, signal, requestId);
    return this.#json(response, signal);
  }

  /** Events as `{seq, data}`, pulled as they are read. Leaving the loop hangs up. */
  async *stream(route, payload, { signal, requestId, from = 0 }) {
    const hangUp = new AbortController();
    const both = signal ? AbortSignal.any([signal, hangUp.signal]) : hangUp.signal;
    const response = await this.#fetch(route, payload, both, requestId);
    if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
      yield { seq: 0, data: await this.#json(response, signal) };
      return;
    }
    let seq = from;
    try {
      for await (const { name, id, data } of eventsOf(response.body)) {
        if (data === "[DONE]") return;
        const said = JSON.parse(data);
        if (name === "error") throw new TabAgentError(said);
        if (/^\d+$/.test(id)) seq = Number(id);
        yield { seq: seq++, data: said };
      }
    } catch (error) {
      throw this.#lost(error, signal);
    } finally {
      hangUp.abort();
    }
  }

  close() {}

  async #fetch(route, payload, signal, requestId) {
    const { method, path } = await this.#route(route, signal);
    const rest = { ...payload };
    const filled = path.replace(/\{(\w+)\}/g, (_, name) => {
      const value = rest[name];
      delete rest[name];
      return encodeURIComponent(value ?? "");
    });
    const headers = { "X-Request-Id": requestId };
    const token = await this.token();
    if (token) headers.Authorization = `Bearer ${token}`;
    const request = { method, headers, signal, cache: "no-store", credentials: "omit" };
    let query = "";
    if (IN_QUERY.has(method)) {
      query = queryOf(rest);
    } else {
      headers["Content-Type"] = "application/json";
      request.body = JSON.stringify(rest);
    }
    const response = await this.#reach(this.url + filled + query, request, signal);
    if (!response.ok) throw await problemOf(response);
    return response;
  }

  async #reach(address, request, signal) {
    try {
      return await fetch(address, request);
    } catch (error) {
      if (signal?.aborted) throw aborted(signal);
      throw failure("server-unreachable", `nothing answers at ${this.url}`, { cause: error });
    }
  }

  async #route(route, signal) {
    this.#routes ??= await this.#table(signal);
    const found = this.#routes.get(route);
    if (found) return found;
    throw new TabAgentError({
      code: "not-found",
      status: 404,
      title: "There is nothing here",
      detail: `there is no operation named '${route}'`,
      retryable: false,
    });
  }

  async #table(signal) {
    const response = await this.#reach(`${this.url}/v1/routes`, { cache: "no-store" }, signal);
    if (!response.ok) throw await problemOf(response);
    const table = new Map();
    for (const { route, method, path } of (await response.json()).routes) {
      if (!table.has(route)) table.set(route, { method, path }); // aliases come after
    }
    return table;
  }

  async #json(response, signal) {
    try {
      return await response.json();
    } catch (error) {
      if (error instanceof SyntaxError) throw failure("malformed-reply", error.message);
      throw this.#lost(error, signal);
    }
  }

  #lost(error, signal) {
    if (error instanceof TabAgentError) return error;
    if (signal?.aborted) return aborted(signal);
    const code = error instanceof SyntaxError || error instanceof RangeError;
    return failure(code ? "malformed-reply" : "connection-lost", "", { cause: error });
  }
}

function queryOf(fields) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined || value === null) continue;
    query.set(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  return query.size ? `?${query}` : "";
}

async function problemOf(response) {
  const status = response.status;
  try {
    const problem = await response.json();
    if (problem && typeof problem === "object") return new TabAgentError({ status, ...problem });
  } catch {
    // Whatever stands in front of the server does not speak our language.
  }
  return new TabAgentError({
    code: "malformed-reply",
    status,
    title: "TabAgent's reply cannot be read",
    detail: `HTTP ${status} without a problem: is this TabAgent?`,
    retryable: status >= 500,
  });
}
