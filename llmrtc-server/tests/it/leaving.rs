//! A server on its way out.

use llmrtc_core::testing::{ScriptedLlm, ScriptedStt};
use llmrtc_server::client::CallError;
use llmrtc_signal::client::{ConnectError, LostReason, Options};

use crate::harness::{Site, config, providers, voice};

async fn refuses(site: &Site) {
    let refused = site.dial(Options::new(site.url())).await;
    let Err(CallError::Connect(ConnectError::Refused { status: 503 })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(site.get("/ready").await.0, 503);
    assert_eq!(site.get("/health").await.0, 200);
}

#[tokio::test]
async fn an_audible_reply_is_finished_before_the_server_leaves() {
    let llm = ScriptedLlm::saying("This takes a while to say, but not for ever.");
    let mut site = Site::with(providers(ScriptedStt::hearing("Well?"), llm, voice())).await;
    let (mut caller, mut idle) = (site.call().await, site.connect().await);
    caller.send(crate::harness::WORDS.to_wav()).await;
    caller.until_audible().await;
    site.shutdown.begin();
    refuses(&site).await;
    assert_eq!(idle.lost().await, LostReason::Server(Some(1001)));
    caller.until("tts-complete").await;
    assert_eq!(caller.lost().await, LostReason::Server(Some(1001)));
    site.ended().await;
}

#[tokio::test]
async fn without_grace_a_reply_is_cut_off() {
    let llm = ScriptedLlm::saying(&"Nobody waits for the end of this. ".repeat(30));
    let providers = providers(ScriptedStt::hearing("Well?"), llm, voice());
    let mut site = Site::start(config("shutdown.grace = \"0s\""), Some(providers)).await;
    let mut caller = site.call().await;
    caller.send(crate::harness::WORDS.to_wav()).await;
    caller.until_audible().await;
    site.shutdown.begin();
    assert_eq!(caller.lost().await, LostReason::Server(Some(1001)));
    assert!(!caller.kinds().contains(&"tts-complete"), "{caller:?}");
    site.ended().await;
}
