/* `kvq-eval bench`: how fast is this machine with quantized caches, and how fast without them? */
#ifndef KVQ_EVAL_BENCH_BENCH_H
#define KVQ_EVAL_BENCH_BENCH_H

/** Run the command; argv[0] is "bench". Returns the exit status, after one line on standard error for a
 * failure. */
int bench_main(int argc, char **argv);

#endif
