//! One caller's session: joins the connection, the peer and the conversation.
//!
//! One task owns all three and hears from each in turn (CC1). A session lives as long as its connection; what
//! survives is the history, kept for a client that comes back.

mod chunk_sink;
mod wire;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use llmrtc_core::{
    audio::{AudioFormat, EncodedAudio, PcmChunk},
    history::HistorySnapshot,
    hooks::{ServerEvent, Timing},
    id::SessionId,
    message::Attachment,
    playout::AudioSink,
    session::{Owner, SessionStore},
    tasks::Tasks,
    telemetry::RECONNECTIONS,
    turn::{Conversation, ConversationParts, Outcome, TurnEvent},
};
use llmrtc_media::peer::{DataMessage, Peer, PeerEvent, PeerEvents};
use llmrtc_security::auth::resume::{Attempt, Lease, RefusalCause, Revoked};
use llmrtc_signal::{
    connection::{
        CloseReason, ConnectionEvent, NegotiateError, Ready, ResumeReply,
        server::{Connection, accept},
    },
    protocol::{ErrorCode, IceServer, Mode, ServerMessage},
};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use self::chunk_sink::{ChunkOut, ChunkSink};
use crate::{
    admission::Admitted,
    server::Shared,
    shutdown::{Audible, Phase},
};

/// How long a resuming connection waits for the previous one to let go. The client waits 5 s for the answer.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a closing session looks whether the data channel is empty.
const FLUSH_POLL: Duration = Duration::from_millis(10);

/// Runs a session from the upgrade to its end.
pub(crate) async fn run(
    shared: Arc<Shared>,
    socket: axum::extract::ws::WebSocket,
    admitted: Admitted,
    ice_servers: Vec<IceServer>,
) {
    let started_at = shared.clock.wall();
    let session_id = SessionId::random();
    let issued = shared
        .handles
        .issue(session_id, &admitted.principal, admitted.origin.as_ref());
    let ready = Ready {
        id: issued.handle,
        ice_servers,
        mode: Some(Mode::Pipeline),
        resume_token: Some(issued.token),
        resume_only: false,
    };
    let (connection, events, driver) = accept(
        socket,
        shared.signal.clone(),
        ready,
        Arc::clone(&shared.clock),
    );
    let tasks = shared.tasks.child("session");
    tasks.spawn("connection", |_| driver).detach();

    let chunks: Arc<dyn AudioSink> = Arc::new(ChunkSink::new(
        Arc::new(TtsChunks(connection.clone())),
        &tasks,
        Arc::clone(&shared.clock),
    ));
    let session = Session {
        session_id,
        admitted,
        lease: issued.lease,
        connection,
        peer: None,
        conversation: None,
        history: None,
        chunks,
        turns: 0,
        established: false,
        flushing: false,
        leaving: false,
        tasks,
        shared: Arc::clone(&shared),
    };
    shared.observers.emit_server(|| ServerEvent::Connection {
        session_id,
        connection_id: session_id.to_string().into(),
        transport: "websocket",
    });
    shared.count_sessions();
    let (session_id, turns, reason) = session.serve(events).await;
    shared.count_sessions();
    tracing::info!(session = %log_name(session_id), turns, reason = reason.label(), "session closed");
    shared.observers.emit_server(|| ServerEvent::Disconnect {
        session_id,
        transport: "websocket",
        timing: Timing::between(started_at, shared.clock.wall()),
        turns,
    });
}

/// What logs call a session: enough to tell two apart, too little to be of use to anybody.
fn log_name(session_id: SessionId) -> String {
    session_id.to_string()[..8].to_owned()
}

struct Session {
    session_id: SessionId,
    admitted: Admitted,
    lease: Lease,
    connection: Connection,
    peer: Option<(Peer, PeerEvents)>,
    /// Begun with the first offer or audio, so that an idle socket costs nothing.
    conversation: Option<Conversation>,
    /// Recovered by a resume, for the conversation to begin with.
    history: Option<HistorySnapshot>,
    /// Where speech goes while there is no audio track.
    chunks: Arc<dyn AudioSink>,
    turns: u64,
    /// A peer was connected or a turn ran: worth keeping for a client that comes back.
    established: bool,
    /// The connection is about to close and waits for the data channel.
    flushing: bool,
    /// The connection was told that the server leaves.
    leaving: bool,
    tasks: Tasks,
    shared: Arc<Shared>,
}

impl Session {
    async fn serve(
        mut self,
        mut events: mpsc::Receiver<ConnectionEvent>,
    ) -> (SessionId, u64, CloseReason) {
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
                self.connection.close(CloseReason::Shutdown);
            }
            tokio::select! {
                biased;
                revoked = self.lease.revoked() => {
                    let reason = match revoked {
                        Revoked::TakenOver => CloseReason::TakenOver,
                        _ => CloseReason::Internal,
                    };
                    self.connection.close(reason);
                    break reason;
                }
                event = events.recv() => match event {
                    Some(ConnectionEvent::Closed { reason }) => break reason,
                    Some(event) => self.connection_event(event).await,
                    None => break CloseReason::Internal,
                },
                event = next_peer_event(&mut self.peer) => self.peer_event(event),
                event = next_turn_event(&mut self.conversation) => self.turn_event(event),
                () = shutdown.draining(), if shutdown.phase() == Phase::Running => {}
                () = shutdown.closing(), if shutdown.phase() == Phase::Draining => {}
                _ = flush.tick(), if self.flushing => self.flush(),
            }
        };
        let (session_id, turns) = (self.session_id, self.turns);
        self.end(reason).await;
        (session_id, turns, reason)
    }

    async fn connection_event(&mut self, event: ConnectionEvent) {
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
            ConnectionEvent::Audio { data, attachments } => self.audio(data, attachments),
            ConnectionEvent::Attachments(attachments) => {
                if let Some(conversation) = &mut self.conversation {
                    conversation.images(attachments);
                }
            }
            ConnectionEvent::Interrupt => {
                if let Some(conversation) = &mut self.conversation {
                    conversation.interrupt();
                }
            }
            ConnectionEvent::SendData(text) => {
                let sent = self.peer.as_ref().map(|(peer, _)| peer.send_data(text));
                if let Some(Err(error)) = sent {
                    tracing::debug!(session = %log_name(self.session_id), %error, "data channel");
                    if matches!(error, llmrtc_media::error::PeerError::Backlogged { .. }) {
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
        let buffered = self.peer.as_ref().map_or(0, |(peer, _)| peer.buffered());
        if self.flushing && buffered == 0 {
            self.flushing = false;
            self.connection.data_flushed();
        }
    }

    async fn negotiate(&mut self, sdp: &str) -> Result<String, NegotiateError> {
        if self.peer.is_none() {
            let live = self.conversation().wants_live_audio();
            match self.shared.peers.answering(live).await {
                Ok(peer) => self.peer = Some(peer),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "no peer");
                    return Err(NegotiateError::Unavailable);
                }
            }
        }
        let Some((peer, _)) = &self.peer else {
            return Err(NegotiateError::Unavailable);
        };
        match peer.answer(sdp).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let session = log_name(self.session_id);
                tracing::info!(%session, error = &error as &dyn std::error::Error, "offer rejected");
                if error.is_fatal() {
                    self.lose_peer();
                }
                Err(NegotiateError::Failed)
            }
        }
    }

    /// Takes an earlier session over (protocol.md §6.1, §6.2). This connection's own session is given up for it.
    async fn resume(&mut self, handle: &str, token: Option<&str>) -> ResumeReply {
        let attempt = Attempt {
            handle,
            token,
            principal: &self.admitted.principal,
            origin: self.admitted.origin.as_ref(),
        };
        let resumed = match self.shared.handles.resume(attempt, self.shared.clock.now()) {
            Ok(resumed) => resumed,
            Err(refused) => {
                if let RefusalCause::Replayed(session_id) = refused.cause() {
                    tracing::warn!(session = %log_name(session_id), "resume token replayed, session ended");
                }
                if let Some(ended) = refused.ended() {
                    self.shared.forget(ended).await;
                }
                return ResumeReply::Refused;
            }
        };
        if resumed.session_id == self.session_id {
            // A client that names the session it has: nothing to recover.
            self.lease = resumed.lease;
            return ResumeReply::Resumed {
                session_id: handle.to_owned().into(),
                resume_token: Some(resumed.token),
            };
        }
        if let Some(previous) = resumed.previous {
            // A stuck owner must not lock its client out; its history is lost then.
            let _ = tokio::time::timeout(DETACH_TIMEOUT, previous.completed()).await;
        }
        let owner = self.owner();
        match self.shared.histories.take(resumed.session_id, &owner).await {
            Ok(history) => self.history = history,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "session store")
            }
        }
        let own = std::mem::replace(&mut self.lease, resumed.lease);
        self.shared
            .handles
            .release(own, false, self.shared.clock.now());
        self.conversation = None;
        self.session_id = resumed.session_id;
        self.established = true;
        ResumeReply::Resumed {
            session_id: handle.to_owned().into(),
            resume_token: Some(resumed.token),
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

    fn peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::DataOpened => {
                self.established = true;
                self.shared.handles.confirm(&self.lease);
                self.connection.data_opened();
            }
            PeerEvent::DataMessage(message) => {
                let bytes = match message {
                    DataMessage::Text(text) => Bytes::from(text),
                    DataMessage::Binary(bytes) => bytes,
                };
                self.connection.data_message(bytes);
            }
            PeerEvent::DataClosed => self.connection.data_closed(),
            PeerEvent::Speech(event) => self.conversation().speech(event),
            PeerEvent::AudioSendable(_) => self.choose_sink(),
            PeerEvent::Closed(reason) => {
                tracing::info!(session = %log_name(self.session_id), ?reason, "peer closed");
                self.lose_peer();
            }
            _ => {}
        }
    }

    fn lose_peer(&mut self) {
        self.peer = None;
        self.connection.data_closed();
        self.choose_sink();
        // Nobody hears the answer any more (R10).
        if let Some(conversation) = &mut self.conversation {
            conversation.source_lost();
        }
    }

    /// Speech goes to the track where there is one that reaches the client, to messages otherwise (§4.7).
    fn choose_sink(&mut self) {
        let sink = match &self.peer {
            Some((peer, _)) if peer.can_send_audio() => peer.sink(),
            _ => Arc::clone(&self.chunks),
        };
        if let Some(conversation) = &mut self.conversation {
            conversation.set_sink(sink);
        }
    }

    fn turn_event(&mut self, event: TurnEvent) {
        let mut reference = String::new();
        match &event {
            TurnEvent::TurnStarted { .. } => self.turns += 1,
            TurnEvent::TurnEnded {
                turn,
                outcome: Outcome::Failed(error),
                ..
            } => {
                reference = format!("{:08x}", rand::random::<u32>());
                tracing::warn!(
                    session = %log_name(self.session_id),
                    %turn,
                    reference,
                    error = &**error as &dyn std::error::Error,
                    "turn failed"
                );
            }
            _ => {}
        }
        for message in wire::messages(event, &reference) {
            self.connection.send(message);
        }
    }

    fn conversation(&mut self) -> &mut Conversation {
        let sink = match &self.peer {
            Some((peer, _)) if peer.can_send_audio() => peer.sink(),
            _ => Arc::clone(&self.chunks),
        };
        let history = &mut self.history;
        let (shared, tasks, session_id) = (&self.shared, &self.tasks, self.session_id);
        self.conversation.get_or_insert_with(|| {
            Conversation::new(
                tasks,
                ConversationParts {
                    session_id,
                    config: Arc::clone(&shared.turn),
                    providers: shared.providers.clone(),
                    sink,
                    decoder: Arc::clone(&shared.decoder),
                    observers: shared.observers.clone(),
                    tools: shared.tools.clone(),
                    chunkers: None,
                    history: history.take(),
                    clock: Arc::clone(&shared.clock),
                },
            )
        })
    }

    fn owner(&self) -> Owner {
        Owner {
            principal: Some(Arc::clone(&self.admitted.principal.subject)),
            origin: self
                .admitted
                .origin
                .as_ref()
                .map(|origin| origin.to_string().into()),
        }
    }

    /// Settles the conversation, then lets go of the session.
    async fn end(mut self, reason: CloseReason) {
        let history = match self.conversation.take() {
            Some(conversation) => {
                let (history, rest) = conversation.close();
                if reason == CloseReason::Shutdown {
                    rest.into_iter().for_each(|event| self.turn_event(event));
                }
                Some(history)
            }
            None => self.history.take(),
        };
        if let Some((peer, _)) = self.peer.take() {
            peer.close();
        }
        let keep = self.established;
        if let (true, Some(history)) = (keep, history)
            && let Err(error) = self
                .shared
                .histories
                .put(self.session_id, &self.owner(), history)
                .await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "history not kept");
        }
        // After the history is stored: a successor waits for this.
        let dropped = self
            .shared
            .handles
            .release(self.lease, keep, self.shared.clock.now());
        for session_id in dropped {
            self.shared.forget(session_id).await;
        }
    }
}

/// Sends paced speech as messages.
struct TtsChunks(Connection);

impl ChunkOut for TtsChunks {
    fn send(&self, chunk: PcmChunk) {
        self.0.send(ServerMessage::TtsChunk {
            format: AudioFormat::Pcm,
            sample_rate: Some(chunk.rate().hz()),
            data: chunk.to_le_bytes(),
        });
    }
}

async fn next_peer_event(peer: &mut Option<(Peer, PeerEvents)>) -> PeerEvent {
    match peer {
        Some((_, events)) => match events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn next_turn_event(conversation: &mut Option<Conversation>) -> TurnEvent {
    match conversation {
        Some(conversation) => conversation.next().await,
        None => std::future::pending().await,
    }
}
