/* `kvq-eval bench` (bench.h): options in, one of three measurements, reports out. */
#define _DEFAULT_SOURCE /* getloadavg */

#include "eval/bench/bench.h"

#include "eval/bench/attend.h"
#include "eval/bench/decode.h"
#include "eval/bench/kernels.h"
#include "eval/bench/options.h"
#include "eval/bench/report.h"
#include "eval/cli/options.h"
#include "eval/common/output_file.h"
#include "eval/common/progress.h"

#include <stdlib.h>
#include <string.h>

static bool write_json(const char *path, const bench_report *r, eval_error *e)
{
    output_file file;
    if (!output_file_open(&file, path, e))
        return false;
    if (!bench_report_json(file.stream, r, e)) {
        output_file_discard(&file);
        return false;
    }
    return output_file_commit(&file, e);
}

static bool write_csv(const char *path, const bench_report *r, eval_error *e)
{
    output_file file;
    if (!output_file_open(&file, path, e))
        return false;
    bench_report_csv(file.stream, r);
    return output_file_commit(&file, e);
}

static bool is_stdout(const char *path)
{
    return path && strcmp(path, "-") == 0;
}

static bool measure(const bench_options *o, bench_report *r, eval_error *e)
{
    progress line;
    progress_start(&line, o->quiet);
    const bool good = o->mode == BENCH_DECODE    ? bench_decode(o, r, &line, e)
                      : o->mode == BENCH_KERNELS ? bench_kernels(o, r, &line, e)
                                                 : bench_attend(o, r, &line, e);
    progress_end(&line);
    return good;
}

static bool run(const bench_options *o, bench_report *r, eval_error *e)
{
    if ((o->json && !output_file_check(o->json, e)) || (o->csv && !output_file_check(o->csv, e)))
        return false; /* better now than after the work */
    static const char *const modes[] = {"attend", "kernels", "decode"};
    r->mode = modes[o->mode];
    r->seed = o->seed;
    r->quick = o->quick;
    bench_machine_read(&r->machine);
    double load = 0.0;
    if (getloadavg(&load, 1) == 1 && load > 0.3)
        bench_note(r, "The machine was not quiet when this began: load average %.1f.", load);
    if (!measure(o, r, e) || !bench_report_check(r, e) || (o->json && !write_json(o->json, r, e)) ||
        (o->csv && !write_csv(o->csv, r, e)))
        return false;
    if (!is_stdout(o->json) && !is_stdout(o->csv))
        bench_report_people(stdout, r, o->markdown);
    return true;
}

int bench_main(int argc, char **argv)
{
    static bench_options o;
    eval_error e = {0};
    static char name[] = "kvq-eval bench"; /* for argp's messages */
    argv[0] = name;
    bench_report *r = calloc(1, sizeof *r);
    const bool good =
        (r || eval_fail(&e, "out of memory")) && bench_options_parse(&o, argc, argv, &e) && run(&o, r, &e);
    if (!good)
        fprintf(stderr, "kvq-eval: %s\n", e.text);
    if (r)
        bench_report_free(r);
    free(r);
    return good ? STATUS_GOOD : STATUS_BAD_INPUT;
}
