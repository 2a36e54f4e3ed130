/*
 * One function per width of codes and number of queries: what vector_exact.h chooses among
 * at run time, so that both are constants inside.
 */
#ifndef KVQ_QUANT_VECTOR_TABLES_H
#define KVQ_QUANT_VECTOR_TABLES_H

#include "quant/vector.h"

#define V_INSTANCES(name, type, width)                                                                       \
    static void name##_##width##_1(const type *call)                                                         \
    {                                                                                                        \
        name(width, 1, call);                                                                                \
    }                                                                                                        \
    static void name##_##width##_2(const type *call)                                                         \
    {                                                                                                        \
        name(width, 2, call);                                                                                \
    }                                                                                                        \
    static void name##_##width##_4(const type *call)                                                         \
    {                                                                                                        \
        name(width, 4, call);                                                                                \
    }
#define V_ROW(name, width)                                                                                   \
    {                                                                                                        \
        name##_##width##_1, name##_##width##_2, name##_##width##_4                                           \
    }
/* name(width, n_queries, call) must be inlined; this makes name_table[v_width_index][v_queries_index]. */
#define V_TABLE(name, type)                                                                                  \
    V_INSTANCES(name, type, 1)                                                                               \
    V_INSTANCES(name, type, 2)                                                                               \
    V_INSTANCES(name, type, 4)                                                                               \
    V_INSTANCES(name, type, 8)                                                                               \
    static void (*const name##_table[4][3])(const type *call) = {V_ROW(name, 1), V_ROW(name, 2),             \
                                                                 V_ROW(name, 4), V_ROW(name, 8)};

enum { V_QUERIES = 4 }; /* the most that share one unpacking of codes */

V_INLINE size_t v_width_index(uint32_t width)
{
    return width == 8 ? 3 : width == 4 ? 2 : width - 1;
}

/* Queries to take together when so many are left, and their place in a table. */
V_INLINE size_t v_queries_of(size_t left)
{
    return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

V_INLINE size_t v_queries_index(size_t n)
{
    return n / 2;
}

#endif /* KVQ_QUANT_VECTOR_TABLES_H */
