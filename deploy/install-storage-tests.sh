#!/usr/bin/env bash
# install-storage-tests.sh - fetches the real stores that tests/integration/storage_*.py start on loopback.
#
#   versitygw         an S3 server that checks signatures; built from the Go module proxy
#   OpenStack Swift   with its s3api, from the distribution's packages
#   HDFS              Hadoop's NameNode and DataNode, as Maven's artifacts (tests/hdfs)
#   HttpFS            Hadoop's too
#   Kerberos          MIT's KDC, from the distribution's packages
#
# They go to $PARAMD_TEST_SERVERS, or ~/.cache/paramd/test-servers, but for the packages. What cannot be had
# is named, its tests are skipped, and the exit code is 0 all the same: no network is no failure.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
servers=${PARAMD_TEST_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/paramd/test-servers}
mkdir -p "$servers"
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

say() {
    echo "install-storage-tests: $*" >&2
}

install_packages() {    # packages...
    local missing=() package as_root=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    say "installing ${missing[*]}"
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get install -y -q --no-install-recommends "${missing[@]}")
    "${install[@]}" >"$work/apt.log" 2>&1 ||
        { "${as_root[@]}" apt-get update -q && "${install[@]}"; } >"$work/apt.log" 2>&1
}

# ---- Go, new enough ----

# Sets `go`. What is here serves when it is 1.21 or newer, as it fetches the toolchain that a module asks
# for; an older one (Debian 12's is 1.19) fetches that toolchain as the module that it is.
go=
toolchain=go1.25.8
find_go() {
    local candidate minor
    for candidate in "$(command -v go)" /usr/local/go/bin/go /usr/lib/go-*/bin/go; do
        [ -x "$candidate" ] || continue
        minor=$("$candidate" version | sed -n 's/.*go1\.\([0-9]*\).*/\1/p')
        [ "${minor:-0}" -ge 21 ] && go=$candidate && return 0
    done
    go=$servers/$toolchain/bin/go
    [ ! -x "$go" ] || return 0
    candidate=$(command -v go) || candidate=/usr/bin/go
    [ -x "$candidate" ] || install_packages golang-go || return 1
    local arch module
    arch=$("$candidate" env GOARCH) || return 1
    module=golang.org/toolchain@v0.0.1-$toolchain.linux-$arch
    say "fetching $toolchain"
    (cd "$work" && GOFLAGS=-modcacherw GOMODCACHE=$work/mod "$candidate" mod download "$module") \
        >"$work/go.log" 2>&1 || return 1
    # Files of a module lack their execution bits.
    chmod +x "$work/mod/$module"/bin/* "$work/mod/$module"/pkg/tool/*/* &&
        rm -rf "${servers:?}/$toolchain" && mv "$work/mod/$module" "$servers/$toolchain"
}

# ---- the servers ----

install_versitygw() {
    local version=v1.7.0
    [ ! -x "$servers/versitygw-$version" ] || return 0
    find_go || return 1
    say "building versitygw $version with $go"
    GOTOOLCHAIN=auto GOFLAGS=-modcacherw GOBIN=$work "$go" install \
        "github.com/versity/versitygw/cmd/versitygw@$version" >"$work/go.log" 2>&1 &&
        mv "$work/versitygw" "$servers/versitygw-$version"
}

install_swift() {
    install_packages swift-proxy swift-account swift-container swift-object memcached
}

install_hdfs() {
    command -v javac >/dev/null && command -v mvn >/dev/null ||
        install_packages openjdk-17-jdk-headless maven || return 1
    "$here/../tests/hdfs/build.sh" "$servers/hdfs" >"$work/mvn.log" 2>&1
}

install_httpfs() {
    "$here/../tests/hdfs/build.sh" "$servers/httpfs" httpfs >"$work/mvn.log" 2>&1
}

# The programs only: tests start a KDC of their own.
install_kerberos() {
    install_packages krb5-kdc krb5-admin-server krb5-user curl
}

for server in versitygw swift hdfs httpfs kerberos; do
    "install_$server" && continue
    say "no $server here, its tests will be skipped:"
    tail -n 3 "$work"/*.log 2>/dev/null >&2
done
exit 0
