// The class `Backend` of the contract. Each method is described in wit/deps/kvtier-storage/backend.wit.
//
// No byte of a chunk passes through JavaScript: the host moves them between its buffers and files. The functions for
// files are those that block, because componentize-qjs does not import asynchronous ones. So calls do not overlap.
//
// A method of the type `result` returns the value, or throws the error: a tag, and a text where the contract has one.
// In a list, each result is an object of its own: `{ tag: 'ok', val }` or `{ tag: 'err', val }`.
import { list, loadAll, remove, storeAll } from 'kvtier:storage/directory-blocking@0.1.0';
import { log } from 'kvtier:storage/logging@0.1.0';

import { fileName, parse } from './files.js';
import { Lru } from './lru.js';

const CAPACITY_DEFAULT = 1 << 30;
// The guest's path of a grant in `allow.fs`.
const ROOT_DEFAULT = '/data';

// A small u64 is a number and a large one a BigInt, so a key becomes a text.
const hex = (n) => n.toString(16).padStart(16, '0');
const names = (keys) => keys.map((key) => hex(key.hi) + hex(key.lo));
const ok = (val) => ({ tag: 'ok', val });
const NO_SPACE = { tag: 'err', val: { tag: 'no-space' } };
const invalid = (text) => ({ tag: 'err', val: { tag: 'invalid-config', val: text } });
// Handles are limited, and the garbage collector may come late.
const drop = (handle) => handle[Symbol.dispose]?.();

class Backend {
  // A constructor that can fail returns a result. An exception in it would be a trap.
  constructor(init) {
    const settings = Object.fromEntries(init.config);
    const { capacity = String(CAPACITY_DEFAULT), root = ROOT_DEFAULT, ...others } = settings;
    for (const key of Object.keys(others)) {
      return invalid(`config.${key}: unknown key; this backend knows capacity and root`);
    }
    if (!/^[1-9][0-9]{0,14}$/.test(capacity)) {
      return invalid('config.capacity: expected a number of bytes, at least 1');
    }
    // Engines with other models or layouts have other namespaces.
    this.directory = `${root.replace(/\/+$/, '')}/${init.namespace}`;
    this.chunks = new Lru(Number(capacity));
    this.nextNumber = 0;
    return ok(this);
  }

  async open() {
    let entries = list(this.directory, '');
    while (entries.length > 0) {
      const last = entries.at(-1).name;
      // Within a page, the oldest file counts as used longest ago.
      entries.sort((a, b) => Number(a.modifiedNs) - Number(b.modifiedNs));
      for (const name of entries.flatMap((entry) => this.#takeIn(entry))) {
        remove(`${this.directory}/${name}`);
      }
      entries = list(this.directory, last);
    }
  }

  /** Takes in a file, and returns the names of those to remove instead. */
  #takeIn(entry) {
    const file = parse(entry.name);
    if (file === undefined || entry.kind !== 'file') return [];
    this.nextNumber = Math.max(this.nextNumber, file.number + 1);
    if (file.isTemporary || this.chunks.get(file.key) !== undefined) return [entry.name];
    const evicted = this.chunks.reserve(Number(entry.size), new Set());
    if (evicted === undefined) return [entry.name];
    this.chunks.insert(file.key, Number(entry.size), entry.name);
    return evicted;
  }

  async contains(keys, pinning) {
    return pinning === 'pin' ? this.chunks.pin(names(keys)) : this.chunks.leadingRun(names(keys));
  }

  async put(keys, data) {
    try {
      const { results, writing, evicted } = this.#reserve(names(keys), data);
      this.#removeFiles(evicted);
      const files = writing.map(({ index, name }) => ({ index, temporary: `${name}.tmp`, name }));
      const stored = storeAll(data, this.directory, files, 'cached');
      writing.forEach((chunk, i) => this.#finish(chunk, stored[i], results));
      this.chunks.use(names(keys));
      return names(keys).map((key) => results.get(key));
    } finally {
      drop(data);
    }
  }

  /**
   * Reserves room for the chunks that are absent, each once. Returns the result of each key, what is to be written, and
   * the files to remove first.
   */
  #reserve(keys, data) {
    const results = new Map();
    const writing = [];
    const evicted = [];
    const keep = new Set(keys); // no chunk of a call makes room for another one of the same call
    keys.forEach((key, index) => {
      if (results.has(key)) return;
      results.set(key, ok());
      if (this.chunks.get(key) !== undefined) return; // a chunk that is present keeps its bytes
      const size = Number(data.len(index));
      const removed = this.chunks.reserve(size, keep);
      if (removed === undefined) {
        results.set(key, NO_SPACE);
        return;
      }
      evicted.push(...removed);
      writing.push({ index, key, size, name: fileName(key, this.nextNumber) });
      this.nextNumber += 1;
    });
    return { results, writing, evicted };
  }

  /** Makes a chunk present if it was written. */
  #finish({ key, size, name }, stored, results) {
    if (stored.tag === 'ok') {
      this.chunks.insert(key, size, name);
    } else {
      this.chunks.release(size);
      results.set(key, stored);
    }
  }

  async get(keys, into) {
    try {
      this.chunks.use(names(keys));
      const all = names(keys).map((key, index) => ({ index, key, name: this.chunks.get(key) }));
      const found = all.filter(({ name }) => name !== undefined);
      const files = found.map(({ index, name }) => ({ index, name }));
      const loaded = loadAll(into, this.directory, files, 'cached');
      const results = all.map(() => ok());
      found.forEach(({ index, key }, i) => {
        results[index] = loaded[i];
        const isGone = loaded[i].tag === 'ok' && loaded[i].val == null;
        if (isGone) this.chunks.remove(key);
      });
      return results;
    } finally {
      drop(into);
    }
  }

  async pin(keys) {
    return this.chunks.pin(names(keys));
  }

  async unpin(keys) {
    return this.chunks.unpin(names(keys));
  }

  async remove(keys) {
    const removed = names(keys).map((key) => this.chunks.remove(key)).filter((name) => name !== undefined);
    for (const name of removed) remove(`${this.directory}/${name}`);
    return removed.length;
  }

  async close() {}

  /** Removes files that the index no longer has. One that stays is taken in again by the next `open`. */
  #removeFiles(removed) {
    for (const name of removed) {
      try {
        remove(`${this.directory}/${name}`);
      } catch (e) {
        log('warn', `cannot remove ${name}: ${(e?.payload ?? e)?.val ?? e}`);
      }
    }
  }
}

export const backend = { Backend };
