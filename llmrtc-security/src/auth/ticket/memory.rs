use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;

use super::{StoreUnavailable, TicketId, TicketRecord, TicketStore};

/// Tickets kept at a time. At 30 s each, more than 3,000 are minted a second before it matters; about 30 MB.
const MAX_TICKETS: usize = 100_000;

/// Tickets of a single node.
#[derive(Debug)]
pub struct MemoryTickets {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: HashMap<TicketId, TicketRecord>,
    /// By the time they end, to find the expired ones.
    ends: BTreeSet<(SystemTime, [u8; 32])>,
}

impl Default for MemoryTickets {
    fn default() -> Self {
        Self::new(MAX_TICKETS)
    }
}

impl MemoryTickets {
    /// At most so many tickets at a time; further ones are not minted.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            state: Mutex::default(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // No step between two valid states can panic, so a poisoned lock still guards a valid one.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn remove(&mut self, id: &TicketId) -> Option<TicketRecord> {
        let record = self.records.remove(id)?;
        self.ends.remove(&(record.redeem_before, *id.as_bytes()));
        Some(record)
    }

    fn purge(&mut self, now: SystemTime) {
        while let Some(&(end, id)) = self.ends.first()
            && end <= now
        {
            self.ends.pop_first();
            self.records.remove(&TicketId(id));
        }
    }
}

#[async_trait]
impl TicketStore for MemoryTickets {
    async fn put(
        &self,
        id: &TicketId,
        record: &TicketRecord,
        now: SystemTime,
    ) -> Result<(), StoreUnavailable> {
        self.with(|state| {
            state.purge(now);
            if state.records.len() >= self.max {
                return Err(StoreUnavailable::full());
            }
            state.ends.insert((record.redeem_before, *id.as_bytes()));
            state.records.insert(*id, record.clone());
            Ok(())
        })
    }

    async fn take(
        &self,
        id: &TicketId,
        _now: SystemTime,
    ) -> Result<Option<TicketRecord>, StoreUnavailable> {
        Ok(self.with(|state| state.remove(id)))
    }
}
