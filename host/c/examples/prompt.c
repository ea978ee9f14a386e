/* Stores the KV cache of a prompt, closes the engine, and finds the prompt in a second one. Then does the same with
 * memory of the program, under names of its own.
 *
 * cc -I include examples/prompt.c -L ../../target/release -lkvtier_c -o prompt
 * ./prompt kvtier.yaml          with `chunk_size: 64` and a backend that keeps what it has stored
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvtier.h"

#define N_TOKENS 256
#define CHUNK_TOKENS 64
#define N_CHUNKS (N_TOKENS / CHUNK_TOKENS)
#define PAGE_BYTES 5000

static void check(kvtier_status status, const char *what)
{
    if (status != KVTIER_STATUS_OK) {
        fprintf(stderr, "%s: %s\n", what, kvtier_error());
        exit(1);
    }
}

/* The serving engine would copy its KV tensors. */
static void fill(uint8_t *bytes, size_t size_bytes, size_t position)
{
    for (size_t i = 0; i < size_bytes; i++) {
        bytes[i] = (uint8_t)(position * 31 + i);
    }
}

static int is_right(const uint8_t *bytes, size_t size_bytes, size_t position)
{
    for (size_t i = 0; i < size_bytes; i++) {
        if (bytes[i] != (uint8_t)(position * 31 + i)) {
            return 0;
        }
    }
    return 1;
}

static kvtier_engine *open_on_tokens(const char *file)
{
    kvtier_config config = {.file = file};
    kvtier_token_metadata metadata = {
        .model_name = "tiny",
        .world_size = 1,
        .worker_id = 0,
        .kv_dtype = "bfloat16",
        .kv_shape = {2, 2, CHUNK_TOKENS, 2, 32},
    };
    kvtier_engine *engine = NULL;
    check(kvtier_open_on_tokens(&config, &metadata, &engine), "open");
    return engine;
}

static void close_and_release(kvtier_engine *engine)
{
    check(kvtier_close(engine), "close");
    kvtier_release(engine);
}

static void store_prompt(kvtier_engine *engine, const kvtier_key *keys, const size_t *sizes_bytes)
{
    kvtier_allocation *allocation = NULL;
    check(kvtier_allocate(engine, keys, sizes_bytes, N_CHUNKS, &allocation), "allocate");
    kvtier_missing_chunk missing[N_CHUNKS];
    size_t n_missing = 0;
    check(kvtier_allocation_missing(allocation, missing, N_CHUNKS, &n_missing), "missing");
    for (size_t i = 0; i < n_missing; i++) {
        fill(missing[i].data, missing[i].size_bytes, missing[i].position);
    }
    size_t n_new = 0;
    check(kvtier_store(engine, allocation, NULL, &n_new, NULL), "store");
    check(kvtier_flush(engine, KVTIER_NO_LIMIT), "flush");
    printf("%zu of %zu chunks stored\n", n_new, n_missing);
}

static void find_prompt(kvtier_engine *engine, const kvtier_key *keys, const size_t *sizes_bytes)
{
    size_t n_found = 0;
    check(kvtier_lookup(engine, keys, N_CHUNKS, NULL, "request-1", &n_found), "lookup");
    kvtier_chunk *chunks[N_CHUNKS];
    size_t n_retrieved = 0;
    check(kvtier_retrieve(engine, keys, sizes_bytes, n_found, NULL, chunks, &n_retrieved), "retrieve");
    size_t n_right = 0;
    for (size_t i = 0; i < n_retrieved; i++) {
        kvtier_bytes bytes;
        check(kvtier_chunk_bytes(chunks[i], &bytes), "bytes");
        n_right += bytes.size_bytes == sizes_bytes[i] && is_right(bytes.data, bytes.size_bytes, i);
        kvtier_chunk_release(chunks[i]);
    }
    check(kvtier_unpin(engine, "request-1"), "unpin");
    printf("%zu found in the second engine, %zu right\n", n_found, n_right);
}

/* kvtier reads and writes pages of the program, and says when it does not use one any more. */
static void free_page(void *page)
{
    free(page);
}

static kvtier_lent lend_page(kvtier_key key, size_t size_bytes)
{
    uint8_t *page = malloc(size_bytes);
    if (page == NULL) {
        exit(1);
    }
    kvtier_lent lent = {
        .key = key, .data = page, .size_bytes = size_bytes, .release = free_page, .context = page};
    return lent;
}

static kvtier_engine *open_on_keys(const char *file)
{
    kvtier_config config = {.file = file};
    kvtier_key_metadata metadata = {
        .model_name = "tiny",
        .world_size = 1,
        .worker_id = 0,
        .layout = "pages of the example, version 1",
        .chunk_bytes_max = 2 * PAGE_BYTES,
    };
    kvtier_engine *engine = NULL;
    check(kvtier_open_on_keys(&config, &metadata, KVTIER_WITHOUT_CPU_TIER, &engine), "open");
    return engine;
}

static void store_page(kvtier_engine *engine, kvtier_key key)
{
    kvtier_lent page = lend_page(key, PAGE_BYTES);
    fill(page.data, page.size_bytes, 7);
    kvtier_receipt *receipt = NULL;
    check(kvtier_put(engine, &page, 1, NULL, &receipt), "put");
    size_t n_backends = 0;
    check(kvtier_receipt_wait(receipt, KVTIER_NO_LIMIT, &n_backends), "wait");
    for (size_t i = 0; i < n_backends; i++) {
        kvtier_put_result result;
        check(kvtier_receipt_result(receipt, i, 0, &result), "result");
        int is_stored = result.outcome == KVTIER_PUT_OUTCOME_STORED;
        printf("page %s in `%s`\n", is_stored ? "stored" : result.reason, result.backend);
    }
    kvtier_receipt_release(receipt);
}

static void find_page(kvtier_engine *engine, kvtier_key key)
{
    kvtier_key keys[2] = {key, key};
    keys[1].bytes[0] ^= 1;
    bool present[2];
    check(kvtier_contains_each(engine, keys, 2, NULL, present), "contains each");
    /* The size is not known: the buffer has room for the largest page. It stays the program's memory afterwards. */
    kvtier_lent page = lend_page(key, 2 * PAGE_BYTES);
    kvtier_fetch_result result;
    check(kvtier_fetch_into(engine, &page, 1, NULL, &result), "fetch");
    int is_fetched = result.outcome == KVTIER_FETCH_OUTCOME_FETCHED;
    printf("present: %d %d, page of %zu bytes %s\n", present[0], present[1], result.size_bytes,
           is_fetched ? "fetched" : result.reason);
    size_t n_removed = 0;
    check(kvtier_remove(engine, keys, 2, NULL, &n_removed), "remove");
    printf("%zu removed\n", n_removed);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: prompt CONFIG.yaml\n");
        return 2;
    }
    uint32_t tokens[N_TOKENS];
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        tokens[i] = i;
    }
    kvtier_engine *engine = open_on_tokens(argv[1]);
    kvtier_key keys[N_CHUNKS];
    size_t sizes_bytes[N_CHUNKS];
    size_t n_chunks = 0;
    check(kvtier_prompt_keys(engine, tokens, N_TOKENS, NULL, 0, keys, sizes_bytes, N_CHUNKS, &n_chunks), "keys");
    store_prompt(engine, keys, sizes_bytes);
    close_and_release(engine);

    engine = open_on_tokens(argv[1]);
    find_prompt(engine, keys, sizes_bytes);
    close_and_release(engine);

    engine = open_on_keys(argv[1]);
    kvtier_bytes name = {.data = (const uint8_t *)"request 1, page 7", .size_bytes = 17};
    kvtier_key key;
    check(kvtier_foreign_keys(engine, &name, 1, &key), "foreign key");
    store_page(engine, key);
    close_and_release(engine);

    engine = open_on_keys(argv[1]);
    find_page(engine, key);
    close_and_release(engine);
    return 0;
}
