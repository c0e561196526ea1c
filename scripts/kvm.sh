#!/usr/bin/env bash
# Limits by cgroup v2, in a virtual machine with Debian's kernel and nothing else: no hierarchy of version 1, controllers for whoever is delegated them.
# Usage: scripts/kvm.sh IMSUP GUESTS. Needs /dev/kvm (or ACCEL=tcg), qemu-system-x86_64, busybox (static), cpio, and apt-get to fetch the kernel (27 MB).
set -euo pipefail
imsup=$1 guests=$2
for program in qemu-system-x86_64 busybox cpio dpkg ldd; do
    command -v "$program" >/dev/null || {
        echo "kvm: $program is missing: apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio" >&2
        exit 1
    }
done
# Emulated it takes some ten minutes; where virtual machines are nested, KVM may hang before the kernel says anything.
accelerator=${ACCEL:-kvm}
seconds=120
if [ "$accelerator" != kvm ]; then
    seconds=1200
elif [ ! -w /dev/kvm ]; then
    echo "kvm: /dev/kvm cannot be used: run it as root or as a member of the group kvm, or emulated, with ACCEL=tcg" >&2
    exit 1
fi
cache=$(dirname "$guests")/kvm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache"
if ! ls "$cache"/k/boot/vmlinuz-* >/dev/null 2>&1; then
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -1)
    (cd "$cache" && apt-get download "$package" && dpkg -x "$package"_*.deb k)
fi
root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,etc,lib64,lib/x86_64-linux-gnu,modules,srv}
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$imsup" "$root/bin/imsup"
cp "$guests/guest-musl" "$root/bin/guest"
ldd "$imsup" | grep -o '/lib[^ ]*' | while read -r library; do cp "$library" "$root$library"; done
find "$cache/k/lib/modules" '(' -name inet_diag.ko -o -name tcp_diag.ko -o -name udp_diag.ko -o -name unix_diag.ko ')' \
    -exec cp {} "$root/modules/" ';'
printf 'root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/tmp:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nalice:x:1000:\n' >"$root/etc/group"
cat >"$root/srv/compose.yaml" <<'COMPOSE'
name: shop
services:
  web: { command: [guest, --tcp, "8080"], expose: ["8080"], deploy: { resources: { limits: { memory: 64m, cpus: "0.5", pids: 50 } } }, x-imsup: { idle_after: 200ms } }
  eats: { command: [busybox, tail, /dev/zero], mem_limit: 16m }
  forks: { command: [sh, -c, "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait"], pids_limit: 6 }
COMPOSE
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run; mount -t cgroup2 cgroup2 /sys/fs/cgroup
chmod 1777 /tmp; ip link set lo up
for module in inet_diag tcp_diag udp_diag unix_diag; do insmod /modules/$module.ko; done
exec >/dev/ttyS0 2>&1
sh /trials; echo "kvm: trials ended with $?"; poweroff -f
INIT
cat >"$root/trials" <<'TRIALS'
set -u
cgroups=/sys/fs/cgroup
failed=0
check() { # WHAT, EXPECTED (a pattern), FOUND
    case "$3" in $2) echo "ok: $1" ;; *) echo "FAILED: $1: expected '$2', found '$3'"; failed=1 ;; esac
}
inside() { # CGROUP, COMMAND...: as whoever owns the cgroup
    directory=$1; shift
    sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$directory" "$@"
}
trial() { # USER, CGROUP, BASE
    user=$1 directory=$2
    export IMSUP_RUNTIME_DIR=/tmp/run-$user IMSUP_STATE_DIR=/tmp/state-$user
    cd /srv
    run() { if [ "$user" = root ]; then "$@"; else su -s /bin/sh "$user" -c "cd /srv && $*"; fi; }
    up="imsup up -d --strict"
    if [ "$user" = root ]; then
        inside "$directory" $up
    else
        inside "$directory" su -s /bin/sh "$user" -c "cd /srv && exec $up"
    fi
    check "$user in $directory: up" 0 $?
    run imsup wake web
    host=$(find $cgroups -type d -name imsup.shop.web)
    check "$user: one cgroup of web" "$directory/imsup.shop.web" "$host"
    check "$user: memory" 67108864 "$(cat $host/memory.max)"
    check "$user: cpu" "50000 100000" "$(cat $host/cpu.max)"
    check "$user: pids" 50 "$(cat $host/pids.max)"
    check "$user: no process in the host's own" "" "$(cat $host/cgroup.procs)"
    check "$user: the program is below it" 1 "$(wc -l <$host/program/cgroup.procs)"
    if [ "$user" = root ]; then
        check "$user: exec is beside it" "*imsup.shop.web/commands" "$(run imsup exec web cat /proc/self/cgroup)"
    else
        # From a cgroup of root's nobody else may move a process: it runs outside the limits, and says so.
        check "$user: exec runs" "*outside the host's limits*0::/" "$(run imsup exec web cat /proc/self/cgroup 2>&1)"
    fi
    run imsup wake eats
    check "$user: out of memory" "*out of memory: its limit is 16 MB*" "$(run imsup ps)"
    check "$user: the event" "*oom*" "$(run imsup events)"
    run imsup wake forks
    check "$user: pids hold" "*an?t fork*" "$(run imsup logs forks)"
    count=0
    until run imsup ps | grep web | grep -q suspended; do
        count=$((count + 1)); [ $count -gt 100 ] && break; sleep 0.2
    done
    check "$user: it sleeps" "*frozen 1*" "$(cat $host/program/cgroup.events)"
    run imsup resume web
    # It may sleep again by now.
    check "$user: it wakes" "*wake*" "$(run imsup events)"
    run imsup down
    check "$user: nothing is left" "" "$(find $cgroups -type d -name 'imsup.*')"
    if [ "$directory" != $cgroups ]; then
        check "$user: controllers are given back" "" "$(cat $directory/cgroup.subtree_control)"
    fi
}
trial root $cgroups
echo "+memory +cpu +pids" >$cgroups/cgroup.subtree_control
mkdir $cgroups/root.scope
trial root $cgroups/root.scope
# As systemd delegates: the directory and these files are the user's (cgroup-v2.rst, "Delegation Containment"; the shell's cgroup, too,
# since a move needs the common ancestor).
mkdir -p $cgroups/alice/alice.scope
echo "+memory +cpu +pids" >$cgroups/alice/cgroup.subtree_control
for directory in $cgroups/alice $cgroups/alice/alice.scope; do
    chown 1000:1000 $directory $directory/cgroup.procs $directory/cgroup.subtree_control $directory/cgroup.threads
done
trial alice $cgroups/alice/alice.scope
# Others in the same cgroup are left alone.
mkdir $cgroups/shared.scope
inside $cgroups/shared.scope sleep 1000 &
sleep 0.2
said=$(IMSUP_RUNTIME_DIR=/tmp/run-shared IMSUP_STATE_DIR=/tmp/state-shared inside $cgroups/shared.scope imsup up -d --strict 2>&1)
check "shared: up --strict is refused" 1 $?
check "shared: it says why" "*others are in the same cgroup*Delegate=yes*" "$said"
check "shared: nothing was moved" "" "$(find $cgroups -type d -name 'imsup.*')"
exit $failed
TRIALS
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$work/initrd"
timeout "$seconds" qemu-system-x86_64 -accel "$accelerator" -cpu max,-arch-capabilities -smp 2 -m 1024 -nographic -no-reboot -nic none \
    -kernel "$cache"/k/boot/vmlinuz-* -initrd "$work/initrd" -append "console=ttyS0 edd=off quiet panic=-1" </dev/null | tee "$work/out"
grep -q 'trials ended with 0' "$work/out"
