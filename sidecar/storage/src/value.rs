//! Values and versions.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde_json::{Number, Value as Json};

use crate::{Error, Key, Object};

/// Deepest nesting of arrays and objects in a JSON value: what a JSON parser reads back.
pub const MAX_JSON_DEPTH: usize = 127;

/// What a key holds: a JSON value (any, also `0`, `""`, `false` and `null`... all of them values), raw bytes, or an object.
#[derive(Clone, Debug)]
pub enum Value {
    /// A JSON value. Compared by value: `{"a":1,"b":2}` equals `{"b":2,"a":1}`, and `1` equals `1.0`.
    Json(serde_json::Value),
    /// Raw bytes. Compared byte by byte.
    Bytes(Bytes),
    /// Bytes with what is told of them. Compared by all of it: an object never equals bytes or JSON.
    Object(Object),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Json(a), Self::Json(b)) => same_json(a, b),
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => a == b,
            (Self::Json(_) | Self::Bytes(_) | Self::Object(_), _) => false,
        }
    }
}

impl Value {
    /// Refuses a value that could be written but not read back.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Self::Json(json) if deeper_than(json, MAX_JSON_DEPTH) => {
                Err(Error::invalid("value", format!("is nested deeper than {MAX_JSON_DEPTH} levels")))
            }
            Self::Json(_) | Self::Bytes(_) | Self::Object(_) => Ok(()),
        }
    }
}

fn deeper_than(json: &Json, levels: usize) -> bool {
    match json {
        Json::Array(items) => levels == 0 || items.iter().any(|item| deeper_than(item, levels - 1)),
        Json::Object(fields) => levels == 0 || fields.values().any(|item| deeper_than(item, levels - 1)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
}

fn same_json(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => same_number(a, b),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_json(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same_json(a, b)))
        }
        _ => a == b,
    }
}

/// Equality of numbers as numbers. Whole numbers are compared exactly: a 64-bit integer above 2^53 must not equal its
/// neighbour just because both round to one float.
fn same_number(a: &Number, b: &Number) -> bool {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a.as_f64() == b.as_f64(),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The number as an integer if it is a whole one, however it was written.
fn whole(number: &Number) -> Option<i128> {
    /// From here on a float is no longer held exactly by an `i128`; two such floats are compared as floats.
    const LIMIT: f64 = 1e38;
    if let Some(n) = integer(number) {
        return Some(n);
    }
    let float = number.as_f64()?;
    (float.fract() == 0.0 && float.abs() < LIMIT).then_some(float as i128)
}

/// The number as an integer if it was written as one.
fn integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

/// `current + delta`; no value counts as 0. Integers add up exactly within 64 bits, anything else as floats.
/// Fails on a value that is no number and on an overflow.
pub fn add(key: &Key, current: Option<&Value>, delta: &Number) -> Result<Number, Error> {
    let zero = Number::from(0);
    let current = match current {
        None => &zero,
        Some(Value::Json(Json::Number(number))) => number,
        Some(_) => return Err(Error::NotANumber { key: key.to_string() }),
    };
    let overflow = || Error::invalid("delta", format!("{current} + {delta} is out of range"));
    if let (Some(a), Some(b)) = (integer(current), integer(delta)) {
        let sum = a + b; // Two 64-bit integers: can't overflow 128 bits.
        let narrow = i64::try_from(sum).map(Number::from).or_else(|_| u64::try_from(sum).map(Number::from));
        return narrow.map_err(|_| overflow());
    }
    let sum = current.as_f64().zip(delta.as_f64()).map(|(a, b)| a + b);
    sum.and_then(Number::from_f64).ok_or_else(overflow)
}

/// The version of a value: never repeats, and grows with each write of a key that reaches the store. Opaque to clients (an HTTP ETag).
///
/// `revision` counts these writes since the key was created; `tag` is what the backend needs to make the next
/// write conditional (S3: the object's ETag; others: the writer's nonce).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Counts the writes of this key that reached the store, from 1.
    pub revision: u64,
    /// What tells this write from every other one: letters, digits, `-`.
    pub tag: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.revision, self.tag)
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad =
            || Error::invalid("version", format!("{text:?} is no version: send back the ETag of an earlier answer"));
        let (revision, tag) = text.split_once('-').ok_or_else(bad)?;
        let well_formed = !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !well_formed {
            return Err(bad());
        }
        Ok(Self { revision: revision.parse().map_err(|_| bad())?, tag: tag.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn json(text: &str) -> Value {
        Value::Json(serde_json::from_str(text).unwrap())
    }

    fn key() -> Key {
        Key::new("k").unwrap()
    }

    /// Any JSON value of modest size.
    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            "[ -~\u{e9}]{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map("[a-z]{1,3}", inner, 0..4)
                    .prop_map(|fields| Json::Object(fields.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn numbers_are_compared_by_value() {
        assert_eq!(json("1"), json("1.0"));
        assert_eq!(json("0"), json("-0.0"));
        assert_eq!(json("1e2"), json("100"));
        assert_eq!(json("1e300"), json("1e300"));
        assert_ne!(json("1"), json("1.5"));
        assert_ne!(json("1e300"), json("1e301"));
    }

    #[test]
    fn neighbours_beyond_the_precision_of_floats_differ() {
        assert_ne!(json("9007199254740993"), json("9007199254740992"));
        assert_ne!(json("9007199254740993"), json("9007199254740992.0"));
        assert_ne!(json("18446744073709551615"), json("18446744073709551614"));
        assert_ne!(json("18446744073709551615"), json("18446744073709551616.0"));
        assert_ne!(json("-1"), json("18446744073709551615"));
    }

    #[test]
    fn the_order_of_fields_does_not_count_but_that_of_items_does() {
        assert_eq!(json(r#"{"a":1,"b":[2.0]}"#), json(r#"{"b":[2],"a":1.0}"#));
        assert_ne!(json("[1,2]"), json("[2,1]"));
        assert_ne!(json(r#"{"a":1}"#), json(r#"{"a":1,"b":null}"#));
    }

    #[test]
    fn json_never_equals_bytes() {
        assert_ne!(json("1"), Value::Bytes(Bytes::from_static(b"1")));
        assert_ne!(json("null"), Value::Bytes(Bytes::new()));
    }

    #[test]
    fn values_that_look_like_nothing_differ_from_each_other() {
        let nothings = [json("0"), json("\"\""), json("false"), json("null"), json("[]"), json("{}")];
        for (i, a) in nothings.iter().enumerate() {
            for (j, b) in nothings.iter().enumerate() {
                assert_eq!(i == j, a == b, "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn a_sum_stays_whole_up_to_the_last_bit() {
        let sum = |a: &str, b: &str| add(&key(), Some(&json(a)), &b.parse::<Number>().unwrap());
        assert_eq!(sum("9007199254740992", "1").unwrap().to_string(), "9007199254740993");
        assert_eq!(sum("18446744073709551614", "1").unwrap().to_string(), "18446744073709551615");
        assert_eq!(sum("-9223372036854775807", "-1").unwrap().to_string(), "-9223372036854775808");
        assert_eq!(sum("1.5", "1").unwrap().to_string(), "2.5");
        assert!(matches!(sum("18446744073709551615", "1"), Err(Error::Invalid { field: "delta", .. })));
        assert!(matches!(sum("-9223372036854775808", "-1"), Err(Error::Invalid { field: "delta", .. })));
        assert!(matches!(sum("1.7e308", "1.7e308"), Err(Error::Invalid { field: "delta", .. })));
        assert_eq!(add(&key(), None, &Number::from(-4)).unwrap(), Number::from(-4));
    }

    #[test]
    fn only_numbers_can_be_added_to() {
        for value in [json("null"), json("\"1\""), json("[]"), Value::Bytes(Bytes::from_static(b"1"))] {
            assert!(matches!(add(&key(), Some(&value), &Number::from(1)), Err(Error::NotANumber { .. })), "{value:?}");
        }
    }

    #[test]
    fn what_passes_the_depth_check_can_be_read_back() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        let deepest = Value::Json(nested(MAX_JSON_DEPTH));
        deepest.check().unwrap();
        serde_json::from_str::<Json>(&nested(MAX_JSON_DEPTH).to_string()).unwrap();
        let too_deep = Value::Json(nested(MAX_JSON_DEPTH + 1));
        assert!(matches!(too_deep.check(), Err(Error::Invalid { field: "value", .. })));
        serde_json::from_str::<Json>(&nested(MAX_JSON_DEPTH + 1).to_string()).unwrap_err();
    }

    #[test]
    fn a_version_reads_back_as_it_was_shown() {
        let version = Version { revision: 7, tag: "abc-12".to_owned() };
        assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
        for bad in ["", "7", "7-", "-a", "x-a", "7-a b", "7-\u{e9}"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn equality_is_reflexive_and_survives_storage(json in any_json()) {
            let stored: Json = serde_json::from_str(&json.to_string()).unwrap();
            prop_assert_eq!(Value::Json(json), Value::Json(stored));
        }

        #[test]
        fn equality_is_symmetric(a in any_json(), b in any_json()) {
            let (a, b) = (Value::Json(a), Value::Json(b));
            prop_assert_eq!(a == b, b == a);
        }

        #[test]
        fn an_integer_equals_its_float_only_where_the_float_is_exact(n in any::<i64>()) {
            let exact = (n as f64) as i128 == i128::from(n);
            prop_assert_eq!(exact, Value::Json(json!(n)) == Value::Json(json!(n as f64)));
        }

        #[test]
        fn integers_add_up_exactly_or_not_at_all(a in any::<i64>(), b in any::<i64>()) {
            let sum = add(&key(), Some(&Value::Json(json!(a))), &Number::from(b));
            let exact = i128::from(a) + i128::from(b);
            match sum {
                Ok(sum) => prop_assert_eq!(sum.to_string(), exact.to_string()),
                Err(_) => prop_assert!(i64::try_from(exact).is_err() && u64::try_from(exact).is_err()),
            }
        }
    }
}
