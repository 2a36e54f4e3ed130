/**
 * libkvq: the KV cache of a decoder-only transformer, stored in 1 to 8 bits.
 *
 * A cache holds the keys and values of many independent sequences. An engine appends them layer by layer as
 * tokens arrive and asks for attention; the library computes it straight from the packed form and can say how
 * far its answer may be from the full-precision one.
 *
 * Words used throughout:
 *   T      tokens cached            L, H, Hkv  layers, query heads, KV heads (H is a multiple of Hkv)
 *   D      head dimension           G          group: values that share one scale and one minimum
 *   R      residual: the most recent tokens, kept in full precision
 *   S      sinks: the first tokens, kept in full precision for good
 *   page   128 consecutive tokens of one layer of one sequence, all KV heads
 * Arrays are row-major, slowest dimension first.
 *
 * Rules for every call:
 *   - Fallible calls return a kvq_status; KVQ_OK is 0. Out-parameters are written on KVQ_OK only,
 *     unless said otherwise.
 *   - After an error the cache holds what it held before the call. (Memory taken for tables may stay for
 *     later.)
 *   - The library never prints, exits, aborts or opens files.
 *   - Threads: many threads may read one cache at once (attend, read, verify, usage, save, export); a call
 *     that changes a cache must be alone with it. Two caches are independent of each other.
 *   - A call may use 640 KB of stack, on each thread that takes part; what a plug-in uses comes on top.
 *   - Floating-point rounding must be to nearest, as it is by default.
 *   - Structs that begin with struct_size may grow at their end in later versions. Your compiler's size of
 *     them travels along: fill those that you hand in by their _init function first, and call the functions
 *     that hand one out by the name without _sized. A smaller struct than the library's (none is
 *     smaller than in 0.2.0) gets defaults for what it lacks; a larger one is fine while the rest that the
 *     library does not know is zero, and KVQ_ERR_ARG otherwise. All other structs stay as they are.
 *   - Calls that are worth it use OpenMP's threads, or those of the program's own parallel-for
 *     (kvq_config.parallel). No result depends on which, nor on how many.
 *   - After fork(), calls in the child use one thread, whatever was asked for: OpenMP's threads do not
 *     survive it, and waiting for them would take for ever. (A program's own parallel-for is trusted to know
 *     what it has left.) The child's copy of a cache is its own.
 */
#ifndef KVQ_H
#define KVQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVQ_VERSION_MAJOR 0
#define KVQ_VERSION_MINOR 3
#define KVQ_VERSION_PATCH 0
/** The version as one number that can be compared: 0.3.0 is 300. */
#define KVQ_VERSION_NUMBER (KVQ_VERSION_MAJOR * 10000 + KVQ_VERSION_MINOR * 100 + KVQ_VERSION_PATCH)
/** Raised only when a program compiled before would break; the shared library's SOVERSION. */
#define KVQ_ABI 1

#if defined(__GNUC__)
#define KVQ_API        __attribute__((visibility("default")))
#define KVQ_MUST_CHECK __attribute__((warn_unused_result))
#else
#define KVQ_API
#define KVQ_MUST_CHECK
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Errors ------------------------------------------------------------------------------------------- */

typedef enum kvq_status {
    KVQ_OK = 0,
    KVQ_ERR_ARG = 1,       /* NULL, an index out of range, sizes that do not fit together            */
    KVQ_ERR_SCHEME = 2,    /* the scheme's text or fields make no valid scheme                       */
    KVQ_ERR_NONFINITE = 3, /* NaN or Inf (or a negative scale) among the numbers given              */
    KVQ_ERR_NOMEM = 4,     /* the allocator returned NULL                                            */
    KVQ_ERR_FULL = 5,      /* the append would pass max_tokens                                       */
    KVQ_ERR_ISA = 6,       /* KVQ_ISA, or isa in a struct, names none that runs here                   */
    KVQ_ERR_IO = 7,        /* a read or write callback failed                                        */
    KVQ_ERR_FORMAT = 8,    /* a saved cache is not what the format says: magic, version, a length    */
    KVQ_ERR_TRUNCATED = 9, /* a saved cache ends early                                               */
    KVQ_ERR_CHECKSUM = 10, /* stored bytes do not match their checksum                               */
    KVQ_ERR_MISMATCH =
        11, /* a saved cache has other dimensions or schemes than the cache it is loaded into */
} kvq_status;

/** One line of English for a status; never NULL, static storage. */
KVQ_API const char *kvq_status_string(kvq_status status);

/**
 * Where and why a text or a saved cache was refused. `message` is static; `offset` counts bytes from the
 * start of the text or of the data read. Written only when the call returns an error.
 */
typedef struct kvq_error {
    kvq_status status;
    const char *message;
    uint64_t offset;
} kvq_error;

/** Version of the library that runs, as "major.minor.patch". */
KVQ_API const char *kvq_version(void);

/** The same as KVQ_VERSION_NUMBER counts. */
KVQ_API uint32_t kvq_version_number(void);

/**
 * Name of the instruction set whose kernels new caches will use, such as "portable": the best that runs here,
 * or the one named by the environment variable KVQ_ISA, read once. NULL if that names none that runs here.
 */
KVQ_API const char *kvq_isa(void);

/** Name of the i-th instruction set that runs here, from the plainest ("portable") up; NULL past the last. */
KVQ_API const char *kvq_isa_name(size_t i);

/* ---- Schemes: how keys and values are stored ---------------------------------------------------------- */

typedef enum kvq_axis {
    KVQ_AXIS_CHANNEL = 0, /* a group runs along T inside one channel: KIVI's choice for keys   */
    KVQ_AXIS_TOKEN = 1,   /* a group runs along D inside one token: KIVI's choice for values   */
} kvq_axis;

typedef enum kvq_residual_mode {
    KVQ_RESIDUAL_KIVI = 0,    /* the order of the KIVI paper (arXiv 2402.02750, algorithm 1); see below */
    KVQ_RESIDUAL_SLIDING = 1, /* keys and values alike: at least R newest tokens stay in full precision */
} kvq_residual_mode;

typedef enum kvq_dtype {
    KVQ_F32 = 0,
    KVQ_F16 = 1,  /* saturates at 65504 */
    KVQ_I8 = 2,   /* per token and head a half scale and int8 values; saturates near 8.3e6 */
    KVQ_BF16 = 3, /* bfloat16: of a call's arrays only (kvq_attend_options), nothing is stored so */
} kvq_dtype;

typedef enum kvq_arith {
    /* Minimum rounded down and scale rounded up to half first, codes chosen against the rounded values,
     * everything else in float: |x - xhat| <= scale/2 but for float rounding. */
    KVQ_ARITH_F32 = 0,
    /* Every operation rounded to half, as KIVI's published code does on half tensors: bit-exact parity. */
    KVQ_ARITH_KIVI_F16 = 1,
} kvq_arith;

enum {
    KVQ_GROUP_FULL = 0, /* one group per token: the whole head dimension (token axis only) */
    KVQ_MAX_HEAD_DIM = 1024,
    KVQ_MAX_LAYERS = 4096,
    KVQ_MAX_HEADS = 4096,
    KVQ_MAX_SEQUENCES = 1 << 20,
};
#define KVQ_MAX_TOKENS ((size_t)1 << 30)

/**
 * How K and V are stored: a codec for each with its parameters, a residual, sinks. Made from text, never
 * changed.
 *
 * Which tokens are packed is a function of the number of tokens T appended so far (the sinks apart), so any
 * split of the same tokens into appends gives byte-identical caches:
 *   kivi, channel axis   groups of R are packed together once a further token arrives: 1 to R stay in the
 *                        residual
 *   kivi, token axis     all but the newest R + 1 are packed; the same goes for a side stored as f16 or f32,
 *                        which has no axis
 *   sliding, both        packed in steps of the larger G (a full group counts as 32, f16 and f32 as 1, whole
 *                        pages as 128), so that R to R + step - 1 stay in the residual
 *   kivi, whole pages    as the channel axis
 * The step that completes a group of R keys still sees them in full precision, as in KIVI, where a decode
 * step attends first and quantizes afterwards; here the packing happens when the next token arrives. So the
 * attention of the n-th token, itself among the n, sees floor((n - 1) / R) * R packed keys (channel axis) and
 * max(0, n - 1 - R) packed values (token axis), and the rest in full precision; sinks do not count in n.
 */
typedef struct kvq_scheme kvq_scheme;

/**
 * Make a scheme from text.
 *
 *   text    := scheme ("+" layers "=" scheme)*
 *   layers  := N | N "-" N              counted from 0, the last one included
 *   scheme  := (preset | item) ("," item)*
 *   preset  := "fp32" | "fp16" | "kivi" BITS ["-g" GROUP]
 *            | "kvq1.5" | "kvq2" | "kvq2-fb" | "kvq2.5" | "kvq3" | "kvq4"
 *   item    := ("k" | "v") "=" side      how keys or values are stored; both are needed without a preset
 *            | "r=" N                    residual R                                 (default 128)
 *            | "mode=" ("kivi" | "sliding")                                         (default kivi)
 *            | "rtype=" DTYPE ["/" DTYPE] of residual and sinks, or of keys' / values'   (default f32)
 *            | "s=" N                    sinks S                                    (default 0)
 *            | "hh=" N                   heavy hitters per page, 0 to 8             (default 0)
 *            | "arith=" ("f32" | "kivi-f16")                                        (default f32)
 *   side    := "f32" | "f16" | BITS ["@" ("channel" | "token")] ["/" (GROUP | "full")] | NAME [":" ...]
 *   DTYPE   := "f32" | "f16" | "i8"
 * kiviB is k=B@channel/32,v=B@token/32,r=128; fp32 and fp16 are k=f32,v=f32 (f16) with r=0,mode=sliding.
 * BITS is 1, 2, 3, 4, 5, 6 or 8, GROUP 16, 32, 64 or 128. A side left without axis is per channel for k and
 * per token for v; without group it has 32. R is a multiple of what a side packs together (the G of the
 * channel axis, 128 for codecs of whole pages), and not 0 then in kivi mode.
 *
 * The kvq schemes spend bits where queries look; they need what kvq_cache_step learns (without it most of
 * their gain is lost) and pack whole pages. kvq2 is
 * k=tier:2,v=rot:2,hh=2,s=4,mode=sliding,rtype=f16/i8; kvq2-fb k=tier:2:fb; kvq1.5 tier:1.5 and rot:1.5;
 * kvq2.5 tier:3, rot:2 and hh=4; kvq3 tier:3.5 and rot:3; kvq4 tier:4 and rot:4.
 *   tier:BITS[:fb][:u=N][:cert]  keys, any half from 1 to 5 bits on average: each channel in 0, 1, 2, 4
 *                     (from 3 on also 6) bits, by variance times the energy of queries there. fb: errors
 *                     of a channel are made up for in the others, by the queries' second moment. u: how much
 *                     an error of gain counts (default 7). cert: an error bound is stored. Steps lie between
 *                     2^-16 and 2^15.8, offsets are halves: keys of less than 1e-4 are coarse
 *   rot:BITS          values, 1.5, 2, 3 or 4 bits: rotated by Hadamard, one scale per token
 *   hh=N              the N tokens of a page with the most attention so far are kept in 8 bits
 * A scheme may differ by layer: the first one is the base, which holds for all layers that are not named
 * behind it, as in kivi2+0-1=kivi4+29=k=4,v=8. No layer is named twice, none is KVQ_MAX_LAYERS or higher.
 * Canonical are ranges in the order of their layers, adjacent ones joined if their schemes are equal, and
 * left out if equal to the base; it must fit 65535 characters.
 *
 * Codecs of papers, to compare with, have names of their own (README), and so have a program's plug-ins
 * (kvq_experimental.h).
 *
 * text      NUL-terminated; spaces are not allowed.
 * err       may be NULL.
 * Ownership free it with kvq_scheme_free, at any time: caches keep a copy.
 * Returns KVQ_OK; KVQ_ERR_ARG (NULL); KVQ_ERR_SCHEME with err->offset at the offending character;
 * KVQ_ERR_NOMEM.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_scheme_create(kvq_scheme **out, const char *text, kvq_error *err);

/** Free a scheme; NULL is fine. Not for those that a cache hands out. */
KVQ_API void kvq_scheme_free(kvq_scheme *scheme);

/**
 * The scheme, all layers of it, in its shortest canonical form (presets where they fit). kvq_scheme_create
 * makes the same scheme of it; two schemes are equal if their texts are. Lives as long as the scheme. NULL
 * for NULL.
 */
KVQ_API const char *kvq_scheme_text(const kvq_scheme *scheme);

/** Text of the i-th preset, from the widest (at D = 64) down, with the usual groups; NULL past the last. */
KVQ_API const char *kvq_scheme_preset(size_t i);

/**
 * How many layers a cache of this scheme must have at least: 1 + the highest layer that has a scheme of its
 * own. 0 for a scheme that is the same in all layers, and for NULL.
 */
KVQ_API size_t kvq_scheme_min_layers(const kvq_scheme *scheme);

/**
 * The scheme of one layer: one that is the same in all layers, in a cache of which this layer stores the same
 * bytes. It is the scheme itself if that is such a one, and otherwise a part of it: free neither, they live
 * as long as it. A layer beyond all those named has the base. NULL for NULL.
 */
KVQ_API const kvq_scheme *kvq_scheme_of_layer(const kvq_scheme *scheme, size_t layer);

/* Where a scheme differs by layer, all that follows is about its base; ask kvq_scheme_of_layer for a layer.
 */

/** What one side of a scheme, keys or values, says. */
typedef struct kvq_side_info {
    size_t struct_size; /* out: bytes filled */
    const char *codec;  /* "affine", "f16", "f32", "tier", ...; static */
    uint32_t bits;      /* of a code; 16 and 32 for f16 and f32, 0 where codes differ in width */
    kvq_axis axis;      /* of groups; affine only, as the next two */
    uint32_t group;     /* G: 16, 32, 64, 128 or KVQ_GROUP_FULL */
    kvq_arith arith;
    kvq_dtype residual_dtype; /* of this side's residual and sinks */
    uint32_t heavy_hitters;   /* tokens of a page kept in 8 bits */
    bool uses_evidence;       /* encodes better after kvq_cache_step than after kvq_cache_append */
} kvq_side_info;

/** Call kvq_scheme_keys and kvq_scheme_values instead. */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_scheme_keys_sized(const kvq_scheme *scheme, kvq_side_info *out,
                                                        size_t struct_size);
KVQ_API KVQ_MUST_CHECK kvq_status kvq_scheme_values_sized(const kvq_scheme *scheme, kvq_side_info *out,
                                                          size_t struct_size);

/** What a scheme says of keys. Returns KVQ_OK or KVQ_ERR_ARG (NULL). */
static inline kvq_status kvq_scheme_keys(const kvq_scheme *scheme, kvq_side_info *out)
{
    return kvq_scheme_keys_sized(scheme, out, sizeof *out);
}

/** The same of values. */
static inline kvq_status kvq_scheme_values(const kvq_scheme *scheme, kvq_side_info *out)
{
    return kvq_scheme_values_sized(scheme, out, sizeof *out);
}

/* What it says of both sides; 0 for NULL. */
KVQ_API size_t kvq_scheme_residual(const kvq_scheme *scheme); /* R */
KVQ_API size_t kvq_scheme_sinks(const kvq_scheme *scheme);    /* S */
KVQ_API kvq_residual_mode kvq_scheme_residual_mode(const kvq_scheme *scheme);
KVQ_API kvq_dtype kvq_scheme_residual_dtype(const kvq_scheme *scheme); /* of the keys' residual and sinks */

/**
 * Storage cost of the packed part in bits per element, metadata included, for head dimension D, mean of keys
 * and values: 3.0 for two bits with G = 32. Padding of D to the layout's multiple is counted. 0 for NULL, a
 * D out of range, or one that a codec does not take (tier with fb: up to 256; nuq: up to 512), for which
 * kvq_cache_create returns KVQ_ERR_SCHEME.
 */
KVQ_API double kvq_scheme_bits_per_element(const kvq_scheme *scheme, size_t head_dim);

/* ---- The cache ---------------------------------------------------------------------------------------- */

typedef struct kvq_cache kvq_cache;

/**
 * Memory for a cache. alloc returns `size` bytes aligned to `align` (a power of two) or NULL; free gets the
 * same size back. Both are called by the thread that changes the cache, never concurrently for one cache.
 */
typedef struct kvq_allocator {
    void *(*alloc)(void *ctx, size_t size, size_t align);
    void (*free)(void *ctx, void *ptr, size_t size);
    void *ctx;
} kvq_allocator;

/**
 * A program's own parallel-for: call task(arg, i) once for every i < n, on whatever threads it has, and
 * return when all calls have returned. What the caller wrote before must be visible in them, and what they
 * wrote to the caller afterwards, as any pool's locks see to.
 *
 * Any order will do, any thread, and fewer threads than promised: tasks never wait for each other, so a plain
 * loop on the calling thread is a parallel-for, too. n is at least 2 and at most the n_threads of the config,
 * and each task takes pieces of the call's work until none is left: there is nothing to gain from dealing
 * them out cleverly. A task may use as much stack as a call (640 KB), never blocks, and starts no tasks of
 * its own. It must run to its end: no longjmp, no exception, no cancelled thread.
 *
 * It is called by the thread that calls the library, and never again before it has returned; where several
 * threads call the library at once, by several at once. A program that calls the library from tasks of its
 * own pool needs a parallel-for that can be called from there.
 */
typedef void (*kvq_parallel_fn)(void *ctx, void (*task)(void *arg, size_t i), void *arg, size_t n);

typedef struct kvq_config {
    size_t struct_size;
    size_t n_layers;          /* L */
    size_t n_heads;           /* H, query heads; a multiple of n_kv_heads */
    size_t n_kv_heads;        /* Hkv */
    size_t head_dim;          /* D, 1 to KVQ_MAX_HEAD_DIM */
    size_t n_sequences;       /* default 1 */
    size_t max_tokens;        /* per sequence; default KVQ_MAX_TOKENS. Nothing is reserved for it. */
    const char *scheme_text;  /* default "kivi2"; copied, as the next two */
    const kvq_scheme *scheme; /* overrides scheme_text; NULL for none */
    /* [n_layers], overrides both; NULL for none. Of one that differs by layer, layer i takes its layer i. */
    const kvq_scheme *const *layer_schemes;
    const kvq_allocator *allocator; /* NULL: the default one (see kvq_config_init); copied */
    const char *isa;                /* instruction set to use, as in KVQ_ISA; NULL: what kvq_isa() names */
    /* Instead of OpenMP, for all calls on this cache: they start no threads then (examples/parallel.c). NULL
     * for none. parallel_ctx is handed through. */
    kvq_parallel_fn parallel;
    void *parallel_ctx;
    /* Threads that calls use if their options do not say, and what parallel has, which none can exceed. 0: as
     * many as OpenMP gives; with parallel it must be set. */
    int n_threads;
} kvq_config;

/** Call kvq_config_init instead. */
KVQ_API void kvq_config_init_sized(kvq_config *config, size_t struct_size);

/**
 * Fill a config with its defaults; NULL is fine. The four dimensions are 0 and must be set.
 * The default allocator takes what is large from the system by mmap, asks for huge pages there, and gives it
 * back by munmap as soon as it is empty; the rest comes from malloc.
 */
static inline void kvq_config_init(kvq_config *config)
{
    kvq_config_init_sized(config, sizeof *config);
}

/**
 * Make an empty cache. It holds little memory until tokens arrive; the first token of a layer takes room for
 * S sinks.
 * Ownership: free it with kvq_cache_free.
 * Returns KVQ_OK; KVQ_ERR_ARG; KVQ_ERR_SCHEME (also for one that names a layer which the cache does not have:
 * kvq_scheme_min_layers; or does not take D: kvq_scheme_bits_per_element is 0); KVQ_ERR_NOMEM; KVQ_ERR_ISA.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_create(kvq_cache **out, const kvq_config *config);

/** Free a cache and all its memory; NULL is fine. */
KVQ_API void kvq_cache_free(kvq_cache *cache);

/** Call kvq_cache_get_config instead. */
KVQ_API void kvq_cache_get_config_sized(const kvq_cache *cache, kvq_config *out, size_t struct_size);

/**
 * The dimensions and schemes a cache was made with, ready to make another one alike. layer_schemes points to
 * [n_layers] schemes of the cache, none of which differs by layer, and lives as long as it; scheme_text,
 * scheme and allocator are NULL, isa is the one in use, and parallel, its context and n_threads are as given.
 */
static inline void kvq_cache_get_config(const kvq_cache *cache, kvq_config *out)
{
    kvq_cache_get_config_sized(cache, out, sizeof *out);
}

/** Name of the instruction set whose kernels this cache uses. */
KVQ_API const char *kvq_cache_isa(const kvq_cache *cache);

/**
 * Append the keys and values of n_tokens new tokens to one layer of one sequence.
 *
 * k, v      [n_tokens][Hkv][D] float32, row-major; read only; need not outlive the call.
 * Cost      O(n_tokens), amortised; stored tokens are never copied to make room.
 * Returns KVQ_OK; KVQ_ERR_ARG (NULL, layer or sequence out of range); KVQ_ERR_NONFINITE; KVQ_ERR_FULL;
 * KVQ_ERR_NOMEM. n_tokens = 0 is a no-op.
 * Numerics  identical bytes for any split into calls, any number of threads and any instruction set.
 * Source    KIVI, arXiv 2402.02750, section 3.2 and algorithm 1.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_append(kvq_cache *cache, size_t layer, size_t sequence,
                                                   const float *k, const float *v, size_t n_tokens);

/** Where rows of D values lie: that of token t and KV head h at t * token + h * head. In elements, not bytes;
 * the D values of a row lie side by side. */
typedef struct kvq_strides {
    size_t token, head;
} kvq_strides;

/**
 * Append tokens that do not lie as [n_tokens][Hkv][D]: the same as kvq_cache_append in everything else.
 *
 * k, v      rows of D float32 where strides says, the same for both; nothing between them is read.
 * strides   NULL stands for {.token = Hkv * D, .head = D}. Hugging Face's past_key_values as one array p,
 *           [L][2][B][Hkv][T][D], are appended from
 *               base(s) = p + ((l * 2 + s) * B + b) * Hkv * T * D     s = 0 for keys, 1 for values
 *           with {.token = D, .head = T * D}; as tensors of their own, [B][Hkv][T][D], from b * Hkv * T * D
 *           of each. Tokens from t0 on begin t0 * D further.
 * Returns   as kvq_cache_append; KVQ_ERR_ARG also for strides with which rows overlap (one is below D, or
 *           neither leaves room for all rows along the other) or leave the address space.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_append_strided(kvq_cache *cache, size_t layer, size_t sequence,
                                                           const float *k, const float *v, size_t n_tokens,
                                                           const kvq_strides *strides);

/** Tokens held by one layer of one sequence; 0 for an index out of range. */
KVQ_API size_t kvq_cache_n_tokens(const kvq_cache *cache, size_t layer, size_t sequence);

/**
 * How many tokens of one layer of one sequence are packed, keys and values apart. They are the ones right
 * after the sinks: with n tokens held and S' = min(S, n), tokens [S', S' + *k) of the keys and [S', S' + *v)
 * of the values; those before are sinks, those behind the residual.
 *
 * k, v      out; either may be NULL.
 * Returns KVQ_OK; KVQ_ERR_ARG (NULL, layer or sequence out of range).
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_n_packed(const kvq_cache *cache, size_t layer, size_t sequence,
                                                     size_t *k, size_t *v);

/**
 * Read back tokens [begin, begin + n_tokens), dequantized.
 *
 * k, v      out, [n_tokens][Hkv][D] float32; either may be NULL.
 * Returns KVQ_OK; KVQ_ERR_ARG (also for a range past the end).
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_read(const kvq_cache *cache, size_t layer, size_t sequence,
                                                 size_t begin, size_t n_tokens, float *k, float *v);

/**
 * The same into rows of D values where strides says (kvq_cache_append_strided, NULL included); what lies
 * between them stays as it is. So past_key_values are filled with the arrays and strides that they are
 * appended with.
 * Returns KVQ_OK; KVQ_ERR_ARG (also for a range past the end, and for strides as there).
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_read_strided(const kvq_cache *cache, size_t layer,
                                                         size_t sequence, size_t begin, size_t n_tokens,
                                                         float *k, float *v, const kvq_strides *strides);

/**
 * The promised error of the same tokens: |x - xhat| <= bound for each element, from the stored scales.
 *
 * k, v      out, [n_tokens][Hkv][D] float32; either may be NULL. 0 for what is stored as appended. +Inf where
 *           nothing is promised: keys of tier without :cert (of all kvq presets), rivals, plug-ins without a
 *           bound; and where a group touches the ends of IEEE half: |x| near or beyond 65504; with
 *           KVQ_ARITH_KIVI_F16, whose range max - min is a half as well, also a range near or beyond that.
 * Returns KVQ_OK; KVQ_ERR_ARG.
 * Note      tokens that a truncation brought back dequantized (kvq_cache_truncate) count from there on as
 *           if they had been appended so.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_read_bound(const kvq_cache *cache, size_t layer, size_t sequence,
                                                       size_t begin, size_t n_tokens, float *k, float *v);

/**
 * Forget all but the first n_tokens of one sequence, in every layer, and return the memory, chunk by chunk as
 * they empty: what is left of a chunk counts as slack.
 *
 * Tokens that a fresh cache of n_tokens would hold in full precision, but that were already packed, come back
 * dequantized. So truncate + append equals a fresh cache bit for bit as long as those tokens still were in
 * the residual, and always for f32. Schemes of whole pages bring back up to 128 tokens of the newest page;
 * the attention that those had received is forgotten, but which of them were heavy hitters is not.
 * Returns KVQ_OK (also if a layer holds fewer tokens: it keeps them); KVQ_ERR_ARG; KVQ_ERR_NOMEM.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_truncate(kvq_cache *cache, size_t sequence, size_t n_tokens);

/** Empty every sequence and return all memory that tokens used. NULL is fine. */
KVQ_API void kvq_cache_reset(kvq_cache *cache);

/* ---- Attention ---------------------------------------------------------------------------------------- */

typedef enum kvq_precision {
    /* Over packed values, queries and probabilities are rounded to 16 bits and multiplied as whole numbers:
     * about 1e-4 (relative L2 of a head's output) from real arithmetic over the packed numbers. An estimate
     * of the error is kept: a query with too wide a range is scored with 31 bits (or see Numerics), and what
     * could pass 1e-3 is computed again with 31 bits. (An estimate, and of this rounding: where scores of 1e4
     * and more, or values that are 1e4 times the output, cancel, float32 itself is off by as much.) For keys
     * per channel with G >= 32, values per token, both in the default arithmetic, and for tier and rot (all
     * kvq schemes; probabilities stay float where rot has other bits than 2); EXACT otherwise (rivals,
     * plug-ins), and wherever `bound` is asked for. */
    KVQ_PRECISION_FAST = 0,
    /* About 1e-6 from real arithmetic, as float32 is, for 1.1 to 1.7 times the time: what FAST serves has 31
     * bits instead of 16; all else is float32 over dequantized numbers, which superblocks_exact tells. (Where
     * one channel decides scores by 100, up to 1e-5; where values cancel to a hundredth, 100 times it.) */
    KVQ_PRECISION_EXACT = 1,
} kvq_precision;

/** What attention had to do, added to what the struct holds. */
typedef struct kvq_attend_counters {
    size_t struct_size;
    uint64_t heads;       /* query heads, of all queries and sequences */
    uint64_t superblocks; /* superblocks with packed tokens that a query head went through */
    /* Of them scored with 31 bits: exact precision, or the query's range was too wide for 16, or the page has
     * no packed value yet (in the window) to tell what 16 bits amount to, or the head was computed again. */
    uint64_t superblocks_wide;
    /* Of them with scores or sums in float32: all of a scheme of which one side has no whole-number sums (rot
     * of any width counts as having them), or a query out of their range (see Numerics). Much slower. */
    uint64_t superblocks_exact;
    uint64_t heads_again; /* heads computed again with 31 bits, because they could be too far off */
} kvq_attend_counters;

/** Call kvq_attend_counters_init instead. */
KVQ_API void kvq_attend_counters_init_sized(kvq_attend_counters *counters, size_t struct_size);

/** Set all counters to 0; NULL is fine. */
static inline void kvq_attend_counters_init(kvq_attend_counters *counters)
{
    kvq_attend_counters_init_sized(counters, sizeof *counters);
}

typedef struct kvq_attend_options {
    size_t struct_size;
    kvq_precision precision;
    /* 0: as many as kvq_config.n_threads says. The result does not depend on it. OpenMP's threads may spin
     * while they wait: on machines with other work, set GOMP_SPINCOUNT=3000 (gcc) or KMP_BLOCKTIME=0 (clang)
     * for the process. */
    int n_threads;
    float *probabilities; /* out, [n_sequences][n_q][H][T]; all T must be equal. NULL: not wanted */
    /* out, [n_sequences][n_q][H]. NULL: not wanted. Costs 10 to 150 times the attention, which is EXACT
     * then */
    float *bound;
    kvq_attend_counters *counters; /* added to; not by two calls at once. NULL: not wanted */
    /* Sliding window in tokens, the query's own included: the query of token p sees tokens j with
     * p - window < j <= p, as layers with sliding_window in Hugging Face's models. 0: all up to p */
    size_t window;
    /* What the call's arrays hold: KVQ_F32, KVQ_F16 or KVQ_BF16 (the last two as 16-bit words); k and v are
     * those of kvq_cache_step. probabilities and bound are float32 always. */
    kvq_dtype q_dtype, kv_dtype, out_dtype;
} kvq_attend_options;

/** Call kvq_attend_options_init instead. */
KVQ_API void kvq_attend_options_init_sized(kvq_attend_options *options, size_t struct_size);

/** Fill the options with their defaults; NULL is fine. */
static inline void kvq_attend_options_init(kvq_attend_options *options)
{
    kvq_attend_options_init_sized(options, sizeof *options);
}

/**
 * Causal attention of the newest n_q tokens of each sequence over its cache:
 * out = softmax(scale * q K^T) V, in which query i of n_q sees the first T - n_q + i + 1 tokens, or of them
 * the newest options->window.
 *
 * sequences [n_sequences] indices; NULL stands for 0, 1, ..., n_sequences - 1. None is a no-op, for
 *           q and out that are not NULL all the same.
 * q, out    [n_sequences][n_q][H][D], float32 unless options say otherwise (q_dtype, out_dtype); out must not
 *           overlap q. Query head h uses KV head h / (H/Hkv). Numbers of 16 bits are converted where they are
 *           used, not copied: the result is that of the same numbers in float32, and out the float32 result
 *           rounded to nearest even; what is finite stays so (65504, or 3.39e38), Inf and NaN stay what they
 *           are.
 * scale     usually 1/sqrt(D).
 * options   NULL for the defaults.
 * bound     a number B per query head with max_d |out - out_exact| <= B, where out_exact is the attention in
 *           real arithmetic over the keys and values as they were appended (or imported, or brought back by a
 *           truncation), and out what was handed out, rounded. +Inf where nothing can be promised (see
 *           kvq_cache_read_bound). Derivation: lib/bound.c.
 * Returns KVQ_OK; KVQ_ERR_ARG (NULL, an index out of range, n_q = 0 or > T, scale not finite, unequal T with
 * probabilities, options not initialised or out of range); KVQ_ERR_NONFINITE (in q).
 * Memory    takes nothing from the cache's allocator. With several threads, some 150 bytes for each KV head
 *           of each sequence (and eight query rows) come from malloc for the time of the call, and for a
 *           sequence that threads share, 4 (D + 4) bytes, with rotated values 4 (2 D + 4), per query head and
 *           2,048 tokens (512 of the first 2,048); without them one thread does the work of several. For more
 *           than 64 sequences some 100 bytes each; without them it is done in parts.
 * Numerics  identical bits on every instruction set, for any n_threads, any grouping of sequences into calls
 *           and whatever other queries of a sequence are in the call. Whole numbers of 31 bits serve scores
 *           but where |q| times scale, by a key's scale or minimum, passes 2^100, or |q| 2^85 times the
 *           largest such product, or what folding rounds could be 2^-22 (root mean square, in powers of 2
 *           of a weight): that takes one channel's range of keys to make a difference of some 110 to a score
 *           at D = 64, times the root of 64 / D at others. Then they are float32.
 *           Sums are float32, 128 tokens at a time (online softmax: Milakov and Gimelshein, arXiv
 *           1805.02867), in segments of 2,048 (the first: of 512) that threads share. A query for which
 *           scale * q, that times a key's scale, a score, or a partial sum of one leaves the range of float
 *           gets NaN for its out and probabilities; where a sum of values leaves it, out has Inf or NaN; the
 *           bound is +Inf in both cases.
 * Window    pages (and sinks, and rows of the residual) before what all queries in flight see are not
 *           visited, so time goes with the window and not with T; their probabilities are 0. Pages before
 *           the one in which a query's window begins have no influence on any bit of its answer. Older
 *           tokens in that page are in no sum, but may share scales with those in the window and the
 *           rounding of the query. A window of T tokens or more gives the bits of 0.
 *           Sinks are a matter of storage: outside a window they are not seen. The cache keeps all tokens,
 *           also those that no window will reach any more.
 * Prompts   queries see the cache as it stands after the append: a long prompt sees its own older tokens
 *           packed. kvq_cache_step attends within a prompt with exact keys and values, as KIVI does.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_attend(const kvq_cache *cache, size_t layer,
                                                   const size_t *sequences, size_t n_sequences, const void *q,
                                                   size_t n_q, float scale, const kvq_attend_options *options,
                                                   void *out);

/**
 * Append and attend in one call: what an engine does in every layer, for any number of sequences and of new
 * tokens each, a decode step and a prompt alike.
 *
 * The new tokens of a sequence are seen in full precision by each other, causally, as they are given here;
 * older ones as the cache holds them once it has one token more (but for those that, without a residual, only
 * a new token completes a group with: as they were). Then the new queries become evidence for
 * schemes that use some, and the new tokens are stored: what they complete is packed with that evidence. So
 * the keys and values of a sequence end up where kvq_cache_append puts them, and for schemes that use no
 * evidence with the same bytes, however the tokens are split into calls.
 *
 * Evidence is what a layer of a sequence has learned from the queries that came through this call: per KV
 * head, from all its query heads, the energy of each channel and, as a scheme asks for it, the second moment;
 * for each token not yet packed, the attention it has received. It is a function of the calls made, is
 * counted (kvq_usage.evidence), saved and loaded with its sequence, and in a truncation keeps its
 * proportions with the weight of the tokens that remain.
 *
 * sequences [n_sequences], all different; NULL stands for 0, 1, ..., n_sequences - 1.
 * n_new     [n_sequences] new tokens of each, may be 0; NULL stands for 1 each. N is their sum.
 * q         [N][H][D], k and v [N][Hkv][D]: sequence after sequence; read only. float32 unless options say
 *           otherwise (q_dtype, kv_dtype): then as the same numbers in float32, also in what is stored.
 * out       [N][H][D], as in kvq_cache_attend; must not overlap the others.
 * scale, options as in kvq_cache_attend; probabilities are [N][H][T], where T is the number of tokens
 *           after the call, and need equal T and equal n_new; bound is [N][H], and takes the new tokens as
 *           exact. Tokens outside a query's window receive no attention from it, in evidence as elsewhere.
 * Returns KVQ_OK; KVQ_ERR_ARG (NULL, an index out of range, a sequence given twice, scale not finite, unequal
 * T or n_new with probabilities, options out of range); KVQ_ERR_NONFINITE (in q, k or v); KVQ_ERR_FULL;
 * KVQ_ERR_NOMEM. After an error no sequence has changed.
 * Memory    besides what appends take, from malloc for the time of the call: lists of work; with evidence,
 *           four bytes per KV head and token not yet packed; the new tokens in float32, if many or of 16
 *           bits; with evidence, unless options want them, probabilities of tokens not yet packed. Where the
 *           last two pass 512 KB per thread, they are of a KV head per thread, and probabilities of as many
 *           queries as 512 KB per thread hold, at least 16 / (H / Hkv).
 * Threads   changes the cache, so it must be alone with it. Uses threads of its own as kvq_cache_attend does.
 * Numerics  of out as in kvq_cache_attend. A given sequence of calls leaves the same bytes for any number of
 *           threads and on every instruction set.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_step(kvq_cache *cache, size_t layer, const size_t *sequences,
                                                 size_t n_sequences, const size_t *n_new, const void *q,
                                                 const void *k, const void *v, float scale,
                                                 const kvq_attend_options *options, void *out);

/* ---- Memory, integrity -------------------------------------------------------------------------------- */

/** Every byte the cache got from its allocator, by purpose. total is their sum. */
typedef struct kvq_usage {
    size_t struct_size;   /* out: bytes filled                                                         */
    uint64_t payload;     /* packed codes, and f16 or f32 values outside the residual                  */
    uint64_t metadata;    /* all else of packed tokens: scales, orders, rows of heavy hitters, padding  */
    uint64_t residual;    /* the residual's tokens                                                     */
    uint64_t sinks;       /* the sinks' tokens                                                         */
    uint64_t slack;       /* for tokens, but holding none: open and free pages, half-full residual blocks */
    uint64_t bookkeeping; /* structs, page tables, checksums, scratch                                  */
    uint64_t total;
    uint64_t n_elements;        /* keys and values held */
    uint64_t n_packed_elements; /* of them packed: (payload + metadata) * 8 / this = bits per element */
    uint64_t evidence;          /* for what queries teach (kvq_cache_step): a part of total */
} kvq_usage;

/** Call kvq_cache_usage instead. */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_usage_sized(const kvq_cache *cache, kvq_usage *out,
                                                        size_t struct_size);

/** Bytes in use now. Returns KVQ_OK or KVQ_ERR_ARG. */
static inline kvq_status kvq_cache_usage(const kvq_cache *cache, kvq_usage *out)
{
    return kvq_cache_usage_sized(cache, out, sizeof *out);
}

/** Where kvq_cache_verify found damage: `page` counts from 0 within the layer of the sequence. */
typedef struct kvq_damage {
    size_t layer, sequence, page;
} kvq_damage;

/**
 * Check every sealed page (one whose 128 tokens are packed on both sides) against its XXH3-64 checksum.
 * Returns KVQ_OK; KVQ_ERR_CHECKSUM, with the first damaged page in *damage (may be NULL); KVQ_ERR_ARG.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_verify(const kvq_cache *cache, kvq_damage *damage);

/* ---- Save and load (format: lib/README.md) ------------------------------------------------------------ */

/** Write n_bytes; return false to stop with KVQ_ERR_IO. */
typedef bool (*kvq_write_fn)(void *ctx, const void *data, size_t n_bytes);

/** Read up to n_bytes into data and return how many were read; 0 means the end, SIZE_MAX an I/O error. */
typedef size_t (*kvq_read_fn)(void *ctx, void *data, size_t n_bytes);

/**
 * Write sequences to a callback. Saving the same tokens gives the same bytes.
 *
 * sequences [n_sequences]; NULL stands for 0, 1, ..., n_sequences - 1. They are 0, 1, ... in the saved cache.
 *           None is fine, too: dimensions and schemes are saved.
 * Returns KVQ_OK; KVQ_ERR_ARG; KVQ_ERR_IO; KVQ_ERR_CHECKSUM (a sealed page is damaged; what was written
 * before it is no complete file).
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_save(const kvq_cache *cache, const size_t *sequences,
                                                 size_t n_sequences, kvq_write_fn write, void *ctx);

typedef struct kvq_load_options {
    size_t struct_size;
    const kvq_allocator *allocator; /* as in kvq_config */
    const char *isa;                /* as in kvq_config */
    kvq_parallel_fn parallel;       /* as in kvq_config, and the next two */
    void *parallel_ctx;
    int n_threads;
} kvq_load_options;

/** Call kvq_load_options_init instead. */
KVQ_API void kvq_load_options_init_sized(kvq_load_options *options, size_t struct_size);

/** Fill the options with their defaults; NULL is fine. */
static inline void kvq_load_options_init(kvq_load_options *options)
{
    kvq_load_options_init_sized(options, sizeof *options);
}

/**
 * Make a new cache from saved bytes, with all its sequences (an empty one if there are none). It attends to
 * the same bits. Reads what this version and all before it have saved.
 *
 * options may be NULL for the defaults. err may be NULL.
 * Returns KVQ_OK; KVQ_ERR_ARG; KVQ_ERR_IO; KVQ_ERR_FORMAT; KVQ_ERR_TRUNCATED; KVQ_ERR_CHECKSUM;
 * KVQ_ERR_SCHEME; KVQ_ERR_NONFINITE; KVQ_ERR_FULL (more tokens than the saved max_tokens); KVQ_ERR_NOMEM;
 * KVQ_ERR_ISA. Nothing is left behind on an error, and nothing is allocated for data that a damaged length
 * promises but the reader does not deliver, beyond one page, the sinks, one layer's evidence, 4 KB per layer
 * and 8 bytes per sequence; what those may weigh, an allocator can limit.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_load(kvq_cache **out, const kvq_load_options *options,
                                                 kvq_read_fn read, void *ctx, kvq_error *err);

/**
 * Replace sequences of an existing cache by saved ones; dimensions and schemes must be equal.
 *
 * sequences [n_sequences], all different: where saved sequence 0, 1, ... goes; n_sequences must be the number
 * saved. NULL stands for 0, 1, ..., n_sequences - 1.
 * Returns as kvq_cache_load, and KVQ_ERR_MISMATCH. Here it is this cache's max_tokens that counts.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_load_into(kvq_cache *cache, const size_t *sequences,
                                                      size_t n_sequences, kvq_read_fn read, void *ctx,
                                                      kvq_error *err);

/* ---- Exchange with KIVI ------------------------------------------------------------------------------- */

/**
 * One layer of one sequence as KIVI's published code holds it. Packed words are int32; element j of a run
 * sits at bits [b*j, b*j + b) of the run's words, least significant first. Keys run along T, values along D.
 * Scales and minimums are IEEE half as raw bits. nK and nV are the packed tokens, T all tokens;
 * words(n) = ceil(n * bits / 32).
 *
 *   k_code   [Hkv][words(nK)][D]   k_scale, k_min  [Hkv][nK/G][D]   k_residual  [Hkv][T - nK][D] float32
 *   v_code   [Hkv][nV][words(D)]   v_scale, v_min  [Hkv][nV][D/G]   v_residual  [Hkv][T - nV][D] float32
 *
 * Needs keys per channel, values per token, affine on both sides, S = 0, and D a multiple of V's G.
 */
typedef struct kvq_kivi {
    size_t struct_size;
    size_t n_tokens, n_k_packed, n_v_packed;
    int32_t *k_code, *v_code;
    uint16_t *k_scale, *k_min, *v_scale, *v_min;
    float *k_residual, *v_residual;
} kvq_kivi;

/** Call kvq_kivi_init instead. */
KVQ_API void kvq_kivi_init_sized(kvq_kivi *kivi, size_t struct_size);

/** Set all counts to 0 and all pointers to NULL; NULL is fine. */
static inline void kvq_kivi_init(kvq_kivi *kivi)
{
    kvq_kivi_init_sized(kivi, sizeof *kivi);
}

/**
 * Export one layer of one sequence. First call with all pointers NULL to learn the three counts (written on
 * KVQ_OK), then again with arrays of the sizes above; arrays left NULL are skipped.
 * Returns KVQ_OK; KVQ_ERR_ARG (also for a scheme that KIVI's form can't hold).
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_export_kivi(const kvq_cache *cache, size_t layer, size_t sequence,
                                                        kvq_kivi *kivi);

/**
 * Fill an empty layer of a sequence from KIVI's form. Codes, scales and minimums are kept bit for bit. Counts
 * that KIVI itself would not hold are accepted (such as everything packed); later appends pack as the scheme
 * says. n_k_packed must be a multiple of the keys' G.
 * Tensors that KIVI itself packed belong into a cache with KVQ_ARITH_KIVI_F16: values, and error bounds
 * relative to what KIVI was given, hold there. With KVQ_ARITH_F32 the bounds hold for what this library
 * exported.
 * Returns KVQ_OK; KVQ_ERR_ARG; KVQ_ERR_NONFINITE (scale, minimum or residual; a negative scale);
 * KVQ_ERR_FULL; KVQ_ERR_NOMEM.
 */
KVQ_API KVQ_MUST_CHECK kvq_status kvq_cache_import_kivi(kvq_cache *cache, size_t layer, size_t sequence,
                                                        const kvq_kivi *kivi);

#ifdef __cplusplus
}
#endif

#endif /* KVQ_H */
