//! Label selectors: which objects are meant (meta/v1 `LabelSelector`).

use std::collections::BTreeMap;

use tidegate_crd::core::LabelSelector;

/// Whether a selector takes an object with these labels. An empty one takes all; one with a [`fault`] takes none.
pub(crate) fn takes(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let mut pairs = selector.match_labels.iter().flatten();
    if fault(selector).is_some() {
        return false;
    }
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

/// What is wrong with a selector: the field, and what it says there. The API server does not let such a one in.
pub(crate) fn fault(selector: &LabelSelector) -> Option<(String, String)> {
    let mut expressions = selector.match_expressions.iter().flatten().enumerate();
    expressions.find_map(|(index, expression)| {
        let has_values = expression.values.as_ref().is_some_and(|values| !values.is_empty());
        let (field, message) = match (expression.operator.as_str(), has_values) {
            ("In" | "NotIn", true) | ("Exists" | "DoesNotExist", false) => return None,
            ("In" | "NotIn", false) => ("values", format!("{} needs values", expression.operator)),
            ("Exists" | "DoesNotExist", true) => ("values", format!("{} has no values", expression.operator)),
            (other, _) => ("operator", format!("there is no operator {other:?}")),
        };
        Some((format!("matchExpressions[{index}].{field}"), message))
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
        for (selector, expected) in [
            (
                r#"{"matchExpressions": [{"key": "app", "operator": "Is"}]}"#,
                "matchExpressions[0].operator: there is no operator \"Is\"",
            ),
            (
                r#"{"matchExpressions": [{"key": "none", "operator": "NotIn"}]}"#,
                "matchExpressions[0].values: NotIn needs values",
            ),
            (
                r#"{"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["web"]}]}"#,
                "matchExpressions[0].values: Exists has no values",
            ),
        ] {
            let (field, message) = fault(&serde_json::from_str(selector).unwrap()).unwrap();
            assert_eq!(format!("{field}: {message}"), expected);
            assert!(!takes_it(selector), "{selector}");
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
