//! Fills in a [`LiveView`]: what happens at this moment, short enough to be sent to a browser every second.
//!
//! Someone who looks must cost little, in a cluster of 10,000 Services too. So rows are found first, and only those are made into
//! text that are shown; who wants to see others narrows the view with a [`Filter`].

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use ahash::AHashMap;

use super::{
    config::{failed_view, http_addresses, ingress_view, rule_view, served, service_view, sort_rules},
    state::AdminState,
    status::BindFailed,
    view::{CertificateView, FindingView, IngressView, LiveView, RuleView, ServiceView, TotalsView},
};
use crate::{
    compile::{
        finding::Finding,
        rows::{IngressRow, ServiceRow},
    },
    controller::status::ControllerStatus,
    http::stats::sum,
    route::Rule,
    snapshot::Snapshot,
    tls::CertificateRow,
};

/// Rows of each kind in one view: several screens full. Who looks for one among more names it.
const MAX_ROWS: usize = 200;

/// Endpoints in one view, shared by the ports that are shown: with 300 bytes each, half a megabyte; all of those of a Service that
/// is looked at alone.
const MAX_ENDPOINTS: usize = 2_000;

/// Rules in one view, shared by the Ingresses that are shown; with 400 bytes each.
const MAX_RULES: usize = 2_000;

/// Hosts of one Ingress or certificate: people read no further.
const MAX_HOSTS: usize = 20;

/// Which rows are to be seen: those with this text in what names them. Empty takes everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter(String);

impl Filter {
    pub(super) fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Whether the text is part of this one; upper and lower case of ASCII are the same.
    fn takes(&self, text: &str) -> bool {
        contains(text, &self.0)
    }

    /// The same for `namespace/name`.
    fn takes_name(&self, namespace: &str, name: &str) -> bool {
        let spans_both = |(end, start): (&str, &str)| {
            let (namespace, name) = (namespace.as_bytes(), name.as_bytes());
            let tail = namespace.len().checked_sub(end.len()).and_then(|at| namespace.get(at..));
            let head = name.get(..start.len());
            tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end.as_bytes()))
                && head.is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
        };
        self.takes(namespace) || self.takes(name) || self.0.split_once('/').is_some_and(spans_both)
    }
}

fn contains(text: &str, part: &str) -> bool {
    part.is_empty() || text.as_bytes().windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

impl LiveView {
    /// What there is to see at `now`.
    pub(super) fn new(state: &AdminState, snapshot: &Snapshot, filter: &Filter, now: SystemTime) -> Self {
        let failed = state.runtime.failed();
        let failed: Vec<&BindFailed> = failed.iter().filter(|failed| filter.takes(&failed.service)).collect();
        let (services, services_total) = services(snapshot, filter);
        let rules = RulesOf::new(snapshot, filter);
        let of_controller = state.runtime.controller().map_or_else(Vec::new, ControllerStatus::findings);
        let (findings, findings_total) = findings(snapshot, &failed, &of_controller, filter);
        let (certificates, certificates_total) = certificates(snapshot, filter);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            uptime_seconds: now.duration_since(state.runtime.started()).map_or(0, |since| since.as_secs()),
            generation: snapshot.generation,
            draining: state.runtime.is_draining(),
            demo: state.demo.is_some(),
            totals: totals(state, snapshot, rules.answers.clone()),
            services,
            services_total,
            ingresses: rules.ingresses(&http_addresses(&state.runtime, snapshot), snapshot),
            ingresses_total: rules.total,
            other_rules: views(&rules.others, MAX_ROWS, snapshot),
            findings,
            findings_total,
            certificates,
            certificates_total,
            listeners_failed: failed.iter().take(MAX_ROWS).map(|failed| failed_view(failed)).collect(),
        }
    }

    /// Whether it says anything that `before` did not, the time aside; takes its own time over to it.
    pub(super) fn differs_from(&self, before: &mut Self) -> bool {
        (before.time, before.uptime_seconds) = (self.time, self.uptime_seconds);
        self != before
    }
}

/// The rows to be shown, and how many the filter takes.
fn shown<'a, T: ?Sized>(rows: impl Iterator<Item = &'a T>, takes: impl Fn(&T) -> bool) -> (Vec<&'a T>, usize) {
    let (mut shown, mut total) = (Vec::new(), 0);
    for row in rows.filter(|row| takes(row)) {
        total += 1;
        if total <= MAX_ROWS {
            shown.push(row);
        }
    }
    (shown, total)
}

fn services(snapshot: &Snapshot, filter: &Filter) -> (Vec<ServiceView>, usize) {
    let has_pod = |row: &ServiceRow| {
        let ports = row.ports.iter().filter_map(|port| served(row, port, snapshot));
        ports
            .flat_map(|port| port.config.endpoints.iter())
            .any(|endpoint| endpoint.pod.as_ref().is_some_and(|pod| filter.takes(pod)))
    };
    let rows = snapshot.services.iter().map(|row| &**row);
    let (rows, total) = shown(rows, |row| filter.takes_name(&row.namespace, &row.name) || has_pod(row));
    let ports: usize = rows.iter().map(|row| row.ports.len()).sum();
    let endpoints = MAX_ENDPOINTS.div_ceil(ports.max(1));
    (rows.into_iter().map(|row| service_view(row, snapshot, endpoints)).collect(), total)
}

/// The Ingresses that are shown with their rules, the rules of nobody, and what all rules have answered: in one pass over them.
struct RulesOf<'a> {
    rows: Vec<(&'a IngressRow, Vec<&'a Rule>)>,
    /// Ingresses that the filter takes.
    total: usize,
    others: Vec<&'a Rule>,
    answers: BTreeMap<u16, u64>,
}

impl<'a> RulesOf<'a> {
    fn new(snapshot: &'a Snapshot, filter: &Filter) -> Self {
        let takes = |row: &IngressRow| {
            filter.takes_name(&row.namespace, &row.name) || row.hosts.iter().any(|host| filter.takes(host))
        };
        let (rows, total) = shown(snapshot.ingresses.iter().map(|row| &**row), takes);
        // For each of ours, whether it is shown, and where.
        let ours = snapshot.ingresses.iter().filter(|row| row.ours);
        let mut owners: AHashMap<(&str, &str), Option<usize>> =
            ours.map(|row| ((&*row.namespace, &*row.name), None)).collect();
        for (at, row) in rows.iter().enumerate().filter(|(_, row)| row.ours) {
            owners.insert((&row.namespace, &row.name), Some(at));
        }
        let rows = rows.into_iter().map(|row| (row, Vec::new())).collect();
        let mut found = Self { rows, total, others: Vec::new(), answers: BTreeMap::new() };
        for rule in snapshot.routes.rules() {
            rule.stats.add_by_code(&mut found.answers);
            match owners.get(&(&*rule.owner.namespace, &*rule.owner.name)) {
                Some(Some(at)) => found.rows[*at].1.push(rule),
                Some(None) => {}
                None if filter.takes(&rule.host) || filter.takes(rule.backend.service()) => found.others.push(rule),
                None => {}
            }
        }
        found
    }

    fn ingresses(&self, addresses: &[String], snapshot: &Snapshot) -> Vec<IngressView> {
        let most = MAX_RULES.div_ceil(self.rows.len().max(1));
        let view = |(row, rules): &(&IngressRow, Vec<&Rule>)| {
            let mut view = ingress_view(row, views(rules, most, snapshot), addresses);
            view.hosts.truncate(MAX_HOSTS);
            view.rules_left_out = rules.len().saturating_sub(most);
            view
        };
        self.rows.iter().map(view).collect()
    }
}

/// The first `most` of some rules, by host and path.
fn views(rules: &[&Rule], most: usize, snapshot: &Snapshot) -> Vec<RuleView> {
    let path = |rule: &Rule| rule.path.as_ref().map(|path| path.as_str().clone());
    let mut rules = rules.to_vec();
    if rules.len() > most {
        rules.sort_by_cached_key(|rule| (rule.host.clone(), path(rule)));
        rules.truncate(most);
    }
    let mut views: Vec<RuleView> = rules.into_iter().map(|rule| rule_view(rule, snapshot)).collect();
    sort_rules(&mut views);
    views
}

/// What could not be opened first: it is an error, and only the running process knows it.
fn findings(
    snapshot: &Snapshot,
    failed: &[&BindFailed],
    of_controller: &[Finding],
    filter: &Filter,
) -> (Vec<FindingView>, usize) {
    let of_object = |finding: &Finding| {
        finding.object.as_ref().is_some_and(|object| filter.takes_name(&object.namespace, &object.name))
    };
    let takes = |finding: &&Finding| of_object(finding) || filter.takes(&finding.message);
    let mut found: Vec<&Finding> = snapshot.findings.iter().chain(of_controller).filter(takes).collect();
    found.sort_by_key(|finding| Reverse(finding.severity));
    let total = failed.len() + found.len();
    let runtime = failed.iter().take(MAX_ROWS).map(|failed| FindingView::from(&failed.finding()));
    (runtime.chain(found.into_iter().map(FindingView::from)).take(MAX_ROWS).collect(), total)
}

fn certificates(snapshot: &Snapshot, filter: &Filter) -> (Vec<CertificateView>, usize) {
    let takes = |row: &&CertificateRow| {
        filter.takes_name(&row.secret.namespace, &row.secret.name) || row.hosts.iter().any(|host| filter.takes(host))
    };
    let mut found: Vec<&CertificateRow> = snapshot.tls.certificates().iter().filter(takes).collect();
    found.sort_by_key(|row| row.certificate.not_after);
    let view = |row: &&CertificateRow| CertificateView {
        secret: row.secret.to_string(),
        hosts: row.hosts.iter().take(MAX_HOSTS).map(|host| host.to_string()).collect(),
        hosts_left_out: row.hosts.len().saturating_sub(MAX_HOSTS),
        not_before: row.certificate.not_before,
        not_after: row.certificate.not_after,
        subject: row.certificate.subject.to_string(),
    };
    (found.iter().take(MAX_ROWS).map(view).collect(), found.len())
}

fn totals(state: &AdminState, snapshot: &Snapshot, mut answers: BTreeMap<u16, u64>) -> TotalsView {
    // The same for all workers.
    state.http.iter().take(1).for_each(|stats| stats.unmatched.add_by_code(&mut answers));
    let mut totals = TotalsView {
        requests: sum(&state.http, |stats| stats.requests.value()),
        requests_under_way: sum(&state.http, |stats| stats.under_way()),
        http_connections: sum(&state.http, |stats| stats.connections()),
        answers,
        bytes_in: sum(&state.http, |stats| stats.bytes_in.value()),
        bytes_out: sum(&state.http, |stats| stats.bytes_out.value()),
        tail_skipped: state.tail.skipped(),
        ..TotalsView::default()
    };
    for port in snapshot.table.ports() {
        totals.l4_accepted += port.stats.sum(|s| &s.accepted);
        totals.l4_open += port.stats.active();
        totals.bytes_in += port.stats.sum(|s| &s.bytes_in);
        totals.bytes_out += port.stats.sum(|s| &s.bytes_out);
    }
    totals
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
