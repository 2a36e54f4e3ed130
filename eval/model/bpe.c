/* Byte pair encoding (bpe.h).
 *
 * A word starts as its smallest tokens; then, again and again, the adjacent pair with the lowest rank (the
 * leftmost of equals) is merged into one token, until no pair of neighbours is in the table.
 * Source: Sennrich et al., arXiv 1508.07909.
 */
#include "eval/model/bpe.h"

#include <stdlib.h>
#include <string.h>

/* ---- merges ---- */

static int compare_merges(const void *a, const void *b)
{
    const merge *x = a, *y = b;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    if (x->right != y->right)
        return x->right < y->right ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

bool merge_table_build(merge_table *table, merge *merges, size_t n, size_t n_tokens, merge *twice,
                       uint32_t *before)
{
    *table = (merge_table){.merges = merges, .n = n, .first = calloc(n_tokens + 1, sizeof *table->first)};
    twice->left = -1;
    if (!table->first)
        return false;
    if (n > 0)
        qsort(merges, n, sizeof *merges, compare_merges);
    for (size_t i = 0; i < n; i++) {
        table->first[merges[i].left + 1] = i + 1;
        const bool same =
            i > 0 && merges[i].left == merges[i - 1].left && merges[i].right == merges[i - 1].right;
        if (same && (twice->left < 0 || merges[i].rank < twice->rank)) {
            *twice = merges[i];
            *before = merges[i - 1].rank;
        }
    }
    for (size_t id = 0; id < n_tokens; id++) /* tokens that begin no merge */
        if (table->first[id + 1] < table->first[id])
            table->first[id + 1] = table->first[id];
    return true;
}

void merge_table_free(merge_table *table)
{
    free(table->merges);
    free(table->first);
    memset(table, 0, sizeof *table);
}

static const merge *merge_find(const merge_table *table, int32_t left, int32_t right)
{
    size_t low = table->first[left], high = table->first[left + 1];
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (table->merges[middle].right == right)
            return &table->merges[middle];
        if (table->merges[middle].right < right)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- one word ---- */

/* A token of the word being merged, in a doubly linked list by index. A token merged into its left neighbour
 * has id DEAD. */
typedef struct bpe_symbol {
    int32_t id;
    uint32_t previous, next;
} symbol;

#define DEAD (-1)
#define NONE UINT32_MAX /* no neighbour */

/* A pair that could be merged when it was put into the heap; stale if its two tokens have changed since. */
typedef struct bpe_candidate {
    uint32_t rank, position;
    const merge *pair;
} candidate;

static bool comes_before(candidate a, candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.position < b.position;
}

/* A binary heap, lowest rank first, then leftmost. */
static void heap_push(bpe_encoder *b, candidate c)
{
    size_t i = b->n_heap++;
    for (; i > 0 && comes_before(c, b->heap[(i - 1) / 2]); i = (i - 1) / 2)
        b->heap[i] = b->heap[(i - 1) / 2];
    b->heap[i] = c;
}

static candidate heap_pop(bpe_encoder *b)
{
    const candidate top = b->heap[0], last = b->heap[--b->n_heap];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < b->n_heap) {
        if (child + 1 < b->n_heap && comes_before(b->heap[child + 1], b->heap[child]))
            child++;
        if (!comes_before(b->heap[child], last))
            break;
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = last;
    return top;
}

/* Puts the pair that begins at `position` into the heap, if it is in the table. */
static void push_pair(bpe_encoder *b, uint32_t position)
{
    const symbol *s = b->symbols;
    if (position == NONE || s[position].next == NONE)
        return;
    const merge *pair = merge_find(b->merges, s[position].id, s[s[position].next].id);
    if (pair)
        heap_push(b, (candidate){pair->rank, position, pair});
}

/* Each merge takes one candidate out and puts at most two in, and there are at most n - 1 merges, so the heap
 * never holds more than 2 n. */
static bool reserve_word(bpe_encoder *b, size_t n)
{
    if (n <= b->capacity)
        return true;
    size_t capacity = n < 64 ? 64 : n + n / 2;
    if (n >= NONE || capacity > SIZE_MAX / (2 * sizeof *b->heap))
        return false;
    free(b->symbols);
    free(b->heap);
    b->symbols = malloc(capacity * sizeof *b->symbols);
    b->heap = malloc(2 * capacity * sizeof *b->heap);
    b->capacity = b->symbols && b->heap ? capacity : 0;
    return b->capacity > 0;
}

static bool reserve_ids(bpe_encoder *b, size_t n)
{
    if (n <= b->ids_capacity - b->n_ids)
        return true;
    size_t capacity = b->ids_capacity + b->ids_capacity / 2 + n;
    int32_t *ids = realloc(b->ids, capacity * sizeof *ids);
    if (!ids)
        return false;
    b->ids = ids;
    b->ids_capacity = capacity;
    return true;
}

bool bpe_begin(bpe_encoder *b, size_t n)
{
    b->n_symbols = 0;
    return reserve_word(b, n) && reserve_ids(b, n);
}

void bpe_add(bpe_encoder *b, int32_t id)
{
    const size_t i = b->n_symbols++;
    b->symbols[i] = (symbol){id, i > 0 ? (uint32_t)(i - 1) : NONE, (uint32_t)(i + 1)};
}

void bpe_end(bpe_encoder *b)
{
    symbol *s = b->symbols;
    if (b->n_symbols == 0)
        return;
    s[b->n_symbols - 1].next = NONE;
    b->n_heap = 0;
    for (size_t i = 0; i < b->n_symbols; i++)
        push_pair(b, (uint32_t)i);
    while (b->n_heap > 0) {
        const candidate c = heap_pop(b);
        symbol *left = &s[c.position];
        if (left->id != c.pair->left || left->next == NONE || s[left->next].id != c.pair->right)
            continue; /* stale */
        symbol *right = &s[left->next];
        left->id = c.pair->result;
        left->next = right->next;
        right->id = DEAD;
        if (left->next != NONE)
            s[left->next].previous = c.position;
        push_pair(b, left->previous);
        push_pair(b, c.position);
    }
    for (uint32_t i = 0; i != NONE; i = s[i].next)
        b->ids[b->n_ids++] = s[i].id;
}

void bpe_free(bpe_encoder *b)
{
    free(b->symbols);
    free(b->heap);
    b->symbols = NULL;
    b->heap = NULL;
    b->capacity = 0;
}
