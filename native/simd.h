// Vectors as wide as one register of the instruction set compiled for, over the compilers' own
// vector types (g++ >= 11, clang >= 14, clang-cl). A kernel is written once over them.
//
//     Vec<float> sum{};
//     for (i = 0; i < n; i += kWidth<float>) sum += load(a + i) * load(b + i);
//
// Memory needs no alignment. A tail of n < kWidth numbers goes through load(p, n) and
// store(p, x, n), which touch those alone. NaN and infinity behave as in scalar arithmetic.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define FW_ALWAYS __attribute__((always_inline))  // behind the parameters of a lambda
#define FW_INLINE inline FW_ALWAYS
#define FW_RESTRICT __restrict__
#define FW_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FW_UNROLL(times) FW_PRAGMA(unroll times)
#else
#define FW_UNROLL(times) FW_PRAGMA(GCC unroll times)
#endif

// A namespace of its own for each instruction set and width: were two ever linked into one program,
// no function of one may stand in for the other's.
#if defined(__AVX512F__) && defined(FW_NARROW)
#define FW_VECTOR_BYTES 32
#define FW_SET avx512_narrow
#elif defined(__AVX512F__)
#define FW_VECTOR_BYTES 64
#define FW_SET avx512
#elif defined(__AVX2__)
#define FW_VECTOR_BYTES 32
#define FW_SET avx2
#else
#define FW_VECTOR_BYTES 16  // SSE2, NEON
#define FW_SET baseline
#endif

namespace fastweights { inline namespace FW_SET {

using Index = ptrdiff_t;

template <class Real> struct Register;
template <> struct Register<float> {
  typedef float Type __attribute__((vector_size(FW_VECTOR_BYTES)));
  typedef int32_t Integers __attribute__((vector_size(FW_VECTOR_BYTES)));
};
template <> struct Register<double> {
  typedef double Type __attribute__((vector_size(FW_VECTOR_BYTES)));
  typedef int64_t Integers __attribute__((vector_size(FW_VECTOR_BYTES)));
};
template <class Real> using Vec = typename Register<Real>::Type;
template <class Real> constexpr Index kWidth = FW_VECTOR_BYTES / sizeof(Real);

// Numbers rounded up to whole vectors.
template <class Real> constexpr Index whole(Index count) {
  return (count + kWidth<Real> - 1) / kWidth<Real> * kWidth<Real>;
}

template <class Real> FW_INLINE Vec<Real> all(Real x) { return x - Vec<Real>{}; }

template <class Real> FW_INLINE Vec<Real> load(const Real *p) {
  Vec<Real> x;
  memcpy(&x, p, sizeof x);
  return x;
}
template <class Real> FW_INLINE void store(Real *p, Vec<Real> x) { memcpy(p, &x, sizeof x); }

// The first n < kWidth lanes; the others are zero, or left alone in memory.
#if FW_VECTOR_BYTES == 64
FW_INLINE Vec<float> load(const float *p, Index n) {
  return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
FW_INLINE Vec<double> load(const double *p, Index n) {
  return (Vec<double>)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
}
FW_INLINE void store(float *p, Vec<float> x, Index n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)x);
}
FW_INLINE void store(double *p, Vec<double> x, Index n) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)x);
}
#elif FW_VECTOR_BYTES == 32
alignas(32) inline constexpr int32_t kTail[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
FW_INLINE __m256i tail_mask(Index words) {  // the first so many of eight
  return _mm256_loadu_si256((const __m256i *)(kTail + 8 - words));
}
FW_INLINE Vec<float> load(const float *p, Index n) {
  return (Vec<float>)_mm256_maskload_ps(p, tail_mask(n));
}
FW_INLINE Vec<double> load(const double *p, Index n) {
  return (Vec<double>)_mm256_maskload_pd(p, tail_mask(2 * n));
}
FW_INLINE void store(float *p, Vec<float> x, Index n) {
  _mm256_maskstore_ps(p, tail_mask(n), (__m256)x);
}
FW_INLINE void store(double *p, Vec<double> x, Index n) {
  _mm256_maskstore_pd(p, tail_mask(2 * n), (__m256d)x);
}
#else
template <class Real> FW_INLINE Vec<Real> load(const Real *p, Index n) {
  Vec<Real> x{};
  for (Index i = 0; i < kWidth<Real> - 1; ++i)
    if (i < n) x[i] = p[i];
  return x;
}
template <class Real> FW_INLINE void store(Real *p, Vec<Real> x, Index n) {
  for (Index i = 0; i < kWidth<Real> - 1; ++i)
    if (i < n) p[i] = x[i];
}
#endif

// A row that is wanted a step later, to be read or written. Those of one sample stand far apart, which
// no cache foresees.
template <bool written = false, class Real> FW_INLINE void prefetch(const Real *row, Index count) {
  for (Index i = 0; i < count; i += 64 / sizeof(Real)) __builtin_prefetch(row + i, written);
  __builtin_prefetch(row + count - 1, written);
}

template <class Real> FW_INLINE Vec<Real> relu(Vec<Real> x) {
  return x <= 0 ? Vec<Real>{} : x;  // like torch.relu, it hands NaN on
}

// 0, 1, 2, ...
template <class Real> FW_INLINE Vec<Real> counting() {
  return []<int... i>(std::integer_sequence<int, i...>) {
    return Vec<Real>{Real(i)...};
  }(std::make_integer_sequence<int, int(kWidth<Real>)>{});
}

// The first n lanes; the others zero.
template <class Real> FW_INLINE Vec<Real> first(Vec<Real> x, Index n) {
  return counting<Real>() < Real(n) ? x : Vec<Real>{};
}

// So many lanes, as many as a register has or fewer.
template <class Real, Index lanes> struct Part {
  typedef Real Type __attribute__((vector_size(lanes * sizeof(Real))));
  typedef decltype(typename Register<Real>::Integers{}[0] + 0) Integer;
  typedef Integer Integers __attribute__((vector_size(lanes * sizeof(Real))));
};

template <class Lanes, class Real> FW_INLINE Lanes load_all(const Real *p) {
  Lanes x;
  memcpy(&x, p, sizeof x);
  return x;
}
template <class Lanes, class Real> FW_INLINE void store_all(Real *p, Lanes x) {
  memcpy(p, &x, sizeof x);
}

// Of groups of `apart` lanes, every other one of a and those between of b, each with what stands
// beside it in its vector added.
template <class Real, Index lanes, int apart>
FW_INLINE auto pair_sums(typename Part<Real, lanes>::Type a, typename Part<Real, lanes>::Type b) {
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    constexpr int n = lanes;
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (i & apart ? n + i : i)...) +
           __builtin_shufflevector(a, b, (i & apart ? n + i - apart : i + apart)...);
#else
    using Integers = typename Part<Real, lanes>::Integers;
    return __builtin_shuffle(a, b, Integers{(i & apart ? n + i : i)...}) +
           __builtin_shuffle(a, b, Integers{(i & apart ? n + i - apart : i + apart)...});
#endif
  }(std::make_integer_sequence<int, int(lanes)>{});
}

// Lane i of the result is the sum of all lanes of x[i]; count is a power of two up to the width.
template <class Real, Index count, Index lanes = kWidth<Real>, int apart = 1>
FW_INLINE auto sums(const typename Part<Real, lanes>::Type *x) {
  if constexpr (lanes > count * apart) {  // halves onto each other first, they are shorter
    typename Part<Real, lanes / 2>::Type half[count];
    for (Index i = 0; i < count; ++i) {
      typename Part<Real, lanes / 2>::Type two[2];
      memcpy(two, x + i, sizeof two);
      half[i] = two[0] + two[1];
    }
    return sums<Real, count, lanes / 2>(half);
  } else if constexpr (count == 1) {
    return x[0];
  } else {
    typename Part<Real, lanes>::Type half[count / 2];
    for (Index i = 0; i < count / 2; ++i)
      half[i] = pair_sums<Real, lanes, apart>(x[2 * i], x[2 * i + 1]);
    return sums<Real, count / 2, lanes, 2 * apart>(half);
  }
}

// to[i] is the sum of all lanes of x[i].
template <class Real, Index count> FW_INLINE void sums_to(Real *to, const Vec<Real> *x) {
  constexpr Index group = count < kWidth<Real> ? count : kWidth<Real>;
  for (Index i = 0; i < count; i += group) store_all(to + i, sums<Real, group>(x + i));
}

template <class Real> FW_INLINE Real sum_of(Vec<Real> x) { return sums<Real, 1>(&x)[0]; }

}}  // namespace fastweights::FW_SET
