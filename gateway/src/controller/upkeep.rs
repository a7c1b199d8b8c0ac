//! Upkeep: writes what is not as it should be, for as long as anybody says what that is.

use std::time::Instant;

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    attempts::{Attempts, Wanted},
    limits::STATUS_LOOK,
    writer::sleep_until,
};
use crate::control::kubernetes::failure::Failure;

/// Writes what a plan says, and looks again when something has changed (until that is the end), when something was written or could not
/// be, and when it is time to try again.
pub(super) async fn keep_up<W: Wanted>(
    mut plan: impl FnMut() -> Vec<W>,
    mut changed: impl AsyncFnMut() -> bool,
    write: impl AsyncFn(&W) -> Result<(), Failure>,
) {
    let mut attempts = Attempts::default();
    let mut under_way = FuturesUnordered::new();
    let write = &write;
    let one = |wanted: W| async move {
        let failure = write(&wanted).await.err();
        (wanted, failure)
    };
    loop {
        let (due, next) = attempts.due(plan(), now());
        under_way.extend(due.into_iter().map(one));
        tokio::select! {
            goes_on = changed() => if !goes_on { return },
            () = sleep_until(next) => {}
            Some((wanted, failure)) = under_way.next() => attempts.done(wanted, failure.as_ref(), now()),
        }
        let mut look = std::pin::pin!(tokio::time::sleep(STATUS_LOOK));
        loop {
            tokio::select! {
                () = &mut look => break,
                Some((wanted, failure)) = under_way.next() => attempts.done(wanted, failure.as_ref(), now()),
            }
        }
    }
}

/// The time as the runtime has it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use tidegate_crd::{Kind, ObjectRef};

    use super::*;

    impl Wanted for ObjectRef {
        fn name(&self) -> &ObjectRef {
            self
        }
    }

    fn name(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Ingress, "default", name)
    }

    /// Keeps these up until none is left to be written, or for this long; nothing ever changes by itself.
    async fn written_within(
        limit: Duration,
        names: &[ObjectRef],
        answer: impl AsyncFn(&ObjectRef) -> Result<(), Failure>,
    ) -> Vec<ObjectRef> {
        let (left, written) = (RefCell::new(names.to_vec()), RefCell::new(Vec::new()));
        let write = async |wanted: &ObjectRef| {
            answer(wanted).await?;
            left.borrow_mut().retain(|name| name != wanted);
            written.borrow_mut().push(wanted.clone());
            Ok(())
        };
        let kept = keep_up(|| left.borrow().clone(), async || std::future::pending().await, write);
        assert!(tokio::time::timeout(limit, kept).await.is_err(), "it goes on for ever");
        written.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_tried_again_though_nothing_changes() {
        let tries = RefCell::new(0);
        let answer = async |_: &ObjectRef| {
            *tries.borrow_mut() += 1;
            match *tries.borrow() {
                ..3 => Err(Failure::Forbidden { verb: "patch", message: "its words".to_owned() }),
                3 => Err(Failure::Unreachable { message: "gone".to_owned() }),
                _ => Ok(()),
            }
        };
        assert_eq!(written_within(Duration::from_secs(10), &[name("a")], answer).await, [name("a")]);
        assert_eq!(tries.into_inner(), 4);
    }

    /// As behind an admission webhook that does not answer.
    #[tokio::test(start_paused = true)]
    async fn writes_that_hang_do_not_keep_the_others() {
        let names: Vec<ObjectRef> = (0..70).map(|i| name(&format!("{i:02}"))).collect();
        let answer = async |wanted: &ObjectRef| {
            if *wanted.name < *"60" {
                tokio::time::sleep(Duration::from_secs(30)).await;
                return Err(Failure::Unreachable { message: "no answer".to_owned() });
            }
            Ok(())
        };
        let written = written_within(Duration::from_secs(200), &names, answer).await;
        assert_eq!(written, names[60..], "all that can be");
    }
}
