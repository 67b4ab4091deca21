//! E4, T8 and H7 for single records.

use proptest::prelude::*;

use super::*;

const HERE: Binding<'static> = Binding {
    tenant: Some("acme"),
    user: "ada",
    session: "s1",
    record: "r1",
    field: "transcript",
    version: 0,
};

struct Fixture {
    user_key: UserKey,
    data_key: DataKey,
}

fn fixture() -> Fixture {
    let user_key = UserKey::generate();
    let data_key = DataKey::generate(&user_key, Instant::now());
    Fixture { user_key, data_key }
}

impl Fixture {
    fn open(&self, bytes: &[u8], binding: &Binding<'_>) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let record = SealedRecord::parse(bytes)?;
        let key = self
            .user_key
            .unwrap_data_key(record.key())
            .map_err(|_| OpenError::Rejected)?;
        record.open(&OpeningKey::new(&key), binding)
    }
}

#[test]
fn e4_a_record_comes_back_and_shows_nothing() {
    let fixture = fixture();
    for plaintext in [&b""[..], b"x", &[7; 200], &[9; 70_000]] {
        let sealed = fixture.data_key.seal(&HERE, plaintext).unwrap();
        assert_eq!(**fixture.open(&sealed, &HERE).unwrap(), *plaintext);
        assert!(plaintext.len() < 2 || !sealed.windows(plaintext.len()).any(|w| w == plaintext));
    }
    let twice = [(); 2].map(|()| fixture.data_key.seal(&HERE, b"same").unwrap());
    assert_ne!(twice[0], twice[1]);
}

#[test]
fn e4_the_format_is_what_the_documentation_says() {
    let fixture = fixture();
    let sealed = fixture.data_key.seal(&HERE, b"four").unwrap();
    assert_eq!(&sealed[..7], b"LLMR\x01\x01\x10");
    assert_eq!(&sealed[7..23], fixture.user_key.id().as_str().as_bytes());
    assert_eq!(&sealed[23..25], &[0, 60]);
    assert_eq!(sealed.len(), 25 + 60 + 12 + 4 + 16);
}

#[test]
fn e4_flipping_any_byte_or_cutting_anywhere_is_an_error() {
    let fixture = fixture();
    let sealed = fixture.data_key.seal(&HERE, b"my card is 4111").unwrap();
    for index in 0..sealed.len() {
        for bit in 0..8 {
            let mut bent = sealed.clone();
            bent[index] ^= 1 << bit;
            assert!(
                fixture.open(&bent, &HERE).is_err(),
                "byte {index} bit {bit}"
            );
        }
        assert!(
            fixture.open(&sealed[..index], &HERE).is_err(),
            "cut {index}"
        );
    }
    let longer = [&sealed[..], b"\0"].concat();
    assert!(fixture.open(&longer, &HERE).is_err());
}

#[test]
fn e4_what_is_unknown_fails_closed() {
    let fixture = fixture();
    let mut sealed = fixture.data_key.seal(&HERE, b"x").unwrap();
    sealed[4] = 2;
    assert_eq!(
        fixture.open(&sealed, &HERE).unwrap_err(),
        OpenError::UnknownVersion(2)
    );
    sealed[4] = 1;
    sealed[5] = 9;
    assert_eq!(
        fixture.open(&sealed, &HERE).unwrap_err(),
        OpenError::UnknownAlgorithm(9)
    );
    sealed[5] = 1;
    assert!(fixture.open(&sealed, &HERE).is_ok());
    let stranger = Fixture {
        user_key: UserKey::generate(),
        data_key: DataKey::generate(&fixture.user_key, Instant::now()),
    };
    assert!(stranger.open(&sealed, &HERE).is_err());
}

#[test]
fn t8_a_record_opens_in_its_own_place_only() {
    let fixture = fixture();
    let sealed = fixture.data_key.seal(&HERE, b"x").unwrap();
    for elsewhere in [
        Binding {
            tenant: None,
            ..HERE
        },
        Binding {
            tenant: Some("acm"),
            user: "eada",
            ..HERE
        },
        Binding {
            user: "eve",
            ..HERE
        },
        Binding {
            session: "s2",
            ..HERE
        },
        Binding {
            record: "r2",
            ..HERE
        },
        Binding {
            field: "audio",
            ..HERE
        },
        Binding { version: 1, ..HERE },
        Binding {
            session: "s1r",
            record: "1",
            ..HERE
        },
    ] {
        assert_eq!(
            fixture.open(&sealed, &elsewhere).unwrap_err(),
            OpenError::Rejected,
            "{elsewhere:?}"
        );
    }
    let nowhere = Binding {
        tenant: None,
        ..HERE
    };
    let empty = Binding {
        tenant: Some(""),
        ..HERE
    };
    let sealed = fixture.data_key.seal(&nowhere, b"x").unwrap();
    assert!(
        fixture.open(&sealed, &empty).is_err(),
        "no tenant is not the empty one"
    );
}

#[test]
fn e4_a_data_key_is_replaced_early_and_refuses_at_its_limit() {
    let start = Instant::now();
    let key = fixture().data_key;
    assert!(!key.is_due(start));
    assert!(!key.is_due(start + ROTATE_AFTER - Duration::from_secs(60)));
    assert!(key.is_due(start + ROTATE_AFTER + Duration::from_secs(60)));
    key.sealed
        .store(ROTATE_AFTER_MESSAGES - 1, Ordering::Relaxed);
    assert!(!key.is_due(start));
    key.seal(&HERE, b"x").unwrap();
    assert!(key.is_due(start));
    key.sealed.store(MAX_MESSAGES - 1, Ordering::Relaxed);
    key.seal(&HERE, b"the last").unwrap();
    assert_eq!(key.seal(&HERE, b"one more"), Err(SealError::Exhausted));
    assert_eq!(key.seal(&HERE, b"and again"), Err(SealError::Exhausted));
}

#[test]
fn e4_too_long_a_plaintext_is_refused() {
    let key = fixture().data_key;
    let long = vec![0; MAX_PLAINTEXT_BYTES + 1];
    assert_eq!(key.seal(&HERE, &long), Err(SealError::TooLong));
    assert!(key.seal(&HERE, &long[1..]).is_ok());
}

proptest! {
    #[test]
    fn h7_opening_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300), keep in 0_usize..120) {
        let fixture = fixture();
        prop_assert!(fixture.open(&noise, &HERE).is_err());
        // Noise behind a true beginning comes further into the parser.
        let sealed = fixture.data_key.seal(&HERE, b"hello").unwrap();
        let keep = keep.min(sealed.len());
        let mixed = [&sealed[..keep], &noise[..]].concat();
        prop_assert!(mixed == sealed || fixture.open(&mixed, &HERE).is_err());
    }
}
