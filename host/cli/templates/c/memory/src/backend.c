// The class `Backend` of the contract. Each method is described in wit/deps/kvtier-storage/backend.wit.
//
// An argument that is a list or a handle belongs to the method: each method frees it. What it returns belongs to the
// caller. Functions are ordinary ones, but the host sees an asynchronous class.
#include <stdlib.h>
#include <string.h>

#include "contract.h"
#include "lru.h"

#define CAPACITY_DEFAULT (32u << 20)
// `read` and `write` copy at most `limits.hostcall_bytes` in a call. Smaller pieces leave more memory to chunks.
#define PIECE_BYTES (256u << 10)

struct CLASS(backend_t) {
  lru *chunks;
};

static bool fail(error_t *err, uint8_t tag, const char *text) {
  err->tag = tag;
  if (text) backend_string_dup(&err->val.other, text);
  return false;
}

// Operators misspell keys, so the text names the key.
static bool unknown_key(backend_string_t key, error_t *err) {
  char text[128] = "config.";
  size_t n = strlen(text), len = key.len < 64 ? key.len : 64;
  memcpy(text + n, key.ptr, len);
  strcpy(text + n + len, ": unknown key; this backend knows capacity");
  return fail(err, TYPES_ERROR_INVALID_CONFIG, text);
}

static bool is(backend_string_t text, const char *word) {
  return text.len == strlen(word) && !memcmp(text.ptr, word, text.len);
}

// Reads a number of bytes: 1 to 15 decimal digits.
static bool read_size(backend_string_t text, uint64_t *size) {
  *size = 0;
  for (size_t i = 0; i < text.len; i++) {
    if (text.ptr[i] < '0' || text.ptr[i] > '9') return false;
    *size = *size * 10 + (text.ptr[i] - '0');
  }
  return text.len <= 15 && *size > 0;
}

static bool read_config(types_init_t *init, uint64_t *capacity, error_t *err) {
  *capacity = CAPACITY_DEFAULT;
  for (size_t i = 0; i < init->config.len; i++) {
    if (!is(init->config.ptr[i].f0, "capacity"))
      return unknown_key(init->config.ptr[i].f0, err);
    if (!read_size(init->config.ptr[i].f1, capacity))
      return fail(err, TYPES_ERROR_INVALID_CONFIG, "config.capacity: expected a number of bytes, at least 1");
  }
  return true;
}

static void free_bytes(void *context, lru_entry *e) { free(e->bytes); }

bool CLASS(constructor_backend)(types_init_t *init, CLASS(own_backend_t) *ret, error_t *err) {
  uint64_t capacity;
  bool is_valid = read_config(init, &capacity, err);
  types_init_free(init);
  if (!is_valid) return false;
  backend_t *b = malloc(sizeof *b);
  lru *chunks = lru_new(capacity, LRU_ENTRIES_MAX, free_bytes, NULL);
  if (!b || !chunks) {
    free(b);
    lru_free(chunks);
    return fail(err, TYPES_ERROR_OTHER, "no memory; raise limits.memory");
  }
  b->chunks = chunks;
  backend_string_t text;
  backend_string_set(&text, "started");
  logging_log(LOGGING_LEVEL_DEBUG, &text);
  *ret = CLASS(backend_new)(b);
  return true;
}

void CLASS(backend_destructor)(backend_t *b) {
  lru_free(b->chunks);
  free(b);
}

bool METHOD(open)(backend_t *b, error_t *err) { return true; }

static lru_key key_of(keys_t *keys, size_t i) { return (lru_key){keys->ptr[i].hi, keys->ptr[i].lo}; }

static lru_entry *find(backend_t *b, keys_t *keys, size_t i) { return lru_find(b->chunks, key_of(keys, i)); }

// The first key counts as used last: a tail without its head is of no use.
static void use(backend_t *b, keys_t *keys) {
  for (size_t i = keys->len; i-- > 0;) {
    lru_entry *e = find(b, keys, i);
    if (e) lru_use(b->chunks, e);
  }
}

static uint32_t leading_run(backend_t *b, keys_t *keys, bool is_pinning) {
  uint32_t n = 0;
  for (lru_entry *e; n < keys->len && (e = find(b, keys, n)); n++)
    if (is_pinning) lru_pin(b->chunks, e);
  return n;
}

bool METHOD(contains)(backend_t *b, keys_t *keys, types_pinning_t pinning, uint32_t *ret, error_t *err) {
  *ret = leading_run(b, keys, pinning == TYPES_PINNING_PIN);
  CLASS(list_chunk_key_free)(keys);
  return true;
}

// The host allocates in this memory for a piece, and a failure there is a trap. Here it is an answer. Without
// `volatile` a compiler may leave the pair out.
static bool has_memory_for(size_t size) {
  void *volatile memory = malloc(size);
  free(memory);
  return memory != NULL;
}

// Copies chunk `i` of a call into memory. Returns false with an error.
static bool read_chunk(buffers_borrow_sources_t data, uint32_t i, lru_entry *e, error_t *err) {
  e->bytes = malloc(e->size ? e->size : 1);
  if (!e->bytes) return fail(err, TYPES_ERROR_NO_SPACE, NULL);
  for (uint64_t at = 0; at < e->size; at += PIECE_BYTES) {
    backend_list_u8_t piece;
    size_t n = e->size - at < PIECE_BYTES ? e->size - at : PIECE_BYTES;
    if (!has_memory_for(n)) return fail(err, TYPES_ERROR_NO_SPACE, NULL);
    if (!buffers_method_sources_read(data, i, at, n, &piece, err)) return false;
    memcpy(e->bytes + at, piece.ptr, n);
    backend_list_u8_free(&piece);
  }
  return true;
}

// Stores chunk `i` of a call. Returns false with an error.
static bool put_one(backend_t *b, lru_key key, buffers_borrow_sources_t data, uint32_t i, error_t *err) {
  lru_entry *e = lru_find(b->chunks, key);
  if (e) {
    // A chunk that is present keeps its bytes, and the put counts as a use.
    lru_use(b->chunks, e);
    return true;
  }
  e = lru_reserve(b->chunks, key, buffers_method_sources_len(data, i));
  if (!e) return fail(err, TYPES_ERROR_NO_SPACE, NULL);
  if (!read_chunk(data, i, e, err)) {
    lru_discard(b->chunks, e);
    return false;
  }
  lru_insert(b->chunks, e);
  return true;
}

void METHOD(put)(backend_t *b, keys_t *keys, buffers_own_sources_t data, CLASS(list_result_void_error_t) *ret) {
  ret->len = keys->len;
  ret->ptr = calloc(keys->len + 1, sizeof *ret->ptr);
  if (!ret->ptr) abort();
  lru_begin(b->chunks);
  for (size_t i = 0; i < keys->len; i++) {
    put_result_t *result = &ret->ptr[i];
    result->is_err = !put_one(b, key_of(keys, i), buffers_borrow_sources(data), i, &result->val.err);
  }
  use(b, keys);
  buffers_sources_drop_own(data);
  CLASS(list_chunk_key_free)(keys);
}

static get_result_t get_one(lru_entry *e, buffers_borrow_sinks_t into, uint32_t i) {
  get_result_t result = {0};
  if (!e) return result; // absent
  // A chunk that is larger than the buffer is not the one that the host wants.
  bool fits = e->size <= buffers_method_sinks_capacity(into, i);
  for (size_t at = 0; fits && at < e->size; at += PIECE_BYTES) {
    backend_list_u8_t piece = {e->bytes + at, e->size - at < PIECE_BYTES ? e->size - at : PIECE_BYTES};
    if (!buffers_method_sinks_write(into, i, at, &piece, &result.val.err)) {
      result.is_err = true;
      return result;
    }
  }
  result.val.ok = (backend_option_u64_t){true, e->size};
  return result;
}

void METHOD(get)(backend_t *b, keys_t *keys, buffers_own_sinks_t into, CLASS(list_result_option_u64_error_t) *ret) {
  ret->len = keys->len;
  ret->ptr = calloc(keys->len + 1, sizeof *ret->ptr);
  if (!ret->ptr) abort();
  lru_begin(b->chunks);
  use(b, keys);
  for (size_t i = 0; i < keys->len; i++)
    ret->ptr[i] = get_one(find(b, keys, i), buffers_borrow_sinks(into), i);
  buffers_sinks_drop_own(into);
  CLASS(list_chunk_key_free)(keys);
}

bool METHOD(pin)(backend_t *b, keys_t *keys, uint32_t *ret, error_t *err) {
  *ret = leading_run(b, keys, true);
  CLASS(list_chunk_key_free)(keys);
  return true;
}

bool METHOD(unpin)(backend_t *b, keys_t *keys, uint32_t *ret, error_t *err) {
  *ret = 0;
  for (size_t i = 0; i < keys->len; i++) {
    lru_entry *e = find(b, keys, i);
    if (e && lru_unpin(b->chunks, e)) ++*ret;
  }
  CLASS(list_chunk_key_free)(keys);
  return true;
}

bool METHOD(remove)(backend_t *b, keys_t *keys, uint32_t *ret, error_t *err) {
  *ret = 0;
  for (size_t i = 0; i < keys->len; i++) {
    lru_entry *e = find(b, keys, i);
    if (!e) continue;
    lru_remove(b->chunks, e);
    ++*ret;
  }
  CLASS(list_chunk_key_free)(keys);
  return true;
}

bool METHOD(close)(backend_t *b, error_t *err) { return true; }
