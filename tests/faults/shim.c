/* Records what a process does to the files below one folder, makes operations fail, and kills the process.
 *
 * Preloaded before the C library (LD_PRELOAD, Linux), so it stands between the extension and the kernel. It
 * logs every operation before the call ("start", with the data) and after the call ("end", with the result).
 * Between the two, the kernel may have done a part of the operation. If one operation ends in the log before
 * another starts, it really ended before, with any number of threads. Operations that overlap in the log may
 * really have overlapped.
 *
 * A record is: struct head, the path, the data. All numbers have the byte order of the machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum operation { NOTE, CREATE, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, OPEN };
enum phase { START, END };
/* What the shim does with the operations of the plan. */
enum action {
    PASS,
    FAIL,        /* does nothing, and returns an error */
    SHORT,       /* writes only the first bytes, and returns their number */
    KILL_BEFORE, /* kills the process before the operation, after its first bytes, or after it */
    KILL_WITHIN,
    KILL_AFTER,
    STOP_BEFORE, /* stops the process until another process sends SIGCONT */
    FAIL_AFTER,  /* does the operation, and returns an error all the same */
};

struct head {
    uint32_t path_length;
    uint32_t data_length;
    uint32_t operation;
    uint32_t phase;
    uint64_t number; /* of the operation: the same in both phases */
    uint64_t inode;
    int64_t offset; /* or the new size of a truncated file */
    int64_t result;
    int64_t error;
};

static char folder[PATH_MAX];
static size_t folder_length;
static int log_file = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t next_number;
static unsigned delay; /* the most microseconds between the start of a write in the log and the write */
static unsigned randomness;

static struct {
    uint64_t first, last;
    enum action action;
    int error;
    uint64_t bytes;
} plan;

/* The largest hole, in bytes. The shim refuses a larger one, because the log holds all its zeros; mmnpz then
 * writes zeros itself. */
#define MOST_PUNCHED (64 << 20)

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void put(struct head *head, const char *path, const void *data) {
    struct iovec parts[] = {
        {head, sizeof *head}, {(void *)path, head->path_length}, {(void *)data, head->data_length}};
    size_t left = sizeof *head + head->path_length + head->data_length;
    /* A direct system call, which the shim does not record. One call, so that no other thread splits a record. */
    pthread_mutex_lock(&mutex);
    if (syscall(SYS_writev, log_file, parts, 3) != (long)left) abort();
    pthread_mutex_unlock(&mutex);
}

/* Begins to record, and applies the action to the operations first to last, counted from 0. */
void faults_start(const char *below, const char *log, uint64_t first, uint64_t last, int action, int error,
                  uint64_t bytes, unsigned most_delay, unsigned seed) {
    plan.first = first;
    plan.last = last;
    plan.action = action;
    plan.error = error;
    plan.bytes = bytes;
    delay = most_delay;
    randomness = seed;
    next_number = 0;
    strncpy(folder, below, sizeof folder - 1);
    folder_length = strlen(folder);
    log_file = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_file < 0) abort();
}

void faults_stop(void) {
    int file = log_file;
    log_file = -1;
    folder_length = 0;
    if (file >= 0) syscall(SYS_close, file);
}

/* Writes a note about the progress of the program to the log. */
void faults_note(const char *text) {
    if (log_file < 0) return;
    struct head head = {0};
    head.operation = NOTE;
    head.data_length = (uint32_t)strlen(text);
    put(&head, "", text);
}

static int is_below(const char *path) {
    return log_file >= 0 && folder_length && !strncmp(path, folder, folder_length) &&
           (path[folder_length] == '/' || !path[folder_length]);
}

static int is_file_below(int descriptor, char *path, uint64_t *inode) {
    char link[64] = "/proc/self/fd/";
    char digits[16];
    int count = 0;
    if (log_file < 0 || descriptor < 0) return 0;
    for (int rest = descriptor; count == 0 || rest; rest /= 10) digits[count++] = (char)('0' + rest % 10);
    size_t at = strlen(link);
    while (count) link[at++] = digits[--count];
    link[at] = 0;
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!is_below(path)) return 0;
    struct stat status;
    if (fstat(descriptor, &status)) return 0;
    *inode = status.st_ino;
    return 1;
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* Logs the start of an operation, and returns the planned action. */
static enum action begin(struct head *head, const char *path, const void *data) {
    head->number = __atomic_fetch_add(&next_number, 1, __ATOMIC_SEQ_CST);
    head->phase = START;
    head->path_length = (uint32_t)strlen(path);
    put(head, path, data);
    int planned = plan.action && head->number >= plan.first && head->number <= plan.last;
    if (planned && plan.action == KILL_BEFORE) die();
    if (planned && plan.action == STOP_BEFORE) syscall(SYS_kill, getpid(), SIGSTOP);
    return planned ? plan.action : PASS;
}

static void end(struct head *head, const char *path, int64_t result, enum action action) {
    int error = errno;
    head->phase = END;
    head->data_length = 0;
    head->result = result;
    head->error = result < 0 ? error : 0;
    put(head, path, "");
    if (action == KILL_AFTER) die();
    errno = error;
}

typedef ssize_t (*write_function)(int, const void *, size_t, off64_t);

static ssize_t write_at(write_function real, int descriptor, const void *data, size_t size, off64_t offset) {
    char path[PATH_MAX];
    uint64_t inode;
    if (!is_file_below(descriptor, path, &inode)) return real(descriptor, data, size, offset);
    struct head head = {
        .operation = WRITE, .inode = inode, .offset = offset, .data_length = (uint32_t)size};
    enum action action = begin(&head, path, data);
    ssize_t result;
    if (delay && size > 8) {
        pthread_mutex_lock(&mutex);
        unsigned wait = (unsigned)rand_r(&randomness) % delay;
        pthread_mutex_unlock(&mutex);
        usleep(wait);
    }
    if (action == FAIL) {
        errno = plan.error;
        result = -1;
    } else if (action == FAIL_AFTER) {
        end(&head, path, real(descriptor, data, size, offset), action);
        errno = plan.error;
        return -1;
    } else if ((action == SHORT || action == KILL_WITHIN) && plan.bytes < size) {
        result = real(descriptor, data, plan.bytes, offset);
        if (action == KILL_WITHIN) die();
    } else {
        result = real(descriptor, data, size, offset);
    }
    end(&head, path, result, action);
    return result;
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    REAL(pwrite64);
    return write_at(real, descriptor, data, size, offset);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    REAL(pwrite64);
    return write_at(real, descriptor, data, size, offset);
}

/* Whoever asks then copies by reads and writes, which the log has. */
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
    REAL(copy_file_range);
    if (log_file < 0) return real(from, at, to, there, size, flags);
    errno = ENOSYS;
    return -1;
}

static ssize_t plain_write(int descriptor, const void *data, size_t size, off64_t offset) {
    (void)offset;
    REAL(write);
    return real(descriptor, data, size);
}

ssize_t write(int descriptor, const void *data, size_t size) {
    off64_t offset = log_file >= 0 ? lseek64(descriptor, 0, SEEK_CUR) : 0;
    return write_at(plain_write, descriptor, data, size, offset);
}

/* A hole reads as zeros, so the log has a write of zeros for it. */
static ssize_t punch(int descriptor, const void *data, size_t size, off64_t offset) {
    (void)data;
    REAL(fallocate64);
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return real(descriptor, mode, offset, (off64_t)size) == 0 ? (ssize_t)size : -1;
}

int fallocate64(int descriptor, int mode, off64_t offset, off64_t length) {
    REAL(fallocate64);
    char path[PATH_MAX];
    uint64_t inode;
    if (!(mode & FALLOC_FL_PUNCH_HOLE) || !is_file_below(descriptor, path, &inode))
        return real(descriptor, mode, offset, length);
    void *zeros = length <= MOST_PUNCHED ? calloc(1, (size_t)length) : NULL;
    if (!zeros) {
        errno = EOPNOTSUPP;
        return -1;
    }
    ssize_t result = write_at(punch, descriptor, zeros, (size_t)length, offset);
    free(zeros);
    return result < 0 ? -1 : 0;
}

static int on_descriptor(enum operation operation, int descriptor, int64_t size, int (*real)(int, int64_t)) {
    char path[PATH_MAX];
    uint64_t inode;
    if (!is_file_below(descriptor, path, &inode)) return real(descriptor, size);
    struct head head = {.operation = operation, .inode = inode, .offset = size};
    enum action action = begin(&head, path, "");
    int result = -1;
    if (action == FAIL)
        errno = plan.error;
    else
        result = real(descriptor, size);
    end(&head, path, result, action);
    if (action == FAIL_AFTER) {
        errno = plan.error;
        return -1;
    }
    return result;
}

static int real_ftruncate(int descriptor, int64_t size) {
    REAL(ftruncate64);
    return real(descriptor, size);
}

static int real_fsync(int descriptor, int64_t unused) {
    (void)unused;
    REAL(fsync);
    return real(descriptor);
}

static int real_fdatasync(int descriptor, int64_t unused) {
    (void)unused;
    REAL(fdatasync);
    return real(descriptor);
}

int ftruncate64(int descriptor, off64_t size) { return on_descriptor(TRUNCATE, descriptor, size, real_ftruncate); }
int ftruncate(int descriptor, off_t size) { return on_descriptor(TRUNCATE, descriptor, size, real_ftruncate); }
int fsync(int descriptor) { return on_descriptor(SYNC, descriptor, 0, real_fsync); }
int fdatasync(int descriptor) { return on_descriptor(SYNC, descriptor, 0, real_fdatasync); }

/* The data of the record is the other path, or empty. */
static int on_path(enum operation operation, const char *path, const char *other,
                   int (*real)(const char *, const char *)) {
    if (!is_below(path)) return real(path, other);
    struct head head = {.operation = operation, .data_length = (uint32_t)strlen(other)};
    enum action action = begin(&head, path, other);
    int result = -1;
    if (action == FAIL)
        errno = plan.error;
    else
        result = real(path, other);
    end(&head, path, result, action);
    return result;
}

static int real_rename(const char *path, const char *other) {
    REAL(rename);
    return real(path, other);
}

static int real_unlink(const char *path, const char *unused) {
    (void)unused;
    REAL(unlink);
    return real(path);
}

int rename(const char *path, const char *other) { return on_path(RENAME, path, other, real_rename); }
int unlink(const char *path) { return on_path(UNLINK, path, "", real_unlink); }

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    /* Do not log opening for reading, which does not change the file. */
    if (!is_below(path) || !(flags & (O_WRONLY | O_RDWR | O_CREAT))) return real(path, flags, mode);
    struct stat status;
    int creates = (flags & O_CREAT) && stat(path, &status) != 0;
    struct head head = {.operation = creates ? CREATE : OPEN};
    enum action action = begin(&head, path, "");
    int result = -1;
    if (action == FAIL)
        errno = plan.error;
    else
        result = real(path, flags, mode);
    if (result >= 0 && !fstat(result, &status)) head.inode = status.st_ino;
    end(&head, path, result, action);
    return result;
}

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return open64(path, flags, mode);
}
