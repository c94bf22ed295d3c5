#!/usr/bin/env bash
# run.sh - runs every test, each in a process of its own with a time limit, and counts.
#
#   tests/run.sh [BUILD_DIR] [PATTERN]     PATTERN: a part of the names of the tests to run
#
# Tests against real stores, tests/integration/storage_*, are run only when PATTERN holds storage_.
# A test is tests/layers.sh, a program BUILD_DIR/tests/test_*, or an executable tests/integration/*.sh or
# *.py. Exit 0 is passed, 77 skipped (with a reason on the last line of the output), anything else failed;
# then the output is shown. A program that reports cmocka tests, or closes with `N passed, N failed, N skipped`,
# counts as that many. A script may set its limit with a line `# timeout: SECONDS` among its first 20.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
build=${1:-build}
pattern=${2:-}
export BUILD_DIR=$build
output=$(mktemp)
trap 'rm -f "$output"' EXIT
passed=0 failed=0 skipped=0

count_of() {    # the sum of N in cmocka's lines "[  PASSED  ] N test(s)."; empty when there is none
    sed -n "s/^\[  $1  \] \([0-9][0-9]*\) test(s).*/\1/p" "$output" |
        awk '{ sum += $1 } END { if (NR > 0) print sum }'
}

report() {      # status name detail
    printf '%-7s %-48s %s\n' "$1" "$2" "$3"
}

run() {         # name command...
    local name=$1 limit=300 code start seconds good bad skips closing file=$2
    shift
    case $name in *"$pattern"*) ;; *) return ;; esac
    case $file in
    *.sh | *.py) limit=$(head -n 20 "$file" | sed -n 's/^# timeout: *\([0-9][0-9]*\).*/\1/p' | head -n 1) ;;
    esac
    start=$(date +%s%N)
    # The braces keep the shell's own remark on a crash out of the list.
    { timeout --kill-after=10 "${limit:=300}" "$@" >"$output" 2>&1 </dev/null; } 2>/dev/null
    code=$?
    seconds=$(awk -v ns=$(($(date +%s%N) - start)) 'BEGIN { printf "%.1f s", ns / 1e9 }')
    good=$(count_of PASSED) bad=$(count_of 'FAILED')
    closing=$(tail -n 1 "$output" | grep -xE '[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped')
    if [ -n "$closing" ] && [ $code -ne 77 ]; then
        read -r good _ bad _ skips _ <<<"$closing"
        skipped=$((skipped + skips))
        [ "$skips" -eq 0 ] || grep '^skipped ' "$output"
    fi
    if [ $code -eq 77 ]; then
        skipped=$((skipped + 1))
        report skipped "$name" "$(tail -n 1 "$output")"
    elif [ $code -eq 0 ]; then
        passed=$((passed + ${good:-1}))
        report passed "$name" "${good:-1} in $seconds"
    else
        [ "${bad:-0}" -gt 0 ] || bad=1
        passed=$((passed + ${good:-0})) failed=$((failed + bad))
        [ $code -ne 124 ] && [ $code -ne 137 ] || seconds="$seconds, the limit"
        report FAILED "$name" "exit $code after $seconds"
        sed 's/^/    /' "$output" | tail -n 200
    fi
}

run layers tests/layers.sh
run layers-self-test tests/layers.sh --self-test
for program in "$build"/tests/test_*; do
    [ -x "$program" ] && run "$(basename "$program")" "$program"
done
for script in tests/integration/*.sh tests/integration/*.py; do
    # Those against real stores take long and much memory: only when asked for (make test-storage).
    case $script in */storage_*) case $pattern in *storage_*) ;; *) continue ;; esac ;; esac
    [ -x "$script" ] && run "$script" "$script"
done

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
