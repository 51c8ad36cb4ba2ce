//! Work for as many machines at the same time as there are processors.

use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// Machines that run at the same time at most, if there are processors for them.
const MAX_MACHINES: usize = 2;

/// Does the work for each item, in this order, some at the same time.
///
/// # Errors
///
/// The first error; then those that have not been begun are left.
pub fn for_each<T: Send>(items: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    let queue = Mutex::new(items.into_iter());
    let failure = Mutex::new(None);
    let next = || {
        let failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        failure.is_none().then(|| queue.next()).flatten()
    };
    let run = || {
        while let Some(item) = next() {
            if let Err(error) = work(item) {
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers.min(MAX_MACHINES) {
            scope.spawn(run);
        }
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use anyhow::bail;

    use super::*;

    #[test]
    fn all_is_done_until_something_fails() {
        let sum = AtomicU32::new(0);
        for_each((1..=100).collect(), |n| {
            sum.fetch_add(n, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert_eq!(sum.into_inner(), 5050);

        let begun = AtomicU32::new(0);
        let error = for_each((0..1000).collect(), |n: u32| {
            begun.fetch_add(1, Ordering::Relaxed);
            bail!("item {n}")
        });
        assert!(error.unwrap_err().to_string().starts_with("item "));
        assert!(begun.into_inner() <= MAX_MACHINES as u32);
    }
}
