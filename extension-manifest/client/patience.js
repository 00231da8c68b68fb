// How long to wait before the next attempt, and waiting itself.

import { aborted } from "./error.js";

const DELAYS_MS = [0, 200, 500, 1000, 2000, 4000, 8000];

/** Milliseconds before attempt number `attempt` (from 0), a little different for everybody. */
export function delay(attempt) {
  const longest = DELAYS_MS[Math.min(attempt, DELAYS_MS.length - 1)];
  return longest * (0.8 + 0.4 * Math.random());
}

/** @returns {Promise<void>} */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(aborted(signal));
    const stop = () => {
      clearTimeout(timer);
      reject(aborted(signal));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Waits longer from attempt to attempt, until so many milliseconds have gone by without success. */
export class Patience {
  first = null; // what failed first
  #attempt = 0;
  #since = 0;

  constructor(most) {
    this.most = most;
  }

  over() {
    this.first = null;
    this.#attempt = 0;
  }

  /** Throws what failed first, when it has taken too long. */
  async longer(error, signal) {
    if (!this.first) [this.first, this.#since] = [error, Date.now()];
    if (Date.now() - this.#since > this.most) throw this.first;
    await pause(error.code === "fell-behind" ? 0 : delay(this.#attempt++), signal);
  }
}
