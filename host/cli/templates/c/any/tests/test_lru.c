// The logic of the index: `make test`.
#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "lru.h"

static int n_disposed;

static void dispose(void *context, lru_entry *e) {
  (void)context;
  free(e->bytes);
  n_disposed++;
}

static lru_key key(uint64_t n) { return (lru_key){n, n}; }

// Returns an index with room for `n` chunks of 100 bytes.
static lru *of(uint32_t n) {
  lru *l = lru_new(n * 100, 1000, dispose, NULL);
  assert(l);
  n_disposed = 0;
  return l;
}

// Stores a chunk of 100 bytes in a call.
static bool put(lru *l, uint64_t n) {
  lru_entry *e = lru_reserve(l, key(n), 100);
  if (!e) return false;
  e->bytes = malloc(100);
  lru_insert(l, e);
  return true;
}

static bool has(lru *l, uint64_t n) { return lru_find(l, key(n)) != NULL; }

static void the_chunk_used_longest_ago_makes_room(void) {
  lru *l = of(2);
  for (uint64_t n = 1; n <= 2; n++) {
    lru_begin(l);
    assert(put(l, n));
  }
  lru_begin(l);
  lru_use(l, lru_find(l, key(1)));
  lru_begin(l);
  assert(put(l, 3));
  assert(has(l, 1) && !has(l, 2) && has(l, 3) && n_disposed == 1);
  lru_free(l);
}

static void a_chunk_of_the_same_call_makes_no_room(void) {
  lru *l = of(1);
  lru_begin(l);
  assert(put(l, 1) && !put(l, 2) && has(l, 1));
  lru_begin(l);
  assert(put(l, 2) && !has(l, 1));
  lru_free(l);
}

static void the_number_of_chunks_is_bounded_too(void) {
  lru *l = lru_new(1000, 2, dispose, NULL);
  for (uint64_t n = 1; n <= 3; n++) {
    lru_begin(l);
    assert(put(l, n));
  }
  assert(!has(l, 1) && has(l, 2) && has(l, 3));
  lru_free(l);
}

static void pinned_chunks_stay(void) {
  lru *l = of(2);
  lru_begin(l);
  assert(put(l, 1) && put(l, 2));
  assert(!lru_pin(l, lru_find(l, key(1))) && !lru_pin(l, lru_find(l, key(2))));
  lru_begin(l);
  assert(!put(l, 3));
  assert(lru_unpin(l, lru_find(l, key(1))) && !lru_unpin(l, lru_find(l, key(1))));
  assert(put(l, 3) && !has(l, 1) && has(l, 2));
  lru_free(l);
}

static void removed_and_discarded_chunks_take_no_room(void) {
  lru *l = of(2);
  lru_begin(l);
  assert(put(l, 1) && put(l, 2));
  lru_pin(l, lru_find(l, key(1)));
  lru_remove(l, lru_find(l, key(1)));
  assert(!has(l, 1));
  lru_discard(l, lru_reserve(l, key(3), 100));
  lru_remove(l, lru_find(l, key(2)));
  assert(lru_used(l) == 0 && n_disposed == 3);
  lru_free(l);
}

static void a_chunk_that_can_never_fit_evicts_nothing(void) {
  lru *l = of(1);
  lru_begin(l);
  assert(put(l, 1));
  lru_begin(l);
  assert(!lru_reserve(l, key(2), UINT64_MAX) && !lru_reserve(l, key(2), 101) && has(l, 1));
  lru_free(l);
}

int main(void) {
  the_chunk_used_longest_ago_makes_room();
  a_chunk_of_the_same_call_makes_no_room();
  the_number_of_chunks_is_bounded_too();
  pinned_chunks_stay();
  removed_and_discarded_chunks_take_no_room();
  a_chunk_that_can_never_fit_evicts_nothing();
  puts("6 tests passed");
  return 0;
}
