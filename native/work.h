// How the threads of one call share its work.
#pragma once

#include <stdint.h>

#include "simd.h"

namespace fastweights { inline namespace FW_SET {

// Every kernel's arguments begin with this, zero at first. Several threads enter the kernel with
// the same arguments, as many as the caller asked for or fewer; each does items until none is left.
struct Work {
  int64_t claimed;  // items taken
  int64_t came;     // threads that came; a thread's own number, if it needs one, is came before it
  int64_t done;     // for kernels that must know who is the last

  int64_t claim() { return __atomic_fetch_add(&claimed, 1, __ATOMIC_RELAXED); }
  int64_t enter() { return __atomic_fetch_add(&came, 1, __ATOMIC_RELAXED); }
  // What this thread wrote before is visible to whoever sees the count that this one makes.
  int64_t finish() { return __atomic_fetch_add(&done, 1, __ATOMIC_ACQ_REL); }
};

}}  // namespace fastweights::FW_SET
