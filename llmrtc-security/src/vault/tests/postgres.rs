//! What is particular to a server: it starts slowly, so all cases share one, and it dies.

use std::collections::HashSet;

use llmrtc_core::tasks::Tasks;
use tokio::task::JoinSet;

use super::*;
use crate::{
    testing::PostgresServer,
    vault::db::{Database, statement},
};

/// A database of its own on a shared server.
async fn fixture(server: &PostgresServer) -> Fixture {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let name = format!("case{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let admin = Database::connect(&server.url()).await.unwrap();
    let create = statement!(format!("CREATE DATABASE {name}"));
    admin.execute(create).await.unwrap();
    admin.close().await;
    let url = server
        .url()
        .expose()
        .replace("/postgres?", &format!("/{name}?"));
    Fixture::new(VaultUrls::beside(Secret::new(url))).await
}

#[tokio::test]
async fn passes_the_whole_suite() {
    let server = PostgresServer::start().await;
    for (name, case) in suite::CASES {
        // Shown when a case fails.
        println!("{name}");
        let fixture = fixture(&server).await;
        let vault = fixture.vault.clone();
        case(fixture).await;
        vault.close().await;
    }
}

#[tokio::test]
async fn t27_a_server_killed_under_load_loses_nothing_acknowledged() {
    const SPEAKERS: u128 = 8;
    const LINES: usize = 150;

    let mut server = PostgresServer::start().await;
    let f = fixture(&server).await;
    let tasks = Tasks::root("test");
    let writer = VaultWriter::start(f.vault.clone(), &tasks);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut speakers = JoinSet::new();
    for speaker in 0..SPEAKERS {
        let (writer, acknowledged) = (writer.clone(), acknowledged.clone());
        speakers.spawn(async move {
            let mut ids = Vec::new();
            for n in 0..LINES {
                let said = format!("{speaker} {n}");
                let id = writer
                    .offer(line("ada", speaker, &said))
                    .unwrap()
                    .await
                    .unwrap();
                acknowledged.fetch_add(1, Ordering::Relaxed);
                ids.push((id, said));
            }
            ids
        });
    }
    let progress = |until: u64| {
        let acknowledged = acknowledged.clone();
        async move {
            while acknowledged.load(Ordering::Relaxed) < until {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, progress(300)).await.unwrap();
    server.kill().await;
    let failing = async {
        while writer.stats().failures == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, failing).await.unwrap();
    let before = writer.stats().stored;
    assert!(
        before < SPEAKERS as u64 * LINES as u64,
        "the server died too late"
    );
    server.restart().await;
    let spoken = tokio::time::timeout(PATIENCE, speakers.join_all())
        .await
        .unwrap();
    assert_eq!(tasks.shutdown(PATIENCE).await, 0);

    let mut stored = HashSet::new();
    let mut after = None;
    loop {
        let page = f
            .vault
            .records(&subject("ada"), None, after, 256)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for record in page {
            let text = String::from_utf8(record.content.unwrap().to_vec()).unwrap();
            assert!(stored.insert((record.id, text)), "stored twice");
        }
    }
    let spoken: HashSet<_> = spoken.into_iter().flatten().collect();
    assert_eq!(spoken.len(), SPEAKERS as usize * LINES);
    assert!(spoken.is_subset(&stored), "acknowledged and lost");
    // Nothing was said twice under two names, either.
    assert_eq!(stored.len(), spoken.len());
}

#[tokio::test]
async fn t27_what_cannot_be_stored_before_the_end_is_reported() {
    let mut server = PostgresServer::start().await;
    let f = fixture(&server).await;
    let tasks = Tasks::root("test");
    let writer = VaultWriter::start(f.vault.clone(), &tasks);
    writer.offer(line("ada", 1, "x")).unwrap().await.unwrap();
    server.kill().await;
    let lost: Vec<_> = (0..300)
        .map(|_| writer.offer(line("ada", 1, "y")).unwrap())
        .collect();
    assert_eq!(tasks.shutdown(PATIENCE).await, 0);
    for acknowledgement in lost {
        assert_eq!(acknowledgement.await, Err(NotStored));
    }
    let stats = writer.stats();
    assert_eq!((stats.stored, stats.lost, stats.queued), (1, 300, 0));
    assert!(f.vault.ping().await.is_err());
}
