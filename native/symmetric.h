// Symmetric matrices, of which only the rows up to the diagonal are kept in mind: row i holds its
// columns up to the end of the vector that the diagonal crosses. Rows are `padded` numbers apart, and
// there are as many. What stands right of that is never looked at.
#pragma once

#include "products.h"

namespace fastweights { inline namespace FW_SET {

template <class Real> constexpr Index columns_of(Index row) {
  return (row / kWidth<Real> + 1) * kWidth<Real>;
}

// out += A v. Each number of A is fetched once, for its row and for its column.
template <class Real>
void symmetric_times(const Real *matrix, Index padded, const Real *v, Real *out) {
  constexpr Index width = kWidth<Real>, rows = width < kVectors * 2 ? width : kVectors * 2;
  for (Index i = 0; i < padded; i += rows, matrix += rows * padded) {
    Vec<Real> factor[rows], sum[rows];
    const Index diagonal = i / width * width;
    for (Index r = 0; r < rows; ++r) {
      factor[r] = all(v[i + r]);
      sum[r] = load(matrix + r * padded + diagonal) * load(v + diagonal);
    }
    for (Index j = 0; j < diagonal; j += width) {
      const Vec<Real> across = load(v + j);
      Vec<Real> down = load(out + j);
      for (Index r = 0; r < rows; ++r) {
        const Vec<Real> a = load(matrix + r * padded + j);
        sum[r] += a * across;
        down += a * factor[r];
      }
      store(out + j, down);
    }
    const auto total = sums<Real, rows>(sum);
    using Total = std::remove_const_t<decltype(total)>;
    store_all(out + i, Total(load_all<Total>(out + i) + total));
  }
}

// A += Σ_k left[k] right[k]ᵀ, a sum that is symmetric; rows of both `padded` numbers apart.
template <class Real>
void symmetric_outer(Index terms, const Real *left, const Real *right, Index height, Index padded,
                     Real *sum) {
  for (Index i = 0; i < height; i += kRows) {
    const Index count = height - i < kRows ? height - i : kRows;
    const Real *a[kRows];
    Real *out[kRows];
    for (Index r = 0; r < count; ++r) a[r] = left + i + r, out[r] = sum + (i + r) * padded;
    product(count, terms, a, padded, Matrix<Real>::rows(right, padded),
            columns_of<Real>(i + count - 1), out);
  }
}

// Calls each(i, j, doubled) for the vectors of A, doubled if they stand for two of the matrix.
template <class Real, class Function>
FW_INLINE void for_each_vector(Index height, Function each) {
  for (Index i = 0; i < height; ++i) {
    const Index last = columns_of<Real>(i) - kWidth<Real>;
    for (Index j = 0; j < last; j += kWidth<Real>) each(i, j, true);
    each(i, last, false);
  }
}

// From row i of at least i + 1 numbers, rows beginning at from(i), to A, and the rest of it zero.
template <class Real, class From>
void read_symmetric(From from, Index height, Index padded, Real *to) {
  memset(to, 0, padded * padded * sizeof(Real));
  for (Index i = 0; i < height; ++i) {
    memcpy(to + i * padded, from(i), (i + 1) * sizeof(Real));
    for (Index j = i / kWidth<Real> * kWidth<Real>; j < i; ++j)
      to[j * padded + i] = to[i * padded + j];
  }
}

// A whole, `height` numbers in a row.
template <class Real>
void write_symmetric(const Real *from, Index height, Index padded, Real *to) {
  for (Index i = 0; i < height; ++i)
    for (Index j = 0; j <= i; ++j)
      to[i * height + j] = to[j * height + i] = from[i * padded + j];
}

}}  // namespace fastweights::FW_SET
