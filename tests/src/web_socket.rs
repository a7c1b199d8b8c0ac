//! A WebSocket client, byte by byte.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::Client;

/// RFC 6455 1.3 computes the answer to this key as an example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;

/// One WebSocket to somebody who echoes its messages.
#[derive(Debug)]
pub struct WebSocket<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Asks for one on an HTTP/1.1 connection.
    ///
    /// # Errors
    /// If the connection fails, or the answer is not the right one.
    pub async fn open(stream: S, host: &str) -> io::Result<Self> {
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        let mut client = Client::new(stream);
        let response = client.ask(&request).await?;
        if response.status != 101 || response.header("sec-websocket-accept") != Some(ACCEPT) {
            return Err(io::Error::other(format!("the upgrade is answered {response:?}")));
        }
        Ok(Self(client.stream))
    }

    /// One that is open already.
    pub fn on(stream: S) -> Self {
        Self(stream)
    }

    /// Sends a message and waits for its echo.
    ///
    /// # Errors
    /// If something else comes back, or nothing.
    pub async fn echo(&mut self, text: &str) -> io::Result<()> {
        let echo = self.exchange(TEXT, text.as_bytes()).await?;
        if echo == (TEXT, text.as_bytes().to_vec()) {
            return Ok(());
        }
        Err(io::Error::other(format!("{text:?} comes back as {echo:?}")))
    }

    /// Says goodbye, and waits until the other side has said it.
    ///
    /// # Errors
    /// If it does not.
    pub async fn close(mut self) -> io::Result<()> {
        match self.exchange(CLOSE, &1000_u16.to_be_bytes()).await? {
            (CLOSE, _) => Ok(()),
            other => Err(io::Error::other(format!("the close is answered {other:?}"))),
        }
    }

    /// Sends a frame of less than 126 bytes, and reads one.
    async fn exchange(&mut self, opcode: u8, payload: &[u8]) -> io::Result<(u8, Vec<u8>)> {
        let length = u8::try_from(payload.len()).map_err(io::Error::other)?;
        // A mask of zeros is one too, and leaves the payload as it is (RFC 6455 5.3).
        let frame = [&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0], payload].concat();
        self.0.write_all(&frame).await?;
        self.0.flush().await?;
        let mut head = [0; 2];
        self.0.read_exact(&mut head).await?;
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        self.0.read_exact(&mut payload).await?;
        Ok((head[0] & 0x0f, payload))
    }
}
