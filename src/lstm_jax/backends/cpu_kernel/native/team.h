// Tasks on the threads of XLA's own pool, and on the thread that calls: whoever is free takes the next one.
//
// The caller takes tasks itself, so a call ends even where every other thread of the pool is busy: it waits for those
// tasks alone that another thread has begun. Threads that came to help stay for the next tasks of the call, but wait
// for them no longer than kTurns, so that a busy machine loses no more than this.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

namespace lstm_jax {

class Team {
 public:
  using Task = std::function<void(int64_t)>;
  using Schedule = std::function<void(std::function<void()>)>;

  // `threads` in all, the caller included; `schedule` gives a function to another thread.
  explicit Team(int64_t threads = 1, Schedule schedule = {})
      : threads_(schedule ? threads : 1), schedule_(std::move(schedule)), shared_(std::make_shared<Shared>()) {}
  Team(const Team&) = delete;
  ~Team() { shared_->closed.store(true, std::memory_order_release); }

  int64_t threads() const { return threads_; }

  // Calls task(0) … task(count − 1), each once, and returns when all are done. A task must not throw.
  template <typename F>
  void run(int64_t count, F&& task) const {
    if (count <= 1 || threads_ <= 1) {  // Of one thread, also at every step: nothing is made for the others.
      for (int64_t n = 0; n < count; ++n) task(n);
      return;
    }
    for (int64_t first = 0; first < count; first += kMost)
      run_together(std::min(count - first, kMost), [&, first](int64_t n) { task(first + n); });
  }

 private:
  static constexpr int64_t kMost = 1 << 20;
  static constexpr int kTurns = 4000;

  void run_together(int64_t count, const Task& task) const {
    Shared& shared = *shared_;
    shared.begin(count, task);
    for (int64_t here = shared.helpers; here < std::min(count, threads_) - 1; ++here) {
      ++shared.helpers;
      try {
        schedule_([keep = shared_] { keep->help(); });
      } catch (...) {  // Without a helper the caller does it all.
        --shared.helpers;
        break;
      }
    }
    while (shared.work_on_one()) {
    }
    shared.wait(count);
  }

  struct Shared {
    // Which tasks these are, how many, and the next one, in one word: nobody takes a number of one call of begin for
    // a number of another.
    std::atomic<uint64_t> ticket{0};
    const Task* task = nullptr;
    std::atomic<int64_t> done{0}, helpers{0};
    std::atomic<bool> closed{false};
    std::mutex mutex;
    std::condition_variable ended;

    static int64_t next(uint64_t word) { return int64_t(word & 0x1fffff); }
    static int64_t count(uint64_t word) { return int64_t(word >> 21 & 0x1fffff); }

    void begin(int64_t count, const Task& these) {
      task = &these;
      done.store(0, std::memory_order_relaxed);
      const uint64_t round = (ticket.load(std::memory_order_relaxed) >> 42) + 1;
      ticket.store(round << 42 | uint64_t(count) << 21, std::memory_order_release);
    }

    bool work_on_one() {
      uint64_t word = ticket.load(std::memory_order_acquire);
      do {
        if (next(word) >= count(word)) return false;
      } while (!ticket.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire));
      // The caller waits for this one, so that `task` is there until it is done.
      (*task)(next(word));
      const int64_t all = count(word);
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == all) {
        std::lock_guard<std::mutex> lock(mutex);
        ended.notify_all();
      }
      return true;
    }

    void help() {
      for (int turns = 0; turns < kTurns && !closed.load(std::memory_order_acquire); ++turns) {
        if (work_on_one())
          turns = 0;
        else
          pause();
      }
      --helpers;
    }

    void wait(int64_t count) {
      for (int turns = 0; turns < kTurns && done.load(std::memory_order_acquire) < count; ++turns) pause();
      std::unique_lock<std::mutex> lock(mutex);
      ended.wait(lock, [&] { return done.load(std::memory_order_acquire) == count; });
    }

    static void pause() {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  };

  int64_t threads_;
  Schedule schedule_;
  std::shared_ptr<Shared> shared_;
};

}  // namespace lstm_jax
