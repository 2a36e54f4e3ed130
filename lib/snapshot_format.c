/*
 * The pieces of the saved form that its writer and its reader have in common: checksums and schemes.
 */
#include "lib/snapshot.h"

/* ---- Checksums ---- */

void kvq_hash_start(kvq_hash *hash)
{
    XXH3_INITSTATE(&hash->state);
    (void)XXH3_64bits_reset(&hash->state);
}

void kvq_hash_add(kvq_hash *hash, const void *data, size_t n_bytes)
{
    (void)XXH3_64bits_update(&hash->state, data, n_bytes);
}

uint64_t kvq_hash_value(const kvq_hash *hash)
{
    return XXH3_64bits_digest(&hash->state);
}

void kvq_snapshot_header_hash_start(kvq_hash *hash, kvq_snapshot_header header)
{
    header.hash = 0;
    kvq_hash_start(hash);
    kvq_hash_add(hash, &header, sizeof header);
}

uint64_t kvq_snapshot_header_hash_v1(kvq_snapshot_header header, const kvq_snapshot_scheme_v1 *schemes)
{
    header.hash = 0;
    return XXH3_64bits_withSeed(schemes, header.n_layers * sizeof *schemes,
                                XXH3_64bits(&header, sizeof header));
}

uint64_t kvq_snapshot_layer_hash(kvq_snapshot_layer record)
{
    record.hash = 0;
    return XXH3_64bits(&record, sizeof record);
}

uint64_t kvq_snapshot_bind(uint64_t hash, const kvq_snapshot_layer *place, int64_t page)
{
    const uint64_t bound[] = {hash, place->sequence, place->layer, (uint64_t)page};
    return XXH3_64bits(bound, sizeof bound);
}

/* ---- Schemes ---- */

void kvq_snapshot_scheme_pack(const kvq_scheme *scheme, kvq_snapshot_scheme *out)
{
    *out = (kvq_snapshot_scheme){{0}};
    (void)kvq_scheme_print(scheme, true, out->text); /* a cache's schemes are valid */
}

kvq_status kvq_snapshot_scheme_unpack(const kvq_snapshot_scheme *stored, kvq_scheme *out, kvq_error *problem)
{
    if (memchr(stored->text, 0, sizeof stored->text) == NULL)
        return kvq_fail(problem, KVQ_ERR_FORMAT, "a scheme's text does not end", 0);
    KVQ_TRY(kvq_scheme_parse(stored->text, out, problem));
    kvq_snapshot_scheme again;
    kvq_snapshot_scheme_pack(out, &again);
    if (memcmp(&again, stored, sizeof again) != 0)
        return kvq_fail(problem, KVQ_ERR_FORMAT,
                        "a scheme's text must be its explicit form, followed by zeros", 0);
    return KVQ_OK;
}

static kvq_snapshot_side_v1 pack_side_v1(const kvq_side_scheme *side)
{
    if (side->codec != KVQ_CODEC_AFFINE)
        return (kvq_snapshot_side_v1){.codec = (uint8_t)side->codec};
    return (kvq_snapshot_side_v1){.codec = (uint8_t)side->codec,
                                  .bits = (uint8_t)side->bits,
                                  .axis = (uint8_t)side->axis,
                                  .group = side->group};
}

static kvq_snapshot_scheme_v1 pack_v1(const kvq_scheme *scheme)
{
    return (kvq_snapshot_scheme_v1){
        .k = pack_side_v1(&scheme->k),
        .v = pack_side_v1(&scheme->v),
        .arith = (uint8_t)scheme->arith,
        .residual_mode = (uint8_t)scheme->residual_mode,
        .residual_dtype = (uint8_t)scheme->residual_dtype,
        .residual = scheme->residual,
        .sinks = scheme->sinks,
    };
}

kvq_status kvq_snapshot_scheme_unpack_v1(const kvq_snapshot_scheme_v1 *stored, kvq_scheme *out,
                                         kvq_error *problem)
{
    *out = (kvq_scheme){
        .k = {(kvq_codec_id)stored->k.codec, stored->k.bits, (kvq_axis)stored->k.axis, stored->k.group},
        .v = {(kvq_codec_id)stored->v.codec, stored->v.bits, (kvq_axis)stored->v.axis, stored->v.group},
        .arith = (kvq_arith)stored->arith,
        .residual = stored->residual,
        .residual_mode = (kvq_residual_mode)stored->residual_mode,
        .residual_dtype = (kvq_dtype)stored->residual_dtype,
        .sinks = stored->sinks,
    };
    const char *message = kvq_scheme_problem(out);
    if (message != NULL || !kvq_scheme_print(out, false, out->text))
        return kvq_fail(problem, KVQ_ERR_SCHEME, message, 0);
    kvq_snapshot_scheme_v1 again = pack_v1(out);
    if (memcmp(&again, stored, sizeof again) != 0)
        return kvq_fail(problem, KVQ_ERR_FORMAT, "a scheme's unused bytes must be zero", 0);
    return KVQ_OK;
}
