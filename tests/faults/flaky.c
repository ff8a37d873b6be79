/* A disk that fails now and then: every FLAKY-th write puts half of its bytes into the file and returns EIO,
 * and a read of the byte at UNREADABLE, of whichever file, returns EIO. With NO_LOCKS, it has no locks,
 * with NO_SHARED_MAPS, no maps that share the pages of a file. With SPACE=none it cannot set space aside, with
 * SPACE=full there is none, with SPACE=any it says that it has set any space aside, and with SPACE=little it
 * says that, too, but also that it has none.
 *
 * With SPARSE, a write of zeros of a megabyte makes a hole.
 *
 * Preloaded into a process; FLAKY, UNREADABLE, NO_LOCKS, NO_SHARED_MAPS, SPACE and SPARSE are environment
 * variables.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    static atomic_uint count;
    static ssize_t (*_Atomic real)(int, const void *, size_t, off64_t);
    if (!real) real = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    const char *bytes = data;
    if (size >= 1 << 20 && getenv("SPARSE") && !bytes[0] && !memcmp(bytes, bytes + 1, size - 1)) {
        return real(descriptor, "", 1, offset + (off64_t)size - 1) == 1 ? (ssize_t)size : -1;
    }
    const char *often = getenv("FLAKY");
    if (!often || ++count % (unsigned)atoi(often)) return real(descriptor, data, size, offset);
    real(descriptor, data, size / 2, offset);
    errno = EIO;
    return -1;
}

ssize_t pread64(int descriptor, void *data, size_t size, off64_t offset) {
    static ssize_t (*_Atomic real)(int, void *, size_t, off64_t);
    if (!real) real = (ssize_t(*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    const char *bad = getenv("UNREADABLE");
    if (!bad || atoll(bad) < offset || atoll(bad) >= offset + (off64_t)size) return real(descriptor, data, size, offset);
    errno = EIO;
    return -1;
}

int fallocate64(int descriptor, int mode, off64_t offset, off64_t length) {
    static int (*_Atomic real)(int, int, off64_t, off64_t);
    if (!real) real = (int (*)(int, int, off64_t, off64_t))dlsym(RTLD_NEXT, "fallocate64");
    const char *space = getenv("SPACE");
    if (!space || mode & FALLOC_FL_PUNCH_HOLE) return real(descriptor, mode, offset, length);
    if (!strcmp(space, "any") || !strcmp(space, "little")) return 0;
    errno = strcmp(space, "full") ? EOPNOTSUPP : ENOSPC;
    return -1;
}

int fstatvfs64(int descriptor, struct statvfs64 *found) {
    static int (*_Atomic real)(int, struct statvfs64 *);
    if (!real) real = (int (*)(int, struct statvfs64 *))dlsym(RTLD_NEXT, "fstatvfs64");
    int status = real(descriptor, found);
    const char *space = getenv("SPACE");
    if (space && !strcmp(space, "any")) found->f_bfree = 1ULL << 40;
    if (space && !strcmp(space, "little")) found->f_bfree = 100;
    return status;
}

int flock(int descriptor, int operation) {
    static int (*_Atomic real)(int, int);
    if (!real) real = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
    if (!getenv("NO_LOCKS")) return real(descriptor, operation);
    errno = ENOLCK;
    return -1;
}

static void *map(const char *name, void *start, size_t size, int rights, int flags, int descriptor, off64_t offset) {
    void *(*real)(void *, size_t, int, int, int, off64_t);
    real = (void *(*)(void *, size_t, int, int, int, off64_t))dlsym(RTLD_NEXT, name);
    if (descriptor < 0 || !(flags & MAP_SHARED) || !getenv("NO_SHARED_MAPS"))
        return real(start, size, rights, flags, descriptor, offset);
    errno = ENODEV;
    return MAP_FAILED;
}

void *mmap(void *start, size_t size, int rights, int flags, int descriptor, off_t offset) {
    return map("mmap", start, size, rights, flags, descriptor, offset);
}

void *mmap64(void *start, size_t size, int rights, int flags, int descriptor, off64_t offset) {
    return map("mmap64", start, size, rights, flags, descriptor, offset);
}
