//! E4 rotation, A4 and E5 for the master keys.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;

use super::*;
use crate::crypto::{KeyWrapper, WrapError};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn json(keyring: &Keyring) -> String {
    keyring.to_json().expose().to_owned()
}

#[test]
fn e4_a_keyring_survives_its_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keyring.json");
    let created = Keyring::create(&path, NOW + DAY).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    Keyring::update(&path, |ring| ring.rotate(NOW + 2 * DAY)).unwrap();
    let loaded = Keyring::load(&path).unwrap();
    let keys: Vec<_> = loaded.list().collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0].id, created.active().id);
    assert_eq!(keys[0].fingerprint, created.active().fingerprint);
    assert_eq!(keys[0].status, KeyStatus::DecryptOnly);
    assert_eq!(keys[0].created, NOW + DAY);
    assert_eq!(loaded.active(), keys[1]);
    // Nothing temporary is left beside it.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn e4_an_existing_keyring_is_never_overwritten() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keyring.json");
    Keyring::create(&path, NOW).unwrap();
    let before = fs::read(&path).unwrap();
    let error = Keyring::create(&path, NOW).unwrap_err();
    assert!(matches!(error, KeyringError::Io { .. }), "{error}");
    let failed: Result<(), KeyringError> = Keyring::update(&path, |ring| {
        ring.rotate(NOW)?;
        Err(KeyringError::Active(0))
    });
    assert!(failed.is_err());
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn e5_a_keyring_that_others_may_read_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keyring.json");
    Keyring::create(&path, NOW).unwrap();
    for mode in [0o640, 0o604, 0o644, 0o660, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Keyring::load(&path).unwrap_err();
        assert!(
            matches!(error, KeyringError::Permissions { mode: found, .. } if found == mode),
            "{error}"
        );
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    Keyring::load(&path).unwrap();
    assert!(matches!(
        Keyring::load(Path::new("/nonexistent/keyring.json")),
        Err(KeyringError::Io { action: "read", .. })
    ));
}

#[tokio::test]
async fn e4_new_writes_use_the_new_key_at_once_and_old_ones_open() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keyring.json");
    let first = Keyring::create(&path, NOW).unwrap().active().id;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let ring = LocalKeyring::open(&path)
        .unwrap()
        .observed(move |key| told.lock().unwrap().push(key.id.clone()));
    let (old, new) = (KeyMaterial::generate(), KeyMaterial::generate());
    let wrapped_old = ring.wrap(&old, b"c").await.unwrap();
    assert_eq!(wrapped_old.key_id, first);

    let second = Keyring::update(&path, |ring| ring.rotate(NOW + DAY)).unwrap();
    let wrapped_new = ring.wrap(&new, b"c").await.unwrap();
    assert_eq!(wrapped_new.key_id, second.id);
    assert_eq!(ring.current().await.unwrap(), second.id);
    for (wrapped, key) in [(&wrapped_old, &old), (&wrapped_new, &new)] {
        let opened = ring.unwrap(wrapped, b"c").await.unwrap();
        assert_eq!(opened.fingerprint(), key.fingerprint());
    }

    // A node that has not looked at the file yet finds the key when it meets it.
    let stale = LocalKeyring::open(&path).unwrap();
    let third = Keyring::update(&path, |ring| ring.rotate(NOW + 2 * DAY)).unwrap();
    let wrapped = ring.wrap(&new, b"c").await.unwrap();
    assert_eq!(wrapped.key_id, third.id);
    assert!(stale.unwrap(&wrapped, b"c").await.is_ok());

    // A broken file keeps the old keys working.
    fs::write(&path, "{").unwrap();
    assert!(ring.refresh().is_err());
    assert_eq!(ring.wrap(&new, b"c").await.unwrap().key_id, third.id);
    assert_eq!(*seen.lock().unwrap(), [second.id, third.id]);
}

#[tokio::test]
async fn e4_retiring_a_key_with_live_data_refuses() {
    let mut keyring = Keyring::generate(NOW);
    let first = keyring.active().id;
    assert!(matches!(
        keyring.retire(&first, 0),
        Err(KeyringError::StillActive(_))
    ));
    let holder = LocalKeyring::new(Keyring::parse(json(&keyring).as_bytes()).unwrap());
    let wrapped = holder.wrap(&KeyMaterial::generate(), b"").await.unwrap();
    keyring.rotate(NOW + DAY).unwrap();
    assert!(matches!(
        keyring.retire(&first, 1),
        Err(KeyringError::InUse { in_use: 1, .. })
    ));
    assert!(matches!(
        keyring.retire(&KeyId::random(), 0),
        Err(KeyringError::Unknown(_))
    ));
    keyring.retire(&first, 0).unwrap();
    let text = json(&keyring);
    assert_eq!(text.matches("\"key\"").count(), 1, "a retired key is gone");
    holder.replace(Keyring::parse(text.as_bytes()).unwrap());
    assert!(matches!(
        holder.unwrap(&wrapped, b"").await,
        Err(WrapError::Retired(_))
    ));
    holder.replace(Keyring::generate(NOW));
    assert!(matches!(
        holder.unwrap(&wrapped, b"").await,
        Err(WrapError::UnknownKey(_))
    ));
}

#[test]
fn a4_what_is_no_keyring_is_refused_without_quoting_it() {
    let good = json(&Keyring::generate(NOW));
    let key = good
        .split_once("\"key\": \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .unwrap()
        .0;
    let id = good
        .split_once("\"id\": \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .unwrap()
        .0;
    let twice = good.replace("\"keys\": [", &format!(
        "\"keys\": [{{\"id\":\"{id}\",\"status\":\"retired\",\"created\":\"1970-01-01T00:00:00Z\"}},"
    ));
    for (bad, why) in [
        (String::new(), "malformed at line 1"),
        (
            good.replace("\"version\": 1", "\"version\": 2"),
            "version 2 is unknown",
        ),
        (
            good.replace("\"active\"", "\"decrypt-only\""),
            "exactly one active key and has 0",
        ),
        (
            good.replace("\"active\"", "\"retired\""),
            "exactly when it is not retired",
        ),
        (
            good.replace("\"active\"", &format!("\"{key}\"")),
            "malformed at line",
        ),
        (
            good.replace("\"created\"", "\"crated\""),
            "malformed at line",
        ),
        (
            good.replace("1970-01-01T", "1970-13-01T"),
            "not in RFC 3339",
        ),
        (good.replace(key, &key[1..]), "invalid key"),
        (good.replace(id, "a b"), "invalid key"),
        (twice, "is there twice"),
        (" ".repeat(MAX_BYTES + 1), "too long"),
    ] {
        let error = Keyring::parse(bad.as_bytes()).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(why), "{text}, expected: {why}");
        assert!(!text.contains(&key[1..20]), "{text}");
    }
    let ring = Keyring::parse(good.as_bytes()).unwrap();
    let shown = format!("{ring:?}") + &format!("{:?}", LocalKeyring::new(ring));
    assert!(!shown.contains(key));
}
