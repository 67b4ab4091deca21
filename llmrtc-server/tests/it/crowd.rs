//! Many callers at once.

use llmrtc_core::testing::{ScriptedLlm, ScriptedStt};
use tokio::task::JoinSet;

use crate::harness::{Site, providers, voice};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_callers_are_answered_at_once() {
    let site = Site::with(providers(
        ScriptedStt::hearing("Me?"),
        ScriptedLlm::saying("Yes."),
        voice(),
    ))
    .await;
    let site = std::sync::Arc::new(site);
    let mut callers = JoinSet::new();
    for _ in 0..32 {
        let site = std::sync::Arc::clone(&site);
        callers.spawn(async move {
            let mut caller = site.call().await;
            let turn = caller.turn().await;
            (caller, turn)
        });
    }
    let callers = callers.join_all().await;
    assert_eq!(callers.len(), 32);
    for (caller, turn) in callers {
        assert!(
            turn.transcript == "Me?" && turn.reply == "Yes.",
            "{turn:?} {caller:?}"
        );
    }
}
