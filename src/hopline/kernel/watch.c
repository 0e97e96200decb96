// SPDX-License-Identifier: Apache-2.0
/* follows native.c in one translation unit: what is needed to watch programs and to say what they may call */
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* of linux/mount.h, which cannot be included beside the C library's sys/mount.h */
enum { FSCONFIG_CMD_CREATE_ = 6 };

#define HELPER_NAME(name) [BPF_FUNC_##name] = #name
static const char *const helper_names[] = {__BPF_FUNC_MAPPER(HELPER_NAME)};
#undef HELPER_NAME

int hl_helper_count(void)
{
    return sizeof(helper_names) / sizeof(helper_names[0]);
}

const char *hl_helper_name(int helper)
{
    return helper > 0 && helper < hl_helper_count() && helper_names[helper] ? helper_names[helper] : "";
}

int hl_load_instructions(int program_type, const void *instructions, uint32_t count)
{
    return bpf_prog_load(program_type, "hl_probe", "GPL", instructions, count, NULL);
}

int hl_tracefs(void)
{
    int context = syscall(SYS_fsopen, "tracefs", 0), mounted = -1, error = 0;

    if (context < 0)
        return -errno;
    if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE_, NULL, NULL, 0) < 0 ||
        (mounted = syscall(SYS_fsmount, context, 1 /* close on exec */, 0)) < 0)
        error = -errno;
    close(context);
    return error ? error : mounted;
}
