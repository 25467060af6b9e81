//! What of a spec is carried out now, and what waits. Pure.
//!
//! The StatefulSet carries, as an annotation, what was [accepted](Accepted) last: how many nodes, which pattern, how large
//! volumes, and from what its pod template was made. Nothing else tells a change of the spec from one that a new operator alone
//! brings about, and nothing else says by what a cluster goes while a change waits.

mod accepted;
pub mod fields;

use xxhash_rust::xxh3::xxh3_64;

pub use accepted::{ANNOTATION, Accepted, Live, template_inputs};

/// What is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    Nothing,
    /// The pod template, with the nodes' configuration.
    Template,
    /// Whatever restarts pods, grows volumes, or changes the number of nodes or the pattern.
    Everything,
}

/// What is decided from.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// What was accepted last, as the StatefulSet says.
    pub accepted: &'a Accepted,
    /// What the spec wants, and this operator would make of it.
    pub wish: &'a Accepted,
    /// Whether the pod template would be another one: not merely written by another version.
    pub template_differs: bool,
    /// No pod is there, and none is to be: whatever the template, it restarts nothing.
    pub is_asleep: bool,
    /// Every change waits for an approval.
    pub manual: bool,
    /// The hash that is approved.
    pub approved: Option<&'a str>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is held back.
    pub hold: Hold,
    /// What the StatefulSet must say was accepted, before anything is done.
    pub stands: Accepted,
    /// The change, where there is one that restarts pods, grows volumes, or changes the number of nodes or the pattern.
    pub change: Option<Change>,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Stands for all that it was made from.
    pub hash: String,
    /// Whether it is carried out.
    pub approved: bool,
    /// What is not as it was when `approvedPlan` was right, in words.
    pub drift: Option<String>,
    /// The pod template changes.
    pub template: bool,
    /// It changes because of a new operator alone.
    pub by_operator: bool,
    /// The number of nodes, before and after.
    pub nodes: Option<(i32, i32)>,
    /// The pattern changes to this one.
    pub pattern: Option<String>,
    /// The volumes' size, before and after.
    pub volume: Option<(String, String)>,
}

/// Decides.
pub fn decide(facts: &Facts<'_>) -> Decision {
    let (accepted, wish) = (facts.accepted, facts.wish);
    let by_operator = facts.template_differs && accepted.inputs == wish.inputs && !facts.is_asleep;
    let is_change = facts.template_differs
        || accepted.nodes != wish.nodes
        || accepted.pattern != wish.pattern
        || accepted.volume != wish.volume;
    // Of a template that comes out the same it is of no matter what it was made from.
    let unchanged = match facts.template_differs {
        true => accepted.clone(),
        false => Accepted { inputs: wish.inputs.clone(), template: wish.template.clone(), ..accepted.clone() },
    };
    if !is_change {
        return Decision { hold: Hold::Nothing, stands: unchanged, change: None };
    }
    let parts = Parts::of(facts);
    let hash = parts.text();
    let is_approved = facts.approved == Some(hash.as_str());
    let waits = !is_approved && (by_operator || facts.manual);
    let mut change = Change {
        approved: !waits,
        drift: None,
        template: facts.template_differs,
        by_operator,
        nodes: (accepted.nodes != wish.nodes).then_some((accepted.nodes, wish.nodes)),
        pattern: (accepted.pattern != wish.pattern).then(|| format!("{:?}", wish.pattern)),
        volume: (accepted.volume != wish.volume).then(|| {
            let size = |of: &Accepted| of.volume.clone().unwrap_or_else(|| "none".into());
            (size(accepted), size(wish))
        }),
        hash,
    };
    if !waits {
        let approved = if is_approved { Some(change.hash.clone()) } else { accepted.approved.clone() };
        return Decision { hold: Hold::Nothing, stands: Accepted { approved, ..wish.clone() }, change: Some(change) };
    }
    // The approval of an earlier plan that was carried out says nothing about this one.
    let other = facts.approved.filter(|approved| accepted.approved.as_deref() != Some(*approved));
    change.drift = other.map(|approved| parts.drift_from(approved));
    if facts.manual {
        return Decision { hold: Hold::Everything, stands: unchanged, change: Some(change) };
    }
    // The rest is the user's own wish.
    let stands = Accepted {
        inputs: accepted.inputs.clone(),
        template: accepted.template.clone(),
        approved: accepted.approved.clone(),
        ..wish.clone()
    };
    change.nodes = None;
    change.pattern = None;
    change.volume = None;
    Decision { hold: Hold::Template, stands, change: Some(change) }
}

/// The same while a cluster is paused: it goes by what was accepted, whatever the spec wants.
pub fn paused(accepted: Accepted) -> Decision {
    Decision { hold: Hold::Everything, stands: accepted, change: None }
}

/// The parts of a plan's hash: what has drifted can be told from an earlier hash alone.
struct Parts([(&'static str, Option<u64>); 4]);

impl Parts {
    fn of(facts: &Facts<'_>) -> Self {
        let (accepted, wish) = (facts.accepted, facts.wish);
        let hash = |from: &str, to: &str| xxh3_64(format!("{from}\n{to}").as_bytes());
        let nodes = |of: &Accepted| format!("{} {:?}", of.nodes, of.pattern);
        let size = |of: &Accepted| of.volume.clone().unwrap_or_default();
        let template = |from: &str, to: &str| facts.template_differs.then(|| hash(from, to));
        // With Automatic only the template waits: the rest comes and goes without it.
        let held = |is_other: bool, from: &str, to: &str| (facts.manual && is_other).then(|| hash(from, to));
        let is_moved = (accepted.nodes, accepted.pattern) != (wish.nodes, wish.pattern);
        Self([
            ("the spec of the pods", template(&accepted.inputs, &wish.inputs)),
            (
                "what this operator makes of it (its version or the sidecar's image)",
                template(&accepted.template, &wish.template),
            ),
            ("the number of nodes or the pattern", held(is_moved, &nodes(accepted), &nodes(wish))),
            ("the size of the volumes", held(accepted.volume != wish.volume, &size(accepted), &size(wish))),
        ])
    }

    fn text(&self) -> String {
        let part =
            |(_, hash): &(&str, Option<u64>)| hash.map_or_else(|| "0".to_owned(), |hash| format!("{:06x}", hash >> 40));
        self.0.iter().map(part).collect::<Vec<_>>().join("-")
    }

    fn drift_from(&self, approved: &str) -> String {
        let (now, then) = (self.text(), approved.split('-').collect::<Vec<_>>());
        if then.len() != self.0.len() {
            return "it is no hash of a plan".into();
        }
        let changed: Vec<usize> =
            now.split('-').zip(&then).enumerate().filter(|(_, (now, then))| now != *then).map(|(at, _)| at).collect();
        // Another spec makes another template: the operator is named only where the spec is the same.
        let named = changed.iter().filter(|at| **at != 1 || !changed.contains(&0));
        let named: Vec<&str> = named.map(|at| self.0[*at].0).collect();
        format!("changed since: {}", named.join(", "))
    }
}

#[cfg(test)]
mod tests;
