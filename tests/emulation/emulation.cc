#include "emulation.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <vector>

namespace emulation
{

void give_up(const char *why)
{
    fprintf(stderr, "emulation: %s\n", why);
    abort();
}

static std::mt19937 &chance()
{
    static std::mt19937 generator(std::random_device{}());
    return generator;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static const size_t ARENA = (size_t)4 << 30, GUARD = 256;
static char *arena;
static size_t arena_used;
static std::map<char *, size_t> allocations;
static std::multimap<size_t, char *> spare; /* freed, by the room that they take */
static std::map<char *, size_t> pinned;
static int open_count;
static bool is_shut;

static void protect(int protection)
{
    if (arena_used > 0 && mprotect(arena, arena_used, protection) != 0)
        give_up("mprotect failed");
}

/* The device's memory can be touched from here … */
static void open_memory()
{
    if (open_count++ == 0 && is_shut)
        protect(PROT_READ | PROT_WRITE);
}

/* … to here; it is shut now and then, as that takes long. */
static void close_memory()
{
    if (--open_count > 0)
        return;
    is_shut = chance()() % 32 == 0;
    if (is_shut)
        protect(PROT_NONE);
}

static size_t room_of(size_t bytes)
{
    size_t room = 4096;
    while (room < bytes + GUARD)
        room *= 2;
    return room;
}

/* Of a large piece its beginning: pages that nobody touches cost nothing. */
static void fill_with_nan(char *at, size_t bytes)
{
    memset(at, 0xff, bytes < (size_t)4 << 20 ? bytes : (size_t)4 << 20);
}

static void check_guard(char *memory, size_t bytes)
{
    for (size_t i = 0; i < GUARD; i++)
        if ((unsigned char)memory[bytes + i] != 0xa5)
            give_up("something was written behind an allocation");
}

} // namespace emulation

using namespace emulation;

/* ---- streams --------------------------------------------------------------------------------- */

/* Of a copy: what it reads and writes. */
struct piece {
    std::function<void()> work;
    const char *from, *to;
    size_t bytes;
};

struct CUstream_st {
    std::deque<piece> queue;
    int device;
};

struct CUevent_st {
    struct record {
        bool done = false;
        cudaStream_t stream;
    };
    std::shared_ptr<record> latest;
};

static std::vector<cudaStream_t> streams;
static thread_local int current_device;

namespace emulation
{

static void run_one(cudaStream_t stream)
{
    piece next = std::move(stream->queue.front());
    stream->queue.pop_front();
    next.work();
}

static void run_all(cudaStream_t stream)
{
    open_memory();
    while (!stream->queue.empty())
        run_one(stream);
    close_memory();
}

/* Now and then a little of what waits is done. */
static void perhaps_run()
{
    if (streams.empty() || chance()() % 8 > 0)
        return;
    cudaStream_t stream = streams[chance()() % streams.size()];
    size_t count = chance()() % 4;
    open_memory();
    for (; count > 0 && !stream->queue.empty(); count--)
        run_one(stream);
    close_memory();
}

static void enqueue_piece(cudaStream_t stream, piece next)
{
    if (stream->device != current_device)
        give_up("work for a stream of another device than the current one");
    stream->queue.push_back(std::move(next));
    perhaps_run();
}

void enqueue(cudaStream_t stream, std::function<void()> work)
{
    enqueue_piece(stream, {std::move(work), nullptr, nullptr, 0});
}

/* Nobody waits when memory is freed: CUDA may, but does not say that it does. */
static void check_not_copied(const char *memory, size_t bytes)
{
    for (cudaStream_t s : streams)
        for (const piece &p : s->queue)
            if ((p.from < memory + bytes && memory < p.from + p.bytes) ||
                (p.to < memory + bytes && memory < p.to + p.bytes))
                give_up("memory is freed that a copy has still to read or write");
}

} // namespace emulation

/* ---- threads --------------------------------------------------------------------------------- */

namespace emulation
{

dim3 thread, block, block_size, grid_size;
char *shared;

static const unsigned WARP = 32;
static const size_t STACK = 128 << 10;

enum fiber_state { READY, AT_WARP, AT_BLOCK, OVER };
struct fiber {
    ucontext_t
        context; /* of its first start; later it goes on by jumps, which make no system calls */
    jmp_buf place;
    std::unique_ptr<char[]> stack;
    fiber_state state;
    bool started;
    double passed[2];
    unsigned turn;
};

static ucontext_t first_scheduler;
static jmp_buf scheduler;
static std::vector<std::unique_ptr<fiber>> fibers;
static unsigned fiber_count, current;
static const std::function<void()> *body_of_fibers;

static void leave()
{
    if (_setjmp(fibers[current]->place) == 0)
        _longjmp(scheduler, 1);
}

/* Runs one block's thread after the other. */
static void run_fiber()
{
    for (;;) {
        (*body_of_fibers)();
        fibers[current]->state = OVER;
        leave();
    }
}

static void enter(fiber &f)
{
    if (_setjmp(scheduler) != 0)
        return;
    if (f.started)
        _longjmp(f.place, 1);
    f.started = true;
    swapcontext(&first_scheduler, &f.context);
}

static void wait_as(fiber_state state)
{
    fiber &f = *fibers[current];
    if (fiber_count == 0)
        give_up("a kernel of LAUNCH uses block_sync() or sum_over()");
    f.state = state;
    leave();
}

void sync_block()
{
    wait_as(AT_BLOCK);
}

double exchange(double x, unsigned mask)
{
    unsigned self = current, turn = fibers[self]->turn++ % 2;
    fibers[self]->passed[turn] = x;
    wait_as(AT_WARP);
    unsigned other = self / WARP * WARP + ((self % WARP) ^ mask);
    if (other >= fiber_count)
        give_up("a warp that is not full exchanges numbers");
    return fibers[other]->passed[turn];
}

static void start_fiber(unsigned i)
{
    if (fibers.size() <= i) {
        fibers.push_back(std::make_unique<fiber>());
        fiber &made = *fibers[i];
        made.stack.reset(new char[STACK]);
        getcontext(&made.context);
        made.context.uc_stack.ss_sp = made.stack.get();
        made.context.uc_stack.ss_size = STACK;
        made.context.uc_link = nullptr;
        makecontext(&made.context, run_fiber, 0);
    }
    fibers[i]->state = READY;
    fibers[i]->turn = 0;
}

/* Lets those go on who have all met: -> whether anybody can. */
static bool release(unsigned first, unsigned end, fiber_state where)
{
    for (unsigned i = first; i < end; i++)
        if (fibers[i]->state != where)
            return false;
    for (unsigned i = first; i < end; i++)
        fibers[i]->state = READY;
    return first < end;
}

static void run_block_of_fibers(unsigned threads, const std::function<void()> &body)
{
    body_of_fibers = &body;
    fiber_count = threads;
    for (unsigned i = 0; i < threads; i++)
        start_fiber(i);
    for (;;) {
        unsigned over = 0;
        for (unsigned i = 0; i < threads; i++) {
            while (fibers[i]->state == READY) {
                current = i;
                thread = dim3(i, 0, 0);
                enter(*fibers[i]);
            }
            over += fibers[i]->state == OVER;
        }
        if (over == threads)
            break;
        bool goes_on = release(0, threads, AT_BLOCK);
        for (unsigned first = 0; first < threads; first += WARP)
            goes_on |= release(first, first + WARP < threads ? first + WARP : threads, AT_WARP);
        if (!goes_on)
            give_up("threads wait for others that have left or are elsewhere");
    }
    fiber_count = 0;
}

static void run_grid(const launch_shape &shape, const std::function<void()> &body)
{
    static std::vector<double> room;
    if (shape.blocks.x == 0 || shape.blocks.y == 0 || shape.threads == 0 || shape.threads > 1024 ||
        shape.blocks.y > 65535 || shape.shared_bytes > 47 << 10)
        give_up("a launch that CUDA would refuse");
    uint64_t count = (uint64_t)shape.blocks.x * shape.blocks.y;
    std::vector<uint64_t> order(count);
    for (uint64_t i = 0; i < count; i++)
        order[i] = i;
    for (uint64_t i = count; i > 1; i--)
        std::swap(order[i - 1], order[chance()() % i]);
    block_size = dim3(shape.threads);
    grid_size = shape.blocks;
    for (uint64_t i : order) {
        block = dim3((unsigned)(i % shape.blocks.x), (unsigned)(i / shape.blocks.x));
        room.assign(shape.shared_bytes / sizeof(double) + 1, 0);
        memset(room.data(), 0xff, room.size() * sizeof(double));
        shared = (char *)room.data();
        if (shape.meet) {
            run_block_of_fibers(shape.threads, body);
            continue;
        }
        for (unsigned t = 0; t < shape.threads; t++) {
            thread = dim3(t, 0, 0);
            body();
        }
    }
}

void enqueue_kernel(cudaStream_t stream, const launch_shape &shape, std::function<void()> body)
{
    enqueue(stream, [shape, body] { run_grid(shape, body); });
}

} // namespace emulation

/* ---- the runtime's calls --------------------------------------------------------------------- */

static int capability()
{
    const char *given = getenv("PARAMD_EMULATED_CAPABILITY");
    return given != nullptr ? atoi(given) : 90;
}

/* From then on for ever, as CUDA has it. */
static bool has_fault()
{
    static bool is_lost;
    const char *file = getenv("PARAMD_EMULATED_FAULT");
    is_lost = is_lost || (file != nullptr && unlink(file) == 0);
    return is_lost;
}

/* What cudaGetLastError() gives. */
static thread_local cudaError_t last_error;

static cudaError_t failure(cudaError_t error)
{
    return last_error = error;
}

static bool is_pinned(const void *memory)
{
    auto at = pinned.upper_bound((char *)memory);
    if (at == pinned.begin())
        return false;
    --at;
    return (char *)memory < at->first + at->second;
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 2;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device != 0 && device != 1)
        return failure(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    if (device != 0 && device != 1)
        return cudaErrorInvalidDevice;
    *p = cudaDeviceProp{};
    strcpy(p->name, "emulated GPU");
    p->totalGlobalMem = ARENA;
    p->multiProcessorCount = 1;
    p->major = capability() / 10;
    p->minor = capability() % 10;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *out, const void *)
{
    out->numRegs = 32;
    return capability() >= 80 ? cudaSuccess : failure(cudaErrorNoKernelImageForDevice);
}

cudaError_t cudaDeviceGetPCIBusId(char *bus, int size, int device)
{
    snprintf(bus, (size_t)size, "0000:00:%02d.0", device);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    if (arena == nullptr)
        arena = (char *)mmap(nullptr, ARENA, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED || bytes > ARENA)
        return failure(cudaErrorMemoryAllocation);
    size_t room = room_of(bytes);
    char *at;
    auto kept = spare.find(room);
    if (kept != spare.end()) {
        at = kept->second;
        spare.erase(kept);
    } else {
        if (arena_used + room > ARENA)
            return failure(cudaErrorMemoryAllocation);
        at = arena + arena_used;
        arena_used += room;
    }
    open_memory();
    fill_with_nan(at, bytes);
    memset(at + bytes, 0xa5, GUARD);
    close_memory();
    allocations[at] = bytes;
    *memory = at;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    if (memory == nullptr)
        return cudaSuccess;
    auto at = allocations.find((char *)memory);
    if (at == allocations.end())
        return cudaErrorInvalidValue;
    check_not_copied(at->first, at->second);
    open_memory();
    check_guard(at->first, at->second);
    fill_with_nan(at->first, at->second);
    close_memory();
    spare.emplace(room_of(at->second), at->first);
    allocations.erase(at);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned)
{
    *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (*memory == nullptr)
        return cudaErrorMemoryAllocation;
    memset(*memory, 0xff, bytes);
    pinned[(char *)*memory] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    check_not_copied((const char *)memory, pinned.at((char *)memory));
    pinned.erase((char *)memory);
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *total)
{
    *left = ARENA - arena_used;
    *total = ARENA;
    return cudaSuccess;
}

/* Memory that is not pinned is read before the call returns, and written before it returns. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    if (kind == cudaMemcpyHostToDevice && !is_pinned(from)) {
        auto kept =
            std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
        enqueue_piece(stream, {[to, kept] { memcpy(to, kept->data(), kept->size()); }, nullptr,
                               (const char *)to, bytes});
        return cudaSuccess;
    }
    enqueue_piece(stream, {[to, from, bytes] { memcpy(to, from, bytes); }, (const char *)from,
                           (const char *)to, bytes});
    if (kind == cudaMemcpyDeviceToHost && !is_pinned(to))
        run_all(stream);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    enqueue(stream, [to, value, bytes] { memset(to, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new CUstream_st{{}, current_device};
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    run_all(stream);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream)
            streams.erase(streams.begin() + (long)i);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    run_all(stream);
    return has_fault() ? failure(cudaErrorLaunchFailure) : cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new CUevent_st;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    auto record = std::make_shared<CUevent_st::record>();
    record->stream = stream;
    event->latest = record;
    enqueue(stream, [record] { record->done = true; });
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    auto record = event->latest;
    enqueue(stream, [record] {
        while (record != nullptr && !record->done)
            run_one(record->stream);
    });
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorName(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "out of memory" : "an error";
}

} // extern "C"
