/*
 * A disk that fails, and a wall clock that is moved, for tests: loaded into payd with LD_PRELOAD.
 *
 * FAULTS names a file of rules that is read at every call, so that a fault can come and go while payd
 * runs. It is replaced by a rename; a changed text starts the counting anew. A rule is a line:
 *
 *     <file> <call> <action> <first> <last>
 *     clock <seconds>
 *
 * file:   db, wal, shm, probe, copy, head or any: the files whose names start with "payd.db", and payd.head
 * call:   open, read, write, sync, truncate or any; a read is noted in no log, as there are so many
 * action: an error (EIO ENOSPC EDQUOT EROFS EFBIG), not performed; the same with a "+": performed, and the
 *         error reported all the same; "short": half of a write is performed, and that is reported; "hold": the
 *         call waits until no rule holds it (reads and syncs)
 * first, last: from which matching call to which, from 1; 0 for last is for ever
 *
 * FAULTS_LOG names a file to which every such call is appended: "<file> <call> <result>".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FILES_MAX = 4096, RULES_MAX = 16, TEXT_MAX = 2048 };

struct rule {
    char file[16], call[16], action[16];
    long first, last, seen;
};

static const char *kind_of_fd[FILES_MAX];
static struct rule rules[RULES_MAX];
static int rule_count;
static long clock_seconds;
static char rules_text[TEXT_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The system calls themselves, so that nothing here meets its own rules. */
static long raw_write(int fd, const void *bytes, size_t len) { return syscall(SYS_write, fd, bytes, len); }

static const char *kind_of(const char *path) {
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    if (strcmp(name, "payd.head") == 0) return "head";
    if (strncmp(name, "payd.db", 7) != 0) return NULL;
    const char *rest = name + 7;
    if (*rest == 0) return "db";
    if (strcmp(rest, "-wal") == 0) return "wal";
    if (strcmp(rest, "-shm") == 0) return "shm";
    if (strcmp(rest, "-probe") == 0) return "probe";
    return "copy";
}

static void read_rules(void) {
    static const char *path;
    if (!path) path = getenv("FAULTS");
    if (!path) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return;
    char text[TEXT_MAX];
    long len = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (len < 0) return;
    text[len] = 0;
    if (strcmp(text, rules_text) == 0) return;
    strcpy(rules_text, text);
    rule_count = 0;
    clock_seconds = 0;
    char *place = NULL;
    for (char *line = strtok_r(text, "\n", &place); line; line = strtok_r(NULL, "\n", &place)) {
        struct rule rule = {0};
        if (sscanf(line, "clock %ld", &clock_seconds) == 1) continue;
        if (sscanf(line, "%15s %15s %15s %ld %ld", rule.file, rule.call, rule.action, &rule.first, &rule.last) == 5
            && rule_count < RULES_MAX)
            rules[rule_count++] = rule;
    }
}

static void note(const char *kind, const char *call, const char *result) {
    static const char *path;
    if (!path) path = getenv("FAULTS_LOG");
    if (!path) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return;
    char line[128];
    int len = snprintf(line, sizeof line, "%s %s %s\n", kind, call, result);
    raw_write(fd, line, (size_t)len);
    syscall(SYS_close, fd);
}

enum fate { PASSES, FAILS, FAILS_DONE, IS_SHORT, IS_HELD };

/* What is to happen to this call; sets errno_out where it is to fail. */
static enum fate decide(const char *kind, const char *call, int *errno_out) {
    static const struct { const char *name; int number; } errors[] = {
        {"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EROFS", EROFS}, {"EFBIG", EFBIG}, {"EACCES", EACCES},
    };
    enum fate fate = PASSES;
    pthread_mutex_lock(&lock);
    read_rules();
    for (int n = 0; n < rule_count && fate == PASSES; n++) {
        struct rule *rule = &rules[n];
        if (strcmp(rule->file, "any") != 0 && strcmp(rule->file, kind) != 0) continue;
        if (strcmp(rule->call, "any") != 0 && strcmp(rule->call, call) != 0) continue;
        rule->seen++;
        if (rule->seen < rule->first || (rule->last != 0 && rule->seen > rule->last)) continue;
        if (strcmp(rule->action, "short") == 0 || strcmp(rule->action, "hold") == 0) {
            fate = rule->action[0] == 's' ? IS_SHORT : IS_HELD;
            continue;
        }
        for (size_t e = 0; e < sizeof errors / sizeof errors[0]; e++) {
            size_t len = strlen(errors[e].name);
            if (strncmp(rule->action, errors[e].name, len) != 0) continue;
            *errno_out = errors[e].number;
            fate = rule->action[len] == '+' ? FAILS_DONE : FAILS;
        }
    }
    static const char *const names[] = {"passes", "fails", "fails-done", "short", "held"};
    if (strcmp(call, "read") != 0) note(kind, call, names[fate]);
    pthread_mutex_unlock(&lock);
    return fate;
}

/* The same for a call that can be held: what becomes of it when it is not any more. */
static enum fate decide_in_time(const char *kind, const char *call, int *errno_out) {
    enum fate fate;
    while ((fate = decide(kind, call, errno_out)) == IS_HELD) usleep(10000);
    return fate;
}

static const char *kind_of_open(int fd) {
    return fd >= 0 && fd < FILES_MAX ? kind_of_fd[fd] : NULL;
}

static int opened(int fd, const char *kind) {
    if (fd >= 0 && fd < FILES_MAX) kind_of_fd[fd] = kind;
    return fd;
}

static int open_any(int directory, const char *path, int flags, mode_t mode) {
    const char *kind = kind_of(path);
    int error = 0;
    if (kind && (flags & (O_WRONLY | O_RDWR | O_CREAT)) && decide(kind, "open", &error) != PASSES) {
        errno = error;
        return -1;
    }
    return opened((int)syscall(SYS_openat, directory, path, flags, mode), kind);
}

#define MODE_OF(flags, mode)                                                                                         \
    mode_t mode = 0;                                                                                                 \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                           \
        va_list rest;                                                                                                \
        va_start(rest, flags);                                                                                       \
        mode = va_arg(rest, mode_t);                                                                                 \
        va_end(rest);                                                                                                \
    }

int open(const char *path, int flags, ...) { MODE_OF(flags, mode) return open_any(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags, mode) return open_any(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int at, const char *path, int flags, ...) { MODE_OF(flags, mode) return open_any(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE_OF(flags, mode) return open_any(at, path, flags | O_LARGEFILE, mode); }

int close(int fd) {
    opened(fd, NULL);
    return (int)syscall(SYS_close, fd);
}

static ssize_t write_any(int fd, const void *bytes, size_t len, int positioned, off_t place) {
    const char *kind = kind_of_open(fd);
    int error = 0;
    enum fate fate = kind ? decide(kind, "write", &error) : PASSES;
    if (fate == IS_SHORT && len > 1) len /= 2;
    ssize_t done = -1;
    if (fate != FAILS)
        done = positioned ? syscall(SYS_pwrite64, fd, bytes, len, place) : syscall(SYS_write, fd, bytes, len);
    if (fate == FAILS || fate == FAILS_DONE) {
        errno = error;
        return -1;
    }
    return done;
}

ssize_t write(int fd, const void *bytes, size_t len) { return write_any(fd, bytes, len, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return write_any(fd, bytes, len, 1, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at) { return write_any(fd, bytes, len, 1, at); }

static ssize_t read_any(int fd, void *bytes, size_t len, int positioned, off_t place) {
    const char *kind = kind_of_open(fd);
    int error = 0;
    if (kind && decide_in_time(kind, "read", &error) == FAILS) {
        errno = error;
        return -1;
    }
    return positioned ? syscall(SYS_pread64, fd, bytes, len, place) : syscall(SYS_read, fd, bytes, len);
}

ssize_t read(int fd, void *bytes, size_t len) { return read_any(fd, bytes, len, 0, 0); }
ssize_t pread(int fd, void *bytes, size_t len, off_t at) { return read_any(fd, bytes, len, 1, at); }
ssize_t pread64(int fd, void *bytes, size_t len, off_t at) { return read_any(fd, bytes, len, 1, at); }

static int done_to_file(int fd, const char *call, long number, long argument) {
    const char *kind = kind_of_open(fd);
    int error = 0;
    enum fate fate = kind ? decide_in_time(kind, call, &error) : PASSES;
    int done = 0;
    if (fate != FAILS) done = (int)syscall(number, fd, argument);
    if (fate == FAILS || fate == FAILS_DONE) {
        errno = error;
        return -1;
    }
    return done;
}

int fsync(int fd) { return done_to_file(fd, "sync", SYS_fsync, 0); }
int fdatasync(int fd) { return done_to_file(fd, "sync", SYS_fdatasync, 0); }
int ftruncate(int fd, off_t len) { return done_to_file(fd, "truncate", SYS_ftruncate, len); }
int ftruncate64(int fd, off_t len) { return done_to_file(fd, "truncate", SYS_ftruncate, len); }

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, time);
    if (done == 0 && clock == CLOCK_REALTIME) {
        pthread_mutex_lock(&lock);
        read_rules();
        time->tv_sec += clock_seconds;
        pthread_mutex_unlock(&lock);
    }
    return done;
}
