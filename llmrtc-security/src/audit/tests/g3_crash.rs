//! `kill -9` at any byte: what is left is found, sealed and continued.

use super::*;

/// Two short runs, byte by byte, and the head beside them.
async fn two_runs(bench: &Bench) -> Vec<u8> {
    bench.run([1]).await;
    bench.run([2]).await;
    fs::read(bench.path()).unwrap()
}

fn cut(bench: &Bench, bytes: &[u8]) {
    fs::write(bench.path(), bytes).unwrap();
    // As if no head had been published yet; the other case has a test of its own.
    fs::remove_file(bench.head()).unwrap_or_default();
}

#[tokio::test]
async fn a_log_cut_at_any_byte_is_sealed_and_goes_on() {
    let bench = Bench::new();
    let whole = two_runs(&bench).await;
    for length in 0..=whole.len() {
        let kept = &whole[..length];
        cut(&bench, kept);
        let torn = !kept.is_empty() && !kept.ends_with(b"\n");
        // Before anybody restarts, the verifier says what happened, unless the cut is between records.
        if torn && fs::read(bench.path()).unwrap().last() != Some(&b'}') {
            assert!(!bench.verify().is_intact(), "{length}");
        }
        bench.run([3]).await;
        let report = bench.verify();
        assert!(report.is_intact() && report.closed, "{length}: {report:?}");
        let complete = kept.iter().filter(|byte| **byte == b'\n').count() as u64;
        // The record whose line feed alone is missing counts as whole.
        let only_line_feed = torn && whole[length] == b'\n';
        assert_eq!(
            report.sealed.len(),
            usize::from(torn && !only_line_feed),
            "{length}"
        );
        // Opening, event, closing head.
        assert_eq!(
            report.last,
            Some(complete + u64::from(only_line_feed) + 3),
            "{length}"
        );
        assert!(
            fs::read(bench.path()).unwrap().starts_with(kept),
            "{length}: evidence is kept"
        );
    }
}

#[tokio::test]
async fn dying_again_while_sealing_is_sealed_too() {
    let bench = Bench::new();
    let whole = two_runs(&bench).await;
    cut(&bench, &whole[..whole.len() - 300]);
    let first = fs::read(bench.path()).unwrap().len();
    bench.run([3]).await;
    let sealed = fs::read(bench.path()).unwrap();
    let opening = sealed[first + 1..]
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap();
    for length in [
        1,
        2,
        opening / 2,
        opening - 60,
        opening - 1,
        opening,
        opening + 1,
    ] {
        cut(&bench, &sealed[..first + 1 + length]);
        bench.run([4]).await;
        bench.run([5]).await;
        let report = bench.verify();
        assert!(report.is_intact(), "{length}: {report:?}");
        assert_eq!(report.sealed.len(), 1, "{length}: {report:?}");
    }
}

#[tokio::test]
async fn zeros_of_a_crashed_file_system_are_sealed_too() {
    let bench = Bench::new();
    let mut bytes = two_runs(&bench).await;
    bytes.extend([0; 4096]);
    cut(&bench, &bytes);
    bench.run([3]).await;
    let report = bench.verify();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!(report.sealed.len(), 1);
}

#[tokio::test]
async fn a_rotation_that_was_not_finished_goes_on_in_a_new_file() {
    let bench = Bench::new();
    bench.run([1, 2]).await;
    // Killed between renaming the old file and making the new one.
    fs::rename(
        bench.path(),
        bench.folder.path().join("audit.000000000001.jsonl"),
    )
    .unwrap();
    bench.run([3]).await;
    let report = bench.verify();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!((bench.files().len(), report.last), (2, Some(7)));
}

#[tokio::test]
async fn a_file_of_somebody_else_is_not_written_to() {
    let bench = Bench::new();
    bench.run([1]).await;
    // Longer than anything a crash leaves behind.
    let foreign = vec![b'x'; 3 * 1024 * 1024];
    fs::write(bench.path(), &foreign).unwrap();
    let tasks = Tasks::root("test");
    let started = Audit::start(
        &bench.config,
        AuditOptions::default(),
        Arc::new(SystemClock),
        &tasks,
    )
    .await;
    assert!(
        started
            .unwrap_err()
            .to_string()
            .contains("cannot open the audit log (file)")
    );
    assert_eq!(fs::read(bench.path()).unwrap(), foreign);
}

#[tokio::test]
async fn two_processes_do_not_share_a_file() {
    let bench = Bench::new();
    let (_audit, _tasks) = bench.start().await;
    let tasks = Tasks::root("test");
    let second = Audit::start(
        &bench.config,
        AuditOptions::default(),
        Arc::new(SystemClock),
        &tasks,
    )
    .await;
    assert!(second.is_err());
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_followed_by_another_and_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let (audit, tasks) = bench.start().await;
    audit.record(event(1));
    audit.sign_head().await.unwrap();
    let moved = bench.folder.path().join("audit.000000000001.jsonl");
    fs::rename(bench.path(), &moved).unwrap();
    audit.record(event(2));
    tasks.shutdown(SOON).await;
    let report = bench.verify();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!(
        codes(&fs::read(bench.path()).unwrap()),
        ["log_opened", "retention_swept", "log_head"]
    );
    for file in [moved.as_path(), bench.path(), &bench.head()] {
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

#[tokio::test]
async fn a_file_ends_with_its_day() {
    use llmrtc_core::testing::ManualClock;
    let bench = Bench::new();
    let (clock, tasks) = (ManualClock::new(), Tasks::root("test"));
    let audit = Audit::start(
        &bench.config,
        AuditOptions::default(),
        Arc::new(clock.clone()),
        &tasks,
    )
    .await
    .unwrap();
    audit.record(event(1));
    audit.sign_head().await.unwrap();
    clock.advance(Duration::from_secs(24 * 3600 - 1));
    audit.record(event(2));
    audit.sign_head().await.unwrap();
    assert_eq!(bench.files().len(), 1, "2020-01-01T23:59:59");
    clock.advance(Duration::from_secs(1));
    audit.record(event(3));
    tasks.shutdown(SOON).await;
    let report = bench.verify();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!(bench.files().len(), 2);
    let second = fs::read(bench.path()).unwrap();
    assert_eq!(values(&second)[1]["time_dt"], "2020-01-02T00:00:00.000Z");
}
