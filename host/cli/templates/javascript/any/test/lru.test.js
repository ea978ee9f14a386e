// The logic of the index: `npm test`.
import assert from 'node:assert/strict';
import test from 'node:test';

import { Lru } from '../src/lru.js';

/** Stores a chunk of 100 bytes whose value is its key. Returns the values of evicted chunks, or undefined. */
function put(lru, key, keep = new Set()) {
  const evicted = lru.reserve(100, keep);
  if (evicted !== undefined) lru.insert(key, 100, key);
  return evicted;
}

test('the chunk used longest ago makes room', () => {
  const lru = new Lru(200);
  assert.deepEqual([put(lru, 'a'), put(lru, 'b')], [[], []]);
  lru.use(['a']);
  assert.deepEqual(put(lru, 'c'), ['b']);
  assert.deepEqual(['a', 'b', 'c'].map((key) => lru.get(key)), ['a', undefined, 'c']);
});

test('the head of a call counts as used last', () => {
  const lru = new Lru(200);
  put(lru, 'a');
  put(lru, 'b');
  lru.use(['a', 'b']);
  assert.deepEqual(put(lru, 'c'), ['b']);
});

test('a chunk of the same call makes no room', () => {
  const lru = new Lru(100);
  put(lru, 'a');
  assert.equal(put(lru, 'b', new Set(['a'])), undefined);
  assert.equal(lru.leadingRun(['a']), 1);
});

test('reserved room is used until it is released', () => {
  const lru = new Lru(200);
  put(lru, 'a');
  assert.deepEqual(lru.reserve(100, new Set()), []);
  assert.equal(lru.reserve(200, new Set()), undefined);
  lru.release(100);
  assert.deepEqual(lru.reserve(200, new Set()), ['a']);
});

test('the number of chunks is bounded too', () => {
  const lru = new Lru(1000, 2);
  assert.deepEqual([put(lru, 'a'), put(lru, 'b'), put(lru, 'c')], [[], [], ['a']]);
});

test('pinned chunks stay', () => {
  const lru = new Lru(200);
  put(lru, 'a');
  put(lru, 'b');
  assert.equal(lru.pin(['a', 'b', 'c']), 2);
  assert.equal(put(lru, 'c'), undefined);
  assert.deepEqual([lru.unpin(['a', 'a', 'c']), lru.unpin(['a'])], [1, 0]);
  assert.deepEqual(put(lru, 'c'), ['a']);
});

test('removed chunks are gone and take no room', () => {
  const lru = new Lru(200);
  put(lru, 'a');
  put(lru, 'b');
  lru.pin(['a']);
  assert.deepEqual(['a', 'a', 'b'].map((key) => lru.remove(key)), ['a', undefined, 'b']);
  assert.deepEqual([lru.used, lru.nUsed, lru.leadingRun(['a'])], [0, 0, 0]);
});
