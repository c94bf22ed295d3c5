# paramd: build, test, install.
#
#   make                 programs into build/
#   make demo            installs what is missing (Debian, Ubuntu), builds, trains a small model and kills a server
#   make test            the same, then all tests
#   make cuda-toolkit    a CUDA toolkit from Python wheels into build/cuda-toolkit, to build the GPU backend with
#   make test-gpu        the GPU backend's tests and figures on this machine's GPU; make bench-gpu: figures alone
#   make gpu-kit         what they need on a machine where nothing can be built, into build/gpu-kit
#   make soak            what chance decides, many times over: the simulator, kills, cuts
#   make BUILD=debug     into build/debug; likewise BUILD=asan, BUILD=tsan
#   make ARCH=-march=native
#   make V=1             shows the commands
#   make CUDA=yes        the GPU backend is part of it: without a toolkit that is an error; CUDA=no: it is not
#   make CUDA_HOME=DIR CUDA_ARCHS="80 90"   with this toolkit, for these GPUs (and those after the last)
#
# One file, not recursive. Sources are found by wildcard; a program is built when its main.c is there.

VERSION := 0.1.0
PREFIX ?= /usr/local
SYSCONFDIR ?= $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)
BUILD ?= release

.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

# ---- what is built where ----

ifeq ($(BUILD),release)
B := build
else ifneq ($(filter $(BUILD),debug asan tsan),)
B := build/$(BUILD)
else
$(error BUILD is '$(BUILD)'; it can be release, debug, asan or tsan)
endif

COMMON_C := $(wildcard common/*.c common/model/*.c)
DAEMON_C := $(filter-out %/main.c worker/compute_cuda%,$(wildcard server/*.c worker/*.c))
CLI_C := $(filter-out %/main.c,$(wildcard cli/*.c))
PROTO := $(wildcard proto/*.proto)
TEST_C := $(wildcard tests/unit/test_*.c)
SUPPORT_C := $(wildcard tests/support/*.c)
TOOL_C := $(wildcard tests/integration/*.c)
BENCH_C := $(wildcard tests/bench/bench_*.c)
BENCH_SCRIPTS := $(wildcard tests/bench/bench_*.py)
MAIN_C := $(wildcard server/main.c worker/main.c cli/main.c)

GEN_C := $(PROTO:%.proto=$(B)/gen/%.pb-c.c)
GEN_H := $(GEN_C:.c=.h)
GEN_O := $(PROTO:%.proto=$(B)/obj/%.pb-c.o)

objects = $(patsubst %.c,$(B)/obj/%.o,$(1))
LIB := $(B)/libparamd.a
LIB_CLI := $(B)/libparamctl.a
LIB_SUPPORT := $(B)/libtestsupport.a

DAEMON_CONF := conf/server.yaml conf/worker.yaml

PROGRAMS := $(patsubst cli/main.c,$(B)/paramctl,\
            $(patsubst worker/main.c,$(B)/paramd-worker,\
            $(patsubst server/main.c,$(B)/paramd-server,$(MAIN_C))))
TESTS := $(addprefix $(B)/tests/,$(notdir $(TEST_C:.c=)))
SIM := $(B)/tests/sim
TOOLS := $(addprefix $(B)/integration/,$(notdir $(TOOL_C:.c=)))
BENCHES := $(addprefix $(B)/bench/,$(notdir $(BENCH_C:.c=)))

# ---- flags ----

ifeq ($(shell uname -m),x86_64)
ARCH ?= -march=x86-64-v3
else
ARCH ?=
endif

CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
AR := $(if $(filter default,$(origin AR)),gcc-ar,$(AR))
PKG := libprotobuf-c libuv yaml-0.1 openblas libzstd zlib libcrypto libcurl expat
pkg_config = $(shell pkg-config $(1) 2>/dev/null)

WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith \
        -Wundef -Wformat=2 -Wno-unused-parameter
# No contraction: a multiply and an add that the compiler fuses in a vector loop but not in its tail
# would let the bits of a result depend on where an array was cut. Kernels call fmaf() where they want it.
# For the same reason never -ffast-math.
FLOAT := -fno-math-errno -fno-trapping-math -ffp-contract=off

ifeq ($(BUILD),release)
OPTIMIZE := -O2 -g -ftrivial-auto-var-init=zero
OPTIMIZE_HOT := -O3 -g
HARDEN := -D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection \
          $(if $(filter x86_64,$(shell uname -m)),-fcf-protection)
else
OPTIMIZE := $(if $(filter debug,$(BUILD)),-Og,-O1) -g3 -fno-omit-frame-pointer
OPTIMIZE_HOT := $(OPTIMIZE)
HARDEN := -fstack-protector-strong
endif
SANITIZE_asan := -fsanitize=address,undefined -fno-sanitize-recover=all
SANITIZE_tsan := -fsanitize=thread
SANITIZE := $(SANITIZE_$(BUILD))

BASE := -std=gnu11 -D_GNU_SOURCE -fPIE $(ARCH) $(FLOAT) $(HARDEN) $(SANITIZE) $(CFLAGS_EXTRA)
INCLUDE := -I. -I$(B)/gen $(call pkg_config,--cflags $(PKG))
DEFINE := -DPARAMD_VERSION='"$(VERSION)"'
LDFLAGS_ALL := -pie -Wl,-z,relro,-z,now -Wl,--as-needed $(SANITIZE) $(LDFLAGS)
# gRPC's own pkg-config file names a hundred libraries; the C core needs these two. ZooKeeper has none.
LIBS := -lgrpc -lgpr -lzookeeper_mt $(call pkg_config,--libs $(PKG)) -lpthread -lm
LIBS_TEST := $(or $(call pkg_config,--libs cmocka),-lcmocka)

# Inner loops: optimized harder, and their scratch arrays are not cleared.
HOT_C := $(wildcard worker/compute_*.c worker/kernel*.c server/table*.c server/optimizer*.c \
         server/dense.c server/shard_apply.c common/wire.c common/rng.c common/evaluation.c)

# ---- the GPU backend: a shared object beside the programs, where there is a toolkit ----

CUDA ?= auto
CUDA_ARCHS ?= 80 90
ifeq ($(filter auto yes no,$(CUDA)),)
$(error CUDA is '$(CUDA)'; it can be auto, yes or no)
endif
NVCC_FOUND := $(firstword $(wildcard build/cuda-toolkit/bin/nvcc) $(shell command -v nvcc 2>/dev/null) \
              $(wildcard /usr/local/cuda/bin/nvcc))
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(NVCC_FOUND))
CUBLAS_HOME ?= $(CUDA_HOME)
ifneq ($(filter no,$(CUDA))$(filter asan tsan,$(BUILD)),)
CUDA_SO :=
else ifeq ($(and $(CUDA_HOME),$(wildcard $(CUDA_HOME)/bin/nvcc),$(wildcard $(CUBLAS_HOME)/include/cublas_v2.h)),)
CUDA_WHY := no CUDA toolkit with nvcc and cuBLAS in '$(CUDA_HOME)' (make cuda-toolkit, or CUDA_HOME=DIR)
CUDA_SO :=
else
CUDA_SO := $(B)/paramd-cuda.so
endif
ifeq ($(CUDA),yes)
ifneq ($(CUDA_WHY),)
$(error CUDA=yes: $(CUDA_WHY))
endif
endif

CUDA_C := $(wildcard worker/compute_cuda*.c)
CUDA_CU := $(wildcard worker/kernels*.cu)
CUDA_O := $(CUDA_C:%.c=$(B)/cuda/%.o) $(CUDA_CU:%.cu=$(B)/cuda/%.o)
CUDA_LIBRARIES := $(wildcard $(CUBLAS_HOME)/lib64 $(CUBLAS_HOME)/lib)
# Not contracted, as FLOAT has it for the host. PTX of the last one is for GPUs that come later.
NVCC_FLAGS = -std=c++17 -O3 -fmad=false $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
             -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS)) \
             -I. -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unused-parameter
CUDA_CFLAGS = $(filter-out -fPIE,$(BASE)) -fPIC -fvisibility=hidden $(OPTIMIZE) $(WARN) -I. \
              -DCUDA_ARCHS='"$(CUDA_ARCHS)"'

# Tests have a GPU that is the host: the backend's own sources, with other headers (tests/emulation). Fibers
# are nothing that the thread sanitizer knows.
EMULATION_CC := $(wildcard tests/emulation/*.cc)
EMULATION_O := $(CUDA_C:%.c=$(B)/emulation/%.o) $(CUDA_CU:%.cu=$(B)/emulation/%.o) \
               $(EMULATION_CC:%.cc=$(B)/emulation/%.o)
EMULATION_SO := $(if $(filter tsan,$(BUILD)),,$(B)/tests/paramd-cuda-emulated.so)
EMULATION_FLAGS = -Itests/emulation -I. -D_GNU_SOURCE $(ARCH) $(FLOAT) -O2 -g -fPIC -fvisibility=hidden \
                  -Wall -Wextra -Werror -Wno-unused-parameter -DCUDA_ARCHS='"80 90"'
CXX := $(if $(filter default,$(origin CXX)),g++,$(CXX))

# ---- rules ----

Q := $(if $(V),,@)
comma := ,
say = $(if $(V),,@printf '  %-5s %s\n' $(1) $(2))

# Files appear whole, so that two makes at a time in one tree do not read each other's halves.
TEMPORARY = $@.$$$$
PLACE = || { rm -f $(TEMPORARY); exit 1; }; mv -f $(TEMPORARY) $@
DEPEND = -MMD -MP -MT $@ -MF $(@:.o=.d)

.PHONY: cuda-toolkit all tests benches soak run-soak demo run-demo test run-test test-torch test-storage test-sanitizers test-gpu bench-gpu gpu-programs gpu-kit bench lint format install clean docs deps FORCE

all: $(LIB) $(PROGRAMS) $(CUDA_SO)
	@$(if $(CUDA_WHY),echo "make: the GPU backend is left out: $(CUDA_WHY)",:)
tests: all $(TESTS) $(TOOLS) $(SIM) $(EMULATION_SO)
benches: all $(BENCHES) $(B)/integration/storage_pour

# Objects are made again when the compiler or a flag changes.
$(B)/flags: FORCE
	@mkdir -p $(@D)
	@echo "$(CC) $(BASE) $(OPTIMIZE) $(OPTIMIZE_HOT) $(WARN) $(VERSION)" | cmp -s - $@ || \
	    echo "$(CC) $(BASE) $(OPTIMIZE) $(OPTIMIZE_HOT) $(WARN) $(VERSION)" > $@

$(call objects,$(HOT_C)): private OPTIMIZE := $(OPTIMIZE_HOT)

$(B)/obj/%.o: %.c $(B)/flags | $(GEN_H)
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE) $(OPTIMIZE) $(WARN) $(DEFINE) $(INCLUDE) $(DEPEND) -c -o $(TEMPORARY) $< $(PLACE)

$(B)/obj/%.pb-c.o: $(B)/gen/%.pb-c.c $(B)/flags | $(GEN_H)
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE) $(OPTIMIZE) -w $(INCLUDE) $(DEPEND) -c -o $(TEMPORARY) $< $(PLACE)

$(B)/gen/%.pb-c.c $(B)/gen/%.pb-c.h: %.proto
	$(call say,PROTO,$<)
	@mkdir -p $(@D)
	$(Q)t=$(B)/gen/tmp.$$$$; mkdir -p $$t && protoc-c --c_out=$$t $< && \
	    mv -f $$t/$*.pb-c.c $$t/$*.pb-c.h $(@D)/ && rm -rf $$t

define archive
$(call say,AR,$@)
@mkdir -p $(@D)
$(Q)$(AR) rcs $(TEMPORARY) $^ $(PLACE)
endef

$(LIB): $(call objects,$(COMMON_C) $(DAEMON_C)) $(GEN_O)
	$(archive)
$(LIB_CLI): $(call objects,$(CLI_C))
	$(archive)
$(LIB_SUPPORT): $(call objects,$(SUPPORT_C))
	$(archive)

define link
$(call say,LINK,$@)
@mkdir -p $(@D)
$(Q)$(CC) $(BASE) $(LDFLAGS_ALL) -o $(TEMPORARY) $(filter %.o %.a,$^)
endef

$(B)/paramd-server: $(B)/obj/server/main.o $(LIB)
	$(link) $(LIBS) $(PLACE)
$(B)/paramd-worker: $(B)/obj/worker/main.o $(LIB)
	$(link) $(LIBS) $(PLACE)
$(B)/paramctl: $(B)/obj/cli/main.o $(LIB_CLI) $(LIB)
	$(link) $(LIBS) $(PLACE)
$(B)/tests/%: $(B)/obj/tests/unit/%.o $(LIB_SUPPORT) $(LIB_CLI) $(LIB)
	$(link) $(LIBS_TEST) $(LIBS) $(PLACE)
$(B)/integration/%: $(B)/obj/tests/integration/%.o $(LIB_SUPPORT) $(LIB)
	$(link) $(LIBS_TEST) $(LIBS) $(PLACE)
$(B)/bench/%: $(B)/obj/tests/bench/%.o $(LIB_SUPPORT) $(LIB_CLI) $(LIB)
	$(link) $(LIBS_TEST) $(LIBS) $(PLACE)

# The simulator: the production code that runs in it, compiled once more with its planted bugs, and in
# place of clock, log, queues, network, registry, storage and threads its own.
SIM_C := $(wildcard tests/sim/*.c)
SIM_REAL_C := $(filter-out %/main.c common/clock.c common/log.c common/loop.c common/queue.c \
    common/rpc% common/registry% common/member% common/storage_backends.c common/storage_file.c \
    common/storage_s3% common/storage_hdfs% common/compress.c common/http% \
    server/server.c server/owner.c server/leader%, $(wildcard common/*.c server/*.c)) \
    $(wildcard worker/session.c worker/exchange*.c worker/area.c worker/tally.c)
SIM_O := $(patsubst %.c,$(B)/sim/%.o,$(SIM_C) $(SIM_REAL_C))

$(B)/sim/server/snapshot_writer.o: private SIM_THREADS := -include tests/sim/sim_threads.h
$(B)/sim/%.o: %.c $(B)/flags | $(GEN_H)
	$(call say,SIM,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out $(HARDEN),$(BASE)) $(OPTIMIZE) $(WARN) $(DEFINE) -DSIMULATION $(SIM_THREADS) \
	    $(INCLUDE) $(DEPEND) -c -o $(TEMPORARY) $< $(PLACE)
$(SIM): $(SIM_O) $(GEN_O)
	$(link) $(LIBS) $(PLACE)

$(B)/cuda/flags: FORCE
	@mkdir -p $(@D)
	@echo "$(CUDA_HOME) $(CUBLAS_HOME) $(NVCC_FLAGS) $(CUDA_CFLAGS)" | cmp -s - $@ || \
	    echo "$(CUDA_HOME) $(CUBLAS_HOME) $(NVCC_FLAGS) $(CUDA_CFLAGS)" > $@
$(B)/cuda/%.o: %.cu $(B)/cuda/flags
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(CUDA_HOME)/bin/nvcc $(NVCC_FLAGS) -MD -MP -MT $@ -MF $(@:.o=.d) -c -o $(TEMPORARY) $< $(PLACE)
$(B)/cuda/%.o: %.c $(B)/cuda/flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CUDA_CFLAGS) -isystem $(CUDA_HOME)/include -isystem $(CUBLAS_HOME)/include \
	    $(DEPEND) -c -o $(TEMPORARY) $< $(PLACE)
# cuBLAS is found where it was linked with, beside the shared object's own cuda-toolkit, or by the system.
$(B)/paramd-cuda.so: $(CUDA_O)
	$(call say,LINK,$@)
	$(Q)$(CC) -shared -Wl,-z,defs -Wl,-z,relro,-z,now -Wl,--exclude-libs,ALL -o $(TEMPORARY) $(CUDA_O) \
	    $(firstword $(wildcard $(CUDA_HOME)/lib64/libcudart_static.a $(CUDA_HOME)/lib/libcudart_static.a)) \
	    $(addprefix -L,$(CUDA_LIBRARIES)) -Wl,-rpath,'$$ORIGIN/cuda-toolkit/lib:$$ORIGIN/../cuda-toolkit/lib' \
	    $(addprefix -Wl$(comma)-rpath$(comma),$(filter-out build/%,$(CUDA_LIBRARIES))) \
	    -lcublas -lcublasLt -lstdc++ -ldl -lrt -lpthread $(PLACE)

$(B)/emulation/%.o: %.cu $(B)/flags
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(CXX) -x c++ -std=c++17 $(EMULATION_FLAGS) $(DEPEND) -c -o $(TEMPORARY) $< $(PLACE)
$(B)/emulation/%.o: %.cc $(B)/flags
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 $(EMULATION_FLAGS) $(DEPEND) -c -o $(TEMPORARY) $< $(PLACE)
$(B)/emulation/%.o: %.c $(B)/flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 $(EMULATION_FLAGS) $(DEPEND) -c -o $(TEMPORARY) $< $(PLACE)
$(B)/tests/paramd-cuda-emulated.so: $(EMULATION_O)
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) -shared -Wl,-z,defs -o $(TEMPORARY) $^ -lm $(PLACE)

.SECONDARY:
-include $(shell find $(B)/obj $(B)/sim $(B)/cuda $(B)/emulation -name '*.d' 2>/dev/null)

# ---- what people run ----

# The packages come first, in a make of their own: this one has already asked a pkg-config that may have
# been missing.
deps:
	deploy/install-deps.sh
cuda-toolkit:
	deploy/cuda-toolkit.sh build/cuda-toolkit
demo:
	deploy/install-deps.sh
	$(MAKE) run-demo
test:
	deploy/install-deps.sh tests
	$(MAKE) run-test

run-demo: all
	deploy/demo.sh $(B)
run-test: tests
	tests/run.sh $(B)

# What chance decides, many times over: hours. A failure prints its seed and how to see it again.
soak:
	deploy/install-deps.sh tests
	$(MAKE) run-soak
run-soak: export PARAMCTL := $(abspath $(B))/paramctl
run-soak: tests
	BUILD_DIR=$(B) SOAK=1 tests/integration/simulator.py
	tests/integration/faults.py --runs 100
	tests/integration/faults_network.py --rounds 5
	tests/integration/faults_registry.py --minute

# Against real stores: what is missing of them is fetched and kept under ~/.cache, they run on loopback.
# Where one cannot be had its tests are skipped and say so.
test-storage: tests
	deploy/install-storage-tests.sh
	tests/run.sh $(B) integration/storage_

# Models beside PyTorch's, in a Python that has it: the distribution's, build/torch/bin/python or TORCH_PYTHON.
test-torch:
	-deploy/install-deps.sh torch
	$(MAKE) tests $(B)/bench/bench_gpu
	tests/run.sh $(B) torch_

# The whole suite under address, undefined-behaviour and thread sanitizers: two more builds, many minutes.
test-sanitizers: all
	python3 tests/integration/sanitizers.py

# The backend's tests and figures on a machine with a GPU; nothing is fetched there. Elsewhere skipped, with the reason.
# Where building is not possible they run what make gpu-kit packed elsewhere.
test-gpu bench-gpu: export BUILD := $(BUILD)
test-gpu:
	+tests/run_gpu.sh $(B)
bench-gpu:
	+tests/run_gpu.sh $(B) figures
gpu-programs: all $(B)/bench/bench_gpu $(patsubst %,$(B)/tests/test_%_cuda,compute narrow network)
gpu-kit: gpu-programs
	deploy/gpu-kit.sh $(B)

bench: benches
	$(Q)for b in $(BENCHES) $(BENCH_SCRIPTS); do \
	    echo "== $$b"; PARAMCTL=$(abspath $(B))/paramctl $$b || [ $$? -eq 77 ] || exit 1; done

SOURCES = $(shell find common server worker cli tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o \
    -name '*.cc' 2>/dev/null)

lint:
	tests/layers.sh
	@! LC_ALL=C.UTF-8 grep -nE '^.{101}' $(SOURCES)
	@awk 'FNR == 601 { print FILENAME ": more than 600 lines"; bad = 1 } END { exit bad }' $(SOURCES)
	@if command -v cppcheck >/dev/null; then cppcheck --quiet --error-exitcode=1 --std=c11 -I. \
	    --enable=warning,portability --inline-suppr --suppressions-list=tests/cppcheck.txt \
	    common server worker cli; \
	    else echo "lint: cppcheck is not installed; skipped"; fi

format:
	clang-format -i $(SOURCES)

# What is made from the tables of settings: two pages and the daemons' configuration files. And the opening
# comment of every header, one after the other: a tour of the modules.
docs: $(B)/docs/modules.txt $(B)/tests/test_settings
	PARAMD_UPDATE=1 $(B)/tests/test_settings
$(B)/docs/modules.txt: $(wildcard common/*.h common/model/*.h server/*.h worker/*.h cli/*.h)
	@mkdir -p $(@D)
	$(Q)for h in $^; do awk '/^ \*\//{exit} /^ \*/{sub(/^ \* ?/, ""); print}' $$h; echo; done > $@
	@echo "docs: $@"

# The daemons' configuration files are the administrator's once they are there; the jobs are examples.
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/paramd/jobs $(DESTDIR)$(SYSCONFDIR)/paramd
	$(foreach p,$(PROGRAMS),install -m 755 $(p) $(DESTDIR)$(PREFIX)/bin/ &&) true
	$(foreach f,$(DAEMON_CONF),{ test -e $(DESTDIR)$(SYSCONFDIR)/paramd/$(notdir $(f)) || \
	    install -m 644 $(f) $(DESTDIR)$(SYSCONFDIR)/paramd/; } &&) true
	$(foreach f,$(filter-out $(DAEMON_CONF),$(wildcard conf/*.yaml)),\
	    install -m 644 $(f) $(DESTDIR)$(PREFIX)/share/paramd/jobs/ &&) true
	$(if $(CUDA_SO),install -d $(DESTDIR)$(PREFIX)/lib/paramd && \
	    install -m 755 $(CUDA_SO) $(DESTDIR)$(PREFIX)/lib/paramd/)
	install -m 644 LICENSE $(DESTDIR)$(PREFIX)/share/paramd/
	$(if $(wildcard deploy/systemd/*),install -d $(DESTDIR)$(PREFIX)/lib/systemd/system)
	$(foreach f,$(wildcard deploy/systemd/*.service deploy/systemd/*.target),\
	    install -m 644 $(f) $(DESTDIR)$(PREFIX)/lib/systemd/system/ &&) true

clean:
	rm -rf build
