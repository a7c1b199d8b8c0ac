//! A request on its way to a pod: its head, then its content as it comes from the client.

use std::{
    io::{self, IoSlice, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tokio::io::AsyncWrite;

use super::io::PodIo;
use crate::http::upload::{Piece, Upload};

/// Content up to this size is copied behind what goes before it, so that they leave in one piece.
const COPIED_BYTES: usize = 4 << 10;

/// How the pod learns where the content ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// There is none.
    Empty,
    /// By its Content-Length; so many bytes are left.
    Length(u64),
    /// By the chunked coding.
    Chunked,
}

/// Why a request could not be sent to its end.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// The pod does not take it.
    Pod(io::Error),
    /// The client does not send it; [`Upload`] knows why.
    Client,
}

/// What is to be written.
#[derive(Debug)]
pub(crate) struct Sending {
    /// First the rest of this: the head, or the line of a chunk.
    out: Vec<u8>,
    written: usize,
    /// Then this piece of content …
    data: Bytes,
    /// … and what ends it.
    tail: &'static [u8],
    coding: Coding,
    upload: Upload,
    stage: Stage,
    /// Whether a byte has left.
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The content is not at its end.
    Content,
    /// What is left only has to be written.
    Last,
    /// Everything is written, but may sit in the TLS session.
    Flush,
    Done,
}

impl Sending {
    /// `head` is the request's head to its empty line.
    pub(crate) fn new(head: Vec<u8>, coding: Coding, upload: Upload) -> Self {
        let stage = if coding == Coding::Empty { Stage::Last } else { Stage::Content };
        Self { out: head, written: 0, data: Bytes::new(), tail: b"", coding, upload, stage, begun: false }
    }

    /// Whether the pod may have seen some of it.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether all of it is sent.
    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// The content.
    pub(crate) fn upload(&self) -> &Upload {
        &self.upload
    }

    /// The buffer of the head, for the next one; once.
    pub(crate) fn take_buffer(&mut self) -> Option<Vec<u8>> {
        (self.out.capacity() > 0).then(|| std::mem::take(&mut self.out))
    }

    /// Sends what can be sent; ready when all is.
    pub(crate) fn poll(&mut self, io: &mut PodIo, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        if !self.begun && self.stage == Stage::Content {
            // What is there of the content leaves together with the head.
            let _waits = self.poll_content(cx)?;
        }
        loop {
            ready!(self.poll_write(io, cx)).map_err(Unsent::Pod)?;
            match self.stage {
                Stage::Content => ready!(self.poll_content(cx))?,
                Stage::Last => self.stage = Stage::Flush,
                Stage::Flush => {
                    ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(Unsent::Pod)?;
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes `out`, `data` and `tail`.
    fn poll_write(&mut self, io: &mut PodIo, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let out = &self.out[self.written..];
            let left = out.len() + self.data.len() + self.tail.len();
            if left == 0 {
                self.out.clear();
                self.written = 0;
                return Poll::Ready(Ok(()));
            }
            let written = if left == out.len() {
                ready!(Pin::new(&mut *io).poll_write(cx, out))?
            } else {
                let slices = [IoSlice::new(out), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun = true;
            self.advance(written);
        }
    }

    fn advance(&mut self, mut written: usize) {
        let head = written.min(self.out.len() - self.written);
        self.written += head;
        written -= head;
        let data = written.min(self.data.len());
        self.data.advance(data);
        self.tail = &self.tail[written - data..];
    }

    /// Takes the next piece of content from the client; ready when there is one to write, or the end.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        let Ok(piece) = ready!(self.upload.poll(cx)) else { return Poll::Ready(Err(Unsent::Client)) };
        match (piece, self.coding) {
            (Piece::Data(data), Coding::Length(left)) => {
                let Some(left) = left.checked_sub(data.len() as u64) else { return Poll::Ready(Err(Unsent::Client)) };
                self.coding = Coding::Length(left);
                if left == 0 {
                    self.stage = Stage::Last;
                }
                self.add(data, b"");
            }
            (Piece::Data(data), Coding::Chunked) => {
                if !data.is_empty() {
                    write!(self.out, "{:x}\r\n", data.len()).map_err(Unsent::Pod)?;
                    self.add(data, b"\r\n");
                }
            }
            (Piece::Trailers(trailers), Coding::Chunked) => {
                self.out.extend_from_slice(b"0\r\n");
                write_fields(&mut self.out, &trailers);
                self.out.extend_from_slice(b"\r\n");
                self.stage = Stage::Last;
            }
            (Piece::End, Coding::Chunked) => {
                self.out.extend_from_slice(b"0\r\n\r\n");
                self.stage = Stage::Last;
            }
            // hyper makes sure that the content is as long as was said; trailers have no place after it.
            (Piece::Trailers(_) | Piece::End, Coding::Length(_)) | (_, Coding::Empty) => self.stage = Stage::Last,
        }
        Poll::Ready(Ok(()))
    }

    fn add(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPIED_BYTES {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(tail);
        } else {
            (self.data, self.tail) = (data, tail);
        }
    }
}

fn write_fields(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}
