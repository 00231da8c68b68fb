// Events between a channel that cannot be paused and a consumer that takes its time.

/** Holds so many items and bytes, then refuses: memory does not grow with a slow consumer. */
export class BoundedQueue {
  #items = [];
  #bytes = 0;
  #waiting = null;
  #end = null; // {error} once nothing more comes

  constructor({ items = 1024, bytes = 4 * 2 ** 20 } = {}) {
    this.most = { items, bytes };
  }

  /** Whether it was taken. The first item always is, however large. */
  offer(item, bytes = 0) {
    if (this.#end) return false;
    if (this.#waiting) {
      this.#wake({ value: item, done: false });
      return true;
    }
    const full = this.#items.length >= this.most.items || this.#bytes + bytes > this.most.bytes;
    if (full && this.#items.length) return false;
    this.#items.push([item, bytes]);
    this.#bytes += bytes;
    return true;
  }

  /** Nothing more comes. What is held is still given out, then the error, if there is one. */
  close(error = null) {
    if (this.#end) return;
    this.#end = { error };
    if (this.#waiting && error) this.#waiting.reject(error);
    else if (this.#waiting) this.#wake({ value: undefined, done: true });
    this.#waiting = null;
  }

  /** Let go of what is held as well. */
  drop(error = null) {
    this.#items = [];
    this.#bytes = 0;
    this.#end = null;
    this.close(error);
  }

  /** @returns {Promise<IteratorResult<any>>} */
  next() {
    const first = this.#items.shift();
    if (first) {
      this.#bytes -= first[1];
      return Promise.resolve({ value: first[0], done: false });
    }
    if (this.#end) {
      const { error } = this.#end;
      this.#end = { error: null }; // told once
      return error ? Promise.reject(error) : Promise.resolve({ value: undefined, done: true });
    }
    return new Promise((resolve, reject) => (this.#waiting = { resolve, reject }));
  }

  #wake(result) {
    const { resolve } = this.#waiting;
    this.#waiting = null;
    resolve(result);
  }
}
