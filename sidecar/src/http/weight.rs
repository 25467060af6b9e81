//! How much memory a JSON text takes when it is parsed. A text of many small parts takes a hundred times its own bytes.

use serde_json::Value;

const VALUE: u64 = size_of::<Value>() as u64;
/// Of an allocation, beyond what is asked for.
const ALLOCATION: u64 = 16;
/// An array grows by doubling, and has room for four from the first item on.
const ARRAY: u64 = 4 * VALUE + ALLOCATION;
const ITEM: u64 = 2 * VALUE;
/// A map keeps its fields in nodes with eleven places, of which no fewer than five are taken once there are several nodes.
const OBJECT: u64 = 11 * (VALUE + size_of::<String>() as u64) + ALLOCATION;
/// With its share of the nodes above.
const FIELD: u64 = OBJECT / 4;

/// Bytes of memory that a text takes once it is parsed, at most. Whether it is well-formed does not matter.
pub(super) fn parsed(text: &[u8]) -> u64 {
    let mut bytes = VALUE;
    let mut rest = text;
    while let [byte, behind @ ..] = rest {
        rest = behind;
        bytes += match byte {
            b'"' => {
                let length = string(rest);
                rest = rest.get(length + 1..).unwrap_or_default();
                length as u64 + ALLOCATION
            }
            b'[' if !is_empty(rest, b']') => ARRAY,
            b'{' if !is_empty(rest, b'}') => OBJECT,
            b',' => ITEM,
            b':' => FIELD,
            _ => 0,
        };
    }
    bytes
}

/// Bytes to the quotation mark that ends a string.
fn string(text: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match text.get(at) {
            None | Some(b'"') => return at.min(text.len()),
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// An array or object ends before it has begun: it takes nothing.
fn is_empty(text: &[u8], end: u8) -> bool {
    text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a value takes for certain, itself not counted.
    fn least(value: &Value) -> u64 {
        match value {
            Value::String(text) => text.capacity() as u64,
            Value::Array(items) => items.capacity() as u64 * VALUE + items.iter().map(least).sum::<u64>(),
            Value::Object(fields) => {
                let places = if fields.is_empty() { 0 } else { fields.len().max(11) as u64 };
                let texts: u64 = fields.iter().map(|(name, value)| name.capacity() as u64 + least(value)).sum();
                places * (VALUE + size_of::<String>() as u64) + texts
            }
            _ => 0,
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), ".{0,9}".prop_map(Value::from)];
        leaf.prop_recursive(4, 200, 30, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..30).prop_map(Value::from),
                prop::collection::hash_map(".{0,3}", inner, 0..30)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_text_takes_more_than_was_counted(json in any_json()) {
            for text in [json.to_string(), serde_json::to_string_pretty(&json).unwrap()] {
                let value: Value = serde_json::from_str(&text).unwrap();
                let (counted, least) = (parsed(text.as_bytes()), VALUE + least(&value));
                prop_assert!(counted >= least, "{counted} for {least}: {text}");
            }
        }

        #[test]
        fn any_bytes_are_counted(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\')], 0..40)) {
            prop_assert!(parsed(&bytes) >= VALUE);
        }
    }

    #[test]
    fn long_text_takes_what_it_is_and_small_parts_take_far_more() {
        let long = format!("\"{}\"", "a".repeat(1 << 20));
        assert!(parsed(long.as_bytes()) < (1 << 20) + 100);
        let quoted = format!("\"{}\"", r#"[\"{:,"#.repeat(1000));
        assert!(parsed(quoted.as_bytes()) < 8000, "what stands in a string is no part");
        let small = format!("[{}0]", "{\"\":0},".repeat(1000));
        assert!(parsed(small.as_bytes()) > 600 * 1000);
        assert_eq!(parsed(b"[ ]"), parsed(b"0"));
    }
}
