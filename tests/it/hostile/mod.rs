//! What strangers send, and what must not come of it.
//!
//! Each row is raw bytes on a client's connection (or, in `answers`, on a back end's). For each the tests say what the
//! client is answered, and that the back end saw either nothing or exactly one well-formed request; and they make sure
//! that the next client, whose request takes the same connection to the back end, gets its own answer.

mod answers;
mod h1_body;
mod h1_headers;
mod h1_smuggling;
mod h1_target;
mod h2_fields;
mod h2_floods;
mod h2_frames;
mod recorder;
mod strict;

use std::net::SocketAddr;

use tidegate_tests::{Bed, Client, Net, PATIENCE, pod_manifest, service_manifest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use recorder::{Recorder, Seen};
use strict::Request;

/// What would be served if a smuggler had his way.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// One connection of a client that sends these bytes.
#[derive(Debug)]
struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    /// The statuses it is answered with, up to the end of the connection. None: it is closed without an answer.
    statuses: Vec<u16>,
    /// What reaches the back end: `METHOD target` each.
    sees: Vec<&'static str>,
    /// The content of the first.
    content: Option<&'static str>,
    /// Fields of the first; `None` for those it must not have.
    fields: Vec<(&'static str, Option<&'static str>)>,
}

/// Bytes that are refused, with nothing for the back end.
fn refused(status: u16, name: &'static str, bytes: impl Into<Vec<u8>>) -> Row {
    Row { name, bytes: bytes.into(), statuses: vec![status], sees: Vec::new(), content: None, fields: Vec::new() }
}

/// Bytes that get no answer at all.
fn closed(name: &'static str, bytes: impl Into<Vec<u8>>) -> Row {
    Row { statuses: Vec::new(), ..refused(0, name, bytes) }
}

/// Bytes that are one good request (which must ask for `Connection: close`) when read properly.
fn passed(sees: &'static str, name: &'static str, bytes: impl Into<Vec<u8>>) -> Row {
    Row { sees: vec![sees], ..refused(200, name, bytes) }
}

impl Row {
    fn content(self, content: &'static str) -> Self {
        Self { content: Some(content), ..self }
    }

    fn field(mut self, name: &'static str, value: Option<&'static str>) -> Self {
        self.fields.push((name, value));
        self
    }
}

/// A gateway with one worker, so that all requests take the same connection to the back end, and rules to lead astray
/// from: `/admin` is closed, by a guard that there is not.
async fn bed(recorder: &str) -> (Bed, Recorder) {
    let net = Net::next();
    let back_end = Recorder::start(net.ip(2)).await;
    let ingress = |name: &str, annotations: &str, path: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\n\
             spec: {{rules: [{{http: {{paths: [{{path: \"{path}\", pathType: Prefix, backend: {{service: {{name: {recorder}, port: {{number: 80}}}}}}}}]}}}}]}}\n"
        )
    };
    let guard = "nginx.ingress.kubernetes.io/auth-url: http://nobody.example.com";
    let manifests = pod_manifest(recorder, recorder, net.ip(2))
        + &service_manifest(recorder, recorder, "")
        + &ingress("all", "", "/")
        + &ingress("guarded", guard, "/admin")
        + &ingress("guarded-too", guard, "/caf%C3%A9");
    let bed = Bed::start_with(net, &manifests, |options| options.workers = 1).await;
    (bed, back_end)
}

/// Sends every row, one after the other, and a victim's request after each.
async fn run(rows: Vec<Row>) {
    let (bed, back_end) = bed("recorder").await;
    let mut wrong = Vec::new();
    for row in &rows {
        back_end.take();
        let (statuses, rest) = exchange(bed.app.http(), &row.bytes).await;
        let victim = victim(bed.app.http()).await;
        let complaint = if statuses != row.statuses {
            Some(format!("was answered {statuses:?}, not {:?}; {rest}", row.statuses))
        } else {
            victim.err().or_else(|| judge(row, back_end.take()).err())
        };
        wrong.extend(complaint.map(|complaint| format!("{}: {complaint}", row.name)));
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Whether the back end saw what it should: the row's, then the victim's.
fn judge(row: &Row, seen: Vec<Seen>) -> Result<(), String> {
    let mut requests: Vec<Request> = Vec::new();
    for seen in seen {
        match seen {
            Seen::Request(request) => requests.push(request),
            Seen::Malformed(why) => return Err(format!("the back end was sent {why}")),
            // Requests that go wrong in their content all go to /cut. Their end may be noticed late, with another row.
            Seen::Cut(target) if target.starts_with("/cut") => {}
            Seen::Cut(target) => return Err(format!("the back end was sent a part of {target}")),
        }
    }
    let lines: Vec<String> = requests.iter().map(|request| format!("{} {}", request.method, request.target)).collect();
    let expected: Vec<&str> = row.sees.iter().copied().chain(["GET /victim"]).collect();
    if lines != expected {
        return Err(format!("the back end saw {lines:?}, not {expected:?}"));
    }
    if let Some(content) = row.content
        && requests[0].content != content.as_bytes()
    {
        return Err(format!("its content is {}", requests[0].content.escape_ascii()));
    }
    for (name, value) in &row.fields {
        let found: Vec<&str> = requests[0].values(name).collect();
        if found.first() != value.as_ref() || found.len() > 1 {
            return Err(format!("{name} is {found:?}, not {value:?}"));
        }
    }
    Ok(())
}

/// Another client, whose request takes the connection that the row's took.
async fn victim(gateway: SocketAddr) -> Result<(), String> {
    let mut client = Client::connect(gateway).await;
    let answer = client.ask("GET /victim HTTP/1.1\r\nHost: victim\r\n\r\n").await;
    let answer = answer.map_err(|error| format!("the next client: {error}"))?;
    match (answer.status, answer.header("x-target")) {
        (200, Some("/victim")) => Ok(()),
        other => Err(format!("the next client got {other:?}")),
    }
}

/// Sends bytes and reads the answers up to the end of the connection: their statuses, and all of it as text.
async fn exchange(gateway: SocketAddr, bytes: &[u8]) -> (Vec<u16>, String) {
    let mut stream = TcpStream::connect(gateway).await.expect("the gateway listens");
    // It may have closed before all is sent; what counts is what it says.
    drop(stream.write_all(bytes).await);
    let mut answers = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answers)).await;
    let text = String::from_utf8_lossy(&answers).into_owned();
    let text = if ended.is_ok() { text } else { format!("{text}\nand then nothing, but no end either") };
    (statuses(&answers), text)
}

/// The statuses of answers whose content is as long as they say.
fn statuses(mut answers: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !answers.is_empty() {
        let Some(end) = answers.windows(4).position(|four| four == b"\r\n\r\n") else { break };
        let head = String::from_utf8_lossy(&answers[..end]).to_ascii_lowercase();
        let status = head.strip_prefix("http/1.1 ").or_else(|| head.strip_prefix("http/1.0 "));
        let Some(status) = status.and_then(|rest| rest.get(..3)?.parse().ok()) else { break };
        let length = head.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        statuses.push(status);
        answers = answers.get(end + 4 + length.unwrap_or(0)..).unwrap_or_default();
    }
    statuses
}

#[test]
fn there_are_enough_of_them() {
    let h1 = [h1_smuggling::rows(), h1_target::rows(), h1_headers::rows(), h1_body::rows()];
    let h1: usize = h1.iter().map(Vec::len).sum();
    let h2 = h2_frames::rows().len() + h2_floods::rows().len() + h2_fields::rows().len();
    let answers = answers::rows().len();
    assert!(h1 >= 120 && h2 >= 60 && answers >= 40, "{h1} of HTTP/1.1, {h2} of HTTP/2, {answers} answers");
}
