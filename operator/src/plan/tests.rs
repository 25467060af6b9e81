use brainy_coordination::bucket::spec::Pattern;

use super::*;

fn accepted() -> Accepted {
    Accepted {
        nodes: 3,
        pattern: Pattern::Leader,
        volume: Some("1Gi".into()),
        inputs: "spec-1".into(),
        template: "template-1".into(),
        approved: None,
    }
}

fn decided(wish: &Accepted, template_differs: bool, manual: bool, approved: Option<&str>) -> Decision {
    decide(&Facts { accepted: &accepted(), wish, template_differs, is_asleep: false, manual, approved })
}

fn by_spec() -> Accepted {
    Accepted { inputs: "spec-2".into(), template: "template-2".into(), ..accepted() }
}

fn by_operator() -> Accepted {
    Accepted { template: "template-9".into(), ..accepted() }
}

#[test]
fn where_nothing_changes_nothing_is_planned() {
    for manual in [false, true] {
        let decision = decided(&accepted(), false, manual, Some("an old one"));
        assert_eq!(decision, Decision { hold: Hold::Nothing, stands: accepted(), change: None });
    }
}

#[test]
fn a_template_that_another_version_only_writes_otherwise_is_noted_and_no_change() {
    for manual in [false, true] {
        let decision = decided(&by_operator(), false, manual, None);
        assert_eq!(decision, Decision { hold: Hold::Nothing, stands: by_operator(), change: None });
    }
}

#[test]
fn with_automatic_a_change_of_the_spec_is_carried_out_at_once() {
    let wish = Accepted { nodes: 5, volume: Some("2Gi".into()), ..by_spec() };
    let decision = decided(&wish, true, false, None);
    assert_eq!((decision.hold, &decision.stands), (Hold::Nothing, &wish));
    let change = decision.change.unwrap();
    assert!(change.approved && change.template && !change.by_operator);
    assert_eq!((change.nodes, change.volume), (Some((3, 5)), Some(("1Gi".into(), "2Gi".into()))));
}

#[test]
fn what_only_a_new_operator_changes_waits_also_with_automatic_and_the_rest_does_not() {
    let wish = Accepted { nodes: 5, ..by_operator() };
    let decision = decided(&wish, true, false, None);
    assert_eq!(decision.hold, Hold::Template);
    assert_eq!(decision.stands, Accepted { nodes: 5, ..accepted() }, "the nodes are given, the template is not");
    let change = decision.change.unwrap();
    assert!(!change.approved && change.by_operator && change.nodes.is_none());
    // The same hash whatever else the user changes meanwhile.
    let alone = decided(&by_operator(), true, false, None).change.unwrap();
    assert_eq!(alone.hash, change.hash);
    let approved = decided(&by_operator(), true, false, Some(&alone.hash));
    assert_eq!(approved.hold, Hold::Nothing);
    assert_eq!(approved.stands, Accepted { approved: Some(alone.hash), ..by_operator() });
}

#[test]
fn a_change_of_the_template_by_the_user_takes_a_new_operator_s_along() {
    let both = Accepted { inputs: "spec-2".into(), template: "template-29".into(), ..accepted() };
    let decision = decided(&both, true, false, None);
    assert_eq!((decision.hold, decision.stands), (Hold::Nothing, both));
}

#[test]
fn with_manual_every_change_waits_for_its_own_hash() {
    let changes = [
        (by_spec(), true),
        (by_operator(), true),
        (Accepted { nodes: 2, ..accepted() }, false),
        (Accepted { pattern: Pattern::Consensus, ..by_spec() }, true),
        (Accepted { volume: Some("2Gi".into()), ..accepted() }, false),
    ];
    let mut hashes = Vec::new();
    for (wish, template_differs) in &changes {
        let waiting = decided(wish, *template_differs, true, None);
        assert_eq!((waiting.hold, &waiting.stands), (Hold::Everything, &accepted()));
        let change = waiting.change.unwrap();
        assert!(!change.approved && change.drift.is_none());
        let approved = decided(wish, *template_differs, true, Some(&change.hash));
        assert_eq!(approved.hold, Hold::Nothing);
        assert_eq!(approved.stands, Accepted { approved: Some(change.hash.clone()), ..wish.clone() });
        hashes.push(change.hash);
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), changes.len());
}

#[test]
fn a_hash_that_no_longer_fits_is_refused_and_what_drifted_is_named() {
    let approved = decided(&by_spec(), true, true, None).change.unwrap().hash;
    let drift =
        |wish: &Accepted, approved: &str| decided(wish, true, true, Some(approved)).change.unwrap().drift.unwrap();
    let another = Accepted { inputs: "spec-3".into(), template: "template-3".into(), ..accepted() };
    assert_eq!(drift(&another, &approved), "changed since: the spec of the pods");
    let upgraded = Accepted { template: "template-3".into(), ..by_spec() };
    assert!(drift(&upgraded, &approved).contains("this operator"));
    let more = Accepted { nodes: 4, volume: Some("2Gi".into()), ..by_spec() };
    assert_eq!(drift(&more, &approved), "changed since: the number of nodes or the pattern, the size of the volumes");
    assert_eq!(drift(&by_spec(), "yes"), "it is no hash of a plan");
}

#[test]
fn an_approval_that_was_used_up_is_no_drift() {
    let first = decided(&by_spec(), true, true, None).change.unwrap().hash;
    let stands = decided(&by_spec(), true, true, Some(&first)).stands;
    let wish = Accepted { nodes: 7, ..stands.clone() };
    let facts = Facts {
        accepted: &stands,
        wish: &wish,
        template_differs: false,
        is_asleep: false,
        manual: true,
        approved: Some(&first),
    };
    let next = decide(&facts).change.unwrap();
    assert!(!next.approved && next.drift.is_none());
}

#[test]
fn an_approved_change_goes_on_whatever_becomes_of_the_approval() {
    let hash = decided(&by_spec(), true, true, None).change.unwrap().hash;
    let stands = decided(&by_spec(), true, true, Some(&hash)).stands;
    let facts = Facts {
        accepted: &stands,
        wish: &by_spec(),
        template_differs: false,
        is_asleep: false,
        manual: true,
        approved: None,
    };
    assert_eq!(decide(&facts).hold, Hold::Nothing);
}

#[test]
fn where_no_pod_is_to_be_a_new_operator_s_template_waits_for_nobody_but_manual() {
    let decided = |manual| {
        let (accepted, wish) = (accepted(), by_operator());
        let facts =
            Facts { accepted: &accepted, wish: &wish, template_differs: true, is_asleep: true, manual, approved: None };
        decide(&facts).hold
    };
    assert_eq!((decided(false), decided(true)), (Hold::Nothing, Hold::Everything));
}
