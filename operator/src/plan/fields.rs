//! Which fields differ between two objects, in short.

use serde_json::Value;

/// Most fields that are named one by one.
const MOST: usize = 20;

/// The fields that differ, as paths: `spec.containers[sidecar].image`. An item of a list that has a name is called by it.
pub fn differing(before: &Value, after: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect(before, after, path, &mut found);
    let more = found.len().saturating_sub(MOST);
    found.truncate(MOST);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found
}

fn collect(before: &Value, after: &Value, path: &str, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(left), Value::Object(right)) => {
            let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
            for name in names {
                let of = |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                collect(&of(left), &of(right), &format!("{path}.{name}"), found);
            }
        }
        (Value::Array(left), Value::Array(right)) if is_named(left) && is_named(right) => {
            let names = left.iter().chain(right).map(name);
            let mut seen = Vec::new();
            for item in names.filter(|item| !item.is_empty()) {
                if !seen.contains(&item) {
                    seen.push(item);
                    let of =
                        |items: &[Value]| items.iter().find(|other| name(other) == item).cloned().unwrap_or_default();
                    collect(&of(left), &of(right), &format!("{path}[{item}]"), found);
                }
            }
            // The same items in another order are another list.
            if seen.len() == left.len()
                && left.len() == right.len()
                && !left.iter().map(name).eq(right.iter().map(name))
            {
                found.push(format!("{path} (order)"));
            }
        }
        _ if before == after => {}
        _ => found.push(path.to_owned()),
    }
}

fn is_named(items: &[Value]) -> bool {
    items.iter().all(|item| !name(item).is_empty())
}

fn name(item: &Value) -> &str {
    item.get("name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_named_by_their_path_and_items_by_their_name() {
        let before =
            json!({"containers": [{"name": "app", "image": "a:1"}, {"name": "sidecar", "args": ["x"]}], "kept": 1});
        let after = json!({"containers": [{"name": "app", "image": "a:2"}, {"name": "sidecar", "args": ["y"]}], "kept": 1, "added": {}});
        let expected = ["spec.containers[app].image", "spec.containers[sidecar].args", "spec.added"];
        assert_eq!(differing(&before, &after, "spec"), expected);
        assert_eq!(differing(&before, &before, "spec"), Vec::<String>::new());
    }

    #[test]
    fn an_item_that_goes_and_another_order_are_differences() {
        let two = json!([{"name": "a"}, {"name": "b"}]);
        assert_eq!(differing(&two, &json!([{"name": "a"}]), "list"), ["list[b]"]);
        assert_eq!(differing(&two, &json!([{"name": "b"}, {"name": "a"}]), "list"), ["list (order)"]);
    }

    #[test]
    fn of_very_many_fields_only_the_first_are_named() {
        let many = |value: i32| Value::Object((0..30).map(|at| (format!("f{at:02}"), json!(value))).collect());
        let found = differing(&many(1), &many(2), "spec");
        assert_eq!((found.len(), found.last().unwrap().as_str()), (MOST + 1, "and 10 more"));
    }
}
