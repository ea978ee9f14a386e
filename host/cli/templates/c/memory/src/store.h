// Chunks in memory, the ones used longest ago evicted first. It knows nothing of components: test it natively.
#ifndef STORE_H
#define STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint64_t hi, lo;
} store_key;

typedef struct chunk {
  store_key key;
  uint8_t *bytes;
  size_t size;
  bool is_pinned;
  uint64_t call;              // the last call that used it
  struct chunk *next;         // in its bucket
  struct chunk *older, *newer; // by last use; only chunks that may be evicted are in this list
} chunk;

typedef struct store store;

// Returns a store for at most `capacity` bytes of chunks, or NULL if there is no memory.
store *store_new(uint64_t capacity);
void store_free(store *s);

// Begins a call. Chunks that a call uses or stores make no room for others of the same call.
void store_begin(store *s);

// Returns the chunk, or NULL if it is absent.
chunk *store_find(store *s, store_key key);

// Counts a use.
void store_use(store *s, chunk *c);

// Returns a new chunk with room for `size` bytes, which `store_find` does not find yet, or NULL if there is no room.
// Evicts chunks for it, but none if that is not enough.
chunk *store_reserve(store *s, store_key key, uint64_t size);

// Makes a reserved chunk present, or gives its room back.
void store_insert(store *s, chunk *c);
void store_discard(store *s, chunk *c);

// Protects a chunk from eviction, or ends that. Reports whether it was protected before.
bool store_pin(store *s, chunk *c);
bool store_unpin(store *s, chunk *c);

// Removes a chunk, protected or not.
void store_remove(store *s, chunk *c);

// Returns the bytes that are used, overheads included.
uint64_t store_used(const store *s);

// What a chunk costs beside its bytes, so that many small ones do not outgrow the memory.
#define STORE_OVERHEAD_BYTES (sizeof(chunk) + 32)

#endif
