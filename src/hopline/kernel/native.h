/* Everything Python calls. Functions return 0 or a positive result, or -errno, unless said otherwise. */

struct bpf_object;
struct bpf_program;
struct bpf_map;
struct btf;

/* what libbpf printed in this thread since the last clear; never NULL */
const char *hl_message(void);
void hl_message_clear(void);
/* once a process: libbpf prints to the above, and set_frags can take xdp.frags away */
int hl_start(void);

/* objects: libbpf's own functions */
int hl_object_open(const char *path, const char *name, struct bpf_object **object);
int bpf_object__load(struct bpf_object *object);
void bpf_object__close(struct bpf_object *object);
struct bpf_program *bpf_object__next_program(const struct bpf_object *object, struct bpf_program *program);
struct bpf_map *bpf_object__next_map(const struct bpf_object *object, const struct bpf_map *map);
struct btf *bpf_object__btf(const struct bpf_object *object);
const void *btf__raw_data(const struct btf *btf, uint32_t *size);

const char *bpf_program__name(const struct bpf_program *program);
int bpf_program__fd(const struct bpf_program *program);
int bpf_program__set_autoload(struct bpf_program *program, bool autoload);
int hl_program_set_frags(struct bpf_program *program, bool enabled);
const char *bpf_program__section_name(const struct bpf_program *program);
size_t bpf_program__insn_cnt(const struct bpf_program *program);
int hl_program_type(const struct bpf_program *program);
int hl_program_set_type(struct bpf_program *program, int type, int attach);
/* as in bpf_prog_type and bpf_map_type, in small letters; "" for what this libbpf does not know */
const char *hl_program_type_name(int type);
const char *hl_map_type_name(int type);
void bpf_program__set_ifindex(struct bpf_program *program, uint32_t ifindex);

const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
int hl_map_type(const struct bpf_map *map);
uint32_t bpf_map__key_size(const struct bpf_map *map);
uint32_t bpf_map__value_size(const struct bpf_map *map);
uint32_t bpf_map__max_entries(const struct bpf_map *map);
uint32_t bpf_map__map_flags(const struct bpf_map *map);
uint32_t bpf_map__btf_key_type_id(const struct bpf_map *map);
uint32_t bpf_map__btf_value_type_id(const struct bpf_map *map);
bool bpf_map__is_internal(const struct bpf_map *map);
int bpf_map__set_max_entries(struct bpf_map *map, uint32_t max_entries);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
const void *bpf_map__initial_value(struct bpf_map *map, size_t *size);
int bpf_map__set_initial_value(struct bpf_map *map, const void *data, size_t size);
const char *bpf_map__pin_path(const struct bpf_map *map);
int bpf_map__set_pin_path(struct bpf_map *map, const char *path);
int bpf_map__set_ifindex(struct bpf_map *map, uint32_t ifindex);

/* what the kernel knows by fd or id */
struct bpf_prog_info {
    uint32_t type;
    uint32_t id;
    uint8_t tag[8];
    uint32_t jited_prog_len;
    uint32_t xlated_prog_len;
    uint64_t xlated_prog_insns;
    uint64_t load_time;
    uint32_t created_by_uid;
    uint32_t nr_map_ids;
    uint64_t map_ids;
    char name[16];
    uint32_t btf_id;
    uint64_t run_time_ns;
    uint64_t run_cnt;
    uint32_t verified_insns;
    ...;
};
struct bpf_map_info {
    uint32_t type;
    uint32_t id;
    uint32_t key_size;
    uint32_t value_size;
    uint32_t max_entries;
    uint32_t map_flags;
    char name[16];
    uint32_t btf_id;
    uint32_t btf_key_type_id;
    uint32_t btf_value_type_id;
    ...;
};
struct bpf_btf_info {
    uint64_t btf;
    uint32_t btf_size;
    uint32_t id;
    ...;
};
int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *size);
int bpf_obj_pin(int fd, const char *path);
int bpf_obj_get(const char *path);
int bpf_prog_get_fd_by_id(uint32_t id);
int bpf_map_get_fd_by_id(uint32_t id);
int bpf_btf_get_fd_by_id(uint32_t id);
int bpf_link_get_fd_by_id(uint32_t id);
int bpf_link_get_next_id(uint32_t id, uint32_t *next);
int bpf_prog_get_next_id(uint32_t id, uint32_t *next);
int bpf_map_get_next_id(uint32_t id, uint32_t *next);
/* whether it may call what is for the GPL only, and the device it is offloaded to, or 0 */
int hl_program_info_more(int fd, uint32_t *gpl, uint32_t *ifindex);
/* the type of its first function in its BTF, or 0 */
int hl_program_function(int fd, uint32_t *type);
int libbpf_num_possible_cpus(void);
int hl_probe_helper(int program_type, int helper);
int hl_probe_instructions(int program_type, const void *instructions, uint32_t count);

/* BPF_PROG_TEST_RUN; context: 0 none, 1 struct xdp_md, 2 struct __sk_buff */
struct hl_test_run {
    const void *data;
    void *out;
    uint32_t size;
    uint32_t out_size; /* room, then bytes written */
    uint32_t repeat;
    uint32_t context;
    uint32_t ifindex;
    uint32_t rx_queue;
    uint32_t mark;
    uint32_t retval;
    uint32_t duration;
};
int hl_test_run(int fd, struct hl_test_run *run);

/* maps */
int hl_map_create(int type, const char *name, uint32_t key_size, uint32_t value_size, uint32_t max_entries,
                  uint32_t flags);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
int bpf_map_delete_elem(int fd, const void *key);
int hl_update_batch(int fd, const void *keys, const void *values, uint32_t *count, uint64_t flags);
int hl_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values, uint32_t *count);
int hl_delete_batch(int fd, const void *keys, uint32_t *count);
/* one system call an element, for map types and kernels without batches; `done` elements were handled */
int hl_update_each(int fd, const char *keys, uint32_t key_size, const char *values, uint32_t value_size,
                   uint32_t count, uint64_t flags, uint32_t *done);
int hl_delete_each(int fd, const char *keys, uint32_t key_size, uint32_t count, uint32_t *done);
/* walks from *cursor (start: started = 0) until `room` pairs are read or the map ends (-ENOENT) */
int hl_lookup_each(int fd, char *cursor, int started, uint32_t key_size, char *keys, char *values,
                   uint32_t value_size, uint32_t room, uint32_t *count);

/* one aligned access each: stores release, loads acquire */
void hl_store32(void *address, uint32_t value);
void hl_store64(void *address, uint64_t value);
uint32_t hl_load32(const void *address);
uint64_t hl_load64(const void *address);
uint64_t hl_fetch_add64(void *address, uint64_t value);
/* the same at words that lie `stride` bytes apart, by their indexes */
void hl_store32_at(char *words, uint64_t stride, const int64_t *indexes, const uint32_t *values, uint64_t count);
/* wanted[i] where expected[i] is; done[i] is whether it was */
void hl_exchange64_at(char *words, uint64_t stride, const int64_t *indexes, const uint64_t *expected,
                      const uint64_t *wanted, uint64_t count, bool *done);

/* which of `count` backends, 4,095 at most, has which of `slots` slots; see turns.py */
int hl_ring_fill(const uint32_t *offsets, const uint32_t *skips, const uint64_t *steps, const uint32_t *quotas,
                 uint32_t count, uint16_t *ring, uint32_t slots);

/* links */
int hl_xdp_link_create(int program, int ifindex, uint32_t flags);
int hl_link_update(int link, int program);
int bpf_link_detach(int link);
int hl_link_info(int fd, uint32_t *id, uint32_t *type, uint32_t *program_id, uint32_t *ifindex);
/* mode as in enum XDP_ATTACHED_* of linux/if_link.h */
int hl_xdp_query(int ifindex, uint32_t *mode, uint32_t *native_id, uint32_t *generic_id, uint32_t *hardware_id);
int hl_xdp_attach(int ifindex, int program, uint32_t flags);
int hl_xdp_detach(int ifindex, uint32_t flags);
/* the same where the program of descriptor `expected` is there, in one step; program -1 detaches it */
int hl_xdp_exchange(int ifindex, int program, int expected, uint32_t flags);

/* ring buffer: records are copied out as [u32 length][u32 0][bytes, padded to 8] */
struct hl_ring;
int hl_ring_open(int fd, uint32_t size, struct hl_ring **ring);
void hl_ring_close(struct hl_ring *ring);
uint64_t hl_ring_available(struct hl_ring *ring);
/* bytes written into span; adds to the counters */
uint64_t hl_ring_drain(struct hl_ring *ring, char *span, uint64_t room, uint64_t *records, uint64_t *discarded);
void hl_span_index(const char *span, uint64_t used, uint64_t *offsets, uint64_t *lengths);
void hl_span_gather(const char *span, uint64_t used, char *records, uint64_t record_size);

/* Runs an XDP program once on each of `count` frames, which lie behind one another in `frames`: frame i has held[i]
   octets there, and zeros up to lengths[i]. The record that its run sends to the ring, the caller's own, is copied to
   records[i]; `done` frames were run. -ENODATA where one sent none. */
int hl_run_each(int fd, struct hl_ring *ring, const char *frames, const uint32_t *held, const uint32_t *lengths,
                uint32_t count, uint32_t ifindex, char *records, uint32_t record_size, uint32_t *done);

/* namespaces and file systems */
int hl_setns(int fd, int kind);
int64_t hl_filesystem(const char *path); /* f_type of statfs(2) */

/* capabilities: bit N of `keep` is capability N; effective and permitted become that, all other sets empty, and
   no_new_privs is set. The kernel has them per thread, so another thread does it in a signal handler, some time later. */
int hl_keep_capabilities(uint64_t keep);
int hl_keep_capabilities_of(int thread, uint64_t keep);

/* watching */
int bpf_enable_stats(int type);
int hl_helper_count(void);
const char *hl_helper_name(int helper);
int hl_load_instructions(int program_type, const void *instructions, uint32_t count);
int hl_tracefs(void);
