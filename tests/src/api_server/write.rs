//! What clients write: POST, PUT, PATCH (merge, apply) and DELETE, of objects and of their status.

use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Key, Question, State,
    fields::{Owners, Writer},
    status,
};

/// Resources whose objects have no status of their own.
const WITHOUT_STATUS: [&str; 7] =
    ["configmaps", "endpoints", "endpointslices", "events", "ingressclasses", "leases", "secrets"];

/// An answer that is no object.
type Refusal = (StatusCode, Value);

/// What is written.
pub(super) struct Write {
    pub(super) method: Method,
    pub(super) head: http::HeaderMap,
    pub(super) body: Value,
}

impl State {
    /// Does it, and says what the object is then.
    pub(super) fn write(&mut self, question: &Question, write: &Write) -> (StatusCode, Value) {
        let done = match write.method {
            Method::POST => self.create(question, write),
            Method::PUT => self.replace(question, write),
            Method::PATCH => self.patch(question, write),
            Method::DELETE => self.delete_named(question),
            _ => panic!("nobody writes with {}", write.method),
        };
        done.unwrap_or_else(|refusal| refusal)
    }

    fn create(&mut self, question: &Question, write: &Write) -> Result<(StatusCode, Value), Refusal> {
        let mut object = write.body.clone();
        if let Some(prefix) = object["metadata"]["generateName"].as_str() {
            object["metadata"]["name"] = json!(format!("{prefix}{:05}", self.version));
        }
        let name = object["metadata"]["name"].as_str().expect("a new object has a name").to_owned();
        let key = (question.resource.clone(), question.namespace.clone(), name);
        if self.objects.contains_key(&key) {
            return Err(refuse(StatusCode::CONFLICT, "AlreadyExists", &key, "already exists"));
        }
        if has_status(&key.0) {
            drop(object.as_object_mut().expect("an object").remove("status"));
        }
        self.begin(&mut object, &key);
        let mut owners = Owners::default();
        owners.update(&json!({}), &object, &writer(question, write, "Update"));
        Ok((StatusCode::CREATED, self.store(key, object, owners)))
    }

    fn replace(&mut self, question: &Question, write: &Write) -> Result<(StatusCode, Value), Refusal> {
        let (key, before) = self.find(question)?;
        conflict(&key, &before, &write.body)?;
        let after = only(question, &before, write.body.clone());
        Ok((StatusCode::OK, self.updated(key, &before, after, &writer(question, write, "Update"))))
    }

    fn patch(&mut self, question: &Question, write: &Write) -> Result<(StatusCode, Value), Refusal> {
        match write.head.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
            Some("application/merge-patch+json") => {
                let (key, before) = self.find(question)?;
                conflict(&key, &before, &write.body)?;
                let mut after = before.clone();
                merge(&mut after, &write.body);
                let after = only(question, &before, after);
                Ok((StatusCode::OK, self.updated(key, &before, after, &writer(question, write, "Update"))))
            }
            Some("application/apply-patch+yaml") => self.apply_patch(question, write),
            other => panic!("nobody patches with {other:?}"),
        }
    }

    fn apply_patch(&mut self, question: &Question, write: &Write) -> Result<(StatusCode, Value), Refusal> {
        assert!(question.query.contains_key("fieldManager"), "an apply names its manager");
        let force = question.query.get("force").is_some_and(|value| value == "true");
        let (key, before, code) = match self.find(question) {
            Ok((key, before)) => (key, before, StatusCode::OK),
            Err(refusal) if !question.subresource.is_empty() => return Err(refusal),
            Err(_) => {
                let key = (question.resource.clone(), question.namespace.clone(), question.name.clone());
                let mut object = json!({"apiVersion": write.body["apiVersion"], "kind": write.body["kind"]});
                object["metadata"] = json!({"name": question.name});
                self.begin(&mut object, &key);
                (key, object, StatusCode::CREATED)
            }
        };
        conflict(&key, &before, &write.body)?;
        let mut configuration = write.body.clone();
        let fields = configuration.as_object_mut().expect("an object");
        match question.subresource.as_str() {
            "" if has_status(&key.0) => drop(fields.remove("status")),
            "" => {}
            subresource => fields.retain(|field, _| field == subresource),
        }
        let mut owners = self.owners.get(&key).cloned().unwrap_or_default();
        let mut after = before;
        let applied = owners.apply(&mut after, &writer(question, write, "Apply"), &configuration, force);
        applied.map_err(|conflicts| refuse(StatusCode::CONFLICT, "Conflict", &key, &conflicts))?;
        Ok((code, self.store(key, after, owners)))
    }

    fn delete_named(&mut self, question: &Question) -> Result<(StatusCode, Value), Refusal> {
        let (key, object) = self.find(question)?;
        self.remove(&key);
        Ok((StatusCode::OK, object))
    }

    fn find(&self, question: &Question) -> Result<(Key, Value), Refusal> {
        let key = (question.resource.clone(), question.namespace.clone(), question.name.clone());
        let object = self.objects.get(&key).cloned();
        object.map(|object| (key.clone(), object)).ok_or_else(|| not_found(&key))
    }

    /// What an object has from its beginning.
    pub(super) fn begin(&self, object: &mut Value, key: &Key) {
        if !key.1.is_empty() {
            object["metadata"]["namespace"] = json!(key.1);
        }
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", self.version + 1));
        if object["metadata"]["creationTimestamp"].is_null() {
            object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
    }

    /// Keeps it as somebody has changed it.
    pub(super) fn updated(&mut self, key: Key, before: &Value, after: Value, writer: &Writer) -> Value {
        let mut owners = self.owners.get(&key).cloned().unwrap_or_default();
        owners.update(before, &after, writer);
        self.store(key, after, owners)
    }

    /// Keeps it; a new version only if it is another than before.
    fn store(&mut self, key: Key, mut object: Value, owners: Owners) -> Value {
        object["metadata"]["managedFields"] = owners.managed_fields();
        let before = self.objects.get(&key);
        if let Some(before) = before {
            object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
            if *before == object {
                return object;
            }
        }
        let what = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.owners.insert(key.clone(), owners);
        self.objects.insert(key.clone(), object.clone());
        self.history.push((self.version, key, what, object.clone()));
        object
    }

    /// Deletes it, if it is there.
    pub(super) fn remove(&mut self, key: &Key) -> bool {
        let Some(mut object) = self.objects.remove(key) else { return false };
        self.owners.remove(key);
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push((self.version, key.clone(), "DELETED", object));
        true
    }
}

/// Whether its status is written apart from the rest.
pub(super) fn has_status(resource: &str) -> bool {
    !WITHOUT_STATUS.contains(&resource)
}

/// What may be written so: the status alone, or all but the status; and never where and when the object began.
fn only(question: &Question, before: &Value, after: Value) -> Value {
    let (mut whole, from) = if question.subresource.is_empty() { (after, before) } else { (before.clone(), &after) };
    if has_status(&question.resource) {
        let fields = whole.as_object_mut().expect("an object");
        match from.get("status") {
            Some(status) => drop(fields.insert("status".to_owned(), status.clone())),
            None => drop(fields.remove("status")),
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        whole["metadata"][field] = before["metadata"][field].clone();
    }
    whole["metadata"].as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    whole
}

/// RFC 7396.
fn merge(value: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        value.clone_from(patch);
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    let fields = value.as_object_mut().expect("it is one now");
    for (key, patch) in patch {
        if patch.is_null() {
            drop(fields.remove(key));
        } else {
            merge(fields.entry(key).or_insert(Value::Null), patch);
        }
    }
}

fn conflict(key: &Key, held: &Value, written: &Value) -> Result<(), Refusal> {
    match (written["metadata"]["resourceVersion"].as_str(), held["metadata"]["resourceVersion"].as_str()) {
        (Some(written), Some(held)) if written != held => {
            Err(refuse(StatusCode::CONFLICT, "Conflict", key, "the object has been modified"))
        }
        (Some(_) | None, _) => Ok(()),
    }
}

fn writer(question: &Question, write: &Write, operation: &'static str) -> Writer {
    let agent = || write.head.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or("unknown");
    let manager = question.query.get("fieldManager").cloned().unwrap_or_else(|| agent().to_owned());
    Writer { manager, operation, subresource: question.subresource.clone() }
}

pub(super) fn not_found(key: &Key) -> Refusal {
    refuse(StatusCode::NOT_FOUND, "NotFound", key, "not found")
}

fn refuse(code: StatusCode, reason: &str, key: &Key, why: &str) -> Refusal {
    (code, status(code.as_u16(), reason, &format!("{} {:?}: {why}", key.0, key.2)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn question(resource: &str, name: &str, subresource: &str, query: &[(&str, &str)]) -> Question {
        let query: BTreeMap<String, String> = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let [resource, namespace, name, subresource] = [resource, "here", name, subresource].map(str::to_owned);
        Question { resource, namespace, name, subresource, query, names_alone: false }
    }

    fn write(method: Method, content_type: &'static str, body: Value) -> Write {
        let head = http::HeaderMap::from_iter([(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type))]);
        Write { method, head, body }
    }

    fn lease(version: Option<&Value>, holder: &str) -> Value {
        let mut lease = json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": holder}});
        if let Some(version) = version {
            lease["metadata"]["resourceVersion"] = version.clone();
        }
        lease
    }

    #[test]
    fn who_is_late_is_told_so() {
        let mut state = State::default();
        let (all, one) = (question("leases", "", "", &[]), question("leases", "a", "", &[]));
        let put = |body| write(Method::PUT, "application/json", body);
        assert_eq!(state.write(&one, &put(lease(None, "x"))).0, StatusCode::NOT_FOUND);
        let post = write(Method::POST, "application/json", lease(None, "x"));
        let (code, made) = state.write(&all, &post);
        assert_eq!(code, StatusCode::CREATED);
        assert_eq!(state.write(&all, &post).1["reason"], "AlreadyExists");
        let first = &made["metadata"]["resourceVersion"];
        let (_, second) = state.write(&one, &put(lease(Some(first), "y")));
        assert_eq!(second["metadata"]["uid"], made["metadata"]["uid"]);
        assert_eq!(state.write(&one, &put(lease(Some(first), "z"))).1["reason"], "Conflict");
        let same = state.write(&one, &put(lease(Some(&second["metadata"]["resourceVersion"]), "y"))).1;
        assert_eq!(same["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"], "nothing has changed");
        assert_eq!(state.write(&one, &put(lease(None, "z"))).1["spec"]["holderIdentity"], "z");
        assert_eq!(state.write(&one, &write(Method::DELETE, "", Value::Null)).0, StatusCode::OK);
        assert_eq!(state.history.last().unwrap().2, "DELETED");
    }

    #[test]
    fn the_status_is_written_apart_and_given_back() {
        let mut state = State::default();
        state.apply(
            "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: here}, spec: {ports: [{port: 80}]}}",
        );
        let query = [("fieldManager", "we"), ("force", "true")];
        let of_status = question("services", "a", "status", &query);
        let apply = |body| write(Method::PATCH, "application/apply-patch+yaml", body);
        let body = json!({"spec": {"ports": []}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
        let (code, object) = state.write(&of_status, &apply(body));
        assert_eq!((code, &object["spec"]["ports"][0]["port"]), (StatusCode::OK, &json!(80)));
        assert_eq!(object["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.1");
        let ours = object["metadata"]["managedFields"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&ours["manager"], &ours["subresource"]), (&json!("we"), &json!("status")));
        // Who writes the object does not write its status.
        state.apply(
            "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: here}, spec: {ports: [{port: 81}]}}",
        );
        let merge = write(Method::PATCH, "application/merge-patch+json", json!({"status": null}));
        let (_, object) = state.write(&question("services", "a", "", &[]), &merge);
        assert_eq!(object["spec"]["ports"][0]["port"], 81);
        assert_eq!(object["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.1");
        let (_, object) = state.write(&of_status, &apply(json!({})));
        assert!(object["status"]["loadBalancer"].is_null(), "{object}");
    }
}
