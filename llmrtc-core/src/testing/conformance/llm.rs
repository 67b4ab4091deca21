//! Checks of [`LlmProvider`].

use futures_util::StreamExt;

use super::{
    ANSWER, Behaviour, ProviderFixture, REFUSALS, check_dropping_cancels, check_refusal, soon,
};
use crate::{
    message::Message,
    provider::{CallContext, LlmChunk, LlmProvider, LlmRequest, StopReason},
};

type Llm = dyn LlmProvider;

fn request() -> LlmRequest {
    LlmRequest {
        messages: vec![Message::system("Be brief."), Message::user("Hi")],
        ..LlmRequest::default()
    }
}

/// Pieces are not empty, make up the answer, and are followed by exactly one end.
pub async fn text_arrives_in_order_and_ends_once<F: ProviderFixture<Llm>>() {
    let fixture = F::start(Behaviour::Answer).await;
    let provider = fixture.provider();
    let cx = CallContext::detached();
    assert!(!provider.name().is_empty());
    soon("init", provider.init()).await.expect("init");
    soon("second init", provider.init())
        .await
        .expect("idempotent");
    let stream = provider.stream(request(), &cx);
    let stream = soon("the stream", stream).await.expect("stream");
    let chunks: Vec<_> = soon("the end", stream.collect()).await;
    let (mut text, mut pieces, mut ends) = (String::new(), 0, 0);
    for chunk in chunks {
        let chunk = chunk.expect("no failure in the answer");
        assert_eq!(ends, 0, "{chunk:?} came after the end");
        match chunk {
            LlmChunk::Text(piece) => {
                assert!(!piece.is_empty(), "an empty piece");
                text.push_str(&piece);
                pieces += 1;
            }
            LlmChunk::End(reason) => {
                assert_eq!(reason, StopReason::EndTurn);
                ends += 1;
            }
            _ => {}
        }
    }
    assert_eq!((text.as_str(), ends), (ANSWER, 1));
    assert!(pieces >= 2, "the answer did not stream");
}

/// A one-shot call gives the same answer.
pub async fn complete_is_the_folded_stream<F: ProviderFixture<Llm>>() {
    let fixture = F::start(Behaviour::Answer).await;
    let provider = fixture.provider();
    let cx = CallContext::detached();
    let result = soon("the result", provider.complete(request(), &cx)).await;
    let result = result.expect("complete");
    assert_eq!(result.text, ANSWER);
    assert_eq!(result.stop_reason, Some(StopReason::EndTurn));
}

/// A request whose future is dropped ends at the backend.
pub async fn dropping_the_request_cancels_it<F: ProviderFixture<Llm>>() {
    let fixture = F::start(Behaviour::Silent).await;
    let provider = fixture.provider();
    let cx = CallContext::detached();
    // A silent backend may have said that an answer will come, so the call includes the first piece of it.
    let call = async {
        match provider.stream(request(), &cx).await {
            Ok(mut stream) => drop(stream.next().await),
            Err(error) => panic!("{error}"),
        }
    };
    check_dropping_cancels(&fixture, call).await;
}

/// A stream that is dropped ends at the backend.
pub async fn dropping_the_stream_cancels_it<F: ProviderFixture<Llm>>() {
    let fixture = F::start(Behaviour::Stall).await;
    let provider = fixture.provider();
    let cx = CallContext::detached();
    let stream = provider.stream(request(), &cx);
    let mut stream = soon("the stream", stream).await.expect("stream");
    let first = soon("the first piece", stream.next()).await;
    first.expect("a piece").expect("no failure");
    drop(stream);
    soon("the cancellation", fixture.cancelled()).await;
}

/// Refusals have the right kind.
pub async fn refusals_are_classified<F: ProviderFixture<Llm>>() {
    for kind in REFUSALS {
        let fixture = F::start(Behaviour::Refuse(kind)).await;
        let provider = fixture.provider();
        let cx = CallContext::detached();
        let call = provider.complete(request(), &cx);
        check_refusal(kind, soon("the refusal", call).await);
    }
}

/// An answer that breaks off ends with a failure, or at least says that it was cut.
pub async fn a_broken_stream_does_not_look_complete<F: ProviderFixture<Llm>>() {
    let fixture = F::start(Behaviour::Break).await;
    let provider = fixture.provider();
    let cx = CallContext::detached();
    let call = provider.complete(request(), &cx);
    match soon("the end", call).await {
        Err(_) => {}
        Ok(result) => assert_eq!(result.stop_reason, Some(StopReason::Truncated)),
    }
}
