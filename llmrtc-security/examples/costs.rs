//! What the checks on the way of a call cost: tokens, tickets, limits, redaction, guard, encryption, audit.
//!
//! `cargo run --release -p llmrtc-security --example costs [-- --quick]`
//!
//! Prints a JSON object per line: `name`, `unit`, `mean`, `p50`, `p99`, `n`, `target`. Every figure is that of the quietest of several
//! rounds, which is what the machine can do when nobody else uses it. Starts a Redis of its own, which has to be installed.

#![expect(clippy::print_stdout, reason = "a program whose output is the result")]

use std::{
    error::Error,
    fs,
    hint::black_box,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use llmrtc_core::{clock::SystemClock, id::SessionId, redact::Secret, tasks::Tasks};
use llmrtc_security::{
    audit::{Action, Audit, AuditConfig, AuditEvent, AuditOptions},
    auth::{
        Principal,
        api_key::{self, ApiKeys},
        jwt::{
            HmacAlgorithm, IssuerPolicy, MintRequest, Minter, PublicAlgorithm, PublicKey,
            SharedSecrets, Verifier,
        },
        resume::{Attempt, ResumeConfig, SessionHandles},
        ticket::{MemoryTickets, RedisTickets, TicketRequest, TicketStore, Tickets},
    },
    crypto::{
        record::{Binding, DataKey, OpeningKey, SealedRecord},
        shred::UserKey,
    },
    guard::{Guard, Source},
    limit::{
        config::{LimitsConfig, Scope},
        policy::{Limits, Subject},
    },
    redact::{Context, Lang, RedactConfig, Redactor, SinkPolicy},
    redis::Redis,
    testing::RedisServer,
};
use serde_json::json;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// What one operation took, in seconds, sorted.
struct Round(Vec<f64>);

impl Round {
    fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }

    fn quantile(&self, share: f64) -> f64 {
        let at = (self.0.len() as f64 * share) as usize;
        self.0
            .get(at.min(self.0.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

fn quietest(rounds: Vec<Round>) -> Round {
    let quietest = rounds
        .into_iter()
        .min_by(|a, b| a.mean().total_cmp(&b.mean()));
    quietest.unwrap_or_else(|| Round(Vec::new()))
}

/// How much is measured.
struct Bench {
    rounds: usize,
    /// Divides the number of operations.
    less: usize,
}

impl Bench {
    /// Measures `n` operations a round. `batch` of them are timed together where one is about as long as reading the clock;
    /// the percentiles are then those of batches.
    fn time(&self, n: usize, batch: usize, mut work: impl FnMut(usize)) -> Round {
        let round = |_| {
            let times = (0..n / self.less / batch).map(|at| {
                let start = Instant::now();
                for offset in 0..batch {
                    work(at * batch + offset);
                }
                start.elapsed().as_secs_f64() / batch as f64
            });
            Round::new(times.collect())
        };
        quietest((0..self.rounds).map(round).collect())
    }

    /// The same for what waits.
    async fn wait<T>(
        &self,
        n: usize,
        mut work: impl AsyncFnMut(usize) -> Result<T>,
    ) -> Result<Round> {
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            let mut times = Vec::new();
            for at in 0..n / self.less {
                let start = Instant::now();
                black_box(work(at).await?);
                times.push(start.elapsed().as_secs_f64());
            }
            rounds.push(Round::new(times));
        }
        Ok(quietest(rounds))
    }
}

impl Bench {
    /// The median time of `one` over that of `other`, and how many times they are the medians of. They take turns, each going
    /// first as often as second, so that what else the machine does slows both.
    fn ratio(&self, n: usize, mut one: impl FnMut(), mut other: impl FnMut()) -> (f64, usize) {
        const BATCH: usize = 20;
        let time = |work: &mut dyn FnMut()| {
            let start = Instant::now();
            (0..BATCH).for_each(|_| work());
            start.elapsed().as_secs_f64()
        };
        let (mut ones, mut others) = (Vec::new(), Vec::new());
        for at in 0..n / self.less / BATCH {
            if at % 2 == 0 {
                ones.push(time(&mut one));
                others.push(time(&mut other));
            } else {
                others.push(time(&mut other));
                ones.push(time(&mut one));
            }
        }
        let median = |times| Round::new(times).quantile(0.5);
        let count = ones.len();
        (median(ones) / median(others), count)
    }
}

fn report(name: &str, round: &Round, target: &str) {
    let micros = |seconds: f64| seconds * 1e6;
    let line = json!({
        "name": name, "unit": "µs", "mean": micros(round.mean()), "p50": micros(round.quantile(0.5)),
        "p99": micros(round.quantile(0.99)), "n": round.0.len(), "target": target,
    });
    println!("{line}");
}

/// A figure that is no distribution of times.
fn report_value(name: &str, unit: &str, value: f64, n: usize, target: &str) {
    let line = json!({ "name": name, "unit": unit, "mean": value, "p50": null, "p99": null, "n": n, "target": target });
    println!("{line}");
}

// One thread, as a session has; other work of the runtime would only add noise.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let quick = std::env::args().any(|option| option == "--quick");
    let bench = if quick {
        Bench {
            rounds: 2,
            less: 10,
        }
    } else {
        Bench { rounds: 7, less: 1 }
    };
    let server = RedisServer::start().await;
    let redis = Redis::open(&server.url(), "costs")?;
    redis.ping().await?;
    tokens(&bench).await?;
    tickets(&bench, &redis).await?;
    refusals(&bench)?;
    limits(&bench, &redis).await?;
    texts(&bench)?;
    sealing(&bench);
    audit(&bench).await
}

async fn tokens(bench: &Bench) -> Result {
    const ISSUER: &str = "https://issuer.example";
    let now = SystemTime::now();
    let policy = || IssuerPolicy::new(ISSUER, ["llmrtc".to_owned()]);
    let request = MintRequest::new("ada@example.org", Duration::from_secs(3600));

    let secret = Secret::new("a shared secret of sixty-four bytes, long enough for all of them");
    let minter = Minter::shared(HmacAlgorithm::Hs256, &secret, ISSUER, "llmrtc")?;
    let verifier = Verifier::shared(
        policy(),
        SharedSecrets::new(&[HmacAlgorithm::Hs256], &secret, None)?,
    );
    let token = minter.mint(&request, now)?;
    let round = bench
        .wait(5_000, async |_| {
            Ok(verifier.verify(token.expose(), now).await?)
        })
        .await?;
    report("JWT verification, HS256", &round, "≤ 30 µs");

    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let algorithm = PublicAlgorithm::Es256;
    let minter = Minter::private(
        algorithm,
        &Secret::new(pair.serialize_pem()),
        ISSUER,
        "llmrtc",
    )?;
    let key = PublicKey::from_pem(algorithm, None, &pair.public_key_pem())?;
    let verifier = Verifier::public(policy(), vec![key])?;
    let token = minter.mint(&request, now)?;
    let round = bench
        .wait(2_000, async |_| {
            Ok(verifier.verify(token.expose(), now).await?)
        })
        .await?;
    report("JWT verification, ES256", &round, "≤ 200 µs");
    Ok(())
}

async fn tickets(bench: &Bench, redis: &Redis) -> Result {
    let address = IpAddr::from([192, 0, 2, 1]);
    let ada = Principal::user("ada@example.org", Some("acme".into()));
    let stores: [(_, Arc<dyn TicketStore>); 2] = [
        ("memory", Arc::new(MemoryTickets::default())),
        ("Redis", Arc::new(RedisTickets::new(redis.clone()))),
    ];
    for (name, store) in stores {
        let tickets = Tickets::new(store).ttl(Duration::from_secs(600));
        let now = SystemTime::now();
        let mut rounds = Vec::new();
        for _ in 0..bench.rounds {
            let mut times = Vec::new();
            for _ in 0..2_000 / bench.less {
                let ticket = tickets.mint(TicketRequest::new(&ada), now).await?;
                let start = Instant::now();
                black_box(tickets.redeem(ticket.expose(), None, address, now).await?);
                times.push(start.elapsed().as_secs_f64());
            }
            rounds.push(Round::new(times));
        }
        report(&format!("ticket redemption, {name}"), &quietest(rounds), "");
    }
    Ok(())
}

/// Whether the time of a refusal tells how close a guess was (H8). Reported, never judged: other work on the machine
/// changes times by more than a comparison takes.
fn refusals(bench: &Bench) -> Result {
    let ada = Principal::user("ada@example.org", Some("acme".into()));
    let keys: Vec<Secret> = (0..100).map(|_| api_key::generate().0).collect();
    let mut known = ApiKeys::new();
    for key in &keys {
        known.insert_key(key, ada.clone())?;
    }
    let almost = |credential: &Secret| {
        let text = credential.expose();
        let last = if text.ends_with('A') { 'B' } else { 'A' };
        format!("{}{last}", &text[..text.len() - 1])
    };
    let (wrong, unknown) = (almost(&keys[0]), api_key::generate().0);
    if known.find(&wrong).is_some() || known.find(unknown.expose()).is_some() {
        return Err("a wrong key was accepted".into());
    }
    let find = |key: &str| drop(black_box(known.find(black_box(key))));
    let (ratio, n) = bench.ratio(200_000, || find(&wrong), || find(unknown.expose()));
    let name = "refused API key: almost one of 100, over unlike any";
    report_value(name, "×", ratio, n, "");

    let handles = SessionHandles::new(ResumeConfig::default());
    let issued: Vec<_> = (0..1_000)
        .map(|n| handles.issue(SessionId::from_u128(n), &ada, None))
        .collect();
    let now = Instant::now();
    let wrong_token = almost(&issued[0].token);
    let wrong_handle = almost(&issued[0].handle);
    let resume = |handle: &str| {
        let attempt = Attempt {
            handle,
            token: Some(&wrong_token),
            principal: &ada,
            origin: None,
        };
        black_box(handles.resume(black_box(attempt), now)).is_ok()
    };
    let handle = issued[0].handle.expose();
    if resume(handle) || resume(&wrong_handle) {
        return Err("a wrong token or handle was accepted".into());
    }
    let (ratio, n) = bench.ratio(200_000, || _ = resume(handle), || _ = resume(&wrong_handle));
    let name = "refused resumption: wrong token of a session, over an unknown handle";
    report_value(name, "×", ratio, n, "");
    Ok(())
}

async fn limits(bench: &Bench, redis: &Redis) -> Result {
    const CALLERS: usize = 10_000;
    let config = LimitsConfig::default();
    let callers: Vec<IpAddr> = (0..CALLERS)
        .map(|n| IpAddr::from([10, 1, (n >> 8) as u8, n as u8]))
        .collect();
    let start = Instant::now();
    let limits = Limits::new(&config, start);
    let ada = Principal::user("ada@example.org", Some("acme".into()));
    let subject = Subject::address(callers[0]).principal(&ada);
    // Time goes on from round to round, or buckets would never drain and the price would be that of refusals.
    let mut passed = Duration::ZERO;
    let mut tick = || {
        passed += Duration::from_millis(100);
        start + passed
    };
    let round = bench.time(1_000_000, 100, |_| {
        let _ = black_box(limits.message("ping", &subject, tick()));
    });
    report(
        "limiter decision, memory, a message of a user",
        &round,
        "≤ 1 µs",
    );
    // Without Redis a decision waits for nothing; the future is part of the price.
    let round = bench
        .wait(200_000, async |at| {
            let subject = Subject::address(callers[at % CALLERS]);
            Ok(limits.check(Scope::Http, &subject, 1, tick()).await.is_ok())
        })
        .await?;
    report(
        "limiter decision, memory, a request of one of 10,000 addresses",
        &round,
        "≤ 1 µs",
    );

    let shared = Limits::new(&config, start).shared(redis.clone());
    let round = bench
        .wait(5_000, async |at| {
            let subject = Subject::address(callers[at % CALLERS]);
            Ok(shared
                .check(Scope::Http, &subject, 1, Instant::now())
                .await
                .is_ok())
        })
        .await?;
    report("limiter decision, Redis", &round, "p99 ≤ 1 ms");
    Ok(())
}

/// The texts of the corpora: what people say, harmless or not, with the question before.
struct Utterance {
    text: String,
    previous: Option<String>,
    lang: Option<Lang>,
}

fn utterances(corpora: &Path) -> Result<Vec<Utterance>> {
    let mut all = Vec::new();
    for file in [
        "train/spoken.txt",
        "train/benign.txt",
        "test/spoken.txt",
        "test/written.txt",
        "test/benign.txt",
    ] {
        let table = fs::read_to_string(corpora.join("redact").join(file))?;
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let mut parts = line.splitn(3, '|').map(str::trim);
            let (Some(head), Some(previous), Some(text)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            all.push(Utterance {
                text: text.replace(['{', '}'], ""),
                previous: Some(previous.to_owned()).filter(|said| !said.is_empty()),
                lang: head
                    .split_once(' ')
                    .and_then(|(_, tag)| Lang::from_tag(tag)),
            });
        }
    }
    Ok(all)
}

/// Text that makes careless matchers quadratic, repeated.
// One of them is the beginning of a key without the key (tidy: keys are fixtures).
const SLOW: &[&str] = &[
    "1",
    "1 ",
    "4111 1111 1111 ",
    "one two ",
    "1-",
    "a.",
    "a@",
    "@",
    "a",
    "a:",
    "[at] [dot] ",
    "sk-",
    "-----BEGIN PRIVATE KEY-----",
    "https://",
    "my name is my card number is ",
    "My Name Is Mr. Smith ",
    "12 Baker Street ",
    "+1 (415) ",
    "3f2a9c1d",
    "é1 ",
];

fn texts(bench: &Bench) -> Result {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora");
    let utterances = utterances(&corpora)?;
    let redactor = Redactor::new(&RedactConfig::default())?;
    let policy = SinkPolicy::default();
    let redact = |at: usize| {
        let one = &utterances[at % utterances.len()];
        let context = Context {
            previous: one.previous.as_deref(),
            lang: one.lang,
            dialogue: None,
        };
        drop(black_box(
            redactor.redact(&one.text, &context, &policy, None),
        ));
    };
    // The automata are built at first use.
    (0..utterances.len()).for_each(redact);
    let round = bench.time(20_000, 1, redact);
    report(
        "redaction of an utterance",
        &round,
        "mean ≤ 20 µs, p99 ≤ 200 µs",
    );

    let slow: Vec<String> = SLOW
        .iter()
        .map(|unit| unit.repeat((1 << 20) / unit.len()))
        .collect();
    let rounds = slow.iter().zip(SLOW).map(|(text, unit)| {
        let redact = |_| drop(black_box(redactor.spans(text, &Context::default())));
        (bench.time(bench.less, 1, redact), unit)
    });
    if let Some((round, unit)) = rounds.max_by(|(a, _), (b, _)| a.mean().total_cmp(&b.mean())) {
        report_value(
            &format!("redaction of 1 MiB, the slowest of 20 texts (`{unit}`)"),
            "ms",
            round.mean() * 1e3,
            SLOW.len(),
            "≤ 100 ms",
        );
    }

    let guard = Guard::default();
    let lines = fs::read_to_string(corpora.join("guard/train.jsonl"))?;
    let rows: Vec<serde_json::Value> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()?;
    let spoken: Vec<&str> = rows
        .iter()
        .filter(|row| row["source"] == "user")
        .filter_map(|row| row["text"].as_str())
        .collect();
    let screen = |at: usize| {
        drop(black_box(
            guard.screen(spoken[at % spoken.len()], Source::User),
        ))
    };
    (0..spoken.len()).for_each(screen);
    let round = bench.time(20_000, 1, screen);
    report("guard on an utterance", &round, "≤ 50 µs");
    Ok(())
}

fn sealing(bench: &Bench) {
    let user_key = UserKey::generate();
    let place = Binding {
        tenant: Some("acme"),
        user: "ada@example.org",
        session: "00112233445566778899aabbccddeeff",
        record: "0123456789abcdef0123456789abcdef",
        field: "transcript",
        version: 0,
    };
    let data_key = DataKey::generate(&user_key, Instant::now());
    let seal = |plaintext: &[u8]| {
        data_key
            .seal(&place, plaintext)
            .expect("far from the limits of a key")
    };
    let (line, recording) = (vec![b'x'; 200], vec![0x55; 1 << 20]);
    let sealed = seal(&line);
    let record = SealedRecord::parse(&sealed).expect("our own record");
    let key = user_key.unwrap_data_key(record.key()).expect("our own key");
    let opening = OpeningKey::new(&key);

    let round = bench.time(50_000, 10, |_| drop(black_box(seal(black_box(&line)))));
    report("sealing a line of 200 bytes", &round, "≤ 2 µs");
    let round = bench.time(50_000, 10, |_| {
        drop(black_box(record.open(&opening, black_box(&place))))
    });
    report("opening a line of 200 bytes", &round, "");
    let round = bench.time(100, 1, |_| drop(black_box(seal(black_box(&recording)))));
    let per_second = recording.len() as f64 / round.mean() / 1e9;
    report_value(
        "sealing 1 MiB",
        "GB/s",
        per_second,
        round.0.len(),
        "≥ 1 GB/s",
    );
}

async fn audit(bench: &Bench) -> Result {
    let folder = tempfile::tempdir()?;
    let config = AuditConfig {
        path: folder.path().join("audit.jsonl"),
        key_file: folder.path().join("audit.key"),
        rotate_bytes: 1 << 40,
        ..AuditConfig::default()
    };
    let tasks = Tasks::root("audit");
    let audit = Audit::start(
        &config,
        AuditOptions::default(),
        Arc::new(SystemClock),
        &tasks,
    )
    .await?;
    let ada = Principal::user("ada@example.org", Some("acme".into()));
    let event = |n: usize| {
        let action = Action::RateLimited {
            limit: "connections_per_ip",
            retry_after: Duration::from_millis(n as u64),
        };
        AuditEvent::new(action)
            .by(&ada)
            .session(SessionId::random())
            .from([192, 0, 2, 1].into())
    };
    // The whole way: rendering, queue, hash chain, mac, signed heads, file.
    let events = 100_000 / bench.less;
    let mut fastest = 0.0_f64;
    for _ in 0..bench.rounds {
        let start = Instant::now();
        for n in 0..events {
            audit.record(event(n));
            // Callers of a server yield too; without, this loop alone would overrun any queue.
            if n % 4_096 == 4_095 {
                audit.sign_head().await?;
            }
        }
        audit.sign_head().await?;
        fastest = fastest.max(events as f64 / start.elapsed().as_secs_f64());
    }
    let lost: u64 = audit.stats().dropped.iter().map(|(_, count)| count).sum();
    if lost > 0 {
        return Err(format!("{lost} audit events were lost: the rate means nothing").into());
    }
    report_value(
        "audit events",
        "per second",
        fastest,
        events,
        "≥ 100,000 per second",
    );
    let round = bench
        .wait(100, async |_| {
            Ok(audit
                .record_durable(AuditEvent::new(Action::AuthSucceeded { method: "jwt" }).by(&ada))
                .await?)
        })
        .await?;
    report("durable audit event, with fsync", &round, "");
    tasks.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
