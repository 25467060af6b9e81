//! How a group begins, and how its members follow the wanted nodes.
//!
//! **It begins once.** Only the first wanted node founds a group, and only where its own member is blank and every other node
//! that is to be a member has just pledged its own blank one to the new group, by name. One whose log is not blank never
//! does: then there is a group already, and whoever has lost its volume waits to be taken in. Where all volumes of a group
//! are lost there is nothing left to be true to, and another one begins.
//!
//! **It can't begin twice.** A member of a node that was asked twice follows the later pledge, while it is blank. Of two
//! groups that were founded over the same nodes (the founder lost its volume in between) one lacks its founder for good,
//! so each needs a member that the other needs as well, and that one has given its word to one of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use brainy_storage::chance;
use futures::future::join_all;
use openraft::{ChangeMembers, RaftMetrics, ServerState};
use tokio::time::Instant;

use super::group::{Group, Instance};
use super::membership::{Change, Progress, Sight, electorate, next};
use super::wire::{Answer, Ask, Question, Unanswered};
use super::{Member, MemberId, Raft};
use crate::bucket::spec::{self, ClusterSpec};
use crate::{NodeId, names};

/// A member that lacks no more of the log than this has caught up.
const LAG: u64 = 100;
/// A change of the members takes two rounds of the group, and a new one may still have to catch up.
const CHANGE: Duration = Duration::from_secs(10);
/// In times of the group's patience: so long without a leader, a member asks whether it still is one.
const LEADERLESS: u32 = 4;
/// And so long without an answer, a learner is lost.
const LOST: u32 = 20;

/// What is remembered between two looks.
#[derive(Debug, Default)]
struct Memory {
    /// Since when which learners have been silent.
    silent: HashMap<MemberId, Instant>,
    /// The generation that stands in the group's spec at least.
    generation: Option<i64>,
}

/// Looks again and again.
pub(super) async fn run(group: &Arc<Group>) {
    let mut memory = Memory::default();
    loop {
        let problem = look(group, &mut memory).await.err();
        group.problem.send_if_modified(|known| {
            let is_news = *known != problem;
            if let (true, Some(why)) = (is_news, &problem) {
                tracing::warn!(node = %group.settings.node, why, "no part in the group yet");
            }
            *known = problem;
            is_news
        });
        tokio::time::sleep(group.settings.pace.patience / 2).await;
    }
}

/// What a look goes by.
struct Sighted {
    member: MemberId,
    pledged: Option<String>,
    blank: bool,
    silence: Duration,
    raft: Raft,
    metrics: RaftMetrics<MemberId, Member>,
}

async fn look(group: &Arc<Group>, memory: &mut Memory) -> Result<(), String> {
    let sighted = open(group).await?;
    if let Err(fatal) = &sighted.metrics.running_state {
        // What it knew is read again from the disk.
        group.shut_down().await;
        return Err(format!("the group's member stopped, and is started again: {fatal}"));
    }
    if sighted.blank {
        return begin(group, &sighted).await;
    }
    if sighted.metrics.state == ServerState::Leader {
        return lead(group, &sighted, memory).await;
    }
    memory.silent.clear();
    match sighted.silence > group.settings.pace.patience * LEADERLESS {
        true => ask_standing(group, &sighted).await,
        false => Ok(()),
    }
}

async fn open(group: &Arc<Group>) -> Result<Sighted, String> {
    let mut present = group.present.write().await;
    if present.is_none() {
        let failed = |error| {
            let folder = group.settings.folder.display();
            format!(
                "{folder} can't be used: {error}. If that can't be mended, remove the folder: this node then joins anew"
            )
        };
        *present = Some(group.open().await.map_err(failed)?);
    }
    let sight = |instance: &Instance| {
        let identity = instance.identity();
        Sighted {
            member: identity.member,
            pledged: identity.group,
            blank: instance.log.is_blank(),
            silence: instance.silence(),
            raft: instance.raft.clone(),
            metrics: instance.raft.metrics().borrow().clone(),
        }
    };
    present.as_ref().map(sight).ok_or_else(|| "the group's member is not open".to_owned())
}

/// Asks other nodes, all at once.
async fn ask_all(group: &Group, nodes: &[NodeId], ask: Ask) -> Vec<(NodeId, Result<Answer, Unanswered>)> {
    let question = Question { cluster: group.settings.cluster.clone(), ask };
    let others = nodes.iter().filter(|node| **node != group.settings.node);
    join_all(others.map(|node| async { (node.clone(), group.settings.transport.ask(node, &question).await) })).await
}

/// A member that is in no group: is taken in by one, or begins one.
async fn begin(group: &Arc<Group>, sighted: &Sighted) -> Result<(), String> {
    let Some(spec) = group.settings.wish.spec() else {
        return Err("it is not known which nodes are wanted".into());
    };
    let electorate = electorate(&spec.nodes);
    if !electorate.contains(&group.settings.node) {
        return Ok(());
    }
    let (member, node) = (sighted.member, Member { node: group.settings.node.clone() });
    let join = |group| Ask::Join { group, member, node: node.clone() };
    for (_, answer) in ask_all(group, electorate, join(sighted.pledged.clone())).await {
        match answer {
            Ok(Answer::Joined) => return Ok(()),
            Ok(Answer::InGroup { group: there }) => {
                // It has a leader that a majority follows. The next look joins.
                return match group.pledge(there).await {
                    Answer::Pledged { .. } => Ok(()),
                    other => Err(format!("this node could not pledge itself: {other:?}")),
                };
            }
            _ => {}
        }
    }
    match electorate.first() == Some(&group.settings.node) {
        true => found(group, sighted, &spec).await,
        false => Err("waiting to be taken into the nodes' group".into()),
    }
}

async fn found(group: &Arc<Group>, sighted: &Sighted, spec: &ClusterSpec) -> Result<(), String> {
    let new = chance::mark();
    let mut members = BTreeMap::from([(sighted.member, Member { node: group.settings.node.clone() })]);
    for (node, answer) in ask_all(group, electorate(&spec.nodes), Ask::Pledge { group: new.clone() }).await {
        match answer {
            Ok(Answer::Pledged { member }) => {
                members.insert(member, Member { node });
            }
            Ok(Answer::InGroup { group }) => {
                return Err(format!(
                    "node {node} is in group {group} already, which has no leader: waiting to be taken in"
                ));
            }
            Ok(other) => return Err(format!("waiting for node {node} before the nodes' group begins: {other:?}")),
            Err(error) => return Err(format!("waiting for node {node} before the nodes' group begins: {error}")),
        }
    }
    match group.pledge(new.clone()).await {
        Answer::Pledged { member } if member == sighted.member => {}
        other => return Err(format!("this node could not pledge itself: {other:?}")),
    }
    tracing::info!(group = new, members = members.len(), "founding the nodes' group");
    sighted.raft.initialize(members).await.map_err(|error| format!("the nodes' group could not begin: {error}"))
}

/// A member that has not heard of a leader for long may be none any more.
async fn ask_standing(group: &Arc<Group>, sighted: &Sighted) -> Result<(), String> {
    let (Some(spec), Some(pledged)) = (group.settings.wish.spec(), sighted.pledged.clone()) else {
        return Err("the nodes' group has no leader".into());
    };
    let mut why = "the nodes' group has no leader: a majority of its members is needed".to_owned();
    let ask = Ask::Standing { group: pledged, member: sighted.member };
    for (node, answer) in ask_all(group, electorate(&spec.nodes), ask).await {
        match answer {
            Ok(Answer::Standing { member: true }) => return Ok(()),
            Ok(Answer::Standing { member: false }) => {
                tracing::info!(node = %group.settings.node, "this member was removed: the next one is another");
                return group.forget(sighted.member).await.map_err(|error| error.to_string());
            }
            Ok(Answer::Refused(refusal)) => why = format!("{why}; node {node}: {refusal}"),
            _ => {}
        }
    }
    Err(why)
}

async fn lead(group: &Arc<Group>, sighted: &Sighted, memory: &mut Memory) -> Result<(), String> {
    publish_wish(group, memory).await?;
    let Some(there) = group.present.read().await.as_ref().and_then(|there| there.machine.read(names::SPEC)) else {
        return Ok(());
    };
    let spec: ClusterSpec =
        serde_json::from_str(&there.body).map_err(|error| format!("{} can't be read: {error}", names::SPEC))?;
    let membership = sighted.metrics.membership_config.membership();
    let change = match membership.get_joint_config().len() > 1 {
        // A leader before this one has begun it.
        true => Some((ChangeMembers::AddVoterIds([].into()), true)),
        false => next(&spec.nodes, &sights(&sighted.metrics, group.settings.pace.patience, memory)).map(|change| {
            tracing::info!(?change, "changing the members of the nodes' group");
            match change {
                Change::Voters { voters, retain } => (ChangeMembers::ReplaceAllVoters(voters), retain),
                Change::Remove(member) => (ChangeMembers::RemoveNodes([member].into()), true),
            }
        }),
    };
    let Some((change, retain)) = change else {
        return Ok(());
    };
    match tokio::time::timeout(CHANGE, sighted.raft.change_membership(change, retain)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("the members of the nodes' group could not be changed: {error}")),
        Err(_) => Err("the members of the nodes' group could not be changed in time".into()),
    }
}

/// What was wished of this node may be newer than what the group knows: there may be no operator to tell it.
async fn publish_wish(group: &Arc<Group>, memory: &mut Memory) -> Result<(), String> {
    let Some(wish) = group.settings.wish.spec() else {
        return Ok(());
    };
    if memory.generation.is_some_and(|known| known >= wish.generation) {
        return Ok(());
    }
    let there = spec::find(&group.client).await.map_err(|error| error.to_string())?;
    let generation = match there.filter(|there| there.cluster == wish.cluster) {
        Some(there) if there.generation >= wish.generation => there.generation,
        _ => {
            let generation = wish.generation;
            let published = spec::publish(&group.client, wish, &mut spec::Memory::default()).await;
            published.map_err(|error| error.to_string())?;
            generation
        }
    };
    memory.generation = Some(generation);
    Ok(())
}

fn sights(
    metrics: &RaftMetrics<MemberId, Member>,
    patience: Duration,
    memory: &mut Memory,
) -> BTreeMap<MemberId, Sight> {
    let membership = metrics.membership_config.membership();
    let agreed = metrics.membership_config.log_id().map(|agreed| agreed.index);
    let voters: Vec<MemberId> = membership.voter_ids().collect();
    let mut sights = BTreeMap::new();
    for (id, member) in membership.nodes() {
        let matched = metrics.replication.as_ref().and_then(|all| *all.get(id)?).map(|matched| matched.index);
        let progress = match matched {
            Some(matched) if Some(matched) >= agreed => {
                memory.silent.remove(id);
                let lag = metrics.last_log_index.unwrap_or_default().saturating_sub(matched);
                if lag <= LAG { Progress::CaughtUp } else { Progress::Behind }
            }
            _ => {
                let silent = memory.silent.entry(*id).or_insert_with(Instant::now).elapsed();
                if silent > patience * LOST { Progress::Lost } else { Progress::Silent }
            }
        };
        sights.insert(*id, Sight { node: member.node.clone(), voter: voters.contains(id), progress });
    }
    memory.silent.retain(|id, _| sights.contains_key(id));
    sights
}
