// The class `Backend` of the contract. Each method is described in wit/deps/kvtier-storage/backend.wit.
//
// No byte of a chunk passes through this memory: the host moves them between its buffers and files.
//
// An argument that is a list or a handle belongs to the method: each method frees it. What it returns belongs to the
// caller. Functions are ordinary ones and run one at a time, but the host sees an asynchronous class.
#include <stdlib.h>
#include <string.h>

#include "contract.h"
#include "files.h"
#include "lru.h"

#define CAPACITY_DEFAULT (1u << 30)
// The guest's path of a grant in `allow.fs`.
#define ROOT_DEFAULT "/data"
// `config.root`, `/` and the namespace.
#define DIRECTORY_BYTES 512

struct CLASS(backend_t) {
  lru *chunks;
  uint64_t next_number;
  bool has_failed; // a file could not be removed
  char directory[DIRECTORY_BYTES];
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
  strcpy(text + n + len, ": unknown key; this backend knows capacity and root");
  return fail(err, TYPES_ERROR_INVALID_CONFIG, text);
}

static bool is(backend_string_t text, const char *word) {
  return text.len == strlen(word) && !memcmp(text.ptr, word, text.len);
}

// Returns a text as an argument of an imported function, which does not free it.
static backend_string_t text_of(char *text) { return (backend_string_t){(uint8_t *)text, strlen(text)}; }

static void warn(char *text) {
  backend_string_t message = text_of(text);
  logging_log(LOGGING_LEVEL_WARN, &message);
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

// Puts the directory together: engines with other models or layouts have other namespaces.
static bool set_directory(backend_t *b, backend_string_t root, backend_string_t namespace) {
  if (root.len + 1 + namespace.len >= DIRECTORY_BYTES) return false;
  memcpy(b->directory, root.ptr, root.len);
  b->directory[root.len] = '/';
  memcpy(b->directory + root.len + 1, namespace.ptr, namespace.len);
  return true;
}

static bool read_config(backend_t *b, types_init_t *init, uint64_t *capacity, error_t *err) {
  backend_string_t root = text_of(ROOT_DEFAULT);
  *capacity = CAPACITY_DEFAULT;
  for (size_t i = 0; i < init->config.len; i++) {
    backend_string_t key = init->config.ptr[i].f0, value = init->config.ptr[i].f1;
    if (is(key, "root"))
      root = value;
    else if (!is(key, "capacity"))
      return unknown_key(key, err);
    else if (!read_size(value, capacity))
      return fail(err, TYPES_ERROR_INVALID_CONFIG, "config.capacity: expected a number of bytes, at least 1");
  }
  if (!set_directory(b, root, init->namespace_))
    return fail(err, TYPES_ERROR_INVALID_CONFIG, "config.root: the path is too long");
  return true;
}

// Removes a file of the directory. Reports whether that worked; a file that is gone is as good.
static bool remove_file(backend_t *b, const char *name) {
  char path[DIRECTORY_BYTES + FILE_NAME_BYTES];
  size_t len = strlen(b->directory);
  memcpy(path, b->directory, len);
  path[len] = '/';
  strcpy(path + len + 1, name);
  backend_string_t text = text_of(path);
  bool was_there;
  error_t err;
  if (directory_remove(&text, &was_there, &err)) return true;
  types_error_free(&err);
  return false;
}

// Removes the file of a chunk that is evicted, removed, or was not written.
static void dispose(void *context, lru_entry *e) {
  backend_t *b = context;
  char name[FILE_NAME_BYTES];
  file_name(name, e->key, e->file, "");
  if (remove_file(b, name)) return;
  b->has_failed = true;
  warn("a file cannot be removed; the next start takes it in again");
}

bool CLASS(constructor_backend)(types_init_t *init, CLASS(own_backend_t) *ret, error_t *err) {
  uint64_t capacity;
  backend_t *b = calloc(1, sizeof *b);
  bool is_valid = b ? read_config(b, init, &capacity, err) : fail(err, TYPES_ERROR_OTHER, "no memory");
  types_init_free(init);
  if (is_valid && !(b->chunks = lru_new(capacity, LRU_ENTRIES_MAX, dispose, b)))
    is_valid = fail(err, TYPES_ERROR_OTHER, "no memory; raise limits.memory");
  if (!is_valid) {
    free(b);
    return false;
  }
  *ret = CLASS(backend_new)(b);
  return true;
}

void CLASS(backend_destructor)(backend_t *b) {
  lru_free(b->chunks);
  free(b);
}

// Takes in a file that is there, or removes what a put has left that did not end.
static void take_in(backend_t *b, types_directory_entry_t *entry) {
  lru_key key;
  uint64_t number;
  bool is_temporary;
  if (entry->kind != TYPES_ENTRY_KIND_FILE) return;
  if (!file_parse((char *)entry->name.ptr, entry->name.len, &key, &number, &is_temporary)) return;
  if (number >= b->next_number) b->next_number = number + 1;
  lru_begin(b->chunks);
  lru_entry *e = is_temporary || lru_find(b->chunks, key) ? NULL : lru_reserve(b->chunks, key, entry->size);
  if (e) {
    e->file = number;
    lru_insert(b->chunks, e);
    return;
  }
  char name[FILE_NAME_BYTES];
  file_name(name, key, number, is_temporary ? TEMPORARY : "");
  if (!remove_file(b, name)) warn("a file of no use cannot be removed");
}

bool METHOD(open)(backend_t *b, error_t *err) {
  backend_string_t path = text_of(b->directory), after = {NULL, 0};
  directory_list_directory_entry_t page;
  for (;;) {
    bool is_listed = directory_list(&path, &after, &page, err);
    backend_string_free(&after);
    if (!is_listed) return false;
    if (page.len == 0) return true;
    for (size_t i = 0; i < page.len; i++) take_in(b, &page.ptr[i]);
    backend_string_t *last = &page.ptr[page.len - 1].name;
    backend_string_dup_n(&after, (char *)last->ptr, last->len);
    directory_list_directory_entry_free(&page);
  }
}

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

// The files of a call: for each, its position among the keys, and its names.
typedef struct {
  uint32_t index;
  char name[FILE_NAME_BYTES], temporary[FILE_NAME_BYTES];
} file;

static void *allocate(size_t n, size_t size) {
  void *memory = calloc(n + 1, size);
  if (!memory) abort();
  return memory;
}

// Makes the chunks present that are absent, before their files are: no other call runs until they are written. Returns
// how many.
static size_t reserve(backend_t *b, keys_t *keys, buffers_borrow_sources_t data, file *files) {
  size_t n = 0;
  for (size_t i = 0; i < keys->len; i++) {
    lru_entry *e = find(b, keys, i);
    if (e) {
      // A chunk that is present keeps its bytes, and the put counts as a use.
      lru_use(b->chunks, e);
      continue;
    }
    e = lru_reserve(b->chunks, key_of(keys, i), buffers_method_sources_len(data, i));
    if (!e) continue;
    e->file = b->next_number++;
    lru_insert(b->chunks, e);
    files[n].index = i;
    file_name(files[n].name, e->key, e->file, "");
    file_name(files[n].temporary, e->key, e->file, TEMPORARY);
    n++;
  }
  return n;
}

// Writes the files of a call. A chunk whose file is not written becomes absent again, and gets the error.
static void write_files(backend_t *b, keys_t *keys, buffers_borrow_sources_t data, file *files, size_t n,
                        put_result_t *results) {
  directory_list_file_to_store_t list = {allocate(n, sizeof *list.ptr), n};
  for (size_t i = 0; i < n; i++)
    list.ptr[i] = (types_file_to_store_t){files[i].index, text_of(files[i].temporary), text_of(files[i].name)};
  backend_string_t path = text_of(b->directory);
  directory_list_result_u64_error_t stored;
  directory_store_all(data, &path, &list, TYPES_CACHING_CACHED, &stored);
  for (size_t i = 0; i < n; i++) {
    if (!stored.ptr[i].is_err) continue;
    put_result_t *result = &results[files[i].index];
    result->is_err = true;
    result->val.err = stored.ptr[i].val.err;
    stored.ptr[i].is_err = false; // the error has moved
    lru_remove(b->chunks, find(b, keys, files[i].index));
  }
  directory_list_result_u64_error_free(&stored);
  free(list.ptr);
}

void METHOD(put)(backend_t *b, keys_t *keys, buffers_own_sources_t data, CLASS(list_result_void_error_t) *ret) {
  ret->len = keys->len;
  ret->ptr = allocate(keys->len, sizeof *ret->ptr);
  file *files = allocate(keys->len, sizeof *files);
  lru_begin(b->chunks);
  size_t n = reserve(b, keys, buffers_borrow_sources(data), files);
  if (n > 0) write_files(b, keys, buffers_borrow_sources(data), files, n, ret->ptr);
  for (size_t i = 0; i < keys->len; i++) {
    if (ret->ptr[i].is_err || find(b, keys, i)) continue;
    ret->ptr[i].is_err = true;
    fail(&ret->ptr[i].val.err, TYPES_ERROR_NO_SPACE, NULL);
  }
  use(b, keys);
  free(files);
  buffers_sources_drop_own(data);
  CLASS(list_chunk_key_free)(keys);
}

// Fills buffers from files. A chunk whose file someone has removed becomes absent.
static void read_files(backend_t *b, keys_t *keys, buffers_borrow_sinks_t into, file *files, size_t n,
                       get_result_t *results) {
  directory_list_file_to_load_t list = {allocate(n, sizeof *list.ptr), n};
  for (size_t i = 0; i < n; i++) list.ptr[i] = (types_file_to_load_t){files[i].index, text_of(files[i].name)};
  backend_string_t path = text_of(b->directory);
  directory_list_result_option_u64_error_t loaded;
  directory_load_all(into, &path, &list, TYPES_CACHING_CACHED, &loaded);
  for (size_t i = 0; i < n; i++) {
    get_result_t *result = &results[files[i].index];
    result->is_err = loaded.ptr[i].is_err;
    if (loaded.ptr[i].is_err)
      result->val.err = loaded.ptr[i].val.err;
    else
      result->val.ok = loaded.ptr[i].val.ok;
    loaded.ptr[i].is_err = false; // the error has moved
    lru_entry *e = find(b, keys, files[i].index);
    if (e && !result->is_err && !result->val.ok.is_some) lru_remove(b->chunks, e);
  }
  directory_list_result_option_u64_error_free(&loaded);
  free(list.ptr);
}

void METHOD(get)(backend_t *b, keys_t *keys, buffers_own_sinks_t into, CLASS(list_result_option_u64_error_t) *ret) {
  ret->len = keys->len;
  ret->ptr = allocate(keys->len, sizeof *ret->ptr);
  file *files = allocate(keys->len, sizeof *files);
  size_t n = 0;
  lru_begin(b->chunks);
  use(b, keys);
  for (size_t i = 0; i < keys->len; i++) {
    lru_entry *e = find(b, keys, i);
    if (!e) continue;
    files[n].index = i;
    file_name(files[n].name, e->key, e->file, "");
    n++;
  }
  if (n > 0) read_files(b, keys, buffers_borrow_sinks(into), files, n, ret->ptr);
  free(files);
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
  b->has_failed = false;
  for (size_t i = 0; i < keys->len; i++) {
    lru_entry *e = find(b, keys, i);
    if (!e) continue;
    lru_remove(b->chunks, e);
    ++*ret;
  }
  CLASS(list_chunk_key_free)(keys);
  return !b->has_failed || fail(err, TYPES_ERROR_OTHER, "a file cannot be removed");
}

bool METHOD(close)(backend_t *b, error_t *err) { return true; }
