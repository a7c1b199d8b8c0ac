//! h2spec, the judge of HTTP/2: every case, against the gateway, over TLS and without.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use tidegate_tests::{Bed, Net, http_pod, pod_manifest, service_manifest};

/// Cases of the version that `tests/h2spec/go.mod` names.
const CASES: usize = 145;

#[tokio::test(flavor = "multi_thread")]
async fn every_case_passes() {
    let Some(h2spec) = tokio::task::spawn_blocking(h2spec).await.expect("h2spec is built") else { return };
    let net = Net::next();
    let _pod = http_pod("judged", net.ip(2)).await;
    let ingress = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: all}\n\
                   spec: {defaultBackend: {service: {name: judged, port: {number: 80}}}}\n";
    let manifests = pod_manifest("judged", "judged", net.ip(2)) + &service_manifest("judged", "judged", "") + ingress;
    let bed = Bed::start(net, &manifests).await;
    let listeners = [(bed.app.http(), false), (bed.app.https().expect("the test bed serves HTTPS"), true)];
    for (addr, is_tls) in listeners {
        judge(&h2spec, addr, is_tls).await;
    }
}

/// Builds h2spec. `None` where there is no Go; CI has one.
fn h2spec() -> Option<PathBuf> {
    if Command::new("go").arg("version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI must have Go 1.19 or newer, for h2spec");
        println!("skipped: h2spec needs Go 1.19 or newer");
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("h2spec");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("h2spec");
    let mut build = Command::new("go");
    build.arg("build").arg("-o").arg(&program).arg("github.com/summerwind/h2spec/cmd/h2spec").current_dir(source);
    let output = build.output().expect("Go runs");
    assert!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

/// Runs every case, and checks that each has passed.
///
/// A case ends with a connection that is closed, and sends another frame meanwhile: when that arrives after the close, the kernel answers
/// with a reset, which h2spec does not count as closed. Who comes first is chance, so then all is run again.
async fn judge(h2spec: &Path, addr: SocketAddr, is_tls: bool) {
    for _ in 0..2 {
        match run(h2spec, addr, is_tls).await {
            Ok(()) => return,
            Err(text) => assert!(text.contains(RESET), "{text}"),
        }
    }
    run(h2spec, addr, is_tls).await.unwrap_or_else(|text| panic!("{text}"));
}

/// What h2spec says of a reset.
const RESET: &str = "connection reset by peer";

async fn run(h2spec: &Path, addr: SocketAddr, is_tls: bool) -> Result<(), String> {
    let mut command = Command::new(h2spec);
    // It gives up on what takes longer than this, and on a busy machine much does.
    command.args(["--timeout", "10", "--host", &addr.ip().to_string(), "--port", &addr.port().to_string()]);
    if is_tls {
        command.args(["--tls", "--insecure"]);
    }
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = run.await.expect("it does not panic").expect("h2spec runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = text.lines().rev().find_map(|line| line.split(" tests, ").nth(1)?.split(' ').next()?.parse().ok());
    let all = output.status.success() && passed == Some(CASES);
    if all { Ok(()) } else { Err(format!("{text}\n{}", String::from_utf8_lossy(&output.stderr))) }
}
