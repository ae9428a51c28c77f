// Planted faults that compute-sanitizer must report before its silence on the tests means anything.
//
//   gpu-control memcheck    a thread writes behind its allocation
//   gpu-control racecheck   threads of a block read shared memory that others write, without a barrier between
//   gpu-control none        neither
#include <cstdio>
#include <cstring>

namespace {

constexpr int kThreads = 128;

__global__ void fill(int* values, int count) {
  if (static_cast<int>(threadIdx.x) < count) values[threadIdx.x] = static_cast<int>(threadIdx.x);
}

template <bool kBarrier> __global__ void rotate(int* values) {
  __shared__ volatile int shared[kThreads];
  shared[threadIdx.x] = values[threadIdx.x];
  if constexpr (kBarrier) __syncthreads();
  values[threadIdx.x] = shared[(threadIdx.x + kThreads / 2) % kThreads];
}

}  // namespace

int main(int count, char** words) {
  const char* fault = count > 1 ? words[1] : "none";
  int* values = nullptr;
  if (cudaMalloc(&values, kThreads * sizeof(int)) != cudaSuccess) {
    std::fprintf(stderr, "gpu-control: %s\n", cudaGetErrorString(cudaGetLastError()));
    return 1;
  }
  const bool bounds = std::strcmp(fault, "memcheck") == 0;
  fill<<<1, 2 * kThreads>>>(values, bounds ? kThreads + 1 : kThreads);
  if (std::strcmp(fault, "racecheck") == 0) {
    rotate<false><<<1, kThreads>>>(values);
  } else if (!bounds) {
    rotate<true><<<1, kThreads>>>(values);
  }
  const cudaError_t error = cudaDeviceSynchronize();
  std::printf("%s: %s\n", fault, cudaGetErrorString(error));
  cudaFree(values);
  return 0;
}
