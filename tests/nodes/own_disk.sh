#!/usr/bin/env bash
# Runs a command as on a machine of its own: everything that it can write lies in memory that no other process sees, the
# rest of the disk is read-only, as an image is, and the host has a name of its own. Runs in new mount and UTS namespaces.
# usage: own_disk.sh ADDRESS PYTHON_PREFIX COMMAND...
set -euo pipefail
address=$1 prefix=$2
shift 2
exec 3<"$prefix"
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
if [[ ! -e $prefix ]]; then  # it lay below /tmp
    mkdir -p "$prefix"
    mount --bind /proc/self/fd/3 "$prefix"
fi
hostname "host-${address//./-}"
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$(hostname)" >/tmp/hosts
mount --bind /tmp/hosts /etc/hosts
while read -r _ where kind _; do
    case $kind in
        proc | sysfs | tmpfs | dev* | cgroup* | mqueue) ;;
        *) mount -o remount,bind,ro "$where" ;;
    esac
done </proc/self/mounts
mkdir "$HOME"
cd "$HOME"
exec "$@" 3<&-
