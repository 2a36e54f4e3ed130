/*
 * Fuzzes the reader of saved caches. The first byte of the input chooses what the rest is:
 *   even  a saved cache as it is;
 *   odd   one whose checksums are all put right on the way to the reader, so that damage gets past them.
 * It is refused with a reason and nothing left behind, or it gives a cache that verifies, reads and attends
 * to finite numbers, and saves to the very bytes that were read, unless those were of an older version.
 */
#include "lib/snapshot.h"
#include "tests/support.h"
#include "tests/toy_codec.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* ---- An allocator with an end ---- */

enum { MEMORY_LIMIT = 64 << 20 };

static void *limited_alloc(void *ctx, size_t size, size_t align)
{
    uint64_t *live = ctx;
    if (size > MEMORY_LIMIT - *live)
        return NULL;
    void *ptr = aligned_alloc(align, (size + align - 1) / align * align);
    if (ptr != NULL)
        *live += size;
    return ptr;
}

static void limited_free(void *ctx, void *ptr, size_t size)
{
    uint64_t *live = ctx;
    *live -= size;
    free(ptr);
}

/* ---- Reading, with checksums put right ---- */

typedef enum stage {
    HEADER,
    SCHEMES,
    RECORD,
    ROWS,
    ROWS_HASH,
    EVIDENCE,
    EVIDENCE_HASH,
    PAGE,
    PAGE_HASH,
} stage;

typedef struct source {
    const uint8_t *data;
    size_t size, at;
    buffer given; /* what the reader got */
    bool repair;
    stage stage;
    kvq_snapshot_header header;
    kvq_snapshot_layer record; /* the last one */
    const uint8_t *schemes;    /* in data; not aligned */
    int64_t page;              /* of the record, the one that comes */
    size_t n_records, n_rows_bytes, n_evidence_bytes, n_pages;
    kvq_hash rows; /* or evidence */
    uint64_t hash;
} source;

static size_t scheme_bytes(const source *s)
{
    return s->header.version == 1 ? sizeof(kvq_snapshot_scheme_v1) : sizeof(kvq_snapshot_scheme);
}

/* The header's checksum covers the schemes after it. */
static void repair_header(source *s, void *piece)
{
    memcpy(&s->header, piece, sizeof s->header);
    size_t n = s->header.n_layers;
    if (n > KVQ_MAX_LAYERS || n * scheme_bytes(s) > s->size - s->at)
        return;
    s->schemes = s->data + s->at;
    if (s->header.version == 1) {
        kvq_snapshot_scheme_v1 *schemes = calloc(n + 1, sizeof *schemes);
        must(schemes != NULL);
        memcpy(schemes, s->schemes, n * sizeof *schemes);
        s->header.hash = kvq_snapshot_header_hash_v1(s->header, schemes);
        free(schemes);
    } else {
        kvq_hash hash;
        kvq_snapshot_header_hash_start(&hash, s->header);
        kvq_hash_add(&hash, s->schemes, n * scheme_bytes(s));
        s->header.hash = kvq_hash_value(&hash);
    }
    memcpy(piece, &s->header, sizeof s->header);
}

/* The scheme of the next record. The reader only comes to records if all schemes are good. */
static kvq_scheme next_scheme(source *s)
{
    const uint8_t *at = s->schemes + s->n_records++ % s->header.n_layers * scheme_bytes(s);
    kvq_scheme scheme = {0};
    if (s->header.version == 1) {
        kvq_snapshot_scheme_v1 stored;
        memcpy(&stored, at, sizeof stored);
        must(kvq_snapshot_scheme_unpack_v1(&stored, &scheme, NULL) == KVQ_OK);
    } else {
        kvq_snapshot_scheme stored;
        memcpy(&stored, at, sizeof stored);
        must(kvq_snapshot_scheme_unpack(&stored, &scheme, NULL) == KVQ_OK);
    }
    return scheme;
}

static uint64_t bound_hash(const source *s, uint64_t hash, int64_t page)
{
    return s->header.version == 1 ? hash : kvq_snapshot_bind(hash, &s->record, page);
}

static size_t row_bytes(const source *s, kvq_dtype dtype)
{
    size_t dim = s->header.head_dim;
    return dtype == KVQ_F32 ? 4 * dim : dtype == KVQ_F16 ? 2 * dim : 2 + dim;
}

/* Bytes that a layer's evidence takes, without its checksum: n_queries, per KV head what was learned, and for
 * each row of the residual, on sides that ask for it, attention received. */
static size_t evidence_bytes(const source *s, const kvq_scheme *scheme, const size_t n_residual[2])
{
    size_t dim = s->header.head_dim, n_received = 0, n_learned = 0;
    unsigned evidence = 0;
    for (kvq_role role = KVQ_KEYS; role <= KVQ_VALUES; role++) {
        kvq_side side;
        if (kvq_scheme_side(scheme, role, dim, &side) != NULL)
            return 0; /* no cache will come of it */
        evidence |= side.evidence;
        n_received += side.evidence & KVQ_EVIDENCE_RECEIVED ? n_residual[role] : 0;
    }
    if (evidence & (KVQ_EVIDENCE_ENERGY | KVQ_EVIDENCE_MOMENT))
        n_learned += dim;
    if (evidence & KVQ_EVIDENCE_MOMENT)
        n_learned += dim * (dim + 1) / 2;
    return evidence == 0 || s->header.version < 3 ? 0
                                                  : 8 + 4 * s->header.n_kv_heads * (n_learned + n_received);
}

/* What follows a record, by its counts. */
static void repair_record(source *s, void *piece)
{
    kvq_snapshot_layer record;
    memcpy(&record, piece, sizeof record);
    kvq_scheme scheme = next_scheme(s);
    record.hash = kvq_snapshot_layer_hash(record);
    memcpy(piece, &record, sizeof record);
    s->record = record;
    s->page = 0;
    uint64_t n = record.n_tokens, past_sinks = n > scheme.sinks ? n - scheme.sinks : 0;
    uint64_t packed[2] = {record.k_packed, record.v_packed}, most = 0;
    size_t n_residual[2];
    s->n_rows_bytes = 0;
    if (n == 0 || n > KVQ_MAX_TOKENS)
        return; /* the next record follows, or none */
    for (size_t i = 0; i < 2; i++) {
        n_residual[i] = packed[i] < past_sinks ? past_sinks - packed[i] : 0;
        size_t n_rows = n - past_sinks + n_residual[i];
        s->n_rows_bytes += n_rows * s->header.n_kv_heads * row_bytes(s, scheme.residual_dtype[i]);
        most = packed[i] > most ? packed[i] : most;
    }
    s->n_evidence_bytes = evidence_bytes(s, &scheme, n_residual);
    s->n_pages = (most + KVQ_SUPERBLOCK - 1) / KVQ_SUPERBLOCK;
    kvq_hash_start(&s->rows);
    s->stage = s->n_rows_bytes > 0 ? ROWS : ROWS_HASH;
}

static void repair_hash(source *s, uint64_t hash, int64_t page, void *piece, size_t n)
{
    s->hash = bound_hash(s, hash, page);
    memcpy(piece, &s->hash, n < sizeof s->hash ? n : sizeof s->hash);
}

/* The reader asks for one thing at a time, so its requests tell where it is. */
static void repair_piece(source *s, void *piece, size_t n)
{
    switch (s->stage) {
    case HEADER:
        repair_header(s, piece);
        s->stage = SCHEMES;
        break;
    case SCHEMES:
        s->stage = RECORD;
        break;
    case RECORD:
        if (n == sizeof(kvq_snapshot_layer) && s->schemes != NULL)
            repair_record(s, piece);
        break;
    case ROWS:
        kvq_hash_add(&s->rows, piece, n);
        s->n_rows_bytes -= n < s->n_rows_bytes ? n : s->n_rows_bytes;
        if (s->n_rows_bytes == 0)
            s->stage = ROWS_HASH;
        break;
    case ROWS_HASH:
        repair_hash(s, kvq_hash_value(&s->rows), KVQ_SNAPSHOT_ROWS, piece, n);
        kvq_hash_start(&s->rows);
        s->stage = s->n_evidence_bytes > 0 ? EVIDENCE : s->n_pages > 0 ? PAGE : RECORD;
        break;
    case EVIDENCE:
        kvq_hash_add(&s->rows, piece, n);
        s->n_evidence_bytes -= n < s->n_evidence_bytes ? n : s->n_evidence_bytes;
        if (s->n_evidence_bytes == 0)
            s->stage = EVIDENCE_HASH;
        break;
    case EVIDENCE_HASH:
        repair_hash(s, kvq_hash_value(&s->rows), KVQ_SNAPSHOT_EVIDENCE, piece, n);
        s->stage = s->n_pages > 0 ? PAGE : RECORD;
        break;
    case PAGE:
        s->hash = bound_hash(s, XXH3_64bits(piece, n), s->page++);
        s->stage = PAGE_HASH;
        break;
    case PAGE_HASH:
        memcpy(piece, &s->hash, n < sizeof s->hash ? n : sizeof s->hash);
        s->stage = --s->n_pages > 0 ? PAGE : RECORD;
        break;
    }
}

static size_t source_read(void *ctx, void *piece, size_t n)
{
    source *s = ctx;
    n = n < s->size - s->at ? n : s->size - s->at;
    if (n == 0)
        return 0;
    memcpy(piece, s->data + s->at, n);
    s->at += n;
    if (s->repair)
        repair_piece(s, piece, n);
    must(buffer_write(&s->given, piece, n));
    return n;
}

/* ---- What a loaded cache must do ---- */

static float *floats(size_t n)
{
    float *x = malloc(n * sizeof *x + 1);
    must(x != NULL);
    return x;
}

/* All values are finite; returns the largest magnitude. */
static float check_read(const kvq_cache *cache, const kvq_config *config, size_t layer, size_t sequence)
{
    enum { STEP = 16 };
    size_t n_tokens = kvq_cache_n_tokens(cache, layer, sequence), row = config->n_kv_heads * config->head_dim;
    float *k = floats(STEP * row), *v = floats(STEP * row), largest = 0;
    for (size_t t = 0; t < n_tokens; t += STEP) {
        size_t n = n_tokens - t < STEP ? n_tokens - t : STEP;
        must(kvq_cache_read(cache, layer, sequence, t, n, k, v) == KVQ_OK);
        for (size_t i = 0; i < n * row; i++) {
            must(isfinite(k[i]) && isfinite(v[i]));
            largest = fmaxf(largest, fmaxf(fabsf(k[i]), fabsf(v[i])));
        }
        must(kvq_cache_read_bound(cache, layer, sequence, t, n, k, v) == KVQ_OK);
        for (size_t i = 0; i < n * row; i++)
            must(k[i] >= 0 && v[i] >= 0);
    }
    free(k);
    free(v);
    return largest;
}

static void check_attend(const kvq_cache *cache, const kvq_config *config, size_t layer, size_t sequence)
{
    size_t n_tokens = kvq_cache_n_tokens(cache, layer, sequence), n = config->n_heads * config->head_dim;
    float *q = floats(n), *out = floats(n), *bound = floats(config->n_heads);
    kvq_attend_options options;
    kvq_attend_options_init(&options);
    options.bound = bound;
    for (size_t i = 0; i < n; i++)
        q[i] = (float)(i % 5) - 2;
    must(kvq_cache_attend(cache, layer, &sequence, 1, q, 1, 0.125f, &options, out) == KVQ_OK);
    for (size_t i = 0; i < n; i++)
        must(isfinite(out[i]));
    for (size_t i = 0; i < config->n_heads; i++)
        must(bound[i] >= 0);
    must(kvq_cache_attend(cache, layer, &sequence, 1, q, n_tokens + 1, 0.125f, NULL, out) == KVQ_ERR_ARG);
    free(q);
    free(out);
    free(bound);
}

/* One token more, with what the layer has learned: the cache stays one that saves, and nothing overflows that
 * should not. */
static void check_step(kvq_cache *cache, const kvq_config *config, size_t layer, size_t sequence)
{
    size_t n = config->n_heads * config->head_dim, n_tokens = kvq_cache_n_tokens(cache, layer, sequence);
    float *x = floats(n), *out = floats(n);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i % 7) - 3;
    kvq_status status = kvq_cache_step(cache, layer, &sequence, 1, NULL, x, x, x, 0.125f, NULL, out);
    must(status == KVQ_OK || status == KVQ_ERR_NOMEM || status == KVQ_ERR_FULL);
    must(kvq_cache_n_tokens(cache, layer, sequence) == n_tokens + (status == KVQ_OK));
    must(kvq_cache_verify(cache, NULL) == KVQ_OK);
    free(x);
    free(out);
}

static void check_layers(const kvq_cache *cache)
{
    kvq_config config;
    kvq_cache_get_config(cache, &config);
    for (size_t s = 0; s < config.n_sequences; s++)
        for (size_t i = 0; i < config.n_layers; i++) {
            size_t n_tokens = kvq_cache_n_tokens(cache, i, s);
            if (n_tokens == 0)
                continue;
            /* Sums of floats that are nearly too large may overflow, which is nobody's fault; and an input
             * should not take seconds. */
            float largest = check_read(cache, &config, i, s);
            if (largest < 1e30f && n_tokens * config.n_heads * config.head_dim < 1 << 21)
                check_attend(cache, &config, i, s);
        }
}

static void check_loaded(kvq_cache *cache, const source *s, const uint64_t *live)
{
    kvq_usage usage;
    kvq_damage damage;
    must(kvq_cache_verify(cache, &damage) == KVQ_OK);
    must(kvq_cache_usage(cache, &usage) == KVQ_OK && usage.total == *live);
    must(usage.payload + usage.metadata + usage.residual + usage.sinks + usage.slack + usage.bookkeeping +
             usage.evidence ==
         usage.total);
    check_layers(cache);
    buffer again = saved(cache);
    kvq_snapshot_header header;
    memcpy(&header, s->given.data, sizeof header);
    if (header.version == KVQ_SNAPSHOT_VERSION && header.n_sequences > 0) /* else it comes back otherwise */
        must(again.n == s->given.n && memcmp(again.data, s->given.data, again.n) == 0);
    kvq_cache_reset(cache);
    kvq_config config;
    kvq_cache_get_config(cache, &config);
    kvq_error err;
    kvq_status status = kvq_cache_load_into(cache, NULL, config.n_sequences, buffer_read, &again, &err);
    must(status == KVQ_OK || status == KVQ_ERR_NOMEM);
    if (status == KVQ_OK) {
        buffer third = saved(cache);
        must(third.n == again.n && memcmp(third.data, again.data, again.n) == 0);
        buffer_free(&third);
        if (config.n_heads * config.head_dim * kvq_cache_n_tokens(cache, 0, 0) < 1 << 21)
            check_step(cache, &config, 0, 0);
        must(kvq_cache_usage(cache, &usage) == KVQ_OK && usage.total == *live);
    }
    buffer_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    toy_codec_register();
    uint64_t live = 0;
    const kvq_allocator allocator = {.alloc = limited_alloc, .free = limited_free, .ctx = &live};
    source s = {.data = data + 1, .size = size - 1, .repair = data[0] & 1};
    kvq_cache *cache = NULL;
    kvq_error err = {KVQ_OK, NULL, 0};
    kvq_load_options options;
    kvq_load_options_init(&options);
    options.allocator = &allocator;
    kvq_status status = kvq_cache_load(&cache, &options, source_read, &s, &err);
    if (status == KVQ_OK) {
        check_loaded(cache, &s, &live);
        kvq_cache_free(cache);
    } else {
        must(cache == NULL && err.status == status && err.message != NULL && err.offset <= s.given.n);
    }
    must(live == 0);
    buffer_free(&s.given);
    return 0;
}
