//! The rules of leases, without clock or I/O. Time is microseconds of one clock.
//!
//! A session *claims* a place. A user's claims are ranked by start, newest first; those with a rank below the limit
//! may *hold* a place, the others are to end. A place that is held stays taken until its holder lets go or its lease
//! runs out, so there are never more holders than places: a new session waits for the one that it replaces.
//!
//! | State of a claim | Becomes | When |
//! | --- | --- | --- |
//! | none | waiting | first asked for |
//! | waiting | holding, with a new epoch | a place is free and its rank is below the limit |
//! | waiting | none | newer claims fill the limit, it is given up, or its lease runs out |
//! | holding | none | it is released, or its lease runs out |
//!
//! Claiming a session that is held (another connection resumes it) waits for the holder like anybody else, but takes no
//! second place. The epoch fences: whoever held before and slept through the end of the lease can neither renew nor release.

use std::collections::{BTreeSet, HashMap};

/// Most claims of one user that wait. Beyond, the newest is refused at once.
pub(in crate::limit) const MAX_WAITING: usize = 64;

/// What there may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::limit) struct Caps {
    pub(in crate::limit) per_user: u32,
    pub(in crate::limit) per_tenant: Option<u32>,
    pub(in crate::limit) total: Option<u32>,
    /// Refuse new sessions rather than end old ones.
    pub(in crate::limit) reject: bool,
    /// How long a claim lives without news, in microseconds.
    pub(in crate::limit) ttl: u64,
}

/// Whose session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::limit) struct Owner {
    pub(in crate::limit) user: String,
    pub(in crate::limit) tenant: Option<String>,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::limit) enum Claimed {
    /// The place is held.
    Held { epoch: u64 },
    /// Ask again when one of these has ended, in time for the lease.
    Waiting { evicted: Vec<String> },
    /// There is no place.
    Refused(super::NoPlace),
}

/// What came of a renewal.
#[cfg(any(test, feature = "redis"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::limit) enum Renewed {
    /// The place is held for another lease.
    Held,
    /// Newer sessions fill the limit: end, then release. Not extended.
    Evicted,
    /// The session is held under another epoch.
    Superseded,
    /// There is no such claim: the lease ran out.
    Unknown,
}

#[derive(Debug, Default)]
pub(in crate::limit) struct LeaseTable {
    claims: HashMap<String, Claim>,
    /// A user's claims by start.
    by_user: HashMap<String, BTreeSet<(u64, String)>>,
    /// Holders per tenant; tenants without are not in it.
    tenants: HashMap<String, u32>,
    holders: u32,
    deadlines: BTreeSet<(u64, String)>,
    epoch: u64,
}

#[derive(Debug)]
struct Claim {
    owner: Owner,
    start: u64,
    deadline: u64,
    /// Absent while waiting.
    epoch: Option<u64>,
}

impl LeaseTable {
    /// Claims a place for the session `id`, or asks again for one. `age`: how long ago the session began, zero for a new one.
    pub(in crate::limit) fn claim(
        &mut self,
        id: &str,
        owner: &Owner,
        caps: &Caps,
        age: u64,
        now: u64,
    ) -> Claimed {
        use super::NoPlace;

        self.expire(now);
        let claims = self.by_user.get(&owner.user).map_or(0, BTreeSet::len);
        if !self.claims.contains_key(id) {
            let held = self.held_by(&owner.user);
            let waiting = claims - held;
            if (caps.reject && claims >= caps.per_user as usize) || waiting >= MAX_WAITING {
                return Claimed::Refused(NoPlace::User);
            }
            let start = now.saturating_sub(age);
            self.insert(id, owner.clone(), start, now + caps.ttl);
        }
        if self.rank(id) >= caps.per_user as usize {
            if self.claims[id].epoch.is_none() {
                self.remove(id);
            }
            return Claimed::Refused(NoPlace::Replaced);
        }
        if self.claims[id].epoch.is_some() {
            let evicted = vec![id.to_owned()];
            return Claimed::Waiting { evicted };
        }
        self.extend(id, now + caps.ttl);
        if self.held_by(&owner.user) >= caps.per_user as usize {
            let evicted = self.evicted(&owner.user, caps);
            return Claimed::Waiting { evicted };
        }
        let in_tenant = owner
            .tenant
            .as_ref()
            .and_then(|tenant| self.tenants.get(tenant));
        let full = if caps.total.is_some_and(|most| self.holders >= most) {
            Some(NoPlace::Server)
        } else if owner.tenant.is_some()
            && caps
                .per_tenant
                .is_some_and(|most| in_tenant.copied().unwrap_or(0) >= most)
        {
            Some(NoPlace::Tenant)
        } else {
            None
        };
        if let Some(full) = full {
            self.remove(id);
            return Claimed::Refused(full);
        }
        self.holders += 1;
        if let Some(tenant) = &owner.tenant {
            *self.tenants.entry(tenant.clone()).or_default() += 1;
        }
        // Larger than any before, also after the table was lost.
        self.epoch = now.max(self.epoch + 1);
        let epoch = self.epoch;
        if let Some(claim) = self.claims.get_mut(id) {
            claim.epoch = Some(epoch);
        }
        Claimed::Held { epoch }
    }

    /// Says that the session lives. A table in memory needs no renewals, its process is the only one.
    #[cfg(test)]
    pub(in crate::limit) fn renew(
        &mut self,
        id: &str,
        epoch: u64,
        caps: &Caps,
        now: u64,
    ) -> Renewed {
        self.expire(now);
        match self.claims.get(id) {
            None => Renewed::Unknown,
            Some(claim) if claim.epoch != Some(epoch) => Renewed::Superseded,
            Some(_) if self.rank(id) >= caps.per_user as usize => Renewed::Evicted,
            Some(_) => {
                self.extend(id, now + caps.ttl);
                Renewed::Held
            }
        }
    }

    /// Lets go. `epoch`: absent for a claim that waits. Returns whether there was such a claim.
    pub(in crate::limit) fn release(&mut self, id: &str, epoch: Option<u64>, now: u64) -> bool {
        self.expire(now);
        let found = self
            .claims
            .get(id)
            .is_some_and(|claim| claim.epoch == epoch);
        if found {
            self.remove(id);
        }
        found
    }

    /// Holders in all.
    #[cfg(test)]
    pub(in crate::limit) fn holders(&self) -> usize {
        self.holders as usize
    }

    fn held_by(&self, user: &str) -> usize {
        let claims = self.by_user.get(user).into_iter().flatten();
        claims
            .filter(|(_, id)| self.claims[id].epoch.is_some())
            .count()
    }

    /// How many claims of the same user are newer.
    fn rank(&self, id: &str) -> usize {
        let Some(claim) = self.claims.get(id) else {
            return usize::MAX;
        };
        let claims = self.by_user.get(&claim.owner.user).into_iter().flatten();
        claims.rev().take_while(|(_, other)| other != id).count()
    }

    /// Holders that newer claims replace, newest first.
    fn evicted(&self, user: &str, caps: &Caps) -> Vec<String> {
        let claims = self.by_user.get(user).into_iter().flatten().rev();
        claims
            .skip(caps.per_user as usize)
            .filter(|(_, id)| self.claims[id].epoch.is_some())
            .map(|(_, id)| id.clone())
            .collect()
    }

    fn insert(&mut self, id: &str, owner: Owner, start: u64, deadline: u64) {
        let claims = self.by_user.entry(owner.user.clone()).or_default();
        claims.insert((start, id.to_owned()));
        self.deadlines.insert((deadline, id.to_owned()));
        let claim = Claim {
            owner,
            start,
            deadline,
            epoch: None,
        };
        self.claims.insert(id.to_owned(), claim);
    }

    fn extend(&mut self, id: &str, deadline: u64) {
        if let Some(claim) = self.claims.get_mut(id) {
            self.deadlines.remove(&(claim.deadline, id.to_owned()));
            self.deadlines.insert((deadline, id.to_owned()));
            claim.deadline = deadline;
        }
    }

    fn expire(&mut self, now: u64) {
        while let Some((deadline, id)) = self.deadlines.first() {
            if *deadline > now {
                break;
            }
            let id = id.clone();
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &str) {
        let Some(claim) = self.claims.remove(id) else {
            return;
        };
        self.deadlines.remove(&(claim.deadline, id.to_owned()));
        if let Some(claims) = self.by_user.get_mut(&claim.owner.user) {
            claims.remove(&(claim.start, id.to_owned()));
            if claims.is_empty() {
                self.by_user.remove(&claim.owner.user);
            }
        }
        if claim.epoch.is_none() {
            return;
        }
        self.holders -= 1;
        if let Some(tenant) = claim.owner.tenant
            && let Some(count) = self.tenants.get_mut(&tenant)
        {
            *count -= 1;
            if *count == 0 {
                self.tenants.remove(&tenant);
            }
        }
    }
}
