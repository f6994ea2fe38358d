/* Counts what a process does to the files below one folder, and ends it, or lets the disk be full, at a chosen operation.

   A seccomp filter traps the system calls that can change a file, and a signal handler makes them in the process's
   stead. Nothing goes past it: libraries that call the kernel without the C library (Rust's rename, for one) are seen
   too, which a preloaded library would miss. x86-64 Linux only.

   `crash_arm` is called by a forked child for itself. Each operation is given the next number, and a line in the log
   when it is done: number, kind, result (bytes written, or the size that a file is cut to; below 0: failed), and the
   path or paths, relative to the folder, parted by tabs. A full disk does not say how much is free: as where a quota is
   used up, there seems to be room. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef __x86_64__
#error "written for x86-64"
#endif

enum fault { NONE, KILL_BEFORE, KILL_HALF, KILL_AFTER, FULL, FULL_HALF };

static char root[PATH_MAX];
static size_t root_length;
static int log_fd;
static enum fault fault;
static long fault_at;
static atomic_long count;
static atomic_int is_full;

/* The only place whose system calls pass the filter. Returns the result, or minus the error. */
long raw_call(long number, long a, long b, long c, long d, long e, long f);
extern char raw_call_return[];
__asm__(".text\n.globl raw_call\n.globl raw_call_return\nraw_call:\n"
        "mov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\nmov %r8, %r10\nmov %r9, %r8\n"
        "mov 8(%rsp), %r9\nsyscall\nraw_call_return:\nret\n");
#define CALL(name, a, b, c) raw_call(SYS_##name, (long)(a), (long)(b), (long)(c), 0, 0, 0)

static int is_below(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static void fd_path(int fd, char *into) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = CALL(readlink, link, into, PATH_MAX - 1);
    into[length > 0 ? length : 0] = 0;
}

/* The absolute path that a call means, where it is below the folder. */
static int is_ours(int folder, const char *path, char *into) {
    if (!path) return 0;
    char place[PATH_MAX] = "";
    if (path[0] != '/') {
        if (folder == AT_FDCWD) CALL(getcwd, place, sizeof place, 0);
        else fd_path(folder, place);
        strncat(place, "/", sizeof place - strlen(place) - 1);
    }
    strncat(place, path, sizeof place - strlen(place) - 1);
    memcpy(into, place, sizeof place);
    return is_below(into);
}

static int is_open_here(int fd, int for_writing, char *into) {
    fd_path(fd, into);
    if (!is_below(into)) return 0;
    return !for_writing || (CALL(fcntl, fd, F_GETFL, 0) & O_ACCMODE) != O_RDONLY;
}

static void die(void) {
    CALL(kill, CALL(getpid, 0, 0, 0), SIGKILL, 0);
    for (;;) CALL(pause, 0, 0, 0);
}

struct operation {
    long number;
    const char *kind;
    const char *path;
    const char *other; /* of a rename or link: the new name */
};

static void told(const struct operation *one, long result) {
    char line[2 * PATH_MAX + 100];
    const char *names[2] = {one->path, one->other};
    for (int i = 0; i < 2; i++)
        if (names[i]) names[i] = names[i][root_length] ? names[i] + root_length + 1 : ".";
    int length = snprintf(line, sizeof line, "%ld\t%s\t%ld\t%s\t%s\n", one->number, one->kind, result, names[0],
                          names[1] ? names[1] : "");
    CALL(write, log_fd, line, length);
}

/* One operation: the call `v` with its fault. `size`: where the bytes to be written stand, NULL for what is no write. */
static long operate(const char *kind, const char *path, const char *other, int needs_room, long number, long v[6],
                    long *size) {
    struct operation one = {atomic_fetch_add(&count, 1) + 1, kind, path, other};
    int chosen = one.number == fault_at;
    long whole = size ? *size : 0, result;
    if (chosen && fault == KILL_BEFORE) {
        told(&one, -EINTR);
        die();
    }
    if (chosen && fault == FULL) atomic_store(&is_full, 1);
    if (chosen && size && (fault == KILL_HALF || fault == FULL_HALF)) *size = whole / 2;
    if ((needs_room && atomic_load(&is_full)) || (size && whole && !*size)) result = -ENOSPC;
    else result = raw_call(number, v[0], v[1], v[2], v[3], v[4], v[5]);
    told(&one, result == 0 && !strcmp(kind, "truncate") ? v[1] : result);
    if (chosen && (fault == KILL_HALF || fault == KILL_AFTER)) die();
    if (chosen && fault == FULL_HALF) atomic_store(&is_full, 1);
    return result;
}

static long operate_open(int folder, const char *name, long flags, long number, long v[6]) {
    char path[PATH_MAX];
    struct stat found;
    int changes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    if (!changes || !is_ours(folder, name, path)) return raw_call(number, v[0], v[1], v[2], v[3], v[4], v[5]);
    int is_new = CALL(lstat, path, &found, 0) != 0;
    const char *kind = is_new ? "create" : flags & O_TRUNC ? "empty" : "open";
    return operate(kind, path, NULL, is_new, number, v, NULL);
}

/* The first half of several buffers. */
static long operate_writev(const char *path, long number, long v[6]) {
    const struct iovec *parts = (const struct iovec *)v[1];
    struct iovec kept[64];
    long size = 0;
    for (long i = 0; i < v[2]; i++) size += (long)parts[i].iov_len;
    int halved = atomic_load(&count) + 1 == fault_at && (fault == KILL_HALF || fault == FULL_HALF);
    if (halved) {
        long used = 0, left = size / 2;
        for (; used < v[2] && used < 64 && left > 0; used++) {
            kept[used] = parts[used];
            if ((long)kept[used].iov_len > left) kept[used].iov_len = (size_t)left;
            left -= (long)kept[used].iov_len;
        }
        v[1] = (long)kept;
        v[2] = used;
    }
    return operate("write", path, NULL, 1, number, v, halved ? &size : NULL);
}

static long operate_two(int from, long old, int into, long new, const char *kind, long number, long v[6]) {
    char path[PATH_MAX], other[PATH_MAX];
    int first = is_ours(from, (const char *)old, path), second = is_ours(into, (const char *)new, other);
    if (!second) return raw_call(number, v[0], v[1], v[2], v[3], v[4], v[5]);
    return operate(kind, first ? path : other, other, 1, number, v, NULL);
}

static long operate_path(int folder, long name, const char *kind, int needs_room, long number, long v[6]) {
    char path[PATH_MAX];
    if (!is_ours(folder, (const char *)name, path)) return raw_call(number, v[0], v[1], v[2], v[3], v[4], v[5]);
    return operate(kind, path, NULL, needs_room, number, v, NULL);
}

/* A folder that is there already is no operation: most are only made sure of. */
static long operate_mkdir(int folder, long name, long number, long v[6]) {
    char path[PATH_MAX];
    struct stat found;
    if (is_ours(folder, (const char *)name, path) && CALL(lstat, path, &found, 0))
        return operate("mkdir", path, NULL, 1, number, v, NULL);
    return raw_call(number, v[0], v[1], v[2], v[3], v[4], v[5]);
}

static long operate_fd(int fd, int for_writing, const char *kind, int needs_room, long number, long v[6], long *size) {
    char path[PATH_MAX];
    if (!is_open_here(fd, for_writing, path)) return raw_call(number, v[0], v[1], v[2], v[3], v[4], v[5]);
    return operate(kind, path, NULL, needs_room, number, v, size);
}

static const int trapped[] = {
    SYS_write,    SYS_pwrite64, SYS_writev,     SYS_pwritev,   SYS_pwritev2,  SYS_sendfile, SYS_copy_file_range,
    SYS_open,     SYS_openat,   SYS_openat2,    SYS_creat,     SYS_close,     SYS_fsync,    SYS_fdatasync,
    SYS_truncate, SYS_ftruncate, SYS_fallocate, SYS_rename,    SYS_renameat,  SYS_renameat2, SYS_link,
    SYS_linkat,   SYS_symlink,  SYS_symlinkat,  SYS_unlink,    SYS_unlinkat,  SYS_rmdir,    SYS_mkdir,
    SYS_mkdirat,  SYS_mmap,     SYS_splice,     SYS_chmod,     SYS_fchmod,    SYS_fchmodat, SYS_io_uring_setup,
};

static long dispatch(long number, long v[6]) {
    char path[PATH_MAX];
    switch (number) {
    case SYS_write:
    case SYS_pwrite64: return operate_fd((int)v[0], 1, "write", 1, number, v, &v[2]);
    case SYS_writev:
    case SYS_pwritev:
    case SYS_pwritev2:
        if (is_open_here((int)v[0], 1, path)) return operate_writev(path, number, v);
        break;
    case SYS_sendfile: return operate_fd((int)v[0], 1, "write", 1, number, v, &v[3]);
    case SYS_copy_file_range:
    case SYS_splice: return operate_fd((int)v[2], 1, "write", 1, number, v, &v[4]);
    case SYS_open: return operate_open(AT_FDCWD, (const char *)v[0], v[1], number, v);
    case SYS_creat: return operate_open(AT_FDCWD, (const char *)v[0], O_CREAT | O_WRONLY | O_TRUNC, number, v);
    case SYS_openat: return operate_open((int)v[0], (const char *)v[1], v[2], number, v);
    case SYS_openat2: return operate_open((int)v[0], (const char *)v[1], *(const long *)v[2], number, v);
    case SYS_close: return operate_fd((int)v[0], 1, "close", 0, number, v, NULL);
    case SYS_fsync:
    case SYS_fdatasync: return operate_fd((int)v[0], 0, "fsync", 1, number, v, NULL);
    case SYS_truncate: return operate_path(AT_FDCWD, v[0], "truncate", 0, number, v);
    case SYS_ftruncate: return operate_fd((int)v[0], 1, "truncate", 1, number, v, NULL);
    case SYS_fallocate: return operate_fd((int)v[0], 1, "allocate", 1, number, v, NULL);
    case SYS_fchmod: return operate_fd((int)v[0], 0, "chmod", 0, number, v, NULL);
    case SYS_chmod: return operate_path(AT_FDCWD, v[0], "chmod", 0, number, v);
    case SYS_fchmodat: return operate_path((int)v[0], v[1], "chmod", 0, number, v);
    case SYS_rename: return operate_two(AT_FDCWD, v[0], AT_FDCWD, v[1], "rename", number, v);
    case SYS_renameat:
    case SYS_renameat2: return operate_two((int)v[0], v[1], (int)v[2], v[3], "rename", number, v);
    case SYS_link: return operate_two(AT_FDCWD, v[0], AT_FDCWD, v[1], "link", number, v);
    case SYS_linkat: return operate_two((int)v[0], v[1], (int)v[2], v[3], "link", number, v);
    case SYS_symlink: return operate_path(AT_FDCWD, v[1], "link", 1, number, v);
    case SYS_symlinkat: return operate_path((int)v[1], v[2], "link", 1, number, v);
    case SYS_unlink: return operate_path(AT_FDCWD, v[0], "unlink", 0, number, v);
    case SYS_unlinkat:
        return operate_path((int)v[0], v[1], v[2] & AT_REMOVEDIR ? "rmdir" : "unlink", 0, number, v);
    case SYS_rmdir: return operate_path(AT_FDCWD, v[0], "rmdir", 0, number, v);
    case SYS_mkdir: return operate_mkdir(AT_FDCWD, v[0], number, v);
    case SYS_mkdirat: return operate_mkdir((int)v[0], v[1], number, v);
    case SYS_mmap: /* what is stored through a shared mapping is not seen: that there is one is */
        if ((int)v[4] >= 0 && (v[2] & PROT_WRITE) && (v[3] & MAP_SHARED))
            return operate_fd((int)v[4], 1, "map", 0, number, v, NULL);
        break;
    case SYS_io_uring_setup: return -ENOSYS; /* a way around, so there is none */
    }
    return raw_call(number, v[0], v[1], v[2], v[3], v[4], v[5]);
}

static void on_trap(int signal, siginfo_t *info, void *context) {
    (void)signal;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    long values[6] = {registers[REG_RDI], registers[REG_RSI], registers[REG_RDX],
                      registers[REG_R10], registers[REG_R8],  registers[REG_R9]};
    registers[REG_RAX] = dispatch(info->si_syscall, values);
}

/* Begins to count, with a fault (see above) at the operation numbered `at`. Returns 0, or an error's number. */
int crash_arm(const char *folder, int log, int kind, long at) {
    enum { CALLS = sizeof trapped / sizeof *trapped };
    struct sock_filter filter[CALLS + 9];
    unsigned long from = (unsigned long)raw_call_return;
    int n = 0;
#define LOAD(field) (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define EQUAL(value, yes, no) (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
    filter[n++] = LOAD(arch);
    filter[n++] = EQUAL(AUDIT_ARCH_X86_64, 0, CALLS + 5);
    filter[n++] = LOAD(instruction_pointer);
    filter[n++] = EQUAL((unsigned)from, 0, 2);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                               offsetof(struct seccomp_data, instruction_pointer) + 4);
    filter[n++] = EQUAL((unsigned)(from >> 32), CALLS + 1, 0);
    filter[n++] = LOAD(nr);
    for (int i = 0; i < CALLS; i++) filter[n++] = EQUAL((unsigned)trapped[i], (unsigned char)(CALLS - i), 0);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    struct sock_fprog program = {(unsigned short)n, filter};
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};

    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    log_fd = log;
    fault = (enum fault)kind;
    fault_at = at;
    if (sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return errno;
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program)) return errno;
    return 0;
}
