//! Asks the admin interface of a running instance: what `tidegate get` and `tidegate explain` do.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

/// For the whole exchange; the largest answer takes well under a second to make.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an answer: ten times what 10,000 Services of 5 endpoints take. What is larger is not from an instance.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Why there is no answer, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing accepts connections there.
    #[error(
        "nothing answers at {admin} ({error}). Is tidegate running? Start it with `tidegate run --manifests PATH`, or say \
         where it is with --admin ADDR"
    )]
    Connect {
        /// The address that was asked.
        admin: String,
        /// What the system said.
        error: io::Error,
    },
    /// It accepts connections, and does not answer.
    #[error("{admin} accepts connections and does not answer. Is it the admin address of a tidegate? Check --admin")]
    Timeout {
        /// The address that was asked.
        admin: String,
    },
    /// What it says is not HTTP, or breaks off.
    #[error("{admin} does not answer as an admin interface does ({error}). Check --admin")]
    Protocol {
        /// The address that was asked.
        admin: String,
        /// What was wrong with the answer.
        error: String,
    },
    /// The answer is larger than any instance's.
    #[error("the answer of {admin} has more than {MAX_ANSWER_BYTES} bytes. Is it the admin address of a tidegate?")]
    TooLarge {
        /// The address that was asked.
        admin: String,
    },
    /// The question cannot be asked.
    #[error("{path:?} is not a path that can be asked for")]
    Path {
        /// The path and query.
        path: String,
    },
    /// It answered with an error; the text is its explanation.
    #[error("{admin} answered {status}: {text}")]
    Status {
        /// The address that was asked.
        admin: String,
        /// The status.
        status: StatusCode,
        /// Its explanation.
        text: String,
    },
}

/// The answer of the instance whose admin interface is at `admin` (`HOST:PORT`) to a `path`, which may have a query.
///
/// # Errors
/// If there is no answer, or none of status 200.
pub async fn fetch(admin: &str, path: &str) -> Result<Bytes, ClientError> {
    let answer = time::timeout(TIMEOUT, exchange(admin, path)).await;
    answer.unwrap_or_else(|_| Err(ClientError::Timeout { admin: admin.to_owned() }))
}

async fn exchange(admin: &str, path: &str) -> Result<Bytes, ClientError> {
    let protocol =
        |error: &dyn std::fmt::Display| ClientError::Protocol { admin: admin.to_owned(), error: error.to_string() };
    let unreachable = |error| ClientError::Connect { admin: admin.to_owned(), error };
    let uri: Uri = path.parse().map_err(|_| ClientError::Path { path: path.to_owned() })?;
    let stream = TcpStream::connect(admin).await.map_err(unreachable)?;
    // The address rather than the name: the server answers to names that no web page can have (see `host`).
    let host = stream.peer_addr().map_err(unreachable)?.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| protocol(&error))?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = uri;
    let host = HeaderValue::try_from(host).map_err(|error| protocol(&error))?;
    request.headers_mut().insert(header::HOST, host);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| protocol(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                ClientError::TooLarge { admin: admin.to_owned() }
            } else {
                protocol(&error)
            }
        })?;
        Ok((status, body.to_bytes()))
    };
    let mut answer = std::pin::pin!(answer);
    // The connection has to be driven for the answer to come, and may end, well or not, before the answer was read.
    let (status, body) = tokio::select! {
        answer = &mut answer => answer?,
        _ = connection => answer.await?,
    };
    if status == StatusCode::OK {
        return Ok(body);
    }
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    Err(ClientError::Status { admin: admin.to_owned(), status, text })
}
