//! Coming back to a conversation.

use llmrtc_core::{
    message::Message,
    testing::{Script, ScriptedLlm, ScriptedStt, ScriptedTts},
};
use llmrtc_security::auth::bind::Exposure;
use llmrtc_server::config::Config;
use llmrtc_signal::client::{LostReason, Options, Resume};

use crate::harness::{Caller, Site, providers};

fn llm() -> ScriptedLlm {
    ScriptedLlm::new()
        .then(Script::answer("Pleased to meet you."))
        .always(Script::answer("Of course."))
}

async fn site(llm: &ScriptedLlm) -> Site {
    Site::with(providers(
        ScriptedStt::hearing("I am Ada."),
        llm.clone(),
        ScriptedTts::new(),
    ))
    .await
}

pub(crate) fn resumed(caller: &Caller) -> Option<bool> {
    caller.call.greeting().resumed
}

fn id(caller: &Caller) -> &str {
    caller.call.greeting().session_id.expose()
}

/// What the model was told in its latest request, system prompt aside.
pub(crate) fn told(llm: &ScriptedLlm) -> Vec<String> {
    let request = llm.requests().pop().unwrap();
    request.messages[1..]
        .iter()
        .map(|message| message.text().to_owned())
        .collect()
}

#[tokio::test]
async fn a_client_that_lost_its_socket_finds_its_conversation() {
    let llm = llm();
    let site = site(&llm).await;
    let mut caller = site.connect().await;
    caller.ask().await;
    let (ticket, first) = (caller.ticket(), id(&caller).to_owned());
    // No goodbye: the socket and the peer vanish.
    drop(caller);

    let mut caller = site.resume(ticket.clone()).await;
    assert_eq!(resumed(&caller), Some(true));
    assert_eq!(id(&caller), first);
    assert_ne!(
        caller.ticket().resume_token.unwrap().expose(),
        ticket.resume_token.unwrap().expose(),
        "the token rotates"
    );
    caller.ask().await;
    assert_eq!(
        told(&llm),
        ["I am Ada.", "Pleased to meet you.", "I am Ada."]
    );

    // Once more, now with a goodbye and from the second token.
    let ticket = caller.ticket();
    caller.call.hang_up().await;
    let mut caller = site.resume(ticket).await;
    assert_eq!(
        (resumed(&caller), id(&caller)),
        (Some(true), first.as_str())
    );
    caller.ask().await;
    assert_eq!(told(&llm).len(), 5);
}

/// A network that drops everybody at once: callers without an identity share no cap but the global one.
#[tokio::test]
async fn more_callers_than_one_principal_may_leave_behind_find_their_conversations() {
    let llm = llm();
    let site = site(&llm).await;
    let mut callers = Vec::new();
    for _ in 0..20 {
        let mut caller = site.connect().await;
        caller.ask().await;
        callers.push(caller);
    }
    let tickets: Vec<_> = callers.iter().map(|caller| caller.ticket()).collect();
    drop(callers);
    for ticket in tickets {
        let mut caller = site.resume(ticket).await;
        assert_eq!(resumed(&caller), Some(true));
        caller.ask().await;
        assert!(told(&llm).len() > 1, "the history came along");
    }
}

#[tokio::test]
async fn an_id_that_is_none_begins_a_new_session() {
    let llm = llm();
    let site = site(&llm).await;
    let stranger = site.connect().await;
    let own = stranger.ticket();
    let ids: [&str; 5] = [
        "",
        "0f0c3c0e-7f0e-4a55-9b1f-3d9f5a1d2c77",
        &"A".repeat(43),
        &"x".repeat(20_000),
        "\u{0}é",
    ];
    for wrong in ids {
        let ticket = Resume {
            session_id: wrong.to_owned().into(),
            resume_token: own.resume_token.clone(),
        };
        let mut caller = site.resume(ticket).await;
        assert_eq!(resumed(&caller), Some(false), "{wrong:.50}");
        assert_ne!(id(&caller), wrong);
        caller.ask().await;
        assert_eq!(told(&llm), ["I am Ada."], "nobody else's history");
    }
    // A right id with a wrong token is worth as little, and its owner does not notice.
    let ticket = Resume {
        session_id: own.session_id,
        resume_token: Some("B".repeat(43).into()),
    };
    assert_eq!(resumed(&site.resume(ticket).await), Some(false));
    let mut stranger = stranger;
    stranger.ask().await;
}

#[tokio::test]
async fn a_session_belongs_to_the_page_that_opened_it() {
    let mut config = Config::default();
    config.server.insecure_no_auth = true;
    config.server.allowed_origins = vec!["https://a.example".into(), "https://b.example".into()];
    let llm = llm();
    let providers = providers(
        ScriptedStt::hearing("I am Ada."),
        llm.clone(),
        ScriptedTts::new(),
    );
    let site = Site::exposed(config, Some(providers), Exposure::OpenToNetwork).await;
    let from = async |page: &str, resume| {
        let options = Options {
            origin: Some(page.to_owned()),
            resume,
            ..Options::new(site.url())
        };
        site.dial(options).await.unwrap()
    };
    let mut owner = from("https://a.example", None).await;
    owner.ask().await;
    let ticket = owner.ticket();
    let thief = from("https://b.example", Some(ticket.clone())).await;
    assert_eq!(resumed(&thief), Some(false));
    owner.ask().await;
    let mut owner = from("https://a.example", Some(ticket)).await;
    assert_eq!(resumed(&owner), Some(true));
    owner.ask().await;
    assert_eq!(told(&llm).len(), 5);
}

#[tokio::test]
async fn whoever_resumes_takes_the_session_from_its_connection() {
    let llm = llm();
    let site = site(&llm).await;
    let mut first = site.connect().await;
    first.ask().await;
    let mut second = site.resume(first.ticket()).await;
    assert_eq!(resumed(&second), Some(true));
    assert_eq!(first.lost().await, LostReason::Server(Some(4001)));
    second.ask().await;
    assert_eq!(
        told(&llm),
        ["I am Ada.", "Pleased to meet you.", "I am Ada."]
    );
}

#[tokio::test]
async fn an_interrupted_reply_is_remembered_as_far_as_it_was_heard() {
    let reply: String = (1..=30)
        .map(|n| format!("This is sentence number {n}. "))
        .collect();
    let llm = ScriptedLlm::new()
        .then(Script::answer(&reply))
        .always(Script::answer("Of course."));
    let site = site(&llm).await;
    let mut first = site.connect().await;
    first.send(crate::harness::WORDS.to_wav()).await;
    first.until("tts-chunk").await;
    let mut second = site.resume(first.ticket()).await;
    second.ask().await;
    let request = llm.requests().pop().unwrap();
    assert_eq!(request.messages[1].text(), "I am Ada.");
    if let Message::Assistant { text, .. } = &request.messages[2] {
        assert!(text.len() < reply.len() / 2, "only what was heard: {text}");
    }
}

#[tokio::test]
async fn a_token_that_is_used_again_ends_the_session() {
    let llm = llm();
    let site = site(&llm).await;
    let first = site.connect().await;
    let stolen = first.ticket();
    drop(first);
    let mut owner = site.resume(stolen.clone()).await;
    assert_eq!(resumed(&owner), Some(true));
    owner.ask().await;
    let ticket = owner.ticket();

    let thief = site.resume(stolen).await;
    assert_eq!(resumed(&thief), Some(false));
    let LostReason::Server(Some(_)) = owner.lost().await else {
        panic!("{owner:?}")
    };
    let late = site.resume(ticket).await;
    assert_eq!(
        resumed(&late),
        Some(false),
        "nobody can tell owner and thief apart any more"
    );
}
