// The class `Backend` of the contract. Each method is described in wit/deps/kvtier-storage/backend.wit.
//
// An argument that is a list or a handle belongs to the method: each method frees it. What it returns belongs to the
// caller. Functions are ordinary ones, but the host sees an asynchronous class.
#include <stdlib.h>
#include <string.h>

#include "contract.h"
#include "store.h"

#define CAPACITY_DEFAULT (32u << 20)
// `read` and `write` copy at most `limits.hostcall_bytes` in a call. Smaller pieces leave more memory to chunks.
#define PIECE_BYTES (256u << 10)

struct CLASS(backend_t) {
  store *store;
};

static bool fail(error_t *err, uint8_t tag, const char *text) {
  err->tag = tag;
  if (text) backend_string_dup(&err->val.other, text);
  return false;
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
      return fail(err, TYPES_ERROR_INVALID_CONFIG, "unknown key; this backend knows config.capacity");
    if (!read_size(init->config.ptr[i].f1, capacity))
      return fail(err, TYPES_ERROR_INVALID_CONFIG, "config.capacity: expected a number of bytes, at least 1");
  }
  return true;
}

bool CLASS(constructor_backend)(types_init_t *init, CLASS(own_backend_t) *ret, error_t *err) {
  uint64_t capacity;
  bool is_valid = read_config(init, &capacity, err);
  types_init_free(init);
  if (!is_valid) return false;
  backend_t *b = malloc(sizeof *b);
  store *s = store_new(capacity);
  if (!b || !s) {
    free(b);
    store_free(s);
    return fail(err, TYPES_ERROR_OTHER, "no memory; raise limits.memory");
  }
  b->store = s;
  backend_string_t text;
  backend_string_set(&text, "started");
  logging_log(LOGGING_LEVEL_DEBUG, &text);
  *ret = CLASS(backend_new)(b);
  return true;
}

void CLASS(backend_destructor)(backend_t *b) {
  store_free(b->store);
  free(b);
}

bool METHOD(open)(backend_t *b, error_t *err) { return true; }

static chunk *find(backend_t *b, keys_t *keys, size_t i) {
  return store_find(b->store, (store_key){keys->ptr[i].hi, keys->ptr[i].lo});
}

// The first key counts as used last: a tail without its head is of no use.
static void use(backend_t *b, keys_t *keys) {
  for (size_t i = keys->len; i-- > 0;) {
    chunk *c = find(b, keys, i);
    if (c) store_use(b->store, c);
  }
}

static uint32_t leading_run(backend_t *b, keys_t *keys, bool is_pinning) {
  uint32_t n = 0;
  for (chunk *c; n < keys->len && (c = find(b, keys, n)); n++)
    if (is_pinning) store_pin(b->store, c);
  return n;
}

bool METHOD(contains)(backend_t *b, keys_t *keys, types_pinning_t pinning, uint32_t *ret, error_t *err) {
  *ret = leading_run(b, keys, pinning == TYPES_PINNING_PIN);
  CLASS(list_chunk_key_free)(keys);
  return true;
}

// The host allocates in this memory for a piece, and a failure there is a trap. Here it is an answer.
static bool has_memory_for(size_t size) {
  void *memory = malloc(size);
  free(memory);
  return memory != NULL;
}

// Copies chunk `i` of a call. Returns false with an error.
static bool read_chunk(buffers_borrow_sources_t data, uint32_t i, chunk *c, error_t *err) {
  for (size_t at = 0; at < c->size; at += PIECE_BYTES) {
    backend_list_u8_t piece;
    size_t n = c->size - at < PIECE_BYTES ? c->size - at : PIECE_BYTES;
    if (!has_memory_for(n)) return fail(err, TYPES_ERROR_NO_SPACE, NULL);
    if (!buffers_method_sources_read(data, i, at, n, &piece, err)) return false;
    memcpy(c->bytes + at, piece.ptr, n);
    backend_list_u8_free(&piece);
  }
  return true;
}

static put_result_t put_one(backend_t *b, types_chunk_key_t key, buffers_borrow_sources_t data, uint32_t i) {
  put_result_t result = {0};
  store_key name = {key.hi, key.lo};
  chunk *c = store_find(b->store, name);
  if (c) {
    // A chunk that is present keeps its bytes, and the put counts as a use.
    store_use(b->store, c);
    return result;
  }
  c = store_reserve(b->store, name, buffers_method_sources_len(data, i));
  if (!c) {
    result.is_err = true;
    fail(&result.val.err, TYPES_ERROR_NO_SPACE, NULL);
  } else if (!read_chunk(data, i, c, &result.val.err)) {
    result.is_err = true;
    store_discard(b->store, c);
  } else {
    store_insert(b->store, c);
  }
  return result;
}

void METHOD(put)(backend_t *b, keys_t *keys, buffers_own_sources_t data, CLASS(list_result_void_error_t) *ret) {
  ret->len = keys->len;
  ret->ptr = calloc(keys->len + 1, sizeof *ret->ptr);
  if (!ret->ptr) abort();
  store_begin(b->store);
  for (size_t i = 0; i < keys->len; i++)
    ret->ptr[i] = put_one(b, keys->ptr[i], buffers_borrow_sources(data), i);
  use(b, keys);
  buffers_sources_drop_own(data);
  CLASS(list_chunk_key_free)(keys);
}

static get_result_t get_one(chunk *c, buffers_borrow_sinks_t into, uint32_t i) {
  get_result_t result = {0};
  if (!c) return result; // absent
  // A chunk that is larger than the buffer is not the one that the host wants.
  bool fits = c->size <= buffers_method_sinks_capacity(into, i);
  for (size_t at = 0; fits && at < c->size; at += PIECE_BYTES) {
    backend_list_u8_t piece = {c->bytes + at, c->size - at < PIECE_BYTES ? c->size - at : PIECE_BYTES};
    if (!buffers_method_sinks_write(into, i, at, &piece, &result.val.err)) {
      result.is_err = true;
      return result;
    }
  }
  result.val.ok = (backend_option_u64_t){true, c->size};
  return result;
}

void METHOD(get)(backend_t *b, keys_t *keys, buffers_own_sinks_t into, CLASS(list_result_option_u64_error_t) *ret) {
  ret->len = keys->len;
  ret->ptr = calloc(keys->len + 1, sizeof *ret->ptr);
  if (!ret->ptr) abort();
  store_begin(b->store);
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
    chunk *c = find(b, keys, i);
    if (c && store_unpin(b->store, c)) ++*ret;
  }
  CLASS(list_chunk_key_free)(keys);
  return true;
}

bool METHOD(remove)(backend_t *b, keys_t *keys, uint32_t *ret, error_t *err) {
  *ret = 0;
  for (size_t i = 0; i < keys->len; i++) {
    chunk *c = find(b, keys, i);
    if (!c) continue;
    store_remove(b->store, c);
    ++*ret;
  }
  CLASS(list_chunk_key_free)(keys);
  return true;
}

bool METHOD(close)(backend_t *b, error_t *err) { return true; }
