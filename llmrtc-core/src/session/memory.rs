use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::{Owner, SessionStore, StoreError};
use crate::{clock::Clock, id::SessionId};

/// Bounds of a [`MemorySessions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// How long a record is kept.
    pub ttl: Duration,
    /// Most records. One more evicts the oldest.
    pub total: usize,
    /// Most records of one principal. One more evicts that principal's oldest, so that nobody can push others out.
    pub per_principal: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            // The reference's default; long enough for a train tunnel, short enough for a shared computer.
            ttl: Duration::from_secs(30 * 60),
            total: 10_000,
            per_principal: 20,
        }
    }
}

/// Records in process memory: lost on restart, invisible to other instances.
///
/// It starts no task. An expired record is never handed out; its memory is freed by [`sweep`](Self::sweep), which the
/// owner calls every [`SWEEP_INTERVAL`](Self::SWEEP_INTERVAL).
pub struct MemorySessions<R> {
    limits: SessionLimits,
    clock: Arc<dyn Clock>,
    state: Mutex<State<R>>,
}

struct State<R> {
    /// Records in the order they were put, which is the order they expire and are evicted in.
    records: BTreeMap<u64, Entry<R>>,
    /// Where the record of an id is.
    places: HashMap<SessionId, u64>,
    /// Records by principal.
    principals: HashMap<Arc<str>, usize>,
    /// The next place.
    next: u64,
}

struct Entry<R> {
    id: SessionId,
    owner: Owner,
    expires: Instant,
    record: R,
}

impl<R> MemorySessions<R> {
    /// How often [`sweep`](Self::sweep) should run.
    pub const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

    /// An empty store.
    pub fn new(limits: SessionLimits, clock: Arc<dyn Clock>) -> Self {
        Self {
            limits,
            clock,
            state: Mutex::new(State {
                records: BTreeMap::new(),
                places: HashMap::new(),
                principals: HashMap::new(),
                next: 0,
            }),
        }
    }

    /// Drops the records that expired by `now` and returns how many those were.
    pub fn sweep(&self, now: Instant) -> usize {
        let mut expired = Vec::new();
        {
            let mut state = self.state();
            while let Some(first) = state.records.first_entry() {
                if first.get().expires > now {
                    break;
                }
                let place = *first.key();
                expired.extend(state.remove(place));
            }
        }
        // Records may be large: they are dropped after the lock.
        expired.len()
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        // No code of ours panics between two changes of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> State<R> {
    fn remove(&mut self, place: u64) -> Option<Entry<R>> {
        let entry = self.records.remove(&place)?;
        self.places.remove(&entry.id);
        if let Some(principal) = &entry.owner.principal
            && let Some(count) = self.principals.get_mut(principal)
        {
            *count -= 1;
            if *count == 0 {
                self.principals.remove(principal);
            }
        }
        Some(entry)
    }

    fn insert(&mut self, entry: Entry<R>) {
        let place = self.next;
        self.next += 1;
        if let Some(principal) = &entry.owner.principal {
            *self.principals.entry(Arc::clone(principal)).or_default() += 1;
        }
        self.places.insert(entry.id, place);
        self.records.insert(place, entry);
    }

    fn oldest_of(&self, principal: &str) -> Option<u64> {
        self.records
            .iter()
            .find(|(_, entry)| entry.owner.principal.as_deref() == Some(principal))
            .map(|(place, _)| *place)
    }
}

#[async_trait]
impl<R: Send + 'static> SessionStore<R> for MemorySessions<R> {
    async fn put(&self, id: SessionId, owner: &Owner, record: R) -> Result<(), StoreError> {
        let expires = self.clock.now() + self.limits.ttl;
        let mut evicted = Vec::new();
        {
            let mut state = self.state();
            if let Some(place) = state.places.get(&id).copied() {
                evicted.extend(state.remove(place));
            }
            state.insert(Entry {
                id,
                owner: owner.clone(),
                expires,
                record,
            });
            if let Some(principal) = &owner.principal
                && state.principals.get(principal).copied() > Some(self.limits.per_principal)
                && let Some(place) = state.oldest_of(principal)
            {
                evicted.extend(state.remove(place));
            }
            if state.records.len() > self.limits.total
                && let Some(place) = state.records.first_key_value().map(|(place, _)| *place)
            {
                evicted.extend(state.remove(place));
            }
        }
        drop(evicted);
        Ok(())
    }

    async fn take(&self, id: SessionId, owner: &Owner) -> Result<Option<R>, StoreError> {
        let now = self.clock.now();
        let mut state = self.state();
        let Some(place) = state.places.get(&id).copied() else {
            return Ok(None);
        };
        let mine = state
            .records
            .get(&place)
            .is_some_and(|entry| entry.owner == *owner && entry.expires > now);
        Ok(mine
            .then(|| state.remove(place))
            .flatten()
            .map(|entry| entry.record))
    }

    async fn remove(&self, id: SessionId) -> Result<bool, StoreError> {
        let removed = {
            let mut state = self.state();
            let place = state.places.get(&id).copied();
            place.and_then(|place| state.remove(place))
        };
        Ok(removed.is_some())
    }

    async fn len(&self) -> Result<usize, StoreError> {
        Ok(self.state().records.len())
    }
}

impl<R> fmt::Debug for MemorySessions<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemorySessions({} records)", self.state().records.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    const MINUTE: Duration = Duration::from_secs(60);

    fn id(number: u128) -> SessionId {
        SessionId::from_u128(number)
    }

    fn owner(principal: &str) -> Owner {
        Owner {
            principal: Some(principal.into()),
            origin: Some("https://example.org".into()),
        }
    }

    fn store(total: usize, per_principal: usize) -> (MemorySessions<&'static str>, ManualClock) {
        let clock = ManualClock::new();
        let limits = SessionLimits {
            total,
            per_principal,
            ..SessionLimits::default()
        };
        (MemorySessions::new(limits, Arc::new(clock.clone())), clock)
    }

    #[tokio::test]
    async fn a_record_is_taken_once() {
        let (store, _clock) = store(10, 10);
        store.put(id(1), &owner("ada"), "first").await.unwrap();
        store.put(id(1), &owner("ada"), "second").await.unwrap();
        assert_eq!(store.len().await.unwrap(), 1);
        assert_eq!(
            store.take(id(1), &owner("ada")).await.unwrap(),
            Some("second")
        );
        assert_eq!(store.take(id(1), &owner("ada")).await.unwrap(), None);
        assert_eq!(store.take(id(2), &owner("ada")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_stranger_neither_sees_nor_removes_a_record() {
        let (store, _clock) = store(10, 10);
        store.put(id(1), &owner("ada"), "hers").await.unwrap();
        let elsewhere = Owner {
            origin: Some("https://evil.example".into()),
            ..owner("ada")
        };
        for stranger in [owner("eve"), Owner::default(), elsewhere] {
            assert_eq!(store.take(id(1), &stranger).await.unwrap(), None);
        }
        assert_eq!(
            store.take(id(1), &owner("ada")).await.unwrap(),
            Some("hers")
        );
    }

    #[tokio::test]
    async fn a_record_expires_thirty_minutes_after_it_was_put() {
        let (store, clock) = store(10, 10);
        store.put(id(1), &owner("ada"), "old").await.unwrap();
        clock.advance(MINUTE);
        store.put(id(2), &owner("ada"), "new").await.unwrap();
        clock.advance(29 * MINUTE);
        assert_eq!(store.take(id(1), &owner("ada")).await.unwrap(), None);
        assert_eq!(store.len().await.unwrap(), 2, "nobody swept yet");
        assert_eq!(store.sweep(clock.now()), 1);
        assert_eq!(store.take(id(2), &owner("ada")).await.unwrap(), Some("new"));
    }

    #[tokio::test]
    async fn a_full_store_evicts_the_oldest() {
        let (store, _clock) = store(2, 10);
        for number in 1..=3 {
            store.put(id(number), &Owner::default(), "x").await.unwrap();
        }
        assert_eq!(store.len().await.unwrap(), 2);
        assert!(!store.remove(id(1)).await.unwrap());
        assert!(store.remove(id(2)).await.unwrap());
    }

    #[tokio::test]
    async fn nobody_can_push_others_out() {
        let (store, _clock) = store(10, 2);
        store.put(id(1), &owner("ada"), "hers").await.unwrap();
        for number in 2..=6 {
            store.put(id(number), &owner("eve"), "x").await.unwrap();
        }
        assert_eq!(store.len().await.unwrap(), 3);
        assert!(store.take(id(1), &owner("ada")).await.unwrap().is_some());
        for number in [5, 6] {
            assert!(
                store
                    .take(id(number), &owner("eve"))
                    .await
                    .unwrap()
                    .is_some()
            );
        }
        assert_eq!(store.len().await.unwrap(), 0);
    }
}
