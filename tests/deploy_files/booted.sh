#!/bin/bash
# Boots systemd over a throw-away copy of this machine's files, in namespaces of its own: no network
# but loopback, nothing written to the machine. Run by test_units_in_force.py inside
# `unshare --pid --mount --uts --ipc --net --cgroup --fork`.
# Arguments: folder to work in, folder deploy/systemd, folder with the scene and its stand-ins.
set -eu
export PATH=$PATH:/usr/sbin:/sbin
work=$1 systemd=$2 scene=$3
mount -t tmpfs tmpfs "$work"
mkdir "$work"/{up,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/up,workdir=$work/work" "$work/root"
root=$work/root
for place in run tmp; do mount -t tmpfs tmpfs "$root/$place"; done
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty ptmx; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts devpts "$root/dev/pts"
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/scene"
mount --bind "$scene" "$root/scene"

# Nothing of this machine starts but what the scene asks for.
etc=$root/etc
rm -rf "$etc"/systemd/system/*.wants "$etc"/systemd/system/dbus-org*
echo 0123456789abcdef0123456789abcdef > "$etc/machine-id"
cp "$systemd"/system/*.service "$etc/systemd/system/"
mkdir -p "$etc/sysusers.d" "$etc/tmpfiles.d" "$etc/tacit"
cp "$systemd"/sysusers.d/* "$etc/sysusers.d/"
cp "$systemd"/tmpfiles.d/* "$etc/tmpfiles.d/"
cp "$systemd"/etc/* "$etc/tacit/"
cp -r "$scene"/units/* "$etc/systemd/system/"

mkdir "$root/before"
cd "$root"
pivot_root . before
umount -l /before
exec env -i container=tacit-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=scene.target --show-status=false
