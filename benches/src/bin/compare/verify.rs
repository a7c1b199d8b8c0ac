//! Before anything is measured: does the proxy do it, and right? A wrong 502 is fast.

use std::io::{Read, Write};

use anyhow::{Context, ensure};

use crate::{
    backend, h2,
    http1::{self, Answer},
    peers::Plane,
    routes::{self, HOST},
    tls::Handshakes,
    workload::{self, Shape, UPLOAD, Workload},
    world::{Proxy, World, idle},
};

/// Says what is wrong.
pub(crate) fn verify(workload: &Workload, proxy: &Proxy, world: &World) -> anyhow::Result<()> {
    if let Some(reason) = workload.lacks(proxy.kind, world) {
        anyhow::bail!(reason);
    }
    match workload.plane {
        Plane::One => routed(proxy, HOST, "/", "nobody.example.com", "/")?,
        Plane::Many => {
            // A host in the middle, the last, and what is not served.
            let last = routes::host_name(routes::HOSTS - 1);
            routed(proxy, &routes::host_name(routes::HOSTS / 2), "/p5/", &last, "/p10/")?;
            routed(proxy, &last, "/p9/", "h1000.example.com", "/p0/")?;
        }
        Plane::Tcp => drop(idle(proxy.setup.addr)?),
    }
    let addr = proxy.setup.addr;
    match workload.load {
        Shape::Small { .. } => body(&http1::get(addr, HOST, "/")?, &[b'x'; backend::SMALL]),
        Shape::Mix => {
            let mut stream = http1::connect(addr)?;
            for request in routes::mix().iter().step_by(20) {
                body(&http1::exchange(&mut stream, request)?, &[b'x'; backend::SMALL])?;
            }
            Ok(())
        }
        Shape::Large => body(&http1::get(addr, HOST, "/100k")?, &vec![b'x'; backend::LARGE]),
        Shape::Upload => {
            let request = http1::request("POST", HOST, "/", "", &vec![b'x'; UPLOAD]);
            body(&http1::exchange(&mut http1::connect(addr)?, &request)?, backend::received(UPLOAD).as_bytes())
        }
        Shape::H2 => {
            let get = |host: &str, path: &str| h2::get(proxy.setup.https, &world.certificate, host, path);
            ensure!(get("nobody.example.com", "/").map_or(true, |answer| answer.status != 200), "it serves any host");
            forwarded(&get(HOST, "/head")?, HOST, "https")?;
            body(&get(HOST, "/")?, &[b'x'; backend::SMALL])
        }
        Shape::Handshakes { resumed } => {
            Handshakes::prepare(proxy.setup.https, &world.certificate, resumed, backend::SMALL)?.check()
        }
        Shape::WebSocket => websocket(proxy),
        Shape::RoundTrips | Shape::Connections | Shape::Bulk => Ok(()),
    }
}

/// What is served is served with who asked, and what is not is answered 404.
fn routed(proxy: &Proxy, host: &str, prefix: &str, other_host: &str, other_path: &str) -> anyhow::Result<()> {
    let answer = http1::get(proxy.setup.addr, host, &format!("{prefix}head"))?;
    forwarded(&answer, host, "http").with_context(|| format!("{host}{prefix}"))?;
    let other = http1::get(proxy.setup.addr, other_host, other_path)?;
    ensure!(other.status == 404, "{other_host}{other_path} is served nowhere, and answered {}", other.status);
    Ok(())
}

/// The back end saw the request as it should.
fn forwarded(answer: &Answer, host: &str, scheme: &str) -> anyhow::Result<()> {
    ensure!(answer.status == 200, "answered {}", answer.status);
    let head = String::from_utf8_lossy(&answer.body).to_lowercase();
    for (name, value) in [
        ("host", host),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", scheme),
        ("x-forwarded-host", host),
    ] {
        let is_there =
            head.lines().any(|line| line.split_once(':').is_some_and(|(n, v)| n == name && v.trim() == value));
        ensure!(is_there, "the back end did not see {name}: {value} but {head}");
    }
    ensure!(!head.contains("connection: close"), "it closes its connections to the back end: {head}");
    Ok(())
}

fn body(answer: &Answer, expected: &[u8]) -> anyhow::Result<()> {
    ensure!(answer.status == 200, "answered {}", answer.status);
    ensure!(answer.body == expected, "{} bytes of content that are not those of the back end", answer.body.len());
    Ok(())
}

fn websocket(proxy: &Proxy) -> anyhow::Result<()> {
    let mut stream = http1::connect(proxy.setup.addr)?;
    let answer = http1::exchange(&mut stream, &workload::websocket_handshake())?;
    ensure!(answer.status == 101, "the handshake was answered {}", answer.status);
    let mut echo = answer.body;
    for _ in 0..2 {
        stream.write_all(&workload::websocket_frame())?;
        let expected = workload::websocket_echo();
        let mut rest = vec![0; expected.len() - echo.len()];
        stream.read_exact(&mut rest).context("waiting for the echo")?;
        echo.extend_from_slice(&rest);
        ensure!(echo == expected, "the echo is not what was sent");
        echo.clear();
    }
    Ok(())
}
