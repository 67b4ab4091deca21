//! One caller's session: joins the connection, the peer and the conversation.
//!
//! One task owns all three and hears from each in turn (CC1). A session lives as long as its connection; what
//! survives is the history, kept for a client that comes back.

mod archive;
mod arrival;
mod chunk_sink;
mod keep;
mod line;
mod pictures;
mod privacy;
mod shield;
mod standing;
mod tools;
mod wire;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use llmrtc_core::{
    audio::{AudioFormat, EncodedAudio, PcmChunk},
    guardrail::Guardrail,
    history::HistorySnapshot,
    hooks::{ServerEvent, Timing},
    id::{SessionId, TurnId},
    message::Attachment,
    playout::AudioSink,
    redact::Secret,
    tasks::Tasks,
    telemetry::RECONNECTIONS,
    turn::{Conversation, ConversationParts, Outcome, TextPolicy, TurnEvent},
};
use llmrtc_media::error::PeerError;
use llmrtc_security::{
    audit::{Action, AuditEvent},
    auth::resume::{Lease, Revoked},
    limit::{self, config::Scope, policy::Subject},
    tool::Taint,
};
use llmrtc_signal::{
    connection::{
        CloseReason, ConnectionEvent, Ready, ResumeReply,
        server::{Connection, accept, refuse},
    },
    protocol::{ErrorCode, IceServer, Mode, Presented, ServerMessage},
};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use self::{
    archive::Archive,
    arrival::{Held, identify},
    chunk_sink::ChunkSink,
    keep::{Claim, Saver},
    line::{Line, next_peer_event},
    shield::Shield,
    standing::{News, Standing},
};
pub(crate) use self::{
    keep::Keep,
    privacy::{Privacy, for_log},
    tools::Checks,
};
use crate::{
    admission::{Admitted, Caller},
    server::Shared,
    shutdown::{Audible, Phase},
};

/// How long a connection may take to close after its session has ended.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Refusals after which a client that does not slow down is sent away.
const MAX_REFUSALS: u32 = 10;
/// Chunks of speech between the pacer and the session. Full: the pacer waits.
const CHUNK_QUEUE: usize = 4;
/// Messages whose pictures have been fetched, between the fetching and the session.
const PICTURE_QUEUE: usize = 4;
/// How often a closing session looks whether the data channel is empty.
const FLUSH_POLL: Duration = Duration::from_millis(10);

/// Runs a session from the upgrade to its end.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut socket: axum::extract::ws::WebSocket,
    admitted: Admitted,
    ice_servers: Vec<IceServer>,
) {
    let (caller, ticket) = match identify(&shared, &mut socket, admitted).await {
        Ok(identified) => identified,
        Err(reason) => {
            tracing::info!(reason = reason.label(), "socket closed before a session");
            return refuse(socket, reason).await;
        }
    };
    let started_at = shared.clock.wall();
    let (ready, held) = match &ticket {
        Some(_) => (nothing_but_resume(ice_servers), None),
        None => {
            let session_id = SessionId::random();
            // Nothing exists for the caller before their place does.
            let standing = match Standing::take(&shared, session_id, &caller).await {
                Ok(standing) => standing,
                Err(reason) => return refuse(socket, reason).await,
            };
            let origin = caller.origin.as_ref();
            let issued = shared
                .keep
                .handles
                .issue(session_id, &caller.principal, origin);
            let relay = shared
                .ice
                .for_caller(&caller.principal, caller.peer.ip(), started_at);
            let ice_servers = relay.into_iter().chain(ice_servers).collect();
            let ready = Ready {
                id: issued.handle,
                ice_servers,
                mode: Some(Mode::Pipeline),
                resume_token: Some(issued.token),
                resume_only: false,
            };
            let held = Held {
                session_id: issued.session_id,
                lease: issued.lease,
                history: None,
                claim: Claim::first(),
                standing,
                resumed: false,
            };
            (ready, Some(held))
        }
    };
    let (connection, mut events, driver) = accept(
        socket,
        shared.signal.clone(),
        ready,
        Arc::clone(&shared.clock),
    );
    let tasks = shared.tasks.child("session");
    // Outside the session's own group: it has to say goodbye after the session is gone.
    let driving = shared.tasks.child("connection");
    let driver = driving.spawn("connection", |_| driver);

    let privacy = match shared.security.privacy(shared.turn.language.as_deref()) {
        Ok(privacy) => Arc::new(privacy),
        Err(error) => {
            tracing::error!(%error, "no session without redaction");
            connection.close(CloseReason::Internal);
            return;
        }
    };
    let held = match (held, &ticket) {
        (Some(held), _) => Some(held),
        (None, Some(ticket)) => {
            arrival::returning(&shared, &connection, &mut events, &caller, &privacy, ticket).await
        }
        (None, None) => None,
    };
    let Some(held) = held else {
        tracing::info!("a spent ticket was presented for no session of its own");
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, driver).await;
        return;
    };
    let session_id = held.session_id;

    let (chunks_out, chunks) = mpsc::channel(CHUNK_QUEUE);
    let chunk_sink: Arc<dyn AudioSink> = Arc::new(ChunkSink::new(
        chunks_out,
        &tasks,
        Arc::clone(&shared.clock),
    ));
    // The place is taken until the socket is closed.
    let _slot = Arc::clone(&caller.slot);
    let audit = |action| {
        let event = AuditEvent::new(action).by(&caller.principal);
        event.session(session_id).from(caller.peer.ip())
    };
    let security = Arc::clone(&shared.security);
    security.note(audit(Action::Connected {
        origin: caller.origin.as_ref().map(|origin| origin.as_str().into()),
    }));
    let archive = archive::of(&shared, &caller.principal);
    let handle = held.lease.handle();
    let saver = Saver::start(
        &shared.keep,
        &tasks,
        handle,
        &caller.principal,
        &privacy,
        held.claim,
    );
    let session = Session {
        session_id,
        caller: caller.clone(),
        standing: held.standing,
        archive,
        privacy,
        refusals: 0,
        lease: held.lease,
        saver,
        connection,
        peer: None,
        conversation: None,
        history: held.history,
        chunk_sink,
        chunks,
        received: mpsc::channel(PICTURE_QUEUE),
        speaking: None,
        turns: 0,
        established: held.resumed,
        resumed: held.resumed,
        flushing: false,
        leaving: false,
        tasks,
        shared: Arc::clone(&shared),
    };
    shared.observers.emit_server(|| ServerEvent::Connection {
        session_id,
        connection_id: session_id.short().to_string().into(),
        transport: "websocket",
    });
    shared.count_sessions();
    let served = AssertUnwindSafe(session.serve(&mut events))
        .catch_unwind()
        .await;
    let (turns, reason) = served.unwrap_or_else(|_| {
        tracing::error!(session = %session_id.short(), "a session panicked");
        (0, CloseReason::Internal)
    });
    // The close frame may still be on its way.
    let goodbye = async {
        while events.recv().await.is_some() {}
        let _ = driver.await;
    };
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await;
    shared.count_sessions();
    let lasted = shared
        .clock
        .wall()
        .duration_since(started_at)
        .unwrap_or_default();
    let reason_label = reason.label();
    if matches!(
        reason,
        CloseReason::Replaced
            | CloseReason::Unauthorised
            | CloseReason::SessionEnded
            | CloseReason::RateLimited
    ) {
        security.note(audit(Action::SessionEvicted {
            reason: reason_label,
        }));
    }
    security.note(audit(Action::Disconnected {
        reason: reason_label,
        lasted,
    }));
    tracing::info!(session = %session_id.short(), turns, reason = reason.label(), "session closed");
    shared.observers.emit_server(|| ServerEvent::Disconnect {
        session_id,
        transport: "websocket",
        timing: Timing::between(started_at, shared.clock.wall()),
        turns,
    });
}

/// The greeting of a client with a spent ticket: an id that is good for nothing, and no credentials of relays.
fn nothing_but_resume(ice_servers: Vec<IceServer>) -> Ready {
    let public = |server: &IceServer| server.credential().is_none();
    Ready {
        ice_servers: ice_servers.into_iter().filter(public).collect(),
        resume_only: true,
        ..Ready::new(Secret::new(SessionId::random().to_string()))
    }
}

struct Session {
    session_id: SessionId,
    caller: Caller,
    /// The right to go on.
    standing: Standing,
    /// What is kept, if anything is.
    archive: Option<Archive>,
    /// What of the conversation whom may see.
    privacy: Arc<Privacy>,
    /// How often the client was told to slow down.
    refusals: u32,
    lease: Lease,
    /// Writes the conversation down for another process, if it may be stored.
    saver: Option<Saver>,
    connection: Connection,
    peer: Option<Line>,
    /// Begun with the first offer or audio, so that an idle socket costs nothing.
    conversation: Option<Conversation>,
    /// Recovered by a resume, for the conversation to begin with.
    history: Option<HistorySnapshot>,
    /// Where speech goes while there is no audio track.
    chunk_sink: Arc<dyn AudioSink>,
    /// What comes out of it, to be sent between `tts-start` and the end of that turn's speech.
    chunks: mpsc::Receiver<(TurnId, PcmChunk)>,
    /// Messages whose pictures had to be fetched.
    received: (mpsc::Sender<Received>, mpsc::Receiver<Received>),
    /// The turn whose speech was announced and is not over.
    speaking: Option<TurnId>,
    turns: u64,
    /// A peer was connected or a turn ran: worth keeping for a client that comes back.
    established: bool,
    /// An earlier session was taken over. Once is enough.
    resumed: bool,
    /// The connection is about to close and waits for the data channel.
    flushing: bool,
    /// The connection was told that the server leaves.
    leaving: bool,
    tasks: Tasks,
    shared: Arc<Shared>,
}

/// What a client sent, with its pictures at hand.
struct Received {
    attachments: Vec<Attachment>,
    audio: Option<Bytes>,
}

impl Session {
    async fn serve(mut self, events: &mut mpsc::Receiver<ConnectionEvent>) -> (u64, CloseReason) {
        let shutdown = self.shared.shutdown.clone();
        // An answer in the making or being spoken keeps a draining server from closing.
        let mut audible: Option<Audible> = None;
        let mut flush = tokio::time::interval(FLUSH_POLL);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reason = loop {
            let answering = self
                .conversation
                .as_ref()
                .is_some_and(Conversation::is_answering);
            if answering != audible.is_some() {
                audible = answering.then(|| shutdown.audible());
            }
            let leaving = match shutdown.phase() {
                Phase::Running => false,
                Phase::Draining => !answering,
                Phase::Closing => true,
            };
            if leaving && !self.leaving {
                self.leaving = true;
                // What is cut off is told before the goodbye.
                self.settle(true);
                self.connection.close(CloseReason::Shutdown);
            }
            tokio::select! {
                biased;
                revoked = self.lease.revoked() => {
                    let reason = match revoked {
                        Revoked::TakenOver | Revoked::Superseded => CloseReason::TakenOver,
                        _ => CloseReason::SessionEnded,
                    };
                    self.connection.close(reason);
                    break reason;
                }
                () = superseded(&self.saver) => {
                    self.connection.close(CloseReason::TakenOver);
                    break CloseReason::TakenOver;
                }
                news = self.standing.news(&self.shared, &self.caller.principal) => match news {
                    News::Expiring(expires_in) => {
                        let expires_in_ms = expires_in.as_millis() as u64;
                        self.connection.send(ServerMessage::AuthExpiring { expires_in_ms });
                    }
                    News::End(reason) => {
                        self.connection.close(reason);
                        break reason;
                    }
                },
                event = events.recv() => match event {
                    Some(ConnectionEvent::Closed { reason }) => break reason,
                    Some(event) => self.connection_event(event).await,
                    None => break CloseReason::Internal,
                },
                event = next_peer_event(&mut self.peer) => self.peer_event(event),
                event = next_turn_event(&mut self.conversation) => self.turn_event(event),
                Some(received) = self.received.1.recv() => self.received(received),
                Some(chunk) = self.chunks.recv(), if self.speaking.is_some() => self.chunk(chunk),
                () = shutdown.draining(), if shutdown.phase() == Phase::Running => {}
                () = shutdown.closing(), if shutdown.phase() == Phase::Draining => {}
                _ = flush.tick(), if self.flushing => self.flush(),
            }
        };
        let turns = self.turns;
        self.end(reason).await;
        (turns, reason)
    }

    async fn connection_event(&mut self, event: ConnectionEvent) {
        if let Some(kind) = message_type(&event)
            && !self.may_send(kind)
        {
            return;
        }
        match event {
            ConnectionEvent::Offer { sdp } => {
                let answer = self.negotiate(&sdp).await;
                self.connection.answer(answer);
            }
            ConnectionEvent::Resume {
                session_id,
                resume_token,
            } => {
                let token = resume_token.as_ref().map(|token| token.expose());
                let reply = self.resume(session_id.expose(), token).await;
                let result = match reply {
                    ResumeReply::Resumed { .. } => "resumed",
                    ResumeReply::Refused => "refused",
                };
                self.shared
                    .metrics
                    .increment(RECONNECTIONS, 1, &[("result", result)]);
                self.connection.resumed(reply);
            }
            ConnectionEvent::Audio { data, attachments } => {
                self.pictures(attachments, Some(data)).await;
            }
            ConnectionEvent::Text(text) => self.text(text),
            ConnectionEvent::Attachments(attachments) => self.pictures(attachments, None).await,
            ConnectionEvent::Interrupt => {
                if let Some(conversation) = &mut self.conversation {
                    conversation.interrupt();
                }
            }
            ConnectionEvent::Auth(presented) => self.refresh(&presented).await,
            ConnectionEvent::SendData(text) => {
                let sent = self.peer.as_ref().map(|line| line.peer.send_data(text));
                if let Some(Err(error)) = sent {
                    tracing::debug!(session = %self.session_id.short(), %error, "data channel");
                    if matches!(error, PeerError::Backlogged { .. }) {
                        self.connection.close(CloseReason::SlowClient);
                    }
                }
            }
            ConnectionEvent::FlushData => {
                self.flushing = true;
                self.flush();
            }
            _ => {}
        }
    }

    fn flush(&mut self) {
        let buffered = self.peer.as_ref().map_or(0, |line| line.peer.buffered());
        if self.flushing && buffered == 0 {
            self.flushing = false;
            self.connection.data_flushed();
        }
    }

    /// A new credential for this session (B8). Another caller's, or none, ends it.
    async fn refresh(&mut self, presented: &Presented) {
        let presented = arrival::shown(presented);
        let shared = Arc::clone(&self.shared);
        let fresh = shared.admission.refresh(presented, &self.caller).await;
        let refreshed = fresh.map_err(|denied| denied.reason).and_then(|fresh| {
            let lasts = self
                .standing
                .refresh(&shared, &self.caller.principal, &fresh);
            lasts
                .map(|lasts| (fresh, lasts))
                .map_err(|_| "not_the_same_caller")
        });
        match refreshed {
            Ok((fresh, lasts)) => {
                self.caller.principal = fresh;
                let expires_in_ms = lasts.map(|lasts| lasts.as_millis() as u64);
                self.connection
                    .send(ServerMessage::AuthRefreshed { expires_in_ms });
            }
            Err(reason) => {
                self.note(Action::AuthFailed {
                    method: "refresh",
                    reason,
                });
                self.connection.close(CloseReason::Unauthorised);
            }
        }
    }

    fn note(&self, action: Action) {
        let event = AuditEvent::new(action).by(&self.caller.principal);
        let event = event.session(self.session_id).from(self.caller.peer.ip());
        self.shared.security.note(event);
    }

    fn subject(&self) -> Subject<'_> {
        let principal = &self.caller.principal;
        Subject::address(self.caller.peer.ip())
            .principal(principal)
            .session(self.session_id)
            .class(principal.grants.rate_class.as_deref())
    }

    /// Whether the caller may do this now. A client that goes on after it was told so is sent away (D2).
    async fn may(&mut self, scope: Scope) -> bool {
        let now = self.shared.clock.now();
        let limits = &self.shared.security.limits;
        match limits.check(scope, &self.subject(), 1, now).await {
            Ok(_) => true,
            Err(refusal) => self.slow_down(scope, &refusal),
        }
    }

    /// Whether the caller may send another message of this type now. Pings and candidates are the connection's to count.
    fn may_send(&mut self, kind: &'static str) -> bool {
        let now = self.shared.clock.now();
        let limits = &self.shared.security.limits;
        match limits.message(kind, &self.subject(), now) {
            Ok(_) => true,
            Err(refusal) => self.slow_down(Scope::Message, &refusal),
        }
    }

    fn slow_down(&mut self, scope: Scope, refusal: &limit::policy::Refusal) -> bool {
        let retry_after = refusal.retry_after().unwrap_or_default();
        self.note(Action::RateLimited {
            limit: scope.name(),
            retry_after,
        });
        self.connection
            .send(ServerMessage::rate_limited(retry_after));
        self.refusals += 1;
        if self.refusals > MAX_REFUSALS {
            self.connection.close(CloseReason::RateLimited);
        }
        false
    }

    /// Takes pictures, alone or with recorded speech, as soon as they are harmless.
    async fn pictures(&mut self, attachments: Vec<Attachment>, audio: Option<Bytes>) {
        let fetcher = self.shared.security.images.clone();
        if !pictures::takes_time(&attachments) {
            let attachments = pictures::prepare(fetcher.as_deref(), attachments).await;
            return self.received(Received { attachments, audio });
        }
        let received = self.received.0.clone();
        self.tasks
            .spawn("pictures", |_| async move {
                let attachments = pictures::prepare(fetcher.as_deref(), attachments).await;
                // A session that is over wants no pictures.
                let _ = received.send(Received { attachments, audio }).await;
            })
            .detach();
    }

    fn received(&mut self, Received { attachments, audio }: Received) {
        match (audio, &mut self.conversation) {
            (Some(data), _) => self.audio(data, attachments),
            (None, Some(conversation)) => conversation.images(attachments),
            (None, None) => {}
        }
    }

    fn audio(&mut self, data: Bytes, attachments: Vec<Attachment>) {
        let Some(format) = AudioFormat::sniff(&data) else {
            self.connection
                .send(ServerMessage::error(ErrorCode::InvalidAudioFormat));
            return;
        };
        self.established = true;
        self.conversation().upload(
            EncodedAudio {
                data,
                format,
                rate: None,
            },
            attachments,
        );
    }

    /// A question in writing takes the place of what is being answered, as a voice would.
    fn text(&mut self, text: String) {
        self.established = true;
        let policy = TextPolicy::Interrupt;
        let taken = self.conversation().text(text, Vec::new(), policy);
        if taken.is_err() {
            self.connection
                .send(ServerMessage::error(ErrorCode::RateLimited));
        }
    }

    fn turn_event(&mut self, event: TurnEvent) {
        self.privacy.note(&event);
        if let TurnEvent::Transcript {
            text,
            is_final: false,
            ..
        } = &event
            && let Some(line) = &self.peer
        {
            line.peer.partial_transcript(text);
        }
        if let Some(archive) = &mut self.archive {
            archive.note(self.session_id, &event, &self.privacy);
        }
        let event = match event {
            TurnEvent::Transcript {
                turn,
                text,
                is_final,
                confidence,
            } => TurnEvent::Transcript {
                turn,
                text: self.privacy.for_client(&text).into(),
                is_final,
                confidence,
            },
            event => event,
        };
        let mut reference = String::new();
        match &event {
            TurnEvent::TurnStarted { .. } => self.turns += 1,
            TurnEvent::SpeechStarted { turn } => self.speaking = Some(*turn),
            TurnEvent::SpeechEnded { .. } | TurnEvent::SpeechCancelled { .. } => {
                self.speaking = None;
            }
            TurnEvent::TurnEnded {
                turn,
                outcome: Outcome::Failed(error),
                ..
            } => {
                reference = format!("{:08x}", rand::random::<u32>());
                // Kinds and not sentences: a vendor's sentence may quote what the caller said.
                tracing::warn!(
                    session = %self.session_id.short(),
                    %turn,
                    reference,
                    %error,
                    kind = ?error.kind(),
                    "turn failed"
                );
                self.note(Action::Failed {
                    code: wire::code(error).as_str(),
                    correlation: reference.as_str().into(),
                    message: None,
                });
            }
            _ => {}
        }
        let ended = matches!(event, TurnEvent::TurnEnded { .. });
        for message in wire::messages(event, &reference) {
            self.connection.send(message);
        }
        if let (true, Some(saver), Some(conversation)) = (ended, &self.saver, &self.conversation) {
            saver.offer(conversation.snapshot());
        }
    }

    fn conversation(&mut self) -> &mut Conversation {
        let sink = self.sink();
        let history = &mut self.history;
        let (shared, tasks, session_id) = (&self.shared, &self.tasks, self.session_id);
        let (caller, privacy) = (&self.caller, &self.privacy);
        self.conversation.get_or_insert_with(|| {
            let (security, address) = (&shared.security, caller.peer.ip());
            let taint = Arc::new(Taint::new());
            let shield = Shield::new(
                Arc::clone(security),
                session_id,
                caller.principal.clone(),
                address,
                Arc::clone(&taint),
                Arc::clone(privacy),
            );
            let tools = shared.tools.clone().map(|tools| {
                let (checks, principal) = (&shared.tool_checks, &caller.principal);
                tools::guard(
                    tools, checks, security, session_id, principal, address, taint, privacy,
                )
            });
            Conversation::new(
                tasks,
                ConversationParts {
                    session_id,
                    config: Arc::clone(&shared.turn),
                    providers: shared.providers.clone(),
                    sink,
                    decoder: Arc::clone(&shared.decoder),
                    observers: shared.observers.clone(),
                    tools,
                    chunkers: None,
                    guardrails: [Arc::new(shield) as Arc<dyn Guardrail>]
                        .into_iter()
                        .collect(),
                    history: history.take(),
                    clock: Arc::clone(&shared.clock),
                },
            )
        })
    }

    /// A piece of speech for a client without a track. Pieces of a turn that was cut have come too late.
    fn chunk(&mut self, (turn, chunk): (TurnId, PcmChunk)) {
        if self.speaking == Some(turn) {
            self.connection.send(ServerMessage::TtsChunk {
                format: AudioFormat::Pcm,
                sample_rate: Some(chunk.rate().hz()),
                data: chunk.to_le_bytes(),
            });
        }
    }

    /// Ends everything in flight and keeps the history.
    fn settle(&mut self, tell: bool) {
        if let Some(conversation) = self.conversation.take() {
            let (history, rest) = conversation.close();
            self.history = Some(history);
            if tell {
                rest.into_iter().for_each(|event| self.turn_event(event));
            }
        }
    }

    /// Settles the conversation, then lets go of the session.
    async fn end(mut self, reason: CloseReason) {
        self.settle(false);
        self.peer = None;
        if let Some(archive) = &mut self.archive {
            archive.finish(&self.privacy);
        }
        let counts = self.privacy.found();
        if !counts.is_empty() {
            self.note(Action::Redacted {
                sink: "transcript",
                counts,
            });
        }
        // One that was ended, by an operator or for a replayed token, is not taken up again, and one that goes on elsewhere
        // not from here.
        let over = matches!(
            self.lease.is_revoked(),
            Some(Revoked::Ended | Revoked::Superseded)
        );
        let mut keep = self.established && !over && reason != CloseReason::SessionEnded;
        let history = self.history.take().filter(|_| keep);
        if let Some(saver) = self.saver.take() {
            if let Some(history) = &history {
                saver.offer(history.clone());
            }
            // Even if nothing is kept: what is on its way must not arrive after it was erased.
            keep &= saver.finish().await.is_ok();
        }
        if let Some(history) = history.filter(|_| keep) {
            self.shared.keep.remember(self.session_id, history).await;
        }
        // After the history is stored: a successor waits for this.
        let (handles, now) = (&self.shared.keep.handles, self.shared.clock.now());
        for session_id in handles.release(self.lease, keep, now) {
            self.shared.keep.forget(session_id).await;
        }
    }
}

async fn superseded(saver: &Option<Saver>) {
    match saver {
        Some(saver) => saver.superseded().await,
        None => std::future::pending().await,
    }
}

/// The type of the message behind an event, where one session can send many.
fn message_type(event: &ConnectionEvent) -> Option<&'static str> {
    match event {
        ConnectionEvent::Audio { .. } => Some("audio"),
        ConnectionEvent::Text(_) => Some("text"),
        ConnectionEvent::Attachments(_) => Some("attachments"),
        ConnectionEvent::Interrupt => Some("interrupt"),
        _ => None,
    }
}

async fn next_turn_event(conversation: &mut Option<Conversation>) -> TurnEvent {
    match conversation {
        Some(conversation) => conversation.next().await,
        None => std::future::pending().await,
    }
}
