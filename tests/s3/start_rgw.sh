#!/usr/bin/env bash
# Runs Ceph's RADOS gateway with one monitor and one OSD under DIR, S3 on 127.0.0.1:PORT for
# AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
# Prints "ready" when it serves; stops and removes everything when its standard input ends. Needs root and the Debian
# packages radosgw, ceph-mon and ceph-osd.
# usage: start_rgw.sh DIR PORT MONITOR_PORT MONITOR_PORT_V2
set -euo pipefail
dir=$1 port=$2 mon=$3 mon2=$4
mkdir -p "$dir"/{mon,osd,run,log}

stop() {
    for name in client.rgw osd.0 mon.a; do
        if [[ -s $dir/run/$name.pid ]]; then
            pid=$(<"$dir/run/$name.pid")
            kill -TERM "$pid" 2>/dev/null || true
            for _ in {1..50}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
            kill -KILL "$pid" 2>/dev/null || true
        fi
    done
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 1' INT TERM

fsid=$(</proc/sys/kernel/random/uuid)
cat >"$dir/ceph.conf" <<CONF
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:$mon2,v1:127.0.0.1:$mon]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
keyring = $dir/keyring
run_dir = $dir/run
admin_socket = $dir/run/\$name.\$pid.asok
log_file = $dir/log/\$name.log
pid_file = $dir/run/\$name.pid
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
ms_bind_ipv6 = false
[mon.a]
mon_data = $dir/mon
[osd.0]
osd_data = $dir/osd
osd_objectstore = bluestore
bluestore_block_size = 10737418240
bluestore_block_create = true
osd_memory_target = 939524096
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:$port
rgw_thread_pool_size = 64
CONF
export CEPH_CONF=$dir/ceph.conf
monmaptool --create --clobber --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon2,v1:127.0.0.1:$mon]" "$dir/monmap"
ceph-authtool "$dir/keyring" --create-keyring --gen-key -n mon. --cap mon 'allow *'
ceph-authtool "$dir/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
for name in client.rgw osd.0; do
    ceph-authtool "$dir/keyring" --gen-key -n $name --cap mon 'allow *' --cap osd 'allow *'
done
ceph-mon -c "$CEPH_CONF" -i a --mkfs --monmap "$dir/monmap" --keyring "$dir/keyring"
ceph-mon -c "$CEPH_CONF" -i a
osd=$(</proc/sys/kernel/random/uuid)
ceph -c "$CEPH_CONF" --connect-timeout 20 osd new "$osd"
ceph-osd -c "$CEPH_CONF" -i 0 --mkfs --osd-uuid "$osd"
ceph-osd -c "$CEPH_CONF" -i 0
for _ in {1..100}; do
    if ceph -c "$CEPH_CONF" osd stat | grep -q "1 up"; then break; fi
    sleep 0.3
done
timeout 60 radosgw -c "$CEPH_CONF" -n client.rgw
radosgw-admin -c "$CEPH_CONF" user create --uid=test --display-name=test \
    --access-key="$AWS_ACCESS_KEY_ID" --secret-key="$AWS_SECRET_ACCESS_KEY"
for _ in {1..100}; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
    sleep 0.2
done
echo ready
cat >/dev/null
