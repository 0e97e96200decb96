// SPDX-License-Identifier: Apache-2.0
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/if_link.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

struct hl_test_run {
    const void *data;
    void *out;
    uint32_t size;
    uint32_t out_size;
    uint32_t repeat;
    uint32_t context;
    uint32_t ifindex;
    uint32_t rx_queue;
    uint32_t mark;
    uint32_t retval;
    uint32_t duration;
};

/* libbpf prints from the thread that called it, so a buffer a thread keeps errors of two threads apart */
static __thread char *message;
static __thread size_t message_used, message_room;
enum { MESSAGE_LIMIT = 64 << 20 };

static int message_reserve(size_t more)
{
    size_t room = message_room ? message_room : 4096;
    char *grown;

    if (message_used + more > MESSAGE_LIMIT)
        return -1;
    while (room < message_used + more)
        room *= 2;
    if (room == message_room)
        return 0;
    grown = realloc(message, room);
    if (!grown)
        return -1;
    message = grown;
    message_room = room;
    return 0;
}

static int message_append(enum libbpf_print_level level, const char *format, va_list args)
{
    va_list again;
    int length;

    if (level > LIBBPF_WARN)
        return 0;
    va_copy(again, args);
    length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length < 0 || message_reserve((size_t)length + 1))
        return 0;
    vsnprintf(message + message_used, (size_t)length + 1, format, args);
    message_used += (size_t)length;
    return 0;
}

const char *hl_message(void)
{
    return message_used ? message : "";
}

void hl_message_clear(void)
{
    free(message);
    message = NULL;
    message_used = message_room = 0;
}

int hl_start(void)
{
    /* libbpf sets the flag for these sections at load, whatever was asked; ours leave it to hl_object_open */
    int error = libbpf_register_prog_handler("xdp.frags/devmap", BPF_PROG_TYPE_XDP, BPF_XDP_DEVMAP, NULL);

    libbpf_set_print(message_append);
    if (error >= 0)
        error = libbpf_register_prog_handler("xdp.frags/cpumap", BPF_PROG_TYPE_XDP, BPF_XDP_CPUMAP, NULL);
    if (error >= 0)
        error = libbpf_register_prog_handler("xdp.frags+", BPF_PROG_TYPE_XDP, BPF_XDP, NULL);
    return error;
}

int hl_object_open(const char *path, const char *name, struct bpf_object **object)
{
    LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name);
    struct bpf_program *program;

    *object = bpf_object__open_file(path, &options);
    if (!*object)
        return -errno;
    bpf_object__for_each_program(program, *object)
        if (!strncmp(bpf_program__section_name(program), "xdp.frags", 9))
            bpf_program__set_flags(program, bpf_program__flags(program) | BPF_F_XDP_HAS_FRAGS);
    return 0;
}

int hl_map_type(const struct bpf_map *map)
{
    return bpf_map__type(map);
}

int hl_program_set_frags(struct bpf_program *program, bool enabled)
{
    uint32_t flags = bpf_program__flags(program);

    return bpf_program__set_flags(program,
                                  enabled ? flags | BPF_F_XDP_HAS_FRAGS : flags & ~BPF_F_XDP_HAS_FRAGS);
}

int hl_probe_helper(int program_type, int helper)
{
    /* libbpf's own probe does not know the text of kernels from 6.12 on, and says yes */
    static const char *const refusals[] = {"invalid func ", "unknown func ", "cannot use helper ", "might sleep"};
    struct bpf_insn program[] = {
        {.code = BPF_JMP | BPF_CALL, .imm = helper},
        {.code = BPF_JMP | BPF_EXIT},
    };
    char log[4096] = "";
    LIBBPF_OPTS(bpf_prog_load_opts, options, .log_buf = log, .log_size = sizeof(log), .log_level = 1);
    int fd = bpf_prog_load(program_type, "hl_probe", "GPL", program, 2, &options);

    if (fd >= 0) {
        close(fd);
        return 1;
    }
    if (!log[0]) /* it did not come to the verifier */
        return fd;
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
        if (strstr(log, refusals[i]))
            return 0;
    return 1;
}

int hl_probe_instructions(int program_type, const void *instructions, uint32_t count)
{
    char log[4096] = "";
    LIBBPF_OPTS(bpf_prog_load_opts, options, .log_buf = log, .log_size = sizeof(log), .log_level = 1);
    int fd = bpf_prog_load(program_type, "hl_probe", "GPL", instructions, count, &options);

    if (fd >= 0) {
        close(fd);
        return 1;
    }
    return log[0] ? 0 : fd; /* the verifier's refusal, or it did not come to the verifier */
}

int hl_test_run(int fd, struct hl_test_run *run)
{
    /* the kernel wants data_end to be the packet's length when a context is given (net/bpf/test_run.c) */
    struct xdp_md xdp = {.data_end = run->size, .ingress_ifindex = run->ifindex, .rx_queue_index = run->rx_queue};
    struct __sk_buff skb = {.ifindex = run->ifindex, .mark = run->mark};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = run->data, .data_size_in = run->size, .data_out = run->out,
                .data_size_out = run->out_size, .repeat = run->repeat);
    int error;

    if (run->context == 1) {
        options.ctx_in = &xdp;
        options.ctx_size_in = sizeof(xdp);
    } else if (run->context == 2) {
        options.ctx_in = &skb;
        options.ctx_size_in = sizeof(skb);
    }
    error = bpf_prog_test_run_opts(fd, &options);
    run->out_size = options.data_size_out;
    run->retval = options.retval;
    run->duration = options.duration;
    return error;
}

int hl_map_create(int type, const char *name, uint32_t key_size, uint32_t value_size, uint32_t max_entries,
                  uint32_t flags)
{
    LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags);

    return bpf_map_create(type, name, key_size, value_size, max_entries, &options);
}

int hl_update_batch(int fd, const void *keys, const void *values, uint32_t *count, uint64_t flags)
{
    LIBBPF_OPTS(bpf_map_batch_opts, options, .elem_flags = flags);

    return bpf_map_update_batch(fd, keys, values, count, &options);
}

int hl_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values, uint32_t *count)
{
    return bpf_map_lookup_batch(fd, in_batch, out_batch, keys, values, count, NULL);
}

int hl_delete_batch(int fd, const void *keys, uint32_t *count)
{
    return bpf_map_delete_batch(fd, keys, count, NULL);
}

int hl_update_each(int fd, const char *keys, uint32_t key_size, const char *values, uint32_t value_size,
                   uint32_t count, uint64_t flags, uint32_t *done)
{
    for (*done = 0; *done < count; (*done)++, keys += key_size, values += value_size) {
        int error = bpf_map_update_elem(fd, keys, values, flags);

        if (error)
            return error;
    }
    return 0;
}

int hl_delete_each(int fd, const char *keys, uint32_t key_size, uint32_t count, uint32_t *done)
{
    for (*done = 0; *done < count; (*done)++, keys += key_size) {
        int error = bpf_map_delete_elem(fd, keys);

        if (error)
            return error;
    }
    return 0;
}

int hl_lookup_each(int fd, char *cursor, int started, uint32_t key_size, char *keys, char *values,
                   uint32_t value_size, uint32_t room, uint32_t *count)
{
    char next[key_size];

    *count = 0;
    while (*count < room) {
        int error = bpf_map_get_next_key(fd, started ? cursor : NULL, next);

        if (error)
            return error;
        started = 1;
        memcpy(cursor, next, key_size);
        error = bpf_map_lookup_elem(fd, next, values + (size_t)*count * value_size);
        if (error == -ENOENT) /* deleted in between, or an empty slot of a devmap */
            continue;
        if (error)
            return error;
        memcpy(keys + (size_t)*count * key_size, next, key_size);
        (*count)++;
    }
    return 0;
}

int hl_xdp_link_create(int program, int ifindex, uint32_t flags)
{
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = flags);

    return bpf_link_create(program, ifindex, BPF_XDP, &options);
}

int hl_link_update(int link, int program)
{
    return bpf_link_update(link, program, NULL);
}

int hl_link_info(int fd, uint32_t *id, uint32_t *type, uint32_t *program_id, uint32_t *ifindex)
{
    struct bpf_link_info info = {};
    uint32_t size = sizeof(info);
    int error = bpf_obj_get_info_by_fd(fd, &info, &size);

    *id = info.id;
    *type = info.type;
    *program_id = info.prog_id;
    *ifindex = info.type == BPF_LINK_TYPE_XDP ? info.xdp.ifindex : 0;
    return error;
}

int hl_xdp_query(int ifindex, uint32_t *mode, uint32_t *native_id, uint32_t *generic_id, uint32_t *hardware_id)
{
    LIBBPF_OPTS(bpf_xdp_query_opts, options);
    int error = bpf_xdp_query(ifindex, 0, &options);

    *mode = options.attach_mode;
    *native_id = options.drv_prog_id;
    *generic_id = options.skb_prog_id;
    *hardware_id = options.hw_prog_id;
    return error;
}

int hl_xdp_attach(int ifindex, int program, uint32_t flags)
{
    return bpf_xdp_attach(ifindex, program, flags, NULL);
}

int hl_xdp_detach(int ifindex, uint32_t flags)
{
    return bpf_xdp_detach(ifindex, flags, NULL);
}

int hl_setns(int fd, int kind)
{
    return setns(fd, kind) ? -errno : 0;
}

int64_t hl_filesystem(const char *path)
{
    struct statfs found;

    return statfs(path, &found) ? -errno : (int64_t)(uint32_t)found.f_type;
}

int hl_keep_capabilities(uint64_t keep)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {.effective = (uint32_t)keep, .permitted = (uint32_t)keep},
        {.effective = (uint32_t)(keep >> 32), .permitted = (uint32_t)(keep >> 32)},
    };

    /* first, since it takes CAP_SETPCAP; who asked looks whether it was held */
    for (int number = 0; prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++)
        prctl(PR_CAPBSET_DROP, number, 0, 0, 0);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_capset, &header, data))
        return -errno;
    return 0;
}

static uint64_t kept_by_all;

/* system calls only, so it may interrupt anything */
static void on_keep(int number)
{
    int before = errno;

    (void)number;
    hl_keep_capabilities(__atomic_load_n(&kept_by_all, __ATOMIC_ACQUIRE));
    errno = before;
}

int hl_keep_capabilities_of(int thread, uint64_t keep)
{
    /* never taken back: a signal that comes late must not end the process */
    struct sigaction action = {.sa_handler = on_keep, .sa_flags = SA_RESTART};

    __atomic_store_n(&kept_by_all, keep, __ATOMIC_RELEASE);
    if (sigaction(SIGRTMIN, &action, NULL) || syscall(SYS_tgkill, getpid(), thread, SIGRTMIN))
        return -errno;
    return 0;
}
