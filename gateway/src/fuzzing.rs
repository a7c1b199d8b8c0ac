//! What `tests/fuzz` calls: thin functions over bytes, into what is otherwise private. Only with the feature `fuzzing`, and no
//! promise to anybody; with or without it, everything behaves the same.

use std::{borrow::Cow, io};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts};
use tokio::io::ReadBuf;

use crate::http::{
    head_guard::HeadGuard,
    headers::{self, Told},
    pod::{
        framing::{self, Framing, Taken},
        head::{AnswerHead, HeadReader},
    },
    preface::{self, Spoken},
    seen::Seen,
    target,
    upload::Upload,
};

/// Reads the heads of a pod's answers.
#[derive(Debug, Default)]
pub struct AnswerReader(HeadReader);

impl AnswerReader {
    /// The head at the beginning of `buffer`, at most `limit` bytes; `None` while more of it is needed.
    ///
    /// # Errors
    /// Why it is none.
    pub fn take(&mut self, buffer: &mut BytesMut, limit: usize) -> Result<Option<Answer>, &'static str> {
        Ok(self.0.take(buffer, limit)?.map(Answer))
    }
}

/// The head of a pod's answer.
#[derive(Debug)]
pub struct Answer(AnswerHead);

impl Answer {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Its fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// Whether the connection can be used again.
    pub fn keep_alive(&self) -> bool {
        self.0.keep_alive
    }

    /// Its content, if it answers `method`.
    pub fn content(&self, method: &Method) -> Content {
        Content(self.0.framing(method))
    }
}

/// Reads the content of a pod's answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Content(Framing);

/// A step in reading it.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Content.
    Data(Bytes),
    /// The end, with or without trailers.
    End(Option<HeaderMap>),
    /// More bytes are needed.
    Nothing,
}

/// Bytes that are no content in the coding that was announced.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl Content {
    /// In the chunked coding.
    pub fn chunked() -> Self {
        Self(Framing::CHUNKED)
    }

    /// So many bytes.
    pub fn length(length: u64) -> Self {
        Self(Framing::Length(length))
    }

    /// Until the connection is closed.
    pub fn until_close() -> Self {
        Self(Framing::UntilClose)
    }

    /// Takes the next piece out of `buffer`.
    ///
    /// # Errors
    /// If it is no content.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        match self.0.take(buffer) {
            Ok(Taken::Data(data)) => Ok(Piece::Data(data)),
            Ok(Taken::Trailers(trailers)) => Ok(Piece::End(Some(trailers))),
            Ok(Taken::End) => Ok(Piece::End(None)),
            Ok(Taken::Nothing) => Ok(Piece::Nothing),
            Err(framing::Malformed) => Err(Malformed),
        }
    }

    /// Whether there is nothing left to take.
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }
}

/// Reads along with a client's connection.
#[derive(Debug, Default)]
pub struct Guard(HeadGuard);

impl Guard {
    /// What is read from a client, as its connection reads it.
    ///
    /// # Errors
    /// If content is refused.
    pub fn read(&mut self, buf: &mut ReadBuf<'_>, read: impl FnOnce(&mut ReadBuf<'_>)) -> io::Result<()> {
        if self.has_refused() {
            return self.0.instead(buf);
        }
        let before = buf.filled().len();
        read(buf);
        self.0.filter(buf, before)
    }

    /// Whether it has let its last byte pass.
    pub fn has_refused(&self) -> bool {
        self.0.refusal().is_some()
    }
}

/// What a connection without TLS speaks that begins with `bytes`; `None` while more of them are needed.
pub fn spoken(bytes: &[u8]) -> Option<&'static str> {
    preface::spoken(bytes).map(|spoken| match spoken {
        Spoken::Http1 => "HTTP/1",
        Spoken::Http2 => "HTTP/2",
        Spoken::Nothing => "nothing",
    })
}

/// Checks and changes a request as the gateway does before it looks for a rule.
///
/// # Errors
/// The answer to a request that is refused.
pub fn check(request: &mut Parts, is_tls: bool) -> Result<(), Box<Response<Bytes>>> {
    target::check(request, is_tls).map(drop).map_err(|failure| Box::new(failure.response()))
}

/// The path that rules are asked about.
///
/// # Errors
/// The answer to a request that is refused.
pub fn path(uri: &Uri) -> Result<Cow<'_, str>, Box<Response<Bytes>>> {
    target::path(uri).map_err(|failure| Box::new(failure.response()))
}

/// The head that a pod is sent of a request without content.
pub fn request_head(parts: &Parts) -> Vec<u8> {
    let (ip, port) = (HeaderValue::from_static("192.0.2.1"), HeaderValue::from_static("80"));
    let host = parts.headers.get(header::HOST).cloned().unwrap_or(HeaderValue::from_static(""));
    let seen = Seen::of(&parts.headers);
    let told = Told {
        ip: &ip,
        host,
        port: Cow::Owned(port),
        scheme: HeaderValue::from_static("http"),
        request_id: headers::request_id(&parts.headers, seen),
        seen,
        takes_trailers: headers::takes_trailers(&parts.headers, seen),
        says_length: headers::says_length(parts, seen),
        is_prepared: false,
    };
    let (mut out, upload) = (Vec::new(), Upload::default());
    headers::write_head(&mut out, parts, &told, &upload, headers::wanted_upgrade(parts, seen, &upload));
    out
}
