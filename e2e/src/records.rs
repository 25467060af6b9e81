//! Real input: the machine's own Debian package index, or a file of JSON lines, and checksums over it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

/// Fewer records would prove little.
pub const LEAST: usize = 50_000;

/// Records by key.
pub type Records = BTreeMap<String, Value>;

/// Records and where they came from.
#[derive(Debug)]
pub struct Input {
    /// In words.
    pub source: String,
    /// One per package.
    pub records: Records,
}

/// How many records there are, and a sum over them that does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// How many.
    pub count: u64,
    /// Sum of the hashes of all (key, value), modulo 2^64.
    pub sum: u64,
}

impl Checksum {
    /// Adds a record.
    pub fn add(&mut self, key: &str, value: &Value) {
        let mut text = Vec::with_capacity(1024);
        text.extend_from_slice(key.as_bytes());
        text.push(0);
        canonical(value, &mut text);
        self.count += 1;
        self.sum = self.sum.wrapping_add(xxh3_64(&text));
    }

    /// Over records.
    pub fn of<'a>(records: impl IntoIterator<Item = (&'a String, &'a Value)>) -> Self {
        let mut checksum = Self::default();
        for (key, value) in records {
            checksum.add(key, value);
        }
        checksum
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.sum)
    }
}

/// JSON with the members of objects in order of their names.
fn canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| name.as_str());
            out.push(b'{');
            for (name, member) in sorted {
                out.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
                out.push(b':');
                canonical(member, out);
                out.push(b',');
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        plain => out.extend_from_slice(plain.to_string().as_bytes()),
    }
}

/// The file that `DEMO_DATA` names, else the machine's package index.
pub fn input() -> anyhow::Result<Input> {
    let input = match std::env::var_os("DEMO_DATA") {
        Some(path) => from_file(Path::new(&path))?,
        None => from_package_index()?,
    };
    ensure!(
        input.records.len() >= LEAST,
        "{} has {} records; at least {LEAST} are needed. Name a file of JSON lines with DEMO_DATA=FILE",
        input.source,
        input.records.len()
    );
    Ok(input)
}

fn from_file(path: &Path) -> anyhow::Result<Input> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read DEMO_DATA={}", path.display()))?;
    let mut records = Records::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value =
            serde_json::from_str(line).with_context(|| format!("{}:{} is no JSON", path.display(), index + 1))?;
        records.insert(format!("record/{:08}", index + 1), value);
    }
    Ok(Input { source: path.display().to_string(), records })
}

fn from_package_index() -> anyhow::Result<Input> {
    let mut records = parse_packages(&dump_available()?);
    if records.len() < LEAST && is_root() {
        println!("  the machine's package lists are missing or old: apt-get update");
        run("apt-get", &["update", "-qq"])?;
        records = parse_packages(&dump_available()?);
    }
    Ok(Input { source: "this machine's Debian package index".into(), records })
}

fn dump_available() -> anyhow::Result<String> {
    let output = run("apt-cache", &["dumpavail"]).context(
        "this system has no Debian package index; name a file of JSON lines, one record each, with DEMO_DATA=FILE",
    )?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("can't run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

fn is_root() -> bool {
    run("id", &["-u"]).is_ok_and(|id| id == b"0\n")
}

/// One record per stanza of a Debian control file. A line that begins with a blank goes on with the field before it.
fn parse_packages(text: &str) -> Records {
    let mut records = Records::new();
    for stanza in text.split("\n\n") {
        let mut fields = Map::new();
        let mut current: Option<String> = None;
        for line in stanza.lines() {
            match (line.strip_prefix([' ', '\t']), line.split_once(':')) {
                (Some(more), _) => {
                    if let Some(Value::String(text)) = current.as_ref().and_then(|name| fields.get_mut(name)) {
                        text.push('\n');
                        text.push_str(more);
                    }
                }
                (None, Some((name, value))) => {
                    fields.insert(name.to_owned(), value.trim().into());
                    current = Some(name.to_owned());
                }
                (None, None) => {}
            }
        }
        let field = |name: &str| fields.get(name).and_then(Value::as_str);
        if let (Some(package), Some(version), Some(architecture)) =
            (field("Package"), field("Version"), field("Architecture"))
        {
            records.insert(format!("{package}/{version}/{architecture}"), fields.into());
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TWO: &str =
        "Package: a\nVersion: 1:2-3\nArchitecture: all\nTag: x,\n y\n\nPackage: b\nVersion: 1\nArchitecture: amd64\n\n";

    #[test]
    fn a_stanza_becomes_one_record_with_its_folded_lines() {
        let records = parse_packages(TWO);
        assert_eq!(records.len(), 2);
        assert_eq!(records["a/1:2-3/all"]["Tag"], "x,\ny");
    }

    #[test]
    fn the_checksum_sees_a_changed_value_a_swapped_key_and_a_missing_record_but_no_order() {
        let checksum = |records: &[(&str, Value)]| {
            let mut sum = Checksum::default();
            records.iter().for_each(|(key, value)| sum.add(key, value));
            sum
        };
        let whole = checksum(&[("a", json!({"x": 1, "y": 2})), ("b", json!(2))]);
        assert_eq!(whole, checksum(&[("b", json!(2)), ("a", json!({"y": 2, "x": 1}))]));
        assert_ne!(whole, checksum(&[("a", json!({"x": 1, "y": 3})), ("b", json!(2))]));
        assert_ne!(whole, checksum(&[("b", json!({"x": 1, "y": 2})), ("a", json!(2))]));
        assert_ne!(whole, checksum(&[("a", json!({"x": 1, "y": 2}))]));
    }
}
