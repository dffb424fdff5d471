// The scheduler of the shim: one ucontext fiber per thread of the current block, switched in barriers and warp
// collectives only.
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "cuda_runtime.h"

namespace {
int capability = 80;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10 : capability % 10;
  return cudaSuccess;
}

namespace shim {

void set_capability(int c) { capability = c; }

dim3 grid_dim, block_dim, block_idx, thread_idx;

namespace {

constexpr size_t stack_bytes = 128 * 1024;
constexpr int lanes = 32;

struct Barrier {
  unsigned arrived = 0;
  unsigned generation = 0;
};

struct Warp {
  Barrier barrier;
  int kind[2] = {0, 0};
  alignas(64) unsigned char slots[2][lanes * 64];
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  dim3 thread;
  unsigned index = 0;
  unsigned exchanges = 0;
  bool done = false;
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
Barrier block_wide;
ucontext_t scheduler;
Fiber* current = nullptr;
const std::function<void()>* body = nullptr;
unsigned threads = 0;
bool progress = false;
const char* failure = nullptr;
Order order = Order::ascending;
std::mt19937 shuffle{1};

void yield() { swapcontext(&current->context, &scheduler); }

void wait(Barrier& barrier, unsigned expected) {
  const unsigned generation = barrier.generation;
  progress = true;
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  while (barrier.generation == generation) yield();
  progress = true;
}

void enter() {
  (*body)();
  current->done = true;
  progress = true;
  yield();
}

void start(Fiber& fiber) {
  fiber.done = false;
  fiber.exchanges = 0;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = stack_bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

void run_block() {
  block_wide = Barrier{};
  warps.assign((threads + lanes - 1) / lanes, Warp{});
  std::vector<unsigned> turn(threads);
  for (unsigned i = 0; i < threads; ++i) {
    start(*fibers[i]);
    turn[i] = order == Order::descending ? threads - 1 - i : i;
  }
  if (order == Order::shuffled) std::shuffle(turn.begin(), turn.end(), shuffle);
  for (unsigned live = threads; live > 0;) {
    progress = false;
    for (const unsigned i : turn) {
      if (fibers[i]->done) continue;
      current = fibers[i].get();
      thread_idx = current->thread;
      swapcontext(&scheduler, &current->context);
      live -= current->done;
      if (failure != nullptr) throw std::logic_error(failure);
    }
    if (!progress) throw std::logic_error("shim: threads wait at a barrier that others never reach");
  }
}

}  // namespace

void set_order(Order o) { order = o; }

int lane() { return static_cast<int>(current->index % lanes); }

void require_full_warp(unsigned mask) {
  if (mask == 0xffffffffu && threads % lanes == 0) return;
  failure = "shim: warp collectives need the full mask and whole warps";
  yield();
}

void block_barrier() { wait(block_wide, threads); }

const void* warp_exchange(const void* value, size_t bytes, int kind) {
  Warp& warp = warps[current->index / lanes];
  const unsigned side = current->exchanges++ % 2;
  if (warp.barrier.arrived == 0) warp.kind[side] = kind;
  if (warp.kind[side] != kind) {
    failure = "shim: the lanes of a warp met in different collectives";
    yield();
  }
  std::memcpy(warp.slots[side] + lane() * bytes, value, bytes);
  wait(warp.barrier, lanes);
  return warp.slots[side];
}

void run(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  grid_dim = grid;
  block_dim = block;
  threads = block.x * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.x * grid.y * grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    throw std::logic_error("shim: CUDA would refuse this launch configuration");
  }
  body = &kernel;
  failure = nullptr;
  while (fibers.size() < threads) {
    fibers.push_back(std::make_unique<Fiber>());
    fibers.back()->stack = std::make_unique<char[]>(stack_bytes);
  }
  for (unsigned i = 0; i < threads; ++i) {
    fibers[i]->index = i;
    fibers[i]->thread = dim3(i % block.x, i / block.x % block.y, i / (block.x * block.y));
  }
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_idx = dim3(x, y, z);
        run_block();
      }
    }
  }
}

}  // namespace shim
