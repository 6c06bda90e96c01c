// What the kernels for AMX share: its tiles, and threads.

#ifndef R2D2_KERNELS_AMX_H_
#define R2D2_KERNELS_AMX_H_

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>

#include "absl/synchronization/blocking_counter.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace r2d2 {

using bits = uint16_t;          // a bfloat16
constexpr int64_t kBlock = 32;  // channels and pixels are taken in so many

inline int64_t Blocks(int64_t n) { return (n + kBlock - 1) / kBlock; }

// Linux grants the tiles' registers to a process that asks (ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
inline bool Granted() {
  static const bool granted = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return granted;
}

// GCC's headers do not say what memory the tile instructions read and write.
inline void Fence() { asm volatile("" ::: "memory"); }

// All eight tiles of a thread, 16 rows of 64 bytes each. oneDNN remembers what it has configured: it is put back.
class Tiles {
 public:
  Tiles() {
    alignas(64) uint8_t all[64] = {1};
    for (int tile = 0; tile < 8; ++tile) {
      all[16 + 2 * tile] = 64;
      all[48 + tile] = 16;
    }
    Fence();
    _tile_storeconfig(before_);
    _tile_loadconfig(all);
    Fence();
  }
  ~Tiles() {
    Fence();
    if (before_[0]) {
      _tile_loadconfig(before_);
    } else {
      _tile_release();
    }
  }

 private:
  alignas(64) uint8_t before_[64];
};

// Transposes 16 rows of 16 numbers of 32 bits.
inline void Transpose16(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    for (int half = 0; half < 16; half += 8) {
      t[half + i] = _mm512_shuffle_i32x4(r[half + i], r[half + 4 + i], 0x88);
      t[half + 4 + i] = _mm512_shuffle_i32x4(r[half + i], r[half + 4 + i], 0xDD);
    }
  }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xDD);
  }
}

// Runs jobs one after another, or on all threads of a device.
using Job = std::function<void(int64_t)>;
using Run = std::function<void(int64_t, const Job&)>;

inline void OneByOne(int64_t jobs, const Job& job) {
  for (int64_t i = 0; i < jobs; ++i) job(i);
}

inline Run Together(const tensorflow::DeviceBase::CpuWorkerThreads& pool) {
  return [&pool](int64_t jobs, const Job& job) {
    std::atomic<int64_t> next(0);
    auto work = [&] {
      for (int64_t i; (i = next++) < jobs;) job(i);
    };
    const int64_t others = std::max<int64_t>(std::min<int64_t>(pool.num_threads, jobs) - 1, 0);
    absl::BlockingCounter running(others);
    for (int64_t i = 0; i < others; ++i) {
      pool.workers->Schedule([&] {
        work();
        running.DecrementCount();
      });
    }
    work();
    running.Wait();
  };
}

}  // namespace r2d2

#endif  // R2D2_KERNELS_AMX_H_
