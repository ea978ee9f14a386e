// Which chunks are present, and which one is evicted first. It knows nothing of components: test it natively.
#ifndef LRU_H
#define LRU_H

#include <stdbool.h>
#include <stdint.h>

// Most chunks, whatever their size, so that the index does not outgrow the memory.
#define LRU_ENTRIES_MAX 100000u

typedef struct {
  uint64_t hi, lo;
} lru_key;

typedef struct lru_entry {
  lru_key key;
  uint64_t size;
  // Where the chunk is: in memory, or in the file with this number.
  uint8_t *bytes;
  uint64_t file;

  bool is_pinned;
  uint64_t call;                   // the last call that used it
  struct lru_entry *next;          // in its bucket
  struct lru_entry *older, *newer; // by last use; only chunks that may be evicted are in this list
} lru_entry;

typedef struct lru lru;

// Disposes of what an entry stands for, before the entry is freed: it is evicted, removed or discarded.
typedef void lru_dispose(void *context, lru_entry *e);

// Returns an index for at most `capacity` bytes of chunks, or NULL if there is no memory. Freeing it frees
// chunks in memory, and disposes of nothing: files stay.
lru *lru_new(uint64_t capacity, uint32_t entries_max, lru_dispose *dispose, void *context);
void lru_free(lru *l);

// Begins a call. Chunks that a call uses or stores make no room for others of the same call.
void lru_begin(lru *l);

// Returns the chunk, or NULL if it is absent.
lru_entry *lru_find(lru *l, lru_key key);

// Counts a use.
void lru_use(lru *l, lru_entry *e);

// Returns an entry with reserved room, which `lru_find` does not find yet, or NULL if there is no room. Evicts chunks
// for it, but none if that is not enough.
lru_entry *lru_reserve(lru *l, lru_key key, uint64_t size);

// Makes a reserved chunk present, or gives its room back.
void lru_insert(lru *l, lru_entry *e);
void lru_discard(lru *l, lru_entry *e);

// Protects a chunk from eviction, or ends that. Reports whether it was protected before.
bool lru_pin(lru *l, lru_entry *e);
bool lru_unpin(lru *l, lru_entry *e);

// Removes a chunk, protected or not.
void lru_remove(lru *l, lru_entry *e);

// Returns the bytes of the chunks that are present or reserved.
uint64_t lru_used(const lru *l);

#endif
