#!/usr/bin/env bash
# gpu-kit.sh - what the tests and figures of the GPU backend need, to carry to a machine with a GPU where nothing
# can be built or fetched: programs without debug information, and the libraries that they are linked with.
#
#   gpu-kit.sh BUILD_DIR      makes BUILD_DIR/gpu-kit and, of the same, BUILD_DIR/gpu-kit.tar.gz
#
# Not in it: glibc (2.36 or newer is asked of that machine), the NVIDIA driver, and cuBLAS 13, which is large and
# comes with that machine's toolkit or PyTorch.
set -euo pipefail

build=$1
kit=$build/gpu-kit
programs=(paramctl paramd-server paramd-worker tests/test_compute_cuda tests/test_narrow_cuda tests/test_network_cuda
    bench/bench_gpu)

if [ ! -e "$build/paramd-cuda.so" ]; then
    echo "gpu-kit: $build/paramd-cuda.so is not built: make cuda-toolkit, then make gpu-kit" >&2
    exit 1
fi
work=$(mktemp -d "$build/gpu-kit.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/lib" "$work/tests" "$work/bench"
for program in "${programs[@]}" paramd-cuda.so; do
    strip --strip-unneeded -o "$work/$program" "$build/$program"
done

own='^(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|anl|nss_.*))\.so|^lib(cuda|cublas|cublasLt|nvidia.*)\.so'
for program in "${programs[@]}" paramd-cuda.so; do
    ldd "$build/$program"
done | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u | while read -r name path; do
    [[ $name =~ $own ]] || strip --strip-unneeded -o "$work/lib/$name" "$path"
done
chmod 755 "$work"
rm -rf "$kit"
mv "$work" "$kit"
tar -czf "$kit.tar.gz" -C "$build" gpu-kit
echo "gpu-kit: $(du -sm "$kit.tar.gz" | cut -f1) MiB in $kit.tar.gz: carry it with the sources, then make test-gpu there" >&2
