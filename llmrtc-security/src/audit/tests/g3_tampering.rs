//! T9: the manipulations, one by one, with the secret keys and with the public ones.

use proptest::prelude::*;

use super::*;
use crate::audit::verify::FindingKind;

/// A log of ten events and a head after every four records, in lines.
async fn log(bench: &mut Bench) -> Vec<Vec<u8>> {
    bench.config.head_records = 4;
    bench.run(0..10).await;
    lines(&fs::read(bench.path()).unwrap())
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

fn trusts(bench: &Bench) -> [Trust; 2] {
    let keys = bench.keys();
    let public = keys.public_keys().map(|(_, key)| key).collect();
    [Trust::Keys(keys), Trust::PublicKeys(public)]
}

/// What the verifier says under each kind of trust.
fn check(bench: &Bench, files: &[Vec<u8>], head: Option<&[u8]>) -> [Vec<FindingKind>; 2] {
    trusts(bench).map(|trust| {
        let report = verify(trust, files, head);
        report
            .findings
            .into_iter()
            .map(|finding| finding.kind)
            .collect()
    })
}

fn replace(line: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(line.to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    text.replace(from, to).into_bytes()
}

#[tokio::test]
async fn an_untouched_log_is_intact_for_both() {
    let mut bench = Bench::new();
    let lines = log(&mut bench).await;
    for trust in trusts(&bench) {
        let report = verify(
            trust,
            &[lines.concat()],
            Some(&fs::read(bench.head()).unwrap()),
        );
        assert!(report.is_intact() && report.closed, "{report:?}");
        assert_eq!(report.records, lines.len() as u64);
        assert_eq!(
            (report.first, report.last, report.signed_through),
            (Some(1), Some(report.records), Some(report.records))
        );
    }
}

#[tokio::test]
async fn an_edit_is_found_in_every_line_at_every_place() {
    let mut bench = Bench::new();
    let good = log(&mut bench).await;
    for index in 0..good.len() {
        let mut edited = good.clone();
        edited[index] = replace(&good[index], "\"severity_id\":1", "\"severity_id\":2");
        let [secret, public] = check(&bench, &[edited.concat()], None);
        let seq = index as u64 + 1;
        assert_eq!(secret, [FindingKind::Edited { seq }]);
        // The closing head has nothing behind it, but a signature of its own.
        let broken = FindingKind::BrokenLink { seq: seq + 1 };
        let unsigned = FindingKind::BadSignature { seq };
        assert!(
            public.contains(&broken) || public.contains(&unsigned),
            "{index}: {public:?}"
        );
    }
    // Every byte of one record, chain included.
    for at in 0..good[2].len() - 1 {
        let mut edited = good.clone();
        edited[2][at] ^= 1;
        let [secret, public] = check(&bench, &[edited.concat()], None);
        assert!(!secret.is_empty() && !public.is_empty(), "byte {at}");
    }
}

#[tokio::test]
async fn deletion_insertion_and_reordering_are_found() {
    let mut bench = Bench::new();
    let good = log(&mut bench).await;

    let mut deleted = good.clone();
    deleted.drain(2..5);
    for found in check(&bench, &[deleted.concat()], None) {
        assert_eq!(found, [FindingKind::Missing { from: 3, to: 5 }]);
    }
    for found in check(&bench, &[good[1..].concat()], None) {
        assert_eq!(found, [FindingKind::NoOpening], "the beginning is gone");
    }

    let mut repeated = good.clone();
    repeated.insert(6, good[2].clone());
    for found in check(&bench, &[repeated.concat()], None) {
        assert_eq!(
            found,
            [FindingKind::OutOfPlace {
                seq: 3,
                expected: 7
            }]
        );
    }
    let mut forged = good.clone();
    forged.insert(3, replace(&good[2], "\"sequence\":3", "\"sequence\":4"));
    let [secret, public] = check(&bench, &[forged.concat()], None);
    assert_eq!(secret, [FindingKind::Edited { seq: 4 }]);
    assert!(!public.is_empty());
    let mut noise = good.clone();
    noise.insert(3, b"# just a note\n".to_vec());
    for found in check(&bench, &[noise.concat()], None) {
        assert_eq!(found, [FindingKind::Malformed]);
    }

    let mut swapped = good.clone();
    swapped.swap(4, 5);
    for found in check(&bench, &[swapped.concat()], None) {
        assert_eq!(
            found,
            [
                FindingKind::Missing { from: 5, to: 5 },
                FindingKind::OutOfPlace {
                    seq: 5,
                    expected: 7
                },
            ]
        );
    }
}

#[tokio::test]
async fn a_cut_end_is_found_by_the_last_published_head() {
    let mut bench = Bench::new();
    let good = log(&mut bench).await;
    let head = fs::read(bench.head()).unwrap();
    let published = good.len() as u64;
    for kept in 1..good.len() {
        for found in check(&bench, &[good[..kept].concat()], Some(&head)) {
            let truncated = FindingKind::Truncated {
                last: kept as u64,
                head: published,
            };
            assert!(found.contains(&truncated), "{kept}: {found:?}");
        }
    }
    let mut torn = good.concat();
    torn.truncate(torn.len() - 100);
    let [found, _] = check(&bench, &[torn], None);
    assert_eq!(found, [FindingKind::Torn]);
}

#[tokio::test]
async fn a_server_that_continues_a_cut_log_says_so() {
    let mut bench = Bench::new();
    let good = log(&mut bench).await;
    fs::write(bench.path(), good[..5].concat()).unwrap();
    bench.run([1]).await;
    let report = bench.verify();
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| &finding.kind)
        .collect();
    let gone = FindingKind::Missing {
        from: 6,
        to: good.len() as u64,
    };
    assert_eq!(found, [&gone]);
    let opening = &values(&fs::read(bench.path()).unwrap())[5];
    assert_eq!(opening["unmapped"]["behind_head"], good.len());
    assert_eq!(opening["severity_id"], 5);
}

#[tokio::test]
async fn a_splice_of_two_logs_is_found() {
    let mut bench = Bench::new();
    let first = log(&mut bench).await;
    // Another server with the same keys, name and numbers.
    let mut twin = Bench::new();
    fs::copy(&bench.config.key_file, &twin.config.key_file).unwrap();
    let second = log(&mut twin).await;
    for at in 1..first.len() {
        let spliced = [&first[..at], &second[at..]].concat().concat();
        for found in check(&bench, &[spliced], None) {
            assert_eq!(
                found,
                [FindingKind::BrokenLink { seq: at as u64 + 1 }],
                "{at}"
            );
        }
    }
    for found in check(
        &bench,
        &[second.concat()],
        Some(&fs::read(bench.head()).unwrap()),
    ) {
        assert_eq!(
            found,
            [FindingKind::Replaced {
                seq: first.len() as u64
            }]
        );
    }
    let mut other = Bench::new();
    other.config.node = "other".into();
    fs::copy(&bench.config.key_file, &other.config.key_file).unwrap();
    let foreign = log(&mut other).await;
    let [found, _] = check(&bench, &[first.concat(), foreign.concat()], None);
    assert!(
        matches!(found[0], FindingKind::OtherLog { .. }),
        "{found:?}"
    );
}

#[tokio::test]
async fn an_older_file_put_back_is_found() {
    let mut bench = Bench::new();
    log(&mut bench).await;
    let older = fs::read(bench.path()).unwrap();
    let older_head = fs::read(bench.head()).unwrap();
    bench.run(0..5).await;
    let newer = lines(&fs::read(bench.path()).unwrap());
    let head = fs::read(bench.head()).unwrap();
    for found in check(&bench, std::slice::from_ref(&older), Some(&head)) {
        assert!(
            matches!(found[..], [FindingKind::Truncated { .. }]),
            "{found:?}"
        );
    }
    // As the file of another day.
    for found in check(&bench, &[newer.concat(), older.clone()], Some(&head)) {
        assert!(
            matches!(found[0], FindingKind::OutOfPlace { .. }),
            "{found:?}"
        );
    }
    // Whoever puts back the head too needs to put back every copy of it that was kept elsewhere.
    assert!(
        check(&bench, &[older], Some(&older_head))
            .iter()
            .all(Vec::is_empty)
    );
}

#[tokio::test]
async fn without_the_right_keys_nothing_passes() {
    let mut bench = Bench::new();
    let good = log(&mut bench).await;
    let stranger = Arc::new(AuditKeys::generate());
    let report = verify(Trust::Keys(Arc::clone(&stranger)), &[good.concat()], None);
    assert_eq!(
        report.findings.len() as u64 + report.more_findings,
        good.len() as u64
    );
    let public = stranger.public_keys().map(|(_, key)| key).collect();
    let report = verify(Trust::PublicKeys(public), &[good.concat()], None);
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.kind == FindingKind::Unsigned)
    );
    // Heads taken out and the hashes made to fit again, which needs no key.
    let unsigned = good[0].clone();
    let public = bench.keys().public_keys().map(|(_, key)| key).collect();
    let report = verify(Trust::PublicKeys(public), &[unsigned], None);
    assert_eq!(report.findings[0].kind, FindingKind::Unsigned);
    assert!(
        Verifier::new(Trust::Keys(stranger))
            .published_head(&fs::read(bench.head()).unwrap())
            .is_none()
    );
}

#[tokio::test]
async fn new_keys_continue_the_chain_and_old_ones_still_verify() {
    let bench = Bench::new();
    let (audit, tasks) = bench.start().await;
    let args = serde_json::json!({"a": 1});
    let before = audit.args_hash(&args);
    audit.record(event(1));
    AuditKeys::rotate(&bench.config.key_file).unwrap();
    audit
        .rekey(AuditKeys::load(&bench.config.key_file).unwrap())
        .await
        .unwrap();
    audit.record(event(2));
    tasks.shutdown(SOON).await;
    assert_eq!((before.epoch, audit.args_hash(&args).epoch), (1, 2));
    let bytes = fs::read(bench.path()).unwrap();
    assert_eq!(
        codes(&bytes),
        [
            "log_opened",
            "retention_swept",
            "log_head",
            "log_opened",
            "retention_swept",
            "log_head"
        ]
    );
    let epochs: Vec<_> = values(&bytes)
        .iter()
        .filter_map(|value| value["unmapped"]["epoch"].as_u64())
        .collect();
    assert_eq!(epochs, [1, 1, 2, 2]);
    assert!(bench.verify().is_intact());
    for found in check(&bench, &[bytes], None) {
        assert!(found.is_empty(), "{found:?}");
    }
}

#[tokio::test]
async fn heads_come_by_number_and_by_time() {
    let mut bench = Bench::new();
    bench.config.head_records = 100;
    bench.config.head_interval = Duration::from_millis(100);
    let (audit, tasks) = bench.start().await;
    audit.record_durable(event(1)).await.unwrap();
    let by_time = async {
        while !bench.head().exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, by_time).await.unwrap();
    for n in 0..500 {
        audit.record(event(n));
    }
    tasks.shutdown(SOON).await;
    let codes = codes(&fs::read(bench.path()).unwrap());
    let longest = codes
        .split(|code| code == "log_head")
        .map(<[String]>::len)
        .max()
        .unwrap();
    // A batch is finished before its head.
    assert!(longest <= 100 + 512, "{longest}");
    assert!(bench.verify().is_intact());
}

/// H7 for the verifier; the fuzz target does the same for longer.
mod h7_verifier_never_panics {
    use super::*;

    fn never_panics(bytes: &[u8]) {
        let keys = Arc::new(fixed_keys());
        let public = keys.public_keys().map(|(_, key)| key).collect();
        for trust in [Trust::Keys(keys), Trust::PublicKeys(public)] {
            let mut verifier = Verifier::new(trust);
            verifier.published_head(bytes);
            verifier.file("x", bytes).unwrap();
            verifier.finish();
        }
    }

    fn genuine() -> Vec<u8> {
        use crate::audit::{
            chain::{Chain, Position},
            render,
        };
        let keys = Arc::new(fixed_keys());
        let mut chain = Chain::new(keys, Position::START);
        let mut out = Vec::new();
        for n in 0..4 {
            let record = render::event(&event(n), "node", std::time::SystemTime::UNIX_EPOCH);
            chain.append(&record, &mut out);
            chain.append_head(&record, &mut out);
        }
        out
    }

    proptest! {
        #[test]
        fn on_noise(bytes: Vec<u8>) {
            never_panics(&bytes);
        }

        #[test]
        fn on_records_with_noise_in_them(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut: prop::sample::Index) {
            let mut bytes = genuine();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            never_panics(&bytes);
        }

        #[test]
        fn on_records_with_extreme_numbers(sequence in prop::sample::select(vec![0_u64, 1, u64::MAX - 1, u64::MAX])) {
            let text = String::from_utf8(genuine()).unwrap();
            never_panics(text.replace("\"sequence\":3", &format!("\"sequence\":{sequence}")).as_bytes());
        }
    }

    #[test]
    fn on_a_line_without_an_end() {
        never_panics(&vec![b'{'; 1 << 20]);
        never_panics(&[b"\n".repeat(1000), vec![0xff; 300_000]].concat());
    }
}
