// The entry points: all that Python sees. Each kernel takes one pointer to its arguments, and is
// entered by several threads at once (work.h); it throws nothing.
#include "backward.h"
#include "slow_fast.h"

#if defined(_WIN32)
#define FW_EXPORT extern "C" __declspec(dllexport)
#else
#define FW_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace fastweights {
#if FW_VECTOR_BYTES == 64
template <class Real> void narrow_forward(void *call);
template <class Real> void narrow_backward(void *call);

// Whether vectors of half a register fill more of their lanes. They are as fast, a lane, on those
// processors alone that take a whole vector in two halves: AMD's family 19h.
template <class Real> bool fits_narrow(Index width) {
  static const bool halves = __builtin_cpu_is("amdfam19h");
  const Index vectors = (2 * width + kWidth<Real> - 1) / kWidth<Real>;
  return halves && vectors % 2 && vectors < 8;
}
#else
template <class Real> void narrow_forward(void *) {}
template <class Real> void narrow_backward(void *) {}
template <class Real> bool fits_narrow(Index) { return false; }
#endif

template <class Real> void recurrence(Recurrence &call) {
  fits_narrow<Real>(call.width) ? narrow_forward<Real>(&call) : forward<Real>(call);
}
template <class Real> void recurrence_backward(Recurrence &call) {
  fits_narrow<Real>(call.width) ? narrow_backward<Real>(&call) : backward<Real>(call);
}

}  // namespace fastweights

// A kernel for both kinds of number: fastweights_NAME_float32 and fastweights_NAME_float64.
#define FW_KERNEL(name, Arguments)                               \
  FW_EXPORT void fastweights_##name##_float32(Arguments* call) { \
    fastweights::name<float>(*call);                             \
  }                                                              \
  FW_EXPORT void fastweights_##name##_float64(Arguments* call) { \
    fastweights::name<double>(*call);                            \
  }

// One more with every change to a kernel's arguments; src/fastweights/ops/native.py expects it.
FW_EXPORT int fastweights_abi_version() { return 1; }

// How many bytes a vector register has: rows that a kernel is to read whole are padded to it.
FW_EXPORT int fastweights_vector_bytes() { return FW_VECTOR_BYTES; }

FW_KERNEL(sgd_step, fastweights::SgdStep)
FW_KERNEL(adam_step, fastweights::AdamStep)
FW_KERNEL(recurrence, fastweights::Recurrence)
FW_KERNEL(recurrence_backward, fastweights::Recurrence)
