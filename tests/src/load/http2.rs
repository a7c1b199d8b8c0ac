//! HTTP/2 clients: single requests, and streams of messages in both directions as gRPC has them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http2::{self, SendRequest},
    ext::Protocol,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{sync::mpsc, time::sleep};

use super::{Failure, MESSAGE_PAUSE, Stream, Worker, connect, tunnel, within};
use crate::{PATIENCE, tls::HTTP2, web_socket::WebSocket};

/// Requests on one connection, until the server says goodbye.
pub(super) async fn requests(worker: &Worker, host: &str) -> Result<(), Failure> {
    let stream = connect(worker, HTTP2).await?.stream;
    let mut sender = handshake(stream).await?;
    while worker.goes_on() {
        let request = Request::get(format!("http://{host}/")).body(Empty::<Bytes>::new()).expect("a request");
        let Some(response) = send(&mut sender, request).await? else { return Ok(()) };
        let status = response.status();
        let body = within(PATIENCE, response.into_body().collect()).await?.map_err(|error| error.to_string())?;
        if status != 200 || !body.to_bytes().starts_with(b"You've hit ") {
            return Err(format!("answered {status}"));
        }
        worker.done();
        sleep(MESSAGE_PAUSE).await;
    }
    Ok(())
}

/// Streams of messages on one connection, until the server says goodbye: a stream that has begun is ended properly.
pub(super) async fn streams(worker: &Worker, host: &str, lasting: bool) -> Result<(), Failure> {
    let stream = connect(worker, HTTP2).await?.stream;
    let mut sender = handshake(stream).await?;
    while worker.goes_on() {
        let (messages, body) = mpsc::unbounded_channel();
        let request = Request::post(format!("http://{host}/echo.Echo/Stream"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Messages(body))
            .expect("a request");
        let Some(response) = send(&mut sender, request).await? else { return Ok(()) };
        if response.status() != 200 {
            return Err(format!("the stream is answered {}", response.status()));
        }
        let mut answers = response.into_body();
        for n in worker.messages(lasting) {
            let message = message(format!("message {n}").as_bytes());
            drop(messages.send(message.clone()));
            let echo = read(&mut answers, message.len()).await.map_err(|error| format!("message {n}: {error}"))?;
            if echo != message {
                return Err(format!("message {n} comes back as {echo:?}"));
            }
            worker.done();
            sleep(MESSAGE_PAUSE).await;
        }
        drop(messages);
        end(answers).await?;
    }
    Ok(())
}

/// One WebSocket on a connection of its own.
pub(super) async fn web_socket(worker: &Worker, host: &str, lasting: bool) -> Result<(), Failure> {
    let stream = connect(worker, HTTP2).await?.stream;
    let mut sender = handshake(stream).await?;
    // Any answer will do: before it come the settings, which say whether extended CONNECT may be sent at all (RFC 8441 3).
    let request = Request::get("http://nobody.example.com/").body(Empty::<Bytes>::new()).expect("a request");
    let Some(response) = send(&mut sender, request).await? else { return Ok(()) };
    drop(response);
    let mut request = Request::connect(format!("http://{host}/ws")).body(Empty::new()).expect("a request");
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    let Some(response) = send(&mut sender, request).await? else { return Ok(()) };
    if response.status() != 200 {
        return Err(format!("the WebSocket is answered {}", response.status()));
    }
    let opened = within(PATIENCE, hyper::upgrade::on(response)).await?;
    let stream = opened.map_err(|error| format!("no WebSocket: {error}"))?;
    tunnel::messages(worker, WebSocket::on(TokioIo::new(stream)), lasting).await
}

async fn handshake<B>(stream: Box<dyn Stream>) -> Result<SendRequest<B>, Failure>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let (sender, connection) = within(PATIENCE, http2::handshake(TokioExecutor::new(), TokioIo::new(stream)))
        .await?
        .map_err(|error| format!("no HTTP/2: {error}"))?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends a request; `None` if the connection takes no more, in which case the server has not looked at it.
async fn send<B>(sender: &mut SendRequest<B>, request: Request<B>) -> Result<Option<Response<Incoming>>, Failure>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    if sender.ready().await.is_err() {
        return Ok(None);
    }
    match within(PATIENCE, sender.try_send_request(request)).await? {
        Ok(response) => Ok(Some(response)),
        Err(mut error) => {
            if error.take_message().is_some() {
                return Ok(None);
            }
            let error = error.into_error();
            let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
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
}

/// A gRPC message: not compressed, its length, itself.
fn message(payload: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(payload.len()).expect("a short message"));
    message.put_slice(payload);
    message.freeze()
}

async fn read(body: &mut Incoming, length: usize) -> Result<Bytes, Failure> {
    let mut bytes = BytesMut::new();
    while bytes.len() < length {
        let frame = within(PATIENCE, body.frame()).await?.ok_or("the stream ended")?;
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            bytes.extend(data);
        }
    }
    Ok(bytes.freeze())
}

/// The proper end of a gRPC stream is in its trailers.
async fn end(mut body: Incoming) -> Result<(), Failure> {
    while let Some(frame) = within(PATIENCE, body.frame()).await? {
        let frame = frame.map_err(|error| format!("the end of the stream: {error}"))?;
        if let Some(trailers) = frame.trailers_ref() {
            let status = trailers.get("grpc-status");
            return if status.is_some_and(|s| s == "0") { Ok(()) } else { Err(format!("it ended with {status:?}")) };
        }
    }
    Err("the stream ended without a status".to_owned())
}

/// A body that is written while it is sent.
struct Messages(mpsc::UnboundedReceiver<Bytes>);

impl Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}
