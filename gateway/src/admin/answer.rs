//! `Answer`: what the admin interface says, and how it says it.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use tokio::sync::mpsc;

use crate::small_server::Content;

/// Before the first configuration.
pub(super) const NO_CONFIGURATION: &str = "no configuration yet: the manifests are still being read\n";

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    content: Content,
}

impl Answer {
    /// 200, with this.
    pub(super) fn new(content_type: &'static str, content: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, content: Content::whole(content) }
    }

    /// 200, with what comes through a channel for as long as somebody reads it.
    pub(super) fn stream(content_type: &'static str, pieces: mpsc::Receiver<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, content: Content::Stream(pieces) }
    }

    /// A sentence or a list for people.
    pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self { status, ..Self::new("text/plain; charset=utf-8", text) }
    }

    /// 200, with a value.
    pub(super) fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(json) => Self::new("application/json", json),
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// With the fields that every answer has.
    pub(super) fn response(self) -> Response<Content> {
        let mut response = Response::new(self.content);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
