//! What service accounts have asked the API server for, as its audit log has it.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::Value;

use super::{Failure, directory::Directory};

/// Only what pods and those who have their tokens ask for, and of that who, what and how it ended.
const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ['system:serviceaccounts']}
- {level: None}
";

/// How the API server is told to keep the log.
pub(super) fn arguments(directory: &Directory) -> Result<[String; 2], Failure> {
    let policy = directory.file("audit-policy.yaml");
    fs::write(&policy, POLICY)?;
    Ok([format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", log(directory).display())])
}

fn log(directory: &Directory) -> PathBuf {
    directory.file("audit.log")
}

/// A request for something that permissions are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Of what: a resource, perhaps with a subresource, as `ingresses/status`.
    pub resource: String,
    /// For what.
    pub verb: String,
    /// Whether it was allowed, be it done or not.
    pub allowed: bool,
}

/// All that an account, such as `system:serviceaccount:default:default`, has asked for.
///
/// # Panics
/// If there is no log, or it is none.
pub fn asked_by(directory: &Directory, account: &str) -> BTreeSet<Asked> {
    let log = fs::read_to_string(log(directory)).expect("the API server keeps a log");
    // The last line may be half written.
    let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let events = lines.map(|line| serde_json::from_str::<Value>(line).expect("each line is an event"));
    events.filter(|event| event["user"]["username"] == account).filter_map(|event| asked(&event)).collect()
}

fn asked(event: &Value) -> Option<Asked> {
    let object = &event["objectRef"];
    let resource = object["resource"].as_str()?;
    let resource = match object["subresource"].as_str() {
        Some(subresource) => format!("{resource}/{subresource}"),
        None => resource.to_owned(),
    };
    let verb = event["verb"].as_str()?.to_owned();
    let allowed = event["annotations"]["authorization.k8s.io/decision"] == "allow";
    Some(Asked { resource, verb, allowed })
}
