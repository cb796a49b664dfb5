// The gradients of the recurrence, a few samples side by side from their last step to their first.
//
// Of what a memory h(τ) gets from the reads of later steps t, Σ_t ρ [c ȳ + e v] (the README beside
// the reference derives it), only the scores c and e are found when step t is taken. They are kept
// for a slice of steps. Within the slice a memory collects its sum when its turn comes; what goes
// to the memories before the slice, and to the weights, is one product at the end of it.
#pragma once

#include "forward.h"

namespace fastweights { inline namespace FW_SET {

constexpr Index kSlice = 16;  // reads whose scores are kept

template <class Real> class Backward {
 public:
  explicit Backward(Recurrence &call)
      : p(call), slice_(std::max<Index>(1, kSlice / std::max<Index>(1, p.steps))),
        reads_(2 * std::max<Index>(1, p.steps)),
        per_group_(samples_per_group(p.batch, kMostGroups)),
        groups_((p.batch + per_group_ - 1) / per_group_) {}

  void run() {
    lay_out();
    const bool enough = scratch_.allocate();
    if (enough) {
      lay_out();
      prepare();
    } else {
      p.call.fail();
    }
    for (Index group; (group = p.call.claim()) < groups_;) {
      const Index count = sum_places(nullptr);
      sums_ = enough ? static_cast<Real *>(pool.take(count * sizeof(Real))) : nullptr;
      p.call.sums[group] = sums_;
      if (sums_) {
        sum_places(sums_);
        memset(sums_, 0, count * sizeof(Real));
        const Index end = std::min((group + 1) * per_group_, p.batch);
        for (Index at = group * per_group_; at < end; at += kRows)
          tile(at, std::min(kRows, end - at));
      } else {
        p.call.fail();
      }
      if (p.call.finish() + 1 == groups_) gather();
    }
  }

 private:
  struct Sample {
    Index number, length, steps;  // steps in this chunk
    Real *history, *dhistory;     // the vectors in memory, and their gradients
    Real *gradient;               // of the hidden vector at hand
    Real *dz, *dy;                // of the steps of a slice; work space
    Real *reads;                  // pairs of ȳ and v of the reads of a chunk or a slice
    Real *factors;                // by how much the memories get them
    Real *matrix, *dmatrix;
    Index *since;                 // at each step of the chunk, as in Forward
    Index forgets() const { return steps ? since[steps - 1] : -1; }
  };
  // Sums over samples, of one group.
  struct Sums {
    Real *weight, *input_weight, *fixed, *bias, *gain, *norm_bias, *rates, *writes, *fades;
  };

  Index span() const { return p.components ? p.chunk : slice_; }  // steps whose reads are kept
  bool pushes() const { return p.hebbian && !p.detach && p.steps; }
  bool learns() const { return p.call.drates || p.call.dwrites; }
  bool shares_rates() const { return p.call.rate_samples == 1; }
  Index rate_count() const {
    return p.by_clock ? p.call.rate_rows * p.call.ages : Rates<Real>::ages(p);
  }

  void lay_out() {
    scratch_.take(gain_, p.padded);
    scratch_.take(norm_bias_, p.padded);
    scratch_.take(weight_pack_, Packed<Real>::size(p.width, p.width));
    scratch_.take(input_pack_, Packed<Real>::size(p.width, p.features));
    if (p.fixed) scratch_.take(fixed_pack_, Packed<Real>::size(p.width, p.width));
    if (p.hebbian) {
      rates_.lay_out(scratch_, p);
      scratch_.take(scores_, 2 * p.rows());
    }
    if (p.by_clock) scratch_.take(drates_, p.rows());
    scratch_.take(dinput_, kRows * p.padded_features);
    scratch_.take(work_, p.padded);
    scratch_.take(scaled_, p.components ? reads_ * p.chunk * p.padded : 0);
    for (Sample &s : samples_) {
      scratch_.take(s.history, (p.rows() + 1) * p.padded);
      scratch_.take(s.dhistory, (p.rows() + 1) * p.padded);
      scratch_.take(s.gradient, p.padded);
      scratch_.take(s.dy, p.padded);
      scratch_.take(s.dz, slice_ * p.padded);
      scratch_.take(s.reads, reads_ * span() * p.padded);
      scratch_.take(s.factors, p.hebbian ? p.rows() * reads_ * slice_ : 0);
      scratch_.take(s.matrix, p.components * p.padded * p.padded);
      scratch_.take(s.dmatrix, p.components * p.padded * p.padded);
      scratch_.take(s.since, p.chunk);
    }
  }

  Index sum_places(Real *from) {
    Index used = 0;
    const auto take = [&](Real *&place, Index count) {
      place = from && count ? from + used : nullptr;
      used += whole<Real>(count);
    };
    take(sum_.weight, p.width * p.padded);
    take(sum_.input_weight, p.features * p.padded);
    take(sum_.fixed, p.fixed ? p.width * p.padded : 0);
    take(sum_.bias, p.padded);
    take(sum_.gain, p.padded);
    take(sum_.norm_bias, p.padded);
    take(sum_.rates, learns() && shares_rates() ? rate_count() : 0);
    take(sum_.writes, p.components * p.chunk);
    take(sum_.fades, p.components * (p.chunk + 1));
    return used;
  }

  void prepare() {
    const Index width = p.width;
    if (p.norm) fill_norm(p, gain_, norm_bias_);
    weight_ = Packed<Real>::make(p.in(p.call.weight), width, width, width, 1, weight_pack_);
    if (p.call.dsource && p.call.input_weight)
      input_ = Packed<Real>::make(p.in(p.call.input_weight), width, p.features, p.features, 1,
                                  input_pack_);
    if (p.fixed)
      fixed_ = Packed<Real>::make(p.in(p.call.fixed), width, width, width, 1, fixed_pack_);
    if (p.hebbian) rates_.fill(p);
  }

  void tile(Index from, Index count) {
    Index longest = 0;
    for (Index r = 0; r < count; ++r) {
      begin(samples_[r], from + r);
      longest = std::max(longest, samples_[r].length);
    }
    for (Index chunk = (longest + p.chunk - 1) / p.chunk - 1; chunk >= 0; --chunk) {
      const Index start = chunk * p.chunk, end = std::min(start + p.chunk, longest);
      for (Index r = 0; r < count; ++r) begin_chunk(samples_[r], start);
      for (Index last = end; last > start;) {
        const Index begin = std::max(start, last - slice_);
        begin_slice(count, begin, last);
        for (Index t = last - 1; t >= begin; --t) step(count, start, begin, last, t);
        for (Index r = 0; r < count; ++r) end_slice(samples_[r], start, begin, last);
        last = begin;
      }
      for (Index r = 0; r < count; ++r) end_chunk(samples_[r]);
    }
    for (Index r = 0; r < count; ++r) finish(samples_[r]);
  }

  void begin(Sample &s, Index number) {
    s.number = number;
    s.length = p.length_of(number);
    p.clear(s.gradient);
    if (p.call.dlast) p.widen(p.in(p.call.dlast) + number * p.width, s.gradient);
    memset(s.dmatrix, 0, p.components * p.padded * p.padded * sizeof(Real));
    for (Index m = 0; m < p.components && p.call.dfinal; ++m) {  // its symmetric part counts
      const Real *from = p.in(p.call.dfinal) + (number * p.components + m) * p.width * p.width;
      Real *to = at(s.dmatrix, m);
      for (Index i = 0; i < p.width; ++i)
        for (Index j = 0; j < std::min(p.width, columns_of<Real>(i)); ++j)
          to[i * p.padded + j] = (from[i * p.width + j] + from[j * p.width + i]) / 2;
    }
    if (!s.length && !p.components) begin_chunk(s, 0);
  }

  Real *at(Real *matrices, Index m) const { return matrices + m * p.padded * p.padded; }

  // The vectors of a chunk again, and what its last line, which makes the next matrix, sends them.
  void begin_chunk(Sample &s, Index start) {
    s.steps = std::clamp<Index>(s.length - start, 0, p.chunk);
    const Index first = p.first_row();
    memset(s.dhistory, 0, (first + s.steps + 1) * p.padded * sizeof(Real));
    for (Index i = 0; i < first; ++i)
      p.widen(p.in(p.call.history) + (i * p.batch + s.number) * p.width, s.history + i * p.padded);
    for (Index k = 0, since = -1; k < s.steps; ++k) {
      Real *row = s.history + (first + k) * p.padded;
      if (p.reset(start + k, s.number)) {
        since = first + k;
        p.clear(row);
      } else {
        hidden(s, start + k, row);
      }
      s.since[k] = since;
    }
    if (!p.hebbian) return;
    if (p.call.dwritten) from_written(s);
    for (Index m = 0; m < p.components && s.steps; ++m) from_matrix(s, start, m);
  }

  // h(t), from what was kept.
  void hidden(const Sample &s, Index t, Real *to) const {
    if (t == 0) {
      p.clear(to);
      if (p.call.hidden) p.widen(p.in(p.call.hidden) + s.number * p.width, to);
    } else if (p.call.output) {
      p.widen(p.in(p.call.output) + ((t - 1) * p.batch + s.number) * p.width, to);
    } else {
      const Real *normed = p.normed(s.number, t - 1, p.norms - 1);
      for (Index i = 0; i < p.padded; i += kWidth<Real>)
        store(to + i, p.activation(load(gain_ + i) * p.piece(normed, i) + load(norm_bias_ + i)));
    }
  }

  void from_written(Sample &s) const {
    for (Index i = 0; i < p.call.remembered; ++i) {
      const Index row = p.carried + s.length - p.call.remembered + i;
      if (row >= std::max<Index>(s.forgets(), 0))
        p.widen(p.in(p.call.dwritten) + (i * p.batch + s.number) * p.width,
                s.dhistory + row * p.padded);
    }
  }

  // Through A ← r(n) A + Σ_j r(n − 1 − j) h_j h_jᵀ.
  void from_matrix(Sample &s, Index start, Index m) {
    const Index n = s.steps, first = std::max<Index>(s.forgets(), 0);
    const Real *kept = p.start(s.number, start / p.chunk, m);
    Real *matrix = at(s.matrix, m), *dmatrix = at(s.dmatrix, m);
    read_symmetric([=](Index i) { return kept + i * (i + 1) / 2; }, p.width, p.padded, matrix);
    for (Index j = first; j < n; ++j) {
      const Real *h = s.history + j * p.padded;
      p.clear(work_);
      symmetric_times(dmatrix, p.padded, h, work_);
      const Real write = 2 * p.in(p.call.writes)[m * p.chunk + n - 1 - j];
      Vec<Real> dwrite{};
      for (Index i = 0; i < p.padded; i += kWidth<Real>) {
        dwrite += load(h + i) * load(work_ + i);
        Real *to = s.dhistory + j * p.padded + i;
        if (!p.detach) store(to, load(to) + write * load(work_ + i));
      }
      sum_.writes[m * p.chunk + n - 1 - j] += sum_of<Real>(dwrite);
    }
    const bool lasts = s.forgets() < 0;
    const Real fade = p.in(p.call.fades)[m * (p.chunk + 1) + n];
    Vec<Real> dfade{};
    for_each_vector<Real>(p.width, [&](Index i, Index j, bool doubled) {
      const Index place = i * p.padded + j;
      const Vec<Real> gradient = load(dmatrix + place);
      dfade += Real(1 + doubled) * gradient * load(matrix + place);
      store(dmatrix + place, lasts ? fade * gradient : Vec<Real>{});
    });
    if (lasts) sum_.fades[m * (p.chunk + 1) + n] += sum_of<Real>(dfade);
  }

  void begin_slice(Index count, Index begin, Index end) {
    for (Index r = 0; r < count; ++r) {
      const Sample &s = samples_[r];
      if (pushes()) memset(s.factors, 0, (end - begin) * reads_ * p.rows() * sizeof(Real));
      memset(s.dz, 0, (end - begin) * p.padded * sizeof(Real));
    }
  }

  // The pair of ȳ and v of inner step i of step t; those of a slice follow on one another.
  Real *read_of(const Sample &s, Index start, Index begin, Index t, Index i) const {
    return s.reads + ((t - (p.components ? start : begin)) * p.steps + i) * 2 * p.padded;
  }

  // By how much the vectors in memory get the pairs of the reads of step t: a row for each.
  Real *factors_of(const Sample &s, Index begin, Index t) const {
    return s.factors + (t - begin) * reads_ * p.rows();
  }

  // From the gradient of h(t+1), in row k + 1, to that of h(t), in row k.
  void step(Index count, Index start, Index begin, Index end, Index t) {
    Sample *active[kRows];
    Real *gradient[kRows], *dz[kRows];
    const Real *from[kRows];
    Index n = 0;
    const Index k = p.first_row() + t - start;
    for (Index r = 0; r < count; ++r) {
      Sample &s = samples_[r];
      if (t >= s.length) continue;
      if (t > 0) fetch(s.number, t - 1);
      collect(s, start, begin, end, t, k);
      gradient[n] = s.gradient;
      from[n] = dz[n] = s.dz + (t - begin) * p.padded;
      active[n++] = &s;
    }
    for (Index i = p.steps - 1; i >= 0; --i) {
      for (Index r = 0; r < n; ++r) {
        Sample &s = *active[r];
        Real *read = read_of(s, start, begin, t, i);
        through_activation(s, s.gradient, read, p.norm, t, p.norm_preliminary + i, i + 1);
        const Real *query = p.query(s.number, t, i);
        for (Index j = 0; j < p.padded; j += kWidth<Real>) {
          store(dz[r] + j, load(dz[r] + j) + load(read + j));
          store(read + p.padded + j, p.piece(query, j));
        }
        p.clear(s.gradient);
        if (p.hebbian) remembered(s, start, begin, t, k, i, read);
      }
      if (p.fixed) {
        const Real *read[kRows];
        for (Index r = 0; r < n; ++r) read[r] = read_of(*active[r], start, begin, t, i);
        product(n, p.width, read, 1, fixed_, p.padded, gradient);
      }
    }
    for (Index r = 0; r < n; ++r) {
      Sample &s = *active[r];
      if (p.previous) continue;  // the gradient is already that of h(t)
      through_activation(s, s.gradient, s.dy, p.norm_preliminary, t, 0, 0);
      p.add(s.dy, dz[r]);
      p.clear(s.gradient);
    }
    product(n, p.width, from, 1, weight_, p.padded, gradient);
    if (p.call.dsource) to_source(n, active, from, t);
    for (Index r = 0; r < n; ++r)
      if (active[r]->since[t - start] == k) p.clear(active[r]->gradient);  // forgotten before step t
  }

  // Inline, or g++ takes a function that only fetches ahead for one that does nothing.
  FW_INLINE void fetch(Index sample, Index t) const {
    const Index at = t * p.batch + sample;
    if (p.call.doutput) prefetch(p.in(p.call.doutput) + at * p.width, p.width);
    if (p.steps) prefetch(p.query(sample, t, 0), p.steps * p.width);
    if (p.norms) prefetch(p.normed(sample, t, 0), p.norms * p.width);
    if (p.call.input_weight) prefetch(p.in(p.call.source) + at * p.features, p.features);
  }

  // What the output and the memories send to h(t+1), beside what W sent.
  void collect(Sample &s, Index start, Index begin, Index end, Index t, Index k) {
    Real *gradient = s.gradient;
    const Index left = std::min(end, s.length) - (t + 1);  // steps of the slice that may read it
    const bool kept = t + 1 < start + s.steps && s.since[t + 1 - start] != k + 1;
    if (kept) {
      const Real *memory = s.dhistory + (k + 1) * p.padded;
      p.add(memory, gradient);
      if (left > 0 && pushes()) {
        const Real *a = factors_of(s, begin, t + 1) + k + 1;
        product(1, left * reads_, &a, p.rows(),
                Matrix<Real>::rows(read_of(s, start, begin, t + 1, 0), p.padded), p.padded,
                &gradient);
      }
    }
    if (!p.call.doutput) return;
    p.widen(p.in(p.call.doutput) + (t * p.batch + s.number) * p.width, work_);
    p.add(work_, gradient);
  }

  // From the gradient of h_i = f(LN y) or f(y), i inner steps done, to that of y.
  void through_activation(const Sample &s, const Real *dh, Real *dy, bool norm, Index t,
                          Index number, Index i) {
    if (!norm) {
      const Real *h = i < p.steps ? p.query(s.number, t, i)
                                  : p.in(p.call.output) + (t * p.batch + s.number) * p.width;
      p.widen(h, work_);
      for (Index j = 0; j < p.padded; j += kWidth<Real>)
        store(dy + j, through(load(dh + j), load(work_ + j)));
      return;
    }
    const Real *normed = p.normed(s.number, t, number);
    Vec<Real> sum{}, product{};
    for (Index j = 0; j < p.padded; j += kWidth<Real>) {
      const Vec<Real> x = p.piece(normed, j), gain = load(gain_ + j);
      const Vec<Real> d = through(load(dh + j), p.activation(gain * x + load(norm_bias_ + j)));
      store(sum_.norm_bias + j, load(sum_.norm_bias + j) + d);
      store(sum_.gain + j, load(sum_.gain + j) + d * x);
      const Vec<Real> q = gain * d;
      sum += q;
      product += q * x;
      store(dy + j, q);
    }
    const Real scale = p.scale(s.number, t, number);
    const Real mean = sum_of<Real>(sum) / p.width, slope = sum_of<Real>(product) / p.width;
    for (Index j = 0; j < p.padded; j += kWidth<Real>)
      store(dy + j, p.piece_of(scale * (load(dy + j) - mean - slope * p.piece(normed, j)), j));
  }

  // Through the activation that came out as h.
  FW_INLINE Vec<Real> through(Vec<Real> dh, Vec<Real> h) const {
    if (p.tanh) return dh * (1 - h * h);
    return h > 0 ? dh : Vec<Real>{};
  }

  // Through y += A(t) v: the gradient of v, and what the memories will get.
  void remembered(Sample &s, Index start, Index begin, Index t, Index k, Index i, const Real *read) {
    const Real *dy = read, *v = read + p.padded;
    const Sight<Real> sight(p, s.since[t - start], k);
    if (sight.past)
      for (Index m = 0; m < p.components; ++m) {
        const Index place = m * (p.chunk + 1) + sight.last;
        p.clear(work_);
        symmetric_times(at(s.matrix, m), p.padded, dy, work_);
        const Real fade = p.in(p.call.fades)[place];
        Vec<Real> dfade{};
        for (Index j = 0; j < p.padded; j += kWidth<Real>) {
          const Vec<Real> back = load(work_ + j);
          dfade += back * load(v + j);
          store(s.gradient + j, load(s.gradient + j) + fade * back);
        }
        sum_.fades[place] += sum_of<Real>(dfade);
      }
    if (sight.first >= sight.last) return;
    const Real *rates = rates_.of(p, s.number, sight);
    Real *factors = pushes() ? factors_of(s, begin, t) + 2 * i * p.rows() : scores_;
    Real *drates = nullptr;
    if (learns()) {
      drates = p.by_clock ? drates_ : sum_.rates + Rates<Real>::ages(p) - sight.last;
      if (p.by_clock) std::fill(drates_, drates_ + p.rows(), Real(0));
    }
    read_back(s.history, p.padded, sight.first, sight.last, rates, v, dy, s.gradient, factors,
              factors + p.rows(), drates);
    if (drates && p.by_clock) {
      Real *to = shares_rates() ? sum_.rates : p.out(p.call.drates);
      to += Rates<Real>::offset(p, s.number, sight);
      for (Index j = sight.first; j < sight.last; ++j) to[sight.last - 1 - j] += drates_[j];
    }
  }

  void to_source(Index n, Sample *const *active, const Real *const *dz, Index t) {
    Real *out[kRows] = {};
    for (Index r = 0; r < n; ++r) {
      const Index at = t * p.batch + active[r]->number;
      if (!p.call.input_weight) {
        p.narrow(dz[r], p.out(p.call.dsource) + at * p.width);
        continue;
      }
      out[r] = dinput_ + r * p.padded_features;
      memset(out[r], 0, p.padded_features * sizeof(Real));
    }
    if (!p.call.input_weight) return;
    product(n, p.width, dz, 1, input_, p.padded_features, out);
    for (Index r = 0; r < n; ++r)
      p.narrow(out[r],
               p.out(p.call.dsource) + (t * p.batch + active[r]->number) * p.features, p.features);
  }

  void end_slice(Sample &s, Index start, Index begin, Index end) {
    const Index n = std::min(end, s.length) - begin, row = p.first_row() + begin - start;
    if (n <= 0) return;
    outer(p.width, n, s.dz, p.padded, s.history + row * p.padded, p.padded, p.padded, sum_.weight,
          p.padded);
    for (Index k = 0; k < n; ++k) p.add(s.dz + k * p.padded, sum_.bias);
    if (p.call.input_weight) {
      to_input_weight(s, begin, n);
    }
    if (!p.steps) return;
    const Real *reads = read_of(s, start, begin, begin, 0);
    if (p.fixed)
      outer(p.width, n * p.steps, reads, 2 * p.padded, reads + p.padded, 2 * p.padded, p.padded,
            sum_.fixed, p.padded);
    if (!pushes()) return;
    for (Index i = 0; i <= row; i += kRows) {  // ours too: the step before this slice collects it
      const Index count = std::min(kRows, row + 1 - i);
      const Real *a[kRows];
      Real *out[kRows];
      for (Index r = 0; r < count; ++r) {
        a[r] = s.factors + i + r;
        out[r] = s.dhistory + (i + r) * p.padded;
      }
      product(count, n * reads_, a, p.rows(), Matrix<Real>::rows(reads, p.padded), p.padded, out);
    }
  }

  // C̄ᵀ, a row for each input, from n steps.
  void to_input_weight(const Sample &s, Index begin, Index n) {
    Index place[kSlice];
    bool sparse = true;
    const Index apart = p.batch * p.features;
    const Real *x = p.in(p.call.source) + (begin * p.batch + s.number) * p.features;
    for (Index k = 0; k < n && sparse; ++k) {
      place[k] = one_hot(x + k * apart, p.features);
      sparse = place[k] >= 0;
    }
    if (!sparse)
      return outer(p.features, n, x, apart, s.dz, p.padded, p.padded, sum_.input_weight, p.padded);
    for (Index k = 0; k < n; ++k) {
      const Real value = x[k * apart + place[k]];
      Real *to = sum_.input_weight + place[k] * p.padded;
      for (Index j = 0; j < p.padded; j += kWidth<Real>)
        store(to + j, load(to + j) + value * load(s.dz + k * p.padded + j));
    }
  }

  // What is left for h of the chunk's first step, and the gradient of the matrix it began with.
  void end_chunk(Sample &s) {
    if (!s.steps) return;
    if (s.since[0] < 0) {  // not forgotten there
      p.add(s.dhistory + p.first_row() * p.padded, s.gradient);
    }
    Index seen = 0;  // steps that read the matrix
    while (seen < s.steps && s.since[seen] < 0) ++seen;
    for (Index m = 0; m < p.components; ++m) {
      for (Index k = 0; k < seen; ++k) {
        const Real fade = p.in(p.call.fades)[m * (p.chunk + 1) + k + !p.after_read] / 2;
        for (Index i = 0; i < p.steps; ++i) {
          const Real *read = s.reads + (k * p.steps + i) * 2 * p.padded;
          Real *to = scaled_ + (k * p.steps + i) * 2 * p.padded;
          for (Index j = 0; j < p.padded; j += kWidth<Real>) {
            store(to + j, fade * load(read + p.padded + j));
            store(to + p.padded + j, fade * load(read + j));
          }
        }
      }
      symmetric_outer(2 * seen * p.steps, scaled_, s.reads, p.width, p.padded, at(s.dmatrix, m));
    }
  }

  void finish(Sample &s) {
    if (p.call.dhidden) p.narrow(s.gradient, p.out(p.call.dhidden) + s.number * p.width);
    if (p.call.dhistory)
      for (Index i = 0; i < p.carried; ++i)
        p.narrow(s.dhistory + i * p.padded,
                 p.out(p.call.dhistory) + (i * p.batch + s.number) * p.width);
    for (Index m = 0; m < p.components && p.call.dstart; ++m)
      write_symmetric(at(s.dmatrix, m), p.width, p.padded,
                      p.out(p.call.dstart) + (s.number * p.components + m) * p.width * p.width);
    if (p.call.dsource) {
      const Index count = p.call.input_weight ? p.features : p.width;
      for (Index t = s.length; t < p.length; ++t)
        std::fill_n(p.out(p.call.dsource) + (t * p.batch + s.number) * count, count, Real(0));
    }
  }

  // The sums of all groups, in their order, whichever thread comes here.
  void gather() {
    if (!p.call.failed) {
      total(&Sums::weight, p.call.dweight, p.width, p.width, p.padded);
      total_of_inputs();
      total(&Sums::fixed, p.call.dfixed, p.width, p.width, p.padded);
      total(&Sums::bias, p.call.dinput_bias, 1, p.width, p.padded);
      total(&Sums::gain, p.call.dgain, 1, p.width, p.padded);
      total(&Sums::norm_bias, p.call.dnorm_bias, 1, p.width, p.padded);
      total(&Sums::writes, p.call.dwrites, 1, p.components * p.chunk, 0);
      total(&Sums::fades, p.call.dfades, 1, p.components * (p.chunk + 1), 0);
      gather_rates();
    }
    for (Index group = 0; group < groups_; ++group) pool.give(p.call.sums[group]);
  }

  void total(Real *Sums::*which, void *to, Index rows, Index columns, Index stride) {
    if (!to) return;
    for (Index group = 0; group < groups_; ++group) {
      sum_places(static_cast<Real *>(p.call.sums[group]));
      for (Index i = 0; i < rows; ++i) {
        const Real *from = sum_.*which + i * stride;
        Real *sum = p.out(to) + i * columns;
        if (group)
          for (Index j = 0; j < columns; ++j) sum[j] += from[j];
        else
          memcpy(sum, from, columns * sizeof(Real));
      }
    }
  }

  void total_of_inputs() {
    Real *to = p.out(p.call.dinput_weight);
    if (!to) return;
    std::fill_n(to, p.width * p.features, Real(0));
    for (Index group = 0; group < groups_; ++group) {
      sum_places(static_cast<Real *>(p.call.sums[group]));
      for (Index i = 0; i < p.width; ++i)
        for (Index j = 0; j < p.features; ++j)
          to[i * p.features + j] += sum_.input_weight[j * p.padded + i];
    }
  }

  void gather_rates() {
    if (p.components && p.call.dwrites) {  // a read sees the sum of all components
      for (Index group = 0; group < groups_; ++group) {
        sum_places(static_cast<Real *>(p.call.sums[group]));
        for (Index m = 0; m < p.components; ++m)
          for (Index age = 0; age < p.chunk; ++age)
            p.out(p.call.dwrites)[m * p.chunk + age] += sum_.rates[p.chunk - 1 - age];
      }
    } else if (p.call.drates && shares_rates()) {
      total(&Sums::rates, p.call.drates, 1, rate_count(), 0);
      if (!p.by_clock) std::reverse(p.out(p.call.drates), p.out(p.call.drates) + rate_count());
    }
  }

  Problem<Real> p;
  const Index slice_, reads_, per_group_, groups_;
  Scratch scratch_;
  Rates<Real> rates_;
  Matrix<Real> weight_, input_, fixed_;
  Real *gain_ = nullptr, *norm_bias_ = nullptr, *weight_pack_ = nullptr, *input_pack_ = nullptr,
       *fixed_pack_ = nullptr, *drates_ = nullptr, *dinput_ = nullptr, 
       *work_ = nullptr, *scaled_ = nullptr, *sums_ = nullptr, *scores_ = nullptr;
  Sums sum_ = {};
  Sample samples_[kRows] = {};
};

template <class Real> void backward(Recurrence &call) { Backward<Real>(call).run(); }

}}  // namespace fastweights::FW_SET
