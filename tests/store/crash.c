/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk that fails: preloaded, it sees every call that changes a file or a name below CRASH_ROOT, and can write down
 * what was done (CRASH_LOG), kill the process at the n-th, or let that one fail.
 *
 * A record of the log: struct record, then the path, the other path of a rename, then the data.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { OP_CREATE, OP_WRITE, OP_TRUNCATE, OP_SYNC, OP_RENAME, OP_UNLINK, OP_MKDIR, OP_MARK };
enum how { KILL_BEFORE, KILL_WITHIN, FAIL_BEFORE, FAIL_AFTER };

struct record {
	uint32_t op;
	uint32_t path_length;
	uint32_t other_length;
	uint32_t length;
	uint64_t inode;
	int64_t offset; /* of a write; the new length of a truncate */
};

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

static long countdown; /* calls until it happens; 0: never */
static enum how how;
static long calls;
static int log_fd = -1;

/* What the test asks for, by ctypes. */
void crash_at(long call, int manner)
{
	countdown = call;
	how = manner;
	calls = 0;
}

long crash_calls(void)
{
	return calls;
}

static int watched(const char *path)
{
	const char *root = getenv("CRASH_ROOT");

	return root && strncmp(path, root, strlen(root)) == 0;
}

static const char *path_of(int fd, char *buffer)
{
	char link[32];
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, buffer, PATH_MAX - 1);
	if (length < 0)
		return NULL;
	buffer[length] = 0;
	return watched(buffer) ? buffer : NULL;
}

static void note(enum op op, const char *path, const char *other, uint64_t inode, int64_t offset, const void *data,
		 size_t length)
{
	struct record record = { .op = op, .path_length = strlen(path), .other_length = strlen(other),
				 .length = length, .inode = inode, .offset = offset };
	struct iovec parts[] = { { &record, sizeof(record) },
				 { (void *)path, record.path_length },
				 { (void *)other, record.other_length },
				 { (void *)data, length } };

	if (log_fd < 0 && getenv("CRASH_LOG"))
		log_fd = REAL(open)(getenv("CRASH_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log_fd >= 0 && writev(log_fd, parts, 4) < 0)
		abort();
}

void crash_mark(const char *text)
{
	note(OP_MARK, text, "", 0, 0, "", 0);
}

/* Count one call. Return whether this is the one that fails; a call that dies within is done in part first. */
static int due(void)
{
	calls++;
	if (!countdown || calls != countdown)
		return 0;
	if (how == KILL_BEFORE)
		kill(getpid(), SIGKILL);
	return 1;
}

static int end(int result)
{
	if (how == KILL_WITHIN)
		kill(getpid(), SIGKILL);
	errno = EIO;
	(void)result;
	return -1;
}

static uint64_t inode_of(int fd)
{
	struct stat status;

	return fstat(fd, &status) ? 0 : status.st_ino;
}

static ssize_t do_write(int fd, const void *data, size_t length, off_t offset)
{
	char buffer[PATH_MAX];
	const char *path = path_of(fd, buffer);
	int struck = path && due();

	if (struck && how != FAIL_AFTER) {
		if (how == KILL_WITHIN)
			REAL(pwrite)(fd, data, length / 2, offset);
		return end(0);
	}
	ssize_t written = REAL(pwrite)(fd, data, length, offset);

	if (path && written > 0)
		note(OP_WRITE, path, "", inode_of(fd), offset, data, written);
	return struck ? end(0) : written;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
	return do_write(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
	return do_write(fd, data, length, offset);
}

ssize_t write(int fd, const void *data, size_t length)
{
	char buffer[PATH_MAX];
	off_t offset;
	ssize_t written;

	if (!path_of(fd, buffer))
		return REAL(write)(fd, data, length);
	offset = lseek(fd, 0, SEEK_CUR);
	written = do_write(fd, data, length, offset);
	if (written > 0)
		lseek(fd, offset + written, SEEK_SET);
	return written;
}

static int do_truncate(int fd, off_t length)
{
	char buffer[PATH_MAX];
	const char *path = path_of(fd, buffer);
	int struck = path && due();
	int result;

	if (struck && how == FAIL_BEFORE)
		return end(0);
	result = REAL(ftruncate)(fd, length);
	if (path && !result)
		note(OP_TRUNCATE, path, "", inode_of(fd), length, "", 0);
	return struck ? end(result) : result;
}

int ftruncate(int fd, off_t length)
{
	return do_truncate(fd, length);
}

int ftruncate64(int fd, off64_t length)
{
	return do_truncate(fd, length);
}

static int do_sync(int fd, int (*real)(int))
{
	char buffer[PATH_MAX];
	const char *path = path_of(fd, buffer);
	int struck = path && due();
	int result;

	if (struck && how == FAIL_BEFORE)
		return end(0);
	result = real(fd);
	if (path && !result)
		note(OP_SYNC, path, "", inode_of(fd), 0, "", 0);
	return struck ? end(result) : result;
}

int fsync(int fd)
{
	return do_sync(fd, REAL(fsync));
}

int fdatasync(int fd)
{
	return do_sync(fd, REAL(fdatasync));
}

int rename(const char *from, const char *to)
{
	int struck = watched(to) && due();
	int result;

	if (struck && how == FAIL_BEFORE)
		return end(0);
	result = REAL(rename)(from, to);
	if (watched(to) && !result)
		note(OP_RENAME, from, to, 0, 0, "", 0);
	return struck ? end(result) : result;
}

int unlink(const char *path)
{
	int struck = watched(path) && access(path, F_OK) == 0 && due();
	int result;

	if (struck && how == FAIL_BEFORE)
		return end(0);
	result = REAL(unlink)(path);
	if (watched(path) && !result)
		note(OP_UNLINK, path, "", 0, 0, "", 0);
	return struck ? end(result) : result;
}

int mkdir(const char *path, mode_t mode)
{
	int struck = watched(path) && access(path, F_OK) != 0 && due();
	int result;

	if (struck && how == FAIL_BEFORE)
		return end(0);
	result = REAL(mkdir)(path, mode);
	if (watched(path) && !result)
		note(OP_MKDIR, path, "", 0, 0, "", 0);
	return struck ? end(result) : result;
}

static int do_open(const char *path, int flags, mode_t mode)
{
	struct stat status;
	int making = (flags & O_CREAT) && watched(path) && stat(path, &status) != 0;
	int struck = making && due();
	int fd;

	if (struck && how == FAIL_BEFORE)
		return end(0);
	fd = REAL(open)(path, flags, mode);
	if (making && fd >= 0)
		note(OP_CREATE, path, "", inode_of(fd), 0, "", 0);
	if (struck && fd >= 0 && how == FAIL_AFTER)
		close(fd);
	return struck ? end(fd) : fd;
}

static mode_t mode_of(int flags, va_list rest)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                              \
	int name(const char *path, int flags, ...)              \
	{                                                       \
		va_list rest;                                   \
		va_start(rest, flags);                          \
		mode_t mode = mode_of(flags, rest);             \
		va_end(rest);                                   \
		return do_open(path, flags, mode);              \
	}

OPEN(open)
OPEN(open64)
