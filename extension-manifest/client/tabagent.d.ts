// Types of the client library. What each operation takes and gives is in the server's OpenAPI
// description (`/api-doc/openapi.json`); here are the ways to ask.

/** RFC 9457 problem details, with members of their own for some codes. */
export interface Problem {
  code: string;
  status: number;
  title: string;
  detail: string;
  retryable: boolean;
  type?: string;
  instance?: string;
  param?: string;
  [member: string]: unknown;
}

/**
 * Every failure. Beside the server's codes there are our own: `connection-lost`,
 * `server-unreachable`, `host-not-found`, `host-forbidden`, `no-transport`, `fell-behind`,
 * `malformed-reply`, `cancelled`, `closed`. An aborted request rejects with the signal's reason.
 */
export class TabAgentError extends Error {
  constructor(problem: Partial<Problem>, options?: ErrorOptions);
  readonly problem: Problem;
  readonly code: string;
  readonly status: number;
  readonly retryable: boolean;
  /** Of `no-transport`, and of a failed connection: why each way failed. */
  causes?: Partial<Record<TransportName, TabAgentError>>;
}

export type TransportName = "native" | "http" | "webrtc";
export type Payload = Record<string, unknown>;

export interface Options {
  /** Tried in this order. Default: native, then http. */
  transports?: TransportName[];
  /** Of the server, for http and for the signalling of webrtc. Default: http://127.0.0.1:8080 */
  url?: string;
  /** What `pair` gave, or a function that finds it. Native needs none: the browser vouches. */
  token?: string | null | (() => string | null | Promise<string | null>);
  /** Of the native host. Default: tabagent.host */
  host?: string;
  /** Milliseconds in which a lost stream is tried to be followed again. Default: 60000 */
  resumeFor?: number;
  /** What one stream may hold that is not read yet. Default: 1024 items, 4 MiB */
  queue?: { items?: number; bytes?: number };
  /** What the offer and the answer of webrtc go over. Default: http */
  signalling?: "http" | "native";
  /** For webrtc beyond this machine. */
  iceServers?: RTCIceServer[];
}

export interface RequestOptions {
  /** Aborting it ends the request, on the server as well. */
  signal?: AbortSignal;
  /** A UUID. With it the request can be stopped, and its answer resumed. */
  requestId?: string;
}

export interface Hello {
  version: string;
  url: string | null;
  caller: string;
  access: "public" | "user" | "admin";
  origin: string;
  state: "open" | "paired" | "pairing-required";
  code: string | null;
  client_id: string | null;
  transports: string[];
  webrtc: boolean;
}

export interface Pending {
  state: "pending";
  code: string;
  secret: string;
  expires_at: string;
}

export interface Paired {
  state: "paired";
  token: string;
  client_id: string;
  access: "user" | "admin";
  url: string | null;
}

/** `connection`: where we stand. */
export interface ConnectionDetail {
  state: "connecting" | "connected" | "lost";
  transport: TransportName | null;
  hello?: Hello;
  error?: TabAgentError;
}

/** `status`: what the native host says of the server that it starts. */
export interface StatusDetail {
  state: "starting" | "connected";
  elapsed_ms?: number;
  version?: string;
}

interface EventMap {
  connection: CustomEvent<ConnectionDetail>;
  status: CustomEvent<StatusDetail>;
  token: CustomEvent<{ token: string; url: string | null; client_id: string }>;
  problem: CustomEvent<TabAgentError>;
}

/** The events of one request. Loop over it once. */
export class EventStream<Event = any> implements AsyncIterable<Event> {
  readonly requestId: string;
  /** Number of the last event given out; -1 before the first. */
  readonly seq: number;
  [Symbol.asyncIterator](): AsyncGenerator<Event, void, void>;
  /** The text of an answer as it grows. */
  text(): AsyncGenerator<string, void, void>;
  /** All of the text. */
  whole(): Promise<string>;
}

export class TabAgent extends EventTarget {
  constructor(options?: Options);
  token: Options["token"];
  url: string;
  readonly hello: Hello | null;
  /** The transport in use. */
  readonly via: TransportName | null;
  connect(options?: { signal?: AbortSignal }): Promise<Hello>;
  call<Reply = any>(route: string, payload?: Payload, options?: RequestOptions): Promise<Reply>;
  stream<Event = any>(
    route: string,
    payload?: Payload,
    options?: RequestOptions,
  ): EventStream<Event>;
  /** Follow an answer that was begun before, here or elsewhere, from event number `from` on. */
  resume<Event = any>(
    requestId: string,
    from?: number,
    options?: { signal?: AbortSignal },
  ): EventStream<Event>;
  /** What changes on the server, through lost connections, until the server stops in order. */
  events(options?: { signal?: AbortSignal }): AsyncGenerator<any, void, void>;
  pair(options?: {
    name?: string;
    signal?: AbortSignal;
    onPending?: (pending: Pending) => void;
  }): Promise<Paired>;
  chat(asked: Payload | Payload[], options?: RequestOptions): EventStream;
  models(options?: RequestOptions): Promise<any[]>;
  embeddings(input: string | string[], options?: RequestOptions): Promise<number[][]>;
  health(options?: RequestOptions): Promise<any>;
  reconnect(): void;
  close(): void;
  addEventListener<K extends keyof EventMap>(
    type: K,
    listener: (event: EventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

/** What one event of chat, generate, responses or rag adds to the text. */
export function textOf(event: unknown): string;
