// The recurrence once more, with vectors of half a register: library.cpp says when.
#define FW_NARROW
#include "backward.h"

namespace fastweights {

template <class Real> void narrow_forward(void *call) {
  forward<Real>(*static_cast<Recurrence *>(call));
}
template <class Real> void narrow_backward(void *call) {
  backward<Real>(*static_cast<Recurrence *>(call));
}
template void narrow_forward<float>(void *);
template void narrow_forward<double>(void *);
template void narrow_backward<float>(void *);
template void narrow_backward<double>(void *);

}  // namespace fastweights
