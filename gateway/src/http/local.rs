//! Tasks of hyper's, on the thread of the worker that asked for them.

use hyper::rt::Executor;
use tokio::task::spawn_local;

/// Spawns on the current `LocalSet`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExec;

impl<F: Future + 'static> Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        spawn_local(async move { drop(future.await) });
    }
}
