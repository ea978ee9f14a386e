// The logic of the store: `make test`.
#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "store.h"

static store_key key(uint64_t n) { return (store_key){n, n}; }

// Returns a store with room for chunks of 100 bytes.
static store *of(uint64_t n_chunks) {
  store *s = store_new(n_chunks * (100 + STORE_OVERHEAD_BYTES));
  assert(s);
  return s;
}

static bool put(store *s, uint64_t n) {
  chunk *c = store_reserve(s, key(n), 100);
  if (!c) return false;
  memset(c->bytes, (int)n, 100);
  store_insert(s, c);
  return true;
}

static bool has(store *s, uint64_t n) { return store_find(s, key(n)) != NULL; }

static void the_chunk_used_longest_ago_makes_room(void) {
  store *s = of(2);
  for (uint64_t n = 1; n <= 2; n++) {
    store_begin(s);
    assert(put(s, n));
  }
  store_begin(s);
  store_use(s, store_find(s, key(1)));
  store_begin(s);
  assert(put(s, 3));
  assert(has(s, 1) && !has(s, 2) && has(s, 3));
  store_free(s);
}

static void a_chunk_of_the_same_call_makes_no_room(void) {
  store *s = of(1);
  store_begin(s);
  assert(put(s, 1) && !put(s, 2) && has(s, 1));
  store_begin(s);
  assert(put(s, 2) && !has(s, 1));
  store_free(s);
}

static void pinned_chunks_stay(void) {
  store *s = of(2);
  store_begin(s);
  assert(put(s, 1) && put(s, 2));
  assert(!store_pin(s, store_find(s, key(1))) && !store_pin(s, store_find(s, key(2))));
  store_begin(s);
  assert(!put(s, 3));
  assert(store_unpin(s, store_find(s, key(1))) && !store_unpin(s, store_find(s, key(1))));
  assert(put(s, 3) && !has(s, 1) && has(s, 2));
  store_free(s);
}

static void removed_and_discarded_chunks_take_no_room(void) {
  store *s = of(2);
  store_begin(s);
  assert(put(s, 1) && put(s, 2));
  store_pin(s, store_find(s, key(1)));
  store_remove(s, store_find(s, key(1)));
  assert(!has(s, 1));
  store_discard(s, store_reserve(s, key(3), 100));
  store_remove(s, store_find(s, key(2)));
  assert(store_used(s) == 0);
  store_free(s);
}

static void a_chunk_that_can_never_fit_evicts_nothing(void) {
  store *s = of(1);
  store_begin(s);
  assert(put(s, 1));
  store_begin(s);
  assert(!store_reserve(s, key(2), UINT64_MAX) && !store_reserve(s, key(2), 1000) && has(s, 1));
  store_free(s);
}

int main(void) {
  the_chunk_used_longest_ago_makes_room();
  a_chunk_of_the_same_call_makes_no_room();
  pinned_chunks_stay();
  removed_and_discarded_chunks_take_no_room();
  a_chunk_that_can_never_fit_evicts_nothing();
  puts("5 tests passed");
  return 0;
}
