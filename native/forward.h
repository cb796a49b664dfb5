// The recurrence forwards, a few samples side by side from their first step to their last.
#pragma once

#include <algorithm>

#include "call.h"
#include "reads.h"
#include "symmetric.h"

namespace fastweights { inline namespace FW_SET {

// Gain and bias of the layer norm in whole vectors, ones and zeros where there are none.
template <class Real> void fill_norm(const Problem<Real> &p, Real *gain, Real *bias) {
  p.clear(gain);
  p.clear(bias);
  std::fill(gain, gain + p.width, Real(1));
  if (p.call.gain) p.widen(p.in(p.call.gain), gain);
  if (p.call.norm_bias) p.widen(p.in(p.call.norm_bias), bias);
}

template <class Real> bool is_finite(const Real *x, Index count) {
  Vec<Real> zero{};
  Index i = 0;
  for (; i + kWidth<Real> <= count; i += kWidth<Real>) zero += load(x + i) - load(x + i);
  for (; i < count; ++i) zero[0] += x[i] - x[i];
  return sum_of<Real>(zero) == 0;
}

template <class Real> class Forward {
 public:
  explicit Forward(Recurrence &call) : p(call) {}

  // Runs whatever groups of samples no other thread has taken.
  void run() {
    lay_out();
    if (!scratch_.allocate()) {
      p.call.fail();
      return;
    }
    lay_out();
    prepare();
    const Index per = samples_per_group(p.batch, p.batch);
    for (Index at; (at = p.call.claim() * per) < p.batch;)
      for (const Index end = std::min(at + per, p.batch); at < end; at += kRows)
        tile(at, std::min(kRows, end - at));
  }

 private:
  struct Sample {
    Index number, length, since;  // the row from which it remembers; < 0 for everything
    Real *history, *z, *y, *v, *matrix;
  };

  void lay_out() {
    scratch_.take(bias_, p.padded);
    scratch_.take(gain_, p.padded);
    scratch_.take(norm_bias_, p.padded);
    scratch_.take(weight_pack_, Packed<Real>::size(p.width, p.width));
    scratch_.take(input_pack_, Packed<Real>::size(p.features, p.width));
    if (p.fixed) scratch_.take(fixed_pack_, Packed<Real>::size(p.width, p.width));
    if (p.hebbian) {
      rates_.lay_out(scratch_, p);
      scratch_.take(scores_, p.rows());
    }
    scratch_.take(scratch_rows_, (p.components ? p.chunk : 1) * p.padded);
    for (Sample &s : samples_) {
      scratch_.take(s.history, (p.rows() + 1) * p.padded);
      scratch_.take(s.z, p.padded);
      scratch_.take(s.y, p.padded);
      scratch_.take(s.v, p.padded);
      scratch_.take(s.matrix, p.components * p.padded * p.padded);
    }
  }

  void prepare() {
    const Index width = p.width;
    p.clear(bias_);
    if (p.call.input_bias) p.widen(p.in(p.call.input_bias), bias_);
    if (p.norm) fill_norm(p, gain_, norm_bias_);
    weight_ = Packed<Real>::make(p.in(p.call.weight), width, width, 1, width, weight_pack_);
    if (p.call.input_weight)
      input_ = Packed<Real>::make(p.in(p.call.input_weight), p.features, width, 1, p.features,
                                  input_pack_);
    finite_ = is_finite(p.in(p.call.input_weight), width * p.features);
    if (p.fixed) fixed_ = Packed<Real>::make(p.in(p.call.fixed), width, width, 1, width, fixed_pack_);
    if (p.hebbian) rates_.fill(p);
  }

  void tile(Index from, Index count) {
    Index longest = 0;
    for (Index r = 0; r < count; ++r) {
      begin(samples_[r], from + r);
      longest = std::max(longest, samples_[r].length);
    }
    for (Index start = 0; start < longest; start += p.chunk) {
      const Index end = std::min(start + p.chunk, longest);
      for (Index r = 0; r < count; ++r) begin_chunk(samples_[r], start);
      for (Index t = start; t < end; ++t) step(count, t, p.first_row() + t - start);
      for (Index r = 0; r < count; ++r) end_chunk(samples_[r], start);
    }
    for (Index r = 0; r < count; ++r) finish(samples_[r]);
  }

  void begin(Sample &s, Index number) {
    s.number = number;
    s.length = p.length_of(number);
    s.since = -1;
    for (Index i = 0; i < p.first_row(); ++i)
      p.widen(p.in(p.call.history) + (i * p.batch + number) * p.width, s.history + i * p.padded);
    Real *hidden = s.history + p.first_row() * p.padded;
    p.clear(hidden);
    if (p.call.hidden) p.widen(p.in(p.call.hidden) + number * p.width, hidden);
    for (Index m = 0; m < p.components; ++m) {
      const Real *from = p.in(p.call.start) + (number * p.components + m) * p.width * p.width;
      read_symmetric([=, this](Index i) { return from + i * p.width; }, p.width, p.padded,
                     matrix(s, m));
    }
  }

  Real *matrix(const Sample &s, Index m) const { return s.matrix + m * p.padded * p.padded; }

  void begin_chunk(Sample &s, Index start) {
    if (!p.components) return;
    s.since = -1;
    if (!p.call.kept || start >= s.length) return;
    for (Index m = 0; m < p.components; ++m) {
      Real *to = p.start(s.number, start / p.chunk, m);
      for (Index i = 0; i < p.width; to += ++i)
        memcpy(to, matrix(s, m) + i * p.padded, (i + 1) * sizeof(Real));
    }
  }

  // A ← r(n) A + Σ_j r(n − 1 − j) h_j h_jᵀ over the n steps that the sample had in this chunk.
  void end_chunk(Sample &s, Index start) {
    const Index n = std::min(s.length - start, p.chunk);
    if (!p.components || n <= 0) return;
    const Index first = std::max<Index>(s.since, 0);
    for (Index m = 0; m < p.components; ++m) {
      Real *a = matrix(s, m);
      const Real fade = p.in(p.call.fades)[m * (p.chunk + 1) + n];
      for_each_vector<Real>(p.width, [&](Index i, Index j, bool) {
        Real *to = a + i * p.padded + j;
        store(to, s.since < 0 ? fade * load(to) : Vec<Real>{});
      });
      for (Index j = first; j < n; ++j) {
        const Real write = p.in(p.call.writes)[m * p.chunk + n - 1 - j];
        for (Index i = 0; i < p.padded; i += kWidth<Real>)
          store(scratch_rows_ + j * p.padded + i, write * load(s.history + j * p.padded + i));
      }
      symmetric_outer(n - first, scratch_rows_ + first * p.padded, s.history + first * p.padded,
                      p.width, p.padded, a);
    }
    if (start + n < s.length) memcpy(s.history, s.history + n * p.padded, p.padded * sizeof(Real));
  }

  // h(t+1), the vector in row k + 1, from h(t) in row k, for all samples that are not at their end.
  void step(Index count, Index t, Index k) {
    Sample *active[kRows];
    const Real *hidden[kRows] = {}, *input[kRows] = {};
    Real *z[kRows] = {};
    Index n = 0;
    for (Index r = 0; r < count; ++r) {
      Sample &s = samples_[r];
      if (t >= s.length) continue;
      Real *row = s.history + k * p.padded;
      if (p.reset(t, s.number)) {
        p.clear(row);
        s.since = k;
      }
      const Index at = t * p.batch + s.number, features = p.source_width();
      if (t + 1 < s.length) {
        prefetch(p.in(p.call.source) + (at + p.batch) * features, features);
        prefetch<true>(p.out(p.call.output) + (at + p.batch) * p.width, p.width);
        if (p.call.kept) {
          if (p.steps) prefetch<true>(p.query(s.number, t + 1, 0), p.steps * p.width);
          if (p.norms) prefetch<true>(p.normed(s.number, t + 1, 0), p.norms * p.width);
        }
      }
      if (p.call.input_weight) {
        input[n] = p.in(p.call.source) + at * p.features;
        p.copy(bias_, s.z);
      } else {
        p.widen(p.in(p.call.source) + at * p.width, s.z);
      }
      hidden[n] = row;
      z[n] = s.z;
      active[n++] = &s;
    }
    product(n, p.width, hidden, 1, weight_, p.padded, z);
    if (p.call.input_weight) add_input(n, input, z);
    if (p.previous)
      for (Index r = 0; r < n; ++r) p.copy(hidden[r], active[r]->v);
    else
      activate(n, active, &Sample::z, p.norm_preliminary, t, 0);
    for (Index i = 0; i < p.steps; ++i) {
      for (Index r = 0; r < n; ++r) {
        Sample &s = *active[r];
        if (p.call.kept) p.copy(s.v, p.query(s.number, t, i));  // the next one covers what runs over
        p.copy(s.z, s.y);
        if (p.hebbian) remember(s, k);
      }
      if (p.fixed) {
        const Real *v[kRows];
        Real *y[kRows];
        for (Index r = 0; r < n; ++r) v[r] = active[r]->v, y[r] = active[r]->y;
        product(n, p.width, v, 1, fixed_, p.padded, y);
      }
      activate(n, active, &Sample::y, p.norm, t, p.norm_preliminary + i);
    }
    for (Index r = 0; r < n; ++r) {
      const Sample &s = *active[r];
      p.copy(s.v, s.history + (k + 1) * p.padded);
      p.narrow(s.v, p.out(p.call.output) + (t * p.batch + s.number) * p.width);
    }
  }

  // z += C x. Where all inputs are one-hot, a column of C is enough, and to the same bit, unless C
  // holds infinities.
  void add_input(Index n, const Real *const *input, Real *const *z) {
    Index place[kRows];
    bool sparse = finite_;
    for (Index r = 0; r < n && sparse; ++r) {
      place[r] = one_hot(input[r], p.features);
      sparse = place[r] >= 0;
    }
    if (!sparse) return product(n, p.features, input, 1, input_, p.padded, z);
    for (Index r = 0; r < n; ++r) {
      const Real *x = input[r] + place[r];
      const Matrix<Real> column{input_.data + place[r] * input_.stride, input_.stride, input_.panel};
      product(1, 1, &x, 1, column, p.padded, z + r);
    }
  }

  // y += A(t) v
  void remember(Sample &s, Index k) {
    const Sight<Real> sight(p, s.since, k);
    if (sight.past)
      for (Index m = 0; m < p.components; ++m) {
        const Real fade = p.in(p.call.fades)[m * (p.chunk + 1) + sight.last];
        for (Index i = 0; i < p.padded; i += kWidth<Real>)
          store(scratch_rows_ + i, fade * load(s.v + i));
        symmetric_times(matrix(s, m), p.padded, scratch_rows_, s.y);
      }
    if (sight.first < sight.last)
      read(s.history, p.padded, sight.first, sight.last, rates_.of(p, s.number, sight), s.v, s.y,
           scores_);
  }

  // v = f(LN x), or f(x). All samples at a time, or each would wait for its sums and its root.
  void activate(Index n, Sample *const *active, Real *Sample::*of, bool norm, Index t,
                Index number) {
    if (!norm) {
      for (Index r = 0; r < n; ++r)
        for (Index i = 0; i < p.padded; i += kWidth<Real>)
          store(active[r]->v + i, p.activation(load(active[r]->*of + i)));
      return;
    }
    Vec<Real> sum[kRows] = {}, squares[kRows] = {};
    Real mean[kRows], scale[kRows];
    for (Index r = 0; r < n; ++r)
      for (Index i = 0; i < p.padded; i += kWidth<Real>) sum[r] += load(active[r]->*of + i);
    sums_to<Real, kRows>(mean, sum);
    for (Real &m : mean) m /= p.width;
    for (Index r = 0; r < n; ++r)
      for (Index i = 0; i < p.padded; i += kWidth<Real>) {
        const Vec<Real> centred = p.piece_of(load(active[r]->*of + i) - mean[r], i);
        squares[r] += centred * centred;
        store(active[r]->v + i, centred);
      }
    sums_to<Real, kRows>(scale, squares);
    for (Real &s : scale) s = 1 / sqrt(s / p.width + Real(p.call.eps));
    for (Index r = 0; r < n; ++r) {
      const Sample &s = *active[r];
      Real *kept = p.call.kept ? p.normed(s.number, t, number) : nullptr;
      for (Index i = 0; i < p.padded; i += kWidth<Real>) {
        const Vec<Real> normed = scale[r] * load(s.v + i);
        if (kept) store(kept + i, normed);
        store(s.v + i, p.activation(load(gain_ + i) * normed + load(norm_bias_ + i)));
      }
      if (kept) p.scale(s.number, t, number) = scale[r];
    }
  }

  // Zeros in what is kept of steps that this sample does not have, and behind it.
  void fill_kept(const Sample &s) const {
    if (!p.call.kept) return;
    const Index next = s.number + 1, chunks = (s.length + p.chunk - 1) / p.chunk;
    std::fill(p.query(s.number, s.length, 0), p.query(next, 0, 0), Real(0));
    std::fill(p.normed(s.number, s.length, 0), p.normed(next, 0, 0), Real(0));
    std::fill(&p.scale(s.number, s.length, 0), &p.scale(next, 0, 0), Real(0));
    std::fill(p.start(s.number, chunks, 0), p.start(next, 0, 0), Real(0));
  }

  void finish(Sample &s) {
    fill_kept(s);
    Real *output = p.out(p.call.output);
    for (Index t = s.length; t < p.length; ++t)
      std::fill_n(output + (t * p.batch + s.number) * p.width, p.width, Real(0));
    Real *last = p.out(p.call.last) + s.number * p.width;
    if (s.length) memcpy(last, output + ((s.length - 1) * p.batch + s.number) * p.width, p.width * sizeof(Real));
    else p.narrow(s.history + p.first_row() * p.padded, last);
    for (Index m = 0; m < p.components; ++m)
      write_symmetric(matrix(s, m), p.width, p.padded,
                      p.out(p.call.final) +
                          (s.number * p.components + m) * p.width * p.width);
    // The vectors in memory, the newest last, nothing in front of those that are forgotten.
    Real *written = p.out(p.call.written);
    if (!written) return;
    for (Index i = 0; i < p.call.remembered; ++i) {
      const Index row = p.carried + s.length - p.call.remembered + i;
      Real *to = written + (i * p.batch + s.number) * p.width;
      if (row < std::max<Index>(s.since, 0)) std::fill_n(to, p.width, Real(0));
      else p.narrow(s.history + row * p.padded, to);
    }
  }

  Problem<Real> p;
  bool finite_ = true;
  Scratch scratch_;
  Rates<Real> rates_;
  Matrix<Real> weight_, input_, fixed_;
  Real *bias_ = nullptr, *gain_ = nullptr, *norm_bias_ = nullptr, *weight_pack_ = nullptr,
       *input_pack_ = nullptr, *fixed_pack_ = nullptr, *scratch_rows_ = nullptr, *scores_ = nullptr;
  Sample samples_[kRows] = {};
};

template <class Real> void forward(Recurrence &call) { Forward<Real>(call).run(); }

}}  // namespace fastweights::FW_SET
