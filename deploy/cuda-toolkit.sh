#!/usr/bin/env bash
# cuda-toolkit.sh - puts a CUDA toolkit together from Python wheels, for machines that have none.
#
#   cuda-toolkit.sh [DIRECTORY]      build/cuda-toolkit
#
# It has what paramd-cuda.so is compiled and linked with: nvcc, the runtime, cuBLAS; no driver and no GPU is
# needed for that. pip fetches the wheels from where it is configured to. Does nothing, quickly, when all is
# there. Exit 77, with the reason on the last line, where they cannot be had.
set -euo pipefail

directory=${1:-build/cuda-toolkit}
# Toolkit 13.0 runs with every driver of the 13 series (580 and newer).
wheels=(
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85 nvidia-cublas==13.1.0.3
)

say() {
    echo "cuda-toolkit: $*" >&2
}

give_up() {
    say "$*"
    exit 77
}

if [ "$(cat "$directory/wheels" 2>/dev/null)" = "${wheels[*]}" ]; then
    exit 0
fi

find_pip() {
    python3 -m pip --version >/dev/null 2>&1 && return
    command -v apt-get >/dev/null || return
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get install -y -q --no-install-recommends python3 python3-pip python3-venv)
    say "installing python3-pip"
    "${install[@]}" >&2 || { "${as_root[@]}" apt-get update -q >&2 && "${install[@]}" >&2; }
    python3 -m pip --version >/dev/null
}

find_pip || give_up "needs python3 with pip, and it could not be installed"
mkdir -p "$(dirname "$directory")"
work=$(mktemp -d "$(dirname "$directory")/cuda-toolkit.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "fetching ${wheels[*]}"
python3 -m pip install -q --no-deps --no-compile --only-binary=:all: --disable-pip-version-check \
    --root-user-action=ignore --target "$work/site" "${wheels[@]}" >"$work/log" 2>&1 ||
    { tail -n 5 "$work/log" >&2; give_up "pip could not fetch the wheels (its messages are above)"; }

root=$work/site/nvidia/cu13
[ -x "$root/bin/nvcc" ] || give_up "the wheels do not hold bin/nvcc where it was expected"
# What a linker looks for: names without versions, in lib64 too.
for library in "$root"/lib/*.so.*; do
    link=${library%%.so.*}.so
    [ -e "$link" ] || ln -s "$(basename "$library")" "$link"
done
[ -e "$root/lib64" ] || ln -s lib "$root/lib64"
rm -f "$root"/lib/libnvblas*
echo "${wheels[*]}" >"$root/wheels"
rm -rf "$directory"
mv "$root" "$directory"
say "$("$directory/bin/nvcc" --version | tail -n 2 | head -n 1) in $directory"
