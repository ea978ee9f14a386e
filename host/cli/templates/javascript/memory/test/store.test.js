// The logic of the store: `npm test`.
import assert from 'node:assert/strict';
import test from 'node:test';

import { OVERHEAD_BYTES, Store } from '../src/store.js';

/** Returns a store with room for chunks of 100 bytes. */
const of = (nChunks) => new Store(nChunks * (100 + OVERHEAD_BYTES));

function put(store, key, keep = new Set()) {
  if (!store.makeRoom(100, keep)) return false;
  store.insert(key, new Uint8Array(100));
  return true;
}

test('the chunk used longest ago makes room', () => {
  const store = of(2);
  assert.ok(put(store, 'a') && put(store, 'b'));
  store.use(['a']);
  assert.ok(put(store, 'c'));
  assert.deepEqual(['a', 'b', 'c'].map((key) => store.get(key) !== undefined), [true, false, true]);
});

test('the head of a call counts as used last', () => {
  const store = of(2);
  put(store, 'a');
  put(store, 'b');
  store.use(['a', 'b']);
  put(store, 'c');
  assert.equal(store.leadingRun(['a', 'b']), 1);
});

test('a chunk of the same call makes no room', () => {
  const store = of(1);
  assert.ok(put(store, 'a'));
  assert.ok(!put(store, 'b', new Set(['a'])));
  assert.equal(store.leadingRun(['a']), 1);
});

test('pinned chunks stay', () => {
  const store = of(2);
  put(store, 'a');
  put(store, 'b');
  assert.equal(store.pin(['a', 'b', 'c']), 2);
  assert.ok(!put(store, 'c'));
  assert.equal(store.unpin(['a', 'a', 'c']), 1);
  assert.equal(store.unpin(['a']), 0);
  assert.ok(put(store, 'c'));
  assert.equal(store.leadingRun(['b']), 1);
});

test('removed chunks are gone and take no room', () => {
  const store = of(2);
  put(store, 'a');
  put(store, 'b');
  store.pin(['a']);
  assert.equal(store.remove(['a', 'a', 'b', 'c']), 2);
  assert.deepEqual([store.used, store.leadingRun(['a'])], [0, 0]);
});
