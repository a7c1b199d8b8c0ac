//! Annotations that do not do what they seem to do, or need another object to do it.

use tidegate_crd::ingress::{HTTPIngressPath, IngressSpec};

use super::{
    super::{
        annotations::{self, IngressOptions},
        finding::Report,
        objects::{Name, Objects},
    },
    policy,
};
use crate::route::pattern::Pattern;

/// A rewrite that loses what it should keep, or refers to what is not there.
pub(super) fn captures(target: &str, pattern: &Pattern, field: &str, report: &mut Report<'_>) {
    let digits = target.split('$').skip(1).filter_map(|after| after.chars().next()?.to_digit(10));
    let last = digits.max().unwrap_or(0);
    let groups = pattern.groups();
    if usize::try_from(last).is_ok_and(|last| last > groups) {
        let message =
            format!("rewrite-target {target} refers to ${last}, and {pattern} has only {groups} groups: it is empty.");
        report.warning(
            "RewriteWithoutGroup",
            field,
            message,
            "Put what is to be kept into parentheses, as in /shop(/|$)(.*).",
        );
    } else if last == 0 && !target.starts_with("http") {
        let message =
            format!("rewrite-target {target} has no group: every path that begins with {pattern} becomes {target}.");
        let fix = "To keep the rest of the path, write /shop(/|$)(.*) and $2, or use tidegate.io/rewrite-prefix.";
        report.warning("RewriteWithoutGroup", field, message, fix);
    }
}

/// `custom-headers`: fields of a ConfigMap. What cannot be honoured closes the Ingress, as in ingress-nginx.
pub(super) fn custom_headers(objects: &Objects, name: &Name, options: &mut IngressOptions, report: &mut Report<'_>) {
    let Some(written) = options.headers.config_map.clone() else { return };
    let (namespace, config_map) = written.split_once('/').unwrap_or((&name.namespace, &written));
    let field = format!("metadata.annotations[\"{}custom-headers\"]", annotations::PREFIX);
    let result = if namespace == &*name.namespace {
        match objects.config_maps.get(&Name::new(namespace, config_map)) {
            Some(stored) => annotations::config_map_fields(
                stored.object.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str())),
            ),
            None => Err(format!("there is no ConfigMap {namespace}/{config_map}")),
        }
    } else {
        Err(format!("ConfigMap {written} is in another namespace"))
    };
    match result {
        Ok(fields) => policy::set_on_answers(options, fields),
        Err(reason) => {
            let message = format!("{reason}; every request is answered 503.");
            let fix = "Name a ConfigMap of the Ingress's own namespace that lists fields which may be set.";
            report.error("InvalidCustomHeaders", &field, message, fix);
            options.closed = Some("its custom-headers cannot be set".to_owned());
        }
    }
}

/// A field that is only set where a path is rewritten, and none is.
pub(super) fn forwarded_prefix(options: &IngressOptions, spec: &IngressSpec, report: &mut Report<'_>) {
    let paths = spec.rules.iter().flatten().flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths));
    let rewritten =
        |path: &HTTPIngressPath| policy::replacement(options, path.path.as_deref().unwrap_or("/")).is_some();
    if options.rewrite.forwarded_prefix.is_some() && !paths.into_iter().any(rewritten) {
        let message = "x-forwarded-prefix has no effect without a rewrite-target that differs from the path.";
        let field = format!("metadata.annotations[\"{}x-forwarded-prefix\"]", annotations::PREFIX);
        let fix = "Use tidegate.io/request-headers-set: \"X-Forwarded-Prefix: …\".";
        report.warning("UnusedAnnotation", &field, message, fix);
    }
}
