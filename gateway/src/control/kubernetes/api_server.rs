//! `ApiServer`: where the API server is, and who we are to it.

use std::{path::PathBuf, sync::Arc};

use http::{Request, Response};
use kube::{
    Client, Config,
    client::Body,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
};

use super::status::WatchStatus;
use crate::control::limits::{ANSWER_TIMEOUT, SILENCE_TIMEOUT, WATCH_PACE};

/// An API server and our credentials.
#[derive(Clone, Debug)]
pub struct ApiServer {
    config: Config,
}

/// Why no API server is known.
#[derive(Debug, thiserror::Error)]
pub enum NoApiServer {
    /// The kubeconfig that was named does not lead to one.
    #[error("cannot use the kubeconfig {}: {}", .path.display(), reason(.error))]
    Named {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<KubeconfigError>,
    },
    /// The kubeconfig of `KUBECONFIG`, or in its usual place, does not lead to the context that was named.
    #[error("cannot use the kubeconfig: {}", reason(.0))]
    Kubeconfig(Box<KubeconfigError>),
    /// None was named, and there is none in the usual places.
    #[error(
        "no API server is known: this is no pod of a cluster ({in_cluster}), and there is no kubeconfig ({}); \
         name one with --kubeconfig PATH",
        reason(.kubeconfig)
    )]
    Neither {
        /// What a pod lacks.
        in_cluster: Box<InClusterError>,
        /// What the kubeconfig lacks.
        kubeconfig: Box<KubeconfigError>,
    },
}

/// What it came from is in its words, and so is no source: that would be said twice.
impl From<KubeconfigError> for NoApiServer {
    fn from(error: KubeconfigError) -> Self {
        Self::Kubeconfig(Box::new(error))
    }
}

/// An error with what it came from: the outermost says only where it happened.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl ApiServer {
    /// The API server of a context of a kubeconfig; if neither is named, of the cluster whose pod this is, else of the
    /// current context of the kubeconfig in `KUBECONFIG` or in its usual place.
    ///
    /// # Errors
    /// If none is found.
    pub async fn find(kubeconfig: Option<PathBuf>, context: Option<String>) -> Result<Self, NoApiServer> {
        let of_pod = if kubeconfig.is_none() && context.is_none() { Some(Config::incluster()) } else { None };
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let mut config = match (of_pod, kubeconfig) {
            (Some(Ok(config)), _) => config,
            (Some(Err(in_cluster)), _) => Config::from_kubeconfig(&options).await.map_err(|kubeconfig| {
                NoApiServer::Neither { in_cluster: Box::new(in_cluster), kubeconfig: Box::new(kubeconfig) }
            })?,
            (None, Some(path)) => {
                let read = Kubeconfig::read_from(&path).map_err(Box::new);
                let config = match read {
                    Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(Box::new),
                    Err(error) => Err(error),
                };
                config.map_err(|error| NoApiServer::Named { path, error })?
            }
            (None, None) => Config::from_kubeconfig(&options).await?,
        };
        config.read_timeout = Some(SILENCE_TIMEOUT);
        // The watches have a way of their own to try again, which the status knows of.
        config.default_retry = false;
        Ok(Self { config })
    }

    /// Its address.
    pub fn url(&self) -> &http::Uri {
        &self.config.cluster_url
    }

    /// The namespace that is meant where none is named: that of our pod, or of the kubeconfig's context.
    pub fn default_namespace(&self) -> &str {
        &self.config.default_namespace
    }

    /// A client for it. Needs a runtime to be entered.
    pub(crate) fn client(&self) -> Result<Client, kube::Error> {
        Client::try_from(self.config.clone())
    }
}

/// The client of one watch: it tells the status of every answer, waits for none for ever, and keeps the pace.
pub(super) fn watching(client: &Client, status: &Arc<WatchStatus>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let (client, status) = (client.clone(), status.clone());
    let last_watch = Arc::new(Mutex::new(None));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, status, last_watch) = (client.clone(), status.clone(), last_watch.clone());
        async move {
            let is_watch = is_watch(&request);
            if is_watch {
                keep_pace(&last_watch).await;
            }
            let answer: Response<Body> = timeout(ANSWER_TIMEOUT, client.send(request)).await.map_err(|_| {
                let late = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
                kube::Error::Service(late.into())
            })??;
            if answer.status().is_success() {
                status.answered(is_watch);
            }
            Ok::<_, kube::Error>(answer)
        }
    });
    Client::new(service, namespace)
}

fn is_watch(request: &Request<Body>) -> bool {
    request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("watch=")))
}

async fn keep_pace(last: &Mutex<Option<Instant>>) {
    let mut last = last.lock().await;
    if let Some(last) = *last {
        sleep_until(last + WATCH_PACE).await;
    }
    *last = Some(Instant::now());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_read_is_complained_of_once() {
        let missing = std::env::temp_dir().join("tidegate-no-such-kubeconfig");
        let error = ApiServer::find(Some(missing.clone()), None).await.unwrap_err();
        let text = format!("{:#}", anyhow::Error::new(error));
        let count = |what: &str| text.matches(what).count();
        assert!(text.starts_with(&format!("cannot use the kubeconfig {}: ", missing.display())), "{text}");
        assert_eq!((count("failed to read"), count("No such file")), (1, 1), "{text}");
    }
}
