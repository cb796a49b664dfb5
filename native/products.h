// Products of a few rows with a matrix, blocked for the registers: everything of order H² is here.
#pragma once

#include "simd.h"

namespace fastweights { inline namespace FW_SET {

// Rows and vectors of one block of sums. With 32 registers sixteen sums, four vectors of the
// matrix and the numbers on their way fit; with 16 registers eight do. A single row takes twice the
// vectors, since a sum waits for the one before.
constexpr Index kRows = 4;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr Index kVectors = 4;
#else
constexpr Index kVectors = 2;
#endif

// A matrix whose rows are the terms of a product, in panels of kVectors vectors: row k of a panel
// begins at data + k · stride, and panels are `panel` numbers apart.
template <class Real> struct Matrix {
  const Real *data;
  Index stride, panel;
  // Rows of whole vectors, one after another.
  static Matrix rows(const Real *data, Index stride) {
    return {data, stride, kVectors * kWidth<Real>};
  }
};

// out[r][:] += Σ_k a[r][k · step] · matrix[k][:], for `rows` rows and `vectors` vectors.
template <class Real, Index rows, Index vectors>
FW_INLINE void block(Index terms, const Real *const *a, Index step, Matrix<Real> matrix,
                     Real *const *out, Index column) {
  constexpr Index width = kWidth<Real>;
  Vec<Real> sum[rows][vectors];
  for (Index r = 0; r < rows; ++r)
    for (Index v = 0; v < vectors; ++v) sum[r][v] = load(out[r] + column + v * width);
  for (Index k = 0; k < terms; ++k) {
    Vec<Real> line[vectors];
    for (Index v = 0; v < vectors; ++v)
      line[v] = load(matrix.data + v / kVectors * matrix.panel + v % kVectors * width);
    matrix.data += matrix.stride;
    for (Index r = 0; r < rows; ++r) {
      const Vec<Real> factor = all(a[r][k * step]);
      for (Index v = 0; v < vectors; ++v) sum[r][v] += factor * line[v];
    }
  }
  for (Index r = 0; r < rows; ++r)
    for (Index v = 0; v < vectors; ++v) store(out[r] + column + v * width, sum[r][v]);
}

template <class Real, Index rows, Index vectors>
FW_INLINE void block_of(Index count, Index terms, const Real *const *a, Index step,
                        Matrix<Real> matrix, Real *const *out, Index column) {
  if constexpr (vectors > 1)
    if (count < vectors)
      return block_of<Real, rows, vectors - 1>(count, terms, a, step, matrix, out, column);
  block<Real, rows, vectors>(terms, a, step, matrix, out, column);
}

template <class Real, Index rows>
void product_of(Index terms, const Real *const *a, Index step, Matrix<Real> matrix, Index columns,
                Real *const *out) {
  constexpr Index width = kWidth<Real>, most = rows == 1 ? 2 * kVectors : kVectors;
  for (Index column = 0; column < columns; column += most * width) {
    block_of<Real, rows, most>((columns - column) / width, terms, a, step, matrix, out, column);
    matrix.data += most / kVectors * matrix.panel;
  }
}

// out[r][:] += Σ_k a[r][k · step] · matrix[k][:] for `count` rows, at most kRows, and whole vectors
// of columns. The sums of a row are taken in the same order whatever rows stand beside it.
template <class Real>
void product(Index count, Index terms, const Real *const *a, Index step, Matrix<Real> matrix,
             Index columns, Real *const *out) {
  switch (count) {
    case 0: return;
    case 1: return product_of<Real, 1>(terms, a, step, matrix, columns, out);
    case 2: return product_of<Real, 2>(terms, a, step, matrix, columns, out);
    case 3: return product_of<Real, 3>(terms, a, step, matrix, columns, out);
    default: return product_of<Real, 4>(terms, a, step, matrix, columns, out);
  }
}

// sum[i][:] += Σ_k left[k][i] · right[k][:], rows of sum and left and right `to`, `from` and
// `stride` numbers apart: the gradient of a matrix from a few steps of one sample.
template <class Real>
void outer(Index height, Index terms, const Real *left, Index from, const Real *right, Index stride,
           Index columns, Real *sum, Index to) {
  for (Index i = 0; i < height; i += kRows) {
    const Index count = height - i < kRows ? height - i : kRows;
    const Real *a[kRows];
    Real *out[kRows];
    for (Index r = 0; r < count; ++r) a[r] = left + i + r, out[r] = sum + (i + r) * to;
    product(count, terms, a, from, Matrix<Real>::rows(right, stride), columns, out);
  }
}

// A matrix copied into panels, its rows the terms: from[k · row + j · column] for k < terms and
// j < columns, zeros up to whole vectors.
template <class Real> struct Packed {
  static Index size(Index terms, Index columns) {
    constexpr Index width = kVectors * kWidth<Real>;
    return (columns + width - 1) / width * width * terms;
  }
  static Matrix<Real> make(const Real *from, Index terms, Index columns, Index row, Index column,
                           Real *to) {
    constexpr Index width = kVectors * kWidth<Real>;
    const Matrix<Real> made{to, width, width * terms};
    for (Index start = 0; start < columns; start += width, to += width * terms) {
      const Index present = columns - start < width ? columns - start : width;
      if (column == 1) {
        for (Index k = 0; k < terms; ++k) {
          Real *line = to + k * width;
          memcpy(line, from + k * row + start, present * sizeof(Real));
          for (Index j = present; j < width; ++j) line[j] = 0;
        }
        continue;
      }
      for (Index k = 0; k < terms; ++k)
        for (Index j = present; j < width; ++j) to[k * width + j] = 0;
      for (Index j = 0; j < present; ++j) {
        const Real *line = from + (start + j) * column;
        for (Index k = 0; k < terms; ++k) to[k * width + j] = line[k * row];
      }
    }
    return made;
  }
};

}}  // namespace fastweights::FW_SET
