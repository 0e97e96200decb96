/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a command: kills it right before the call number KILL_AT of those that change what is pinned or
 * attached: BPF_OBJ_PIN and BPF_LINK_UPDATE, and mkdir, rename, unlink and rmdir below /sys/fs/bpf.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/bpf.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void step(void)
{
	static long calls;
	const char *at = getenv("KILL_AT");

	if (at && ++calls == atol(at))
		kill(getpid(), SIGKILL);
}

static void step_on(const char *path)
{
	if (strstr(path, "/bpf/") || strstr(path, "/fd/"))
		step();
}

long syscall(long number, ...)
{
	long (*real)(long, ...) = dlsym(RTLD_NEXT, "syscall");
	long a[6];
	va_list list;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(list, long);
	va_end(list);
	if (number == SYS_bpf && (a[0] == BPF_OBJ_PIN || a[0] == BPF_LINK_UPDATE))
		step();
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int rename(const char *from, const char *to)
{
	int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");

	step_on(from);
	return real(from, to);
}

int mkdir(const char *path, mode_t mode)
{
	int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");

	step_on(path);
	return real(path, mode);
}

int unlink(const char *path)
{
	int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");

	step_on(path);
	return real(path);
}

int rmdir(const char *path)
{
	int (*real)(const char *) = dlsym(RTLD_NEXT, "rmdir");

	step_on(path);
	return real(path);
}
