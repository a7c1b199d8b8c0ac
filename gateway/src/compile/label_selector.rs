//! Label selectors: which objects are meant (meta/v1 `LabelSelector`).

use std::collections::BTreeMap;

use tidegate_crd::core::LabelSelector;

/// Whether a selector takes an object with these labels. An empty one takes all; one with an operator that does not exist takes none.
pub(crate) fn takes(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let mut pairs = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    pairs.all(|(name, value)| labels.get(name) == Some(value))
        && expressions.all(|expression| {
            let value = labels.get(&expression.key);
            let listed = value.is_some_and(|value| expression.values.iter().flatten().any(|listed| listed == value));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_expressions_must_all_hold() {
        let labels: BTreeMap<String, String> =
            [("app", "web"), ("tier", "front")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let takes_it = |json: &str| takes(&serde_json::from_str(json).unwrap(), &labels);
        for selector in [
            "{}",
            r#"{"matchLabels": {"app": "web"}}"#,
            r#"{"matchExpressions": [{"key": "app", "operator": "In", "values": ["api", "web"]}]}"#,
            r#"{"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["api"]}]}"#,
            r#"{"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["api"]}]}"#,
            r#"{"matchExpressions": [{"key": "app", "operator": "Exists"}, {"key": "none", "operator": "DoesNotExist"}]}"#,
        ] {
            assert!(takes_it(selector), "{selector}");
        }
        for selector in [
            r#"{"matchLabels": {"app": "web", "tier": "back"}}"#,
            r#"{"matchLabels": {"none": ""}}"#,
            r#"{"matchExpressions": [{"key": "app", "operator": "In", "values": ["api"]}]}"#,
            r#"{"matchExpressions": [{"key": "none", "operator": "In", "values": [""]}]}"#,
            r#"{"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}"#,
            r#"{"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}"#,
            r#"{"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "app", "operator": "Is"}]}"#,
        ] {
            assert!(!takes_it(selector), "{selector}");
        }
    }
}
