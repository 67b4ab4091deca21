//! RTP in and out: which packets are the caller's microphone, and the headers of what we send.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use rtc::rtp::{self, header::Header};
use tokio::sync::{mpsc, watch};
use webrtc::media_stream::{
    track_local::{TrackLocal, static_rtp::TrackLocalStaticRTP},
    track_remote::{TrackRemote, TrackRemoteEvent},
};

use super::sdp::Section;
use crate::pipeline::{PacketOut, Pipeline, RtpIn, RtpOut};

/// Media thread → sending task, 20 ms each. Full: the packet is dropped, since audio that waited a third of a second
/// would only push the rest back.
const OUTBOUND_QUEUE: usize = 16;

/// The remote's microphone: of everything that arrives, the packets of the section that currently sends.
#[derive(Debug)]
pub(super) struct Microphone {
    pipeline: Arc<Pipeline>,
    source: Mutex<Option<Source>>,
}

#[derive(Debug)]
struct Source {
    /// What the remote announced; empty when it announced none.
    ssrcs: Vec<u32>,
    payload_types: Vec<u8>,
    /// The source that was heard last.
    current: Option<u32>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Foreign,
    Next,
    NewSource,
}

impl Source {
    fn judge(&mut self, ssrc: u32, payload_type: u8) -> Verdict {
        let known = self.ssrcs.is_empty() || self.ssrcs.contains(&ssrc);
        if !known || !self.payload_types.contains(&payload_type) {
            Verdict::Foreign
        } else if self.current.replace(ssrc) == Some(ssrc) {
            Verdict::Next
        } else {
            Verdict::NewSource
        }
    }
}

impl Microphone {
    pub(super) fn new(pipeline: Arc<Pipeline>) -> Self {
        Self {
            pipeline,
            source: Mutex::new(None),
        }
    }

    fn source(&self) -> std::sync::MutexGuard<'_, Option<Source>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what was negotiated: the section that sends, if any does. An open utterance ends at once when the
    /// microphone is taken away; it goes on when it is replaced.
    pub(super) fn negotiated(&self, section: Option<&Section>) {
        let mut source = self.source();
        match section {
            Some(section) => {
                let current = source.as_ref().and_then(|source| source.current);
                *source = Some(Source {
                    ssrcs: section.ssrcs.clone(),
                    payload_types: section.opus.clone(),
                    current,
                });
            }
            None => {
                if source.take().is_some() {
                    self.pipeline.source_removed();
                }
            }
        }
    }

    fn packet(&self, packet: rtp::Packet) {
        // Padding probes carry no payload.
        if packet.payload.is_empty() {
            return;
        }
        let header = &packet.header;
        let verdict = match self.source().as_mut() {
            Some(source) => source.judge(header.ssrc, header.payload_type),
            None => Verdict::Foreign,
        };
        match verdict {
            Verdict::Foreign => return,
            Verdict::NewSource => self.pipeline.source_changed(),
            Verdict::Next => {}
        }
        self.pipeline.packet(RtpIn {
            sequence: header.sequence_number,
            timestamp: header.timestamp,
            payload: packet.payload,
            arrived: tokio::time::Instant::now().into_std(),
        });
    }
}

/// Feeds the microphone from one track until the track ends.
pub(super) async fn receive(track: Arc<dyn TrackRemote>, microphone: Arc<Microphone>) {
    while let Some(event) = track.poll().await {
        match event {
            TrackRemoteEvent::OnRtpPacket(packet) => microphone.packet(packet),
            TrackRemoteEvent::OnEnded => return,
            _ => {}
        }
    }
}

/// Where we send, once it is negotiated.
#[derive(Clone)]
pub(super) struct Outlet {
    pub(super) track: Arc<TrackLocalStaticRTP>,
    pub(super) ssrc: u32,
    pub(super) payload_type: u8,
}

/// The pipeline's way out.
#[derive(Debug)]
pub(super) struct OutboundQueue {
    packets: mpsc::Sender<RtpOut>,
    dropped: AtomicU64,
}

impl OutboundQueue {
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<RtpOut>) {
        let (packets, receiver) = mpsc::channel(OUTBOUND_QUEUE);
        let queue = Self {
            packets,
            dropped: AtomicU64::new(0),
        };
        (Arc::new(queue), receiver)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl PacketOut for OutboundQueue {
    fn send(&self, packet: RtpOut) {
        if self.packets.try_send(packet).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sequence numbers and timestamps of one stream. Both start at random (RFC 3550 §5.1) and never jump.
#[derive(Debug)]
struct Packetiser {
    sequence: u16,
    timestamp_offset: u32,
}

impl Packetiser {
    fn new() -> Self {
        Self {
            // Below the wrap, so that a receiver that joins late does not start with a rollover (RFC 3711 §3.3.1).
            sequence: rand::random::<u16>() >> 1,
            timestamp_offset: rand::random(),
        }
    }

    fn packet(&mut self, out: RtpOut, ssrc: u32, payload_type: u8) -> rtp::Packet {
        self.sequence = self.sequence.wrapping_add(1);
        rtp::Packet {
            header: Header {
                version: 2,
                marker: out.marker,
                payload_type,
                sequence_number: self.sequence,
                timestamp: out.timestamp.wrapping_add(self.timestamp_offset),
                ssrc,
                ..Header::default()
            },
            payload: out.payload,
        }
    }
}

/// Sends packets over the negotiated outlet; without one they are dropped.
pub(super) async fn transmit(
    mut packets: mpsc::Receiver<RtpOut>,
    outlet: watch::Receiver<Option<Outlet>>,
) {
    let mut packetiser = Packetiser::new();
    while let Some(out) = packets.recv().await {
        let Some(outlet) = outlet.borrow().clone() else {
            continue;
        };
        let packet = packetiser.packet(out, outlet.ssrc, outlet.payload_type);
        if let Err(error) = outlet.track.write_rtp(packet).await {
            tracing::trace!(%error, "RTP packet not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn only_the_negotiated_source_is_heard() {
        let mut source = Source {
            ssrcs: vec![7, 8],
            payload_types: vec![111],
            current: None,
        };
        let table = [
            ((7, 111), Verdict::NewSource),
            ((7, 111), Verdict::Next),
            ((7, 0), Verdict::Foreign),
            ((9, 111), Verdict::Foreign),
            ((8, 111), Verdict::NewSource),
            ((8, 111), Verdict::Next),
        ];
        for (index, ((ssrc, payload_type), expected)) in table.into_iter().enumerate() {
            assert_eq!(source.judge(ssrc, payload_type), expected, "row {index}");
        }
    }

    #[test]
    fn a_source_without_announced_identifiers_is_known_by_its_payload_type() {
        let mut source = Source {
            ssrcs: vec![],
            payload_types: vec![96],
            current: None,
        };
        assert_eq!(source.judge(1, 96), Verdict::NewSource);
        assert_eq!(source.judge(1, 111), Verdict::Foreign);
    }

    #[test]
    fn sequence_numbers_are_continuous_and_timestamps_follow_the_media_clock() {
        let mut packetiser = Packetiser::new();
        let out = |timestamp, marker| RtpOut {
            payload: Bytes::from_static(&[0xF8]),
            timestamp,
            marker,
        };
        let packets: Vec<_> = [(0, true), (960, false), (48_000, true), (u32::MAX, false)]
            .into_iter()
            .map(|(timestamp, marker)| packetiser.packet(out(timestamp, marker), 5, 111))
            .collect();
        for (index, pair) in packets.windows(2).enumerate() {
            let [first, second] = pair else {
                unreachable!("windows of two")
            };
            assert_eq!(
                second.header.sequence_number,
                first.header.sequence_number.wrapping_add(1),
                "packet {index}"
            );
        }
        let base = packets[0].header.timestamp;
        let offsets: Vec<u32> = packets
            .iter()
            .map(|packet| packet.header.timestamp.wrapping_sub(base))
            .collect();
        assert_eq!(offsets, [0, 960, 48_000, u32::MAX]);
        let markers: Vec<bool> = packets.iter().map(|packet| packet.header.marker).collect();
        assert_eq!(markers, [true, false, true, false]);
        assert!(packets.iter().all(|packet| packet.header.ssrc == 5));
    }
}
