// The processor's peak in bfloat16: products of AMX tiles that are in its registers, by so many threads at once.
//
//   g++ -std=c++17 -O2 -pthread -mamx-tile -mamx-bf16 peak.cc -o peak && ./peak THREADS    TFLOP/s

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

// What Linux is asked for, so that a process may use the tiles (ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
constexpr int kAsk = 0x1023, kTileData = 18;
constexpr int64_t kRounds = 20'000'000, kTiles = 4, kFlops = 2 * 16 * 16 * 32;

void Multiply() {
  alignas(64) uint8_t config[64] = {1};
  alignas(64) uint16_t numbers[16 * 32];  // of 1 to 2, by their bits
  for (int i = 0; i < 16 * 32; ++i) numbers[i] = 0x3f80 + (37 * i) % 128;
  for (int tile = 0; tile < 8; ++tile) {
    config[16 + 2 * tile] = 64;
    config[48 + tile] = 16;
  }
  _tile_loadconfig(config);
  asm volatile("" ::: "memory");
  _tile_loadd(4, numbers, 64);
  _tile_loadd(5, numbers, 64);
  _tile_loadd(6, numbers, 64);
  _tile_loadd(7, numbers, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < kRounds; ++i) {  // four sums, so that none waits for the one before
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

int main(int count, char** words) {
  const int threads = count > 1 ? std::atoi(words[1]) : 1;
  if (syscall(SYS_arch_prctl, kAsk, kTileData) != 0) return 1;
  const auto began = std::chrono::steady_clock::now();
  std::vector<std::thread> all;
  for (int i = 0; i < threads; ++i) all.emplace_back(Multiply);
  for (auto& one : all) one.join();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - began;
  std::printf("%.3f\n", 1e-12 * threads * kRounds * kTiles * kFlops / taken.count());
}
