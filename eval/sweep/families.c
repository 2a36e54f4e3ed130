/* The grids of --grid families (grid.h): every family of codecs the library has, at several sizes, and what
 * can be turned at each, few enough for two windows of 1,024 tokens in less than 5 minutes on two cores.
 * Rivals have the sinks and the residual of the kvq schemes, so that codecs are compared. */
#include "eval/sweep/grid.h"

#define ALIKE "s=4 mode=sliding rtype=f16/i8"

static const struct {
    const char *family, *grid;
} families[] = {
    {"half", "base=fp16"},
    {"kivi, as published", "base=kivi1,kivi2,kivi3,kivi4,kivi5,kivi6,kivi8"},
    {"kivi, groups", "base=kivi2-g16,kivi2-g64,kivi4-g64,kivi2-g128,kivi4-g128"},
    {"kivi, short residual", "base=kivi2,kivi4 r=32,64"},
    {"kivi, sinks and residual of kvq", "base=kivi2,kivi3,kivi4,kivi8 " ALIKE},
    {"kivi, sliding with a short residual", "base=kivi2,kivi4 r=32 " ALIKE},
    {"kivi, keys and values unlike", "k=4,8 v=2 " ALIKE},
    {"kivi, keys and values unlike", "k=2 v=4 " ALIKE},
    {"keys per token", "k=8@token v=4 r=32 " ALIKE},
    {"kvq", "base=kvq1.5,kvq2,kvq2.5,kvq3,kvq4"},
    {"kvq, heavy hitters", "base=kvq2 hh=0,1,4,8"},
    {"kvq, heavy hitters", "base=kvq1.5,kvq3 hh=0"},
    {"kvq, residual", "base=kvq2 rtype=f32,i8"},
    {"kvq, sinks", "base=kvq2 s=0,16"},
    {"kvq, keys and values unlike", "k=tier:1.5,2,3 v=rot:3 hh=2 " ALIKE},
    {"kvq, keys and values unlike", "k=tier:3,4 v=rot:1.5 hh=2 " ALIKE},
    {"kvq with feedback", "base=kvq2-fb"},
    {"kvq with feedback", "k=tier:1.5:fb,3:fb v=rot:2 hh=2 " ALIKE},
    {"kvq keys, kivi values", "k=tier:2,3 v=2,4 " ALIKE},
    {"ggml", "base=q4_0,q4_1,q8_0"},
    {"ggml, keys and values unlike", "k=q8_0 v=q4_0,q4_1 " ALIKE},
    {"turbo", "base=turbo1,turbo2,turbo3,turbo4"},
    {"turbo, norm corrected", "base=turbo2-nc,turbo3-nc,turbo4-nc"},
    {"kvarn", "base=kvarn2,kvarn4"},
    {"quarot", "k=quarot:2,8 v=quarot:4 " ALIKE},
    {"quarot", "base=quarot2,quarot4"},
    {"nuq", "base=nuq2"},
    {"nuq", "k=nuq:3 v=nuq:3 " ALIKE},
};

const char *grid_families(size_t i, const char **family)
{
    if (i >= sizeof families / sizeof families[0])
        return NULL;
    if (family)
        *family = families[i].family;
    return families[i].grid;
}
