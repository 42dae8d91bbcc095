#define _GNU_SOURCE
#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* NVRTC's ABI, as far as it is used here, declared anew. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        int failed_ = (call);                                                                                          \
        if (failed_ != 0) return failed_;                                                                              \
    } while (0)

#define COMPILER(X)                                                                                                    \
    X(nvrtcVersion, (int *, int *))                                                                                    \
    X(nvrtcCreateProgram,                                                                                              \
      (void **, const char *, const char *, int, const char *const *, const char *const *))                            \
    X(nvrtcCompileProgram, (void *, int, const char *const *))                                                         \
    X(nvrtcGetCUBINSize, (void *, size_t *))                                                                           \
    X(nvrtcGetCUBIN, (void *, char *))                                                                                 \
    X(nvrtcGetProgramLogSize, (void *, size_t *))                                                                      \
    X(nvrtcGetProgramLog, (void *, char *))                                                                            \
    X(nvrtcDestroyProgram, (void **))

#define POINTER(name, args) static int(*name) args;
COMPILER(POINTER)
static const char *(*nvrtcGetErrorString)(int);

/* NVRTC asks for its companion by name alone, which is found where it is loaded already: from beside NVRTC itself. */
static void open_builtins(void) {
    Dl_info at;
    int major = 0, minor = 0;
    if (dladdr(*(void **)&nvrtcVersion, &at) == 0 || nvrtcVersion(&major, &minor) != 0) return;
    const char *slash = strrchr(at.dli_fname, '/');
    char path[4096];
    if (slash == NULL) return;
    const int folder = (int)(slash - at.dli_fname);
    snprintf(path, sizeof path, "%.*s/libnvrtc-builtins.so.%d.%d", folder, at.dli_fname, major, minor);
    dlopen(path, RTLD_NOW | RTLD_GLOBAL); /* or it lies where the loader looks */
}

static int open_compiler(const char *names, char *why, size_t n) {
    void *library = library_open(names, why, n);
    if (library == NULL) return -1;
    why[0] = 0;
#define RESOLVE(symbol, args)                                                                                          \
    if ((*(void **)&symbol = dlsym(library, #symbol)) == NULL && why[0] == 0)                                          \
        snprintf(why, n, "%s is missing in it", #symbol);
    COMPILER(RESOLVE)
    RESOLVE(nvrtcGetErrorString, )
    if (why[0] != 0) return -1;
    open_builtins();
    return 0;
}

int nvrtc_open(const char *names, char *why, size_t n) {
    static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
    static int opened;
    pthread_mutex_lock(&opening);
    if (!opened && open_compiler(names, why, n) == 0) opened = 1;
    pthread_mutex_unlock(&opening);
    return opened ? 0 : -1;
}

const char *nvrtc_meaning(int code) { return nvrtcGetErrorString(code); }
int nvrtc_version(int *major, int *minor) { return nvrtcVersion(major, minor); }
void nvrtc_release(void *p) { free(p); }

static int compiled(void *program, int options, const char **option, void **image, size_t *size, char **log) {
    size_t n = 0;
    int result = nvrtcCompileProgram(program, options, option);
    if (nvrtcGetProgramLogSize(program, &n) == 0 && n > 0 && (*log = calloc(1, n + 1)) != NULL)
        nvrtcGetProgramLog(program, *log);
    if (result != 0) return result;
    TRY(nvrtcGetCUBINSize(program, size));
    if ((*image = malloc(*size)) == NULL) return 1; /* NVRTC_ERROR_OUT_OF_MEMORY */
    return nvrtcGetCUBIN(program, *image);
}

int nvrtc_compile(const char *source, const char *name, int headers, const char **header_sources,
                  const char **header_names, int options, const char **option, void **image, size_t *size, char **log) {
    void *program = NULL;
    *image = NULL, *log = NULL;
    TRY(nvrtcCreateProgram(&program, source, name, headers, header_sources, header_names));
    int result = compiled(program, options, option, image, size, log);
    nvrtcDestroyProgram(&program);
    return result;
}
