// SPDX-License-Identifier: Apache-2.0
/* what is said of an object's programs before they are loaded, and where they are attached without a link */

int hl_program_type(const struct bpf_program *program)
{
    return bpf_program__type(program);
}

int hl_program_set_type(struct bpf_program *program, int type, int attach)
{
    int error = bpf_program__set_type(program, type);

    return error ? error : bpf_program__set_expected_attach_type(program, attach);
}

int hl_program_info_more(int fd, uint32_t *gpl, uint32_t *ifindex)
{
    struct bpf_prog_info info = {};
    uint32_t size = sizeof(info);
    int error = bpf_obj_get_info_by_fd(fd, &info, &size);

    *gpl = info.gpl_compatible;
    *ifindex = info.ifindex;
    return error;
}

int hl_program_function(int fd, uint32_t *type)
{
    struct bpf_func_info first = {};
    struct bpf_prog_info info = {
        .nr_func_info = 1,
        .func_info_rec_size = sizeof(first),
        .func_info = (uintptr_t)&first,
    };
    uint32_t size = sizeof(info);
    int error = bpf_obj_get_info_by_fd(fd, &info, &size);

    *type = info.nr_func_info ? first.type_id : 0;
    return error;
}

int hl_xdp_exchange(int ifindex, int program, int expected, uint32_t flags)
{
    LIBBPF_OPTS(bpf_xdp_attach_opts, options, .old_prog_fd = expected);

    return bpf_xdp_attach(ifindex, program, flags, &options);
}

const char *hl_program_type_name(int type)
{
    const char *name = libbpf_bpf_prog_type_str(type);

    return name ? name : "";
}

const char *hl_map_type_name(int type)
{
    const char *name = libbpf_bpf_map_type_str(type);

    return name ? name : "";
}
