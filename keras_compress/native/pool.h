// Threads that share the work of a layer. The caller works too, and waits for no thread that has not begun: in a forked
// process, where there are none, it does all by itself.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace keras_compress {

class Pool {
 public:
  // Work on one part, by worker 0 (the caller) to `workers - 1`. Must not throw.
  using Job = std::function<void(int part, int worker)>;

  Pool() = default;
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Starts threads until there are enough for so many workers; fewer where the system gives none, and none in a forked
  // process.
  void reserve(int workers);

  // Calls `job` for each part, in any order. Alone, where another caller is at it.
  void run(int workers, int parts, const Job& job);

  // Whether this process was forked off the one with the threads. Locks are then as they were at that moment, held by
  // who is not there to let go: nothing may wait for them.
  bool forked() const;

 private:
  void serve(int worker);
  void take_parts(const Job& job, int parts, int worker);

  std::vector<std::thread> threads_;
  std::atomic<int64_t> process_{0};  // that has the threads
  std::mutex running_;  // held by the caller that has the threads
  std::mutex state_;    // of what follows
  std::condition_variable begin_, end_;
  const Job* job_ = nullptr;
  int workers_ = 0, parts_ = 0;
  bool stop_ = false;
  // Written under the lock, and looked at without it by who waits a moment before it sleeps.
  std::atomic<int> active_{0};
  std::atomic<uint64_t> turn_{0};
  std::atomic<int> next_{0};
};

}  // namespace keras_compress
