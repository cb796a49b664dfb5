// Reads of a history: Σ_τ ρ(τ) h(τ) (h(τ)·v), the vectors of one sample lying one after another.
#pragma once

#include "simd.h"

namespace fastweights { inline namespace FW_SET {

// Vectors of a history that are read together, so that they are fetched once for both products.
constexpr Index kTogether = 8;  // at most

// scores[q][r] = h(r) · query[q] for `rows` vectors of a history.
template <class Real, Index rows, Index queries>
FW_INLINE void scores_of(const Real *history, Index padded, const Real *const *query,
                                  Real (*scores)[kTogether]) {
  constexpr Index width = kWidth<Real>;
  constexpr Index group = rows < width ? rows : width;
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
  for (Index q = 0; q < queries; ++q)
    for (Index r = 0; r < rows; r += group) {
      const Vec<Real> total = sums<Real, group>(&sum[q][r]);
      memcpy(&scores[q][r], &total, group * sizeof(Real));
    }
}

// to += Σ_r factor[r] · h(r)
template <class Real, Index rows>
FW_INLINE void add_rows(const Real *history, Index padded, const Real *factor, Real *to) {
  constexpr Index width = kWidth<Real>;
  Vec<Real> factors[rows];
  for (Index r = 0; r < rows; ++r) factors[r] = all(factor[r]);
  for (Index i = 0; i < padded; i += width) {
    Vec<Real> sum = load(to + i);
FW_UNROLL(8)
    for (Index r = 0; r < rows; ++r) sum += factors[r] * load(history + r * padded + i);
    store(to + i, sum);
  }
}

template <class Real, Index rows>
FW_INLINE void read_rows(const Real *history, Index padded, const Real *rate,
                                  const Real *query, Real *to) {
  Real scores[1][kTogether];
  scores_of<Real, rows, 1>(history, padded, &query, scores);
  for (Index r = 0; r < rows; ++r) scores[0][r] *= rate[r];
  add_rows<Real, rows>(history, padded, scores[0], to);
}

// Calls `rows_at(std::integral_constant<Index, rows>, at)` for all of first … last − 1, most of them
// kTogether at a time.
template <class Function> FW_INLINE void in_blocks(Index first, Index last, Function rows_at) {
  for (; first + 8 <= last; first += 8) rows_at(std::integral_constant<Index, 8>{}, first);
  if (last - first >= 4) rows_at(std::integral_constant<Index, 4>{}, first), first += 4;
  if (last - first >= 2) rows_at(std::integral_constant<Index, 2>{}, first), first += 2;
  if (last > first) rows_at(std::integral_constant<Index, 1>{}, first);
}

// to += Σ_τ rate(τ) h(τ) (h(τ)·query) over the vectors first … last − 1.
template <class Real>
void read(const Real *history, Index padded, Index first, Index last, const Real *rate,
          const Real *query, Real *to) {
  in_blocks(first, last, [&]<Index rows>(std::integral_constant<Index, rows>, Index at) {
    read_rows<Real, rows>(history + at * padded, padded, rate + at, query, to);
  });
}

// Backwards, where the read's result has the gradient dy: the gradient of the query is the same
// read of dy, and with the scores c = h·v and e = h·dy, ρ c goes to `of_result` and ρ e to
// `of_query` of each vector (`apart` numbers from one to the next), by which dy and v are to be
// added to its gradient; c e is added to `drate` of each. Either may be null.
template <class Real, Index rows>
FW_INLINE void read_back_rows(const Real *history, Index padded, const Real *rate,
                                       const Real *const *query, Real *to, Real *of_result,
                                       Index apart, Real *drate) {
  Real scores[2][kTogether], scaled[kTogether];
  scores_of<Real, rows, 2>(history, padded, query, scores);
  for (Index r = 0; r < rows; ++r) scaled[r] = rate[r] * scores[1][r];
  if (of_result)
    for (Index r = 0; r < rows; ++r) {
      of_result[r * apart] = rate[r] * scores[0][r];
      of_result[r * apart + 1] = scaled[r];
    }
  if (drate)
    for (Index r = 0; r < rows; ++r) drate[r] += scores[0][r] * scores[1][r];
  add_rows<Real, rows>(history, padded, scaled, to);
}

template <class Real>
void read_back(const Real *history, Index padded, Index first, Index last, const Real *rate,
               const Real *query, const Real *dresult, Real *dquery, Real *factors, Index apart,
               Real *drate) {
  const Real *both[2] = {query, dresult};
  in_blocks(first, last, [&]<Index rows>(std::integral_constant<Index, rows>, Index at) {
    read_back_rows<Real, rows>(history + at * padded, padded, rate + at, both, dquery,
                               factors ? factors + at * apart : nullptr, apart,
                               drate ? drate + at : nullptr);
  });
}

}}  // namespace fastweights::FW_SET
