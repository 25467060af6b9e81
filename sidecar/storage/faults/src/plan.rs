//! Which calls fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Call, Kind, Verdict};

/// Fails one call: the n-th of a kind, counted from 1.
#[derive(Debug)]
pub struct Nth {
    kind: Kind,
    left: u32,
    verdict: Verdict,
    hit: Option<Call>,
}

impl Nth {
    /// Nothing has failed yet.
    pub fn new(kind: Kind, nth: u32, verdict: Verdict) -> Self {
        Self { kind, left: nth, verdict, hit: None }
    }

    /// What is to become of the next call.
    pub fn judge(&mut self, call: &Call) -> Verdict {
        if call.kind() != self.kind || self.left == 0 {
            return Verdict::Pass;
        }
        self.left -= 1;
        if self.left > 0 {
            return Verdict::Pass;
        }
        self.hit = Some(call.clone());
        self.verdict
    }

    /// The call that it failed. `None`: there were not that many.
    pub fn hit(&self) -> Option<&Call> {
        self.hit.as_ref()
    }
}

/// Refuses every change from the n-th on, counted from 1, as a file system does that was mounted anew for reading only. What
/// was written before can be flushed: the kernel has done so itself.
#[derive(Debug)]
pub struct ReadOnly {
    left: u32,
    lifted: Arc<AtomicBool>,
    hit: bool,
}

impl ReadOnly {
    /// Until `lifted` is true.
    pub fn new(nth: u32, lifted: Arc<AtomicBool>) -> Self {
        Self { left: nth, lifted, hit: false }
    }

    /// What is to become of the next call.
    pub fn judge(&mut self, call: &Call) -> Verdict {
        if matches!(call.kind(), Kind::Sync | Kind::SyncFolder) {
            return Verdict::Pass;
        }
        self.left = self.left.saturating_sub(1);
        if self.left > 0 || self.lifted.load(Ordering::SeqCst) {
            return Verdict::Pass;
        }
        self.hit = true;
        Verdict::Fail(libc::EROFS)
    }

    /// Whether it refused anything.
    pub fn has_hit(&self) -> bool {
        self.hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> [Call; 4] {
        let at = |name: &str| name.into();
        [Call::Create(at("a")), Call::Write(at("a")), Call::Sync(at("a")), Call::Write(at("b"))]
    }

    #[test]
    fn one_call_of_one_kind_fails() {
        let mut plan = Nth::new(Kind::Write, 2, Verdict::Fail(libc::EIO));
        let verdicts = calls().map(|call| plan.judge(&call));
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Pass, Verdict::Pass, Verdict::Fail(libc::EIO)]);
        assert_eq!(plan.hit(), Some(&Call::Write("b".into())));
        assert_eq!(plan.judge(&calls()[1]), Verdict::Pass);
        let mut late = Nth::new(Kind::Write, 3, Verdict::Fail(libc::EIO));
        assert!(calls().iter().all(|call| late.judge(call) == Verdict::Pass) && late.hit().is_none());
    }

    #[test]
    fn from_one_call_on_all_are_refused_until_that_is_over() {
        let lifted = Arc::new(AtomicBool::new(false));
        let mut plan = ReadOnly::new(2, Arc::clone(&lifted));
        let refused = Verdict::Fail(libc::EROFS);
        assert_eq!(calls().map(|call| plan.judge(&call)), [Verdict::Pass, refused, Verdict::Pass, refused]);
        lifted.store(true, Ordering::SeqCst);
        assert_eq!(plan.judge(&calls()[0]), Verdict::Pass);
        assert!(plan.has_hit());
    }
}
