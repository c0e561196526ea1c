#!/usr/bin/env bash
# Other people's test suites, for supervisor/cli/tests/suites: fetched as Debian source packages, by the machine's own sources, and built below DIRECTORY.
# Does nothing where all of them are there.
set -euo pipefail

directory=${1:?usage: suites.sh DIRECTORY}
mkdir -p "$directory"
directory=$(realpath "$directory")
readonly directory work=$directory/work
# What of each source package is wanted, and as which name. Perl's own IO::Socket::IP is the one that Debian packages too.
declare -A wanted=(
    [libevent]='*'
    [libuv1]='*'
    [c-ares]='*'
    [redis]='*/tests/*'
    [perl]='*/dist/IO/t/* */cpan/Socket/t/* */cpan/IO-Socket-IP/t/* */t/*.pl'
    [libio-socket-ssl-perl]='*/t/*'
    [libio-socket-inet6-perl]='*/t/*'
    [ruby3.1]='*/test/socket/* */tool/lib/*'
    [php8.2]='*/run-tests.php */ext/sockets/tests/* */ext/standard/tests/network/* */ext/standard/tests/streams/*'
    [nodejs]='*/test/common/* */test/fixtures/* */test/parallel/test-net-* */test/parallel/test-dgram-* */test/parallel/test-http-* */test/parallel/test-https-*
        */test/parallel/test-dns* */test/parallel/test-cluster-* */test/parallel/test-tls-*'
)

missing=()
for package in "${!wanted[@]}"; do
    [ -e "$directory/$package/.complete" ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "suites: fetching ${missing[*]}"
rm -rf "$work"
mkdir -p "$work/parts" "$work/lists/partial"
trap 'rm -rf "$work"' EXIT

# The machine's sources of packages, as sources of source packages.
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -e "$file" ] || sed -n 's/^deb /deb-src /p' "$file" >"$work/parts/$(basename "$file" .list)-src.list"
done
for file in /etc/apt/sources.list.d/*.sources; do
    [ ! -e "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$work/parts/$(basename "$file")"
done
apt=(-qq -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$work/parts" -o "Dir::State::lists=$work/lists"
    -o "Acquire::Retries=5" -o "Dir::Cache::srcpkgcache=" -o "Dir::Cache::pkgcache=" -o "APT::Sandbox::User=$(id -un)")
apt-get "${apt[@]}" update

# The upstream part of a source package, of the newest version that is to be had: archives of security updates are not on every mirror.
fetch() {
    local package=$1 version into=$work/$1
    mkdir -p "$into"
    for version in $(apt-cache "${apt[@]}" showsrc --only-source "$package" | sed -n 's/^Version: //p' | sort -rV | uniq); do
        (cd "$into" && apt-get "${apt[@]}" source --download-only "$package=$version" >log 2>&1) || true
        archive=$(find "$into" -name "*.orig.tar.*" ! -name '*.asc' ! -path '*/partial/*')
        [ -z "$archive" ] || return 0
    done
    echo "suites: the source package of $package cannot be had:" >&2
    cat "$into/log" >&2
    return 1
}

# Runs a build, and shows the end of its output if the build fails. `set -e` has no effect inside.
build() {
    local name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 || {
        tail -50 "$work/$name.log" >&2
        echo "suites: $name could not be built" >&2
        return 1
    }
}

# libuv's library and tests, as its CMakeLists.txt has them for Linux. The tests that include sources of the library's find them twice: hence the archive.
build_libuv() (
    cd "$1" || return
    local flags=(-O1 -D_GNU_SOURCE -D_POSIX_C_SOURCE=200112 -D_FILE_OFFSET_BITS=64 -D_LARGEFILE_SOURCE -Iinclude -Isrc)
    # Those of 1.44 and of later ones, which have linux.c instead of several.
    local name sources=() unix=(async core dl epoll fs getaddrinfo getnameinfo linux linux-core linux-inotify linux-syscalls loop loop-watcher pipe poll
        process procfs-exepath proctitle random-devurandom random-getrandom random-sysctl-linux signal stream tcp thread tty udp)
    for name in "${unix[@]}"; do
        [ ! -e "src/unix/$name.c" ] || sources+=("src/unix/$name.c")
    done
    # shellcheck disable=SC2016 # The inner shell expands its arguments.
    mkdir -p build fixtures/test && cp -R test/fixtures fixtures/test/ &&
        printf '%s\n' src/*.c "${sources[@]}" test/test-*.c test/{blackhole-server,echo-server,run-tests,runner,runner-unix}.c |
        xargs -P "$(nproc)" -I{} sh -c 'object=build/$(echo "$1" | tr / -).o; shift; cc "$@" -c -o "$object"' sh {} "${flags[@]}" {} &&
        ar rcs build/libuv.a build/src-*.o && cc -o build/uv_run_tests build/test-*.o build/libuv.a -pthread -ldl -lrt -lutil
)

# c-ares and its tests, which it is built with only where asked.
build_c_ares() (
    cd "$1" && ./configure --enable-tests --disable-shared CXXFLAGS=-O0 &&
        make -C src/lib -j"$(nproc)" && make -C test -j"$(nproc)" arestest
)

build_libevent() (
    cd "$1" && ./configure --disable-openssl --disable-samples --disable-shared && make -j"$(nproc)"
)

for package in "${missing[@]}"; do
    fetch "$package"
    rm -rf "${directory:?}/$package"
    mkdir -p "$directory/$package"
    set -f
    # shellcheck disable=SC2086 # patterns, several
    tar -C "$directory/$package" -xf "$archive" --strip-components=1 --no-same-owner --wildcards ${wanted[$package]}
    set +f
    case $package in
        libuv1) build libuv build_libuv "$directory/libuv1" ;;
        c-ares) build c-ares build_c_ares "$directory/c-ares" ;;
        libevent) build libevent build_libevent "$directory/libevent" ;;
        perl) cp "$directory/perl/t/test.pl" "$directory/perl/dist/IO/t/" ;;
        redis)
            mkdir -p "$directory/redis/src"
            for program in redis-server redis-cli redis-benchmark; do
                ln -sf "$(command -v "$program")" "$directory/redis/src/"
            done
            ;;
    esac
    chmod -R a+rX "$directory/$package"
    touch "$directory/$package/.complete"
done
