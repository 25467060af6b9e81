//! What any [`StorageAdapter`] must do, as a suite to run against it.
//!
//! ```no_run
//! # async fn example() {
//! use std::sync::Arc;
//! use brainy_storage::{backends::memory::MemoryAdapter, conformance};
//!
//! let report = conformance::run(|| Arc::new(MemoryAdapter::new())).await;
//! assert!(report.is_clean(), "{report}");
//! # }
//! ```
//!
//! Each check gets an empty store of its own. A store may refuse a key for its length, as long as it says so
//! ([`Error::Invalid`] in field `key`) and takes any key up to 256 bytes of letters and digits.

mod batches;
mod conditions;
mod listing;
mod namespaces;
mod numbers;
mod once;
mod races;
mod values;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;

use crate::{Entry, Error, Key, Outcome, StorageAdapter, Value, Version, WriteResult};

/// No check may take longer: an adapter that hangs has failed.
const LIMIT: Duration = Duration::from_secs(120);

/// What a check found wrong.
type Verdict = Result<(), String>;
type Store = Arc<dyn StorageAdapter>;
/// A named check.
type Check = (&'static str, fn(Store) -> BoxFuture<'static, Verdict>);

/// Fails the check unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}
use ensure;

/// Names a check after its function.
macro_rules! checks {
    ($($module:ident :: $check:ident),+ $(,)?) => {
        [$((stringify!($check), |store| $module::$check(store).boxed())),+]
    };
}

const CHECKS: &[Check] = &checks![
    values::every_kind_of_value_comes_back,
    values::what_looks_like_nothing_is_a_value,
    values::a_deleted_key_is_gone_and_can_come_back,
    values::every_key_is_a_key_of_its_own,
    values::a_version_never_repeats,
    conditions::must_not_exist_creates_once,
    conditions::a_version_condition_holds_only_for_that_version,
    conditions::a_removal_under_a_stale_version_removes_nothing,
    conditions::swap_compares_the_old_value,
    conditions::swap_from_nothing_creates_and_to_nothing_deletes,
    conditions::swap_compares_by_value,
    numbers::a_missing_number_counts_as_zero,
    numbers::only_numbers_are_incremented,
    numbers::an_overflow_changes_nothing,
    once::an_operation_with_an_id_is_done_once,
    once::an_operation_asked_for_again_changes_nothing_that_came_later,
    once::what_was_not_done_is_not_remembered,
    once::an_id_belongs_to_one_request_of_one_key,
    once::of_an_operation_sent_many_times_at_once_one_takes_effect,
    once::a_value_remembers_so_many_operations,
    batches::a_batch_answers_for_each_item_in_order,
    batches::the_last_of_two_items_with_one_key_stands,
    batches::an_empty_batch_is_one,
    batches::each_item_of_a_batch_has_its_own_condition,
    listing::keys_are_listed_in_order,
    listing::a_prefix_selects_exactly_its_keys,
    listing::pages_join_without_gap_or_repetition,
    listing::deleted_keys_are_not_listed,
    namespaces::a_namespace_sees_only_its_own_keys,
    namespaces::nested_namespaces_are_apart,
    namespaces::no_name_escapes_its_namespace,
    races::increments_at_once_lose_nothing,
    races::of_swaps_at_once_one_wins,
    races::of_creators_at_once_one_wins,
    races::writers_and_removers_agree_on_what_stands,
];

/// Which checks passed, and why others failed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Names of the checks that passed.
    pub passed: Vec<&'static str>,
    /// Names of the checks that failed, each with what was wrong.
    pub failed: Vec<(&'static str, String)>,
}

impl Report {
    /// No check failed.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks passed, {} failed", self.passed.len(), self.failed.len())?;
        for (name, why) in &self.failed {
            write!(f, "\n  {name}: {why}")?;
        }
        Ok(())
    }
}

/// Runs all checks, each on a new, empty store.
pub async fn run(new_adapter: impl Fn() -> Store) -> Report {
    let mut report = Report::default();
    for (name, check) in CHECKS {
        let verdict = tokio::time::timeout(LIMIT, check(new_adapter())).await;
        match verdict.unwrap_or_else(|_| Err(format!("took longer than {LIMIT:?}"))) {
            Ok(()) => report.passed.push(name),
            Err(why) => report.failed.push((name, why)),
        }
    }
    report
}

// What the checks are written in.

fn key(text: &str) -> Result<Key, String> {
    Key::new(text).map_err(|why| why.to_string())
}

fn number(n: i64) -> Value {
    Value::Json(json!(n))
}

/// The result of a write that must take effect.
fn applied<T: fmt::Debug>(result: WriteResult<T>) -> Result<T, String> {
    match result {
        Ok(Outcome::Applied(value)) => Ok(value),
        other => Err(format!("a write that must be applied gave {other:?}")),
    }
}

/// What stands there, after a write that must be rejected.
fn rejected<T: fmt::Debug>(result: WriteResult<T>) -> Result<Option<Entry>, String> {
    match result {
        Ok(Outcome::Rejected(current)) => Ok(current),
        other => Err(format!("a write that must be rejected gave {other:?}")),
    }
}

async fn read(store: &Store, key: &Key) -> Result<Option<Entry>, String> {
    store.get(key).await.map_err(|why| format!("reading {key:?} failed: {why}"))
}

/// Fails unless the key holds this value.
async fn holds(store: &Store, key: &Key, expected: &Value) -> Verdict {
    let found = read(store, key).await?.map(|entry| entry.value);
    ensure!(found.as_ref() == Some(expected), "{key:?} should hold {expected:?}, but holds {found:?}");
    Ok(())
}

/// Fails unless there is no value.
async fn is_absent(store: &Store, key: &Key) -> Verdict {
    let found = read(store, key).await?;
    ensure!(found.is_none(), "{key:?} should have no value, but holds {found:?}");
    Ok(())
}

/// Writes a value and checks that it stands there with the version that the write reported.
async fn set(store: &Store, key: &Key, value: &Value) -> Result<Version, String> {
    let version = applied(store.set(key, value.clone()).await)?;
    let found = read(store, key).await?;
    let expected = Some(Entry { value: value.clone(), version: version.clone() });
    ensure!(found == expected, "after a write of {expected:?}, {key:?} holds {found:?}");
    Ok(version)
}

/// Keys that a path, a URL or a comparison could get wrong, in no order.
fn nasty_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "a/b",
        "a/b/c",
        "a/",
        "/a",
        "/",
        "//",
        "a//b",
        ".",
        "..",
        "../x",
        "./x",
        "a/..",
        "a/../b",
        "~",
        "-",
        "+",
        " ",
        "a b",
        " a",
        "a ",
        "%",
        "%2F",
        "a%2Fb",
        "a+b",
        "a-2Fb",
        "kv",
        "ns",
        "tmp",
        ".lock",
        "ns/a/kv/b",
        "A",
        "Z",
        "z",
        "0",
        "9",
        "_",
        "=",
        "{",
        "\u{0}",
        "\n",
        "\"",
        "\\",
        "'",
        "a?b#c",
        "a&b=c",
        "caf\u{e9}",
        "cafe\u{301}",
        "\u{65e5}\u{672c}",
        "\u{1F600}",
        "\u{FFFD}",
        "null",
        "undefined",
    ]
    .map(String::from)
    .into();
    keys.push("k".repeat(200));
    keys.push("k".repeat(201));
    keys.push("k".repeat(256));
    keys.push("/".repeat(70));
    keys
}

/// The store may refuse a key for its length, if it says so.
fn too_long(error: &Error) -> bool {
    matches!(error, Error::Invalid { field: "key", .. })
}
