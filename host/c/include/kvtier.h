/**
 * kvtier: tiered storage for KV caches of large language models, with storage backends in a sandbox.
 *
 * Results. A function that can fail returns a kvtier_status, and kvtier_error() has the text. Arguments are checked
 * before anything is done; panics are caught.
 *
 * Waiting. Functions that may ask a backend block the calling thread, at most until the limit that the configuration
 * sets for the operation, or the limit that they are given.
 *
 * Ownership. Handles are opaque. Each is released once, by the function that its comment names. Handles and results
 * outlive the engine they come from. What a caller passes is read during the call only, except lent memory.
 *
 * Threads. Any thread may use a handle, several at a time, unless its comment says otherwise. The release of a handle
 * comes after all other uses. After fork(), the child calls kvtier_abandon() first.
 *
 * Texts are UTF-8 and end with a zero. Arrays of no elements may be NULL.
 *
 * This file is made of the sources in host/c/src; a test compares it.
 */

#ifndef KVTIER_H
#define KVTIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Opens an engine on keys without a CPU tier: kvtier reserves no memory, and chunks are stored from and fetched into
 * memory that the caller lends.
 */
#define KVTIER_WITHOUT_CPU_TIER 1

/**
 * A limit that never passes, for waits.
 */
#define KVTIER_NO_LIMIT UINT64_MAX

/**
 * The result of a function. kvtier_error() has the text of any but KVTIER_STATUS_OK.
 */
typedef enum kvtier_status {
    /**
     * The function succeeded.
     */
    KVTIER_STATUS_OK = 0,
    /**
     * An argument is wrong; nothing was done.
     */
    KVTIER_STATUS_INVALID_ARGUMENT = 1,
    /**
     * The operation failed.
     */
    KVTIER_STATUS_FAILED = 2,
    /**
     * The limit of a wait has passed. The operation goes on.
     */
    KVTIER_STATUS_TIMED_OUT = 3,
    /**
     * A defect of kvtier; please report it.
     */
    KVTIER_STATUS_PANICKED = 4,
} kvtier_status;

/**
 * What became of a fetch into one buffer.
 */
typedef enum kvtier_fetch_outcome {
    /**
     * The buffer has the chunk.
     */
    KVTIER_FETCH_OUTCOME_FETCHED = 0,
    /**
     * No tier delivered the chunk. The buffer's bytes are arbitrary.
     */
    KVTIER_FETCH_OUTCOME_MISSED = 1,
    /**
     * No tier delivered the chunk, and a transfer still writes to the buffer: `release` is called when it ends.
     */
    KVTIER_FETCH_OUTCOME_MISSED_IN_USE = 2,
} kvtier_fetch_outcome;

/**
 * What became of a chunk in one backend.
 */
typedef enum kvtier_put_outcome {
    /**
     * The backend has it.
     */
    KVTIER_PUT_OUTCOME_STORED = 0,
    /**
     * The backend refused it, or its call failed.
     */
    KVTIER_PUT_OUTCOME_FAILED = 1,
    /**
     * It was given up before the backend was asked.
     */
    KVTIER_PUT_OUTCOME_DROPPED = 2,
} kvtier_put_outcome;

/**
 * Buffers for chunks that are to be stored. One thread at a time uses it.
 */
typedef struct kvtier_allocation kvtier_allocation;

/**
 * A retrieved chunk. Any thread may read it, also several at a time, until it is released.
 */
typedef struct kvtier_chunk kvtier_chunk;

/**
 * An engine. Any thread may use it, also several at a time.
 */
typedef struct kvtier_engine kvtier_engine;

/**
 * The receipt of a put. Any thread may use it, also several at a time.
 */
typedef struct kvtier_receipt kvtier_receipt;

/**
 * Where the configuration comes from: either `file` or `text` is given, and the other is NULL.
 */
typedef struct kvtier_config {
    /**
     * The path of a file in YAML. Variables `LMCACHE_*` of the process's environment override its keys.
     */
    const char *file;
    /**
     * A text in YAML. The environment has no part in it. An empty text gives the defaults.
     */
    const char *text;
    /**
     * With `text`, the directory that relative paths in it are relative to; NULL for the working directory.
     */
    const char *base_dir;
} kvtier_config;

/**
 * What an engine on tokens serves. `chunk_size` of the configuration is the third extent of the shape.
 */
typedef struct kvtier_token_metadata {
    /**
     * The model's name.
     */
    const char *model_name;
    /**
     * The number of workers that hold a shard of the model.
     */
    uint32_t world_size;
    /**
     * This worker's index, in 0 to world_size - 1.
     */
    uint32_t worker_id;
    /**
     * The element type, such as "bfloat16", "half", "float" or "fp8_e4m3fn".
     */
    const char *kv_dtype;
    /**
     * Layers, 2 (1 for MLA), tokens of a chunk, KV heads, head size.
     */
    uint32_t kv_shape[5];
} kvtier_token_metadata;

/**
 * What an engine on keys serves.
 */
typedef struct kvtier_key_metadata {
    /**
     * The model's name.
     */
    const char *model_name;
    /**
     * The number of workers that hold a shard of the model.
     */
    uint32_t world_size;
    /**
     * This worker's index, in 0 to world_size - 1.
     */
    uint32_t worker_id;
    /**
     * A tag for the layout of the chunks, of 1 to 256 bytes. Engines with different tags share nothing.
     */
    const char *layout;
    /**
     * The size of the largest chunk in bytes, from 1 to 2^40. Larger chunks are not stored.
     */
    size_t chunk_bytes_max;
} kvtier_key_metadata;

/**
 * A tag of a request. Requests with different tags share no chunks.
 */
typedef struct kvtier_tag {
    /**
     * The name.
     */
    const char *name;
    /**
     * The value.
     */
    const char *value;
} kvtier_tag;

/**
 * The name of a chunk, of 16 bytes.
 */
typedef struct kvtier_key {
    /**
     * The bytes, in the order of the key's hexadecimal form.
     */
    uint8_t bytes[16];
} kvtier_key;

/**
 * Bytes of the caller.
 */
typedef struct kvtier_bytes {
    /**
     * The first byte.
     */
    const uint8_t *data;
    /**
     * The number of bytes.
     */
    size_t size_bytes;
} kvtier_bytes;

/**
 * Names of tiers: "cpu" or names of backends.
 */
typedef struct kvtier_tiers {
    /**
     * The names.
     */
    const char *const *names;
    /**
     * The number of names. With 0, no tier is chosen.
     */
    size_t n_names;
} kvtier_tiers;

/**
 * A chunk that the CPU tier does not have, with a buffer for it.
 */
typedef struct kvtier_missing_chunk {
    /**
     * The chunk's position among those that were allocated.
     */
    size_t position;
    /**
     * The buffer, to be filled. Its bytes are arbitrary before.
     */
    uint8_t *data;
    /**
     * The size of the buffer in bytes, all of which are stored.
     */
    size_t size_bytes;
} kvtier_missing_chunk;

/**
 * Called when kvtier no longer uses a piece of lent memory: once for each piece, by any thread. It must not wait, call
 * functions of kvtier, or throw.
 */
typedef void (*kvtier_release_callback)(void *context);

/**
 * Memory that the caller lends for one chunk.
 */
typedef struct kvtier_lent {
    /**
     * The chunk's key.
     */
    struct kvtier_key key;
    /**
     * The memory.
     */
    uint8_t *data;
    /**
     * In a put the size of the chunk in bytes; in a fetch that of the buffer, which may be larger than the chunk. At
     * least 1.
     */
    size_t size_bytes;
    /**
     * Called when kvtier no longer uses the memory. Not NULL.
     */
    kvtier_release_callback release;
    /**
     * The argument of `release`.
     */
    void *context;
} kvtier_lent;

/**
 * The result of a fetch into one buffer.
 */
typedef struct kvtier_fetch_result {
    /**
     * What became of it.
     */
    enum kvtier_fetch_outcome outcome;
    /**
     * The size of the fetched chunk in bytes, else 0.
     */
    size_t size_bytes;
    /**
     * Why it was missed, as in the metrics, such as "not_found"; else empty.
     */
    char reason[32];
} kvtier_fetch_result;

/**
 * What became of a chunk in one backend, and why.
 */
typedef struct kvtier_put_result {
    /**
     * What became of it.
     */
    enum kvtier_put_outcome outcome;
    /**
     * The backend's name.
     */
    char backend[65];
    /**
     * Why it was not stored, as in the metrics, such as "queue_full"; else empty.
     */
    char reason[32];
} kvtier_put_result;

/**
 * Called by a thread of kvtier when a receipt is complete. It must not wait, call functions of kvtier that wait, or
 * throw.
 */
typedef void (*kvtier_completed_callback)(void *context);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Returns the text of the last failure of a function in the calling thread, or an empty text. The text belongs to
 * kvtier, and stays until the next failure in the same thread or the end of the thread.
 */
const char *kvtier_error(void);

/**
 * Returns the version of kvtier, such as "0.1.0": a text that is never released.
 */
const char *kvtier_version(void);

/**
 * Releases a text that a function returned. NULL is ignored. Any thread may call it, once for each text.
 *
 * Required:
 * `text` is NULL, or comes from a function whose comment names this one, and was not released yet.
 */
void kvtier_string_free(char *text);

/**
 * Opens an engine on tokens, and waits until its backends are open or have failed. It works with keys that
 * kvtier_prompt_keys() derives. Release it with kvtier_release().
 *
 * Required:
 * Pointers are NULL or valid, and texts end with a zero.
 */
enum kvtier_status kvtier_open_on_tokens(const struct kvtier_config *config,
                                         const struct kvtier_token_metadata *metadata,
                                         struct kvtier_engine **engine);

/**
 * Opens an engine on keys, whose chunks have a layout that only the caller knows and sizes up to
 * `metadata.chunk_bytes_max`. `flags` is 0 or KVTIER_WITHOUT_CPU_TIER. Release it with kvtier_release().
 *
 * Required:
 * Pointers are NULL or valid, and texts end with a zero.
 */
enum kvtier_status kvtier_open_on_keys(const struct kvtier_config *config,
                                       const struct kvtier_key_metadata *metadata,
                                       uint32_t flags,
                                       struct kvtier_engine **engine);

/**
 * Waits until every queued put has been stored or has failed, for at most `limit_ms`.
 * KVTIER_STATUS_TIMED_OUT: some puts are still pending.
 *
 * Required:
 * `engine` is NULL, or was opened and not released.
 */
enum kvtier_status kvtier_flush(const struct kvtier_engine *engine, uint64_t limit_ms);

/**
 * Stores the queued chunks and closes all tiers, within the limits of the configuration. Afterwards nothing is stored
 * or found. A second close returns the same result. The handle still has to be released.
 *
 * Required:
 * `engine` is NULL, or was opened and not released.
 */
enum kvtier_status kvtier_close(const struct kvtier_engine *engine);

/**
 * Releases an engine. Chunks that were not released stay valid. Without kvtier_close() before, queued puts are
 * dropped. NULL is ignored. No other thread may be using the handle.
 *
 * Required:
 * `engine` is NULL, or was opened and not released.
 */
void kvtier_release(struct kvtier_engine *engine);

/**
 * Gives up an engine in a child process after fork(): call it first in the child, instead of any other function. It
 * waits for nothing, and leaves what belongs to the parent. In the process that opened the engine it is
 * kvtier_release(). NULL is ignored.
 *
 * Required:
 * `engine` is NULL, or was opened and not released.
 */
void kvtier_abandon(struct kvtier_engine *engine);

/**
 * Returns the state of all tiers with the causes of failures, as a text for people, whose form may change. Release it
 * with kvtier_string_free().
 *
 * Required:
 * Pointers are NULL or valid; `engine` was opened and not released.
 */
enum kvtier_status kvtier_status_text(const struct kvtier_engine *engine,
                                      char **status);

/**
 * Returns all counters and latencies in Prometheus' text format. Release it with kvtier_string_free().
 *
 * Required:
 * Pointers are NULL or valid; `engine` was opened and not released.
 */
enum kvtier_status kvtier_metrics_text(const struct kvtier_engine *engine,
                                       char **metrics);

/**
 * Derives the keys of a prompt's chunks, and their sizes in bytes: of each full chunk and, if the configuration sets
 * `save_unfull_chunk`, of the rest. Writes at most `capacity` of them to `keys_out` and `sizes_bytes_out` (which may
 * be NULL), and their whole number to `n_chunks`. Only for engines on tokens.
 *
 * Required:
 * Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
 */
enum kvtier_status kvtier_prompt_keys(const struct kvtier_engine *engine,
                                      const uint32_t *tokens,
                                      size_t n_tokens,
                                      const struct kvtier_tag *tags,
                                      size_t n_tags,
                                      struct kvtier_key *keys_out,
                                      size_t *sizes_bytes_out,
                                      size_t capacity,
                                      size_t *n_chunks);

/**
 * Derives the keys of `n_names` chunks from the names that the caller has for them, of any bytes. A name has to
 * determine the chunk's bytes.
 *
 * Required:
 * Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
 */
enum kvtier_status kvtier_foreign_keys(const struct kvtier_engine *engine,
                                       const struct kvtier_bytes *names,
                                       size_t n_names,
                                       struct kvtier_key *keys_out);

/**
 * Counts the chunks that are present, from the first one on without a gap. With a `lookup_id` it also protects them
 * from eviction, until kvtier_unpin() or until the pins expire; NULL for none. `tiers` is NULL for all. Chunks of
 * a failing backend count as absent.
 *
 * Required:
 * Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
 */
enum kvtier_status kvtier_lookup(const struct kvtier_engine *engine,
                                 const struct kvtier_key *keys,
                                 size_t n_keys,
                                 const struct kvtier_tiers *tiers,
                                 const char *lookup_id,
                                 size_t *n_found);

/**
 * Releases the pins of a lookup. A second call does nothing.
 *
 * Required:
 * Pointers are NULL or valid; `engine` was opened and not released.
 */
enum kvtier_status kvtier_unpin(const struct kvtier_engine *engine, const char *lookup_id);

/**
 * Sets each element of `present` to whether any of the tiers has the chunk, also behind gaps. `tiers` is NULL for all.
 *
 * Required:
 * Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
 */
enum kvtier_status kvtier_contains_each(const struct kvtier_engine *engine,
                                        const struct kvtier_key *keys,
                                        size_t n_keys,
                                        const struct kvtier_tiers *tiers,
                                        bool *present);

/**
 * Retrieves chunks up to the first gap, each from the first tier that has it and delivers the right bytes. Writes
 * `n_found` handles to `chunks`, and NULL to the rest of its `n_keys` elements; release each with
 * kvtier_chunk_release(). Chunks of the CPU tier are not copied. `sizes_bytes` are the sizes of the buffers that are
 * provided: a chunk may be shorter, and a larger one is not found. Chunks of a failing backend count as absent. An
 * engine without a CPU tier finds nothing here; use kvtier_fetch_into().
 *
 * Required:
 * Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
 */
enum kvtier_status kvtier_retrieve(const struct kvtier_engine *engine,
                                   const struct kvtier_key *keys,
                                   const size_t *sizes_bytes,
                                   size_t n_keys,
                                   const struct kvtier_tiers *tiers,
                                   struct kvtier_chunk **chunks,
                                   size_t *n_found);

/**
 * Returns the bytes of a chunk. They stay valid until the chunk is released, and are not to be changed.
 *
 * Required:
 * Pointers are NULL or valid; `chunk` was retrieved and not released.
 */
enum kvtier_status kvtier_chunk_bytes(const struct kvtier_chunk *chunk,
                                      struct kvtier_bytes *bytes);

/**
 * Releases a chunk. NULL is ignored. Any thread may call it, also after the engine was released.
 *
 * Required:
 * `chunk` is NULL, or was retrieved and not released.
 */
void kvtier_chunk_release(struct kvtier_chunk *chunk);

/**
 * Removes chunks from the tiers, pinned or not, and writes how many were present, summed over the tiers, to
 * `n_removed` (which may be NULL). KVTIER_STATUS_FAILED: a backend could not; the other tiers have removed them.
 * `tiers` is NULL for all.
 *
 * Required:
 * Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
 */
enum kvtier_status kvtier_remove(const struct kvtier_engine *engine,
                                 const struct kvtier_key *keys,
                                 size_t n_keys,
                                 const struct kvtier_tiers *tiers,
                                 size_t *n_removed);

/**
 * Reserves buffers for those of the chunks that the CPU tier does not have. Evicts as needed; if memory runs out, the
 * buffers are those of the first chunks. End it with kvtier_store() or kvtier_allocation_discard().
 *
 * Required:
 * Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released.
 */
enum kvtier_status kvtier_allocate(const struct kvtier_engine *engine,
                                   const struct kvtier_key *keys,
                                   const size_t *sizes_bytes,
                                   size_t n_keys,
                                   struct kvtier_allocation **allocation);

/**
 * Writes at most `capacity` of the chunks that are to be filled to `missing`, in the order of their positions, and
 * their whole number to `n_missing`. The buffers stay valid until the allocation is stored or discarded.
 *
 * Required:
 * Pointers are NULL or valid for the given numbers of elements; `allocation` was neither stored nor discarded.
 */
enum kvtier_status kvtier_allocation_missing(struct kvtier_allocation *allocation,
                                             struct kvtier_missing_chunk *missing,
                                             size_t capacity,
                                             size_t *n_missing);

/**
 * Stores the filled buffers: in the CPU tier at once, in the backends in the background. Also offers the chunks that
 * were present to backends that are not known to have them. Writes how many chunks are new in the CPU tier to `n_new`
 * (which may be NULL). `tiers` is NULL for all. Ends the allocation, unless it returns
 * KVTIER_STATUS_INVALID_ARGUMENT.
 *
 * `receipt` may be NULL. Otherwise it gets a receipt, to be released with kvtier_receipt_release(), with a result for
 * each chunk that was present or had a buffer, in the order of the allocation.
 *
 * Required:
 * Pointers are NULL or valid; `engine` is the one that made `allocation`, which was neither stored nor discarded.
 */
enum kvtier_status kvtier_store(const struct kvtier_engine *engine,
                                struct kvtier_allocation *allocation,
                                const struct kvtier_tiers *tiers,
                                size_t *n_new,
                                struct kvtier_receipt **receipt);

/**
 * Gives up an allocation: nothing is stored. NULL is ignored.
 *
 * Required:
 * `allocation` is NULL, or was neither stored nor discarded.
 */
void kvtier_allocation_discard(struct kvtier_allocation *allocation);

/**
 * Stores chunks from memory of the caller, without a copy, in the backends among the tiers (NULL for all); the CPU
 * tier never keeps lent memory. Returns when they are queued. Then the memory belongs to kvtier until each `release`:
 * kvtier reads it, and nobody changes it. With KVTIER_STATUS_INVALID_ARGUMENT nothing was taken, and no `release` is
 * called.
 *
 * `receipt` may be NULL. Otherwise it gets a receipt, to be released with kvtier_receipt_release().
 *
 * Required:
 * Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released. The memory is
 * valid until it is released.
 */
enum kvtier_status kvtier_put(const struct kvtier_engine *engine,
                              const struct kvtier_lent *lent,
                              size_t n_lent,
                              const struct kvtier_tiers *tiers,
                              struct kvtier_receipt **receipt);

/**
 * Fetches chunks into memory of the caller, each from the first of the tiers (NULL for all) that has it and delivers
 * the right bytes, and writes one result for each to `results`. Unlike kvtier_retrieve(), it does not stop at a gap.
 * `release` of each buffer is called before this returns, unless its result is KVTIER_FETCH_OUTCOME_MISSED_IN_USE:
 * until then nobody else uses the memory. With KVTIER_STATUS_INVALID_ARGUMENT nothing was taken, and no `release` is
 * called.
 *
 * Required:
 * Pointers are NULL or valid for the given numbers of elements; `engine` was opened and not released. The memory is
 * valid and writable until it is released.
 */
enum kvtier_status kvtier_fetch_into(const struct kvtier_engine *engine,
                                     const struct kvtier_lent *lent,
                                     size_t n_lent,
                                     const struct kvtier_tiers *tiers,
                                     struct kvtier_fetch_result *results);

/**
 * Waits until the outcome of each chunk in each backend is known, for at most `limit_ms`, and writes the number of
 * backends to `n_backends` (which may be NULL). KVTIER_STATUS_TIMED_OUT: some are still open.
 *
 * Required:
 * Pointers are NULL or valid; `receipt` was not released.
 */
enum kvtier_status kvtier_receipt_wait(const struct kvtier_receipt *receipt,
                                       uint64_t limit_ms,
                                       size_t *n_backends);

/**
 * Returns what became of the chunk at a position of the put in the backend at a position of the chain, counted among
 * those that the put chose. KVTIER_STATUS_FAILED: the receipt is not complete yet.
 *
 * Required:
 * Pointers are NULL or valid; `receipt` was not released.
 */
enum kvtier_status kvtier_receipt_result(const struct kvtier_receipt *receipt,
                                         size_t backend,
                                         size_t chunk,
                                         struct kvtier_put_result *result);

/**
 * Calls `completed` once when the receipt is complete, from a thread of kvtier: for event loops. The receipt may be
 * released before. If the engine is released before, it may not be called; in a forked child it is not.
 *
 * Required:
 * Pointers are NULL or valid; `receipt` is of a put of `engine`, and neither was released.
 */
enum kvtier_status kvtier_receipt_notify(const struct kvtier_engine *engine,
                                         const struct kvtier_receipt *receipt,
                                         kvtier_completed_callback completed,
                                         void *context);

/**
 * Releases a receipt. The put goes on. NULL is ignored.
 *
 * Required:
 * `receipt` is NULL, or was not released.
 */
void kvtier_receipt_release(struct kvtier_receipt *receipt);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* KVTIER_H */
