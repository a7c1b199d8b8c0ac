//! Where the objects come from, and the threads that read and compile them.

use std::{io, path::PathBuf, sync::mpsc, thread};

use tokio::sync::oneshot;

use super::{
    Change, Control, NameRequest, Planes,
    files::{Batch, Files},
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
    /// These, for ever.
    Given(Batch),
}

impl Source {
    /// Starts to read and compile, and serves on `planes` what comes of it. What is sent to the sender is done there, until
    /// [`Change::Stop`].
    ///
    /// `remember`: addresses handed out are remembered over a restart. `refuse` hears of a problem of the first reading
    /// instead of the planes; it is for a process that must not replace one which serves more than it could.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        self,
        settings: Settings,
        remember: bool,
        mut planes: impl Planes + Send + 'static,
        mut refuse: Option<oneshot::Sender<Finding>>,
    ) -> io::Result<mpsc::Sender<Change>> {
        let (changes, inbox) = mpsc::channel();
        let (names_tx, names) = mpsc::channel::<NameRequest>();
        let (ranges, resolver) = (settings.service_cidrs.clone(), changes.clone());
        thread::Builder::new().name("names".to_owned()).spawn(move || watch_names(&names, &ranges, &resolver))?;
        let state = match &self {
            Self::Files(paths) if remember => StateFile::for_manifests(paths),
            Self::Files(_) | Self::Given(_) => None,
        };
        let control = Control::new(settings, state, names_tx);
        thread::Builder::new().name("control".to_owned()).spawn(move || control.run(&inbox, &mut planes))?;
        match self {
            Self::Given(batch) => drop(changes.send(Change::Files(batch))),
            Self::Files(paths) => {
                let source = changes.clone();
                let watch = move || {
                    Files::new(paths).watch(|batch| {
                        let broken = || batch.problems.iter().find(|problem| problem.severity == Severity::Error);
                        match refuse.take().and_then(|refuse| Some((refuse, broken()?.clone()))) {
                            // A process that had read it once still serves it.
                            Some((refuse, problem)) => refuse.send(problem).is_err(),
                            None => source.send(Change::Files(batch)).is_ok(),
                        }
                    });
                };
                thread::Builder::new().name("files".to_owned()).spawn(watch)?;
            }
        }
        Ok(changes)
    }
}
