#!/usr/bin/env bash
# run_gpu.sh - the tests and figures of the GPU backend on a machine that has a GPU. Nothing is fetched.
#
#   tests/run_gpu.sh BUILD_DIR [tests|figures]      both
#
# Builds first, where all that building needs is there. Where packages are missing it takes the programs of
# BUILD_DIR/gpu-kit or gpu-kit.tar.gz (make gpu-kit, elsewhere), or those that lie in BUILD_DIR if they can run; else it says what
# is missing, by name. Where there is no GPU it says so and ends with 0; a GPU that the backend cannot use is
# a failure.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
build=${1:-build}
part=${2:-}
programs=(paramctl paramd-server paramd-worker tests/test_compute_cuda tests/test_narrow_cuda tests/test_network_cuda
    bench/bench_gpu)

say() {
    echo "gpu: $*" >&2
}

gpu_is_seen() {     # by the driver's files
    compgen -G '/dev/nvidia[0-9]*' >/dev/null || [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]
}

give_up() {
    if gpu_is_seen; then
        say "FAILED: $*"
        exit 1
    fi
    say "skipped: this machine has no NVIDIA GPU; and $*"
    exit 0
}

# What the programs of a directory lack; empty when they can run.
lacking() {         # directory
    local program found
    for program in "${programs[@]}"; do
        [ -x "$1/$program" ] || { echo "$1/$program"; return; }
        found=$(LD_LIBRARY_PATH=$1/lib ldd "$1/$program" 2>&1 | sed -n 's/^[[:space:]]*\(.*\) => not found$/\1/p' | sort -u)
        [ -z "$found" ] || { echo "${found//$'\n'/ } (for $1/$program)"; return; }
    done
    [ -e "$1/paramd-cuda.so" ] || echo "$1/paramd-cuda.so"
}

choose_programs() { # -> build
    local missing why
    missing=$(deploy/install-deps.sh missing)
    if [ -z "$missing" ]; then
        ${MAKE:-make} ${BUILD:+BUILD=$BUILD} gpu-programs || exit 1
        why=$(lacking "$build")
        [ -n "$why" ] || return 0
        why="lacking is $why: no nvcc in the path, in /usr/local/cuda or in CUDA_HOME"
    else
        why="to build here, packages are missing: $missing"
    fi
    [ -d "$build/gpu-kit" ] || [ ! -e "$build/gpu-kit.tar.gz" ] || tar -xzf "$build/gpu-kit.tar.gz" -C "$build"
    for directory in "$build/gpu-kit" "$build"; do
        if [ -z "$(lacking "$directory")" ]; then
            say "$why; the programs of $directory are taken as they are"
            build=$directory
            return 0
        fi
    done
    give_up "$why; and the programs that lie here cannot run: lacking is $(lacking "$build/gpu-kit")." \
        "Install the packages, or bring $build/gpu-kit from a machine that has them (make gpu-kit there)"
}

# cuBLAS of the toolkit, or of the Python that has PyTorch, where the linker would not find it.
find_cublas() {
    local directory name=libcublas.so.13
    ldd "$build/paramd-cuda.so" 2>&1 | grep -q "$name => not found" || return 0
    for directory in ${CUBLAS_HOME:+"$CUBLAS_HOME"/lib*} ${CUDA_HOME:+"$CUDA_HOME"/lib*} build/cuda-toolkit/lib \
        /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib \
        $(python3 -c 'import sys; print("\n".join(p + "/nvidia/cu13/lib" for p in sys.path if p))' 2>/dev/null); do
        [ -e "$directory/$name" ] || continue
        say "cuBLAS is taken from $directory"
        realpath "$directory"
        return
    done
    say "$name is neither where the linker looks, nor in CUDA_HOME, /usr/local/cuda or Python's packages"
}

choose_programs
gpu_is_seen && export GPU_IS_SEEN=1
# For paramd's programs alone: Python has libraries of its own.
GPU_LIBRARIES=$(find_cublas)
[ ! -d "$build/lib" ] || GPU_LIBRARIES=$(realpath "$build/lib")${GPU_LIBRARIES:+:$GPU_LIBRARIES}
export GPU_LIBRARIES
PARAMCTL=$(realpath "$build/paramctl")
export PARAMCTL

status=0
[ "$part" = figures ] || tests/run.sh "$build" integration/gpu.sh || status=1
if [ "$part" != tests ]; then
    tests/bench/bench_gpu.py
    code=$?
    [ $code -eq 0 ] || { [ $code -eq 77 ] && ! gpu_is_seen; } || status=1
fi
exit $status
