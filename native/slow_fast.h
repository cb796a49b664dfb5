// A step of slow and fast weights in one pass over memory.
// src/fastweights/ops/slow_fast/reference.py says what is computed.
#pragma once

#include "simd.h"
#include "work.h"

namespace fastweights { inline namespace FW_SET {

// Weights that a thread takes at a time: six such float arrays fit in a cache of 512 KiB. Where a
// span begins does not depend on the number of threads, so no bit of the result does.
constexpr Index kSpan = 16384;

struct WeightTensor {
  int64_t size;
  void *weights, *gradients, *slow, *fast, *updates;  // w, g, s, f and the fast update
  void *moment, *square;     // what the slow optimizer remembers: momentum; Adam's squares
  double step_size, scale;   // Adam's, corrected for the number of steps
};

struct SlowFastStep : Work {
  int64_t count;
  const WeightTensor *tensors;
  double sign;  // -1 to climb
  double fast_momentum, fast_lr, keep;
};

struct SgdStep : SlowFastStep {
  // v <- moment_keep v + moment_gain g',  s <- s - rate (v, or g' + momentum v for Nesterov's),
  // with g' = sign g + weight_decay s
  double weight_decay, moment_keep, moment_gain, rate, momentum;
  int64_t nesterov;
};

struct AdamStep : SlowFastStep {
  // m <- m + moment_gain (g' - m),  q <- square_keep q + square_gain g'^2,
  // s <- slow_keep s - step_size m / (scale sqrt(q) + eps),  with g' = sign g + weight_decay s
  double weight_decay, slow_keep, moment_gain, square_keep, square_gain, eps;
};

// Moves all tensors, a vector at a time; slow_step(tensor, load, store, i, gradient, s) returns the
// new slow weights. Tails are loaded and stored in part and computed like everything else, so that
// no bit depends on where a weight is.
template <class Real, class SlowStep> FW_INLINE void move(SlowFastStep &step, SlowStep slow_step) {
  using V = Vec<Real>;
  const V sign = all(Real(step.sign)), keep = all(Real(step.keep));
  const V momentum = all(Real(step.fast_momentum)), rate = all(Real(step.fast_lr));
  const auto vector = [&](const WeightTensor &tensor, Index i, auto load_part, auto store_part) {
    const auto load = [&](void *array) { return load_part(static_cast<Real *>(array) + i); };
    const auto store = [&](void *array, V x) { store_part(static_cast<Real *>(array) + i, x); };
    const V gradient = sign * load(tensor.gradients);
    const V slow = slow_step(tensor, load, store, gradient, load(tensor.slow));
    const V update = momentum * load(tensor.updates) - rate * gradient;
    const V fast = keep * (load(tensor.fast) + update);
    store(tensor.slow, slow);
    store(tensor.updates, update);
    store(tensor.fast, fast);
    store(tensor.weights, slow + fast);
  };
  Index index = 0, before = 0;  // before: spans of the tensors before this one
  Index claimed = step.claim();
  while (index < step.count) {
    const WeightTensor tensor = step.tensors[index];
    const Index start = (claimed - before) * kSpan;
    if (start >= tensor.size) {
      before += (tensor.size + kSpan - 1) / kSpan;
      ++index;
      continue;
    }
    const Index end = start + kSpan < tensor.size ? start + kSpan : tensor.size;
    Index i = start;
    for (; i + kWidth<Real> <= end; i += kWidth<Real>) {
      vector(
          tensor, i, [](Real *p) { return load(p); }, [](Real *p, V x) { store(p, x); });
    }
    if (const Index n = end - i; n > 0) {
      vector(
          tensor, i, [n](Real *p) { return load(p, n); }, [n](Real *p, V x) { store(p, x, n); });
    }
    claimed = step.claim();
  }
}

// What is not asked for is left out, not multiplied by zero: infinity would become NaN.
template <class Real> FW_INLINE Vec<Real> decayed(Vec<Real> gradient, double decay, Vec<Real> slow) {
  return decay != 0 ? gradient + all(Real(decay)) * slow : gradient;
}

template <class Real> void sgd_step(SgdStep &step) {
  using V = Vec<Real>;
  const V moment_keep = all(Real(step.moment_keep)), moment_gain = all(Real(step.moment_gain));
  const V rate = all(Real(step.rate)), momentum = all(Real(step.momentum));
  const double decay = step.weight_decay;
  const bool nesterov = step.nesterov;
  move<Real>(step, [=](const WeightTensor &tensor, auto load, auto store, V gradient, V slow) {
    gradient = decayed<Real>(gradient, decay, slow);
    const V moment = moment_keep * load(tensor.moment) + moment_gain * gradient;
    store(tensor.moment, moment);
    return slow - rate * (nesterov ? gradient + momentum * moment : moment);
  });
}

template <class Real> FW_INLINE Vec<Real> square_root(Vec<Real> x) {
  for (Index i = 0; i < kWidth<Real>; ++i) x[i] = Real(__builtin_sqrt(x[i]));
  return x;
}

template <class Real> void adam_step(AdamStep &step) {
  using V = Vec<Real>;
  const double decay = step.weight_decay;
  const V slow_keep = all(Real(step.slow_keep)), moment_gain = all(Real(step.moment_gain));
  const V square_keep = all(Real(step.square_keep)), square_gain = all(Real(step.square_gain));
  const V eps = all(Real(step.eps));
  move<Real>(step, [=](const WeightTensor &tensor, auto load, auto store, V gradient, V slow) {
    gradient = decayed<Real>(gradient, decay, slow);
    V moment = load(tensor.moment);
    moment += moment_gain * (gradient - moment);
    const V square = square_keep * load(tensor.square) + square_gain * (gradient * gradient);
    store(tensor.moment, moment);
    store(tensor.square, square);
    const V scale = all(Real(tensor.scale)), step_size = all(Real(tensor.step_size));
    return slow_keep * slow - step_size * moment / (scale * square_root<Real>(square) + eps);
  });
}

}}  // namespace fastweights::FW_SET
