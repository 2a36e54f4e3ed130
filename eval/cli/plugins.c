/* Loading codecs from shared objects (plugins.h). */
#include "eval/cli/plugins.h"

#include "eval/common/input_file.h"

#include "lib/kvq_experimental.h"

#include <dlfcn.h>
#include <string.h>

/* What the shared object exports; the codec in it lives as long as the process. */
static bool register_codec(void *object, const char *path, eval_error *e)
{
    void *symbol = dlsym(object, "kvq_codec_plugin_get");
    if (!symbol)
        return eval_fail(e, "--plugin: %s: exports no kvq_codec_plugin_get", path);
    kvq_codec_plugin_get_fn get;
    memcpy(&get, &symbol, sizeof get); /* ISO C has no cast from an object's to a function's address */
    const kvq_codec_plugin *plugin = get();
    if (!plugin)
        return eval_fail(e, "--plugin: %s: kvq_codec_plugin_get returned NULL", path);
    const kvq_status status = kvq_codec_plugin_register(plugin);
    return status == KVQ_OK ||
           eval_fail(
               e,
               "--plugin: %s: the codec '%s' cannot be registered: its struct is incomplete, or its name "
               "is taken or no name",
               path, plugin->name ? plugin->name : "");
}

bool plugin_load(const char *path, eval_error *e)
{
    input_file_note(path);
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!object)
        return eval_fail(e, "--plugin: %s", dlerror());
    if (register_codec(object, path, e))
        return true; /* it stays open */
    (void)dlclose(object);
    return false;
}
