//! Things that calls check out, one each, and give back.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::cuda::CudaError;
use crate::engine::WhenBusy;

/// A fixed number of things, each used by one call at a time.
pub(crate) struct Pool<T> {
    free: Mutex<Vec<T>>,
    returned: Condvar,
    size: usize,
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
        Pool { free: Mutex::new(things), returned: Condvar::new(), size }
    }

    /// The next free thing.
    ///
    /// # Errors
    /// [`CudaError::Busy`] if there is none and the caller does not wait.
    pub(crate) fn check_out(&self, when_busy: WhenBusy) -> Result<CheckedOut<'_, T>, CudaError> {
        let mut free = self.lock();
        loop {
            if let Some(thing) = free.pop() {
                return Ok(CheckedOut { pool: self, thing: Some(thing) });
            }
            if when_busy == WhenBusy::Refuse || self.size == 0 {
                return Err(CudaError::Busy { contexts: self.size });
            }
            free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The things stay usable when a thread that held the lock panicked: it holds it only to push or pop.
    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.pool.lock().push(thing);
            self.pool.returned.notify_one();
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
        let total = pool.lock().iter().map(|count| count.load(Ordering::Relaxed)).sum::<usize>();
        assert_eq!(total, 8 * 200 * 2);
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
