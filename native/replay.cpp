// Runs recorded calls of kernels, and compares what they leave in memory with what was recorded:
//
//     replay LIBRARY.so CALL...
//
// A recording (tests/kernel_calls.py writes them) is self-contained, so that a library can be
// tried where there is no Python: on another processor's emulator, with sanitizers, under valgrind.
// Every buffer is a block of memory of its own and exactly as long as it was.
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

// What tests/kernel_calls.py writes, in this order, all little-endian.
enum class Role : int64_t {
  kKept,     // came out as it went in
  kChanged,
  kWritten,  // what it held before was undefined
};

struct Buffer {
  Role role;
  int64_t element;  // 4: float, 8: double, 0: bytes
  std::vector<char> before, after;
  std::unique_ptr<char, void (*)(void*)> memory{nullptr, std::free};
};

struct Pointer {
  int64_t holder;  // a buffer, or -1: the arguments
  int64_t at;      // where in it
  int64_t target, offset;
};

struct Call {
  std::string name;
  int64_t threads;
  double tolerance;  // relative to the largest number of a buffer
  std::vector<char> arguments;
  std::vector<Buffer> buffers;
  std::vector<Pointer> pointers;
};

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

class Reader {
 public:
  explicit Reader(const char* path) : path_(path), file_(path, std::ios::binary) {}

  template <class Value>
  Value number() {
    Value value;
    file_.read(reinterpret_cast<char*>(&value), sizeof value);
    if (!file_) fail(path_ + " ends too early");
    return value;
  }
  int64_t count() { return number<int64_t>(); }
  std::vector<char> bytes() {
    std::vector<char> content(count());
    file_.read(content.data(), content.size());
    if (!file_) fail(path_ + " ends too early");
    return content;
  }

 private:
  std::string path_;
  std::ifstream file_;
};

Call read(const char* path) {
  Reader in(path);
  Call call;
  const std::vector<char> name = in.bytes();
  call.name.assign(name.begin(), name.end());
  call.threads = in.count();
  call.tolerance = in.number<double>();
  call.arguments = in.bytes();
  call.buffers.resize(in.count());
  for (Buffer& buffer : call.buffers) {
    buffer.role = Role(in.count());
    buffer.element = in.count();
    buffer.before = in.bytes();
    buffer.after = buffer.role == Role::kKept ? buffer.before : in.bytes();
  }
  call.pointers.resize(in.count());
  for (Pointer& pointer : call.pointers)
    pointer = {in.count(), in.count(), in.count(), in.count()};
  return call;
}

// Whether what is undefined is so for valgrind, too. Otherwise it holds NaN, as when recorded.
const bool undefined = std::getenv("REPLAY_UNDEFINED");

template <class Real>
double worst(const Buffer& buffer) {
  double largest = 1e-3, error = 0;
  for (size_t i = 0; i < buffer.after.size(); i += sizeof(Real)) {
    Real a, b;
    std::memcpy(&a, buffer.memory.get() + i, sizeof a);
    std::memcpy(&b, &buffer.after[i], sizeof b);
    if (undefined && buffer.role == Role::kWritten && std::isnan(b)) continue;  // never written
    if (std::isfinite(b)) largest = std::fmax(largest, std::fabs(b));
    if (std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)) || a == b) continue;
    const double off = std::fabs(double(a) - double(b));
    error = std::isfinite(off) ? std::fmax(error, off) : INFINITY;
  }
  return error / largest;
}

double error_of(const Buffer& buffer) {
  if (buffer.element == 4) return worst<float>(buffer);
  if (buffer.element == 8) return worst<double>(buffer);
  return std::memcmp(buffer.memory.get(), buffer.after.data(), buffer.after.size()) ? INFINITY : 0;
}

// The largest error, relative to what is allowed.
double replay(void* library, const char* path) {
  Call call = read(path);
  const auto kernel = reinterpret_cast<void (*)(void*)>(dlsym(library, call.name.c_str()));
  if (!kernel) fail(std::string(path) + ": the library has no " + call.name);
  for (Buffer& buffer : call.buffers) {
    buffer.memory.reset(static_cast<char*>(std::malloc(buffer.before.size())));
    if (!undefined || buffer.role != Role::kWritten)
      std::memcpy(buffer.memory.get(), buffer.before.data(), buffer.before.size());
  }
  std::unique_ptr<char, void (*)(void*)> arguments(
      static_cast<char*>(std::malloc(call.arguments.size())), std::free);
  std::memcpy(arguments.get(), call.arguments.data(), call.arguments.size());
  for (const Pointer& pointer : call.pointers) {
    char* const holder =
        pointer.holder < 0 ? arguments.get() : call.buffers[pointer.holder].memory.get();
    char* const target = call.buffers[pointer.target].memory.get() + pointer.offset;
    std::memcpy(holder + pointer.at, &target, sizeof target);
    if (pointer.holder >= 0)  // it must come out as it went in
      std::memcpy(&call.buffers[pointer.holder].after[pointer.at], &target, sizeof target);
  }
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < call.threads; ++i) threads.emplace_back(kernel, arguments.get());
  kernel(arguments.get());
  for (std::thread& thread : threads) thread.join();

  double largest = 0;
  for (size_t i = 0; i < call.buffers.size(); ++i) {
    const double error = error_of(call.buffers[i]) / call.tolerance;
    if (!(error <= 1))
      std::fprintf(stderr, "%s: %s: buffer %zu is off by %.3g, allowed %.3g\n", path,
                   call.name.c_str(), i, error * call.tolerance, call.tolerance);
    largest = std::fmax(largest, error);
  }
  return largest;
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) fail("usage: replay LIBRARY.so CALL...");
  void* const library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) fail(dlerror());
  double largest = 0;
  int wrong = 0;
  for (int i = 2; i < count; ++i) {
    const double error = replay(library, words[i]);
    wrong += !(error <= 1);
    largest = std::fmax(largest, error);
  }
  std::printf("%d calls, %d wrong, largest error %.2g of what is allowed\n", count - 2, wrong,
              largest);
  return wrong != 0;
}
