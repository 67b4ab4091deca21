//! What is particular to a file.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aho_corasick::AhoCorasick;
use llmrtc_core::tasks::Tasks;
use tempfile::TempDir;

use super::*;

fn path(folder: &TempDir) -> PathBuf {
    folder.path().join("vault.db")
}

fn urls(folder: &TempDir) -> VaultUrls {
    VaultUrls::beside(Secret::new(format!("sqlite://{}", path(folder).display())))
}

pub(super) async fn fixture(folder: &TempDir) -> Fixture {
    Fixture::new(urls(folder)).await
}

/// All bytes of all files: database, log, index, keys.
fn everything(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        bytes.extend(fs::read(entry.unwrap().path()).unwrap());
    }
    bytes
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    found(haystack, &[needle]) == 1
}

/// How many of the needles occur.
fn found(haystack: &[u8], needles: &[&[u8]]) -> usize {
    let search = AhoCorasick::new(needles).unwrap();
    let seen: HashSet<_> = search
        .find_iter(haystack)
        .map(|hit| hit.pattern())
        .collect();
    seen.len()
}

/// Sealed rows as they stand in the table.
async fn sealed(vault: &Vault) -> Vec<Vec<u8>> {
    let select = crate::vault::db::statement!("SELECT sealed FROM vault_records ORDER BY id");
    let rows = vault.records.rows(select).await.unwrap();
    rows.iter().map(|row| row.blob(0).unwrap()).collect()
}

#[tokio::test]
async fn e3_after_thirty_days_and_a_sweep_no_plaintext_or_ciphertext_is_left() {
    const SENTINEL: &str = "SENTINEL-my-card-is-4111";
    let folder = TempDir::new().unwrap();
    let f = fixture(&folder).await;
    for batch in 0..20 {
        let text = |n: u32| {
            line(
                "ada",
                1,
                &format!("{SENTINEL} {batch} {n} {}", "x".repeat(900)),
            )
        };
        f.vault
            .append(&(0..50).map(text).collect::<Vec<_>>())
            .await
            .unwrap();
    }
    f.clock.advance(DAY);
    f.say("ada", 1, "kept").await;
    let sealed = sealed(&f.vault).await;
    // From the middle, where it is random.
    let needles: Vec<&[u8]> = sealed
        .iter()
        .map(|row| &row[row.len() / 2..][..24])
        .collect();
    let before = everything(folder.path());
    assert!(!contains(&before, SENTINEL.as_bytes()), "plaintext at rest");
    let (kept, old) = needles.split_last().unwrap();
    assert_eq!(found(&before, old), 1_000, "the test can find ciphertext");

    f.clock.advance(DAY * 29);
    let report = f.vault.sweep().await.unwrap();
    assert_eq!((report.records, report.compacted), (1_000, true));
    let after = everything(folder.path());
    assert!(!contains(&after, SENTINEL.as_bytes()));
    assert_eq!(found(&after, old), 0, "ciphertext of swept rows is left");
    assert!(contains(&after, kept));
    let size = fs::metadata(path(&folder)).unwrap().len();
    assert!(size < 200_000, "the space is given back: {size}");
    assert_eq!(f.read("ada").await, ["kept"]);
}

#[tokio::test]
async fn e3_erasing_leaves_no_ciphertext_and_no_key_in_the_files() {
    let folder = TempDir::new().unwrap();
    let f = fixture(&folder).await;
    f.say("ada", 1, &"secret ".repeat(200)).await;
    f.say("eve", 1, "hers").await;
    let row = sealed(&f.vault).await.remove(0);
    let select =
        crate::vault::db::statement!("SELECT wrapped FROM vault_user_keys WHERE subject = 'ada'");
    let keys = crate::vault::db::Database::connect(&f.urls.keys)
        .await
        .unwrap();
    let wrapped = keys.row(select).await.unwrap().unwrap().blob(0).unwrap();
    keys.close().await;
    let before = everything(folder.path());
    assert!(contains(&before, &row[200..240]) && contains(&before, &wrapped));
    f.vault.erase(&subject("ada")).await.unwrap();
    let after = everything(folder.path());
    assert!(!contains(&after, &row[200..240]));
    assert!(!contains(&after, &wrapped));
    assert_eq!(f.read("eve").await, ["hers"]);
}

#[tokio::test]
async fn t18_an_old_file_brings_nobody_back() {
    let folder = TempDir::new().unwrap();
    let f = fixture(&folder).await;
    f.say("ada", 1, "secret").await;
    f.say("eve", 1, "hers").await;
    f.vault.close().await;
    let backup = fs::read(path(&folder)).unwrap();
    f.another().await.erase(&subject("ada")).await.unwrap();
    for file in ["vault.db-wal", "vault.db-shm"] {
        let _ = fs::remove_file(folder.path().join(file));
    }
    fs::write(path(&folder), backup).unwrap();
    let restored = f.another().await;
    assert_eq!(read(&restored, "ada").await, ["!"]);
    assert_eq!(read(&restored, "eve").await, ["hers"]);
}

#[tokio::test]
async fn e5_files_are_for_their_owner_alone() {
    let folder = TempDir::new().unwrap();
    // One that was left open to others is closed.
    fs::write(path(&folder), "").unwrap();
    fs::set_permissions(path(&folder), fs::Permissions::from_mode(0o644)).unwrap();
    let f = fixture(&folder).await;
    f.say("ada", 1, "x").await;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    let expected = ["vault.db", "vault.db-shm", "vault.db-wal", "vault.db.keys"];
    assert_eq!(names[..4], expected);
    let pragma = async |name: &'static str| {
        let select = crate::vault::db::statement!(format!("PRAGMA {name}"));
        f.vault.records.row(select).await.unwrap().unwrap()
    };
    assert_eq!(pragma("secure_delete").await.int(0).unwrap(), 1);
    assert_eq!(pragma("synchronous").await.int(0).unwrap(), 2);
    assert_eq!(pragma("journal_mode").await.text(0).unwrap(), "wal");
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_quoting_it() {
    let ring = Arc::new(LocalKeyring::new(Keyring::generate(SystemTime::UNIX_EPOCH)));
    for url in [
        "",
        "vault.db",
        "mysql://u:hunter2@h/d",
        "sqlite::memory:",
        "sqlite:///nonexistent/hunter2/vault.db",
    ] {
        let urls = VaultUrls::beside(Secret::new(url));
        let opened = Vault::open(&urls, None, ring.clone(), TestClock::new()).await;
        let error = opened.unwrap_err();
        let expected = match url.starts_with("sqlite:///") {
            true => matches!(error, VaultError::File { .. }),
            false => {
                matches!(error, VaultError::UnsupportedUrl)
                    && !format!("{error:?}").contains("hunter2")
            }
        };
        assert!(expected, "{url}: {error:?}");
    }
    let folder = TempDir::with_prefix("100%? ").unwrap();
    let urls = VaultUrls::of(&VaultConfig::default(), folder.path()).unwrap();
    let vault = Vault::open(&urls, None, ring, TestClock::new())
        .await
        .unwrap();
    vault.append(&[line("ada", 1, "x")]).await.unwrap();
    assert!(
        folder.path().join("vault.db").exists() && folder.path().join("vault.db.keys").exists()
    );
    let of = |url| VaultUrls::beside(Secret::new(url)).keys.expose().to_owned();
    assert_eq!(of("sqlite:///a/v.db"), "sqlite:///a/v.db.keys");
    assert_eq!(of("sqlite:///a/v.db?x=1"), "sqlite:///a/v.db.keys?x=1");
    assert_eq!(of("postgres://h/d"), "postgres://h/d");
}

#[tokio::test]
async fn t27_a_full_queue_refuses_at_once_and_counts() {
    let folder = TempDir::new().unwrap();
    let f = fixture(&folder).await;
    let tasks = Tasks::root("test");
    let writer = VaultWriter::start(f.vault.clone(), &tasks);
    // On this runtime of one thread the writer does not run before the test waits for something.
    let waiting: Vec<_> = (0..4_096)
        .map(|n| writer.offer(line("ada", 1, &n.to_string())).unwrap())
        .collect();
    assert_eq!(
        writer.offer(line("ada", 1, "x")).unwrap_err(),
        Refused::Full
    );
    assert_eq!((writer.stats().queued, writer.stats().refused), (4_096, 1));
    for acknowledgement in waiting {
        acknowledgement.await.unwrap();
    }
    let recording = || {
        let mut record = line("ada", 1, "");
        record.class = Class::Audio;
        record.content = vec![1; 15 * 1024 * 1024].into();
        record
    };
    let waiting: Vec<_> = (0..4).map(|_| writer.offer(recording()).unwrap()).collect();
    assert_eq!(writer.offer(recording()).unwrap_err(), Refused::Full);
    for acknowledgement in waiting {
        acknowledgement.await.unwrap();
    }
    assert!(writer.offer(recording()).is_ok(), "the room is free again");
}
