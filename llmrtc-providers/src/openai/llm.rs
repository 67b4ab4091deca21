use std::sync::OnceLock;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use llmrtc_core::provider::{
    CallContext, ErrorKind, LlmCapabilities, LlmChunk, LlmProvider, LlmRequest, LlmStream,
    ProviderError,
};
use reqwest::{Method, Response, header::CONTENT_TYPE};
use serde_json::Value;

use super::{
    ChatConfig,
    chunk::{ChatDecoder, FrameError},
    dialect::ToolChoices,
    downgrade::Downgrades,
    endpoint,
    request::Shape,
    rules::rules,
    set,
};
use crate::{
    http::{Endpoint, Failure, HttpClient, MAX_REQUEST_BYTES},
    sse::SseDecoder,
};

/// What a server with one loaded model is asked for when it does not say what it has.
const UNKNOWN_LOCAL_MODEL: &str = "local-model";
/// How long a local server may take to list its models at start.
const MODELS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// After `[DONE]` the connection is only worth keeping if the body ends at once; HTTP/1.1 cannot reuse it otherwise.
const BODY_END_GRACE: std::time::Duration = std::time::Duration::from_millis(10);

/// Parameters whose refusal is corrected by leaving them out, longest name first where one contains another.
const OPTIONAL_PARAMETERS: &[&str] = &[
    "stream_options",
    "temperature",
    "top_p",
    "max_completion_tokens",
    "max_tokens",
    "stop",
    "reasoning_effort",
    "reasoning",
    "thinking",
    "chat_template_kwargs",
    "tool_choice",
    "tool_stream",
    "cache_prompt",
    "store",
    "verbosity",
    "service_tier",
    "prompt_cache_key",
];

/// A language model behind `/chat/completions`, always streamed.
///
/// ```no_run
/// use llmrtc_core::{message::Message, provider::{CallContext, LlmProvider, LlmRequest}};
/// use llmrtc_providers::{http::HttpClient, openai::{ChatConfig, Dialect, OpenAiLlm}};
///
/// # async fn example() -> Result<(), llmrtc_core::provider::ProviderError> {
/// let config = ChatConfig { dialect: Dialect::Ollama, ..ChatConfig::default() };
/// let llm = OpenAiLlm::new(config, HttpClient::new()?)?;
/// let request = LlmRequest { messages: vec![Message::user("Hello!")], ..LlmRequest::default() };
/// let answer = llm.complete(request, &CallContext::detached()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OpenAiLlm {
    config: ChatConfig,
    endpoint: Endpoint,
    /// The model that the server said it has loaded, where none is configured.
    loaded: OnceLock<String>,
    downgrades: Downgrades,
}

impl OpenAiLlm {
    /// Checks the configuration. Opens no connection; [`init`](LlmProvider::init) does.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming what is missing or malformed.
    pub fn new(config: ChatConfig, http: HttpClient) -> Result<Self, ProviderError> {
        let traits = config.dialect.traits();
        let endpoint = endpoint(
            http,
            traits.llm,
            config.dialect,
            config.api_key.as_ref(),
            config.base_url.as_deref(),
            &config.headers,
        )?;
        if traits.needs_model && set(config.model.as_deref()).is_none() {
            return Err(endpoint.error(ErrorKind::Config, "the model is not set"));
        }
        Ok(Self {
            config,
            endpoint,
            loaded: OnceLock::new(),
            downgrades: Downgrades::default(),
        })
    }

    /// The configured model, else the dialect's, else the loaded one.
    fn model(&self) -> &str {
        set(self.config.model.as_deref())
            .or(self.config.dialect.traits().model)
            .or(self.loaded.get().map(String::as_str))
            .unwrap_or(UNKNOWN_LOCAL_MODEL)
    }

    fn body(
        &self,
        request: &LlmRequest,
        model: &str,
        cx: &CallContext,
    ) -> Result<Value, ProviderError> {
        Shape {
            config: &self.config,
            model,
            openai_extras: self.endpoint.is_openai(),
            refused: &self.downgrades.of(model),
            session: cx.session_id,
        }
        .body(request)
        .map_err(|_| {
            self.endpoint
                .error(ErrorKind::TooLarge, "an image exceeds 10 MiB")
        })
    }

    async fn post(&self, body: &Value) -> Result<Response, Failure> {
        let bytes = Bytes::from(body.to_string());
        if bytes.len() > MAX_REQUEST_BYTES {
            let message = format!("the request exceeds {MAX_REQUEST_BYTES} bytes");
            return Err(self.endpoint.error(ErrorKind::TooLarge, message).into());
        }
        self.endpoint
            .send(|| {
                Ok(self
                    .endpoint
                    .request(Method::POST, "chat/completions")
                    .header(CONTENT_TYPE, "application/json")
                    .body(bytes.clone()))
            })
            .await
    }

    /// What is wrong with the answer's head, and whether it is a whole JSON answer instead of a stream.
    fn is_whole(&self, response: &Response) -> Result<bool, ProviderError> {
        let media_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.trim().to_ascii_lowercase())
            .unwrap_or_default();
        if media_type.starts_with("text/html") {
            let message = "the answer is an HTML page; is the base URL right?";
            return Err(self.endpoint.error(ErrorKind::Protocol, message));
        }
        // Everything else is read as a stream: several servers label theirs `text/plain` or not at all.
        Ok(media_type.starts_with("application/json"))
    }

    /// The first model in the server's list.
    async fn first_model(&self) -> Result<Option<String>, ProviderError> {
        let request = || {
            Ok(self
                .endpoint
                .request(Method::GET, "models")
                .timeout(MODELS_TIMEOUT))
        };
        let response = self
            .endpoint
            .send(request)
            .await
            .map_err(|failure| failure.error)?;
        let list = self.endpoint.json(response).await?;
        let first = list.pointer("/data/0/id").and_then(Value::as_str);
        Ok(first.map(str::to_owned))
    }
}

#[async_trait]
impl LlmProvider for OpenAiLlm {
    fn name(&self) -> &str {
        self.endpoint.provider()
    }

    fn model(&self) -> Option<&str> {
        Some(OpenAiLlm::model(self)).filter(|model| *model != UNKNOWN_LOCAL_MODEL)
    }

    fn capabilities(&self) -> LlmCapabilities {
        let rules = rules(self.config.dialect, self.model());
        LlmCapabilities {
            vision: self.config.vision.unwrap_or(rules.vision),
            forced_tool_choice: matches!(
                self.config.dialect.traits().tool_choices,
                ToolChoices::All | ToolChoices::Words
            ),
            ..LlmCapabilities::default()
        }
    }

    /// Warms the connection. A server that hosts its own models is asked which one it has loaded, unless one is
    /// configured. A server that cannot be reached yet is a warning: it may come up before the first call.
    async fn init(&self) -> Result<(), ProviderError> {
        if set(self.config.model.as_deref()).is_some()
            || self.config.dialect.traits().model.is_some()
            || self.loaded.get().is_some()
        {
            self.endpoint.warm().await;
            return Ok(());
        }
        match self.first_model().await {
            Ok(Some(model)) => {
                tracing::info!(provider = self.name(), %model, "using the model the server has loaded");
                // Only lost to a concurrent `init`, which asked the same server.
                let _ = self.loaded.set(model);
            }
            Ok(None) => tracing::warn!(provider = self.name(), "the server lists no models"),
            Err(error) => tracing::warn!(%error, "cannot ask the server for its models"),
        }
        Ok(())
    }

    async fn stream(
        &self,
        request: LlmRequest,
        cx: &CallContext,
    ) -> Result<LlmStream, ProviderError> {
        let model = set(request.config.model.as_deref()).unwrap_or_else(|| self.model());
        let body = self.body(&request, model, cx)?;
        let response = match self.post(&body).await {
            Ok(response) => response,
            Err(failure) if failure.says("tool choice requires") => {
                return Err(self.endpoint.error(
                    ErrorKind::Config,
                    "the vLLM server was started without --enable-auto-tool-choice and --tool-call-parser",
                ));
            }
            Err(failure) => {
                let sent: Vec<&'static str> = OPTIONAL_PARAMETERS
                    .iter()
                    .filter(|name| {
                        body.get(**name).is_some() && !self.config.extra_body.contains_key(**name)
                    })
                    .copied()
                    .collect();
                let Some(parameter) = failure.refused_parameter(&sent) else {
                    return Err(failure.error);
                };
                self.downgrades.learn(self.name(), model, parameter);
                let corrected = self.body(&request, model, cx)?;
                self.post(&corrected)
                    .await
                    .map_err(|failure| failure.error)?
            }
        };
        let mut reader = Reader {
            endpoint: self.endpoint.clone(),
            sse: SseDecoder::default(),
            decoder: ChatDecoder::default(),
            response: None,
            over: false,
        };
        if self.is_whole(&response)? {
            let answer = self.endpoint.json(response).await?;
            reader
                .decoder
                .whole(answer)
                .map_err(|error| reader.frame_error(error))?;
        } else {
            reader.response = Some(response);
        }
        Ok(stream::unfold(reader, |mut reader| async move {
            let item = reader.next().await?;
            Some((item, reader))
        })
        .boxed())
    }
}

/// A response on its way in. Dropping it drops the body, which closes the connection (HTTP/1.1) or resets the stream
/// (HTTP/2).
struct Reader {
    endpoint: Endpoint,
    sse: SseDecoder,
    decoder: ChatDecoder,
    /// `None` once the body is read.
    response: Option<Response>,
    /// An error was delivered; nothing follows it.
    over: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<LlmChunk, ProviderError>> {
        loop {
            if let Some(chunk) = self.decoder.next_chunk() {
                return Some(Ok(chunk));
            }
            if self.over || self.decoder.is_done() {
                return None;
            }
            if let Err(error) = self.read().await {
                self.over = true;
                self.response = None;
                // What was understood before the failure comes first.
                return Some(Err(error));
            }
        }
    }

    /// Reads until there is something to deliver or the body ends.
    async fn read(&mut self) -> Result<(), ProviderError> {
        let Some(response) = &mut self.response else {
            self.decoder.transport_ended();
            return Ok(());
        };
        match response.chunk().await {
            Err(error) => return Err(self.endpoint.transport(error)),
            Ok(Some(bytes)) => {
                // Events in front of an oversized one are delivered before its error.
                let pushed = self.sse.push(&bytes);
                while let Some(event) = self.sse.next_event() {
                    if let Err(error) = self.decoder.event(&event) {
                        return Err(self.frame_error(error));
                    }
                }
                pushed
                    .map_err(|error| self.endpoint.error(ErrorKind::TooLarge, error.to_string()))?;
            }
            Ok(None) => {
                self.response = None;
                let last = self
                    .sse
                    .finish()
                    .map_err(|error| self.endpoint.error(ErrorKind::TooLarge, error.to_string()))?;
                if let Some(event) = last {
                    self.decoder
                        .event(&event)
                        .map_err(|error| self.frame_error(error))?;
                }
                if !self.decoder.has_started() {
                    let message = "the answer ended before its first event";
                    return Err(self.endpoint.error(ErrorKind::Disconnected, message));
                }
                self.decoder.transport_ended();
            }
        }
        if self.decoder.is_done()
            && let Some(mut response) = self.response.take()
        {
            // Reading the end of the body gives the connection back to the pool.
            let _ = tokio::time::timeout(BODY_END_GRACE, response.chunk()).await;
        }
        Ok(())
    }

    fn frame_error(&self, error: FrameError) -> ProviderError {
        match error {
            FrameError::Vendor(error) => self.endpoint.stream_error(&error),
            FrameError::Failed => self.endpoint.error(
                ErrorKind::Unavailable,
                "the vendor's model failed while answering",
            ),
            FrameError::Garbage => self.endpoint.error(
                ErrorKind::Protocol,
                "the stream is not made of chat completion chunks",
            ),
            FrameError::TooLarge => self.endpoint.error(
                ErrorKind::TooLarge,
                "the response has too many or too long tool calls",
            ),
        }
    }
}
