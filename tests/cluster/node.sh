#!/bin/bash
# Pid 1 of a node of the test cluster (tests/src/cluster/supervisor/node.rs), in namespaces of its own: when it ends, the kernel ends
# every process and every mount of the node.
#   node.sh NAME DIRECTORY CGROUP KUBELET [ARGUMENT…]
set -euo pipefail
name=$1 directory=$2 cgroup=$3
shift 3
log=$directory/../logs/containerd-$name.log

hostname "$name"
# Kubelet needs mounts to be shared with its pods; nobody outside may see any of them.
mount -n --make-rprivate / # -n: nothing is noted in the machine's own /run
mount -n --make-rshared /
# What the programs write has its place in the cluster's directory, even where their paths cannot be changed.
for path in /run /var/log; do mount -n -t tmpfs -o mode=755 tmpfs "$path"; done
mkdir -p "$directory/overlay/upper" "$directory/overlay/work"
mount -t overlay -o "lowerdir=/var/lib,upperdir=$directory/overlay/upper,workdir=$directory/overlay/work" overlay /var/lib
mkdir -p /run/lock /run/netns
for part in kubelet containerd cni; do
    mkdir -p "$directory/$part" "/var/lib/$part"
    mount --bind "$directory/$part" "/var/lib/$part"
done
mount --make-shared /var/lib/kubelet

# A cgroup for the node's pods, and one within for its daemons, in every hierarchy of version 1, or in the one of version 2.
if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
    hierarchies=(/sys/fs/cgroup)
    for controller in cpuset cpu memory pids hugetlb; do
        echo "+$controller" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || true
    done
else
    hierarchies=(/sys/fs/cgroup/*)
fi
for hierarchy in "${hierarchies[@]}"; do
    # After a restart: those of the pods that were killed go, as with a machine that was switched off.
    for _ in {1..100}; do
        find "$hierarchy/$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
        [[ -d $hierarchy/$cgroup ]] || break
        sleep 0.05
    done
    for group in "$hierarchy/$cgroup" "$hierarchy/$cgroup/daemons"; do
        mkdir -p "$group"
        if [[ $hierarchy == */cpuset ]]; then # nobody may enter before these are set
            for file in cpuset.cpus cpuset.mems; do cat "${group%/*}/$file" >"$group/$file"; done
        fi
    done
    echo 0 >"$hierarchy/$cgroup/daemons/cgroup.procs"
done

containerd --config "$directory/containerd.toml" >>"$log" 2>&1 &
until ctr version >/dev/null 2>&1; do
    kill -0 $! || { tail -n 20 "$log" && exit 1; }
    sleep 0.1
done
for image in "$directory"/../images/*.tar; do ctr --namespace k8s.io images import "$image" >/dev/null; done
"$@" &
wait -n || true
echo "containerd or kubelet has ended; containerd said:"
tail -n 20 "$log"
exit 1
