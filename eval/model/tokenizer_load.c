/* Which of a directory's files make its tokenizer (tokenizer.h). */
#define _POSIX_C_SOURCE 200809L

#include "eval/model/tokenizer.h"

#include "eval/common/input_file.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool exists(const char *dir, const char *name)
{
    char path[4096];
    struct stat info;
    const int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path && stat(path, &info) == 0;
}

static bool load_json(tokenizer **out, const char *dir, eval_error *e)
{
    input_file file, config = {0};
    if (!input_file_read(&file, dir, "tokenizer.json", e))
        return false;
    bool ok =
        !exists(dir, "tokenizer_config.json") || input_file_read(&config, dir, "tokenizer_config.json", e);
    ok = ok &&
         tokenizer_load_json(out, file.path, file.data, file.size, config.path, config.data, config.size, e);
    input_file_free(&config);
    input_file_free(&file);
    return ok;
}

static bool load_gpt2(tokenizer **out, const char *dir, eval_error *e)
{
    input_file vocab, merges;
    if (!input_file_read(&vocab, dir, "vocab.json", e))
        return false;
    bool ok = input_file_read(&merges, dir, "merges.txt", e);
    if (ok) {
        ok = tokenizer_load_memory(out, vocab.path, vocab.data, vocab.size, merges.path, merges.data,
                                   merges.size, e);
        input_file_free(&merges);
    }
    input_file_free(&vocab);
    return ok;
}

bool tokenizer_load(tokenizer **out, const char *dir, eval_error *e)
{
    if (exists(dir, "tokenizer.json"))
        return load_json(out, dir, e);
    if (!exists(dir, "vocab.json") && exists(dir, "tokenizer.model"))
        return eval_fail(
            e,
            "%s/tokenizer.model: SentencePiece's own file is not supported, expected tokenizer.json "
            "beside it (transformers' save_pretrained writes one), or vocab.json and merges.txt",
            dir);
    if (!exists(dir, "vocab.json"))
        return eval_fail(
            e, "%s: neither tokenizer.json nor vocab.json (with merges.txt) is there, expected one of them",
            dir);
    return load_gpt2(out, dir, e);
}
