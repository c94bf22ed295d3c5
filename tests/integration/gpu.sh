#!/usr/bin/env bash
# Goal: the CUDA backend gives on a real GPU what the processor gives, twice the same bits, in operations and whole models.
# Method: the unit tests of the backend, which otherwise run on an emulated GPU, on the first real one (PARAMD_TEST_GPU=1),
# then a short run of a job, twice. Skipped, with the reason, where there is none; GPU_IS_SEEN says that there is one
# (tests/run_gpu.sh), so that one which cannot be used is a failure. GPU_LIBRARIES is where else libraries are looked for.
# timeout: 600
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${BUILD_DIR:-build}
export PARAMD_TEST_GPU=1
passed=0
ours() {
    LD_LIBRARY_PATH=${GPU_LIBRARIES:+$GPU_LIBRARIES:}${LD_LIBRARY_PATH:-} "$@"
}
for test in test_compute_cuda test_narrow_cuda test_network_cuda; do
    code=0
    output=$(ours "$build/tests/$test" 2>&1) || code=$?
    if [ "$code" -eq 77 ]; then
        reason=$(grep -v '^PARAMD_TEST_SEED=' <<<"$output" | tail -n 1)
        if [ -n "${GPU_IS_SEEN:-}" ]; then
            echo "FAILED  $test: there is a GPU, but $reason"
            exit 1
        fi
        echo "no GPU: $reason"
        exit 77
    fi
    echo "$output"
    [ "$code" -eq 0 ] || exit 1
    passed=$((passed + 1))
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
awk 'BEGIN { srand(5); print "click,a,b,x"
             for (i = 0; i < 20000; i++) { a = int(rand() * 50)
                 printf "%d,%d,%d,%.3f\n", rand() < (a % 2 ? 0.8 : 0.2), a, int(rand() * 3000), rand() } }' >"$work/train.csv"
cat >"$work/job.yaml" <<'JOB'
name: clicks
data: {format: csv, train: train.csv, eval: train.csv, label: click}
features: {a: categorical, b: categorical, x: numeric}
model: {type: deepfm, dim: 16, hidden: [64, 32], dropout: 0.1}
train: {epochs: 2, batch_size: 512, ranks: 2}
JOB
root=$PWD
cd "$work"
digest() {
    ours "$root/$build/paramctl" run -f job.yaml --fresh -o json "$@" 2>"$work/log" | sed -n 's/.*"digest": *"\([0-9a-f]*\)".*/\1/p'
}
# Without a digest the log is shown below, whatever paramctl ended with.
one=$(digest --servers 0 --set device=cuda || true)
two=$(digest --servers 2 --workers 2 --set device=cuda || true)
if [ -z "$one" ] || [ "$one" != "$two" ]; then
    echo "FAILED  the same bits from one worker and from two on one GPU: '$one' '$two'"
    cat "$work/log"
    exit 1
fi
passed=$((passed + 1))
echo "$passed passed, 0 failed, 0 skipped"
