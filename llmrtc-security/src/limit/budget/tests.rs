use futures_util::FutureExt;
use serde_json::json;

use super::*;
use crate::{redis::Redis, testing::RedisServer};

const NOON: Duration = Duration::from_secs(20_000 * DAY_SECS + DAY_SECS / 2);

fn config() -> LimitsConfig {
    let config: LimitsConfig = serde_json::from_value(json!({ "nodes": 2, "budget": {
        "classes": {
            "default": { "money": 0.5, "tokens": 100_000 },
            "gold": { "money": 20 },
        },
        "prices": {
            "acme/large": { "input_per_million": 2.5, "output_per_million": 10 },
            "acme": { "input_per_million": 0.1, "output_per_million": 0.4 },
            "speech": { "characters_per_million": 15, "audio_per_minute": 0.006 },
        },
    }}))
    .unwrap();
    config.validate().unwrap();
    config
}

fn cost(micros: u64, tokens: u64) -> Cost {
    Cost { micros, tokens }
}

fn at(after_noon: u64) -> SystemTime {
    UNIX_EPOCH + NOON + Duration::from_secs(after_noon)
}

#[test]
fn prices_are_those_of_the_model_else_of_the_provider() {
    let budget = config().budget;
    let tokens = Usage {
        input_tokens: 1_000,
        output_tokens: 200,
        ..Usage::default()
    };
    let speech = Usage {
        characters: 100,
        audio: Duration::from_secs(90),
        ..Usage::default()
    };
    for (provider, model, usage, expected) in [
        ("acme", "large", &tokens, cost(2_500 + 2_000, 1_200)),
        ("acme", "small", &tokens, cost(100 + 80, 1_200)),
        ("local", "any", &tokens, cost(0, 1_200)),
        ("speech", "", &speech, cost(1_500 + 9_000, 0)),
        (
            "acme",
            "small",
            &Usage {
                input_tokens: 1,
                ..Usage::default()
            },
            cost(1, 1),
        ),
        ("acme", "large", &Usage::default(), cost(0, 0)),
    ] {
        assert_eq!(
            budget.cost(provider, model, usage),
            expected,
            "{provider}/{model}"
        );
    }
}

#[test]
fn t28_a_client_is_stopped_at_its_budget_and_starts_anew_the_next_day() {
    let budgets = Budgets::new(&config());
    let ada = Principal::user("ada", None);
    let reserve = |who: &Principal, class: Option<&str>, cost: Cost, now| {
        budgets
            .reserve(who, "", class, cost, now)
            .now_or_never()
            .unwrap()
    };
    let extend = |turn: &mut Reservation, cost, now| turn.extend(cost, now).now_or_never().unwrap();

    // Half is set aside, a tenth was used.
    let turn = reserve(&ada, None, cost(250_000, 0), at(0)).unwrap();
    assert!(reserve(&ada, None, cost(250_001, 0), at(0)).is_err());
    turn.settle(cost(50_000, 10), at(1)).now_or_never().unwrap();
    // A turn that goes on and on is stopped where the budget ends.
    let mut turn = reserve(&ada, None, cost(100_000, 0), at(2)).unwrap();
    let steps = (0..1_000)
        .take_while(|_| extend(&mut turn, cost(10_000, 100), at(3)).is_ok())
        .count();
    assert_eq!((steps, turn.reserved()), (35, cost(450_000, 3_500)));
    // It counts though nobody settles it.
    drop(turn);
    let spent = reserve(&ada, None, cost(1, 0), at(4)).unwrap_err();
    assert_eq!(
        spent,
        NoBudget::Spent {
            retry_after: Duration::from_secs(DAY_SECS / 2 - 4)
        }
    );
    assert_eq!(Rejection::from(spent).status(), 429);

    let bob = Principal::user("bob", None);
    assert!(
        reserve(&bob, None, cost(0, 100_001), at(5)).is_err(),
        "tokens count as well"
    );
    let mut bobs = reserve(&bob, Some("gold"), cost(19_000_000, 10_000_000), at(5)).unwrap();
    assert!(extend(&mut bobs, cost(1_000_001, 0), at(5)).is_err());

    let tomorrow = DAY_SECS / 2;
    assert!(reserve(&ada, None, cost(500_000, 0), at(tomorrow - 1)).is_err());
    let _today = reserve(&ada, None, cost(499_999, 0), at(tomorrow)).unwrap();
    // Yesterday's turn does not give anything back today, and a clock that goes back gives no second budget.
    bobs.settle(cost(0, 0), at(tomorrow))
        .now_or_never()
        .unwrap();
    assert!(reserve(&ada, None, cost(2, 0), at(0)).is_err());
}

#[test]
fn callers_without_identity_are_counted_by_what_is_known_of_them_and_no_class_means_no_budget() {
    let budgets = Budgets::new(&config());
    let nobody = Principal::anonymous();
    let reserve = |budgets: &Budgets, caller: &str| {
        budgets
            .reserve(&nobody, caller, None, cost(400_000, 0), at(0))
            .now_or_never()
            .unwrap()
            .is_ok()
    };
    assert!(reserve(&budgets, "192.0.2.1"));
    assert!(!reserve(&budgets, "192.0.2.1"));
    assert!(reserve(&budgets, "192.0.2.2"));
    let unlimited = Budgets::new(&LimitsConfig::default());
    assert!((0..100).all(|_| reserve(&unlimited, "192.0.2.1")));
}

#[tokio::test]
async fn budgets_are_shared_by_nodes_and_kept_apart_while_redis_is_down() {
    let mut server = RedisServer::start().await;
    let node = || Budgets::shared(&config(), Redis::open(&server.url(), "t").unwrap());
    let (one, two) = (node(), node());
    let ada = Principal::user("ada", None);
    let now = SystemTime::now();
    let turn = one
        .reserve(&ada, "", None, cost(400_000, 50_000), now)
        .await
        .unwrap();
    let Err(NoBudget::Spent { retry_after }) =
        two.reserve(&ada, "", None, cost(100_001, 0), now).await
    else {
        panic!("both nodes have the same budget");
    };
    assert!(retry_after <= Duration::from_secs(DAY_SECS));
    assert!(
        two.reserve(&ada, "", None, cost(0, 50_001), now)
            .await
            .is_err()
    );
    turn.settle(cost(100_000, 10_000), now).await;
    let mut turn = two
        .reserve(&ada, "", None, cost(400_000, 90_000), now)
        .await
        .unwrap();
    assert!(turn.extend(cost(1, 0), now).await.is_err());
    server.kill().await;
    // Each of two nodes has half a budget to go on with.
    assert!(turn.extend(cost(250_000, 0), now).await.is_ok());
    assert!(turn.extend(cost(1, 0), now).await.is_err());

    let mut closed = config();
    closed.when_shared_fails = WhenSharedFails::FailClosed;
    let closed = Budgets::shared(&closed, Redis::open(&server.url(), "t").unwrap());
    let refused = closed
        .reserve(&ada, "", None, cost(1, 0), now)
        .await
        .unwrap_err();
    assert_eq!(
        (refused, Rejection::from(refused).status()),
        (NoBudget::Unavailable, 503)
    );
}

#[test]
fn amounts_that_cannot_be_counted_are_refused() {
    for wrong in [
        json!({ "classes": { "default": { "money": -1 } } }),
        json!({ "classes": { "default": { "money": 1e12 } } }),
        json!({ "classes": { "default": { "tokens": 1_u64 << 53 } } }),
        json!({ "prices": { "acme": { "input_per_million": -0.1 } } }),
    ] {
        let config: BudgetConfig = serde_json::from_value(wrong.clone()).unwrap();
        assert!(config.validate().is_err(), "{wrong}");
    }
}
