/* Estimates as JSON (estimate.h). */
#include "eval/report/estimate.h"

#include <math.h>

json_t *real_json(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

json_t *estimate_json(const estimate *e)
{
    return json_pack("{s:o,s:o,s:o,s:o}", "value", real_json(e->value), "se", real_json(e->se), "low",
                     real_json(e->low), "high", real_json(e->high));
}
