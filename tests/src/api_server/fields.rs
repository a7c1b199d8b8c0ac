//! `Owners`: who owns which field of an object, as server-side apply has it.
//!
//! Lists are owned as a whole, but for `conditions`, which are known by their type.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// A field, by the way to it: `f:status`, `f:conditions`, `k:{"type":"Ready"}`, as `managedFields` has it.
type Way = Vec<String>;

/// Fields that are nobody's.
const NOBODYS: [&str; 8] = [
    "apiVersion",
    "kind",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.creationTimestamp",
    "metadata.resourceVersion",
    "metadata.managedFields",
];

/// Who writes, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) manager: String,
    /// `Apply` or `Update`.
    pub(super) operation: &'static str,
    /// Empty for the object itself.
    pub(super) subresource: String,
}

impl Writer {
    /// Who writes objects themselves.
    pub(super) fn new(manager: &str, operation: &'static str) -> Self {
        Self { manager: manager.to_owned(), operation, subresource: String::new() }
    }
}

/// Who owns what of one object.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners(Vec<(Writer, BTreeSet<Way>)>);

impl Owners {
    /// Makes an object as a configuration has it: what it does not name any more goes, unless others own it too. What others own and is
    /// another value is a conflict, or is taken from them by force.
    pub(super) fn apply(
        &mut self,
        object: &mut Value,
        writer: &Writer,
        configuration: &Value,
        force: bool,
    ) -> Result<(), String> {
        let (before, wanted) = (leaves(object), leaves(configuration));
        let differs = |way: &Way| before.get(way) != wanted.get(way);
        let conflicts = self.0.iter().filter(|(other, _)| other != writer).flat_map(|(other, ways)| {
            let taken = ways.iter().filter(|way| wanted.contains_key(*way) && differs(way));
            taken.map(move |way| format!("conflict with {:?}: {}", other.manager, way.join(".")))
        });
        let conflicts: Vec<String> = conflicts.collect();
        if !force && !conflicts.is_empty() {
            return Err(conflicts.join(", "));
        }
        let of_old = self.0.iter().position(|(owner, _)| owner == writer).map(|at| self.0.remove(at).1);
        for (_, ways) in &mut self.0 {
            ways.retain(|way| !wanted.contains_key(way) || !differs(way));
        }
        for way in of_old.unwrap_or_default() {
            if !wanted.contains_key(&way) && !self.0.iter().any(|(_, ways)| ways.contains(&way)) {
                remove(object, &way);
            }
        }
        for (way, value) in &wanted {
            set(object, way, value.clone());
        }
        self.0.push((writer.clone(), wanted.into_keys().collect()));
        self.0.retain(|(_, ways)| !ways.is_empty());
        Ok(())
    }

    /// Takes note that somebody made `after` of `before`.
    pub(super) fn update(&mut self, before: &Value, after: &Value, writer: &Writer) {
        let (before, after) = (leaves(before), leaves(after));
        let changed = |way: &Way| before.get(way) != after.get(way);
        self.0.iter_mut().for_each(|(_, ways)| ways.retain(|way| !changed(way)));
        let ways: BTreeSet<Way> = after.keys().filter(|way| changed(way)).cloned().collect();
        match self.0.iter_mut().find(|(owner, _)| owner == writer) {
            Some((_, owned)) => owned.extend(ways),
            None => self.0.push((writer.clone(), ways)),
        }
        self.0.retain(|(_, ways)| !ways.is_empty());
    }

    /// As `metadata.managedFields` has it.
    pub(super) fn managed_fields(&self) -> Value {
        let entry = |(writer, ways): &(Writer, BTreeSet<Way>)| {
            let mut fields = json!({});
            for way in ways {
                let mut at = &mut fields;
                for segment in way {
                    at = &mut at[segment];
                    if at.is_null() {
                        *at = json!({});
                    }
                }
            }
            let mut entry = json!({
                "manager": writer.manager, "operation": writer.operation, "fieldsType": "FieldsV1", "fieldsV1": fields,
            });
            if !writer.subresource.is_empty() {
                entry["subresource"] = json!(writer.subresource);
            }
            entry
        };
        self.0.iter().map(entry).collect()
    }
}

fn leaves(object: &Value) -> BTreeMap<Way, Value> {
    let mut found = BTreeMap::new();
    collect(object, &mut Vec::new(), &mut found);
    let nobodys: Vec<Way> =
        NOBODYS.iter().map(|name| name.split('.').map(|key| format!("f:{key}")).collect()).collect();
    found.retain(|way, _| !nobodys.iter().any(|prefix| way.starts_with(prefix)));
    found
}

fn collect(value: &Value, way: &mut Way, found: &mut BTreeMap<Way, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                way.push(format!("f:{key}"));
                collect(value, way, found);
                way.pop();
            }
        }
        Value::Array(items) if is_conditions(way) && !items.is_empty() => {
            for item in items {
                way.push(format!("k:{}", json!({"type": item["type"]})));
                collect(item, way, found);
                way.pop();
            }
        }
        // What is empty is not a field of its own.
        Value::Null | Value::Object(_) => {}
        Value::Array(_) | Value::String(_) | Value::Number(_) | Value::Bool(_) => {
            found.insert(way.clone(), value.clone());
        }
    }
}

fn is_conditions(way: &Way) -> bool {
    way.last().is_some_and(|segment| segment == "f:conditions")
}

fn set(object: &mut Value, way: &[String], value: Value) {
    let Some((segment, rest)) = way.split_first() else {
        *object = value;
        return;
    };
    match segment.strip_prefix("f:") {
        Some(key) => set(&mut object[key], rest, value),
        None => {
            if !object.is_array() {
                *object = json!([]);
            }
            let items = object.as_array_mut().expect("it is one now");
            let at = items.iter().position(|item| is_it(item, segment)).unwrap_or_else(|| {
                items.push(serde_json::from_str(&segment["k:".len()..]).expect("it is JSON"));
                items.len() - 1
            });
            set(&mut items[at], rest, value);
        }
    }
}

fn is_it(item: &Value, segment: &str) -> bool {
    format!("k:{}", json!({"type": item["type"]})) == segment
}

/// And what is empty then.
fn remove(object: &mut Value, way: &[String]) {
    let Some((segment, rest)) = way.split_first() else { return };
    let is_empty = |value: &Value| {
        value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty) || value.is_null()
    };
    match (segment.strip_prefix("f:"), object) {
        (Some(key), Value::Object(fields)) => {
            let Some(value) = fields.get_mut(key) else { return };
            remove(value, rest);
            if rest.is_empty() || is_empty(value) {
                fields.remove(key);
            }
        }
        (None, Value::Array(items)) => {
            let Some(at) = items.iter().position(|item| is_it(item, segment)) else { return };
            // Its type is what it is known by, and goes last.
            remove(&mut items[at], rest);
            if items[at].as_object().is_some_and(Map::is_empty) {
                items.remove(at);
            }
        }
        (Some(_) | None, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(manager: &str, operation: &'static str) -> Writer {
        Writer { subresource: "status".to_owned(), ..Writer::new(manager, operation) }
    }

    fn status(value: &Value) -> Value {
        json!({"status": value})
    }

    #[test]
    fn what_is_applied_no_more_goes_unless_others_own_it() {
        let (mut owners, mut object) = (Owners::default(), json!({"metadata": {"name": "a"}}));
        let (we, they) = (writer("we", "Apply"), writer("they", "Update"));
        let ours = status(&json!({"ingress": [{"ip": "192.0.2.1"}], "note": "b"}));
        owners.apply(&mut object, &we, &ours, false).unwrap();
        assert_eq!(object["status"]["ingress"][0]["ip"], "192.0.2.1");
        assert_eq!(owners.managed_fields()[0]["fieldsV1"], json!({"f:status": {"f:ingress": {}, "f:note": {}}}));
        let before = object.clone();
        object["status"]["ingress"] = json!([{"ip": "192.0.2.2"}]);
        owners.update(&before, &object, &they);
        owners.apply(&mut object, &we, &status(&json!({})), false).unwrap();
        assert_eq!(object["status"], json!({"ingress": [{"ip": "192.0.2.2"}]}));
        assert_eq!(owners.managed_fields().as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn what_others_own_is_taken_by_force_alone() {
        let (mut owners, mut object) = (Owners::default(), json!({}));
        owners.apply(&mut object, &writer("they", "Apply"), &status(&json!({"a": 1})), false).unwrap();
        let error = owners.apply(&mut object, &writer("we", "Apply"), &status(&json!({"a": 2})), false).unwrap_err();
        assert!(error.contains("they") && object["status"]["a"] == 1, "{error}");
        owners.apply(&mut object, &writer("we", "Apply"), &status(&json!({"a": 2})), true).unwrap();
        assert_eq!(object["status"]["a"], 2);
        owners.apply(&mut object, &writer("they", "Apply"), &status(&json!({})), false).unwrap();
        assert_eq!(object["status"]["a"], 2, "it is ours now");
    }

    #[test]
    fn conditions_are_known_by_their_type() {
        let (mut owners, mut object) = (Owners::default(), json!({}));
        let of = |kind: &str, value: &str| status(&json!({"conditions": [{"type": kind, "status": value}]}));
        owners.apply(&mut object, &writer("they", "Apply"), &of("Ready", "True"), false).unwrap();
        owners.apply(&mut object, &writer("we", "Apply"), &of("Accepted", "False"), false).unwrap();
        assert_eq!(object["status"]["conditions"].as_array().map(Vec::len), Some(2));
        owners.apply(&mut object, &writer("we", "Apply"), &of("Accepted", "True"), false).unwrap();
        assert_eq!(object["status"]["conditions"][1], json!({"type": "Accepted", "status": "True"}));
        owners.apply(&mut object, &writer("they", "Apply"), &status(&json!({})), false).unwrap();
        assert_eq!(object["status"]["conditions"], json!([{"type": "Accepted", "status": "True"}]));
    }
}
