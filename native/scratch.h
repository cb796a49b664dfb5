// Memory that lasts for one call.
#pragma once

#include <stdlib.h>

#include "simd.h"

#if !defined(FW_POOLED_BYTES)
#define FW_POOLED_BYTES (64 << 20)
#endif

namespace fastweights { inline namespace FW_SET {

// Blocks that calls hand on to one another: those that the system gives are not there until they are
// touched, a page at a time, which takes as long as much of what is done with them. All threads
// share the pool; who finds it taken does without.
class Pool {
 public:
  ~Pool() { shrink_to(0, 0); }

  // A block that begins with a cache line of its own, or null.
  void *take(size_t size) {
    Block *found = nullptr;
    if (enter()) {
      for (Index i = count_; i-- > 0 && !found;)
        if (blocks_[i]->size >= size && blocks_[i]->size / 2 <= size) found = remove(i);
      leave();
    }
    if (!found) {
      char *memory = static_cast<char *>(malloc(size + 2 * kLine));
      if (!memory) return nullptr;
      found = reinterpret_cast<Block *>(memory + kLine - reinterpret_cast<uintptr_t>(memory) % kLine);
      *found = {size, memory};
    }
    return reinterpret_cast<char *>(found) + kLine;
  }

  void give(void *start) {
    if (!start) return;
    Block *block = reinterpret_cast<Block *>(static_cast<char *>(start) - kLine);
    if (block->size > FW_POOLED_BYTES || !enter()) return free(block->memory);
    shrink_to(kMost - 1, FW_POOLED_BYTES - block->size);
    blocks_[count_++] = block;
    bytes_ += block->size;
    leave();
  }

  static constexpr size_t kLine = 64;

 private:
  struct Block {
    size_t size;
    void *memory;
  };
  static constexpr Index kMost = 64;

  bool enter() { return !__atomic_test_and_set(&taken_, __ATOMIC_ACQUIRE); }
  void leave() { __atomic_clear(&taken_, __ATOMIC_RELEASE); }

  Block *remove(Index i) {
    Block *block = blocks_[i];
    bytes_ -= block->size;
    for (--count_; i < count_; ++i) blocks_[i] = blocks_[i + 1];
    return block;
  }
  void shrink_to(Index count, size_t bytes) {  // the oldest go
    while (count_ > count || bytes_ > bytes) free(remove(0)->memory);
  }

  bool taken_ = false;
  Index count_ = 0;
  size_t bytes_ = 0;
  Block *blocks_[kMost] = {};
};

inline Pool pool;

// One block of memory, handed out in pieces: lay everything out once to learn the size, allocate,
// lay it out again.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;
  ~Scratch() { pool.give(start_); }

  bool allocate() {
    start_ = static_cast<char *>(pool.take(used_));
    used_ = 0;
    return start_;
  }

  template <class Number> void take(Number *&piece, Index count) {
    if (start_) piece = reinterpret_cast<Number *>(start_ + used_);
    used_ += (count * sizeof(Number) + Pool::kLine - 1) / Pool::kLine * Pool::kLine;
  }

 private:
  char *start_ = nullptr;
  size_t used_ = 0;
};

}}  // namespace fastweights::FW_SET
