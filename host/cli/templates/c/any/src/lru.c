#include "lru.h"

#include <stdlib.h>

// A table that grows would pause a call.
#define N_BUCKETS 65536u

struct lru {
  lru_entry *buckets[N_BUCKETS];
  lru_entry order; // its `newer` is the chunk used longest ago, its `older` the one used last
  uint64_t capacity, used, call;
  uint32_t entries_max, n_used;
  lru_dispose *dispose;
  void *context;
};

lru *lru_new(uint64_t capacity, uint32_t entries_max, lru_dispose *dispose, void *context) {
  lru *l = calloc(1, sizeof *l);
  if (!l) return NULL;
  l->order.older = l->order.newer = &l->order;
  l->capacity = capacity;
  l->entries_max = entries_max;
  l->dispose = dispose;
  l->context = context;
  return l;
}

void lru_free(lru *l) {
  if (!l) return;
  for (uint32_t i = 0; i < N_BUCKETS; i++) {
    for (lru_entry *e = l->buckets[i], *next; e; e = next) {
      next = e->next;
      free(e->bytes);
      free(e);
    }
  }
  free(l);
}

void lru_begin(lru *l) { l->call++; }

uint64_t lru_used(const lru *l) { return l->used; }

// Keys are uniformly distributed, so any of their bits are a hash.
static lru_entry **bucket(lru *l, lru_key key) { return &l->buckets[key.lo & (N_BUCKETS - 1)]; }

lru_entry *lru_find(lru *l, lru_key key) {
  lru_entry *e = *bucket(l, key);
  while (e && (e->key.hi != key.hi || e->key.lo != key.lo)) e = e->next;
  return e;
}

static void unlink_order(lru_entry *e) {
  e->older->newer = e->newer;
  e->newer->older = e->older;
}

static void link_newest(lru *l, lru_entry *e) {
  e->older = l->order.older;
  e->newer = &l->order;
  e->older->newer = e;
  l->order.older = e;
}

void lru_use(lru *l, lru_entry *e) {
  e->call = l->call;
  if (e->is_pinned) return;
  unlink_order(e);
  link_newest(l, e);
}

bool lru_pin(lru *l, lru_entry *e) {
  (void)l;
  if (e->is_pinned) return true;
  unlink_order(e);
  e->is_pinned = true;
  return false;
}

bool lru_unpin(lru *l, lru_entry *e) {
  if (!e->is_pinned) return false;
  e->is_pinned = false;
  link_newest(l, e);
  return true;
}

void lru_discard(lru *l, lru_entry *e) {
  l->used -= e->size;
  l->n_used--;
  l->dispose(l->context, e);
  free(e);
}

void lru_remove(lru *l, lru_entry *e) {
  lru_entry **at = bucket(l, e->key);
  while (*at != e) at = &(*at)->next;
  *at = e->next;
  if (!e->is_pinned) unlink_order(e);
  lru_discard(l, e);
}

static bool is_too_full(lru *l, uint64_t used, uint32_t n_used, uint64_t size) {
  return used > l->capacity - size || n_used >= l->entries_max;
}

static bool make_room(lru *l, uint64_t size) {
  if (size > l->capacity) return false;
  uint64_t used = l->used;
  uint32_t n_used = l->n_used;
  for (lru_entry *e = l->order.newer; is_too_full(l, used, n_used, size); e = e->newer) {
    // Chunks of the present call were used last, so they are at the end of the list.
    if (e == &l->order || e->call == l->call) return false;
    used -= e->size;
    n_used--;
  }
  while (is_too_full(l, l->used, l->n_used, size)) lru_remove(l, l->order.newer);
  return true;
}

lru_entry *lru_reserve(lru *l, lru_key key, uint64_t size) {
  if (!make_room(l, size)) return NULL;
  lru_entry *e = calloc(1, sizeof *e);
  if (!e) return NULL;
  e->key = key;
  e->size = size;
  e->call = l->call;
  l->used += size;
  l->n_used++;
  return e;
}

void lru_insert(lru *l, lru_entry *e) {
  lru_entry **at = bucket(l, e->key);
  e->next = *at;
  *at = e;
  link_newest(l, e);
}
