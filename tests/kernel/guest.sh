#!/bin/sh
# Runs first inside the VM, in a mount namespace of its own. virtme-ng shares the host's root file system without a
# cache: there each start of a program reads it again, which takes a tenth of a second, and the tests start hundreds.
# So $2... runs on a second share, named $1, whose files stay in memory (a chroot would not outlive setns).
set -e
modprobe -a wireguard nf_tables ip_tables ip6_tables iptable_raw ip6table_raw iptable_mangle ip6table_mangle veth overlay tun
mkdir /run/root
mount -t 9p -o ro,trans=virtio,version=9p2000.L,access=any,msize=524288,cache=loose "$1" /run/root
shift
for folder in proc sys dev; do mount --rbind "/$folder" "/run/root/$folder"; done
mount -t tmpfs tmpfs /run/root/run
cd /run/root
pivot_root . .
umount -l .
export TMPDIR=/dev/shm
exec "$@"
