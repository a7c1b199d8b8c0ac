use tokio::sync::watch;

use super::*;
use crate::{
    compile::{allocate::Allocations, compile, objects::Objects, settings::Settings},
    control::{Change, Planes, source::Source},
    pod::{Listen, Pod, PodOptions},
};

/// What is compiled is live at once.
struct AtOnce(watch::Sender<Option<Arc<Snapshot>>>);

impl Planes for AtOnce {
    fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        self.0.send_replace(Some(snapshot.clone()));
    }

    fn retry(&mut self) {}
}

/// An address that no other test has, nor a demo that runs beside.
fn ip(net: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 80 + (std::process::id() % 16) as u8, net, last)
}

/// The examples, but for the addresses of the pods: each test has networks of its own, this and the next.
async fn play(net: u8) -> (Arc<Play>, mpsc::Sender<Change>) {
    let mut documents = super::super::documents();
    for (last, document) in documents.iter_mut().enumerate() {
        if let Object::Pod(pod) = &mut document.object {
            pods::set_ip(pod, ip(net, last as u8).into());
        }
    }
    let (changes, later) = mpsc::channel();
    let play = Arc::new(Play::start(&mut documents, changes).await.unwrap());
    let source = Source::Given(Batch { apply: documents, ..Batch::default() }, later);
    let (publish, mut snapshots) = watch::channel(None);
    let control = source.start(Settings::default(), false, AtOnce(publish), None).unwrap();
    snapshots.wait_for(Option::is_some).await.unwrap();
    assert_eq!(play.view(), None, "nobody has told it yet where things are");
    let addr = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    play.serving(Serving { http: addr(80), https: Some(addr(8443)), admin: addr(9901), snapshots });
    (play, control)
}

async fn act(play: &Arc<Play>, action: Action) -> Result<DemoView, String> {
    play.clone().act(action).await?;
    Ok(play.view().unwrap())
}

fn names(pods: &[DemoPodView]) -> Vec<&str> {
    pods.iter().map(|pod| &*pod.name).collect()
}

/// The pods behind a Service, as the configuration has them that is live.
fn endpoints(play: &Play, service: &str) -> Vec<String> {
    let snapshot = play.serving.get().unwrap().snapshots.borrow().clone().unwrap();
    let port = snapshot.table.ports().find(|port| &*port.config.name.service == service).unwrap();
    let pods = port.config.endpoints.iter().map(|endpoint| endpoint.pod.as_deref().unwrap().to_owned());
    let mut pods: Vec<String> = pods.collect();
    pods.sort_unstable();
    pods
}

#[tokio::test]
async fn pods_come_and_go_and_every_service_follows() {
    let (play, _control) = play(10).await;
    let begin = play.view().unwrap();
    assert_eq!(names(&begin.pods), ["kubia-a", "kubia-b", "kubia-c", "quiz-0"]);
    assert!(begin.can_add && begin.gone.is_empty());
    assert_eq!(begin.pods[3].app, "quiz");

    let after = act(&play, Action::Kill("kubia-a".to_owned())).await.unwrap();
    assert_eq!((names(&after.pods), names(&after.gone)), (vec!["kubia-b", "kubia-c", "quiz-0"], vec!["kubia-a"]));
    for service in ["kubia", "kubia-nodeport", "kubia-clientip"] {
        assert_eq!(endpoints(&play, service), ["kubia-b", "kubia-c"], "{service}");
    }
    assert_eq!(
        act(&play, Action::Kill("kubia-a".to_owned())).await,
        Err("there is no pod kubia-a".to_owned()),
        "once is enough"
    );
    // Its name is not given again.
    let after = act(&play, Action::Add).await.unwrap();
    assert_eq!(names(&after.pods), ["kubia-b", "kubia-c", "quiz-0", "kubia-d"]);
    assert_eq!((&*after.pods[3].address, &*after.pods[3].app), (&*ip(11, 4).to_string(), "kubia"));
    for service in ["kubia", "kubia-nodeport", "kubia-clientip", "kubia-local"] {
        assert!(endpoints(&play, service).contains(&"kubia-d".to_owned()), "{service}");
    }
    for name in ["kubia-b", "kubia-c", "kubia-d", "quiz-0"] {
        act(&play, Action::Kill(name.to_owned())).await.unwrap();
    }
    assert!(endpoints(&play, "kubia").is_empty() && endpoints(&play, "quiz").is_empty());
    assert!(play.view().unwrap().pods.is_empty());
}

#[tokio::test]
async fn affinity_changes_and_back() {
    let (play, _control) = play(20).await;
    assert_eq!(play.view().unwrap().affinity, "None");
    // Twice the same is no error, though nothing changes.
    for client_ip in [true, true, false, false] {
        let view = act(&play, Action::Affinity { client_ip }).await.unwrap();
        assert_eq!(view.affinity, affinity(client_ip));
    }
}

#[tokio::test]
async fn what_is_not_live_in_time_is_said() {
    let (play, control) = play(30).await;
    control.send(Change::Stop).unwrap();
    let error = act(&play, Action::Affinity { client_ip: true }).await.unwrap_err();
    assert_eq!(error, "the demo is about to end");
}

#[tokio::test]
async fn the_page_is_told_where_to_look() {
    let (play, _control) = play(40).await;
    let view = play.view().unwrap();
    assert_eq!((&*view.page, &*view.admin), ("http://127.0.0.1:9901/demo", "http://127.0.0.1:9901/"));
    assert_eq!((&*view.http, &*view.https), ("127.0.0.1:80", "127.0.0.1:8443"));
    assert_eq!(play.page.get().unwrap(), "http://127.0.0.1:9901");
    let lanes = LanesView {
        node_port: "http://127.0.0.1:30123/".to_owned(),
        client_ip: "http://127.0.0.1:30125/".to_owned(),
        ingress: "http://127.0.0.1/kubia".to_owned(),
        cookie: "http://127.0.0.1/sticky".to_owned(),
        cookie_name: "kubia-session".to_owned(),
        cookie_path: "/sticky".to_owned(),
        hosts: ["http://kubia.localhost/", "http://kubia.localhost/quiz", "http://quiz.localhost/"]
            .map(str::to_owned)
            .into(),
        http2: "https://127.0.0.1:8443/kubia".to_owned(),
    };
    assert_eq!(view.lanes, lanes);
}

#[test]
fn addresses_as_a_browser_writes_them() {
    let at = |addr: &str| at("http", reachable(addr.parse().unwrap()), "/demo");
    assert_eq!(at("0.0.0.0:9901"), "http://127.0.0.1:9901/demo");
    assert_eq!(at("[::]:9901"), "http://[::1]:9901/demo");
    assert_eq!(at("192.0.2.1:80"), "http://192.0.2.1/demo");
}

/// The lanes are those of the manifests.
#[test]
fn the_examples_have_what_the_page_asks() {
    let mut objects = Objects::default();
    for document in super::super::documents() {
        objects.apply(document);
    }
    let snapshot = compile(&objects, &Settings::default(), &[], &Allocations::default(), None).snapshot;
    for (host, path, issues_cookie) in [
        ("*", "/kubia", false),
        ("*", "/sticky", true),
        ("kubia.localhost", "/", false),
        ("kubia.localhost", "/quiz", false),
        ("quiz.localhost", "/", false),
    ] {
        let is_it = |rule: &crate::route::Rule| {
            rule.host.to_string() == host && rule.path.as_ref().is_some_and(|own| &**own.as_str() == path)
        };
        let rule = snapshot.routes.rules().find(|rule| is_it(rule)).unwrap_or_else(|| panic!("{host}{path}"));
        assert_eq!(rule.issues_cookie, issues_cookie, "{host}{path}");
        let crate::route::Backend::Upstream { id, .. } = &rule.backend else { panic!("{host}{path} goes nowhere") };
        if issues_cookie {
            let cookie = snapshot.upstreams[id.0 as usize].cookie.as_ref().unwrap();
            assert_eq!(&*cookie.affinity.name, "kubia-session");
        }
    }
}

#[tokio::test]
async fn names_and_addresses_are_new_and_the_dead_are_forgotten_some_day() {
    assert_eq!(
        [0, 25, 26, 51, 52, 701, 702].map(pod_name),
        ["kubia-a", "kubia-z", "kubia-aa", "kubia-az", "kubia-ba", "kubia-zz", "kubia-aaa"]
    );
    let first = Ipv4Addr::new(127, 10, 0, 1);
    let mut cast = Cast { living: Vec::new(), gone: VecDeque::new(), next: 3, first };
    assert_eq!(address(first, 3).to_string(), "127.10.1.4");
    let born = async |name: String, ip: IpAddr| {
        let addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let pod = Pod::start(PodOptions::new(name, [Listen::Http(addr)])).await.unwrap();
        DemoPod { pod, app: APP.to_owned(), ip, is_elsewhere: false }
    };
    for number in 3..300_u32 {
        let (name, ip) = cast.newcomer().unwrap();
        // The first one lives for ever, and keeps its address.
        let expected = if number < 257 { number } else { number + 1 };
        assert_eq!((&name, ip), (&pod_name(expected), address(first, expected)));
        cast.living.push(born(name, ip).await);
        if number > 3 {
            let pod = cast.living.pop().unwrap();
            cast.bury(pod);
        }
    }
    assert_eq!(cast.gone.len(), GONE_MAX);
    assert_eq!(cast.gone.back().unwrap().pod.name(), pod_name(300));
    while cast.has_room() {
        let (name, ip) = cast.newcomer().unwrap();
        cast.living.push(born(name, ip).await);
    }
    assert_eq!(cast.living.len(), KUBIA_PODS_MAX);
    assert_eq!(cast.newcomer().unwrap_err(), "there are 8 kubia pods: kill one first");
}
