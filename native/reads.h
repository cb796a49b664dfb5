// Reads of a history: Σ_τ ρ(τ) h(τ) (h(τ)·v), the vectors of one sample lying one after another.
//
// First all scores, then all sums: a sum that went through memory between the two would wait for
// its last store at every few vectors, which costs more than fetching the history again.
#pragma once

#include <algorithm>

#include "products.h"

namespace fastweights { inline namespace FW_SET {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr Index kMostFused = 8;  // vectors of a sum, beside which two queries' scores fit
#else
constexpr Index kMostFused = 0;
#endif
constexpr Index kTogether = 8;  // vectors of a history whose scores are found together, at most

// Calls found(i, scores) for the vectors first … last − 1, a few at a time from the i-th on:
// scores[q] holds their scores with query[q], one to a lane.
template <class Real, Index rows, Index queries, class Found>
FW_INLINE void scores_of(const Real *history, Index padded, Index first,
                         const Real *const *query, Found found) {
  constexpr Index width = kWidth<Real>;
  constexpr Index group = rows < width ? rows : width;
  history += first * padded;
  Vec<Real> sum[queries][rows] = {};
  for (Index i = 0; i < padded; i += width) {
    Vec<Real> asked[queries];
    for (Index q = 0; q < queries; ++q) asked[q] = load(query[q] + i);
    FW_UNROLL(8)
    for (Index r = 0; r < rows; ++r) {
      const Vec<Real> h = load(history + r * padded + i);
      for (Index q = 0; q < queries; ++q) sum[q][r] += h * asked[q];
    }
  }
  for (Index r = 0; r < rows; r += group) {
    typename Part<Real, group>::Type scores[queries];
    for (Index q = 0; q < queries; ++q) scores[q] = sums<Real, group>(&sum[q][r]);
    found(first + r, scores);
  }
}

template <class Real, Index queries, class Found>
FW_INLINE void all_scores(const Real *history, Index padded, Index first, Index last,
                          const Real *const *query, Found found) {
  for (; first + kTogether <= last; first += kTogether)
    scores_of<Real, kTogether, queries>(history, padded, first, query, found);
  if (last - first >= 4)
    scores_of<Real, 4, queries>(history, padded, first, query, found), first += 4;
  if (last - first >= 2)
    scores_of<Real, 2, queries>(history, padded, first, query, found), first += 2;
  if (last > first) scores_of<Real, 1, queries>(history, padded, first, query, found);
}

// to += Σ_τ factor(τ) h(τ)
template <class Real>
FW_INLINE void add_vectors(const Real *history, Index padded, Index first, Index last,
                           const Real *factor, Real *to) {
  const Real *factors = factor + first;
  product(1, last - first, &factors, 1, Matrix<Real>::rows(history + first * padded, padded),
          padded, &to);
}

// Calls found(i, scores) for all of them, and then to += Σ_τ factor(τ) h(τ) with the factors that it
// left. The sum stays in registers, and a vector is fetched for both while it is near.
template <class Real, Index queries, Index vectors, class Found>
void read_of(const Real *history, Index first, Index last, const Real *const *query, Found found,
             const Real *factor, Real *to) {
  constexpr Index width = kWidth<Real>, padded = vectors * width;
  Vec<Real> sum[vectors];
  for (Index v = 0; v < vectors; ++v) sum[v] = load(to + v * width);
  const auto take = [&]<Index rows>(std::integral_constant<Index, rows>) FW_ALWAYS {
    scores_of<Real, rows, queries>(history, padded, first, query, found);
    const Real *h = history + first * padded;
    FW_UNROLL(8)
    for (Index r = 0; r < rows; ++r) {
      const Vec<Real> f = all(factor[first + r]);
      for (Index v = 0; v < vectors; ++v) sum[v] += f * load(h + r * padded + v * width);
    }
    first += rows;
  };
  while (first + kTogether <= last) take(std::integral_constant<Index, kTogether>());
  if (last - first >= 4) take(std::integral_constant<Index, 4>());
  if (last - first >= 2) take(std::integral_constant<Index, 2>());
  if (last > first) take(std::integral_constant<Index, 1>());
  for (Index v = 0; v < vectors; ++v) store(to + v * width, sum[v]);
}

template <class Real, Index queries, Index vectors = 1, class Found>
FW_INLINE void read_any(const Real *history, Index padded, Index first, Index last,
                        const Real *const *query, Found found, const Real *factor, Real *to) {
  if constexpr (vectors <= kMostFused) {
    if (padded == vectors * kWidth<Real>)
      return read_of<Real, queries, vectors>(history, first, last, query, found, factor, to);
    return read_any<Real, queries, vectors + 1>(history, padded, first, last, query, found, factor,
                                                to);
  }
  all_scores<Real, queries>(history, padded, first, last, query, found);
  add_vectors(history, padded, first, last, factor, to);
}

// to += Σ_τ rate(τ) h(τ) (h(τ)·query) over the vectors first … last − 1, which `scores` has room for.
template <class Real>
void read(const Real *history, Index padded, Index first, Index last, const Real *rate,
          const Real *query, Real *to, Real *scores) {
  const auto found = [=](Index i, auto *found) FW_ALWAYS {
    using Scores = std::remove_reference_t<decltype(*found)>;
    store_all(scores + i, Scores(load_all<Scores>(rate + i) * found[0]));
  };
  read_any<Real, 1>(history, padded, first, last, &query, found, scores, to);
}

// Backwards, where the read's result has the gradient dy. The gradient of the query is the same
// read of dy. With the scores c = h·v and e = h·dy, dy and v are to be added to the gradient of a
// vector by ρ c and ρ e, which go to `of_dy` and `of_query`; c e is added to `drate`, if that is
// given. All are indexed by the vector.
template <class Real>
void read_back(const Real *history, Index padded, Index first, Index last, const Real *rate,
               const Real *query, const Real *dy, Real *dquery, Real *of_dy, Real *of_query,
               Real *drate) {
  const Real *both[2] = {query, dy};
  const auto found = [=](Index i, auto *found) FW_ALWAYS {
    using Scores = std::remove_reference_t<decltype(*found)>;
    const Scores rates = load_all<Scores>(rate + i);
    store_all(of_dy + i, Scores(rates * found[0]));
    store_all(of_query + i, Scores(rates * found[1]));
    if (drate) store_all(drate + i, Scores(load_all<Scores>(drate + i) + found[0] * found[1]));
  };
  read_any<Real, 2>(history, padded, first, last, both, found, of_query, dquery);
}

}}  // namespace fastweights::FW_SET
