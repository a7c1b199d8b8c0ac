//! `Standings`: what the cluster says of objects that nobody serves by: their uid, and the status that controllers write.
//!
//! It is kept apart from the objects, so that a status which was written and comes back as a change is no change of the configuration.
//! Whoever writes to the cluster reads it here.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use tidegate_crd::{
    Object, ObjectRef,
    core::{Condition, ManagedFieldsEntry, ObjectMeta},
    ingress::IngressLoadBalancerIngress,
};
use tokio::sync::watch;

use crate::control::limits::MAX_FIELD_MANAGER;

/// Who writes, as `metadata.managedFields` calls every Tidegate.
pub const FIELD_MANAGER: &str = "tidegate";

/// Who writes statuses: all replicas of one installation, which is known by its Lease, and no other. What one installation wrote is not
/// another's to take back.
pub fn field_manager(namespace: &str, lease: &str) -> String {
    let name = format!("{FIELD_MANAGER}/{namespace}/{lease}");
    if name.len() <= MAX_FIELD_MANAGER {
        return name;
    }
    let digest = digest(&SHA256, name.as_bytes());
    format!("{FIELD_MANAGER}/{}", HEXLOWER.encode(digest.as_ref()))
}

/// How one object stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// `metadata.uid`: an object that is made anew under an old name has another.
    pub uid: Box<str>,
    /// Of an Ingress: the addresses in its status.
    pub addresses: Vec<IngressLoadBalancerIngress>,
    /// Of our own kinds: the conditions in its status.
    pub conditions: Vec<Condition>,
    /// Of a LoadBalancerPool: how many addresses its status says it has, and how many of them Services have.
    pub counts: Option<(i64, i64)>,
    /// Which installations of Tidegate wrote a part of its status, by their [`field_manager`].
    pub managers: Vec<Box<str>>,
}

impl Standing {
    /// Whether a part of its status was written by this installation, whichever replica it was.
    pub fn is_by(&self, manager: &str) -> bool {
        self.managers.iter().any(|one| **one == *manager)
    }

    /// Takes out of an object what is not to be compiled; `None` for kinds of which nobody asks.
    pub(super) fn take(object: &mut Object) -> Option<Self> {
        let metadata = object.metadata_mut();
        let uid = metadata.uid.take().unwrap_or_default().into();
        let managers = metadata.managed_fields.take().into_iter().flatten().filter_map(|entry| entry.manager);
        let managers = managers.map(String::into_boxed_str).collect();
        let mut standing = Self { uid, managers, ..Self::default() };
        match object {
            Object::Ingress(ingress) => {
                let balancer = ingress.status.take().and_then(|status| status.load_balancer);
                standing.addresses = balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
            }
            Object::IngressClassParameters(parameters) => {
                let conditions = parameters.status.take().and_then(|status| status.conditions);
                standing.conditions = conditions.unwrap_or_default();
            }
            Object::LoadBalancerPool(pool) => {
                let status = pool.status.take().unwrap_or_default();
                standing.conditions = status.conditions.unwrap_or_default();
                standing.counts = status.size.zip(status.allocated);
            }
            Object::IngressClass(_) | Object::Secret(_) | Object::Service(_) => {}
            Object::ConfigMap(_)
            | Object::EndpointSlice(_)
            | Object::Endpoints(_)
            | Object::Namespace(_)
            | Object::Node(_)
            | Object::Pod(_) => return None,
        }
        Some(standing)
    }
}

/// Leaves of an object's owners the installations of Tidegate, as far as the status goes.
pub(super) fn keep_ours(metadata: &mut ObjectMeta) {
    let is_ours = |entry: &ManagedFieldsEntry| {
        let rest = entry.manager.as_deref().and_then(|manager| manager.strip_prefix(FIELD_MANAGER));
        rest.is_some_and(|rest| rest.starts_with('/')) && entry.subresource.as_deref() == Some("status")
    };
    let ours = metadata.managed_fields.take().and_then(|mut entries| {
        entries.retain(is_ours);
        entries.iter_mut().for_each(|entry| entry.fields_v1 = None);
        (!entries.is_empty()).then_some(entries)
    });
    metadata.managed_fields = ours;
}

/// How the objects of a cluster stand.
#[derive(Debug, Default)]
pub struct Standings {
    held: Mutex<BTreeMap<ObjectRef, Standing>>,
    changed: watch::Sender<()>,
}

impl Standings {
    /// Reads them all at once.
    pub fn read<T>(&self, read: impl FnOnce(&BTreeMap<ObjectRef, Standing>) -> T) -> T {
        read(&self.held())
    }

    /// Hears of every change, until this is dropped.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Takes note of what was heard; `None`: the object is gone.
    pub(super) fn set(&self, heard: impl IntoIterator<Item = (ObjectRef, Option<Standing>)>) {
        let mut changed = false;
        let mut held = self.held();
        for (name, standing) in heard {
            match standing {
                Some(standing) if held.get(&name) == Some(&standing) => {}
                Some(standing) => {
                    held.insert(name, standing);
                    changed = true;
                }
                None => changed |= held.remove(&name).is_some(),
            }
        }
        drop(held);
        if changed {
            self.changed.send_replace(());
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<ObjectRef, Standing>> {
        // Whoever holds the lock only puts and takes whole standings.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_installation_has_a_field_manager_that_the_api_server_takes() {
        assert_eq!(field_manager("edge", "tidegate-leader"), "tidegate/edge/tidegate-leader");
        let long = |last: &str| field_manager(&"n".repeat(63), &("l".repeat(200) + last));
        assert!(long("a").len() <= MAX_FIELD_MANAGER && long("a") != long("b"), "{}", long("a"));
    }
}
