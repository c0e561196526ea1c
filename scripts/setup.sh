#!/usr/bin/env bash
# Installs what building and testing imsup need, from Debian's or Ubuntu's packages, where something is missing.
set -euo pipefail

# program (or header) = package that has it
declare -A needs=(
    [cc]=gcc [make]=make [pkg-config]=pkg-config [git]=git
    [redis-server]=redis-server [redis-cli]=redis-tools [nginx]=nginx-light [node]=nodejs [python3]=python3 [curl]=curl
    [java]=default-jdk-headless [javac]=default-jdk-headless [go]=golang-go [musl-gcc]=musl-tools [memcached]=memcached
    [dockerd]=docker.io [setpriv]=util-linux [ip]=iproute2 [pip3]=python3-pip [psql]=postgresql-client
    [dnsmasq]=dnsmasq-base [dig]=bind9-dnsutils
    [tclsh]=tcl [prove]=perl [xz]=xz-utils
    [redis-sentinel]=redis-sentinel [haproxy]=haproxy [socat]=socat [strace]=strace [bwrap]=bubblewrap [s6-svscan]=s6 [ruby]=ruby [php]=php-cli
    [etcd]=etcd-server [etcdctl]=etcd-client [shellcheck]=shellcheck
)

# `setup.sh peers`: also what the report compares with.
if [ "${1:-}" = peers ]; then
    needs+=([dockerd]=docker.io [wrk]=wrk [iperf3]=iperf3 [proxychains4]=proxychains4 [systemd-socket-activate]=systemd)
fi

# `setup.sh regress`: also what counts instead of measuring.
if [ "${1:-}" = regress ]; then
    needs+=([strace]=strace [valgrind]=valgrind)
fi

missing() {
    local program
    for program in "${!needs[@]}"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || echo "${needs[$program]}"
    done
    [ -e /usr/include/seccomp.h ] || echo libseccomp-dev
    [ -e /usr/share/zoneinfo/Asia/Tokyo ] || echo tzdata
    [ -e /usr/share/java/zookeeper.jar ] && [ -e /usr/share/zookeeper/bin/zkCli.sh ] || echo zookeeper
    # CPython's own tests, for Debian's python, which is not always the one in PATH.
    local python
    python=$(/usr/bin/python3 -c 'import sys; print("python3.%d" % sys.version_info[1])' 2>/dev/null || echo python3)
    if [ "$python" = python3 ]; then
        # Which one will be installed is not known yet: the second time round it is.
        echo python3
    elif [ ! -e "/usr/lib/$python/test/test_socket.py" ]; then
        echo "lib$python-testsuite"
    fi
    [ -e /usr/share/perl5/IO/Socket/SSL.pm ] || echo libio-socket-ssl-perl
    [ -e /usr/share/perl5/IO/Socket/INET6.pm ] || echo libio-socket-inet6-perl
    # The server's programs are in a directory for each version, which is in nobody's PATH.
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || echo postgresql
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

# `setup.sh build` leaves out what only tests run. They look for it beside what cargo builds.
if [ "${1:-}" != build ]; then
    "$(dirname "$0")/spark.sh" "${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/spark"
fi
