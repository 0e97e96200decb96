#!/bin/sh
# What runs inside a VM, as root: guest.sh REPOSITORY; /media has the arguments of pytest, and is given the results.
#
# virtme-ng shows the machine's own file system, read-only, over 9p, which keeps nothing in memory. It is mounted again
# so that it does (vng --rodir /mnt=/), and the repository is copied, since its tests write there.
set -eu
repository=$1 results=/media

tag=$(awk '$2 == "/mnt" { print $1 }' /proc/mounts)
umount /mnt
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 "$tag" /mnt
for place in /usr /root /home /opt; do # where Python and the tools may be
    mount --bind "/mnt$place" "$place"
done
mount -t bpf bpf /sys/fs/bpf
modprobe tun # it makes its device node, by which others load it
mkdir -p /run/netns /run/repository
mount -t tmpfs -o size=50% repository /run/repository
cd "/mnt$repository"
tar -c --exclude=./.venv --exclude=./.git --exclude='./.*_cache' --exclude=./.hypothesis --exclude=./build . |
    tar -x --warning=no-timestamp -C /run/repository
mkdir -p /run/repository/.venv /run/repository/.tmp
mount --bind "/mnt$repository/.venv" /run/repository/.venv
mount --rbind /run/repository "$repository"
cd "$repository"

export TMPDIR="$repository/.tmp" PYTHONPATH="$repository/tests" HOPLINE_KERNEL_RESULTS="$results"
.venv/bin/python -c 'from hopline.kernel.needs import lacks; print(lacks())' >"$results/lacks"
# all that can be tested on a kernel that cannot run the pipeline is that Hopline says so
[ -z "$(cat "$results/lacks")" ] || echo tests/bpf/test_needs.py >"$results/arguments"
status=0
.venv/bin/python -m pytest -q -p no:cacheprovider -p kernels.outcomes "@$results/arguments" || status=$?
dmesg --level emerg,alert,crit,err,warn >"$results/dmesg" || true
exit "$status"
