#!/usr/bin/env bash
# layers.sh - checks which file may include which, by the tables below.
#
#   tests/layers.sh               checks this tree; prints FILE:LINE: reason for each violation
#   tests/layers.sh --self-test   plants one violation of each kind in a copy; each must be found
#
# Rules: an include points to a lower level, or to the same level within the same directory; server/ and
# worker/ never include each other; a pure file includes pure files, their bases and C's own headers that
# neither read a clock nor reach the outside; a foreign header appears in its wall file only; paths begin at
# the root; a .c file includes its own header first. A file in no table is an error: add a row.
set -euo pipefail

tables() {
    cat <<'TABLE'
# level LEVEL FILES         without extension; * stands for anything; the first row that fits counts
level 0 common/check common/err common/log common/mem common/clock common/str common/rng common/crc
level 0 common/limits common/buf common/fmath common/plant common/machine common/activity
level 1 common/conf* common/queue common/pool common/loop common/metrics common/json* common/hash
level 1 common/sha256 common/ring common/xml common/secret proto/*.pb-c
level 2 common/wire* common/schema* common/layout* common/steps* common/checkpoint* common/publish*
level 2 common/dataindex* common/evaluation* common/control* common/job* common/settings*
level 2 common/features_spec* common/model* common/retry common/s3_sign common/s3_time
level 3 common/storage* common/registry* common/rpc* common/http* common/member* common/compress*
level 3 common/notify*
level 5 server/main worker/main cli/*
level 4 server/* worker/*

# pure FILES                these may include pure files and bases only
pure common/wire* common/schema* common/layout* common/steps* common/checkpoint* common/publish*
pure common/dataindex* common/evaluation* common/control* common/job* common/settings*
pure common/features_spec* common/model* common/retry common/s3_sign common/s3_time
pure server/consistency* server/coordinator* server/optimizer* server/schedule*
pure worker/sampler* worker/session*

# base FILES                their headers are as pure, what is behind them need not be
base common/buf common/str common/err common/check common/mem common/rng common/crc common/limits
base common/fmath common/plant common/ring common/json* common/hash common/conf common/sha256 proto/*.pb-c

# plain HEADERS             C's own, open to pure files
plain assert.h ctype.h errno.h float.h inttypes.h limits.h math.h stdalign.h stdarg.h stdbool.h
plain stddef.h stdint.h stdlib.h stdnoreturn.h string.h
# system HEADERS            the system's, open to all others
system stdio.h time.h signal.h stdatomic.h threads.h pthread.h sched.h unistd.h fcntl.h poll.h locale.h
system dirent.h fnmatch.h ftw.h getopt.h glob.h spawn.h termios.h strings.h netdb.h ifaddrs.h pwd.h
system setjmp.h dlfcn.h semaphore.h syslog.h arpa/* net/* netinet/* sys/* linux/* malloc.h libgen.h
system immintrin.h x86intrin.h cpuid.h arm_neon.h execinfo.h langinfo.h wchar.h link.h regex.h

# wall FILES : HEADERS      a foreign header and the only files that may know it
wall common/loop : uv.h
wall common/conf* : yaml.h
wall common/hash : xxhash.h
wall common/sha256* : openssl/*
wall common/compress* : zlib.h zstd.h zstd_errors.h
wall common/rpc_grpc* : grpc/*
wall common/registry_zookeeper* : zookeeper/*
wall common/http* : curl/*
wall common/xml : expat.h
wall worker/compute_cpu* : cblas.h openblas_config.h
wall worker/compute_cuda* worker/kernels* : cuda* cublas*
wall worker/reader_tfrecord* proto/*.pb-c : protobuf-c/*
TABLE
}

check() {    # root
    cd "$1"
    local files
    mapfile -t files < <(find common server worker cli -type f \
        \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort)
    [ ${#files[@]} -gt 0 ] || { echo "layers: no source files under $1" >&2; return 1; }
    awk '
    function pattern(glob) {
        gsub(/\./, "\\.", glob)
        gsub(/\*/, ".*", glob)
        return "^" glob "$"
    }
    function stem(path) { sub(/\.[a-z]+$/, "", path); return path }
    function top(path) { sub(/\/.*/, "", path); return path }
    function level_of(path,    i) {
        for (i = 1; i <= levels; i++)
            if (stem(path) ~ level_glob[i]) return level_value[i]
        return -1
    }
    function in_list(name, list, count,    i) {
        for (i = 1; i <= count; i++)
            if (name ~ list[i]) return 1
        return 0
    }
    function is_pure(path) { return in_list(stem(path), pure, pures) }
    function is_base(path) { return in_list(stem(path), base, bases) }
    function complain(text) { print FILENAME ":" FNR ": " text; bad = 1 }

    FNR == NR {
        sub(/#.*/, "")
        for (i = 2; i <= NF; i++) {
            if ($1 == "level" && i > 2) { level_value[++levels] = $2; level_glob[levels] = pattern($i) }
            if ($1 == "pure") pure[++pures] = pattern($i)
            if ($1 == "base") base[++bases] = pattern($i)
            if ($1 == "plain") plain[++plains] = pattern($i)
            if ($1 == "system") known[++knowns] = pattern($i)
        }
        if ($1 == "wall") {
            colon = 0
            for (i = 2; i <= NF; i++) if ($i == ":") colon = i
            for (h = colon + 1; h <= NF; h++)
                for (i = 2; i < colon; i++) {
                    wall_header[++walls] = pattern($h); wall_file[walls] = pattern($i)
                }
        }
        next
    }
    FNR == 1 {
        own = stem(FILENAME) ".h"
        has_own = FILENAME ~ /\.c$/ && (getline line < own) >= 0
        close(own)
        first = 1
        here = level_of(FILENAME)
        strict = is_pure(FILENAME) || (is_base(FILENAME) && FILENAME ~ /\.h$/)
        if (here < 0) complain("this file has no level: add it to the tables in tests/layers.sh")
    }
    here < 0 { next }
    /^[ \t]*#[ \t]*include[ \t]*"/ {
        target = $0; sub(/^[^"]*"/, "", target); sub(/".*/, "", target)
        if (has_own && first && target != own) complain("its own header \"" own "\" must come first")
        first = 0
        if (target !~ /\//) { complain("\"" target "\" must be named from the root"); next }
        there = level_of(target)
        if (there < 0) {
            complain("\"" target "\" has no level: add it to the tables in tests/layers.sh")
            next
        }
        if ((FILENAME ~ /^server\// && target ~ /^worker\//) || (FILENAME ~ /^worker\// && target ~ /^server\//))
            complain("\"" target "\": server and worker do not know each other")
        else if (there > here)
            complain("\"" target "\" is of level " there ", above this file of level " here)
        else if (there == here && top(target) != top(FILENAME))
            complain("\"" target "\" is of the same level " here " in another directory")
        if (strict && !is_pure(target) && !is_base(target))
            complain("\"" target "\" is not pure, this file is")
        next
    }
    /^[ \t]*#[ \t]*include[ \t]*</ {
        target = $0; sub(/^[^<]*</, "", target); sub(/>.*/, "", target)
        if (has_own && first) complain("its own header \"" own "\" must come first")
        first = 0
        if (in_list(target, plain, plains)) next
        if (in_list(target, known, knowns)) {
            if (strict) complain("<" target "> is not for pure files, and this is one")
            next
        }
        found = allowed = 0
        for (i = 1; i <= walls; i++)
            if (target ~ wall_header[i]) {
                found = 1
                if (stem(FILENAME) ~ wall_file[i]) allowed = 1
            }
        if (!found) complain("<" target "> is a foreign header without a wall: see tests/layers.sh")
        else if (!allowed) complain("<" target "> is behind a wall that this file is not part of")
        else if (strict && FILENAME ~ /\.h$/) complain("<" target "> belongs in the .c file of this wall")
    }
    END { exit bad }
    ' <(tables) "${files[@]}"
}

self_test() {
    local root count=0 failures=0
    root=$(pwd)
    copy=$(mktemp -d)    # not local: the trap needs it
    trap 'rm -rf "$copy"' EXIT

    # plant FILE INCLUDE REASON: FILE with that line, beside its own header, must be reported, for that reason.
    plant() {
        local file=$1 line=$2 reason=$3 output
        count=$((count + 1))
        rm -rf "${copy:?}"/*
        mkdir -p "$copy/${file%/*}"
        [ ! -f "$root/${file%.c}.h" ] || cp "$root/${file%.c}.h" "$copy/${file%/*}/"
        printf '%s\n' "$line" >"$copy/$file"
        output=$(check "$copy" 2>&1) || true
        if ! grep -F "$file:1: " <<<"$output" | grep -qF "$reason"; then
            echo "self-test: not found: $file with $line ($reason)"
            failures=$((failures + 1))
        fi
    }
    # allow FILE INCLUDE: the same, but nothing may be reported of FILE.
    allow() {
        local file=$1 line=$2
        count=$((count + 1))
        rm -rf "${copy:?}"/*
        mkdir -p "$copy/${file%/*}"
        printf '%s\n' "$line" >"$copy/$file"
        if ! (check "$copy" >"$copy/output" 2>&1); then
            echo "self-test: refused: $file with $line: $(cat "$copy/output")"
            failures=$((failures + 1))
        fi
    }

    plant common/unheard.h '#include <stdint.h>' 'this file has no level'
    plant common/rng.h '#include "common/unheard.h"' '"common/unheard.h" has no level'
    plant common/rng.h '#include "common/queue.h"' 'is of level 1, above this file of level 0'
    plant common/queue.h '#include "common/wire.h"' 'is of level 2, above this file of level 1'
    plant common/layout.h '#include "common/storage.h"' 'is of level 3, above this file of level 2'
    plant common/rpc.h '#include "server/shard.h"' 'is of level 4, above this file of level 3'
    plant server/planted.h '#include "cli/planted.h"' 'is of level 5, above this file of level 4'
    plant server/main.c '#include "cli/planted.h"' 'is of the same level 5 in another directory'
    plant server/planted.c '#include "worker/batch.h"' 'server and worker do not know each other'
    plant worker/planted.c '#include "server/shard.h"' 'server and worker do not know each other'
    plant worker/main.c '#include "server/shard.h"' 'server and worker do not know each other'
    plant common/layout.h '#include "common/clock.h"' '"common/clock.h" is not pure'
    plant common/layout.h '#include <time.h>' '<time.h> is not for pure files'
    plant common/layout.h '#include <stdio.h>' '<stdio.h> is not for pure files'
    plant common/str.h '#include <stdio.h>' '<stdio.h> is not for pure files'
    plant server/optimizer_planted.c '#include <pthread.h>' '<pthread.h> is not for pure files'
    plant server/coordinator_planted.h '#include "server/shard.h"' '"server/shard.h" is not pure'
    plant worker/session.h '#include <sys/socket.h>' '<sys/socket.h> is not for pure files'
    plant server/shard.c '#include <stdint.h>' 'its own header "server/shard.h" must come first'
    plant server/shard.c '#include "common/err.h"' 'its own header "server/shard.h" must come first'
    plant server/planted.c '#include "shard.h"' 'must be named from the root'
    plant server/planted.c '#include <libunheard.h>' 'foreign header without a wall'
    local header
    for header in grpc/grpc.h uv.h zookeeper/zookeeper.h curl/curl.h expat.h yaml.h xxhash.h openssl/evp.h \
        cblas.h zlib.h zstd.h cuda_runtime.h cublas_v2.h protobuf-c/protobuf-c.h; do
        plant server/planted.c "#include <$header>" "<$header> is behind a wall"
    done
    plant common/hash.h '#include <xxhash.h>' 'belongs in the .c file of this wall'
    allow common/rng.c '#include <stdio.h>'
    allow common/layout.h '#include "common/json.h"'
    allow common/rpc_grpc.c '#include <grpc/grpc.h>'
    allow cli/local.c '#include "worker/batch.h"'
    allow server/main.c '#include "server/shard.h"'

    [ $failures -eq 0 ] || return 1
    echo "self-test: $count cases as expected"
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in
'') check "$PWD" ;;
--self-test) self_test ;;
*)
    echo "usage: tests/layers.sh [--self-test]" >&2
    exit 2
    ;;
esac
