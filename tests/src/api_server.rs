//! A Kubernetes API server of our own, as far as its clients can tell: pages, bookmarks, versions that are too old, permissions that are
//! missing; objects that are created, replaced, merged, applied and deleted, their status apart, with conflicts and owners of
//! fields. It can keep its clients waiting, and go away and come back at the same address.

mod fields;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tidegate_crd::{
    Kind, Object,
    core::{ByteString, Secret},
    yaml,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};

use self::{
    fields::{Owners, Writer},
    write::{Write, has_status, not_found},
};

/// Objects in a page of a list: a server may send fewer than it is asked for.
const PAGE: usize = 2;

/// A cluster's objects, and who answers for them.
#[derive(Debug)]
pub struct ApiServer {
    addr: SocketAddr,
    store: Arc<Store>,
    /// Serves, while it is there.
    serving: Option<AbortHandle>,
    kubeconfig: PathBuf,
}

#[derive(Debug, Default)]
struct Store {
    state: Mutex<State>,
    /// Changes whenever the state does.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    objects: BTreeMap<Key, Value>,
    /// Of what clients wrote.
    owners: BTreeMap<Key, Owners>,
    /// What changed at which version; what came before `forgotten` is not known any more.
    history: Vec<(u64, Key, &'static str, Value)>,
    forgotten: u64,
    /// Resources that nobody may see.
    forbidden: BTreeSet<String>,
    /// Resources whose lists are not answered for now.
    held: BTreeSet<String>,
    /// A version that is too old is said so in the answer's head, instead of in its body.
    gone_at_start: bool,
    /// Every watch ends as soon as it has begun.
    ends_watches: bool,
    asked: Vec<String>,
    written: Vec<String>,
    /// Of which more than the names was given out: `secrets default/web`.
    given: BTreeSet<String>,
}

/// Resource, namespace and name.
type Key = (String, String, String);

impl ApiServer {
    /// A server of an empty cluster, on a port of this address.
    ///
    /// # Panics
    /// If it cannot listen there.
    pub async fn start(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.expect("the address is free");
        let addr = listener.local_addr().expect("it is bound");
        let store = Arc::<Store>::default();
        let serving = Some(serve(listener, store.clone()));
        let kubeconfig = std::env::temp_dir().join(format!("tidegate-kubeconfig-{}-{}", std::process::id(), ip));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{addr}")}}],
            "users": [{"name": "test", "user": {"token": "secret"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        fs::write(&kubeconfig, text.to_string()).expect("the kubeconfig is written");
        Self { addr, store, serving, kubeconfig }
    }

    /// The kubeconfig that leads to it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Creates or changes objects.
    pub fn apply(&self, manifests: &str) {
        self.store.change(|state| state.apply(manifests));
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// If it is not there.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        self.store.change(|state| state.delete(kind, namespace, name));
    }

    /// Changes that nobody is told of: whoever watches hears that what they saw last is too old.
    pub fn change_unseen(&self, manifests: &str, delete: &[(Kind, &str, &str)]) {
        self.store.change(|state| {
            state.apply(manifests);
            delete.iter().for_each(|(kind, namespace, name)| state.delete(*kind, namespace, name));
            state.history.clear();
            state.forgotten = state.version;
        });
    }

    /// Says of a version that is too old in the head of the answer.
    pub fn say_gone_at_start(&self) {
        self.store.change(|state| state.gone_at_start = true);
    }

    /// Ends every watch as soon as it has begun, as a proxy does that does not know what a watch is.
    pub fn end_watches(&self) {
        self.store.change(|state| state.ends_watches = true);
    }

    /// Creates or changes an object as it is, whether it is what its kind should be or not.
    pub fn put(&self, kind: Kind, namespace: &str, name: &str, mut object: Value) {
        let key = (resource(kind).to_owned(), namespace.to_owned(), name.to_owned());
        self.store.change(|state| {
            let before = state.objects.get(&key).cloned().unwrap_or_else(|| json!({}));
            state.begin(&mut object, &key);
            state.updated(key, &before, object, &Writer::new("test", "Update"));
        });
    }

    /// Nobody may see a resource or write it: `secrets`, `ingresses/status`; or not do one thing, or not with one object: `watch secrets`,
    /// `get secrets/web`.
    pub fn forbid(&self, resource: &str) {
        self.store.change(|state| {
            let _ = state.forbidden.insert(resource.to_owned());
        });
    }

    /// Everybody may again.
    pub fn permit(&self, resource: &str) {
        self.store.change(|state| {
            let _ = state.forbidden.remove(resource);
        });
    }

    /// Keeps whoever lists a resource waiting.
    pub fn hold(&self, resource: &str) {
        self.store.change(|state| {
            let _ = state.held.insert(resource.to_owned());
        });
    }

    /// Answers them.
    pub fn release(&self, resource: &str) {
        self.store.change(|state| {
            let _ = state.held.remove(resource);
        });
    }

    /// Goes away, in the middle of every answer.
    pub fn leave(&mut self) {
        self.serving.take().iter().for_each(AbortHandle::abort);
    }

    /// Comes back, where it was.
    ///
    /// # Panics
    /// If somebody else is there.
    pub async fn come_back(&mut self) {
        // What was aborted closes its socket in its own time.
        loop {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("it is a TCP socket");
            if socket.bind(self.addr).is_ok()
                && let Ok(listener) = socket.listen(64)
            {
                self.serving = Some(serve(listener, self.store.clone()));
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The targets of all requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.store.lock().asked.clone()
    }

    /// The objects of a resource, by namespace and name, of which more than the name was given out so far.
    pub fn given(&self, resource: &str) -> Vec<String> {
        let given = self.store.lock().given.clone();
        given.iter().filter_map(|text| text.strip_prefix(resource)?.strip_prefix(' ').map(str::to_owned)).collect()
    }

    /// The methods and targets of all requests so far that were to write, done or refused: `PATCH /apis/…`.
    pub fn written(&self) -> Vec<String> {
        self.store.lock().written.clone()
    }

    /// An object as it is now; resources are named as in permissions, such as `leases`.
    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.store.lock().objects.get(&key).cloned()
    }

    /// All objects of a resource, by namespace and name.
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let state = self.store.lock();
        state.objects.iter().filter(|(key, _)| key.0 == resource).map(|(_, object)| object.clone()).collect()
    }

    /// Writes the status of an object as somebody else does: another controller, or a person.
    ///
    /// # Panics
    /// If the object is not there.
    pub fn write_status(&self, manager: &str, kind: Kind, namespace: &str, name: &str, status: &Value) {
        let query = BTreeMap::from([("fieldManager".to_owned(), manager.to_owned())]);
        let (resource, subresource) = (resource(kind).to_owned(), "status".to_owned());
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let question = Question { resource, namespace, name, subresource, query, names_alone: false };
        let head = http::HeaderMap::new();
        let write = Write { method: Method::PUT, head, body: json!({"status": status}) };
        self.store.change(|state| {
            let (code, answer) = state.write(&question, &write);
            assert_eq!(code, StatusCode::OK, "{answer}");
        });
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.leave();
        drop(fs::remove_file(&self.kubeconfig));
    }
}

impl State {
    fn apply(&mut self, manifests: &str) {
        let parsed = yaml::parse(Path::new("test.yaml"), manifests);
        assert_eq!(parsed.problems, [], "{manifests}");
        for document in parsed.documents {
            let name = document.object.object_ref();
            let key = (resource(name.kind).to_owned(), name.namespace.to_string(), name.name.to_string());
            let mut value = wire(&document.object);
            let before = self.objects.get(&key);
            if let Some(before) = before {
                for field in ["uid", "creationTimestamp"] {
                    value["metadata"][field] = before["metadata"][field].clone();
                }
                // As with kubectl, which does not write it.
                if value.get("status").is_none() && has_status(&key.0) && !before["status"].is_null() {
                    value["status"] = before["status"].clone();
                }
            } else {
                self.begin(&mut value, &key);
            }
            let before = before.cloned().unwrap_or_else(|| json!({}));
            self.updated(key, &before, value, &Writer::new("test", "Update"));
        }
    }

    /// Takes note of what is given out.
    fn note(&mut self, question: &Question, (resource, namespace, name): &Key) {
        if !question.names_alone {
            self.given.insert(format!("{resource} {namespace}/{name}"));
        }
    }

    fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        let key = (resource(kind).to_owned(), namespace.to_owned(), name.to_owned());
        assert!(self.remove(&key), "it is there");
    }
}

impl Store {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(listener: TcpListener, store: Arc<Store>) -> AbortHandle {
    let accept = async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let store = store.clone();
            let answer = service_fn(move |request| answer(store.clone(), request));
            connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    };
    tokio::spawn(accept).abort_handle()
}

/// What a request asks for, or writes.
struct Question {
    resource: String,
    /// Empty for all.
    namespace: String,
    /// Empty for all.
    name: String,
    /// Empty for the object itself.
    subresource: String,
    query: BTreeMap<String, String>,
    /// Only metadata is asked for.
    names_alone: bool,
}

impl Question {
    fn of(request: &Request<Incoming>) -> Self {
        let segments: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let rest = if segments[0] == "api" { &segments[2..] } else { &segments[3..] };
        let (namespace, resource, name, subresource) = match rest {
            ["namespaces", name, "status"] => ("", "namespaces", *name, "status"),
            ["namespaces", namespace, resource] => (*namespace, *resource, "", ""),
            ["namespaces", namespace, resource, name] => (*namespace, *resource, *name, ""),
            ["namespaces", namespace, resource, name, subresource] => (*namespace, *resource, *name, *subresource),
            [resource] => ("", *resource, "", ""),
            [resource, name] => ("", *resource, *name, ""),
            [resource, name, subresource] => ("", *resource, *name, *subresource),
            other => panic!("nobody asks for {other:?}"),
        };
        let base = url::Url::parse("http://api").expect("a URL");
        let target = base.join(&request.uri().to_string()).expect("a target");
        let query = target.query_pairs().into_owned().collect();
        let [namespace, resource, name, subresource] = [namespace, resource, name, subresource].map(str::to_owned);
        let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        let names_alone = accepts.is_some_and(|accept| accept.contains("as=PartialObjectMetadata"));
        Self { resource, namespace, name, subresource, query, names_alone }
    }

    /// What one needs a permission for.
    fn permission(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }

    /// Whether a permission that is needed is one of those that are missing.
    fn is_forbidden(&self, forbidden: &BTreeSet<String>, is_write: bool) -> bool {
        let permission = self.permission();
        let verb = match (is_write, self.query.contains_key("watch"), self.name.is_empty()) {
            (true, ..) => "write",
            (false, true, _) => "watch",
            (false, false, true) => "list",
            (false, false, false) => "get",
        };
        let named = format!("{verb} {permission}/{}", self.name);
        forbidden.contains(&format!("{verb} {permission}"))
            || forbidden.contains(&named)
            || forbidden.contains(&permission)
    }

    /// What is given out of an object.
    fn shown(&self, object: &Value) -> Value {
        if !self.names_alone {
            return object.clone();
        }
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
    }

    fn takes(&self, key: &Key, object: &Value) -> bool {
        let selectors = self.query.get("fieldSelector").map_or("", String::as_str);
        let field = |name: &str| match name {
            "metadata.name" => object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            "type" => object["type"].as_str().unwrap_or_default().to_owned(),
            other => panic!("there is no field selector for {other}"),
        };
        let fits = |selector: &str| match selector.split_once("!=") {
            Some((name, value)) => field(name) != value,
            None => selector.split_once('=').is_some_and(|(name, value)| field(name) == value),
        };
        key.0 == self.resource
            && (self.namespace.is_empty() || key.1 == self.namespace)
            && selectors.split(',').filter(|selector| !selector.is_empty()).all(fits)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.query.get(name)?.parse().ok()
    }
}

async fn answer(store: Arc<Store>, request: Request<Incoming>) -> Result<Response<Lines>, Infallible> {
    let question = Question::of(&request);
    assert_eq!(request.headers()[header::AUTHORIZATION], "Bearer secret");
    let target = request.uri().to_string();
    let is_write = request.method() != Method::GET;
    if is_write {
        store.lock().written.push(format!("{} {target}", request.method()));
    }
    store.lock().asked.push(target);
    if question.is_forbidden(&store.lock().forbidden, is_write) {
        let message = format!("{} is forbidden: User \"test\" cannot see it", question.permission());
        return Ok(whole(StatusCode::FORBIDDEN, &status(403, "Forbidden", &message)));
    }
    if is_write {
        let (head, body) = request.into_parts();
        // A client that leaves in the middle of its words has written nothing.
        let Ok(body) = body.collect().await else {
            return Ok(whole(StatusCode::BAD_REQUEST, &status(400, "BadRequest", "half a body")));
        };
        let body = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
        let write = Write { method: head.method, head: head.headers, body };
        let mut answer = None;
        store.change(|state| answer = Some(state.write(&question, &write)));
        let (code, object) = answer.expect("it was written");
        return Ok(whole(code, &object));
    }
    if !question.name.is_empty() {
        let key = (question.resource.clone(), question.namespace.clone(), question.name.clone());
        let object = store.lock().objects.get(&key).map(|object| question.shown(object));
        store.lock().note(&question, &key);
        let (code, object) = object.map_or_else(|| not_found(&key), |object| (StatusCode::OK, object));
        return Ok(whole(code, &object));
    }
    if question.query.contains_key("watch") {
        let since = question.number("resourceVersion").expect("a watch goes on from a version");
        if store.lock().gone_at_start && since < store.lock().forgotten {
            return Ok(whole(StatusCode::GONE, &status(410, "Expired", "too old resource version")));
        }
        let (lines, body) = mpsc::channel(16);
        tokio::spawn(tell(store, question, since, lines));
        return Ok(Response::new(Lines(body)));
    }
    let mut changed = store.changed.subscribe();
    while store.lock().held.contains(&question.resource) {
        drop(changed.changed().await);
    }
    Ok(whole(StatusCode::OK, &list(&mut store.lock(), &question)))
}

/// One page.
fn list(state: &mut State, question: &Question) -> Value {
    let all = state.objects.iter().filter(|(key, object)| question.takes(key, object));
    let all: Vec<(Key, Value)> = all.map(|(key, object)| (key.clone(), question.shown(object))).collect();
    let limit = question.number("limit").map_or(usize::MAX, |limit| limit as usize).min(PAGE);
    let start = question.number("continue").unwrap_or(0) as usize;
    let page: Vec<&(Key, Value)> = all.iter().skip(start).take(limit).collect();
    page.iter().for_each(|(key, _)| state.note(question, key));
    let page: Vec<&Value> = page.iter().map(|(_, object)| object).collect();
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if start + page.len() < all.len() {
        metadata["continue"] = json!((start + page.len()).to_string());
    }
    json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": page})
}

/// Tells of what changes after a version, until that is not known any more or nobody listens.
async fn tell(store: Arc<Store>, question: Question, since: u64, lines: mpsc::Sender<Bytes>) {
    let mut changed = store.changed.subscribe();
    let seconds = Duration::from_secs(question.number("timeoutSeconds").expect("a watch says how long it may be"));
    let end = tokio::time::Instant::now() + seconds;
    let mut at = since;
    loop {
        changed.mark_unchanged();
        if store.lock().ends_watches {
            return;
        }
        let (text, gone) = news(&mut store.lock(), &question, &mut at);
        if (!text.is_empty() && lines.send(text.into()).await.is_err()) || gone {
            return;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = lines.closed() => return,
            () = tokio::time::sleep_until(end) => return,
        }
    }
}

/// What there is to say to whoever has seen everything up to `at`, and whether it is the last.
fn news(state: &mut State, question: &Question, at: &mut u64) -> (String, bool) {
    let mut text = String::new();
    if *at < state.forgotten {
        let event = json!({"type": "ERROR", "object": status(410, "Expired", "too old resource version")});
        return (format!("{event}\n"), true);
    }
    let new = state.history.iter().filter(|(version, key, _, object)| version > at && question.takes(key, object));
    let keys: Vec<Key> = new.clone().map(|(_, key, ..)| key.clone()).collect();
    for (_, _, what, object) in new {
        let _ = writeln!(text, "{}", json!({"type": what, "object": question.shown(object)}));
    }
    keys.iter().for_each(|key| state.note(question, key));
    if text.is_empty() && *at < state.version {
        let metadata = json!({"resourceVersion": state.version.to_string(), "creationTimestamp": null});
        let object = json!({"kind": "Any", "apiVersion": "v1", "metadata": metadata});
        let _ = writeln!(text, "{}", json!({"type": "BOOKMARK", "object": object}));
    }
    *at = state.version;
    (text, false)
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn whole(code: StatusCode, value: &Value) -> Response<Lines> {
    let (line, body) = mpsc::channel(1);
    line.try_send(Bytes::from(value.to_string())).expect("it has room for one");
    let mut response = Response::new(Lines(body));
    *response.status_mut() = code;
    response
}

/// A body that ends when nobody sends any more.
struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// The resource of a kind.
fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::ConfigMap => "configmaps",
        Kind::EndpointSlice => "endpointslices",
        Kind::Endpoints => "endpoints",
        Kind::Ingress => "ingresses",
        Kind::IngressClass => "ingressclasses",
        Kind::IngressClassParameters => "ingressclassparameters",
        Kind::LoadBalancerPool => "loadbalancerpools",
        Kind::Namespace => "namespaces",
        Kind::Node => "nodes",
        Kind::Pod => "pods",
        Kind::Secret => "secrets",
        Kind::Service => "services",
    }
}

/// `stringData` is for those who write; nobody reads it back.
fn with_data_alone(secret: &Secret) -> Secret {
    let mut secret = secret.clone();
    for (key, text) in secret.string_data.take().unwrap_or_default() {
        secret.data.get_or_insert_default().insert(key, ByteString(text.into_bytes()));
    }
    secret
}

/// An object as it goes over the wire.
fn wire(object: &Object) -> Value {
    let value = match object {
        Object::ConfigMap(object) => serde_json::to_value(object),
        Object::EndpointSlice(object) => serde_json::to_value(object),
        Object::Endpoints(object) => serde_json::to_value(object),
        Object::Ingress(object) => serde_json::to_value(object),
        Object::IngressClass(object) => serde_json::to_value(object),
        Object::IngressClassParameters(object) => serde_json::to_value(object),
        Object::LoadBalancerPool(object) => serde_json::to_value(object),
        Object::Namespace(object) => serde_json::to_value(object),
        Object::Node(object) => serde_json::to_value(object),
        Object::Pod(object) => serde_json::to_value(object),
        Object::Secret(object) => serde_json::to_value(with_data_alone(object)),
        Object::Service(object) => serde_json::to_value(object),
    };
    value.expect("it has a wire form")
}
