//! What a region keeps for a key, pure: a value, or that it was removed, with the stamp of the write. It is the same in every
//! region, and value and journal in one: what its own region has written since all others had everything is known by its
//! stamp.
//!
//! ```text
//! 1 byte format, 1 byte length, region, envelope (whose revision is the time of the stamp, and whose nonce its mark)
//! ```
//!
//! Two records of a key make one, [`Record::join`], in whatever order and however often: the later write, which remembers
//! what operations either has seen. Only this layer writes values of this kind, and keeps them apart from everything else.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::stamp::Stamp;
use crate::layers::behind::Sealed;
use crate::performed::Performed;
use crate::{Entry, Error, Key, Value};

const FORMAT: u8 = 1;
/// Longest name of a region, in bytes.
pub(super) const MAX_REGION_BYTES: usize = 63;

/// A write of a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// Of whom has written.
    pub(super) region: Arc<str>,
    sealed: Sealed,
}

impl Record {
    /// A write of a value; `None` removes it.
    pub(super) fn new(
        key: &Key,
        (time, region): (u64, &Arc<str>),
        value: Option<&Value>,
        performed: Performed,
    ) -> Result<Self, Error> {
        Ok(Self { region: Arc::clone(region), sealed: Sealed::new(key, time, value, performed)? })
    }

    /// The time of its stamp.
    pub(super) fn time(&self) -> u64 {
        self.sealed.revision()
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp { time: self.time(), region: Arc::clone(&self.region), mark: self.sealed.nonce().to_owned() }
    }

    /// Which write of a key stands: the greater one.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let by = |record: &Self| (record.time(), Arc::clone(&record.region));
        by(self).cmp(&by(other)).then_with(|| self.sealed.nonce().cmp(other.sealed.nonce()))
    }

    pub(super) fn performed(&self) -> &Performed {
        self.sealed.performed()
    }

    /// It stands for a value that was removed.
    pub(super) fn is_removal(&self) -> bool {
        self.sealed.is_removal()
    }

    /// The value with the version that clients know: the same in whichever region it is found.
    pub(super) fn entry(&self) -> Option<Entry> {
        self.sealed.entry()
    }

    /// How many bytes it takes.
    pub(super) fn bytes(&self) -> u64 {
        (self.sealed.bytes.len() + self.region.len() + 2) as u64
    }

    /// What becomes of this one where another one stands; `None`: what stands there says all of it already.
    pub(super) fn join(&self, key: &Key, stands: &Self) -> Result<Option<Self>, Error> {
        let (later, earlier) = if self.order(stands).is_gt() { (self, stands) } else { (stands, self) };
        let performed = match later.is_removal() {
            // A removal forgets them.
            true => Performed::default(),
            false => later.performed().after(earlier.performed()),
        };
        let is_known = performed == *later.performed();
        if is_known {
            return Ok((!std::ptr::eq(later, stands)).then(|| later.clone()));
        }
        Ok(Some(Self { region: Arc::clone(&later.region), sealed: later.sealed.remembering(key, performed)? }))
    }

    /// As a region keeps it.
    pub(super) fn to_value(&self) -> Value {
        let mut bytes = BytesMut::with_capacity(2 + self.region.len() + self.sealed.bytes.len());
        bytes.put_u8(FORMAT);
        // Names are checked where they enter.
        bytes.put_u8(u8::try_from(self.region.len()).unwrap_or(u8::MAX));
        bytes.put_slice(self.region.as_bytes());
        bytes.put_slice(&self.sealed.bytes);
        Value::Bytes(bytes.freeze())
    }

    pub(super) fn from_value(key: &Key, value: Value) -> Result<Self, Error> {
        let foreign = || Error::Corrupt { key: key.to_string(), problem: "it is no record of a region".to_owned() };
        let Value::Bytes(bytes) = value else { return Err(foreign()) };
        let (region, rest) = parse(&bytes).ok_or_else(foreign)?;
        Ok(Self { region, sealed: Sealed::open(key, bytes.slice(rest..))? })
    }
}

/// The region, and where the envelope begins.
fn parse(bytes: &[u8]) -> Option<(Arc<str>, usize)> {
    let (&[format, length], rest) = bytes.split_first_chunk::<2>()?;
    let (region, _) = rest.split_at_checked(usize::from(length))?;
    let region = std::str::from_utf8(region).ok().filter(|region| !region.is_empty())?;
    (format == FORMAT).then(|| (region.into(), 2 + usize::from(length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn key() -> Key {
        Key::new("k").unwrap()
    }

    fn record(time: u64, region: &str, mark: &str, value: Option<i64>) -> Record {
        let (region, value) = (region.into(), value.map(|n| Value::Json(json!(n))));
        let mark = format!("{mark:0>32}");
        let sealed = Sealed::with_nonce(&key(), time, mark, value.as_ref(), Performed::default()).unwrap();
        Record { region, sealed }
    }

    /// What stands after the records came in this order.
    fn after(records: &[Record]) -> Option<Record> {
        records.iter().fold(None, |stands, record| match stands {
            None => Some(record.clone()),
            Some(stands) => Some(record.join(&key(), &stands).unwrap().unwrap_or(stands)),
        })
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        for record in [record(7, "eu-west", "1", Some(0)), record(7, "a", "1", None)] {
            assert_eq!(Record::from_value(&key(), record.to_value()).unwrap(), record);
            let Value::Bytes(bytes) = record.to_value() else { panic!("no bytes") };
            assert_eq!(bytes.len() as u64, record.bytes());
            for length in 0..bytes.len() {
                assert!(Record::from_value(&key(), Value::Bytes(bytes.slice(..length))).is_err(), "cut to {length}");
            }
            assert!(Record::from_value(&Key::new("other").unwrap(), record.to_value()).is_err() || record.is_removal());
        }
        assert!(Record::from_value(&key(), Value::Json(json!(1))).is_err());
    }

    #[test]
    fn a_later_removal_hides_a_value_and_an_earlier_one_does_not() {
        let (value, removal) = (record(5, "a", "1", Some(1)), record(6, "a", "1", None));
        assert!(after(&[value.clone(), removal.clone()]).unwrap().is_removal());
        assert!(after(&[removal.clone(), value.clone()]).unwrap().is_removal());
        let newer = record(7, "a", "1", Some(2));
        assert_eq!(after(&[removal, newer.clone(), value]), Some(newer));
    }

    fn any_record() -> impl Strategy<Value = Record> {
        // Few of each, so that many are equal in one and differ in the next.
        (1..4_u64, "[ab]", "[12]").prop_map(|(time, region, mark)| {
            // A write has one value: it follows from its stamp.
            record(time, &region, &mark, (time != 2).then_some(i64::from(mark == "1")))
        })
    }

    proptest! {
        /// Any order, any repetition: the same stands, and it is the greatest.
        #[test]
        fn the_greatest_stands_in_whatever_order_they_come(
            records in prop::collection::vec(any_record(), 1..8),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..16),
        ) {
            let mut shuffled: Vec<Record> = order.iter().map(|index| index.get(&records).clone()).collect();
            shuffled.extend(records.iter().rev().cloned());
            let greatest = records.iter().max_by(|a, b| a.order(b)).unwrap();
            prop_assert_eq!(after(&records), Some(greatest.clone()));
            prop_assert_eq!(after(&shuffled), Some(greatest.clone()));
            prop_assert!(greatest.join(&key(), greatest).unwrap().is_none());
        }
    }
}
