//! Conditional requests: what must hold of an object for it to be answered, written or removed.

use brainy_storage::object::Head;
use s3s::S3ErrorCode;
use s3s::dto::{ETag, ETagCondition, Timestamp};

use super::failure::{Answer, Failure};
use super::heads;

/// What must stand under a key for a write to take effect.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    /// Anything, or nothing.
    Anything,
    /// Nothing: `If-None-Match: *`.
    Nothing,
    /// An object, with this ETag if there is one: `If-Match`.
    Something(Option<ETag>),
}

impl Wanted {
    /// As the headers of a write say it.
    pub(super) fn of(if_match: Option<ETagCondition>, if_none_match: Option<ETagCondition>) -> Answer<Self> {
        match (if_match, if_none_match) {
            (None, None) => Ok(Self::Anything),
            (None, Some(ETagCondition::Any)) => Ok(Self::Nothing),
            (Some(ETagCondition::Any), None) => Ok(Self::Something(None)),
            (Some(ETagCondition::ETag(etag)), None) => Ok(Self::Something(Some(etag))),
            (None, Some(ETagCondition::ETag(_))) => Err(Failure::new(
                S3ErrorCode::NotImplemented,
                "If-None-Match takes only * when something is written: the key must not exist.",
            )),
            (Some(_), Some(_)) => Err(Failure::new(
                S3ErrorCode::InvalidArgument,
                "If-Match and If-None-Match can't both be asked for when something is written.",
            )),
        }
    }

    /// Whether an object is the one that is wanted.
    pub(super) fn is(etag: Option<&ETag>, head: &Head) -> bool {
        etag.is_none_or(|wanted| wanted.as_strong() == Some(&head.etag))
    }
}

/// What a reader asks of the object that it wants.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) modified_since: Option<Timestamp>,
    pub(super) unmodified_since: Option<Timestamp>,
}

/// Whether a reader gets an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does.
    Given,
    /// It has it already.
    NotModified,
    /// It is not the one that was asked for.
    Failed,
}

impl Asked {
    /// In the order of RFC 9110, section 13.2.2: tags are believed before times.
    pub(super) fn judge(&self, head: &Head) -> Verdict {
        let tag = &head.etag;
        let written = heads::to_the_second(head);
        match (&self.if_match, &self.unmodified_since) {
            (Some(ETagCondition::ETag(wanted)), _) if wanted.as_strong() != Some(tag) => return Verdict::Failed,
            (None, Some(since)) if written > *since => return Verdict::Failed,
            _ => {}
        }
        match (&self.if_none_match, &self.modified_since) {
            (Some(ETagCondition::Any), _) => Verdict::NotModified,
            (Some(ETagCondition::ETag(known)), _) if known.value() == tag => Verdict::NotModified,
            (None, Some(since)) if written <= *since => Verdict::NotModified,
            _ => Verdict::Given,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn head() -> Head {
        Head { etag: "aa".into(), modified: 100_500, ..Head::default() }
    }

    fn etag(text: &str) -> Option<ETagCondition> {
        Some(text.parse().unwrap())
    }

    fn at(seconds: u64) -> Option<Timestamp> {
        Some((SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).into())
    }

    #[test]
    fn a_reader_is_judged_by_tags_before_times() {
        let none = Asked::default;
        let cases = [
            (none(), Verdict::Given),
            (Asked { if_match: etag("\"aa\""), ..none() }, Verdict::Given),
            (Asked { if_match: etag("*"), ..none() }, Verdict::Given),
            (Asked { if_match: etag("\"bb\""), ..none() }, Verdict::Failed),
            (Asked { if_match: etag("W/\"aa\""), ..none() }, Verdict::Failed),
            (Asked { if_none_match: etag("\"aa\""), ..none() }, Verdict::NotModified),
            (Asked { if_none_match: etag("W/\"aa\""), ..none() }, Verdict::NotModified),
            (Asked { if_none_match: etag("\"bb\""), ..none() }, Verdict::Given),
            (Asked { if_none_match: etag("*"), ..none() }, Verdict::NotModified),
            (Asked { modified_since: at(99), ..none() }, Verdict::Given),
            (Asked { modified_since: at(100), ..none() }, Verdict::NotModified),
            (Asked { unmodified_since: at(100), ..none() }, Verdict::Given),
            (Asked { unmodified_since: at(99), ..none() }, Verdict::Failed),
            (Asked { if_match: etag("\"aa\""), unmodified_since: at(99), ..none() }, Verdict::Given),
            (Asked { if_none_match: etag("\"bb\""), modified_since: at(100), ..none() }, Verdict::Given),
            (Asked { if_match: etag("\"bb\""), if_none_match: etag("\"aa\""), ..none() }, Verdict::Failed),
        ];
        for (asked, verdict) in cases {
            assert_eq!(asked.judge(&head()), verdict, "{asked:?}");
        }
    }

    #[test]
    fn a_write_wants_one_thing() {
        assert_eq!(Wanted::of(None, None).unwrap(), Wanted::Anything);
        assert_eq!(Wanted::of(None, etag("*")).unwrap(), Wanted::Nothing);
        assert_eq!(Wanted::of(etag("*"), None).unwrap(), Wanted::Something(None));
        assert!(Wanted::of(None, etag("\"aa\"")).is_err() && Wanted::of(etag("*"), etag("*")).is_err());
        let is = |text: &str| Wanted::is(etag(text).unwrap().as_etag(), &head());
        assert!(is("\"aa\"") && is("*") && !is("\"bb\"") && !is("W/\"aa\""));
    }
}
