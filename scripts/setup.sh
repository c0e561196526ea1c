#!/usr/bin/env bash
# Installs what is missing, from Debian's or Ubuntu's packages, for one purpose: building, the tests, or one of those below.
# Usage: setup.sh [build|dist|demo|peers|regress]; without a purpose, for the tests.
set -euo pipefail

readonly purpose=${1:-tests}

# program in PATH, or a file (a pattern of files) = package that has it
# For `build`: what compiles and links imsup, and nothing else. Every other purpose needs that as well.
declare -A needs=(
    [cc]=gcc [pkg-config]=pkg-config [/usr/include/stdio.h]=libc6-dev [/usr/include/seccomp.h]=libseccomp-dev
)
case $purpose in
    build) ;;
    dist)
        # ring, which is TLS's arithmetic, has C and assembler, which musl's compiler translates for a static imsup.
        needs+=([musl-gcc]=musl-tools)
        ;;
    demo)
        # The programs of which scripts/images/make.py makes images, and the client of examples/images.
        needs+=(
            [nginx]=nginx-light [python3]=python3 [redis-server]=redis-server [redis-cli]=redis-tools [curl]=curl
            [busybox]=busybox-static [dash]=dash [setpriv]=util-linux ['/usr/lib/postgresql/*/bin/postgres']=postgresql
        )
        ;;
    tests | peers | regress)
        needs+=(
            [make]=make [git]=git
            [redis-server]=redis-server [redis-cli]=redis-tools [nginx]=nginx-light [node]=nodejs [python3]=python3 [curl]=curl [iptables]=iptables
            [java]=default-jdk-headless [javac]=default-jdk-headless [go]=golang-go [musl-gcc]=musl-tools [memcached]=memcached
            [dockerd]=docker.io [setpriv]=util-linux [ip]=iproute2 [pip3]=python3-pip [psql]=postgresql-client
            [dnsmasq]=dnsmasq-base [dig]=bind9-dnsutils
            [tclsh]=tcl [prove]=perl [xz]=xz-utils
            [redis-sentinel]=redis-sentinel [haproxy]=haproxy [socat]=socat [strace]=strace [bwrap]=bubblewrap [busybox]=busybox-static
            [s6-svscan]=s6 [ruby]=ruby [php]=php-cli
            [docker-registry]=docker-registry [newuidmap]=uidmap
            [etcd]=etcd-server [etcdctl]=etcd-client [shellcheck]=shellcheck
            [/usr/share/zoneinfo/Asia/Tokyo]=tzdata
            [/usr/share/java/zookeeper.jar]=zookeeper [/usr/share/zookeeper/bin/zkCli.sh]=zookeeper
            [/usr/share/perl5/IO/Socket/SSL.pm]=libio-socket-ssl-perl [/usr/share/perl5/IO/Socket/INET6.pm]=libio-socket-inet6-perl
            # The server's programs are in a directory for each version, which is in nobody's PATH.
            ['/usr/lib/postgresql/*/bin/postgres']=postgresql
        )
        ;;
    *)
        echo "setup: there is no purpose '$purpose': build, dist, demo, peers or regress, or none for the tests" >&2
        exit 2
        ;;
esac
# What the report compares with, and what counts instead of measuring.
[ "$purpose" != peers ] || needs+=([wrk]=wrk [iperf3]=iperf3 [proxychains4]=proxychains4 [systemd-socket-activate]=systemd)
[ "$purpose" != regress ] || needs+=([valgrind]=valgrind)

is_there() {
    case $1 in
        /*) compgen -G "$1" >/dev/null ;;
        *) PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null ;;
    esac
}

missing() {
    local need
    for need in "${!needs[@]}"; do
        is_there "$need" || echo "${needs[$need]}"
    done
    case $purpose in build | dist | demo) ;; *) missing_testsuite ;; esac
}

# CPython's own tests, for Debian's python, which is not always the one in PATH.
missing_testsuite() {
    local python
    python=$(/usr/bin/python3 -c 'import sys; print("python3.%d" % sys.version_info[1])' 2>/dev/null || echo python3)
    if [ "$python" = python3 ]; then
        # Which one will be installed is not known yet: the second time round it is.
        echo python3
    elif [ ! -e "/usr/lib/$python/test/test_socket.py" ]; then
        echo "lib$python-testsuite"
    fi
}

mapfile -t packages < <(missing | sort -u)
if [ ${#packages[@]} -gt 0 ]; then
    echo "setup: installing ${packages[*]}"
    root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null && ! { [ -t 0 ] && command -v sudo >/dev/null; }; then
            echo "setup: these packages are missing and I am not root: ask an administrator to run" >&2
            echo "    apt-get install ${packages[*]}" >&2
            exit 1
        fi
        root=(sudo)
    fi
    if ! command -v apt-get >/dev/null; then
        echo "setup: there is no apt-get here: install what these Debian packages have: ${packages[*]}" >&2
        exit 1
    fi
    # The packages of servers start them; the tests want the programs alone. Kept out with policy-rc.d while we install.
    policy=/usr/sbin/policy-rc.d
    made=
    if [ ! -e "$policy" ]; then
        made=1
        printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
        "${root[@]}" chmod 755 "$policy"
    fi
    clean() { if [ -n "$made" ]; then "${root[@]}" rm -f "$policy"; fi; }
    trap clean EXIT
    # A machine that was just made updates itself (apt-daily.timer). apt-get can wait for dpkg's lock, not for that of its lists.
    apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=5)
    for try in {1..30}; do
        "${apt[@]}" update && break
        [ "$try" -lt 30 ] || exit 1
        sleep 10
    done
    "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null; then
    echo "setup: there is no cargo: install Rust from https://rustup.rs (rust-toolchain.toml says which)" >&2
    exit 1
fi
mapfile -t left < <(missing | sort -u)
if [ ${#left[@]} -gt 0 ]; then
    echo "setup: still missing after the installation: ${left[*]}" >&2
    exit 1
fi

# The tests look for Spark and docker compose beside what cargo builds.
case $purpose in
    build | dist | demo) ;;
    *)
        target=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}
        "$(dirname "$0")/spark.sh" "$target/spark"
        "$(dirname "$0")/compose.sh" "$target/compose"
        ;;
esac
