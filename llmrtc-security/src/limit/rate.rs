//! Buckets by key, in memory and bounded (D1, D5).

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::gcra::{Decision, Quota};

/// Locks that callers share. Many more than cores, so that two callers rarely meet.
const SHARDS: usize = 64;

/// Slots looked at on every insertion: two clear idle keys faster than one insertion fills them, and of eight the
/// one with the least debt makes room when all are busy.
const LOOK_AT: usize = 8;

/// Names a bucket: a keyed hash, so the table holds neither addresses nor names, and nobody outside can choose keys
/// that collide. Two keys share a bucket with a probability of 2⁻⁶⁴.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

/// The buckets of this process. At most 64 bytes per key, of which there is a fixed maximum.
///
/// A key whose bucket has drained is forgotten, which changes nothing. When the table is full of busy keys, the one
/// with the least debt of a sample goes: a flood of new addresses displaces itself and not the one address that is
/// being held back.
#[derive(Debug)]
pub struct RateTable {
    /// What the nanoseconds in the table are counted from.
    epoch: Instant,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    /// Most keys in a shard.
    max_keys: usize,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    /// Where a key is in `slots`.
    index: HashMap<u64, u32, BuildHasherDefault<Identity>>,
    slots: Vec<Slot>,
    /// The next slot to look at when cleaning.
    hand: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: u64,
    /// When the bucket has drained, in nanoseconds since the epoch.
    empty_at: u64,
}

/// Keys are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

impl RateTable {
    /// A table of at most about `max_keys` keys (rounded up to a multiple of 64). `now` becomes its epoch: earlier
    /// times count as the epoch.
    pub fn new(max_keys: usize, now: Instant) -> Self {
        Self {
            epoch: now,
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(Mutex::default)
                .take(SHARDS)
                .collect(),
            max_keys: max_keys.div_ceil(SHARDS).max(LOOK_AT),
            evicted: AtomicU64::new(0),
        }
    }

    /// The key of anything that can be hashed. Different in every table and process.
    pub fn key(&self, of: &impl Hash) -> Key {
        Key(self.hasher.hash_one(of))
    }

    /// Decides about a request and, if it is allowed, counts it.
    pub fn take(&self, key: Key, quota: &Quota, cost: u32, now: Instant) -> Decision {
        let now = self.nanos(now);
        let mut shard = self.shard(key);
        let found = shard.index.get(&key.0).map(|at| *at as usize);
        let debt = found.map_or(0, |at| shard.slots[at].empty_at.saturating_sub(now));
        let decision = quota.decide(debt, cost);
        if decision.allowed && cost > 0 {
            self.set(&mut shard, key, found, now, now + debt_ns(&decision));
        }
        decision
    }

    /// Counts a cost that is a fact, positive or negative. See [`Quota::charge`].
    pub fn charge(&self, key: Key, quota: &Quota, cost: i64, now: Instant) {
        let now = self.nanos(now);
        let mut shard = self.shard(key);
        let found = shard.index.get(&key.0).map(|at| *at as usize);
        let debt = found.map_or(0, |at| shard.slots[at].empty_at.saturating_sub(now));
        let charged = quota.charge(debt, cost);
        if charged > 0 || found.is_some() {
            self.set(&mut shard, key, found, now, now + charged);
        }
    }

    /// Keeps the bucket busy for at least `wait`.
    pub fn hold(&self, key: Key, wait: Duration, now: Instant) {
        let now = self.nanos(now);
        let until = now.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
        let mut shard = self.shard(key);
        let found = shard.index.get(&key.0).map(|at| *at as usize);
        let before = found.map_or(0, |at| shard.slots[at].empty_at);
        self.set(&mut shard, key, found, now, until.max(before));
    }

    /// How long the bucket is still busy. Zero for a key that is not in the table.
    pub fn debt(&self, key: Key, now: Instant) -> Duration {
        let now = self.nanos(now);
        let shard = self.shard(key);
        let slot = shard.index.get(&key.0).map(|at| shard.slots[*at as usize]);
        Duration::from_nanos(slot.map_or(0, |slot| slot.empty_at.saturating_sub(now)))
    }

    /// Forgets the keys whose buckets have drained and gives their memory back. Returns how many are left.
    ///
    /// Insertions clean up as they go; this is for a table that is no longer used. Locks one shard at a time, for
    /// about 20 ns per key.
    pub fn sweep(&self, now: Instant) -> usize {
        let now = self.nanos(now);
        let mut left = 0;
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.sweep(now);
            left += shard.slots.len();
        }
        left
    }

    /// Keys in the table.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).slots.len())
            .sum()
    }

    /// Whether there is no key in the table.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Busy keys that had to make room since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX / 2)
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        // The map uses the lowest and the highest bits of the hash.
        lock(&self.shards[(key.0 >> 40) as usize % SHARDS])
    }

    fn set(&self, shard: &mut Shard, key: Key, found: Option<usize>, now: u64, empty_at: u64) {
        if let Some(at) = found {
            shard.slots[at].empty_at = empty_at;
            return;
        }
        if shard.clean(now, self.max_keys) {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        // At most `max_keys`, which `LimitsConfig` bounds far below `u32::MAX`.
        let at = shard.slots.len() as u32;
        shard.index.insert(key.0, at);
        shard.slots.push(Slot {
            key: key.0,
            empty_at,
        });
    }
}

impl Shard {
    /// Removes drained keys among the next few slots; if there is still no room for one more, the one with the
    /// least debt of them. Returns whether that one was busy.
    fn clean(&mut self, now: u64, max_keys: usize) -> bool {
        let full = self.slots.len() >= max_keys;
        let mut least: Option<(u64, u64)> = None;
        for _ in 0..if full { LOOK_AT } else { 2 } {
            if self.slots.is_empty() {
                return false;
            }
            self.hand %= self.slots.len();
            let slot = self.slots[self.hand];
            if slot.empty_at <= now {
                self.remove(self.hand);
            } else {
                if least.is_none_or(|(empty_at, _)| slot.empty_at < empty_at) {
                    least = Some((slot.empty_at, slot.key));
                }
                self.hand += 1;
            }
        }
        if self.slots.len() < max_keys {
            return false;
        }
        // Nothing was removed, so all of the sample is still in place.
        let victim = least.and_then(|(_, key)| self.index.get(&key).copied());
        if let Some(at) = victim {
            self.remove(at as usize);
        }
        victim.is_some()
    }

    fn remove(&mut self, at: usize) {
        let removed = self.slots.swap_remove(at);
        self.index.remove(&removed.key);
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.key, at as u32);
        }
    }

    fn sweep(&mut self, now: u64) {
        for at in (0..self.slots.len()).rev() {
            if self.slots[at].empty_at <= now {
                self.remove(at);
            }
        }
        // With hysteresis, so that a table in use is not reallocated again and again.
        if self.slots.capacity() > 4 * self.slots.len().max(16) {
            self.slots.shrink_to_fit();
            self.index.shrink_to_fit();
        }
    }
}

fn debt_ns(decision: &Decision) -> u64 {
    u64::try_from(decision.reset_after.as_nanos()).unwrap_or(u64::MAX / 2)
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Nothing between the changes of index and slots can panic.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limit: u32, burst: u32) -> Quota {
        Quota::new(limit, Duration::from_secs(1), burst).unwrap()
    }

    /// Bytes that the table has allocated. A bucket of the index is a key, a place (padded) and a control byte.
    fn allocated(table: &RateTable) -> usize {
        let shards = table.shards.iter().map(|shard| {
            let shard = lock(shard);
            let buckets = (shard.index.capacity() * 8 / 7).next_power_of_two();
            shard.slots.capacity() * size_of::<Slot>() + buckets * 17
        });
        shards.sum()
    }

    fn resident_bytes() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    #[test]
    fn keys_are_counted_apart_and_a_refused_request_costs_nothing() {
        let start = Instant::now();
        let table = RateTable::new(1_000, start);
        let quota = quota(1, 2);
        let (a, b) = (table.key(&"a"), table.key(&"b"));
        for remaining in [2, 1, 0] {
            let decision = table.take(a, &quota, 1, start);
            assert_eq!((decision.allowed, decision.remaining), (true, remaining));
        }
        for _ in 0..5 {
            let decision = table.take(a, &quota, 1, start);
            assert_eq!(decision.retry_after, Duration::from_secs(1));
        }
        assert!(table.take(b, &quota, 3, start).allowed);
        assert!(
            table
                .take(a, &quota, 1, start + Duration::from_secs(1))
                .allowed
        );
        table.charge(b, &quota, -2, start);
        assert!(table.take(b, &quota, 2, start).allowed);
        table.hold(a, Duration::from_secs(60), start);
        table.hold(a, Duration::from_secs(1), start);
        assert_eq!(table.debt(a, start), Duration::from_secs(60));
        assert_eq!(table.debt(table.key(&"c"), start), Duration::ZERO);
        assert_ne!(RateTable::new(1, start).key(&"a"), a, "keys are keyed");
    }

    #[test]
    fn d1_a_flood_of_new_keys_does_not_grow_the_table_nor_free_who_is_held_back() {
        let start = Instant::now();
        let table = RateTable::new(1 << 14, start);
        let quota = quota(10, 20);
        let abuser = table.key(&"abuser");
        while table.take(abuser, &quota, 1, start).allowed {}
        for address in 0..10 * (1_u64 << 14) {
            let now = start + Duration::from_micros(address);
            assert!(table.take(table.key(&address), &quota, 1, now).allowed);
            assert!(table.len() <= 1 << 14 || !address.is_multiple_of(4096));
        }
        assert!(table.len() <= 1 << 14);
        assert!(table.evicted() > 0);
        let held = table.take(abuser, &quota, 21, start + Duration::from_micros(1));
        assert!(!held.allowed && held.remaining == 0, "{held:?}");
    }

    #[test]
    fn d5_idle_keys_are_gone_within_two_windows_and_so_is_their_memory() {
        let start = Instant::now();
        let table = RateTable::new(1 << 20, start);
        let quota = Quota::new(60, Duration::from_secs(60), 59).unwrap();
        let users = 100_000_u64;
        for user in 0..users {
            table.take(table.key(&user), &quota, 60, start);
        }
        assert_eq!(table.len() as u64, users);
        let full = allocated(&table);
        assert_eq!(table.sweep(start + quota.window() / 2) as u64, users);
        assert_eq!(table.sweep(start + quota.window()), 0);
        assert!(allocated(&table) * 100 <= full);
    }

    #[test]
    fn d5_a_table_in_use_cleans_itself() {
        let start = Instant::now();
        let table = RateTable::new(1 << 20, start);
        let quota = quota(10, 0);
        for i in 0..200_000_u64 {
            // Every key is busy for 100 ms, so a tenth of those of a second are alive at a time.
            let now = start + Duration::from_micros(i * 10);
            table.take(table.key(&i), &quota, 1, now);
        }
        assert!(table.len() < 40_000, "{}", table.len());
    }

    #[test]
    fn d1_a_million_keys_fit_into_128_mib() {
        // A shard grows alone and a full one stops growing, so one full shard stands for all.
        let start = Instant::now();
        let table = RateTable::new(1 << 20, start);
        let quota = quota(1, 0);
        let mut keys = (0_u64..).map(|i| table.key(&i));
        let mut inserted = 0;
        while inserted < (1 << 20) / SHARDS + 100 {
            let key = keys.next().unwrap();
            if ((key.0 >> 40) as usize).is_multiple_of(SHARDS) {
                table.take(key, &quota, 1, start);
                inserted += 1;
            }
        }
        assert_eq!(table.len(), (1 << 20) / SHARDS);
        assert!(allocated(&table) * SHARDS <= 128 << 20);
    }

    #[test]
    #[ignore = "ten million keys take a while in a debug build"]
    fn d1_ten_million_spoofed_addresses_stay_within_128_mib() {
        let start = Instant::now();
        let table = RateTable::new(1_000_000, start);
        let quota = quota(10, 20);
        let before = resident_bytes();
        for address in 0..10_000_000_u64 {
            table.take(table.key(&address), &quota, 1, start);
        }
        assert!(table.len() <= 1_000_064);
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown <= 128 << 20, "{grown} bytes");
    }
}
