//! The copy pool: helpers, which are threads that help a call with its work, and then wait for the next call.
//!
//! To start a thread takes as long as to copy some hundred kilobytes. So helpers stay, and look for more work
//! for a while before they sleep. A call never waits for a helper that has not begun: when no work is left,
//! the call takes its offer back. So a helper that wakes up late, or never, costs nothing.
//!
//! Helpers hold nothing of Python, and the process does not wait for them when it ends. A forked child has
//! none of these threads, and starts its own.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::fork;

/// The most helpers of a process.
const MOST: usize = 63;

/// How many bytes of stack a helper has: copying needs few, decompressing some ten thousand.
const STACK: usize = 1 << 18;

/// How long a helper looks for more work before it sleeps, and a caller for the end of a helper's work. To
/// wake up takes about as long.
const PATIENCE: Duration = Duration::from_micros(100);

/// How many turns a helper waits between two looks at the clock.
const TURNS: u32 = 32;

/// All helpers. No helper is ever freed, so any thread that finds one here may use it.
static HELPERS: [AtomicPtr<Helper>; MOST] = [const { AtomicPtr::new(ptr::null_mut()) }; MOST];

/// No caller has the helper.
const FREE: u8 = 0;
/// A caller has the helper, and will offer work to it.
const CLAIMED: u8 = 1;
/// The helper has not begun the work that it was offered.
const OFFERED: u8 = 2;
/// The helper works.
const BUSY: u8 = 3;
/// The helper has done its work, and will not touch the job any more. The caller still has the helper.
const DONE: u8 = 4;

/// A thread that helps.
struct Helper {
    state: AtomicU8,
    /// The job, while the state is `OFFERED` or `BUSY`, and the helper's number in it.
    job: AtomicPtr<Job<'static>>,
    number: AtomicUsize,
    thread: OnceLock<Thread>,
}

/// The work of a call.
struct Job<'a> {
    help: &'a (dyn Fn(usize) + Sync),
    caller: Thread,
    panicked: AtomicBool,
}

/// Calls `work` here, and `help` in up to `count` other threads at the same time, with numbers from 1 on.
/// Returns when all helpers that have begun are done. `work` must not rely on help: no helper may have begun.
///
/// If `work` forks, the child has no helpers, and what they had begun is not done there.
pub(crate) fn together<T>(count: usize, help: &(dyn Fn(usize) + Sync), work: impl FnOnce() -> T) -> T {
    let job = Job { help, caller: thread::current(), panicked: AtomicBool::new(false) };
    let crew = Crew::call(count, &job);
    let result = work();
    drop(crew);
    if job.panicked.load(Ordering::Relaxed) {
        resume_unwind(Box::new("a helper panicked"));
    }
    result
}

/// The helpers of a call. Dropping it lets them go, also after a panic.
struct Crew {
    helpers: Vec<&'static Helper>,
    /// The fork generation of the calling process.
    forks: u64,
}

impl Crew {
    fn call(count: usize, job: &Job<'_>) -> Self {
        let most = MOST.min(count.max(processors() - 1));
        let mut crew = Crew { helpers: Vec::with_capacity(count.min(most)), forks: fork::generation() };
        for number in 1..=count {
            let Some(helper) = claim(&HELPERS[..most]) else { break };
            helper.number.store(number, Ordering::Relaxed);
            helper.job.store(ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
            crew.helpers.push(helper);
            helper.state.store(OFFERED, Ordering::Release);
            if let Some(thread) = helper.thread.get() {
                thread.unpark();
            }
        }
        crew
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // A forked child has none of these threads. The job is no longer theirs.
        if self.forks != fork::generation() {
            return;
        }
        for helper in &self.helpers {
            helper.let_go();
        }
    }
}

/// Claims a free helper, or starts a new one.
fn claim(helpers: &[AtomicPtr<Helper>]) -> Option<&'static Helper> {
    let known = helpers.iter().filter_map(find);
    let is_mine = |helper: &&Helper| {
        helper.state.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    };
    known.clone().find(is_mine).or_else(|| {
        let place = helpers.iter().find(|place| place.load(Ordering::Relaxed).is_null())?;
        Helper::start(place)
    })
}

/// The helper in a place of the list.
fn find(place: &AtomicPtr<Helper>) -> Option<&'static Helper> {
    // SAFETY:
    // - The pointer is null, or leads to a helper that `start` leaked, and that is never freed.
    // - `start` completed the helper before it stored the pointer with `Release`.
    unsafe { place.load(Ordering::Acquire).as_ref() }
}

/// Forgets all helpers, in a forked child, which has none of these threads. Takes no lock, and allocates
/// nothing.
pub(crate) fn give_up() {
    for place in &HELPERS {
        place.store(ptr::null_mut(), Ordering::Relaxed);
    }
}

impl Helper {
    /// Starts a helper, which the caller has claimed. None if the system starts no thread, or the place is
    /// not empty any more.
    #[cold]
    fn start(place: &AtomicPtr<Helper>) -> Option<&'static Helper> {
        let helper: &'static Helper = Box::leak(Box::new(Helper {
            state: AtomicU8::new(CLAIMED),
            job: AtomicPtr::new(ptr::null_mut()),
            number: AtomicUsize::new(0),
            thread: OnceLock::new(),
        }));
        // The helper is claimed, so no other caller uses it before it is complete. If another caller took the
        // place first, the memory of this helper is lost.
        let entered = ptr::from_ref(helper).cast_mut();
        place.compare_exchange(ptr::null_mut(), entered, Ordering::Release, Ordering::Relaxed).ok()?;
        let builder = thread::Builder::new().name("mmnpz".to_owned()).stack_size(STACK);
        if let Ok(started) = builder.spawn(move || helper.live()) {
            let _ = helper.thread.set(started.thread().clone());
            return Some(helper);
        }
        place.store(ptr::null_mut(), Ordering::Relaxed);
        None
    }

    /// Runs in the thread of the helper, and never returns.
    fn live(&self) {
        ignore_signals();
        let is_alone = processors() == 1;
        loop {
            let since = Instant::now();
            while !self.try_work() {
                if is_alone || since.elapsed() > PATIENCE {
                    thread::park();
                    break;
                }
                for _ in 0..TURNS {
                    std::hint::spin_loop();
                }
            }
        }
    }

    /// Does the work that is offered. Returns false if there is none.
    fn try_work(&self) -> bool {
        if self.state.load(Ordering::Relaxed) != OFFERED
            || self.state.compare_exchange(OFFERED, BUSY, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return false;
        }
        // SAFETY:
        // - `Crew::call` stored the job before it offered it; the exchange above has acquired that store.
        // - The job lives until its `Crew` has let go of this helper. To let go, the crew takes the offer
        //   back, but only one of the two exchanges can succeed, and this one did; or it waits for `DONE`,
        //   after which this function does not use the job.
        let job = unsafe { &*self.job.load(Ordering::Relaxed) };
        let number = self.number.load(Ordering::Relaxed);
        let caller = job.caller.clone();
        if catch_unwind(AssertUnwindSafe(|| (job.help)(number))).is_err() {
            job.panicked.store(true, Ordering::Relaxed);
        }
        self.state.store(DONE, Ordering::Release);
        caller.unpark();
        true
    }

    /// Lets the helper go: takes back an offer that it has not begun, or waits until it is done.
    fn let_go(&self) {
        if self.state.compare_exchange(OFFERED, FREE, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return;
        }
        let since = Instant::now();
        while self.state.load(Ordering::Acquire) != DONE {
            if since.elapsed() > PATIENCE {
                thread::park();
            }
            std::hint::spin_loop();
        }
        self.state.store(FREE, Ordering::Release);
    }
}

/// How many threads can run at once. The system is asked once, as that reads files.
fn processors() -> usize {
    static KNOWN: AtomicUsize = AtomicUsize::new(0);
    let known = KNOWN.load(Ordering::Relaxed);
    if known > 0 {
        return known;
    }
    let count = thread::available_parallelism().map_or(1, usize::from);
    KNOWN.store(count, Ordering::Relaxed);
    count
}

/// Blocks the signals of the process in this thread: another thread may wait for one of them. Signals for
/// faults of this thread stay unblocked.
#[cfg(all(unix, not(miri)))]
fn ignore_signals() {
    // SAFETY: the calls write to `signals` alone, which is valid for them, and the first one fills it.
    unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigfillset(&raw mut signals);
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
            libc::sigdelset(&raw mut signals, fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut());
    }
}

#[cfg(any(not(unix), miri))]
fn ignore_signals() {}

// `make model` runs these under Miri, which sees a helper that touches a job after its call has returned.
#[cfg(test)]
mod tests {
    use super::*;

    const CALLERS: usize = 3;
    const ROUNDS: usize = if cfg!(miri) { 6 } else { 500 };
    const PARTS: usize = 8;

    /// Does all parts of some work with up to `count` helpers, and checks that each was done once.
    fn call(count: usize) {
        let next = AtomicUsize::new(0);
        let done: Vec<AtomicUsize> = (0..PARTS).map(|_| AtomicUsize::new(0)).collect();
        let take = |_: usize| {
            while let Some(part) = done.get(next.fetch_add(1, Ordering::Relaxed)) {
                part.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
        };
        together(count, &take, || take(0));
        assert!(done.iter().all(|part| part.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn what_helpers_have_begun_is_done_when_the_call_returns() {
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                scope.spawn(move || (0..ROUNDS).for_each(|round| call((caller + round) % 4)));
            }
        });
    }

    #[test]
    fn a_panic_of_a_helper_reaches_its_caller_alone() {
        let panics = |number: usize| assert_eq!(number, 0, "this is no caller");
        let mut seen = 0;
        for _ in 0..ROUNDS {
            let begun = AtomicBool::new(false);
            let help = |number: usize| {
                begun.store(true, Ordering::Relaxed);
                panics(number);
            };
            let result = catch_unwind(AssertUnwindSafe(|| together(1, &help, thread::yield_now)));
            assert_eq!(result.is_err(), begun.load(Ordering::Relaxed));
            seen += usize::from(result.is_err());
            call(2);
        }
        // The test has tried something: in so many calls, some helper has begun.
        assert!(cfg!(miri) || seen > 0);
    }
}
