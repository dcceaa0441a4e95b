// Tasks on the threads of XLA's own pool, and on the thread that calls: whoever is free takes the next one.
//
// The caller takes tasks itself, so the call ends even where every other thread of the pool is busy: it waits
// for those tasks alone that another thread has begun.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

namespace lstm_jax {

class Team {
 public:
  using Schedule = std::function<void(std::function<void()>)>;

  // `threads` in all, the caller included; `schedule` gives a function to another thread.
  Team(int64_t threads, Schedule schedule) : threads_(threads), schedule_(std::move(schedule)) {}

  int64_t threads() const { return threads_; }

  // Calls task(0) … task(count − 1), each once, and returns when all are done.
  void run(int64_t count, const std::function<void(int64_t)>& task) const {
    if (count <= 1 || threads_ <= 1) {
      for (int64_t n = 0; n < count; ++n) task(n);
      return;
    }
    auto shared = std::make_shared<Shared>(count, task);
    for (int64_t n = 1; n < std::min(count, threads_); ++n) schedule_([shared] { shared->work(); });
    shared->work();
    shared->wait();
  }

 private:
  struct Shared {
    Shared(int64_t count, const std::function<void(int64_t)>& task) : count(count), task(&task) {}

    void work() {
      for (int64_t n = next++; n < count; n = next++) {
        (*task)(n);  // It outlives the call: the caller waits for every task that was begun.
        if (++done == count) {
          std::lock_guard<std::mutex> lock(mutex);
          ended.notify_all();
        }
      }
    }

    void wait() {
      // Bounded, so that a busy machine loses no more than this.
      for (int turns = 0; turns < 4000 && done < count; ++turns) pause();
      std::unique_lock<std::mutex> lock(mutex);
      ended.wait(lock, [this] { return done == count; });
    }

    static void pause() {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }

    const int64_t count;
    const std::function<void(int64_t)>* task;
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable ended;
  };

  int64_t threads_;
  Schedule schedule_;
};

}  // namespace lstm_jax
