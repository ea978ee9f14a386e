// Chunks in memory, the ones used longest ago evicted first. It knows nothing of components: test it in Node.js.

// What a chunk costs beside its bytes, so that many small ones do not outgrow the memory.
export const OVERHEAD_BYTES = 256;

/** At most `capacity` bytes of chunks. */
export class Store {
  #chunks = new Map();
  // The keys that may be evicted, the one used longest ago first: a set keeps the order of insertion.
  #order = new Set();

  constructor(capacity) {
    this.capacity = capacity;
    this.used = 0;
  }

  /** Returns the bytes of a chunk, or undefined. */
  get(key) {
    return this.#chunks.get(key);
  }

  /** Returns how many of the keys, counted from the first, are present without a gap. */
  leadingRun(keys) {
    const n = keys.findIndex((key) => !this.#chunks.has(key));
    return n < 0 ? keys.length : n;
  }

  /** Counts a use of each key. The first one counts as used last: a tail without its head is of no use. */
  use(keys) {
    for (const key of keys.toReversed()) {
      if (this.#order.delete(key)) this.#order.add(key);
    }
  }

  /**
   * Evicts chunks until one of `size` bytes fits, but none of the keys in `keep`. Evicts nothing if that is not enough.
   * Reports whether there is room.
   */
  makeRoom(size, keep) {
    let missing = this.used + size + OVERHEAD_BYTES - this.capacity;
    const evicted = [];
    for (const key of this.#order) {
      if (missing <= 0) break;
      if (keep.has(key)) continue;
      evicted.push(key);
      missing -= this.#chunks.get(key).length + OVERHEAD_BYTES;
    }
    if (missing > 0) return false;
    evicted.forEach((key) => this.#drop(key));
    return true;
  }

  /** Stores a chunk that is absent. `makeRoom` was called before. */
  insert(key, chunk) {
    this.#chunks.set(key, chunk);
    this.#order.add(key);
    this.used += chunk.length + OVERHEAD_BYTES;
  }

  /** Protects the leading run of the keys from eviction. Returns its length. */
  pin(keys) {
    const n = this.leadingRun(keys);
    keys.slice(0, n).forEach((key) => this.#order.delete(key));
    return n;
  }

  /** Ends the protection. Returns how many of the keys were protected. */
  unpin(keys) {
    const pinned = [...new Set(keys)].filter((key) => this.#chunks.has(key) && !this.#order.has(key));
    pinned.forEach((key) => this.#order.add(key));
    return pinned.length;
  }

  /** Removes chunks, protected or not. Returns how many were present. */
  remove(keys) {
    return keys.filter((key) => this.#drop(key)).length;
  }

  #drop(key) {
    const chunk = this.#chunks.get(key);
    if (chunk === undefined) return false;
    this.#chunks.delete(key);
    this.#order.delete(key);
    this.used -= chunk.length + OVERHEAD_BYTES;
    return true;
  }
}
