use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::BufReader,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use llmrtc_core::{
    message::Message,
    provider::{
        CallContext, ErrorKind, LlmCapabilities, LlmChunk, LlmConfig, LlmProvider, LlmRequest,
        LlmStream, ProviderError, StopReason, ToolChoice, Usage,
    },
};

use super::{
    GgufError, NAME, PERSONA, Sampling,
    file::Contents,
    kv::{Memory, Recall},
    model::Model,
    sample::Sampler,
    template::Template,
    text::TextBuffer,
    vocab::Vocabulary,
};
use crate::local::pool::{InferencePool, PoolError, Priority};

/// Prompt tokens of one job: enough that reading the weights is shared, few enough that nobody waits long behind it.
const BATCH: usize = 8;
/// Room that a prompt must leave for the answer.
const ANSWER_TOKENS: usize = 32;
/// The shortest context that a conversation fits into.
const MIN_CONTEXT: usize = 2 * ANSWER_TOKENS;

/// How a model is used.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufOptions {
    /// Most tokens of prompt and answer together, limited by what the model was made for. Default 2048: half an hour
    /// of short turns.
    pub context_tokens: usize,
    /// Most tokens of one answer where the request does not say. Default 160, half a minute of speech.
    pub max_tokens: usize,
    /// How tokens are chosen where the request does not say.
    pub sampling: Sampling,
    /// Instructions of requests that bring none; read at [`init`](LlmProvider::init). Default [`PERSONA`].
    pub persona: String,
    /// Memory for the last conversations, so that their next turn reads only what is new. Default 64 MiB, which is
    /// about 3000 tokens of SmolLM2-135M.
    pub recall_bytes: usize,
}

impl Default for GgufOptions {
    fn default() -> Self {
        Self {
            context_tokens: 2048,
            max_tokens: 160,
            sampling: Sampling::default(),
            persona: PERSONA.to_owned(),
            recall_bytes: 64 << 20,
        }
    }
}

/// A language model in this process.
///
/// Every token is one job on the shared [`InferencePool`], as is every batch of eight prompt tokens, so speech
/// recognition of other sessions goes first and answers of several sessions advance side by side. A prompt is read
/// from where it departs from an earlier conversation; only the first turn reads the instructions, and not even that
/// one when they are those of [`GgufOptions::persona`] or were given to [`warm`](Self::warm).
///
/// A conversation that outgrows the context loses its oldest turns, half a context at a time; instructions and the
/// last message stay, and only where these alone are too long does a request fail with
/// [`ErrorKind::ContextOverflow`].
///
/// Tools are not offered to the model, which is too small to call them: requests with tools are answered in words,
/// and a warning is logged once. A request that insists on a call fails with [`ErrorKind::Unsupported`]. The answer
/// has no reasoning, and the model id of a request is ignored.
#[derive(Clone)]
pub struct GgufLlm {
    engine: Arc<Engine>,
    pool: InferencePool,
    /// The name of its file.
    model: String,
}

impl fmt::Debug for GgufLlm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufLlm")
            .field("vocabulary", &self.engine.vocabulary.len())
            .field("context", &self.engine.context)
            .finish_non_exhaustive()
    }
}

impl GgufLlm {
    /// Reads a model. Takes as long as reading the file and a few hundred milliseconds, and blocks meanwhile.
    ///
    /// # Errors
    /// What keeps the file from being used, with what to do about it.
    pub fn load(
        path: impl AsRef<Path>,
        pool: InferencePool,
        options: GgufOptions,
    ) -> Result<Self, GgufError> {
        let path = path.as_ref();
        let file = File::open(path)
            .and_then(|file| match file.metadata()?.is_file() {
                true => Ok(file),
                false => Err(std::io::ErrorKind::IsADirectory.into()),
            })
            .map_err(|source| GgufError::Read {
                path: path.to_owned(),
                source,
            })?;
        let mut source = BufReader::with_capacity(1 << 16, file);
        let contents = Contents::read(&mut source)?;
        let vocabulary = Vocabulary::read(&contents)?;
        let template = Template::detect(&contents, &vocabulary)?;
        let model = Model::read(&contents, &mut source, vocabulary.len())?;
        let context = options
            .context_tokens
            .clamp(MIN_CONTEXT, model.context().max(MIN_CONTEXT));
        let engine = Engine {
            context,
            recall: Mutex::new(Recall::new(options.recall_bytes)),
            open: Arc::default(),
            tools_ignored: AtomicBool::new(false),
            model,
            vocabulary,
            template,
            options,
        };
        let model = path.file_stem().unwrap_or_default();
        Ok(Self {
            engine: Arc::new(engine),
            pool,
            model: model.to_string_lossy().into_owned(),
        })
    }

    /// Answers being given: a measure of load.
    pub fn answering(&self) -> usize {
        Arc::strong_count(&self.engine.open) - 1
    }

    /// Reads instructions ahead of the first conversation that has them, and keeps what was read for good. Meant for
    /// the few system prompts that a server is configured with.
    ///
    /// # Cancel safety
    /// Dropping the future stops the reading within one batch; nothing is kept.
    ///
    /// # Errors
    /// [`ErrorKind::ContextOverflow`] when they do not fit, [`ErrorKind::Unavailable`] when the pool is full.
    pub async fn warm(&self, system: &str) -> Result<(), ProviderError> {
        let messages = [Message::system(system)];
        let mut progress = self.engine.begin(&messages, &LlmConfig::default())?;
        while progress.memory.len() < progress.prompt.len() {
            let engine = Arc::clone(&self.engine);
            let job = move || {
                engine.read(&mut progress);
                progress
            };
            progress = self
                .pool
                .run(Priority::Token, job)
                .await
                .map_err(pool_error)?;
        }
        self.engine.recall().pin(progress.memory);
        Ok(())
    }
}

#[async_trait]
impl LlmProvider for GgufLlm {
    fn name(&self) -> &str {
        NAME
    }

    fn model(&self) -> Option<&str> {
        Some(&self.model)
    }

    fn capabilities(&self) -> LlmCapabilities {
        LlmCapabilities {
            vision: false,
            tools: false,
            parallel_tools: false,
            forced_tool_choice: false,
            needs_alternation: false,
            context_tokens: u32::try_from(self.engine.context).ok(),
        }
    }

    /// Reads the default instructions.
    async fn init(&self) -> Result<(), ProviderError> {
        if self.engine.recall().has_pinned() {
            return Ok(());
        }
        self.warm(&self.engine.options.persona).await
    }

    /// Starts a response.
    ///
    /// # Cancel safety
    /// Dropping the future or the stream ends the work behind the token, or the batch of eight prompt tokens, being
    /// computed. A prompt that was read to its end is kept for the next turn.
    async fn stream(
        &self,
        request: LlmRequest,
        _cx: &CallContext,
    ) -> Result<LlmStream, ProviderError> {
        if matches!(
            request.tool_choice,
            ToolChoice::Required | ToolChoice::Named(_)
        ) {
            let message = "this model cannot call tools; let it choose, or use a larger model behind a server";
            return Err(ProviderError::new(ErrorKind::Unsupported, NAME, message));
        }
        if !request.tools.is_empty() && !self.engine.tools_ignored.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                provider = NAME,
                "this model cannot call tools; it answers without them"
            );
        }
        let engine = Arc::clone(&self.engine);
        // Long histories take milliseconds to cut into tokens: not on a runtime's worker.
        let job = move || engine.begin(&request.messages, &request.config);
        let progress = self
            .pool
            .run(Priority::Token, job)
            .await
            .map_err(pool_error)??;
        let answer = Answer {
            _open: Arc::clone(&self.engine.open),
            engine: Arc::clone(&self.engine),
            pool: self.pool.clone(),
            progress: Some(progress),
            ready: VecDeque::new(),
        };
        Ok(stream::unfold(answer, |mut answer| async move {
            let item = answer.next().await?;
            Some((item, answer))
        })
        .boxed())
    }
}

fn pool_error(error: PoolError) -> ProviderError {
    let kind = match error {
        PoolError::Full => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    };
    ProviderError::new(kind, NAME, error.to_string())
}

/// Everything that conversations share.
struct Engine {
    model: Model,
    vocabulary: Vocabulary,
    template: Template,
    options: GgufOptions,
    context: usize,
    recall: Mutex<Recall>,
    /// Counts answers by its clones.
    open: Arc<()>,
    /// The warning about tools was given.
    tools_ignored: AtomicBool,
}

/// One answer between two jobs.
struct Progress {
    memory: Memory,
    prompt: Vec<u32>,
    /// Prompt tokens that an earlier conversation had read.
    recalled: usize,
    said: Vec<u32>,
    sampler: Sampler,
    text: TextBuffer,
    max_tokens: usize,
}

/// What a job brought.
enum Step {
    /// The prompt has been read a little further.
    Read,
    /// A token; its text may be empty.
    Said(String),
    /// The answer is over, after this text.
    Over(String, StopReason),
}

impl Engine {
    fn recall(&self) -> MutexGuard<'_, Recall> {
        // A panic elsewhere leaves a list of whole memories.
        self.recall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, messages: &[Message], config: &LlmConfig) -> Result<Progress, ProviderError> {
        let max_tokens = config
            .max_tokens
            .map_or(self.options.max_tokens, |n| n as usize);
        // An answer cut short is worse than an old turn forgotten, but a long one must not forget all of them.
        let answer = max_tokens.clamp(ANSWER_TOKENS, (self.context / 4).max(ANSWER_TOKENS));
        let prompt = self
            .template
            .lay_out(&self.vocabulary, messages, &self.options.persona)
            .within(self.context - answer);
        if prompt.len() + ANSWER_TOKENS > self.context {
            let message = format!(
                "instructions and last message have {} tokens, the model's context is {}; shorten them",
                prompt.len(),
                self.context
            );
            return Err(ProviderError::new(
                ErrorKind::ContextOverflow,
                NAME,
                message,
            ));
        }
        let memory = self
            .recall()
            .find(&prompt)
            .unwrap_or_else(|| Memory::new(self.model.shape()));
        let defaults = self.options.sampling;
        let sampling = Sampling {
            temperature: config.temperature.unwrap_or(defaults.temperature),
            top_p: config.top_p.unwrap_or(defaults.top_p),
            ..defaults
        };
        Ok(Progress {
            recalled: memory.len(),
            memory,
            prompt,
            said: Vec::new(),
            sampler: Sampler::new(sampling),
            text: TextBuffer::new(&config.stop_sequences),
            max_tokens,
        })
    }

    /// Reads one batch of the prompt. Returns the state behind it.
    fn read(&self, progress: &mut Progress) -> Vec<f32> {
        let left = &progress.prompt[progress.memory.len()..];
        let batch = &left[..left.len().min(BATCH)];
        self.model.advance(&mut progress.memory, batch)
    }

    /// One job: a batch of the prompt, or a token.
    fn step(&self, progress: &mut Progress) -> Step {
        let state = match progress.said.last() {
            Some(last) => self.model.advance(&mut progress.memory, &[*last]),
            None => {
                let state = self.read(progress);
                if progress.memory.len() < progress.prompt.len() {
                    return Step::Read;
                }
                // From here on the turn may be interrupted at any time, and the next one should not read this again.
                self.recall().keep(progress.memory.clone());
                state
            }
        };
        if progress.max_tokens == 0 {
            return Step::Over(String::new(), StopReason::MaxTokens);
        }
        let mut logits = self.model.logits(&state);
        let token = progress.sampler.choose(&mut logits, &progress.said);
        if self.vocabulary.ends.contains(&token) || self.vocabulary.is_control(token) {
            return Step::Over(progress.text.finish(), StopReason::EndTurn);
        }
        progress.said.push(token);
        let ready = progress.text.push(self.vocabulary.bytes(token));
        if ready.stopped {
            return Step::Over(ready.text, StopReason::StopSequence);
        }
        let reason = if progress.said.len() >= progress.max_tokens {
            StopReason::MaxTokens
        } else if progress.memory.len() + 1 >= self.context {
            StopReason::ContextOverflow
        } else {
            return Step::Said(ready.text);
        };
        Step::Over(ready.text + &progress.text.finish(), reason)
    }
}

/// A response on its way out.
struct Answer {
    engine: Arc<Engine>,
    pool: InferencePool,
    /// `None` while a job has it, and at the end.
    progress: Option<Progress>,
    ready: VecDeque<LlmChunk>,
    _open: Arc<()>,
}

impl Answer {
    async fn next(&mut self) -> Option<Result<LlmChunk, ProviderError>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            let mut progress = self.progress.take()?;
            let engine = Arc::clone(&self.engine);
            let job = move || {
                let step = engine.step(&mut progress);
                (progress, step)
            };
            let (progress, step) = match self.pool.run(Priority::Token, job).await {
                Ok(done) => done,
                Err(error) => return Some(Err(pool_error(error))),
            };
            let (text, end) = match step {
                Step::Read => (String::new(), None),
                Step::Said(text) => (text, None),
                Step::Over(text, reason) => (text, Some(reason)),
            };
            if !text.is_empty() {
                self.ready.push_back(LlmChunk::Text(text));
            }
            if let Some(reason) = end {
                let usage = Usage {
                    input: Some(progress.prompt.len() as u64),
                    output: Some(progress.said.len() as u64),
                    cached_input: Some(progress.recalled as u64),
                    ..Usage::default()
                };
                self.ready.push_back(LlmChunk::Usage(usage));
                self.ready.push_back(LlmChunk::End(reason));
                self.engine.recall().keep(progress.memory);
            } else {
                self.progress = Some(progress);
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(progress) = self.progress.take() {
            self.engine.recall().keep(progress.memory);
        }
    }
}
