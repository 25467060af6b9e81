//! What the watches saw last of the objects that the operator applies: a mark per object, not the object. An apply is
//! skipped only when the object still carries the mark that the last apply left on it, so that a change by anybody else
//! is put right at once and a steady cluster costs no writes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::Event;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            kind: K::kind(&()).into_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// Tells one state of an object from every other: its UID, with its generation where it has one (a status does not
/// change it), or its resourceVersion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark(String);

impl Mark {
    /// The mark of an object as the API server returned it.
    pub fn of(meta: &ObjectMeta) -> Self {
        let uid = meta.uid.as_deref().unwrap_or_default();
        match meta.generation.filter(|generation| *generation > 0) {
            Some(generation) => Self(format!("{uid} generation {generation}")),
            None => Self(format!("{uid} version {}", meta.resource_version.as_deref().unwrap_or_default())),
        }
    }
}

/// The marks of all watched objects. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<HashMap<ObjectKey, Mark>>>);

impl Seen {
    /// The mark of an object; `None` where no watch has seen it, or a watch has just begun anew.
    pub fn mark(&self, key: &ObjectKey) -> Option<Mark> {
        self.locked(|marks| marks.get(key).cloned())
    }

    /// Notes an event of a watch on `scope` (a namespace; `None`: all).
    pub fn note<K: Resource<DynamicType = ()>>(&self, event: &Event<K>, scope: Option<&str>) {
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                self.locked(|marks| marks.insert(ObjectKey::of(object), Mark::of(object.meta())));
            }
            Event::Delete(object) => {
                self.locked(|marks| marks.remove(&ObjectKey::of(object)));
            }
            // What was deleted while the watch was down must not stay: forget all, and let the list bring back the rest.
            Event::Init => self.locked(|marks| {
                let kind = K::kind(&());
                marks.retain(|key, _| key.kind != kind || scope.is_some_and(|scope| scope != key.namespace));
            }),
            Event::InitDone => {}
        }
    }

    fn locked<T>(&self, act: impl FnOnce(&mut HashMap<ObjectKey, Mark>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    fn service(name: &str, version: &str) -> Service {
        Service {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("team".into()),
                uid: Some("u".into()),
                resource_version: Some(version.into()),
                ..ObjectMeta::default()
            },
            ..Service::default()
        }
    }

    #[test]
    fn a_change_by_anybody_else_changes_the_mark() {
        let seen = Seen::default();
        seen.note(&Event::Apply(service("a", "1")), None);
        let ours = seen.mark(&ObjectKey::of(&service("a", "1")));
        assert_eq!(ours, Some(Mark::of(&service("a", "1").metadata)));
        seen.note(&Event::Apply(service("a", "2")), None);
        assert_ne!(seen.mark(&ObjectKey::of(&service("a", "1"))), ours);
    }

    #[test]
    fn what_was_deleted_is_not_taken_for_present_also_when_the_watch_missed_it() {
        let seen = Seen::default();
        seen.note(&Event::Apply(service("a", "1")), None);
        seen.note(&Event::Apply(service("b", "1")), None);
        seen.note(&Event::Delete(service("a", "1")), None);
        assert_eq!(seen.mark(&ObjectKey::of(&service("a", "1"))), None);
        seen.note::<Service>(&Event::Init, Some("another"));
        assert!(seen.mark(&ObjectKey::of(&service("b", "1"))).is_some());
        seen.note::<Service>(&Event::Init, None);
        assert_eq!(seen.mark(&ObjectKey::of(&service("b", "1"))), None);
    }

    #[test]
    fn a_new_status_is_no_change_where_there_is_a_generation() {
        let mut one = service("a", "1").metadata;
        one.generation = Some(4);
        let mut other = one.clone();
        other.resource_version = Some("2".into());
        assert_eq!(Mark::of(&one), Mark::of(&other));
        other.generation = Some(5);
        assert_ne!(Mark::of(&one), Mark::of(&other));
    }
}
