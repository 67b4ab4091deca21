//! One suite for both databases (`suite`), and what is particular to each.

mod postgres;
mod sqlite;
mod suite;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use llmrtc_core::{clock::Clock, id::SessionId, redact::Secret};

use super::*;
use crate::crypto::keyring::{Keyring, LocalKeyring};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two clocks that go where they are told, backwards as well.
#[derive(Debug)]
struct TestClock {
    start: Instant,
    wall: Mutex<SystemTime>,
}

impl TestClock {
    fn new() -> Arc<Self> {
        let wall = SystemTime::UNIX_EPOCH + DAY * 20_000;
        Arc::new(Self {
            start: Instant::now(),
            wall: Mutex::new(wall),
        })
    }

    fn advance(&self, by: Duration) {
        *self.wall.lock().unwrap() += by;
    }

    fn fall_back(&self, by: Duration) {
        *self.wall.lock().unwrap() -= by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        self.start
    }

    fn wall(&self) -> SystemTime {
        *self.wall.lock().unwrap()
    }
}

/// A vault with everything that a test wants to turn.
struct Fixture {
    urls: VaultUrls,
    ring: Arc<LocalKeyring>,
    clock: Arc<TestClock>,
    vault: Arc<Vault>,
}

impl Fixture {
    async fn new(urls: VaultUrls) -> Self {
        let ring = Arc::new(LocalKeyring::new(Keyring::generate(SystemTime::UNIX_EPOCH)));
        let clock = TestClock::new();
        let vault = open(&urls, &ring, &clock).await;
        Self {
            urls,
            ring,
            clock,
            vault,
        }
    }

    /// Another node, or this one after a restart.
    async fn another(&self) -> Arc<Vault> {
        open(&self.urls, &self.ring, &self.clock).await
    }

    /// Changes the master keys as `llmrtc keys` would.
    fn change_keys<T>(&self, change: impl FnOnce(&mut Keyring) -> T) -> T {
        let json = self.ring.keys().to_json();
        let mut keyring = Keyring::parse(json.expose().as_bytes()).unwrap();
        let result = change(&mut keyring);
        self.ring.replace(keyring);
        result
    }

    async fn say(&self, user: &str, session: u128, text: &str) -> RecordId {
        self.vault
            .append(&[line(user, session, text)])
            .await
            .unwrap()[0]
    }

    /// What a user can read, a line that does not open being `!`.
    async fn read(&self, user: &str) -> Vec<String> {
        read(&self.vault, user).await
    }
}

async fn open(urls: &VaultUrls, ring: &Arc<LocalKeyring>, clock: &Arc<TestClock>) -> Arc<Vault> {
    let (ring, clock) = (Arc::clone(ring), Arc::clone(clock));
    let vault = Vault::open(urls, None, ring, clock).await;
    Arc::new(vault.unwrap())
}

async fn read(vault: &Vault, user: &str) -> Vec<String> {
    let records = vault
        .records(&subject(user), None, None, 256)
        .await
        .unwrap();
    let text = |record: &Record| match &record.content {
        Ok(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        Err(_) => "!".into(),
    };
    records.iter().map(text).collect()
}

fn subject(user: &str) -> Subject {
    Subject::new(Some("acme"), user).unwrap()
}

fn session(number: u128) -> SessionId {
    SessionId::from_u128(number)
}

fn line(user: &str, number: u128, text: &str) -> NewRecord {
    NewRecord {
        subject: subject(user),
        session: session(number),
        class: Class::Transcript,
        content: text.as_bytes().to_vec().into(),
    }
}
