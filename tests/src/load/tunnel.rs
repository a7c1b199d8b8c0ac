//! A WebSocket client, byte by byte.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use super::{Failure, HTTP1, MESSAGE_PAUSE, MESSAGES_A_STREAM, Stream, Worker, connect, within};
use crate::PATIENCE;

/// RFC 6455 1.3 computes the answer to this key as an example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// One WebSocket with a few messages.
pub(super) async fn web_socket(worker: &Worker, host: &str) -> Result<(), Failure> {
    let mut client = connect(worker, HTTP1).await?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    let response = client.ask(&request).await.map_err(|error| format!("no answer to the upgrade: {error}"))?;
    if response.status != 101 || response.header("sec-websocket-accept") != Some(ACCEPT) {
        return Err(format!("the upgrade is answered {response:?}"));
    }
    let mut stream = client.stream;
    for n in 0..MESSAGES_A_STREAM {
        if !worker.goes_on() {
            break;
        }
        let text = format!("message {n}");
        let echo = exchange(&mut stream, 0x1, text.as_bytes()).await.map_err(|e| format!("message {n}: {e}"))?;
        if echo != (0x1, text.into_bytes()) {
            return Err(format!("message {n} comes back as {echo:?}"));
        }
        worker.done();
        sleep(MESSAGE_PAUSE).await;
    }
    let (opcode, _) = exchange(&mut stream, 0x8, &1000_u16.to_be_bytes()).await.map_err(|e| format!("close: {e}"))?;
    if opcode == 0x8 { Ok(()) } else { Err("the close is not answered".to_owned()) }
}

/// Sends a frame of less than 126 bytes, and reads one.
async fn exchange(stream: &mut Box<dyn Stream>, opcode: u8, payload: &[u8]) -> Result<(u8, Vec<u8>), Failure> {
    let length = u8::try_from(payload.len()).expect("a short message");
    // A mask of zeros is one too, and leaves the payload as it is (RFC 6455 5.3).
    let frame = [&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0], payload].concat();
    stream.write_all(&frame).await.map_err(|error| error.to_string())?;
    let read = async {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        stream.read_exact(&mut payload).await?;
        Ok::<_, std::io::Error>((head[0] & 0x0f, payload))
    };
    within(PATIENCE, read).await?.map_err(|error| error.to_string())
}
