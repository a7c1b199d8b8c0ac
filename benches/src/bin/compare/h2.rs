//! HTTP/2 over TLS: hyper's client checks that the answers are right, h2load makes the load.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{
    http1::Answer,
    load::Outcome,
    routes::HOST,
    tls::{self, Certificate},
};

/// Connections, and requests under way on each: a browser's page, often.
const CONNECTIONS: &str = "32";
const STREAMS: &str = "16";

/// One request by HTTP/2 over TLS 1.3.
pub(crate) fn get(addr: SocketAddr, certificate: &Certificate, host: &str, path: &str) -> anyhow::Result<Answer> {
    let config = certificate.client(&[b"h2"], false)?;
    let exchange = async {
        let (stream, _) = tls::connect(addr, &config).await?;
        ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "HTTP/2 was not agreed on");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let uri = format!("https://{host}{path}");
        let request = http::Request::get(uri).header("user-agent", "compare").body(Empty::<Bytes>::new())?;
        let answer = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes().to_vec();
            anyhow::Ok(Answer { status, body })
        };
        tokio::select! {
            answer = answer => answer,
            ended = connection => bail!("the connection ended: {ended:?}"),
        }
    };
    tls::runtime()?.block_on(async { tokio::time::timeout(Duration::from_secs(10), exchange).await? })
}

/// Small requests, as many as can be.
pub(crate) fn run(h2load: &Path, addr: SocketAddr, time: Duration) -> anyhow::Result<Outcome> {
    let mut command = Command::new(h2load);
    // h2load knows only whole seconds.
    let seconds = time.as_secs().max(1).to_string();
    command.args(["-t", "1", "-c", CONNECTIONS, "-m", STREAMS, "-D", &seconds]);
    command.arg(format!("--connect-to={addr}")).arg(format!("https://{HOST}/"));
    let output = command.output().context("h2load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).with_context(|| format!("h2load said:\n{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Reads h2load's report.
fn parse(text: &str) -> anyhow::Result<Outcome> {
    ensure!(text.contains("TLS Protocol: TLSv1.3"), "not TLS 1.3");
    ensure!(text.contains("Application protocol: h2"), "not HTTP/2");
    let finished = after(text, "finished in ")?;
    let (seconds, unit) = finished.split_at(finished.find(char::is_alphabetic).context("the time")?);
    let unit = match unit.split(',').next().unwrap_or_default() {
        "s" => 1.0,
        "ms" => 1e-3,
        unit => bail!("a time in {unit}"),
    };
    let requests = after(text, "requests: ")?;
    let number = |word: &str| -> anyhow::Result<u64> {
        let field = requests.split(", ").find_map(|field| field.trim().strip_suffix(word));
        Ok(field.with_context(|| format!("no number of {word}"))?.trim().parse()?)
    };
    let not_ok: u64 = ["3xx", "4xx", "5xx"].iter().map(|class| status(text, class)).sum::<anyhow::Result<u64>>()?;
    let failed = number("failed")? + not_ok;
    Ok(Outcome {
        // A redirect or an error is "succeeded" to h2load.
        done: number("succeeded")?.saturating_sub(not_ok),
        failed,
        first_failure: (failed > 0).then(|| after(text, "status codes: ").unwrap_or_default().to_owned()),
        seconds: seconds.parse::<f64>()? * unit,
        ..Outcome::default()
    })
}

fn status(text: &str, class: &str) -> anyhow::Result<u64> {
    let field = after(text, "status codes: ")?.split(", ").find_map(|field| field.strip_suffix(class));
    Ok(field.with_context(|| format!("no number of {class}"))?.trim().parse()?)
}

/// The rest of the line that begins so.
fn after<'a>(text: &'a str, start: &str) -> anyhow::Result<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(start)).with_context(|| format!("no line with {start}"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    const REPORT: &str = "\
        Application protocol: h2\nTLS Protocol: TLSv1.3\n\n\
        finished in 2.00s, 21433.50 req/s, 1.09MB/s\n\
        requests: 42867 total, 43379 started, 42867 done, 42860 succeeded, 7 failed, 2 errored, 0 timeout\n\
        status codes: 42850 2xx, 0 3xx, 0 4xx, 10 5xx\n";

    #[test]
    fn the_report_is_read() {
        let outcome = parse(REPORT).unwrap();
        assert_eq!((outcome.done, outcome.failed, outcome.seconds), (42_850, 17, 2.0));
        assert!(outcome.first_failure.unwrap().contains("10 5xx"));
    }

    #[test]
    fn another_protocol_is_not_a_result() {
        assert!(parse(&REPORT.replace("protocol: h2", "protocol: http/1.1")).is_err());
        assert!(parse(&REPORT.replace("TLSv1.3", "TLSv1.2")).is_err());
        assert!(parse(&REPORT.replace("42860 succeeded, ", "")).is_err());
    }
}
