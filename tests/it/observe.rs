//! What an operator sees of requests: the access log, the metrics, Tidegate's own log.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tidegate::access_log::{LogOptions, Target};
use tidegate_tests::{Bed, Client, Net, PATIENCE, http_pod, pod_manifest, service_manifest};

#[path = "../../gateway/src/admin/metrics/tests/exposition.rs"]
mod exposition;

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(net: Net) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-observe-{}-{}", std::process::id(), net.number()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn read(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Service `web` with a pod, and Service `none` without, behind one host.
fn manifests(net: Net) -> String {
    let path = |path: &str, service: &str| {
        format!("{{path: {path}, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}")
    };
    format!(
        "{}{}{}---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web}}\n\
         spec: {{ingressClassName: tidegate, rules: [{{host: web.com, http: {{paths: [{}, {}]}}}}]}}\n",
        pod_manifest("web-0", "web", net.ip(2)),
        service_manifest("web", "web", ""),
        service_manifest("none", "none", ""),
        path("/", "web"),
        path("/none", "none"),
    )
}

async fn start(net: Net, target: &Path, format: &str) -> Bed {
    let options = LogOptions { target: Target::File(target.to_owned()), format: format.parse().unwrap() };
    Bed::start_with(net, &manifests(net), |all| {
        all.access_log = Some(options);
        all.nginx_metrics = true;
    })
    .await
}

/// Waits until so many lines are written.
async fn lines(bed: &Bed, path: &Path, count: u64) -> Vec<String> {
    let (stats, begun) = (bed.app.access_log().unwrap().stats(), Instant::now());
    while stats.written() < count {
        assert!(begun.elapsed() < PATIENCE, "{} of {count} lines", stats.written());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    read(path)
}

async fn scrape(bed: &Bed) -> BTreeMap<String, f64> {
    let answer = Client::connect(bed.app.admin()).await.get(&bed.app.admin().to_string(), "/metrics").await;
    assert_eq!(answer.status, 200);
    exposition::parse(&answer.text())
}

#[tokio::test]
async fn each_request_has_a_line_that_says_what_became_of_it() {
    let net = Net::next();
    let directory = Directory::new(net);
    let path = directory.file("access.log");
    let _pod = http_pod("web-0", net.ip(2)).await;
    let bed = start(net, &path, "json").await;
    let ask = async |text: &str| Client::connect(bed.app.http()).await.ask(text).await.unwrap().status;
    let forged = "GET /a?x=1 HTTP/1.1\r\nHost: web.com\r\nX-Request-ID: abc-1\r\nUser-Agent: x\",\"status\":999,\"y\":\"\\\r\n\r\n";
    assert_eq!(ask(forged).await, 200);
    assert_eq!(ask("POST /echo HTTP/1.1\r\nHost: web.com\r\nContent-Length: 6\r\n\r\nabcdef").await, 200);
    assert_eq!(ask("GET /none HTTP/1.1\r\nHost: web.com\r\n\r\n").await, 503);
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: other.com\r\n\r\n").await, 404);
    let mut found: Vec<Value> =
        lines(&bed, &path, 4).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Each went to the worker that accepted it.
    found.sort_by_key(|line| (line["status"].as_u64(), line["method"].to_string()));
    let [get, post, lost, none] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&get["request_id"], &get["path"], &get["query"]), (&"abc-1".into(), &"/a".into(), &"x=1".into()));
    assert_eq!(get["user_agent"], "x\",\"status\":999,\"y\":\"\\");
    assert_eq!(
        (&get["namespace"], &get["ingress"], &get["rule_host"]),
        (&"default".into(), &"web".into(), &"web.com".into())
    );
    assert_eq!((&get["service"], &get["pod"], &get["tries"]), (&"web".into(), &"web-0".into(), &1.into()));
    assert_eq!(get["endpoint"], SocketAddr::new(net.ip(2), 8080).to_string());
    assert!(get["duration"].as_f64().unwrap() >= get["upstream_response"].as_f64().unwrap());
    assert_eq!((&post["bytes_in"], &post["bytes_out"], &post["path"]), (&6.into(), &6.into(), &"/echo".into()));
    assert_eq!(post["request_id"].as_str().map(str::len), Some(32), "made by us");
    assert_eq!((&none["failure"], &none["rule_path"]), (&"unavailable".into(), &"/none".into()));
    assert!(none.get("endpoint").is_none() && lost.get("ingress").is_none());
    assert_eq!((&lost["failure"], &lost["host"]), (&"no_rule".into(), &"other.com".into()));
}

/// The default of the chart, where a cluster may have either family, or both.
#[tokio::test]
async fn all_addresses_are_those_of_both_families_and_ipv4_clients_are_known_as_such() {
    let net = Net::next();
    let directory = Directory::new(net);
    let path = directory.file("access.log");
    let _pod = http_pod("web-0", net.ip(2)).await;
    let options =
        LogOptions { target: Target::File(path.clone()), format: "$remote_addr $server_addr".parse().unwrap() };
    let bed = Bed::start_with(net, &manifests(net), |all| {
        all.http = Some("[::]:0".parse().unwrap());
        all.metrics = Some("[::]:0".parse().unwrap());
        all.access_log = Some(options);
    })
    .await;
    let port = bed.app.http().port();
    for to in [IpAddr::from([127, 0, 0, 1]), "::1".parse().unwrap()] {
        let mut client = Client::connect(SocketAddr::new(to, port)).await;
        let seen: Value = serde_json::from_str(&client.get("web.com", "/headers").await.text()).unwrap();
        let told = |name: &str| {
            let fields = seen["headers"].as_array().unwrap();
            fields.iter().find(|field| field[0].as_str().is_some_and(|it| it.eq_ignore_ascii_case(name))).unwrap()[1]
                .clone()
        };
        assert_eq!((told("x-forwarded-for"), told("x-real-ip")), (to.to_string().into(), to.to_string().into()));
        // Nobody wants to read of these.
        assert_eq!(client.get("192.0.2.1", "/healthz").await.text(), "ok\n");
    }
    let mut found = lines(&bed, &path, 2).await;
    found.sort();
    assert_eq!(found, ["127.0.0.1 127.0.0.1", "::1 ::1"]);
    let metrics = bed.app.metrics().unwrap().port();
    let scraped = Client::connect(SocketAddr::from(([127, 0, 0, 1], metrics))).await.get("127.0.0.1", "/metrics").await;
    let series = exposition::parse(&scraped.text());
    let requests = series.iter().filter(|(name, _)| name.starts_with("tidegate_http_requests_total{"));
    assert_eq!(requests.map(|(_, count)| count).sum::<f64>(), 4.0, "{series:?}");
    assert!(bed.app.listening().contains(&format!("listening  metrics [::]:{metrics}\n")), "{}", bed.app.listening());
}

#[tokio::test]
async fn an_ingress_may_be_silent() {
    let net = Net::next();
    let directory = Directory::new(net);
    let path = directory.file("access.log");
    let _pod = http_pod("web-0", net.ip(2)).await;
    let bed = start(net, &path, "$host$request_uri").await;
    let silent = manifests(net).split("---\n").last().expect("the Ingress").replace("web.com", "silent.com").replace(
        "{name: web}",
        &format!("{{name: quiet, annotations: {{nginx.ingress.kubernetes.io/{}: 'false'}}}}", "enable-access-log"),
    );
    bed.apply("silent.yaml", &silent).await;
    // One connection, and so one worker, whose lines are in order.
    let mut client = Client::connect(bed.app.http()).await;
    for (host, target) in [("silent.com", "/1"), ("web.com", "/2"), ("silent.com", "/3"), ("web.com", "/4")] {
        assert_eq!(client.get(host, target).await.status, 200);
    }
    assert_eq!(lines(&bed, &path, 2).await, ["web.com/2", "web.com/4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_line_and_no_count_is_lost() {
    const CLIENTS: usize = 16;
    const EACH: usize = 250;
    let net = Net::next();
    let directory = Directory::new(net);
    let path = directory.file("access.log");
    let _pod = http_pod("web-0", net.ip(2)).await;
    let bed = start(net, &path, "ingress-nginx").await;
    let http = bed.app.http();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(http).await;
                for _ in 0..EACH {
                    assert_eq!(client.get("web.com", "/").await.status, 200);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let total = CLIENTS * EACH;
    let written = lines(&bed, &path, total as u64).await;
    assert_eq!(written.len(), total);
    assert!(written.iter().all(|line| line.contains("[default-web-80] [] ") || line.contains("[default-web-80] [-] ")));
    let samples = scrape(&bed).await;
    let rule =
        r#"namespace="default",ingress="web",host="web.com",path="/",path_type="Prefix",service="web",port="80""#;
    let nginx = r#"controller_namespace="",controller_class="k8s.io/ingress-nginx",controller_pod="",namespace="default",ingress="web",service="web",host="web.com",path="/",method="",canary="""#;
    for (series, value) in [
        (format!("tidegate_http_requests_total{{{rule},code=\"200\",protocol=\"HTTP/1.1\"}}"), total),
        (format!("tidegate_http_request_duration_seconds_count{{{rule}}}"), total),
        (format!("tidegate_http_first_byte_seconds_count{{{rule}}}"), total),
        (format!("nginx_ingress_controller_requests{{{nginx},status=\"200\"}}"), total),
        ("tidegate_http_connections_total".to_owned(), CLIENTS),
        ("tidegate_http_connections_by_kind_total{kind=\"h1\"}".to_owned(), CLIENTS),
        ("tidegate_http_requests_under_way".to_owned(), 0),
        ("tidegate_access_log_lines_total".to_owned(), total),
        ("tidegate_access_log_dropped_total".to_owned(), 0),
    ] {
        assert_eq!(samples.get(&series), Some(&(value as f64)), "{series} in {samples:#?}");
    }
    let workers: f64 =
        ["0", "1"].iter().map(|n| samples[&format!("tidegate_worker_http_connections_total{{worker=\"{n}\"}}")]).sum();
    assert_eq!(workers, CLIENTS as f64);
    let connects = samples[&format!("tidegate_http_upstream_connect_seconds_count{{{rule}}}")];
    assert_eq!(connects, samples["tidegate_http_upstream_connections_total"]);
}

#[tokio::test]
async fn rules_that_are_gone_have_no_series() {
    let net = Net::next();
    let directory = Directory::new(net);
    let _pod = http_pod("web-0", net.ip(2)).await;
    let bed = start(net, &directory.file("access.log"), "combined").await;
    assert_eq!(bed.get("web.com", "/").await.status, 200);
    assert_eq!(bed.get("web.com", "/none").await.status, 503);
    lines(&bed, &directory.file("access.log"), 2).await;
    let of_rule = |samples: &BTreeMap<String, f64>, path: &str| {
        let label = format!("path=\"{path}\"");
        samples.keys().any(|series| series.starts_with("tidegate_http_requests_total{") && series.contains(&label))
    };
    let samples = scrape(&bed).await;
    assert!(of_rule(&samples, "/") && of_rule(&samples, "/none"));
    let less = manifests(net).replace("/none", "/other");
    bed.apply("main.yaml", &less).await;
    let samples = scrape(&bed).await;
    assert!(of_rule(&samples, "/") && !of_rule(&samples, "/none") && !of_rule(&samples, "/other"));
}

/// `tidegate run` as an operator starts it.
struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
    http: SocketAddr,
    log: PathBuf,
}

impl Process {
    fn start(directory: &Directory, net: Net, more: &[&str]) -> Self {
        let log = directory.file("own.log");
        fs::create_dir_all(directory.file("manifests")).unwrap();
        fs::write(directory.file("manifests/main.yaml"), manifests(net)).unwrap();
        let any = SocketAddr::new(net.ip(1), 0).to_string();
        let mut command = Command::new(tidegate_tests::process::program());
        command.args([
            "run",
            "--http",
            &any,
            "--https",
            &any,
            "--admin",
            &any,
            "--workers",
            "2",
            "--service-cidr",
            "127.95.0.0/16",
        ]);
        command.args(["--node-address", &net.ip(1).to_string(), "--manifests"]).arg(directory.file("manifests"));
        command
            .args(more)
            .env("XDG_STATE_HOME", directory.file("state"))
            .env("RUST_LOG", "debug")
            .env_remove("TIDEGATE_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut process = Self { child, out, http: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0), log };
        while !process.line().starts_with("listening  admin") {}
        process
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.out.read_line(&mut line).unwrap() > 0, "it has ended: {}", fs::read_to_string(&self.log).unwrap());
        if let Some(addr) = line.strip_prefix("listening  http   ") {
            self.http = addr.trim().parse().unwrap();
        }
        line
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What its own log says.
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    async fn until_said(&self, what: &str) {
        let begun = Instant::now();
        while !self.said().contains(what) {
            assert!(begun.elapsed() < PATIENCE, "{what}: {}", self.said());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Ends it, and gives back what it still wrote to stdout.
    fn end(mut self) -> Vec<String> {
        self.signal(Signal::TERM);
        let rest = (&mut self.out).lines().map_while(Result::ok).collect();
        assert!(self.child.wait().unwrap().success(), "{}", self.said());
        rest
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn the_file_is_opened_anew_on_sighup_and_complete_at_the_end() {
    let net = Net::next();
    let directory = Directory::new(net);
    let (access, rotated) = (directory.file("access.log"), directory.file("access.log.1"));
    let _pod = http_pod("web-0", net.ip(2)).await;
    let flags =
        ["--access-log", access.to_str().unwrap(), "--access-log-format", "$status $uri", "--log-format", "json"];
    let process = Process::start(&directory, net, &flags);
    let mut client = Client::connect(process.http).await;
    assert_eq!(client.get("web.com", "/before").await.status, 200);
    let begun = Instant::now();
    while read(&access) != ["200 /before"] {
        assert!(begun.elapsed() < PATIENCE, "{:?}", read(&access));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    fs::rename(&access, &rotated).unwrap();
    process.signal(Signal::HUP);
    process.until_said("access log opened anew").await;
    assert_eq!(client.get("web.com", "/after").await.status, 200);
    drop(client);
    let log = process.log.clone();
    process.end();
    assert_eq!((read(&rotated), read(&access)), (vec!["200 /before".to_owned()], vec!["200 /after".to_owned()]));
    let events: Vec<Value> = read(&log).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |message: &str| {
        events.iter().find(|event| event["message"] == message).unwrap_or_else(|| panic!("{message}: {events:#?}"))
    };
    let live = said("configuration is live");
    assert_eq!((&live["span"]["name"], &live["span"]["generation"]), (&"configuration".into(), &1.into()));
    assert!(live["compile_us"].is_number() && live["services"] == 2 && live["findings"].is_number());
    assert_eq!(said("manifests read")["files"], 1);
    assert!(said("worker drained")["took_ms"].is_number());
}

#[tokio::test]
async fn lines_go_to_stdout_if_asked() {
    let net = Net::next();
    let directory = Directory::new(net);
    let _pod = http_pod("web-0", net.ip(2)).await;
    let process = Process::start(&directory, net, &["--access-log", "-", "--access-log-format", "combined"]);
    let mut client = Client::connect(process.http).await;
    for path in ["/1", "/2"] {
        assert_eq!(client.get("web.com", path).await.status, 200);
    }
    drop(client);
    let lines: Vec<String> = process.end().into_iter().filter(|line| !line.starts_with("listening")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("\"GET /1 HTTP/1.1\" 200 ") && lines[1].contains("\"GET /2 HTTP/1.1\" 200 "),
        "{lines:?}"
    );
}

#[test]
fn a_format_with_a_typing_error_is_refused_at_the_start() {
    let net = Net::next();
    let directory = Directory::new(net);
    let mut command = Command::new(tidegate_tests::process::program());
    command.args(["run", "--access-log", "-", "--access-log-format", "$statuss", "--manifests"]).arg(&directory.0);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("there is no variable $statuss; is $status meant?"), "{text}");
}
