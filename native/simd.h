// Vectors of as many lanes as one register of the instruction set compiled for, over the compilers'
// own vector types (g++ >= 11, clang >= 14, clang-cl). A kernel is written once over them.
//
//     using V = Lanes<float>;
//     V sum = V::broadcast(0);
//     for (i = 0; i < n; i += V::count) sum = fma(V::load(a + i), V::load(b + i), sum);
//
// Memory needs no alignment. A tail of n < count numbers goes through load(p, n) and store(p, n),
// which touch those alone. NaN and infinity behave as in scalar arithmetic.
#pragma once

#include <stddef.h>
#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define FW_INLINE inline __attribute__((always_inline))
#define FW_RESTRICT __restrict__
#define FW_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FW_UNROLL(times) FW_PRAGMA(unroll times)
#else
#define FW_UNROLL(times) FW_PRAGMA(GCC unroll times)
#endif

#if defined(__AVX512F__)
#define FW_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define FW_VECTOR_BYTES 32
#else
#define FW_VECTOR_BYTES 16  // SSE2, NEON
#endif

// A namespace of its own for each instruction set: were two ever linked into one program, no
// function of one may stand in for the other's.
#if defined(__AVX512F__)
#define FW_SET avx512
#elif defined(__AVX2__)
#define FW_SET avx2
#else
#define FW_SET baseline
#endif

namespace fastweights { inline namespace FW_SET {

template <class Real>
struct Lanes {
  static constexpr int count = FW_VECTOR_BYTES / sizeof(Real);
  typedef Real Register __attribute__((vector_size(FW_VECTOR_BYTES)));

  Register r;

  static FW_INLINE Lanes broadcast(Real x) { return {x - Register{}}; }
  static FW_INLINE Lanes load(const Real* p) {
    Lanes v;
    __builtin_memcpy(&v.r, p, sizeof v.r);
    return v;
  }
  FW_INLINE void store(Real* p) const { __builtin_memcpy(p, &r, sizeof r); }

  // The first n < count lanes; the others are zero, or left alone in memory.
  static FW_INLINE Lanes load(const Real* p, ptrdiff_t n);
  FW_INLINE void store(Real* p, ptrdiff_t n) const;

  friend FW_INLINE Lanes operator+(Lanes a, Lanes b) { return {a.r + b.r}; }
  friend FW_INLINE Lanes operator-(Lanes a, Lanes b) { return {a.r - b.r}; }
  friend FW_INLINE Lanes operator*(Lanes a, Lanes b) { return {a.r * b.r}; }
  friend FW_INLINE Lanes operator/(Lanes a, Lanes b) { return {a.r / b.r}; }
  friend FW_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) { return {a.r * b.r + c.r}; }
  friend FW_INLINE Lanes max(Lanes a, Lanes b) { return {a.r > b.r ? a.r : b.r}; }  // b if a or b is NaN
  friend FW_INLINE Lanes select_positive(Lanes x, Lanes a) { return {x.r > 0 ? a.r : Register{}}; }
};

#if defined(__AVX512F__)
template <>
FW_INLINE Lanes<float> Lanes<float>::load(const float* p, ptrdiff_t n) {
  return {(Register)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p)};
}
template <>
FW_INLINE Lanes<double> Lanes<double>::load(const double* p, ptrdiff_t n) {
  return {(Register)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p)};
}
template <>
FW_INLINE void Lanes<float>::store(float* p, ptrdiff_t n) const {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)r);
}
template <>
FW_INLINE void Lanes<double>::store(double* p, ptrdiff_t n) const {
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)r);
}
#elif defined(__AVX2__)
alignas(32) inline constexpr int32_t kTail[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
FW_INLINE __m256i tail_mask(ptrdiff_t words) {  // the first so many of eight
  return _mm256_loadu_si256((const __m256i*)(kTail + 8 - words));
}
template <>
FW_INLINE Lanes<float> Lanes<float>::load(const float* p, ptrdiff_t n) {
  return {(Register)_mm256_maskload_ps(p, tail_mask(n))};
}
template <>
FW_INLINE Lanes<double> Lanes<double>::load(const double* p, ptrdiff_t n) {
  return {(Register)_mm256_maskload_pd(p, tail_mask(2 * n))};
}
template <>
FW_INLINE void Lanes<float>::store(float* p, ptrdiff_t n) const {
  _mm256_maskstore_ps(p, tail_mask(n), (__m256)r);
}
template <>
FW_INLINE void Lanes<double>::store(double* p, ptrdiff_t n) const {
  _mm256_maskstore_pd(p, tail_mask(2 * n), (__m256d)r);
}
#else
template <class Real>
FW_INLINE Lanes<Real> Lanes<Real>::load(const Real* p, ptrdiff_t n) {
  Lanes v = {};
  for (int i = 0; i < count - 1; ++i)
    if (i < n) v.r[i] = p[i];
  return v;
}
template <class Real>
FW_INLINE void Lanes<Real>::store(Real* p, ptrdiff_t n) const {
  for (int i = 0; i < count - 1; ++i)
    if (i < n) p[i] = r[i];
}
#endif

// All lanes added up, always in the same order: halves onto each other.
template <class Real, int n>
struct Part {
  typedef Real Register __attribute__((vector_size(n * sizeof(Real))));
};
template <class Real, int n>
FW_INLINE Real sum_halves(typename Part<Real, n>::Register r) {
  if constexpr (n == 2) {
    return r[0] + r[1];
  } else {
    typename Part<Real, n / 2>::Register half[2];
    __builtin_memcpy(half, &r, sizeof r);
    return sum_halves<Real, n / 2>(half[0] + half[1]);
  }
}
template <class Real>
FW_INLINE Real sum(Lanes<Real> v) {
  return sum_halves<Real, Lanes<Real>::count>(v.r);
}

}}  // namespace fastweights::FW_SET
