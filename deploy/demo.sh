#!/usr/bin/env bash
# demo.sh - trains a small network twice: with two servers and two workers, of which one server is killed with -9 in the
# middle; then undisturbed, with one server and one worker. The models must be the same, bit for bit.
#
#   deploy/demo.sh [DIRECTORY OF THE PROGRAMS]
#
# Everything it makes is in runs/demo and runs/demo-undisturbed. Exit 0: the digests are equal.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
paramctl=${1:-build}/paramctl
# ranks: the number of data-parallel replicas belongs to the job; that of machines does not.
job=(-f conf/demo.yaml --fresh --set train.ranks=2 --set checkpoint.every_steps=200)
killer=
trap '[ -z "$killer" ] || kill "$killer" 2>/dev/null || true' EXIT

status() {      # name of a number in the run's status; nothing when nobody answers
    "$paramctl" status demo --run-dir runs/demo -o json 2>/dev/null |
        sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" || true
}

kill_server() { # when half of the steps are trained
    local step last file pid arguments
    while :; do
        sleep 0.3
        step=$(status step) last=$(status last_step)
        if [ -n "$step" ] && [ "${last:-0}" -gt 0 ] && [ $((2 * step)) -ge "$last" ]; then
            break
        fi
    done
    for file in /proc/[0-9]*/cmdline; do
        pid=${file#/proc/} pid=${pid%/cmdline}
        arguments=$(tr '\0' '\n' 2>/dev/null <"$file") || continue
        case $arguments in
        *'registry="local:runs/demo/registry-'*'name="server-1"'*) ;;
        *) continue ;;
        esac
        [ "/proc/$pid/cwd" -ef . ] || continue
        printf '\n--- kill -9 %s (server 1) at step %s of %s\n' "$pid" "$step" "$last" >&2
        kill -9 "$pid"
    done
}

echo "--- two servers, two workers; one server will be killed"
rm -f runs/demo/metrics.jsonl
kill_server &
killer=$!
"$paramctl" run "${job[@]}" --servers 2 --workers 2
echo
echo "--- one server, one worker, undisturbed"
"$paramctl" run "${job[@]}" --set name=demo-undisturbed --servers 1 --workers 1 -o json 2>/dev/null >/dev/null

disturbed=$("$paramctl" checkpoints digest runs/demo/demo -o json | sed -n 's/.*"digest":"\([0-9a-f]*\)".*/\1/p')
undisturbed=$("$paramctl" checkpoints digest runs/demo-undisturbed/demo-undisturbed -o json |
    sed -n 's/.*"digest":"\([0-9a-f]*\)".*/\1/p')
seconds=$(sed -n 's/.*"kind":"recovery".*"seconds":\([0-9.]*\).*/\1/p' runs/demo/metrics.jsonl | head -n 1)
echo
echo "2 servers, 2 workers, kill -9   $disturbed"
echo "1 server, 1 worker              $undisturbed"
if [ -z "$seconds" ]; then
    echo "the kill came too late: nothing was recovered; run it once more" >&2
    exit 1
fi
if [ -z "$disturbed" ] || [ "$disturbed" != "$undisturbed" ]; then
    echo "the models differ" >&2
    exit 1
fi
echo "identical; training went on $seconds s after the kill"
