// What a call of the recurrence consists of, as Python hands it over, and what follows from it.
#pragma once

#include "products.h"
#include "scratch.h"
#include "work.h"

namespace fastweights { inline namespace FW_SET {

// Mirrored field by field by `Call` in fastweights/ops/fast_weights/cpu.py, which says what each
// holds. Pointers are null where there is nothing. Every array is contiguous.
struct Recurrence : Work {
  int64_t failed;  // a thread found no memory

  void fail() { __atomic_store_n(&failed, 1, __ATOMIC_RELAXED); }

  int64_t length, batch, width, features, carried, remembered, inner_steps, flags, memory,
      rate_samples, rate_rows, ages, reset_row, components, chunk, chunks;
  double eps;
  const void *source, *input_weight, *input_bias, *hidden, *history, *weight, *gain, *norm_bias,
      *fixed, *rates, *writes, *fades, *start, *lengths, *resets;
  // What the forward pass makes; the backward pass reads some of it.
  void *output, *last, *written, *final, *kept;
  const void *doutput, *dlast, *dwritten, *dfinal;
  void *dsource, *dinput_weight, *dinput_bias, *dhidden, *dhistory, *dweight, *dgain, *dnorm_bias,
      *dfixed, *drates, *dwrites, *dfades, *dstart;
  void *sums[16];  // of each group of samples, while the call runs
};

enum Flags { kNorm = 1, kNormPreliminary = 2, kPrevious = 4, kAfterRead = 8, kDetach = 16, kTanh = 32 };
enum Memory { kHebbian, kFixed, kNone };

constexpr Index kMostGroups = 16;
constexpr Index kSlack = 16;  // numbers behind a sample's kept vectors, which whole vectors overrun

// A call with its numbers' type, and the sizes that both passes need.
template <class Real> struct Problem {
  explicit Problem(Recurrence &call)
      : call(call), length(call.length), batch(call.batch), width(call.width),
        features(call.features), carried(call.carried), steps(call.inner_steps),
        components(call.components), chunk(components ? call.chunk : call.length),
        padded(whole<Real>(width)), padded_features(whole<Real>(features)),
        tail(width - (padded - kWidth<Real>)), norm(call.flags & kNorm),
        norm_preliminary(norm && call.flags & kNormPreliminary),
        previous(call.flags & kPrevious), after_read(call.flags & kAfterRead),
        detach(call.flags & kDetach), tanh(call.flags & kTanh),
        hebbian(call.memory == kHebbian), fixed(call.memory == kFixed),
        norms(norm ? steps + norm_preliminary : 0), by_clock(call.rate_rows > 1 || call.rate_samples > 1) {}

  template <class Number = Real> static const Number *in(const void *pointer) {
    return static_cast<const Number *>(pointer);
  }
  static Real *out(void *pointer) { return static_cast<Real *>(pointer); }

  Index length_of(Index sample) const {
    return call.lengths ? in<int64_t>(call.lengths)[sample] : length;
  }
  bool reset(Index t, Index sample) const {
    return call.resets && in<uint8_t>(call.resets)[t * batch + sample];
  }
  Index source_width() const { return call.input_weight ? features : width; }
  // The row of a chunk's first hidden vector among the vectors in memory.
  Index first_row() const { return components ? 0 : carried; }
  Index rows() const { return first_row() + chunk; }

  // Kept for the backward pass, one part behind the other: the queries of all reads and the
  // normalised vectors, those of a sample one after another and kSlack numbers behind them; one
  // over the standard deviation for each of the latter; and one half of the symmetric matrix that
  // each chunk began with.
  Real *query(Index sample, Index t, Index s) const {
    return out(call.kept) + sample * (length * steps * width + kSlack) + (t * steps + s) * width;
  }
  Real *normed(Index sample, Index t, Index n) const {
    return query(batch, 0, 0) + sample * (length * norms * width + kSlack) + (t * norms + n) * width;
  }
  Real &scale(Index sample, Index t, Index n) const {
    return normed(batch, 0, 0)[(sample * length + t) * norms + n];
  }
  Real *start(Index sample, Index number, Index component) const {
    return &scale(batch, 0, 0) +
           ((sample * call.chunks + number) * components + component) * (width * (width + 1) / 2);
  }

  // Copies of `width` numbers to whole vectors and back.
  void widen(const Real *from, Real *to) const { widen(from, to, width); }
  static void widen(const Real *from, Real *to, Index count) {
    Index i = 0;
    for (; i + kWidth<Real> <= count; i += kWidth<Real>) store(to + i, load(from + i));
    if (i < count) store(to + i, load(from + i, count - i));
  }
  void narrow(const Real *from, Real *to) const { narrow(from, to, width); }
  static void narrow(const Real *from, Real *to, Index count) {
    Index i = 0;
    for (; i + kWidth<Real> <= count; i += kWidth<Real>) store(to + i, load(from + i));
    if (i < count) store(to + i, load(from + i), count - i);
  }
  // Of a row whose last vector runs into the next one.
  FW_INLINE Vec<Real> piece(const Real *row, Index i) const {
    return piece_of(load(row + i), i);
  }
  FW_INLINE Vec<Real> piece_of(Vec<Real> value, Index i) const {
    return i + kWidth<Real> < padded ? value : first<Real>(value, tail);
  }
  // Whole vectors. They are few: a call of memcpy would take longer.
  FW_INLINE void copy(const Real *from, Real *to) const {
    for (Index i = 0; i < padded; i += kWidth<Real>) store(to + i, load(from + i));
  }
  FW_INLINE void add(const Real *from, Real *to) const {
    for (Index i = 0; i < padded; i += kWidth<Real>) store(to + i, load(to + i) + load(from + i));
  }
  FW_INLINE void clear(Real *to) const {
    for (Index i = 0; i < padded; i += kWidth<Real>) store(to + i, Vec<Real>{});
  }

  Vec<Real> activation(Vec<Real> x) const {
    if (!tanh) return relu<Real>(x);
    for (Index i = 0; i < kWidth<Real>; ++i) x[i] = std::tanh(x[i]);
    return x;
  }

  Recurrence &call;
  const Index length, batch, width, features, carried, steps, components, chunk;
  const Index padded, padded_features, tail;
  const bool norm, norm_preliminary, previous, after_read, detach, tanh, hebbian, fixed;
  const Index norms;
  const bool by_clock;
};

// Where the one number that is not zero stands, as in a one-hot input; negative if there is not
// just one.
template <class Real> FW_INLINE Index one_hot(const Real *x, Index count) {
  Vec<Real> found{}, place{}, here = counting<Real>();
  for (Index i = 0; i < count; i += kWidth<Real>, here += Real(kWidth<Real>)) {
    const Vec<Real> piece = count - i < kWidth<Real> ? load(x + i, count - i) : load(x + i);
    found += piece != 0 ? all<Real>(1) : Vec<Real>{};
    place += piece != 0 ? here : Vec<Real>{};
  }
  return sum_of<Real>(found) == 1 ? Index(sum_of<Real>(place)) : -1;
}

// Samples of each of at most `most` groups: as many as share a vector of a matrix, unless so few
// would leave threads with nothing to do. It depends on the batch alone, so that sums over groups
// come out the same on any number of threads.
inline Index samples_per_group(Index batch, Index most) {
  if (batch < 2 * kRows) return batch < kRows ? 1 : kRows / 2;
  const Index tiles = (batch + kRows - 1) / kRows;
  return (tiles + most - 1) / most * kRows;
}

// What one step of one sample can see of its memories: the vectors `first` … `last` − 1 and, unless
// something was forgotten in this chunk, what came before them.
template <class Real> struct Sight {
  // In the step whose hidden vector is in row `row`; `since` is the row from which the sample
  // remembers, or negative.
  Sight(const Problem<Real> &p, Index since, Index row)
      : past(since < 0), first(past ? 0 : since), last(row + !p.after_read), clock(
            past ? last - 1 : p.call.reset_row + last - 1 - since) {}
  const bool past;
  const Index first, last;
  const Index clock;  // the row for the newest of them in a table by the clock
};

// η r of a step's vectors, and the gradient that comes back for it. The tables hold η r by age,
// those here by vector. A table by the clock has a row for each vector that can be the newest.
template <class Real> class Rates {
 public:
  void lay_out(Scratch &scratch, const Problem<Real> &p) { scratch.take(table_, ages(p)); }

  void fill(const Problem<Real> &p) {
    if (p.by_clock) return;
    for (Index age = 0; age < ages(p); ++age) {
      Real rate = 0;
      if (!p.components) rate = p.in(p.call.rates)[age];
      for (Index m = 0; m < p.components; ++m) rate += p.in(p.call.writes)[m * p.chunk + age];
      table_[ages(p) - 1 - age] = rate;
    }
  }

  // To be indexed by the vectors in sight; valid until the next call.
  const Real *of(const Problem<Real> &p, Index sample, const Sight<Real> &sight) {
    if (!p.by_clock) return table_ + ages(p) - sight.last;
    const Real *from = p.in(p.call.rates) + offset(p, sample, sight);
    for (Index i = sight.first; i < sight.last; ++i) table_[i] = from[sight.last - 1 - i];
    return table_;
  }

  static Index ages(const Problem<Real> &p) { return p.components ? p.chunk : p.call.ages; }
  static Index offset(const Problem<Real> &p, Index sample, const Sight<Real> &sight) {
    return ((p.call.rate_samples > 1 ? sample : 0) * p.call.rate_rows + sight.clock) * p.call.ages;
  }

 private:
  Real *table_ = nullptr;
};

}}  // namespace fastweights::FW_SET
