/* `kvq-eval bench`: how fast is this machine with quantized caches, and how fast without them? */
#ifndef KVQ_EVAL_BENCH_BENCH_H
#define KVQ_EVAL_BENCH_BENCH_H

/**
 * Run the command; argv[0] is its name in messages, `doc` what --help says first. Returns the exit status,
 * after one line on standard error for a failure.
 */
int bench_main(const char *doc, int argc, char **argv);

#endif
