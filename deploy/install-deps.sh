#!/usr/bin/env bash
# install-deps.sh - installs the Debian or Ubuntu packages that paramd is built and tested with.
#
# Says what is missing and what it runs. Does nothing, quickly, when all is there. On other systems it
# names what is needed and goes on: the build will say what it does not find.
set -euo pipefail

packages=(
    build-essential pkg-config
    protobuf-c-compiler protobuf-compiler libprotobuf-c-dev libgrpc-dev libzookeeper-mt-dev
    libuv1-dev libyaml-dev libssl-dev
    zlib1g-dev libzstd-dev libxxhash-dev
    libopenblas-dev libopenblas-pthread-dev
    libcmocka-dev python3
    dataset-fashion-mnist
)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "install-deps: not a Debian or Ubuntu system; needed are the equivalents of: ${packages[*]}" >&2
    exit 0
fi

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | head -n 1 || true)
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps: missing: ${missing[*]}; neither root nor sudo here, so as root run:" >&2
        echo "    apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

echo "install-deps: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
install=("${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}")
# The lists may be absent or old; they are fetched only when the first try shows that.
if ! "${install[@]}" >&2; then
    echo "install-deps: refreshing the package lists" >&2
    "${as_root[@]}" apt-get update -q >&2
    "${install[@]}" >&2
fi
