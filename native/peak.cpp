// What a core can do at most: multiply-adds a cycle, and bytes of their operands, by where those lie.
//
//     g++ -O2 -std=gnu++20 -march=native native/peak.cpp -o peak && ./peak
//
// For x86-64 with AVX2 or AVX-512. A cycle is an addition that waits for the one before.
#include <algorithm>
#include <chrono>
#include <cstdio>

typedef float Whole __attribute__((vector_size(64)));
typedef float Half __attribute__((vector_size(32)));

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

float memory[1 << 20] __attribute__((aligned(64)));

#define TEN(EACH) EACH(0) EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6) EACH(7) EACH(8) EACH(9)
#define SUM(i) Vector sum##i{};
#define ADD(i) asm volatile("vfmadd231ps %1, %1, %0" : "+v"(sum##i) : "v"(x));
#define ADD_FROM(i) \
  asm volatile("vfmadd231ps %1, %2, %0" : "+v"(sum##i) : "m"(*(const Vector *)(p + i * width)), "v"(x));

template <class Vector> void measure(double cycle) {
  constexpr int width = sizeof(Vector) / sizeof(float);
  const Vector x = 0.5f - Vector{};
  TEN(SUM)
  double best = 1;
  for (int k = 0; k < 200; ++k) {
    const double begin = now();
    for (int i = 0; i < 20000; ++i) { TEN(ADD) }
    best = std::min(best, (now() - begin) / 2e5);
  }
  std::printf("%d bytes: %.2f cycles a multiply-add, %.0f GFLOP/s\n", 4 * width, best / cycle,
              2 * width / best * 1e-9);
  for (int kib : {24, 256, 3000}) {
    const int count = kib * 256 / (10 * width) * (10 * width), times = 1 + 8192 / kib;
    best = 1;
    for (int k = 0; k < 30; ++k) {
      const double begin = now();
      for (int i = 0; i < times; ++i)
        for (const float *p = memory; p < memory + count; p += 10 * width) { TEN(ADD_FROM) }
      best = std::min(best, (now() - begin) / times / (count / width));
    }
    std::printf("  operands in %d KiB: %.2f cycles, %.0f bytes a cycle\n", kib, best / cycle,
                4 * width / (best / cycle));
  }
}

int main() {
  for (float &x : memory) x = 1e-3f;
  double cycle = 1;
  long n = 0;
  for (int k = 0; k < 200; ++k) {
    const double begin = now();
    for (int i = 0; i < 100000; ++i)
      asm volatile("add $1, %0\nadd $1, %0\nadd $1, %0\nadd $1, %0" : "+r"(n));
    cycle = std::min(cycle, (now() - begin) / 4e5);
  }
  std::printf("%.2f GHz\n", 1e-9 / cycle);
#if defined(__AVX512F__)
  measure<Whole>(cycle);
#endif
  measure<Half>(cycle);
}
