/* Computes rotary position embeddings. */
#include "eval/model/rope.h"

#include <math.h>

static const double two_pi = 6.283185307179586;

/* theta^(-2i/D), rounded to float32 where the common implementation is: the exponent, the power, its
 * inverse. */
static void default_frequencies(double theta, size_t D, float *inverse)
{
    for (size_t i = 0; i < D / 2; i++) {
        const float exponent = (float)(2 * i) / (float)D;
        inverse[i] = 1.0f / (float)pow((double)(float)theta, (double)exponent);
    }
}

/* Wavelengths beyond the original context are stretched by the factor, short ones stay, and those between are
 * mixed. */
static void scale_llama3(const rope_config *c, size_t D, float *inverse)
{
    const float factor = (float)c->factor, low = (float)c->low_freq_factor;
    const float context = (float)c->original_ctx;
    const float longest = (float)(c->original_ctx / c->low_freq_factor),
                shortest = (float)(c->original_ctx / c->high_freq_factor);
    for (size_t i = 0; i < D / 2; i++) {
        const float f = inverse[i], wavelength = (float)two_pi / f;
        const float mix = (context / wavelength - low) / (float)(c->high_freq_factor - c->low_freq_factor);
        if (wavelength > longest)
            inverse[i] = f / factor;
        else if (wavelength >= shortest)
            inverse[i] = (1.0f - mix) * f / factor + mix * f;
    }
}

/* The channel whose frequency turns `rotations` times within the original context. */
static double yarn_channel(const rope_config *c, size_t D, double rotations)
{
    return (double)D * log(c->original_ctx / (rotations * two_pi)) / (2.0 * log(c->theta));
}

/* Channels below the ramp stay, those above it are interpolated. */
static void scale_yarn(const rope_config *c, size_t D, float *inverse)
{
    double low = yarn_channel(c, D, c->beta_fast), high = yarn_channel(c, D, c->beta_slow);
    if (c->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0.0 ? low : 0.0;
    high = high < (double)(D - 1) ? high : (double)(D - 1);
    if (low == high)
        high += 0.001;
    for (size_t i = 0; i < D / 2; i++) {
        const float power = (float)pow((double)(float)c->theta, (double)((float)(2 * i) / (float)D));
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = ramp < 0.0f ? 0.0f : ramp > 1.0f ? 1.0f : ramp;
        const float kept = 1.0f - ramp, interpolated = 1.0f / ((float)c->factor * power);
        inverse[i] = interpolated * (1.0f - kept) + 1.0f / power * kept;
    }
}

double rope_yarn_mscale(double factor, double m)
{
    return factor <= 1.0 ? 1.0 : 0.1 * m * log(factor) + 1.0;
}

void rope_frequencies(const rope_config *c, size_t D, float *inverse)
{
    default_frequencies(c->theta, D, inverse);
    if (c->type == ROPE_LINEAR)
        for (size_t i = 0; i < D / 2; i++)
            inverse[i] /= (float)c->factor;
    else if (c->type == ROPE_LLAMA3)
        scale_llama3(c, D, inverse);
    else if (c->type == ROPE_YARN)
        scale_yarn(c, D, inverse);
}

void rope_angles(const float *inverse, float attention, size_t D, size_t pos, float *cosine, float *sine)
{
    for (size_t i = 0; i < D / 2; i++) {
        const float angle = (float)pos * inverse[i];
        cosine[i] = cosf(angle) * attention;
        sine[i] = sinf(angle) * attention;
    }
}

void rope_apply(const float *cosine, const float *sine, size_t D, size_t n_heads, float *x)
{
    const size_t half = D / 2;
    for (float *head = x; head < x + n_heads * D; head += D) {
        for (size_t i = 0; i < half; i++) {
            const float a = head[i], b = head[i + half];
            head[i] = a * cosine[i] - b * sine[i];
            head[i + half] = b * cosine[i] + a * sine[i];
        }
    }
}
