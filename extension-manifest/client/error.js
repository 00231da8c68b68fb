// Every failure is one of these: the server's problem details (RFC 9457), or one of our own.

/** What went wrong, with the whole problem. `code` is what programs compare. */
export class TabAgentError extends Error {
  /**
   * @param {Record<string, any>} problem
   * @param {ErrorOptions} [options]
   */
  constructor(problem, options) {
    super(problem.detail || problem.title || problem.code || "TabAgent failed", options);
    this.name = "TabAgentError";
    this.problem = problem;
  }

  get code() {
    return this.problem.code ?? "internal-error";
  }

  get status() {
    return this.problem.status ?? 500;
  }

  get retryable() {
    return Boolean(this.problem.retryable);
  }
}

/** Ours: what no server said. They have the shape of the server's. */
const OWN = {
  "connection-lost": [503, "The connection to TabAgent was lost", true],
  "server-unreachable": [503, "TabAgent does not answer", true],
  "host-not-found": [503, "The browser knows no native host of TabAgent", false],
  "host-forbidden": [403, "The native host does not accept this extension", false],
  "no-transport": [503, "No way leads to TabAgent", true],
  "fell-behind": [503, "The events came faster than they were read", true],
  "malformed-reply": [502, "TabAgent's reply cannot be read", false],
  cancelled: [499, "The request was cancelled", false],
  closed: [499, "This client was closed", false],
};

/**
 * @param {keyof typeof OWN} code
 * @param {string} [detail]
 * @param {ErrorOptions} [options]
 */
export function failure(code, detail, options) {
  const [status, title, retryable] = OWN[code];
  return new TabAgentError({ code, status, title, detail: detail || title, retryable }, options);
}

/** @param {AbortSignal} signal */
export function aborted(signal) {
  return signal.reason ?? new DOMException("The request was cancelled", "AbortError");
}
