// The shim must fail where a GPU would misbehave, or the kernel tests on it prove nothing.
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "cuda/kernels/runtime.cuh"

namespace torchqat::cuda {
namespace {

__global__ void block_sum(const int* x, int* y) {
  __shared__ int partial[4];
  const int total = warp_reduce(x[blockIdx.x * blockDim.x + threadIdx.x], [](int a, int b) { return a + b; });
  if (lane() == 0) partial[warp()] = total;
  __syncthreads();
  if (threadIdx.x == 0) y[blockIdx.x] = partial[0] + partial[1] + partial[2] + partial[3];
}

__global__ void reverse_without_barrier(int* y) {
  __shared__ int values[64];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  y[threadIdx.x] = values[63 - threadIdx.x];
}

__global__ void barrier_of_some(int*) {
  if (threadIdx.x < 3) __syncthreads();
}

__global__ void lanes_apart(int* y) {
  y[threadIdx.x] = threadIdx.x % 2 ? __shfl_xor_sync(full_warp, 1, 1) : __shfl_sync(full_warp, 1, 0);
}

__global__ void collectives(int* y) {
  const int i = static_cast<int>(threadIdx.x);
  y[i] = __shfl_sync(full_warp, i, 5) + 100 * __shfl_down_sync(full_warp, lane(), 4) +
         10000 * __popc(__ballot_sync(full_warp, lane() % 3 == 0));
}

class Shim : public testing::Test {
 protected:
  void TearDown() override { ::shim::set_order(::shim::Order::ascending); }
};

}  // namespace

TEST_F(Shim, SharedMemoryBarriersAndShufflesGiveTheBlockSumInEveryOrder) {
  std::vector<int> x(3 * 128);
  std::iota(x.begin(), x.end(), 7);
  for (const auto order : {::shim::Order::ascending, ::shim::Order::descending, ::shim::Order::shuffled}) {
    ::shim::set_order(order);
    std::vector<int> y(3, -1);
    launch(block_sum, dim3(3), dim3(128), nullptr, x.data(), y.data());
    for (int b = 0; b < 3; ++b) {
      EXPECT_EQ(std::accumulate(x.begin() + b * 128, x.begin() + (b + 1) * 128, 0), y[b]);
    }
  }
}

TEST_F(Shim, EveryCollectiveReadsTheLaneItNames) {
  std::vector<int> y(64);
  launch(collectives, dim3(1), dim3(64), nullptr, y.data());
  for (int i = 0; i < 64; ++i) {
    const int l = i % 32;
    EXPECT_EQ(i / 32 * 32 + 5 + 100 * (l + 4 < 32 ? l + 4 : l) + 10000 * 11, y[i]);
  }
}

TEST_F(Shim, AMissingBarrierShowsAsADifferenceBetweenOrders) {
  std::vector<int> up(64), down(64);
  launch(reverse_without_barrier, dim3(1), dim3(64), nullptr, up.data());
  ::shim::set_order(::shim::Order::descending);
  launch(reverse_without_barrier, dim3(1), dim3(64), nullptr, down.data());
  EXPECT_NE(up, down);
}

TEST_F(Shim, ABarrierThatSomeThreadsSkipIsAnError) {
  int y = 0;
  EXPECT_THROW(launch(barrier_of_some, dim3(1), dim3(32), nullptr, &y), std::logic_error);
}

TEST_F(Shim, LanesInDifferentCollectivesAreAnError) {
  std::vector<int> y(32);
  EXPECT_THROW(launch(lanes_apart, dim3(1), dim3(32), nullptr, y.data()), std::logic_error);
}

TEST_F(Shim, AnImpossibleLaunchIsAnError) {
  int y = 0;
  EXPECT_THROW(launch(barrier_of_some, dim3(1), dim3(2048), nullptr, &y), std::logic_error);
  EXPECT_THROW(launch(barrier_of_some, dim3(0), dim3(32), nullptr, &y), std::logic_error);
}

}  // namespace torchqat::cuda
