//! How nodes get from one authority to another without refusing each other meanwhile. Pure.
//!
//! Nodes read their Secret when their kubelets get to it, one after the other. So they are first told to trust the new authority as well,
//! while they show the certificate that they have; then, when all have read that, they show one of the new authority; and when all
//! have read that, they trust the earlier one no more.

use std::time::Duration;

use jiff::Timestamp;

use crate::certificates;

/// What the nodes have, as their Secret says it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a> {
    /// The authorities that they trust, as PEM text.
    pub(super) trusted: &'a str,
    /// Whether the certificate that they show can still be used.
    pub(super) usable: bool,
    /// Whether the certificate that they show is the wanted one.
    pub(super) current: bool,
    /// How long this process has seen the Secret as it is.
    pub(super) seen_for: Duration,
}

/// What it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How long nodes have to read their Secret.
    pub(super) overlap: Duration,
    /// Whether all nodes are ready: one that is not may have read nothing for long.
    pub(super) everyone_ready: bool,
    /// Authorities that are over by now are trusted no more.
    pub(super) now: Timestamp,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All is as it should be.
    Nothing,
    /// The nodes are given this much longer to read their Secret.
    Wait(Duration),
    /// They trust these authorities, and show what they showed before.
    Trust(String),
    /// They trust these authorities, and show the wanted certificate.
    Show(String),
}

/// The next step towards a certificate of `authority`.
pub(super) fn next(shown: Option<Shown<'_>>, authority: &str, rules: Rules) -> Step {
    let bundle = || certificates::trust_bundle(authority, shown.map(|shown| shown.trusted), rules.now);
    let Some(shown) = shown.filter(|shown| shown.usable) else {
        // Nobody has anything that works. What works now is worth more than an order.
        return Step::Show(bundle());
    };
    let only_this = certificates::trust_bundle(authority, None, rules.now);
    let is_alone = certificates::same_authorities(shown.trusted, &only_this);
    let left = rules.overlap.saturating_sub(shown.seen_for);
    match (is_alone, shown.current) {
        (true, true) => Step::Nothing,
        // What it shows is of the same authority already.
        (true, false) => Step::Show(only_this),
        _ if !certificates::trusts(shown.trusted, authority) => Step::Trust(bundle()),
        _ if left > Duration::ZERO => Step::Wait(left),
        (false, false) => Step::Show(bundle()),
        (false, true) if rules.everyone_ready => Step::Trust(only_this),
        (false, true) => Step::Wait(rules.overlap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::{KeyedCertificate, new_authority, trust_bundle};

    const OVERLAP: Duration = Duration::from_secs(300);

    fn now() -> Timestamp {
        "2026-01-10T12:00:00Z".parse().unwrap()
    }

    fn authority() -> String {
        let KeyedCertificate { certificate, .. } = new_authority("demo", now()).unwrap();
        certificate
    }

    fn rules() -> Rules {
        Rules { overlap: OVERLAP, everyone_ready: true, now: now() }
    }

    fn shown(trusted: &str, current: bool, seen_for: Duration) -> Option<Shown<'_>> {
        Some(Shown { trusted, usable: true, current, seen_for })
    }

    #[test]
    fn no_node_shows_a_certificate_before_all_have_had_time_to_trust_its_authority() {
        let (first, second) = (authority(), authority());
        let Step::Trust(both) = next(shown(&first, false, OVERLAP * 9), &second, rules()) else {
            panic!("trust comes first")
        };
        assert!(certificates::trusts(&both, &first) && certificates::trusts(&both, &second));
        let soon = OVERLAP - Duration::from_secs(1);
        assert_eq!(next(shown(&both, false, soon), &second, rules()), Step::Wait(Duration::from_secs(1)));
        assert_eq!(next(shown(&both, false, OVERLAP), &second, rules()), Step::Show(both));
    }

    #[test]
    fn an_earlier_authority_is_trusted_until_all_nodes_have_had_time_to_show_the_new_certificate() {
        let (first, second) = (authority(), authority());
        let both = trust_bundle(&second, Some(&first), now());
        assert_eq!(next(shown(&both, true, Duration::ZERO), &second, rules()), Step::Wait(OVERLAP));
        let absent = Rules { everyone_ready: false, ..rules() };
        assert_eq!(next(shown(&both, true, OVERLAP), &second, absent), Step::Wait(OVERLAP), "a node may be behind");
        let only = trust_bundle(&second, None, now());
        assert_eq!(next(shown(&both, true, OVERLAP), &second, rules()), Step::Trust(only.clone()));
        assert_eq!(next(shown(&only, true, Duration::ZERO), &second, rules()), Step::Nothing);
    }

    #[test]
    fn a_new_certificate_of_the_same_authority_is_shown_at_once() {
        let only = authority();
        assert!(matches!(next(shown(&only, false, Duration::ZERO), &only, rules()), Step::Show(_)));
    }

    #[test]
    fn where_nothing_that_works_is_shown_nobody_is_waited_for() {
        let (first, second) = (authority(), authority());
        assert_eq!(next(None, &second, rules()), Step::Show(trust_bundle(&second, None, now())));
        let over = Shown { trusted: &first, usable: false, current: false, seen_for: Duration::ZERO };
        let Step::Show(both) = next(Some(over), &second, rules()) else { panic!("shown at once") };
        assert!(certificates::trusts(&both, &first), "nodes that have not read it are still trusted");
    }

    #[test]
    fn an_authority_with_several_certificates_is_trusted_when_all_of_them_are() {
        let (first, second) = (authority(), authority());
        let pair = format!("{first}{second}");
        assert!(matches!(next(shown(&first, false, OVERLAP), &pair, rules()), Step::Trust(_)));
        assert_eq!(next(shown(&pair, true, Duration::ZERO), &pair, rules()), Step::Nothing);
    }
}
