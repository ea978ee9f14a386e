#include "store.h"

#include <stdlib.h>

// Enough for a hundred thousand chunks; a table that grows would pause a call.
#define N_BUCKETS 65536u

struct store {
  chunk *buckets[N_BUCKETS];
  chunk order; // its `newer` is the chunk used longest ago, its `older` the one used last
  uint64_t capacity, used, call;
};

store *store_new(uint64_t capacity) {
  store *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->order.older = s->order.newer = &s->order;
  s->capacity = capacity;
  return s;
}

static void discard(chunk *c) {
  free(c->bytes);
  free(c);
}

void store_free(store *s) {
  if (!s) return;
  for (size_t i = 0; i < N_BUCKETS; i++) {
    for (chunk *c = s->buckets[i], *next; c; c = next) {
      next = c->next;
      discard(c);
    }
  }
  free(s);
}

void store_begin(store *s) { s->call++; }

uint64_t store_used(const store *s) { return s->used; }

static uint64_t cost(uint64_t size) { return size + STORE_OVERHEAD_BYTES; }

// Keys are uniformly distributed, so any of their bits are a hash.
static chunk **bucket(store *s, store_key key) { return &s->buckets[key.lo & (N_BUCKETS - 1)]; }

chunk *store_find(store *s, store_key key) {
  chunk *c = *bucket(s, key);
  while (c && (c->key.hi != key.hi || c->key.lo != key.lo)) c = c->next;
  return c;
}

static void unlink_order(chunk *c) {
  c->older->newer = c->newer;
  c->newer->older = c->older;
}

static void link_newest(store *s, chunk *c) {
  c->older = s->order.older;
  c->newer = &s->order;
  c->older->newer = c;
  s->order.older = c;
}

void store_use(store *s, chunk *c) {
  c->call = s->call;
  if (c->is_pinned) return;
  unlink_order(c);
  link_newest(s, c);
}

bool store_pin(store *s, chunk *c) {
  (void)s;
  if (c->is_pinned) return true;
  unlink_order(c);
  c->is_pinned = true;
  return false;
}

bool store_unpin(store *s, chunk *c) {
  if (!c->is_pinned) return false;
  c->is_pinned = false;
  link_newest(s, c);
  return true;
}

void store_remove(store *s, chunk *c) {
  chunk **at = bucket(s, c->key);
  while (*at != c) at = &(*at)->next;
  *at = c->next;
  if (!c->is_pinned) unlink_order(c);
  s->used -= cost(c->size);
  discard(c);
}

// Chunks of the present call were used last, so they are at the end of the list.
static bool is_evictable(store *s, chunk *c) { return c != &s->order && c->call != s->call; }

static bool make_room(store *s, uint64_t size) {
  if (size > s->capacity || cost(size) > s->capacity) return false;
  uint64_t used = s->used;
  for (chunk *c = s->order.newer; used + cost(size) > s->capacity; c = c->newer) {
    if (!is_evictable(s, c)) return false;
    used -= cost(c->size);
  }
  while (s->used + cost(size) > s->capacity) store_remove(s, s->order.newer);
  return true;
}

chunk *store_reserve(store *s, store_key key, uint64_t size) {
  if (!make_room(s, size)) return NULL;
  chunk *c = calloc(1, sizeof *c);
  uint8_t *bytes = malloc(size ? size : 1);
  if (!c || !bytes) {
    free(c);
    free(bytes);
    return NULL;
  }
  *c = (chunk){.key = key, .bytes = bytes, .size = size, .call = s->call};
  s->used += cost(size);
  return c;
}

void store_insert(store *s, chunk *c) {
  chunk **at = bucket(s, c->key);
  c->next = *at;
  *at = c;
  link_newest(s, c);
}

void store_discard(store *s, chunk *c) {
  s->used -= cost(c->size);
  discard(c);
}
