// A step of slow and fast weights in one pass over memory. src/fastweights/ops/slow_fast/reference.py
// says what is computed.
#pragma once

#include "work.h"

namespace fastweights { inline namespace FW_SET {

// Weights that one thread takes at a time: six such float arrays fit in a cache of 512 KiB. Their
// place in the tensor does not depend on the number of threads, so neither does any bit.
constexpr int64_t kSpan = 16384;

// The tensors of one call as rows of addresses, and what is done to each.
struct SlowFastStep : Work {
  int64_t tensors;
  const int64_t* sizes;
  void* const* weights;    // w, written
  void* const* gradients;  // g, read
  void* const* slow;       // s
  void* const* fast;       // f
  void* const* updates;    // the fast update
  double sign;             // -1 to climb
  double weight_decay;
  double fast_momentum, fast_lr, keep;
};

struct SgdStep : SlowFastStep {
  void* const* velocities;
  // velocity <- velocity_keep velocity + velocity_gain gradient
  // s <- s - (along_gradient gradient + along_velocity velocity)
  double velocity_keep, velocity_gain, along_gradient, along_velocity;
};

// Calls span(tensor, first, end) for ranges of elements until all are claimed.
template <class Span>
FW_INLINE void for_each_span(SlowFastStep& step, Span span) {
  int64_t tensor = 0, before = 0;  // spans of the tensors before this one
  int64_t claimed = step.claim();
  while (tensor < step.tensors) {
    const int64_t size = step.sizes[tensor], first = (claimed - before) * kSpan;
    if (first < size) {
      span(tensor, first, first + kSpan < size ? first + kSpan : size);
      claimed = step.claim();
    } else {
      before += (size + kSpan - 1) / kSpan;
      ++tensor;
    }
  }
}

// Calls body(offset, load, store) for a register of elements at a time; the last may be partial.
template <class Real, class Body>
FW_INLINE void for_each_register(int64_t first, int64_t end, Body body) {
  using V = Vec<Real>;
  int64_t i = first;
  for (; i + kWidth<Real> <= end; i += kWidth<Real>) {
    body(
        i, [](const Real* p) { return fastweights::load(p); }, [](Real* p, V v) { fastweights::store(p, v); });
  }
  if (const int64_t n = end - i; n > 0) {
    body(
        i, [n](const Real* p) { return fastweights::load(p, n); }, [n](Real* p, V v) { fastweights::store(p, v, n); });
  }
}

template <class Real>
void sgd_step(SgdStep& step) {
  using V = Vec<Real>;
  const V sign = all<Real>(Real(step.sign)), decay = all<Real>(Real(step.weight_decay));
  const V velocity_keep = all<Real>(Real(step.velocity_keep));
  const V velocity_gain = all<Real>(Real(step.velocity_gain));
  const V along_gradient = all<Real>(Real(step.along_gradient));
  const V along_velocity = all<Real>(Real(step.along_velocity));
  const V momentum = all<Real>(Real(step.fast_momentum));
  const V gain = all<Real>(Real(-step.sign * step.fast_lr)), keep = all<Real>(Real(step.keep));
  for_each_span(step, [&](int64_t tensor, int64_t first, int64_t end) {
    Real* const w = static_cast<Real*>(step.weights[tensor]);
    const Real* const g = static_cast<const Real*>(step.gradients[tensor]);
    Real* const s = static_cast<Real*>(step.slow[tensor]);
    Real* const f = static_cast<Real*>(step.fast[tensor]);
    Real* const u = static_cast<Real*>(step.updates[tensor]);
    Real* const v = static_cast<Real*>(step.velocities[tensor]);
    for_each_register<Real>(first, end, [&](int64_t i, auto load, auto store) {
      const V raw = load(g + i), before = load(s + i);
      const V gradient = decay * before + sign * raw;
      const V velocity = velocity_keep * load(v + i) + velocity_gain * gradient;
      const V slow = before - (along_velocity * velocity + along_gradient * gradient);
      const V update = momentum * load(u + i) + gain * raw;
      const V fast = keep * (load(f + i) + update);
      store(v + i, velocity);
      store(s + i, slow);
      store(u + i, update);
      store(f + i, fast);
      store(w + i, slow + fast);
    });
  });
}

}}  // namespace fastweights::FW_SET
