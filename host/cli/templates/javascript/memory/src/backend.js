// The class `Backend` of the contract. Each method is described in wit/deps/kvtier-storage/backend.wit.
//
// A method of the type `result` returns the value, or throws the error: a tag, and a text where the contract has one.
// In a list, each result is an object of its own: `ok` and `err` make them.
import { get as limit } from 'kvtier:storage/limits@0.1.0';
import { log } from 'kvtier:storage/logging@0.1.0';

import { Lru } from './lru.js';

const CAPACITY_DEFAULT = 32 << 20;
// What else has to fit `limits.memory`: the language, the index, and chunks on their way.
const OTHER_BYTES = 16 << 20;
// `read` and `write` copy at most `limits.hostcall_bytes` in a call.
const PIECE_BYTES = 1 << 20;

// A small u64 is a number and a large one a BigInt, so a key becomes a text.
const names = (keys) => keys.map((key) => `${key.hi}.${key.lo}`);
const ok = (val) => ({ tag: 'ok', val });
const err = (e) => ({ tag: 'err', val: e?.payload ?? (e?.tag ? e : { tag: 'other', val: String(e) }) });
const invalid = (text) => ({ tag: 'err', val: { tag: 'invalid-config', val: text } });
// Handles are limited, and the garbage collector may come late.
const drop = (handle) => handle[Symbol.dispose]?.();

function attempt(f) {
  try {
    return ok(f());
  } catch (e) {
    return err(e);
  }
}

function read(data, i, size) {
  const chunk = new Uint8Array(size);
  for (let at = 0; at < size; at += PIECE_BYTES) {
    chunk.set(data.read(i, at, Math.min(PIECE_BYTES, size - at)), at);
  }
  return chunk;
}

class Backend {
  // A constructor that can fail returns a result. An exception in it would be a trap.
  constructor(init) {
    const { capacity = String(CAPACITY_DEFAULT), ...others } = Object.fromEntries(init.config);
    for (const key of Object.keys(others)) {
      return invalid(`config.${key}: unknown key; this backend knows capacity`);
    }
    if (!/^[1-9][0-9]{0,14}$/.test(capacity)) {
      return invalid('config.capacity: expected a number of bytes, at least 1');
    }
    const memory = Number(limit('memory') ?? Infinity);
    if (Number(capacity) + OTHER_BYTES > memory) {
      return invalid(`config.capacity: ${capacity} bytes and ${OTHER_BYTES} more do not fit limits.memory: ${memory}`);
    }
    this.chunks = new Lru(Number(capacity));
    log('debug', `keeps ${capacity} bytes of chunks of ${init.metadata.modelName}`);
    return ok(this);
  }

  async open() {}

  async contains(keys, pinning) {
    return pinning === 'pin' ? this.chunks.pin(names(keys)) : this.chunks.leadingRun(names(keys));
  }

  async put(keys, data) {
    try {
      const stored = new Set();
      const results = names(keys).map((key, i) => attempt(() => this.#putOne(key, data, i, stored)));
      this.chunks.use(names(keys));
      return results;
    } finally {
      drop(data);
    }
  }

  #putOne(key, data, i, stored) {
    if (this.chunks.get(key) === undefined) {
      const size = Number(data.len(i));
      if (this.chunks.reserve(size, stored) === undefined) throw { tag: 'no-space' };
      try {
        this.chunks.insert(key, size, read(data, i, size));
      } catch (e) {
        this.chunks.release(size);
        throw e;
      }
    }
    stored.add(key); // no chunk of a call makes room for another one of the same call
  }

  async get(keys, into) {
    try {
      this.chunks.use(names(keys));
      return names(keys).map((key, i) => attempt(() => this.#getOne(key, into, i)));
    } finally {
      drop(into);
    }
  }

  #getOne(key, into, i) {
    const chunk = this.chunks.get(key);
    if (chunk === undefined) return undefined;
    // A larger chunk is not the one that the host wants.
    if (chunk.length <= Number(into.capacity(i))) {
      for (let at = 0; at < chunk.length; at += PIECE_BYTES) {
        into.write(i, at, chunk.subarray(at, at + PIECE_BYTES));
      }
    }
    return chunk.length;
  }

  async pin(keys) {
    return this.chunks.pin(names(keys));
  }

  async unpin(keys) {
    return this.chunks.unpin(names(keys));
  }

  async remove(keys) {
    return names(keys).filter((key) => this.chunks.remove(key) !== undefined).length;
  }

  async close() {}
}

export const backend = { Backend };
