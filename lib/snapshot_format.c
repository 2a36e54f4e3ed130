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

/* Version 1 knew three codecs, by number: affine, f16, f32. What it stored becomes the text of version 2. */
static bool print_side_v1(kvq_printer *p, const kvq_snapshot_side_v1 *side)
{
    static const char *const plain[] = {[1] = "f16", [2] = "f32"};
    bool is_plain = side->codec == 1 || side->codec == 2;
    if (is_plain) {
        kvq_put(p, plain[side->codec]);
        return side->bits == 0 && side->axis == 0 && side->group == 0;
    }
    kvq_put_number(p, "", side->bits);
    kvq_put(p, side->axis == 0 ? "@channel/" : "@token/");
    if (side->group == 0)
        kvq_put(p, "full");
    else
        kvq_put_number(p, "", side->group);
    return side->codec == 0 && side->axis <= 1;
}

kvq_status kvq_snapshot_scheme_unpack_v1(const kvq_snapshot_scheme_v1 *stored, kvq_scheme *out,
                                         kvq_error *problem)
{
    char text[KVQ_SCHEME_TEXT_MAX];
    kvq_printer p = {.text = text, .size = sizeof text};
    kvq_put(&p, "k=");
    bool known = print_side_v1(&p, &stored->k);
    kvq_put(&p, ",v=");
    known = print_side_v1(&p, &stored->v) && known;
    kvq_put_number(&p, ",r=", stored->residual);
    kvq_put(&p, stored->residual_mode == 0 ? ",mode=kivi" : ",mode=sliding");
    kvq_put(&p, stored->residual_dtype == 0 ? ",rtype=f32" : ",rtype=f16");
    kvq_put_number(&p, ",s=", stored->sinks);
    kvq_put(&p, stored->arith == 0 ? ",arith=f32" : ",arith=kivi-f16");
    known = known && stored->residual_mode <= 1 && stored->residual_dtype <= 1 && stored->arith <= 1;
    if (!known || p.n >= p.size)
        return kvq_fail(problem, KVQ_ERR_SCHEME, "a field of a scheme has no such value", 0);
    kvq_error own;
    if (kvq_scheme_parse(text, out, &own) != KVQ_OK)
        return kvq_fail(problem, own.status, own.message, 0);
    if (stored->k.zero != 0 || stored->v.zero != 0 || stored->zero != 0 || stored->zero2 != 0)
        return kvq_fail(problem, KVQ_ERR_FORMAT, "a scheme's unused bytes must be zero", 0);
    return KVQ_OK;
}
