/* Lets the Nth file operation below a folder fail, or be the last thing a process does.
 *
 * Preloaded (LD_PRELOAD), since SQLite, Python and numpy all write through libc. Operations that
 * change something below PRELABEL_FAULT_ROOT are counted, over all processes, in a file that they
 * share. What happens at number PRELABEL_FAULT_AT is PRELABEL_FAULT_KIND:
 *
 *   kill        the acting process ends, a write only half done
 *   killgroup   its whole process group does
 *   <errno>     the operation fails with that number; with PRELABEL_FAULT_STICKY=1 all later ones too
 *
 * A full disk still lets files be removed and closed, so ENOSPC spares unlink and rmdir.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static long long *counted; /* [0] operations so far, [1] faults so far */
static long long at;
static int number;         /* errno; 0 kills the process, -1 its group */
static int sticky;
static int names = -1;     /* where operations are noted down, for people */

enum act { GO, HALF, FAIL };

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

/* Reads the environment again; called once per process, and by whoever forks. */
void prelabel_fault_arm(void) {
    const char *folder = getenv("PRELABEL_FAULT_ROOT");
    const char *counter = getenv("PRELABEL_FAULT_COUNTER");
    const char *place = getenv("PRELABEL_FAULT_AT");
    const char *kind = getenv("PRELABEL_FAULT_KIND");
    const char *log = getenv("PRELABEL_FAULT_LOG");
    const char *stay = getenv("PRELABEL_FAULT_STICKY");
    root_length = 0;
    if (!folder || !counter || !place || !kind) return;
    int file = REAL(open)(counter, O_RDWR | O_CLOEXEC);
    if (file < 0) abort();
    counted = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counted == MAP_FAILED) abort();
    REAL(close)(file);
    at = atoll(place);
    sticky = stay && *stay == '1';
    number = !strcmp(kind, "kill") ? 0 : !strcmp(kind, "killgroup") ? -1 : atoi(kind);
    names = log ? REAL(open)(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
}

__attribute__((constructor)) static void begin(void) { prelabel_fault_arm(); }

static int below(const char *path) {
    return root_length && !strncmp(path, root, root_length)
        && (path[root_length] == '/' || !path[root_length]);
}

static void fall(void) { kill(number ? 0 : getpid(), SIGKILL); pause(); }

/* Counts one operation on `path`; `half` where it can be done by halves. */
static enum act step(const char *what, const char *path, int half, int removes) {
    if (!below(path)) return GO;
    long long now = __atomic_add_fetch(&counted[0], 1, __ATOMIC_SEQ_CST);
    if (names >= 0) dprintf(names, "%lld %d %s %s\n", now, getpid(), what, path + root_length);
    if (!at || now < at || (now > at && !sticky)) return GO;
    if (number == ENOSPC && removes) return GO;
    __atomic_add_fetch(&counted[1], 1, __ATOMIC_SEQ_CST);
    if (number <= 0) {
        if (half) return HALF;
        fall();
    }
    errno = number;
    return FAIL;
}

static const char *resolve(int folder, const char *path, char *whole) {
    if (path[0] == '/') return path;
    char link[64];
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, whole, PATH_MAX - 1);
    if (length < 0) return path;
    snprintf(whole + length, PATH_MAX - length, "/%s", path);
    return whole;
}

static enum act on_path(const char *what, int folder, const char *path, int removes) {
    if (!root_length || !path) return GO;
    char whole[PATH_MAX];
    return step(what, resolve(folder, path, whole), 0, removes);
}

static enum act on_file(const char *what, int file, int half) {
    if (!root_length) return GO;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return GO;
    path[length] = 0;
    return step(what, path, half, 0);
}

/* --- opening: only what writes counts ------------------------------------------------------- */

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT); }

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        if (writes(flags) && on_path("open", AT_FDCWD, path, 0)) return -1; \
        return REAL(name)(path, flags, mode); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        MODE(flags) \
        if (writes(flags) && on_path("open", folder, path, 0)) return -1; \
        return REAL(name)(folder, path, flags, mode); }
OPENAT(openat)
OPENAT(openat64)

#define CREAT(name) \
    int name(const char *path, mode_t mode) { \
        if (on_path("creat", AT_FDCWD, path, 0)) return -1; \
        return REAL(name)(path, mode); }
CREAT(creat)
CREAT(creat64)

/* --- writing -------------------------------------------------------------------------------- */

#define WRITE(name, arguments, half, whole) \
    ssize_t name arguments { \
        enum act act = on_file(#name, file, 1); \
        if (act == HALF) { if (half < 0) {} fall(); } \
        if (act) return -1; \
        return whole; }
WRITE(write, (int file, const void *data, size_t size),
      REAL(write)(file, data, size / 2), REAL(write)(file, data, size))
WRITE(pwrite, (int file, const void *data, size_t size, off_t place),
      REAL(pwrite)(file, data, size / 2, place), REAL(pwrite)(file, data, size, place))
WRITE(pwrite64, (int file, const void *data, size_t size, off64_t place),
      REAL(pwrite64)(file, data, size / 2, place), REAL(pwrite64)(file, data, size, place))
WRITE(writev, (int file, const struct iovec *data, int count),
      REAL(writev)(file, data, count / 2), REAL(writev)(file, data, count))
WRITE(pwritev, (int file, const struct iovec *data, int count, off_t place),
      REAL(pwritev)(file, data, count / 2, place), REAL(pwritev)(file, data, count, place))
WRITE(sendfile, (int file, int from, off_t *place, size_t size),
      REAL(sendfile)(file, from, place, size / 2), REAL(sendfile)(file, from, place, size))
WRITE(sendfile64, (int file, int from, off64_t *place, size_t size),
      REAL(sendfile64)(file, from, place, size / 2), REAL(sendfile64)(file, from, place, size))

/* --- the rest: each as a whole or not at all ------------------------------------------------- */

#define ON_FILE(name, declared, passed) \
    int name declared { \
        if (on_file(#name, file, 0)) return -1; \
        return REAL(name) passed; }
ON_FILE(fsync, (int file), (file))
ON_FILE(fdatasync, (int file), (file))
ON_FILE(ftruncate, (int file, off_t size), (file, size))
ON_FILE(ftruncate64, (int file, off64_t size), (file, size))

#define ON_PATH(name, declared, folder, path, removes, passed) \
    int name declared { \
        if (on_path(#name, folder, path, removes)) return -1; \
        return REAL(name) passed; }
ON_PATH(rename, (const char *from, const char *to), AT_FDCWD, to, 0, (from, to))
ON_PATH(renameat, (int one, const char *from, int two, const char *to), two, to, 0,
        (one, from, two, to))
ON_PATH(link, (const char *from, const char *to), AT_FDCWD, to, 0, (from, to))
ON_PATH(linkat, (int one, const char *from, int two, const char *to, int flags), two, to, 0,
        (one, from, two, to, flags))
ON_PATH(unlink, (const char *path), AT_FDCWD, path, 1, (path))
ON_PATH(unlinkat, (int folder, const char *path, int flags), folder, path, 1,
        (folder, path, flags))
ON_PATH(rmdir, (const char *path), AT_FDCWD, path, 1, (path))
ON_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, 0, (path, mode))
ON_PATH(mkdirat, (int folder, const char *path, mode_t mode), folder, path, 0,
        (folder, path, mode))
ON_PATH(truncate, (const char *path, off_t size), AT_FDCWD, path, 0, (path, size))
