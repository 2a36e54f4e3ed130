/*
 * Loading saved sequences through a read callback. The bytes may be damaged or hostile: every number is
 * checked before it is used, memory is taken as data arrives, and nothing is kept unless all of it was right.
 */
#include "lib/sized.h"
#include "lib/snapshot.h"

#include <math.h>

typedef struct reader {
    kvq_read_fn read;
    void *ctx;
    kvq_error *err;
    uint64_t offset;  /* of the next byte */
    uint32_t version; /* of the file */
    kvq_hash hash;    /* of the rows read since the last checksum */
    bool nonfinite;   /* among those rows; reported only if the checksum says they are what was written */
} reader;

static kvq_status fail(const reader *r, kvq_status status, const char *message, uint64_t offset)
{
    return kvq_fail(r->err, status, message, offset);
}

static kvq_status get(reader *r, void *data, size_t n_bytes)
{
    uint8_t *at = data;
    while (n_bytes > 0) {
        size_t n = r->read(r->ctx, at, n_bytes);
        if (n == SIZE_MAX || n > n_bytes)
            return fail(r, KVQ_ERR_IO, "the read callback failed", r->offset);
        if (n == 0)
            return fail(r, KVQ_ERR_TRUNCATED, "the data ends here, before the cache is complete", r->offset);
        at += n;
        n_bytes -= n;
        r->offset += n;
    }
    return KVQ_OK;
}

/* ---- Header ---- */

static kvq_status get_header(reader *r, kvq_snapshot_header *header)
{
    KVQ_TRY(get(r, header, sizeof *header));
    if (memcmp(header->magic, KVQ_SNAPSHOT_MAGIC, sizeof header->magic) != 0)
        return fail(r, KVQ_ERR_FORMAT, "not a saved cache: the first 8 bytes must be KVQCACHE", 0);
    r->version = header->version;
    if (header->version == 0 || header->version > KVQ_SNAPSHOT_VERSION)
        return fail(r, KVQ_ERR_FORMAT, "version: this library reads versions 1, 2 and 3",
                    offsetof(kvq_snapshot_header, version));
    if (header->n_layers == 0 || header->n_layers > KVQ_MAX_LAYERS)
        return fail(r, KVQ_ERR_FORMAT, "n_layers must be 1 to 4096", offsetof(kvq_snapshot_header, n_layers));
    if (header->n_heads == 0 || header->n_heads > KVQ_MAX_HEADS)
        return fail(r, KVQ_ERR_FORMAT, "n_heads must be 1 to 4096", offsetof(kvq_snapshot_header, n_heads));
    if (header->n_kv_heads == 0 || header->n_heads % header->n_kv_heads != 0)
        return fail(r, KVQ_ERR_FORMAT, "n_kv_heads must divide n_heads",
                    offsetof(kvq_snapshot_header, n_kv_heads));
    if (header->head_dim == 0 || header->head_dim > KVQ_MAX_HEAD_DIM)
        return fail(r, KVQ_ERR_FORMAT, "head_dim must be 1 to 1024", offsetof(kvq_snapshot_header, head_dim));
    if ((header->n_sequences == 0 && header->version == 1) || header->n_sequences > KVQ_MAX_SEQUENCES)
        return fail(r, KVQ_ERR_FORMAT, "n_sequences must be at most 1048576, and not 0 in version 1",
                    offsetof(kvq_snapshot_header, n_sequences));
    if (header->max_tokens == 0 || header->max_tokens > KVQ_MAX_TOKENS)
        return fail(r, KVQ_ERR_FORMAT, "max_tokens must be 1 to 1073741824",
                    offsetof(kvq_snapshot_header, max_tokens));
    return KVQ_OK;
}

/* Bytes of a stored scheme. */
static size_t scheme_bytes(const reader *r)
{
    return r->version == 1 ? sizeof(kvq_snapshot_scheme_v1) : sizeof(kvq_snapshot_scheme);
}

static kvq_status unpack_scheme(const reader *r, const void *stored, kvq_scheme *out, uint64_t offset)
{
    kvq_error problem;
    kvq_status status = r->version == 1 ? kvq_snapshot_scheme_unpack_v1(stored, out, &problem)
                                        : kvq_snapshot_scheme_unpack(stored, out, &problem);
    return status == KVQ_OK ? KVQ_OK : fail(r, status, problem.message, offset + problem.offset);
}

static uint64_t header_hash(const reader *r, const kvq_snapshot_header *header, const void *stored)
{
    if (r->version == 1)
        return kvq_snapshot_header_hash_v1(*header, stored);
    kvq_hash hash;
    kvq_snapshot_header_hash_start(&hash, *header);
    kvq_hash_add(&hash, stored, header->n_layers * scheme_bytes(r));
    return kvq_hash_value(&hash);
}

/* Read the schemes into stored[n_layers * scheme_bytes] and schemes[n_layers]. */
static kvq_status get_schemes(reader *r, const kvq_snapshot_header *header, uint8_t *stored,
                              kvq_scheme *schemes)
{
    uint64_t begin = r->offset;
    size_t size = scheme_bytes(r);
    KVQ_TRY(get(r, stored, header->n_layers * size));
    if (header_hash(r, header, stored) != header->hash)
        return fail(r, KVQ_ERR_CHECKSUM, "the header's checksum does not match",
                    offsetof(kvq_snapshot_header, hash));
    for (size_t i = 0; i < header->n_layers; i++)
        KVQ_TRY(unpack_scheme(r, stored + i * size, &schemes[i], begin + i * size));
    return KVQ_OK;
}

/* ---- Layers ---- */

static kvq_status check_record(const reader *r, const kvq_cache *cache, const kvq_layer_plan *plan,
                               const kvq_snapshot_layer *record, size_t sequence, size_t index)
{
    uint64_t begin = r->offset - sizeof *record;
    if (kvq_snapshot_layer_hash(*record) != record->hash)
        return fail(r, KVQ_ERR_CHECKSUM, "a layer record's checksum does not match", begin);
    if (record->sequence != sequence || record->layer != index)
        return fail(r, KVQ_ERR_FORMAT, "a layer record is out of order", begin);
    if (record->n_tokens > cache->config.max_tokens)
        return fail(r, KVQ_ERR_FULL, "n_tokens is more than max_tokens",
                    begin + offsetof(kvq_snapshot_layer, n_tokens));
    size_t n = kvq_past_sinks(plan, record->n_tokens);
    if (record->k_packed > n || record->k_packed % plan->side[KVQ_KEYS].tokens_per_run != 0)
        return fail(r, KVQ_ERR_FORMAT, "k_packed does not fit n_tokens and the scheme",
                    begin + offsetof(kvq_snapshot_layer, k_packed));
    if (record->v_packed > n || record->v_packed % plan->side[KVQ_VALUES].tokens_per_run != 0)
        return fail(r, KVQ_ERR_FORMAT, "v_packed does not fit n_tokens and the scheme",
                    begin + offsetof(kvq_snapshot_layer, v_packed));
    return KVQ_OK;
}

static kvq_status get_rows(reader *r, const kvq_cache *cache, const kvq_layer_plan *plan, kvq_role role,
                           uint8_t *rows, size_t n_rows)
{
    size_t n_bytes = n_rows * plan->row_bytes[role];
    KVQ_TRY(get(r, rows, n_bytes));
    kvq_hash_add(&r->hash, rows, n_bytes);
    r->nonfinite =
        r->nonfinite || !kvq_rows_are_valid(cache, plan->scheme.residual_dtype[role], rows, n_rows);
    return KVQ_OK;
}

static kvq_status get_residual(reader *r, kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer,
                               kvq_role role, size_t n)
{
    kvq_residual *residual = &layer->residual[role];
    size_t begin = layer->packed[role];
    residual->first = begin / KVQ_BLOCK;
    for (size_t head = 0; head < cache->config.n_kv_heads; head++)
        for (size_t i = begin, run; i < n; i += run) {
            run = kvq_min_size(n - i, KVQ_BLOCK - i % KVQ_BLOCK);
            if (head == 0) { /* one block at a time, as the data proves to be there */
                if (kvq_residual_reserve(cache, plan, layer, role, 1) != KVQ_OK)
                    return fail(r, KVQ_ERR_NOMEM, "out of memory", r->offset);
                residual->n += residual->n_reserved;
                residual->n_reserved = 0;
            }
            KVQ_TRY(get_rows(r, cache, plan, role, kvq_residual_row(plan, layer, role, head, i), run));
        }
    return KVQ_OK;
}

static kvq_status get_full_precision(reader *r, kvq_cache *cache, const kvq_layer_plan *plan,
                                     kvq_layer *layer, kvq_role role)
{
    size_t n = kvq_past_sinks(plan, layer->n_tokens), n_sinks = layer->n_tokens - n;
    if (kvq_sinks_ensure(cache, plan, layer) != KVQ_OK)
        return fail(r, KVQ_ERR_NOMEM, "out of memory", r->offset);
    for (size_t head = 0; n_sinks > 0 && head < cache->config.n_kv_heads; head++)
        KVQ_TRY(get_rows(r, cache, plan, role, kvq_sinks_row(plan, layer, role, head, 0), n_sinks));
    return get_residual(r, cache, plan, layer, role, n);
}

/* Numbers that count or add up: finite and, with `positive`, not negative. */
static kvq_status get_sums(reader *r, float *x, size_t n, bool positive)
{
    KVQ_TRY(get(r, x, n * sizeof *x));
    kvq_hash_add(&r->hash, x, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        r->nonfinite = r->nonfinite || !(fabsf(x[i]) <= 0x1p126f) || (positive && x[i] < 0.0f);
    return KVQ_OK;
}

static kvq_status get_learned(reader *r, kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer)
{
    size_t dim = cache->config.head_dim;
    if (kvq_evidence_ensure(cache, plan, layer) != KVQ_OK)
        return fail(r, KVQ_ERR_NOMEM, "out of memory", r->offset);
    for (size_t head = 0; head < cache->config.n_kv_heads && plan->n_learned > 0; head++) {
        float *learned = layer->learned + head * plan->n_learned;
        KVQ_TRY(get_sums(r, learned, dim, true));
        KVQ_TRY(get_sums(r, learned + dim, plan->n_learned - dim, false));
    }
    return KVQ_OK;
}

static kvq_status get_evidence(reader *r, kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer,
                               const kvq_snapshot_layer *record)
{
    if (plan->evidence == 0 || r->version < 3)
        return KVQ_OK;
    size_t n = kvq_past_sinks(plan, layer->n_tokens);
    uint64_t hash, begin = r->offset;
    kvq_hash_start(&r->hash);
    r->nonfinite = false;
    KVQ_TRY(get(r, &layer->n_queries, sizeof layer->n_queries));
    kvq_hash_add(&r->hash, &layer->n_queries, sizeof layer->n_queries);
    KVQ_TRY(get_learned(r, cache, plan, layer));
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++)
        for (size_t head = 0; head < cache->config.n_kv_heads; head++)
            for (size_t i = layer->packed[role], run; i < n; i += run) {
                float *received = kvq_residual_received(cache, plan, layer, role, head, i);
                run = kvq_min_size(n - i, KVQ_BLOCK - i % KVQ_BLOCK);
                if (received != NULL)
                    KVQ_TRY(get_sums(r, received, run, true));
            }
    uint64_t at = r->offset;
    KVQ_TRY(get(r, &hash, sizeof hash));
    if (hash != kvq_snapshot_bind(kvq_hash_value(&r->hash), record, KVQ_SNAPSHOT_EVIDENCE))
        return fail(r, KVQ_ERR_CHECKSUM, "the checksum of a layer's evidence does not match", at);
    if (r->nonfinite)
        return fail(r, KVQ_ERR_NONFINITE, "NaN, Inf or a negative sum in a layer's evidence", begin);
    return KVQ_OK;
}

static kvq_status check_page(const reader *r, const kvq_cache *cache, const kvq_layer_plan *plan,
                             const kvq_layer *layer, size_t p, uint64_t begin)
{
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        size_t first = p * KVQ_SUPERBLOCK, packed = layer->packed[role];
        size_t n = packed > first ? kvq_min_size(packed - first, KVQ_SUPERBLOCK) : 0;
        const kvq_side *side = &plan->side[role];
        for (size_t head = 0; head < cache->config.n_kv_heads; head++) {
            const uint8_t *superblock = kvq_superblock(plan, &layer->page[p], role, head);
            if (!kvq_side_is_valid(side, superblock, n))
                return fail(r, KVQ_ERR_FORMAT, "a page holds numbers that no encoder writes",
                            begin + (uint64_t)(superblock - layer->page[p].data));
        }
    }
    return KVQ_OK;
}

/* The checksum of content in its place. In version 1 it did not say where it belongs. */
static uint64_t bound_hash(const reader *r, uint64_t hash, const kvq_snapshot_layer *place, int64_t page)
{
    return r->version == 1 ? hash : kvq_snapshot_bind(hash, place, page);
}

static kvq_status get_pages(reader *r, kvq_cache *cache, const kvq_layer_plan *plan, kvq_layer *layer,
                            const kvq_snapshot_layer *place)
{
    size_t most = kvq_max_size(layer->packed[KVQ_KEYS], layer->packed[KVQ_VALUES]);
    for (size_t p = 0; p < (most + KVQ_SUPERBLOCK - 1) / KVQ_SUPERBLOCK; p++) {
        if (kvq_pages_grow(cache, plan, layer, p + 1) != KVQ_OK)
            return fail(r, KVQ_ERR_NOMEM, "out of memory", r->offset);
        uint64_t begin = r->offset, stored;
        KVQ_TRY(get(r, layer->page[p].data, plan->page_bytes));
        KVQ_TRY(get(r, &stored, sizeof stored));
        layer->page[p].hash = kvq_page_hash(plan, &layer->page[p]);
        if (bound_hash(r, layer->page[p].hash, place, (int64_t)p) != stored)
            return fail(r, KVQ_ERR_CHECKSUM, "a page's checksum does not match", begin);
        KVQ_TRY(check_page(r, cache, plan, layer, p, begin));
    }
    return KVQ_OK;
}

static kvq_status get_layer(reader *r, kvq_cache *cache, kvq_layer *layer, size_t sequence, size_t index)
{
    const kvq_layer_plan *plan = &cache->plan[index];
    kvq_snapshot_layer record;
    KVQ_TRY(get(r, &record, sizeof record));
    KVQ_TRY(check_record(r, cache, plan, &record, sequence, index));
    layer->n_tokens = record.n_tokens;
    layer->packed[KVQ_KEYS] = record.k_packed;
    layer->packed[KVQ_VALUES] = record.v_packed;
    if (record.n_tokens == 0)
        return KVQ_OK;
    uint64_t begin = r->offset;
    kvq_hash_start(&r->hash);
    r->nonfinite = false;
    KVQ_TRY(get_full_precision(r, cache, plan, layer, KVQ_KEYS));
    KVQ_TRY(get_full_precision(r, cache, plan, layer, KVQ_VALUES));
    uint64_t hash, at = r->offset;
    KVQ_TRY(get(r, &hash, sizeof hash));
    if (hash != bound_hash(r, kvq_hash_value(&r->hash), &record, KVQ_SNAPSHOT_ROWS))
        return fail(r, KVQ_ERR_CHECKSUM, "the checksum of a layer's full-precision tokens does not match",
                    at);
    if (r->nonfinite)
        return fail(r, KVQ_ERR_NONFINITE, "NaN or Inf among a layer's full-precision tokens", begin);
    KVQ_TRY(get_evidence(r, cache, plan, layer, &record));
    return get_pages(r, cache, plan, layer, &record);
}

/* Read all sequences into loaded[n_sequences], each NULL or [L] layers; on an error some may be there
 * already. */
static kvq_status get_sequences(reader *r, kvq_cache *cache, kvq_layer **loaded, size_t n_sequences)
{
    size_t n_layers = cache->config.n_layers;
    for (size_t s = 0; s < n_sequences; s++) {
        loaded[s] = kvq_memory_take(&cache->memory, KVQ_FOR_BOOKKEEPING, n_layers, sizeof(kvq_layer));
        if (loaded[s] == NULL)
            return fail(r, KVQ_ERR_NOMEM, "out of memory", r->offset);
        bool any = false;
        for (size_t i = 0; i < n_layers; i++) {
            KVQ_TRY(get_layer(r, cache, &loaded[s][i], s, i));
            any = any || loaded[s][i].n_tokens > 0;
        }
        if (!any) {
            kvq_sequence_free(cache, loaded[s]);
            loaded[s] = NULL;
        }
    }
    return KVQ_OK;
}

/* ---- The public calls ---- */

/* A header and its schemes, in memory of `memory`. */
typedef struct saved_header {
    kvq_snapshot_header header;
    kvq_scheme *schemes;       /* [n_layers] */
    const kvq_scheme **scheme; /* [n_layers], to them */
} saved_header;

static void give_saved_header(kvq_memory *memory, saved_header *saved)
{
    size_t n = saved->header.n_layers;
    kvq_memory_give(memory, KVQ_FOR_BOOKKEEPING, saved->schemes, n, sizeof *saved->schemes);
    kvq_memory_give(memory, KVQ_FOR_BOOKKEEPING, saved->scheme, n, sizeof *saved->scheme);
}

static kvq_status get_saved_header(reader *r, kvq_memory *memory, saved_header *saved)
{
    *saved = (saved_header){0};
    KVQ_TRY(get_header(r, &saved->header));
    size_t n = saved->header.n_layers;
    uint8_t *stored = kvq_memory_take(memory, KVQ_FOR_BOOKKEEPING, n, scheme_bytes(r));
    saved->schemes = kvq_memory_take(memory, KVQ_FOR_BOOKKEEPING, n, sizeof *saved->schemes);
    saved->scheme = kvq_memory_take(memory, KVQ_FOR_BOOKKEEPING, n, sizeof *saved->scheme);
    bool all = stored != NULL && saved->schemes != NULL && saved->scheme != NULL;
    kvq_status status = all ? get_schemes(r, &saved->header, stored, saved->schemes)
                            : fail(r, KVQ_ERR_NOMEM, "out of memory", r->offset);
    for (size_t i = 0; i < n && all; i++)
        saved->scheme[i] = &saved->schemes[i];
    kvq_memory_give(memory, KVQ_FOR_BOOKKEEPING, stored, n, scheme_bytes(r));
    if (status != KVQ_OK)
        give_saved_header(memory, saved);
    return status;
}

static kvq_status create_from_header(const reader *r, const saved_header *saved,
                                     const kvq_load_options *options, kvq_cache **out)
{
    kvq_config config;
    kvq_config_init(&config);
    config.n_layers = saved->header.n_layers;
    config.n_heads = saved->header.n_heads;
    config.n_kv_heads = saved->header.n_kv_heads;
    config.head_dim = saved->header.head_dim;
    config.n_sequences = kvq_max_size(saved->header.n_sequences, 1);
    config.max_tokens = saved->header.max_tokens;
    config.layer_schemes = saved->scheme;
    config.allocator = options->allocator;
    config.isa = options->isa;
    config.parallel = options->parallel;
    config.parallel_ctx = options->parallel_ctx;
    config.n_threads = options->n_threads;
    kvq_status status = kvq_cache_create(out, &config);
    return status == KVQ_OK ? KVQ_OK : fail(r, status, kvq_status_string(status), r->offset);
}

void kvq_load_options_init_sized(kvq_load_options *options, size_t struct_size)
{
    static const kvq_load_options defaults;
    if (options != NULL)
        (void)kvq_sized_write(options, struct_size, &defaults, sizeof defaults, false);
}

kvq_status kvq_cache_load(kvq_cache **out, const kvq_load_options *given, kvq_read_fn read, void *ctx,
                          kvq_error *err)
{
    reader r = {.read = read, .ctx = ctx, .err = err};
    kvq_load_options options = {0};
    if (given != NULL &&
        !kvq_sized_read(&options, sizeof options, given, KVQ_SIZE_THROUGH(kvq_load_options, isa)))
        return fail(&r, KVQ_ERR_ARG, "options were not initialised, or are of a newer version", 0);
    const kvq_allocator *allocator = options.allocator;
    if (out == NULL || read == NULL ||
        (allocator != NULL && (allocator->alloc == NULL || allocator->free == NULL)))
        return fail(&r, KVQ_ERR_ARG, "out, read or a function of allocator is NULL", 0);
    if (!kvq_parallel_is_valid(options.parallel, options.n_threads))
        return fail(&r, KVQ_ERR_ARG, "n_threads is negative, or 0 beside parallel", 0);
    kvq_memory memory; /* for what is needed until the cache has its own */
    kvq_memory_init(&memory, allocator);
    saved_header saved;
    KVQ_TRY(get_saved_header(&r, &memory, &saved));
    kvq_cache *cache = NULL;
    kvq_status status = create_from_header(&r, &saved, &options, &cache);
    give_saved_header(&memory, &saved);
    if (status == KVQ_OK)
        status = get_sequences(&r, cache, cache->sequence, saved.header.n_sequences);
    if (status != KVQ_OK) {
        kvq_cache_free(cache);
        return status;
    }
    *out = cache;
    return KVQ_OK;
}

/* Is what was saved for a cache like this one? */
static kvq_status check_match(const reader *r, const kvq_cache *cache, const saved_header *saved,
                              size_t n_sequences)
{
    const kvq_config *config = &cache->config;
    const kvq_snapshot_header *header = &saved->header;
    if (header->n_layers != config->n_layers || header->n_heads != config->n_heads ||
        header->n_kv_heads != config->n_kv_heads || header->head_dim != config->head_dim)
        return fail(r, KVQ_ERR_MISMATCH, "the saved cache has other dimensions",
                    offsetof(kvq_snapshot_header, n_layers));
    if (header->n_sequences != n_sequences)
        return fail(r, KVQ_ERR_MISMATCH, "the saved cache has another number of sequences",
                    offsetof(kvq_snapshot_header, n_sequences));
    for (size_t i = 0; i < config->n_layers; i++)
        if (strcmp(saved->schemes[i].text, cache->schemes[i].text) != 0)
            return fail(r, KVQ_ERR_MISMATCH, "the saved cache has another scheme for a layer",
                        sizeof *header + i * scheme_bytes(r));
    return KVQ_OK;
}

static kvq_status match_header(reader *r, kvq_cache *cache, size_t n_sequences)
{
    saved_header saved;
    KVQ_TRY(get_saved_header(r, &cache->memory, &saved));
    kvq_status status = check_match(r, cache, &saved, n_sequences);
    give_saved_header(&cache->memory, &saved);
    return status;
}

/* All in range, none twice? */
static kvq_status check_places(const reader *r, kvq_cache *cache, const size_t *sequences, size_t n)
{
    if (sequences == NULL)
        return KVQ_OK;
    size_t n_all = cache->config.n_sequences;
    bool *taken = kvq_memory_take(&cache->memory, KVQ_FOR_BOOKKEEPING, n_all, sizeof *taken);
    if (taken == NULL)
        return fail(r, KVQ_ERR_NOMEM, "out of memory", 0);
    const char *problem = NULL;
    for (size_t i = 0; i < n && problem == NULL; i++)
        if (sequences[i] >= n_all)
            problem = "a sequence is out of range";
        else if (taken[sequences[i]])
            problem = "a sequence is given twice";
        else
            taken[sequences[i]] = true;
    kvq_memory_give(&cache->memory, KVQ_FOR_BOOKKEEPING, taken, n_all, sizeof *taken);
    return problem == NULL ? KVQ_OK : fail(r, KVQ_ERR_ARG, problem, 0);
}

kvq_status kvq_cache_load_into(kvq_cache *cache, const size_t *sequences, size_t n_sequences,
                               kvq_read_fn read, void *ctx, kvq_error *err)
{
    reader r = {.read = read, .ctx = ctx, .err = err};
    if (cache == NULL || read == NULL || n_sequences > cache->config.n_sequences)
        return fail(&r, KVQ_ERR_ARG, "cache or read is NULL, or n_sequences is out of range", 0);
    KVQ_TRY(check_places(&r, cache, sequences, n_sequences));
    KVQ_TRY(match_header(&r, cache, n_sequences));
    kvq_layer **loaded = kvq_memory_take(&cache->memory, KVQ_FOR_BOOKKEEPING, n_sequences, sizeof *loaded);
    if (loaded == NULL)
        return fail(&r, KVQ_ERR_NOMEM, "out of memory", r.offset);
    kvq_status status = get_sequences(&r, cache, loaded, n_sequences);
    for (size_t s = 0; s < n_sequences; s++) {
        kvq_layer **place = &cache->sequence[sequences == NULL ? s : sequences[s]];
        kvq_layer *unwanted = status == KVQ_OK ? *place : loaded[s];
        if (status == KVQ_OK)
            *place = loaded[s];
        kvq_sequence_free(cache, unwanted);
    }
    kvq_memory_give(&cache->memory, KVQ_FOR_BOOKKEEPING, loaded, n_sequences, sizeof *loaded);
    return status;
}
