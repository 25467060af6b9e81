//! Whole clusters in one process: the real runtimes over documents in memory, a controller that decides as the operator's
//! does, and clients that write all the time and check what they are told.

mod cluster;
mod consensus;
mod controllers;
mod isolated;
mod links;
mod namespaced;
mod native;
mod objects;
mod peers;
mod regions;
mod requests;
mod shared;
mod table;
