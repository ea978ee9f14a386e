// Which chunks are present, and which one is evicted first. It knows nothing of components: test it in Node.js.

// Most chunks, whatever their size, so that the index does not outgrow the memory.
const ENTRIES_MAX = 100_000;

/** At most `capacity` bytes of chunks, each with a value. */
export class Lru {
  #chunks = new Map();
  // The keys that may be evicted, the one used longest ago first: a set keeps the order of insertion.
  #order = new Set();

  constructor(capacity, entriesMax = ENTRIES_MAX) {
    this.capacity = capacity;
    this.entriesMax = entriesMax;
    // Bytes and number of the chunks that are present or reserved.
    this.used = 0;
    this.nUsed = 0;
  }

  /** Returns the value of a chunk, or undefined. */
  get(key) {
    return this.#chunks.get(key)?.value;
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
   * Makes room for a chunk of `size` bytes, and evicts none of the keys in `keep`. Returns the values of evicted
   * chunks, or undefined if there is no room; nothing is evicted then. Call `insert` or `release` afterwards.
   */
  reserve(size, keep) {
    let bytesMissing = this.used + size - this.capacity;
    let entriesMissing = this.nUsed + 1 - this.entriesMax;
    const evicted = [];
    for (const key of this.#order) {
      if (bytesMissing <= 0 && entriesMissing <= 0) break;
      if (keep.has(key)) continue;
      evicted.push(key);
      bytesMissing -= this.#chunks.get(key).size;
      entriesMissing -= 1;
    }
    if (bytesMissing > 0 || entriesMissing > 0) return undefined;
    const values = evicted.map((key) => this.remove(key));
    this.used += size;
    this.nUsed += 1;
    return values;
  }

  /** Gives back the room that was reserved for a chunk. */
  release(size) {
    this.used -= size;
    this.nUsed -= 1;
  }

  /** Makes a chunk present that was absent, and for which there is reserved room. */
  insert(key, size, value) {
    this.#chunks.set(key, { size, value });
    this.#order.add(key);
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

  /** Removes a chunk, protected or not. Returns its value, or undefined if it was absent. */
  remove(key) {
    const chunk = this.#chunks.get(key);
    if (chunk === undefined) return undefined;
    this.#chunks.delete(key);
    this.#order.delete(key);
    this.release(chunk.size);
    return chunk.value;
  }
}
