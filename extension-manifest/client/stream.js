// A stream that outlives its connection: every event has a number, and the rest is asked for again.

import { failure } from "./error.js";
import { Patience } from "./patience.js";

const LOST = new Set(["connection-lost", "server-unreachable", "no-transport"]);
/** What the server keeps for whoever comes back. Over HTTP it does so only when it is asked to. */
const LASTING = new Set(["chat", "generate", "responses", "rag"]);

/** Whether the connection failed, and not the request: another may do. */
export const lost = (error) => LOST.has(error?.code);

/** Whether its transport is of no more use. */
export const gone = (error) => lost(error) || /^host-/.test(error?.code);

/**
 * The events of one request. Loop over it once. `requestId` and `seq` (of the last event given out,
 * -1 before the first) are all that is needed to go on elsewhere: `agent.resume(requestId, seq + 1)`.
 */
export class EventStream {
  seq = -1;
  #agent;
  #request;
  #events = null;

  /** `request` is {route, payload, requestId, signal, from}; no route: follow what runs already. */
  constructor(agent, request) {
    this.#agent = agent;
    this.#request = request;
    this.requestId = request.requestId;
    this.seq = request.from - 1;
  }

  [Symbol.asyncIterator]() {
    this.#events ??= this.#follow();
    return this.#events;
  }

  /** The text of the answer as it grows: what chat, generate, responses and rag say. */
  async *text() {
    for await (const event of this) {
      const piece = textOf(event);
      if (piece) yield piece;
    }
  }

  /** The whole text. */
  async whole() {
    let text = "";
    for await (const piece of this.text()) text += piece;
    return text;
  }

  async *#follow() {
    const { signal, route } = this.#request;
    const wait = new Patience(this.#agent.resumeFor);
    let begun = !route; // it may be running there
    let keptByServer = begun; // and goes on without us
    let ended = false;
    try {
      for (;;) {
        let transport = null;
        try {
          transport = await this.#agent.transport(signal);
          const events = begun ? this.#rest(transport) : this.#begin(transport);
          keptByServer ||= transport.name === "http" && LASTING.has(route);
          for await (const { seq, data } of events) {
            if (seq <= this.seq) continue; // it was told twice
            if (seq > this.seq + 1) throw failure("fell-behind", "events are missing");
            begun = true;
            this.seq = seq;
            wait.over();
            yield data;
          }
          ended = true;
          return;
        } catch (error) {
          if (signal?.aborted) throw error;
          begun ||= error.code === "connection-lost";
          if (gone(error)) this.#agent.mislay(transport, error);
          else if (error.code !== "fell-behind") {
            ended = true;
            // Unknown there: it was never kept, or its server is gone. What failed first says more.
            throw error.code === "request-not-found" ? (wait.first ?? error) : error;
          }
          if (!begun || (!lost(error) && error.code !== "fell-behind")) throw error;
          keptByServer = true;
          await wait.longer(error, signal);
        }
      }
    } finally {
      // Where hanging up does not end the answer, somebody has to say so.
      if (!ended && keptByServer) this.#agent.abandon(this.requestId);
    }
  }

  #begin(transport) {
    const { route, payload, requestId, signal } = this.#request;
    const asked = { ...payload, stream: true };
    if (transport.name === "http" && LASTING.has(route) && !asked.detach) {
      asked.resume_ttl ??= Math.ceil(this.#agent.resumeFor / 1000);
    }
    return transport.stream(route, asked, { requestId, signal, goOn: LASTING.has(route) });
  }

  #rest(transport) {
    const from = this.seq + 1;
    const asked = { request_id: this.requestId, from, stream: true };
    const requestId = crypto.randomUUID();
    return transport.stream("resume_generation", asked, {
      requestId,
      signal: this.#request.signal,
      from,
    });
  }
}

/** What an event adds to the answer's text; nothing for others. */
export function textOf(event) {
  const choice = event?.choices?.[0];
  if (choice) return choice.delta?.content ?? choice.text ?? "";
  if (event?.type === "delta") return event.text ?? "";
  if (event?.type === "response.output_text.delta") return event.delta ?? "";
  return "";
}
