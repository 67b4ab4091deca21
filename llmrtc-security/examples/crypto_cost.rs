#![expect(clippy::print_stdout, reason = "an example prints its result")]
//! What encryption at rest costs: the time to seal a line of a transcript, and the throughput of a long recording.
//!
//! `cargo run --release -p llmrtc-security --example crypto_cost`

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use llmrtc_security::crypto::{
    record::{Binding, DataKey, OpeningKey, SealedRecord},
    shred::UserKey,
};

const ROUNDS: u32 = 7;

fn main() {
    let user_key = UserKey::generate();
    let data_key = DataKey::generate(&user_key, Instant::now());
    let place = Binding {
        tenant: Some("acme"),
        user: "ada@example.org",
        session: "00112233445566778899aabbccddeeff",
        record: "0123456789abcdef0123456789abcdef",
        field: "transcript",
        version: 0,
    };
    let seal = |plaintext: &[u8]| {
        data_key
            .seal(&place, plaintext)
            .expect("far from the limits of a key")
    };

    let (line, minute) = (vec![b'x'; 200], vec![0x55; 1 << 20]);
    let sealed = seal(&line);
    let record = SealedRecord::parse(&sealed).expect("our own record");
    let key = user_key.unwrap_data_key(record.key()).expect("our own key");
    let opening = OpeningKey::new(&key);

    let each = best(20_000, || drop(black_box(seal(black_box(&line)))));
    println!("seal a 200-byte line      {:>8.3} µs", micros(each));
    let each = best(20_000, || {
        drop(black_box(record.open(&opening, black_box(&place))));
    });
    println!("open a 200-byte line      {:>8.3} µs", micros(each));
    let each = best(100, || drop(black_box(seal(black_box(&minute)))));
    let per_second = minute.len() as f64 / each.as_secs_f64() / 1e9;
    println!("seal 1 MiB                {per_second:>8.3} GB/s");
}

/// The mean of the quietest round, which is what the machine can do when nobody else uses it.
fn best(times: u32, mut work: impl FnMut()) -> Duration {
    let round = |_| {
        let start = Instant::now();
        for _ in 0..times {
            work();
        }
        start.elapsed() / times
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
