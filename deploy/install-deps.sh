#!/usr/bin/env bash
# install-deps.sh - installs the Debian or Ubuntu packages that paramd is built and tested with.
#
#   install-deps.sh            what building needs
#   install-deps.sh tests      that, and the servers that tests start: without them tests are skipped by name
#   install-deps.sh torch      and PyTorch, with which models are compared
#   install-deps.sh missing    installs nothing: prints the packages whose files are missing to build with, on one line
#
# Says what is missing and what it runs. Does nothing, quickly, when all is there. On other systems it
# names what is needed and goes on: the build will say what it does not find.
set -euo pipefail

packages=(
    build-essential pkg-config
    protobuf-c-compiler protobuf-compiler libprotobuf-c-dev libgrpc-dev libzookeeper-mt-dev
    libuv1-dev libyaml-dev libssl-dev libcurl4-openssl-dev libexpat1-dev
    zlib1g-dev libzstd-dev libxxhash-dev
    libopenblas-dev libopenblas-pthread-dev
    libcmocka-dev python3
    dataset-fashion-mnist
)

test_packages=(
    zookeeper
    nftables iproute2
)
torch_packages=(
    python3-torch
)
# What of them the compiler is to find, for a machine on which nothing can be installed.
probes=(
    build-essential:make build-essential:gcc build-essential:g++ pkg-config:pkg-config protobuf-c-compiler:protoc-c
    libprotobuf-c-dev:protobuf-c/protobuf-c.h libgrpc-dev:grpc/grpc.h libzookeeper-mt-dev:zookeeper/zookeeper.h
    libuv1-dev:uv.h libyaml-dev:yaml.h libssl-dev:openssl/evp.h libcurl4-openssl-dev:curl/curl.h libexpat1-dev:expat.h
    zlib1g-dev:zlib.h libzstd-dev:zstd.h libxxhash-dev:xxhash.h libopenblas-dev:cblas.h libcmocka-dev:cmocka.h
)

probe() {           # -> missing
    local each package file flags
    missing=()
    flags=$(pkg-config --cflags openblas 2>/dev/null || true)
    for each in "${probes[@]}"; do
        package=${each%%:*} file=${each#*:}
        case $file in
        # shellcheck disable=SC2086
        *.h) printf '#if !__has_include(<%s>)\n#error\n#endif\n' "$file" | ${CC:-cc} $flags -E -x c - ;;
        *) command -v "$file" ;;
        esac >/dev/null 2>&1 || [[ " ${missing[*]} " == *" $package "* ]] || missing+=("$package")
    done
}

if [ "${1:-}" = missing ]; then
    probe
    echo "${missing[*]}"
    exit 0
fi
wanted=("${packages[@]}")
[ "${1:-}" != tests ] || wanted+=("${test_packages[@]}")

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "install-deps: not a Debian or Ubuntu system; needed are the equivalents of: ${wanted[*]}" >&2
    exit 0
fi

as_root=()
export DEBIAN_FRONTEND=noninteractive

list_missing() {    # packages... -> missing
    local package state
    missing=()
    for package in "$@"; do
        state=$(dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | head -n 1 || true)
        [ "$state" = installed ] || missing+=("$package")
    done
}

become_root() {
    [ "$(id -u)" -ne 0 ] || return 0
    if ! command -v sudo >/dev/null; then
        echo "install-deps: missing: ${missing[*]}; neither root nor sudo here, so as root run:" >&2
        echo "    apt-get install --no-install-recommends ${missing[*]}" >&2
        return 1
    fi
    as_root=(sudo)
}

install_missing() {
    echo "install-deps: installing ${missing[*]}" >&2
    local install=("${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}")
    # The lists may be absent or old; they are fetched only when the first try shows that.
    "${install[@]}" >&2 && return
    echo "install-deps: refreshing the package lists" >&2
    "${as_root[@]}" apt-get update -q >&2 && "${install[@]}" >&2
}

list_missing "${packages[@]}"
if [ ${#missing[@]} -gt 0 ]; then
    become_root
    install_missing
fi
if [ "${1:-}" = tests ] || [ "${1:-}" = torch ]; then
    [ "$1" = tests ] && optional=("${test_packages[@]}") || optional=("${torch_packages[@]}")
    list_missing "${optional[@]}"
    if [ ${#missing[@]} -gt 0 ] && ! { become_root && install_missing; }; then
        echo "install-deps: without ${missing[*]} some tests will be skipped" >&2
    fi
fi
