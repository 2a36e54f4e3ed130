/* `kvq-eval bench` (bench.h): options in, one of five measurements, reports out. */
#define _DEFAULT_SOURCE /* getloadavg */

#include "eval/bench/bench.h"

#include "eval/bench/attend.h"
#include "eval/bench/decode.h"
#include "eval/bench/kernels.h"
#include "eval/bench/options.h"
#include "eval/bench/phases.h"
#include "eval/bench/prompt.h"
#include "eval/bench/report.h"
#include "eval/common/exit_status.h"
#include "eval/common/output_file.h"
#include "eval/common/progress.h"

#include <stdio.h>
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
                      : o->mode == BENCH_PHASES  ? bench_phases(o, r, &line, e)
                      : o->mode == BENCH_PROMPTS ? bench_prompt(o, r, &line, e)
                                                 : bench_attend(o, r, &line, e);
    progress_end(&line);
    bench_say_noise(r);
    bench_say_threads(r, o->threads, o->n_threads);
    return good;
}

static bool complain(const eval_error *e)
{
    fprintf(stderr, "kvq-eval: %s\n", e->text);
    return false;
}

/* First what is on the screen: a file that cannot be written must not cost the run. */
static bool write_reports(const bench_options *o, const bench_report *r)
{
    eval_error e = {""};
    bool good = true;
    if (!is_stdout(o->json) && !is_stdout(o->csv)) {
        bench_report_people(stdout, r, o->markdown);
        fflush(stdout);
    }
    if (o->json && !write_json(o->json, r, &e))
        good = complain(&e);
    if (o->csv && !write_csv(o->csv, r, &e))
        good = complain(&e);
    return good;
}

static bool run(const bench_options *o, bench_report *r)
{
    eval_error e = {""};
    if ((o->json && !output_file_check(o->json, &e)) || (o->csv && !output_file_check(o->csv, &e)))
        return complain(&e); /* better now than after the work */
    static const char *const modes[] = {
        [BENCH_ATTEND] = "attend",   [BENCH_PHASES] = "phases", [BENCH_PROMPTS] = "prompts",
        [BENCH_KERNELS] = "kernels", [BENCH_DECODE] = "decode",
    };
    r->mode = modes[o->mode];
    r->seed = o->seed;
    r->quick = o->quick;
    bench_machine_read(&r->machine);
    if (r->machine.blas_forced[0] != '\0') {
        fprintf(stderr,
                "kvq-eval: note: OPENBLAS_CORETYPE=%s makes OpenBLAS use its %s kernels here: the baseline "
                "may be "
                "another than this machine's\n",
                r->machine.blas_forced, r->machine.blas);
    }
    double load = 0.0;
    if (getloadavg(&load, 1) == 1 && load > 0.3)
        bench_note(r, "The machine was not quiet when this began: load average %.1f.", load);
    return measure(o, r, &e) && bench_report_check(r, &e) ? write_reports(o, r) : complain(&e);
}

int bench_main(const char *doc, int argc, char **argv)
{
    static bench_options o;
    static bench_report r;
    eval_error e = {""};
    const bool good = bench_options_parse(&o, doc, argc, argv, &e) ? run(&o, &r) : complain(&e);
    bench_report_free(&r);
    return good ? STATUS_GOOD : STATUS_BAD_INPUT;
}
