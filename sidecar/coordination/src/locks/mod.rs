//! Named locks for applications, with fencing tokens (strategy Shared): the whole table is one document under
//! compare-and-swap, `metadata/locks/table.json`.
//!
//! - [`table`]: who holds what and who waits for whom; every decision, and none of the I/O.
//! - [`graph`]: cycles among those who wait.
//!
//! One document makes a set of locks one decision: all of it is taken or none, whoever waits for a set holds nothing of it,
//! and so requests that come at once can't lock each other out. A holder that asks for more while it holds something may
//! close a cycle; that is seen in the very step that would close it, in a graph that is whole. The price is one write at a
//! time for all locks of a cluster: they are for metadata and jobs, not for each request.
//!
//! A holder lives in a node's process, and is valid while that node's session is: so nothing is renewed here, and a holder
//! whose node is gone is seen by the rules of sessions (R1, R8).

mod graph;
mod table;
#[cfg(test)]
mod tests;

pub use table::{Ask, Asked, Cycle, HolderId, LockTable, LockView, MOST_HOLDERS, MOST_NAMES, Refusal, Waiting};
