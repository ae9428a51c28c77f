//! Things that calls check out, one each, and give back; calls that wait are served in the order in which they came.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::cuda::CudaError;
use crate::engine::WhenBusy;

/// A fixed number of things, each used by one call at a time.
pub(crate) struct Pool<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    size: usize,
}

struct State<T> {
    free: Vec<T>,
    /// Calls that came, and those of them that got a thing: the others wait.
    came: u64,
    served: u64,
}

/// A thing that is checked out; given back when it goes.
pub(crate) struct CheckedOut<'a, T> {
    pool: &'a Pool<T>,
    /// `None` only while it is given back.
    thing: Option<T>,
}

impl<T> Pool<T> {
    pub(crate) fn new(things: Vec<T>) -> Pool<T> {
        let size = things.len();
        Pool { state: Mutex::new(State { free: things, came: 0, served: 0 }), changed: Condvar::new(), size }
    }

    /// The next free thing.
    ///
    /// # Errors
    /// [`CudaError::Busy`] if there is none, or others wait for it, and the caller does not wait.
    pub(crate) fn check_out(&self, when_busy: WhenBusy) -> Result<CheckedOut<'_, T>, CudaError> {
        let mut state = self.lock();
        let is_free = state.came == state.served && !state.free.is_empty();
        if self.size == 0 || (when_busy == WhenBusy::Refuse && !is_free) {
            return Err(CudaError::Busy { contexts: self.size });
        }
        let turn = state.came;
        state.came += 1;
        loop {
            if turn == state.served
                && let Some(thing) = state.free.pop()
            {
                state.served += 1;
                self.changed.notify_all(); // there may be a thing for the next call too
                return Ok(CheckedOut { pool: self, thing: Some(thing) });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The things stay usable when a thread that held the lock panicked: it holds it only to count, push or pop.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for CheckedOut<'_, T> {
    type Target = T;

    #[allow(clippy::unreachable)] // `thing` is taken in `drop` alone
    fn deref(&self) -> &T {
        self.thing.as_ref().unwrap_or_else(|| unreachable!("given back"))
    }
}

impl<T> DerefMut for CheckedOut<'_, T> {
    #[allow(clippy::unreachable)] // as in `deref`
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().unwrap_or_else(|| unreachable!("given back"))
    }
}

impl<T> Drop for CheckedOut<'_, T> {
    fn drop(&mut self) {
        if let Some(thing) = self.thing.take() {
            self.pool.lock().free.push(thing);
            self.pool.changed.notify_all();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed check ends the test
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_exhausted_pool_refuses_and_recovers() {
        let pool = Pool::new(vec![1, 2]);
        let (a, b) = (pool.check_out(WhenBusy::Refuse).unwrap(), pool.check_out(WhenBusy::Refuse).unwrap());
        assert_ne!(*a, *b);
        assert_eq!(pool.check_out(WhenBusy::Refuse).err(), Some(CudaError::Busy { contexts: 2 }));
        drop(a);
        assert!(pool.check_out(WhenBusy::Refuse).is_ok());
        assert_eq!(
            Pool::<u8>::new(Vec::new()).check_out(WhenBusy::Wait).err(),
            Some(CudaError::Busy { contexts: 0 })
        );
    }

    /// More threads than things: every call gets its turn, and never two share a thing.
    #[test]
    fn waiting_calls_take_turns() {
        let pool = Pool::new(vec![AtomicUsize::new(0), AtomicUsize::new(0)]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let thing = pool.check_out(WhenBusy::Wait).unwrap();
                        assert_eq!(thing.fetch_add(1, Ordering::Relaxed) % 2, 0);
                        std::thread::yield_now();
                        assert_eq!(thing.fetch_add(1, Ordering::Relaxed) % 2, 1);
                    }
                });
            }
        });
        let total = pool.lock().free.iter().map(|count| count.load(Ordering::Relaxed)).sum::<usize>();
        assert_eq!(total, 8 * 200 * 2);
    }

    /// A call that comes while others wait does not overtake them.
    #[test]
    fn calls_are_served_as_they_came() {
        let pool = Pool::new(vec![()]);
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let held = pool.check_out(WhenBusy::Wait).unwrap();
            for turn in 1..=5 {
                let (pool, order) = (&pool, &order);
                scope.spawn(move || {
                    let _thing = pool.check_out(WhenBusy::Wait).unwrap();
                    order.lock().unwrap().push(turn);
                });
                while pool.lock().came == turn {
                    std::thread::yield_now();
                }
            }
            drop(held);
        });
        assert_eq!(order.into_inner().unwrap(), [1, 2, 3, 4, 5]);
        pool.lock().came += 1; // another waits and has not woken yet
        assert!(pool.check_out(WhenBusy::Refuse).is_err());
    }

    /// A call that panics gives back what it held.
    #[test]
    fn a_panic_gives_back() {
        let pool = Pool::new(vec![()]);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = pool.check_out(WhenBusy::Wait).unwrap();
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(caught.is_err());
        assert!(pool.check_out(WhenBusy::Refuse).is_ok());
    }
}
