/* One plain C loop, compiled for the vector units that the machine may have; for yardsticks, not for
 * libkvq. */
#ifndef KVQ_EVAL_BENCH_TARGET_H
#define KVQ_EVAL_BENCH_TARGET_H

#if defined(__GNUC__)
#define BENCH_INLINE __attribute__((always_inline))
#else
#define BENCH_INLINE
#endif

/*
 * BENCH_CLONES(type, name, parameters, arguments) makes a static function `name` of `name_body`, which must
 * be static inline BENCH_INLINE. The choice is made at each call. (The attribute target_clones would do the
 * same by ifunc, which sanitizers do not get along with.)
 */
#if defined(__x86_64__) && defined(__GNUC__)
#if defined(__clang__)
#define BENCH_TARGET_AVX512 "avx512f,avx512vl,avx512dq,fma"
#else /* gcc would go on with 32 bytes at a time */
#define BENCH_TARGET_AVX512 "avx512f,avx512vl,avx512dq,fma,prefer-vector-width=512"
#endif
#define BENCH_CLONES(type, name, parameters, arguments)                                                      \
    __attribute__((target(BENCH_TARGET_AVX512))) static type name##_avx512 parameters                        \
    {                                                                                                        \
        return name##_body arguments;                                                                        \
    }                                                                                                        \
    __attribute__((target("avx2,fma"))) static type name##_avx2 parameters                                   \
    {                                                                                                        \
        return name##_body arguments;                                                                        \
    }                                                                                                        \
    static type name parameters                                                                              \
    {                                                                                                        \
        if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {                      \
            return name##_avx512 arguments;                                                                  \
        }                                                                                                    \
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {                               \
            return name##_avx2 arguments;                                                                    \
        }                                                                                                    \
        return name##_body arguments;                                                                        \
    }
#else
#define BENCH_CLONES(type, name, parameters, arguments)                                                      \
    static type name parameters                                                                              \
    {                                                                                                        \
        return name##_body arguments;                                                                        \
    }
#endif

#endif
