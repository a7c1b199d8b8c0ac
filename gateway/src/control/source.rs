//! Where the objects come from, and the threads that take them in and compile them.

use std::{io, iter, path::PathBuf, sync::mpsc, thread};

use tokio::sync::oneshot;

use super::{
    Change, Control, NameRequest, Planes,
    cache::CacheWriter,
    files::{Batch, Files},
    kubernetes::Cluster,
    state::StateFile,
    watch_names,
};
use crate::compile::{
    finding::{Finding, Severity},
    settings::Settings,
};

/// Where the objects come from.
#[derive(Debug)]
pub enum Source {
    /// Files and directories, watched.
    Files(Vec<PathBuf>),
    /// A cluster, followed.
    Kubernetes(Box<Cluster>),
    /// These, and what is sent later, for as long as somebody may send.
    Given(Batch, mpsc::Receiver<Batch>),
}

impl Source {
    /// Starts to read and compile, and serves on `planes` what comes of it. What is sent to the sender is done there, until
    /// [`Change::Stop`].
    ///
    /// `remember`: addresses handed out are remembered over a restart. `refuse` hears of a problem of the first reading
    /// instead of the planes; it is for a process that must not replace one which serves more than it could.
    ///
    /// # Errors
    /// If a thread cannot be started, or the cluster's API server cannot be spoken to whatever it answers.
    pub fn start(
        self,
        settings: Settings,
        remember: bool,
        mut planes: impl Planes + Send + 'static,
        refuse: Option<oneshot::Sender<Finding>>,
    ) -> io::Result<mpsc::Sender<Change>> {
        let (changes, inbox) = mpsc::channel();
        let (names_tx, names) = mpsc::channel::<NameRequest>();
        let (ranges, resolver) = (settings.service_cidrs.clone(), changes.clone());
        thread::Builder::new().name("names".to_owned()).spawn(move || watch_names(&names, &ranges, &resolver))?;
        let state = match &self {
            Self::Files(paths) if remember => StateFile::for_manifests(paths),
            Self::Files(_) | Self::Kubernetes(_) | Self::Given(..) => None,
        };
        let mut control = Control::new(settings, state, names_tx);
        if let Self::Kubernetes(cluster) = &self {
            control = control.asking(cluster.references());
            if let Some(file) = cluster.cache() {
                control = control.remembering(CacheWriter::start(file.clone())?);
            }
        }
        thread::Builder::new().name("control".to_owned()).spawn(move || control.run(&inbox, &mut planes))?;
        match self {
            Self::Given(first, later) => {
                let source = changes.clone();
                let pass_on = move || {
                    let all = iter::once(first).chain(later);
                    // Until nobody sends, or nobody listens.
                    let _ = all.map(Change::Objects).try_for_each(|change| source.send(change));
                };
                thread::Builder::new().name("given".to_owned()).spawn(pass_on)?;
            }
            Self::Kubernetes(cluster) => cluster.start(guarded(changes.clone(), refuse))?,
            Self::Files(paths) => {
                let send = guarded(changes.clone(), refuse);
                thread::Builder::new().name("files".to_owned()).spawn(move || Files::new(paths).watch(send))?;
            }
        }
        Ok(changes)
    }
}

/// Sends batches on, as long as somebody listens; but an error in the first to `refuse`, if there is one, and then no more.
fn guarded(
    changes: mpsc::Sender<Change>,
    mut refuse: Option<oneshot::Sender<Finding>>,
) -> impl FnMut(Batch) -> bool + Send + 'static {
    move |batch| {
        let broken = || batch.problems.iter().find(|problem| problem.severity == Severity::Error);
        match refuse.take().and_then(|refuse| Some((refuse, broken()?.clone()))) {
            // A process that had read it once still serves it.
            Some((refuse, problem)) => refuse.send(problem).is_err(),
            None => changes.send(Change::Objects(batch)).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc, time::Duration};

    use tidegate_crd::{Kind, ObjectRef};

    use super::*;
    use crate::snapshot::Snapshot;

    /// Sends each configuration on.
    struct Seen(mpsc::Sender<Arc<Snapshot>>);

    impl Planes for Seen {
        fn publish(&mut self, snapshot: &Arc<Snapshot>) {
            drop(self.0.send(snapshot.clone()));
        }

        fn retry(&mut self) {}
    }

    #[test]
    fn what_is_given_may_change() {
        let service = |name: &str| {
            let text =
                format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}");
            let apply = tidegate_crd::yaml::parse(Path::new("given.yaml"), &text).documents;
            Batch { apply, ..Batch::default() }
        };
        let (publish, published) = mpsc::channel();
        let next = || {
            let snapshot: Arc<Snapshot> = published.recv_timeout(Duration::from_secs(20)).expect("a configuration");
            snapshot.services.iter().map(|row| row.name.to_string()).collect::<Vec<_>>()
        };
        let (send, later) = mpsc::channel();
        let source = Source::Given(service("a"), later);
        let changes = source.start(Settings::default(), false, Seen(publish), None).unwrap();
        assert_eq!(next(), ["a"]);
        let delete = vec![ObjectRef::new(Kind::Service, "", "a")];
        send.send(Batch { delete, ..service("b") }).unwrap();
        assert_eq!(next(), ["b"]);
        // Whoever has no more to say ends nothing.
        drop(send);
        changes.send(Change::Objects(service("c"))).unwrap();
        assert_eq!(next(), ["b", "c"]);
        changes.send(Change::Stop).unwrap();
    }
}
