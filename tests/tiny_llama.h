/* Makes the smallest Llama-type GGUF files, correct or deliberately wrong: keys and tensors are put in one by
 * one. */
#ifndef KVQ_TESTS_TINY_LLAMA_H
#define KVQ_TESTS_TINY_LLAMA_H

#include "tests/gguf_image.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A file in the making; all zero is an empty one. */
typedef struct tiny_gguf {
    gguf_image keys, infos, data;
    int n_keys, n_tensors;
    const char *without, *without_too; /* keys or tensors that are left out, or NULL */
} tiny_gguf;

static inline bool tiny_left_out(const tiny_gguf *t, const char *name)
{
    return (t->without && strcmp(t->without, name) == 0) ||
           (t->without_too && strcmp(t->without_too, name) == 0);
}

/* The value's letters are gguf_put's; `kind` is the file's number: 4 is U32, 6 F32, 7 BOOL, 8 STRING. */
static inline void tiny_u32(tiny_gguf *t, const char *key, int value)
{
    if (tiny_left_out(t, key))
        return;
    gguf_put(&t->keys, "sdd", key, 4, value);
    t->n_keys++;
}

static inline void tiny_f32(tiny_gguf *t, const char *key, float value)
{
    if (tiny_left_out(t, key))
        return;
    gguf_put(&t->keys, "sd", key, 6);
    gguf_put_bytes(&t->keys, &value, sizeof value);
    t->n_keys++;
}

static inline void tiny_bool(tiny_gguf *t, const char *key, int value)
{
    gguf_put(&t->keys, "sdb", key, 7, value);
    t->n_keys++;
}

static inline void tiny_string(tiny_gguf *t, const char *key, const char *value)
{
    if (tiny_left_out(t, key))
        return;
    gguf_put(&t->keys, "sds", key, 8, value);
    t->n_keys++;
}

/* A tensor in float32 of rows of `columns` elements, or one row if `rows` is 0; element i is
 * (i % 7 - 3) / 8, but element `odd_at` is `odd`. */
static inline void tiny_tensor_with(tiny_gguf *t, const char *name, int rows, int columns, int odd_at,
                                    float odd)
{
    if (tiny_left_out(t, name))
        return;
    if (rows > 0)
        gguf_put(&t->infos, "sdqqdq", name, 2, columns, rows, 0, (int)t->data.n);
    else
        gguf_put(&t->infos, "sdqdq", name, 1, columns, 0, (int)t->data.n);
    for (int i = 0; i < (rows > 0 ? rows : 1) * columns; i++) {
        const float x = i == odd_at ? odd : (float)(i % 7 - 3) / 8.0f;
        gguf_put_bytes(&t->data, &x, sizeof x);
    }
    gguf_put(&t->data, "p", 32);
    t->n_tensors++;
}

static inline void tiny_tensor(tiny_gguf *t, const char *name, int rows, int columns)
{
    tiny_tensor_with(t, name, rows, columns, -1, 0.0f);
}

/* Writes the file and empties t. */
static inline void tiny_finish(tiny_gguf *t, gguf_image *image)
{
    gguf_put(image, "Gqq", t->n_tensors, t->n_keys);
    gguf_put_bytes(image, t->keys.bytes, t->keys.n);
    gguf_put_bytes(image, t->infos.bytes, t->infos.n);
    gguf_put(image, "p", 32);
    gguf_put_bytes(image, t->data.bytes, t->data.n);
    gguf_image_free(&t->keys);
    gguf_image_free(&t->infos);
    gguf_image_free(&t->data);
    *t = (tiny_gguf){.n_keys = 0};
}

/* What is in a model of one layer, two heads of dimension 4 that share one key-value head, and four tokens.
 */
static inline void tiny_model(tiny_gguf *t, const char *architecture)
{
    static const struct {
        const char *name;
        int value;
    } sizes[] = {{"block_count", 1},         {"context_length", 16},      {"embedding_length", 8},
                 {"feed_forward_length", 8}, {"attention.head_count", 2}, {"attention.head_count_kv", 1}};
    tiny_string(t, "general.architecture", architecture);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s.%s", architecture, sizes[i].name);
        tiny_u32(t, key, sizes[i].value);
    }
    char key[64];
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", architecture);
    tiny_f32(t, key, 1e-6f);
    tiny_tensor(t, "token_embd.weight", 4, 8);
    tiny_tensor(t, "blk.0.attn_norm.weight", 0, 8);
    tiny_tensor(t, "blk.0.attn_q.weight", 8, 8);
    tiny_tensor(t, "blk.0.attn_k.weight", 4, 8);
    tiny_tensor(t, "blk.0.attn_v.weight", 4, 8);
    tiny_tensor(t, "blk.0.attn_output.weight", 8, 8);
    tiny_tensor(t, "blk.0.ffn_norm.weight", 0, 8);
    tiny_tensor(t, "blk.0.ffn_gate.weight", 8, 8);
    tiny_tensor(t, "blk.0.ffn_up.weight", 8, 8);
    tiny_tensor(t, "blk.0.ffn_down.weight", 8, 8);
    tiny_tensor(t, "output_norm.weight", 0, 8);
}

static inline void tiny_llama(tiny_gguf *t)
{
    tiny_model(t, "llama");
}

/* SentencePiece's kind, with BOS; "ba" and "ab" have equal scores. */
static inline void tiny_tokenizer(tiny_gguf *t)
{
    static const char *const tokens[] = {"<unk>", "<s>", "a", "b", "ba", "ab"};
    const float scores[] = {0, 0, -1, -1, -2, -2};
    static const int types[] = {2, 3, 1, 1, 1, 1};
    tiny_string(t, "tokenizer.ggml.model", "llama");
    tiny_bool(t, "tokenizer.ggml.add_space_prefix", 0);
    tiny_u32(t, "tokenizer.ggml.bos_token_id", 1);
    gguf_put(&t->keys, "sddq", "tokenizer.ggml.tokens", 9, 8, 6);
    for (int i = 0; i < 6; i++)
        gguf_put(&t->keys, "s", tokens[i]);
    gguf_put(&t->keys, "sddq", "tokenizer.ggml.scores", 9, 6, 6);
    gguf_put_bytes(&t->keys, scores, sizeof scores);
    gguf_put(&t->keys, "sddq", "tokenizer.ggml.token_type", 9, 5, 6);
    for (int i = 0; i < 6; i++)
        gguf_put(&t->keys, "d", types[i]);
    t->n_keys += 3;
}

/* A whole file of a llama with that tokenizer's six tokens. */
static inline void tiny_llama_with_tokenizer(gguf_image *image)
{
    tiny_gguf t = {.without = "token_embd.weight"};
    tiny_llama(&t);
    t.without = NULL;
    tiny_tensor(&t, "token_embd.weight", 6, 8);
    tiny_tokenizer(&t);
    tiny_finish(&t, image);
}

#endif
