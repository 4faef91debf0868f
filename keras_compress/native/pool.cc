#include "pool.h"

#include <system_error>

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif

namespace keras_compress {
namespace {

int64_t process() {
#if defined(_WIN32)
  return _getpid();
#else
  return getpid();
#endif
}

// Looks for some 30 microseconds: layers follow one another, and to be woken takes longer than that.
template <typename Condition>
void spin(Condition found) {
  for (int i = 0; i < 1000 && !found(); ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
  }
}

}  // namespace

Pool::~Pool() {
  {
    const std::lock_guard<std::mutex> lock(state_);
    stop_ = true;
  }
  begin_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool Pool::forked() const {
  const int64_t owner = process_;
  return owner != 0 && owner != process();
}

void Pool::reserve(int workers) {
  int64_t nobody = 0;
  process_.compare_exchange_strong(nobody, process());
  if (forked()) return;
  const std::lock_guard<std::mutex> lock(running_);
  while (static_cast<int>(threads_.size()) + 1 < workers) {
    try {
      const int worker = static_cast<int>(threads_.size()) + 1;
      threads_.emplace_back([this, worker] { serve(worker); });
    } catch (const std::system_error&) {
      return;
    }
  }
}

void Pool::run(int workers, int parts, const Job& job) {
  std::unique_lock<std::mutex> threads(running_, std::defer_lock);
  if (workers < 2 || parts < 2 || forked() || !threads.try_lock() || threads_.empty()) {
    for (int part = 0; part < parts; ++part) job(part, 0);
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(state_);
    job_ = &job, workers_ = workers, parts_ = parts;
    next_ = 0;
    ++turn_;
  }
  begin_.notify_all();
  take_parts(job, parts, 0);
  std::unique_lock<std::mutex> lock(state_);
  job_ = nullptr;  // who has not begun will not
  lock.unlock();
  spin([this] { return active_ == 0; });
  lock.lock();
  end_.wait(lock, [this] { return active_ == 0; });
}

void Pool::serve(int worker) {
  uint64_t seen = 0;
  std::unique_lock<std::mutex> lock(state_, std::defer_lock);
  for (;;) {
    spin([&] { return turn_ != seen; });
    lock.lock();
    begin_.wait(lock, [&] { return stop_ || (job_ != nullptr && turn_ != seen); });
    if (stop_) return;
    seen = turn_;
    if (worker >= workers_) {
      lock.unlock();
      continue;
    }
    ++active_;
    const Job& job = *job_;
    const int parts = parts_;
    lock.unlock();
    take_parts(job, parts, worker);
    lock.lock();
    if (--active_ == 0) end_.notify_all();
    lock.unlock();
  }
}

void Pool::take_parts(const Job& job, int parts, int worker) {
  for (int part = next_++; part < parts; part = next_++) job(part, worker);
}

}  // namespace keras_compress
