//! Tasks of hyper's, on the thread of the worker that asked for them.

use hyper::rt::Executor;
use tokio::task::spawn_local;

/// Spawns on the current `LocalSet`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExec;

impl<F> Executor<F> for LocalExec
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}
