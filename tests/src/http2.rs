//! HTTP/2 clients that do it right: streams of messages in both directions as gRPC has them, and WebSockets. (Those that do it
//! wrong are made with [`crate::h2`].)

use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http2::{self, SendRequest},
    ext::Protocol,
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{PATIENCE, web_socket::WebSocket};

/// Why something was not served, for people.
pub type Failure = String;

/// One connection.
#[derive(Debug)]
pub struct Http2Client {
    sender: SendRequest<Content>,
}

/// A stream of gRPC messages that are echoed one by one.
#[derive(Debug)]
pub struct GrpcStream {
    messages: mpsc::UnboundedSender<Bytes>,
    answers: Incoming,
}

impl Http2Client {
    /// Speaks HTTP/2 on a connection.
    ///
    /// # Errors
    /// If the other side does not.
    pub async fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self, Failure> {
        let handshake = within(http2::handshake(TokioExecutor::new(), TokioIo::new(stream)));
        let (sender, connection) = handshake.await?.map_err(|error| format!("no HTTP/2: {error}"))?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Asks until the server takes no more requests on this connection.
    ///
    /// # Errors
    /// If one of them is neither answered nor left alone.
    pub async fn until_told_to_go(&mut self, host: &str) -> Result<(), Failure> {
        while self.get(host).await?.is_some() {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// The answer to a request; `None` if the connection takes no more.
    ///
    /// # Errors
    /// If there is none.
    pub async fn get(&mut self, host: &str) -> Result<Option<(u16, Bytes)>, Failure> {
        let request = Request::get(format!("http://{host}/")).body(Content::Empty).map_err(|e| e.to_string())?;
        let Some(response) = self.send(request).await? else { return Ok(None) };
        let status = response.status().as_u16();
        let body = within(response.into_body().collect()).await?.map_err(|error| error.to_string())?;
        Ok(Some((status, body.to_bytes())))
    }

    /// Begins a stream; `None` if the connection takes no more.
    ///
    /// # Errors
    /// If it is not answered 200.
    pub async fn stream(&mut self, host: &str) -> Result<Option<GrpcStream>, Failure> {
        let (messages, content) = mpsc::unbounded_channel();
        let request = Request::post(format!("http://{host}/echo.Echo/Stream"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Content::Messages(content))
            .map_err(|error| error.to_string())?;
        let Some(response) = self.send(request).await? else { return Ok(None) };
        if response.status() != 200 {
            return Err(format!("the stream is answered {}", response.status()));
        }
        Ok(Some(GrpcStream { messages, answers: response.into_body() }))
    }

    /// Begins a WebSocket (RFC 8441); `None` if the connection takes no more.
    ///
    /// # Errors
    /// If there is none.
    pub async fn web_socket(&mut self, host: &str) -> Result<Option<WebSocket<TokioIo<Upgraded>>>, Failure> {
        // Any answer will do: before it come the settings, which say whether extended CONNECT may be sent at all (RFC 8441 3).
        if self.get("nobody.example.com").await?.is_none() {
            return Ok(None);
        }
        let mut request =
            Request::connect(format!("http://{host}/ws")).body(Content::Empty).map_err(|error| error.to_string())?;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        request.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        let Some(response) = self.send(request).await? else { return Ok(None) };
        if response.status() != 200 {
            return Err(format!("the WebSocket is answered {}", response.status()));
        }
        let stream = within(hyper::upgrade::on(response)).await?.map_err(|error| format!("no WebSocket: {error}"))?;
        Ok(Some(WebSocket::on(TokioIo::new(stream))))
    }

    /// Sends a request; `None` if the connection takes no more, in which case the server has not looked at it.
    async fn send(&mut self, request: Request<Content>) -> Result<Option<Response<Incoming>>, Failure> {
        if self.sender.ready().await.is_err() {
            return Ok(None);
        }
        let mut error = match within(self.sender.try_send_request(request)).await? {
            Ok(response) => return Ok(Some(response)),
            Err(error) => error,
        };
        if error.take_message().is_some() {
            return Ok(None);
        }
        let error = error.into_error();
        let reason = error.source().map(ToString::to_string).unwrap_or_default();
        // RFC 9113 8.7: the server says that it has not looked at the request; whoever sent it may send it again. It says so
        // with a reset, or with a GOAWAY without an error that names an earlier stream as the last one: that is all that
        // reaches a stream of a GOAWAY.
        let untouched = ["refused stream", "connection error received: not a result of an error"];
        if untouched.iter().any(|text| reason.contains(text)) {
            return Ok(None);
        }
        Err(format!("no answer: {error}: {reason}"))
    }
}

impl GrpcStream {
    /// Sends a message and waits for its echo.
    ///
    /// # Errors
    /// If something else comes back, or nothing.
    pub async fn echo(&mut self, text: &str) -> Result<(), Failure> {
        let message = message(text.as_bytes());
        drop(self.messages.send(message.clone()));
        let mut echo = BytesMut::new();
        while echo.len() < message.len() {
            let frame = within(self.answers.frame()).await?.ok_or("the stream ended")?;
            if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
                echo.extend(data);
            }
        }
        if echo == message { Ok(()) } else { Err(format!("{text:?} comes back as {echo:?}")) }
    }

    /// Ends it, and waits for the proper end of the other side, which is in its trailers.
    ///
    /// # Errors
    /// If there is none.
    pub async fn end(mut self) -> Result<(), Failure> {
        drop(self.messages);
        while let Some(frame) = within(self.answers.frame()).await? {
            let frame = frame.map_err(|error| format!("the end of the stream: {error}"))?;
            if let Some(trailers) = frame.trailers_ref() {
                let status = trailers.get("grpc-status");
                return if status.is_some_and(|s| s == "0") {
                    Ok(())
                } else {
                    Err(format!("it ended with {status:?}"))
                };
            }
        }
        Err("the stream ended without a status".to_owned())
    }
}

/// A gRPC message: not compressed, its length, itself.
fn message(payload: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(payload.len()).expect("a short message"));
    message.put_slice(payload);
    message.freeze()
}

async fn within<T>(what: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(PATIENCE, what).await.map_err(|_| format!("nothing came within {PATIENCE:?}"))
}

/// What a request carries.
#[derive(Debug)]
enum Content {
    Empty,
    /// Written while it is sent.
    Messages(mpsc::UnboundedReceiver<Bytes>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Messages(messages) => messages.poll_recv(cx).map(|message| message.map(|m| Ok(Frame::data(m)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }
}
