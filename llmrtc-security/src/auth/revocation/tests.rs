//! B8: revocation.

use std::time::UNIX_EPOCH;

use futures_util::FutureExt;

use super::*;
use crate::auth::principal::Credential;

const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn caller(subject: &str, id: &str, issued: Option<SystemTime>) -> Principal {
    Principal::user(subject, Some("acme".into())).with_credential(Credential {
        token_id: Some(id.into()),
        issued_at: issued,
        ..Credential::default()
    })
}

#[test]
fn b8_a_token_ends_alone_and_a_caller_with_everything_issued_before() {
    let revocations = Revocations::new(HOUR);
    let (first, second) = (
        caller("ann", "1", Some(at(0))),
        caller("ann", "2", Some(at(10))),
    );
    assert!(!revocations.is_revoked(&first) && revocations.is_empty());

    let token = |id: &str| Revocation::Token {
        token_id: id.into(),
    };
    revocations.revoke(token("1"), at(20)).unwrap();
    assert!(revocations.is_revoked(&first) && !revocations.is_revoked(&second));

    revocations
        .revoke(Revocation::of(&second, at(20)), at(20))
        .unwrap();
    assert!(revocations.is_revoked(&second));
    assert!(revocations.is_revoked(&caller("ann", "3", Some(at(20)))));
    assert!(!revocations.is_revoked(&caller("ann", "3", Some(at(21)))));
    assert!(
        revocations.is_revoked(&caller("ann", "3", None)),
        "no date is no excuse"
    );
    // Nobody else.
    assert!(!revocations.is_revoked(&caller("bob", "4", Some(at(0)))));
    let mut elsewhere = second.clone();
    elsewhere.tenant = None;
    assert!(!revocations.is_revoked(&elsewhere));
    let program = Principal::service("ann", Some("acme".into()));
    assert!(!revocations.is_revoked(&program));

    // Old news change nothing.
    revocations
        .revoke(Revocation::of(&second, at(5)), at(30))
        .unwrap();
    assert!(revocations.is_revoked(&second));
}

#[test]
fn the_table_is_bounded_and_forgets_what_ended_by_itself() {
    let mut revocations = Revocations::new(HOUR);
    revocations.max = 2;
    let token = |id: &str| Revocation::Token {
        token_id: id.into(),
    };
    revocations.revoke(token("1"), at(0)).unwrap();
    revocations.revoke(token("2"), at(1800)).unwrap();
    assert_eq!(revocations.revoke(token("3"), at(3599)), Err(Full));
    revocations.revoke(token("2"), at(3599)).unwrap();
    revocations.revoke(token("3"), at(3600)).unwrap();
    assert!(!revocations.is_revoked(&caller("x", "1", Some(at(0)))));
    assert_eq!(revocations.len(), 2);
}

#[tokio::test]
async fn b8_a_running_session_hears_of_it() {
    let revocations = Revocations::new(HOUR);
    let ann = caller("ann", "1", Some(at(0)));
    let mut revoked = std::pin::pin!(revocations.revoked(&ann));
    assert!(revoked.as_mut().now_or_never().is_none());
    let other = Revocation::of(&caller("bob", "9", None), at(1));
    revocations.revoke(other, at(1)).unwrap();
    assert!(revoked.as_mut().now_or_never().is_none());
    revocations
        .revoke(Revocation::of(&ann, at(1)), at(1))
        .unwrap();
    assert!(revoked.now_or_never().is_some());
    assert!(revocations.revoked(&ann).now_or_never().is_some());
}
