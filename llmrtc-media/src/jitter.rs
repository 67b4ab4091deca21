//! Puts packets back in order. Pure: packets and `now` go in, packets and losses come out.
//!
//! A packet in its place passes at once, so a clean network adds no delay. After a gap the following packets wait for
//! the missing one, no longer than lateness has been seen to last, and never longer than 60 ms.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use llmrtc_core::audio::SampleRate;

use crate::{codec::opus, pipeline::RtpIn};

/// The longest wait for a missing packet.
pub const LONGEST_WAIT: Duration = Duration::from_millis(60);

/// The wait while nothing has been late: half a frame catches packets swapped on the last hop.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Packets held behind a gap. More than the longest wait can collect, except in a burst; full: the gap is given up.
const CAPACITY: usize = 32;

/// A sequence number this far off is another stream, not a late packet (two seconds of 20 ms packets).
const MAX_DISTANCE: i64 = 100;

/// Concealment fades to silence within about this many frames; a longer loss is a gap.
const MAX_CONCEALED_FRAMES: u32 = 5;

/// How many given-up packets are remembered, to learn how late they come.
const REMEMBERED_LOSSES: usize = 16;

/// What comes next in the stream.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// The next packet.
    Packet {
        /// Its payload.
        payload: Bytes,
        /// When the last sample in it was captured, as well as arrival times tell: on this clock, network delay of the
        /// fastest packets included, jitter removed.
        captured: Instant,
    },
    /// A packet is lost.
    Lost {
        /// How much audio was in it.
        duration: Duration,
        /// The packet after it, which may carry a copy.
        next: Option<Bytes>,
        /// When its last sample was captured.
        captured: Instant,
    },
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JitterStats {
    /// Packets that were given up.
    pub lost: u64,
    /// Packets that came after they were given up, or twice.
    pub late: u64,
}

/// The reordering buffer of one source.
#[derive(Debug)]
pub struct JitterBuffer {
    /// Extended sequence number and timestamp of the next packet; `None` before the first.
    next: Option<Next>,
    /// By extended sequence number; none below `next`.
    held: BTreeMap<i64, RtpIn>,
    /// How long to wait for a missing packet, from what was seen.
    wait: Duration,
    /// Packets given up lately, with the moment the gap was seen.
    given_up: VecDeque<(i64, Instant)>,
    /// A packet from far away; the next one decides whether it begins a new stream.
    stranger: Option<RtpIn>,
    clock: Option<CaptureClock>,
    stats: JitterStats,
}

#[derive(Clone, Copy, Debug)]
struct Next {
    sequence: i64,
    timestamp: u32,
    /// Length of the packet before, the best guess for a lost one.
    frame: Duration,
    /// Frames concealed since the last packet.
    concealed: u32,
}

impl Default for JitterBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl JitterBuffer {
    /// A buffer that takes any packet as its first.
    pub fn new() -> Self {
        Self {
            next: None,
            held: BTreeMap::new(),
            wait: SHORTEST_WAIT,
            given_up: VecDeque::new(),
            stranger: None,
            clock: None,
            stats: JitterStats::default(),
        }
    }

    /// Forgets the source: the next packet begins a new stream. Counters stay.
    pub fn reset(&mut self) {
        let stats = self.stats;
        *self = Self::new();
        self.stats = stats;
    }

    /// Counters since the start.
    pub fn stats(&self) -> JitterStats {
        self.stats
    }

    /// Takes a packet from the network.
    pub fn push(&mut self, packet: RtpIn) {
        let Some(next) = self.next else {
            self.begin(packet);
            return;
        };
        // The nearest of all extended numbers with these low bits.
        let distance = i64::from(packet.sequence.wrapping_sub(next.sequence as u16) as i16);
        if distance.abs() > MAX_DISTANCE {
            self.meet_stranger(packet);
            return;
        }
        self.stranger = None;
        let sequence = next.sequence + distance;
        if distance < 0 || self.held.contains_key(&sequence) {
            self.stats.late += 1;
            self.learn_lateness(sequence, packet.arrived);
            return;
        }
        if distance == 0 && !self.held.is_empty() {
            // It was waited for: remember how long that took.
            if let Some(since) = self.gap_since() {
                self.lengthen_wait(packet.arrived.saturating_duration_since(since));
            }
        }
        self.held.insert(sequence, packet);
    }

    /// The next packet or loss, if `now` is time for one. Call until `None`.
    pub fn pop(&mut self, now: Instant) -> Option<Arrival> {
        let next = self.next?;
        let (&sequence, first) = self.held.first_key_value()?;
        if sequence == next.sequence {
            let packet = self.held.pop_first()?.1;
            return Some(self.deliver(packet));
        }
        let overdue = now >= first.arrived + self.wait || self.held.len() >= CAPACITY;
        if !overdue {
            return None;
        }
        if next.concealed >= MAX_CONCEALED_FRAMES {
            let packet = self.held.pop_first()?.1;
            self.stats.lost += (sequence - next.sequence) as u64;
            self.next = Some(Next { sequence, ..next });
            return Some(self.deliver(packet));
        }
        let (arrived, payload) = (first.arrived, first.payload.clone());
        let adjacent = sequence == next.sequence + 1;
        Some(self.give_up(next, arrived, adjacent.then_some(payload)))
    }

    /// When [`pop`](Self::pop) will give up a missing packet.
    pub fn deadline(&self) -> Option<Instant> {
        let (&sequence, _) = self.held.first_key_value()?;
        let since = self.gap_since()?;
        if self.next.is_some_and(|next| next.sequence == sequence) {
            return Some(since);
        }
        Some(since + self.wait)
    }

    /// When the packet after the gap arrived.
    fn gap_since(&self) -> Option<Instant> {
        self.held
            .first_key_value()
            .map(|(_, packet)| packet.arrived)
    }

    fn begin(&mut self, packet: RtpIn) {
        let sequence = i64::from(packet.sequence);
        self.next = Some(Next {
            sequence,
            timestamp: packet.timestamp,
            frame: opus::FRAME,
            concealed: 0,
        });
        self.held.insert(sequence, packet);
    }

    /// Two packets in a row from elsewhere are a new stream (RFC 3550 §A.1); a single one is a straggler.
    fn meet_stranger(&mut self, packet: RtpIn) {
        let follows = |stranger: &RtpIn| stranger.sequence.wrapping_add(1) == packet.sequence;
        match self.stranger.take_if(|stranger| follows(stranger)) {
            Some(first) => {
                self.reset();
                self.begin(first);
                self.push(packet);
            }
            None => {
                self.stats.late += 1;
                self.stranger = Some(packet);
            }
        }
    }

    fn deliver(&mut self, packet: RtpIn) -> Arrival {
        let frame = opus::packet_duration(&packet.payload).unwrap_or(opus::FRAME);
        let end = packet.timestamp.wrapping_add(ticks(frame));
        let captured = match &mut self.clock {
            Some(clock) => clock.observe(end, packet.arrived),
            none => none.insert(CaptureClock::new(end, packet.arrived)).at,
        };
        if let Some(next) = &mut self.next {
            *next = Next {
                sequence: next.sequence + 1,
                timestamp: end,
                frame,
                concealed: 0,
            };
        }
        // Forgive: a quarter of a millisecond per packet, 12 ms per second.
        self.wait = self
            .wait
            .saturating_sub(Duration::from_micros(250))
            .max(SHORTEST_WAIT);
        Arrival::Packet {
            payload: packet.payload,
            captured,
        }
    }

    /// `seen`: when the first packet after the gap arrived. `copy`: that packet, where it follows directly.
    fn give_up(&mut self, next: Next, seen: Instant, copy: Option<Bytes>) -> Arrival {
        self.given_up.push_back((next.sequence, seen));
        if self.given_up.len() > REMEMBERED_LOSSES {
            self.given_up.pop_front();
        }
        self.stats.lost += 1;
        let end = next.timestamp.wrapping_add(ticks(next.frame));
        self.next = Some(Next {
            sequence: next.sequence + 1,
            timestamp: end,
            frame: next.frame,
            concealed: next.concealed + 1,
        });
        Arrival::Lost {
            duration: next.frame,
            next: copy,
            captured: self.clock.map_or(seen, |clock| clock.at(end)),
        }
    }

    fn learn_lateness(&mut self, sequence: i64, arrived: Instant) {
        if let Some((_, since)) = self.given_up.iter().find(|(lost, _)| *lost == sequence) {
            self.lengthen_wait(arrived.saturating_duration_since(*since));
        }
    }

    fn lengthen_wait(&mut self, lateness: Duration) {
        self.wait = self.wait.max(lateness + lateness / 4).min(LONGEST_WAIT);
    }
}

fn ticks(duration: Duration) -> u32 {
    SampleRate::HZ_48000.samples_in(duration) as u32
}

/// Turns RTP timestamps into instants, following the fastest packets.
#[derive(Clone, Copy, Debug)]
struct CaptureClock {
    timestamp: u32,
    at: Instant,
}

/// A packet later than this was not delayed: its clock jumped, or the sender paused it.
const CLOCK_JUMP: Duration = Duration::from_millis(500);

impl CaptureClock {
    fn new(timestamp: u32, arrived: Instant) -> Self {
        Self {
            timestamp,
            at: arrived,
        }
    }

    /// When the sample at `timestamp` was captured by the present estimate.
    fn at(&self, timestamp: u32) -> Instant {
        let ticks = timestamp.wrapping_sub(self.timestamp) as i32;
        let distance = SampleRate::HZ_48000.duration_of(ticks.unsigned_abs() as usize);
        let at = match ticks {
            0.. => self.at.checked_add(distance),
            _ => self.at.checked_sub(distance),
        };
        at.unwrap_or(self.at)
    }

    fn observe(&mut self, timestamp: u32, arrived: Instant) -> Instant {
        let expected = self.at(timestamp);
        let late = arrived.saturating_duration_since(expected);
        let early = expected.saturating_duration_since(arrived);
        self.timestamp = timestamp;
        self.at = if late > CLOCK_JUMP || !early.is_zero() {
            arrived
        } else {
            // Sound cards drift by up to 200 ppm; this follows 1 000 ppm (20 µs per packet) and no faster.
            expected + late.min(Duration::from_micros(20))
        };
        self.at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A 20 ms packet whose second byte is a tag.
    fn packet(sequence: u16, timestamp: u32, arrived: Instant) -> RtpIn {
        RtpIn {
            sequence,
            timestamp,
            payload: Bytes::copy_from_slice(&[0x78, sequence as u8]),
            arrived,
        }
    }

    /// Packet `n` of a stream from 65 530, `ms` after the start.
    fn nth(n: u16, start: Instant, ms: u64) -> RtpIn {
        packet(
            65_530u16.wrapping_add(n),
            u32::from(n).wrapping_mul(960).wrapping_sub(5_000),
            start + Duration::from_millis(ms),
        )
    }

    fn drain(buffer: &mut JitterBuffer, now: Instant) -> Vec<Option<u16>> {
        std::iter::from_fn(|| buffer.pop(now))
            .map(|arrival| match arrival {
                Arrival::Packet { payload, .. } => {
                    Some(u16::from(payload[1]).wrapping_sub(65_530u16 & 0xFF) & 0xFF)
                }
                Arrival::Lost { .. } => None,
            })
            .collect()
    }

    /// `script`: (packet, arrival in ms). Returns what came out and when.
    fn run(script: &[(u16, u64)]) -> Vec<(Option<u16>, u64)> {
        let start = Instant::now();
        let mut buffer = JitterBuffer::new();
        let mut out = Vec::new();
        let mut script = script.iter().peekable();
        for ms in 0..2_000 {
            while let Some((n, _)) = script.next_if(|(_, at)| *at <= ms) {
                buffer.push(nth(*n, start, ms));
            }
            let now = start + Duration::from_millis(ms);
            let popped = drain(&mut buffer, now);
            assert!(
                popped.is_empty() || ms == 0 || buffer.deadline().is_none_or(|at| at > now),
                "a deadline that has passed was acted on"
            );
            out.extend(popped.into_iter().map(|arrival| (arrival, ms)));
        }
        out
    }

    #[test]
    fn packets_in_order_pass_at_once_across_the_wrap() {
        let script: Vec<(u16, u64)> = (0..20).map(|n| (n, u64::from(n) * 20)).collect();
        let expected: Vec<(Option<u16>, u64)> =
            script.iter().map(|(n, at)| (Some(*n), *at)).collect();
        assert_eq!(run(&script), expected);
    }

    #[test]
    fn swapped_packets_are_put_back() {
        assert_eq!(
            run(&[(0, 0), (2, 40), (1, 45), (3, 60)]),
            [(Some(0), 0), (Some(1), 45), (Some(2), 45), (Some(3), 60)]
        );
    }

    #[test]
    fn a_lost_packet_is_given_up_after_the_wait() {
        assert_eq!(
            run(&[(0, 0), (2, 40), (3, 60)]),
            [(Some(0), 0), (None, 50), (Some(2), 50), (Some(3), 60)]
        );
    }

    #[test]
    fn duplicates_and_late_packets_are_dropped() {
        assert_eq!(
            run(&[(0, 0), (0, 1), (2, 40), (2, 41), (1, 55), (3, 60)]),
            [(Some(0), 0), (None, 50), (Some(2), 50), (Some(3), 60)]
        );
    }

    #[test]
    fn the_wait_learns_from_late_packets() {
        // Packet 1 is 25 ms later than its successor and lost; packet 4 as late as that is waited for.
        let out = run(&[(0, 0), (2, 40), (1, 65), (3, 66), (5, 100), (4, 125)]);
        assert_eq!(out[3..], [(Some(3), 66), (Some(4), 125), (Some(5), 125)]);
    }

    #[test]
    fn a_long_loss_is_concealed_briefly_and_then_skipped() {
        let out = run(&[(0, 0), (50, 1_000), (51, 1_020)]);
        let concealed = out.iter().filter(|(arrival, _)| arrival.is_none()).count();
        assert_eq!(concealed as u32, MAX_CONCEALED_FRAMES);
        assert_eq!(out.last(), Some(&(Some(51), 1_020)));
    }

    #[test]
    fn a_new_source_takes_over_with_its_second_packet() {
        let start = Instant::now();
        let mut buffer = JitterBuffer::new();
        buffer.push(nth(0, start, 0));
        buffer.push(packet(30_000, 7, start));
        assert_eq!(
            drain(&mut buffer, start).len(),
            1,
            "one stranger changes nothing"
        );
        buffer.push(packet(30_001, 967, start));
        assert_eq!(drain(&mut buffer, start).len(), 2);
    }

    #[test]
    fn capture_times_follow_the_fastest_packets() {
        let start = Instant::now();
        let mut buffer = JitterBuffer::new();
        for (n, jitter) in [(0, 0), (1, 15), (2, 3), (3, 19), (4, 0)] {
            buffer.push(nth(n, start, u64::from(n) * 20 + jitter));
            let Some(Arrival::Packet { captured, .. }) =
                buffer.pop(start + Duration::from_millis(u64::from(n) * 20 + jitter))
            else {
                panic!("packet {n} is in order");
            };
            let ideal = start + Duration::from_millis(u64::from(n) * 20);
            assert!(captured.saturating_duration_since(ideal) < Duration::from_millis(1));
            assert!(ideal.saturating_duration_since(captured) < Duration::from_millis(1));
        }
    }

    proptest! {
        #[test]
        fn never_reorders_nor_repeats(
            arrivals in proptest::collection::vec((0u16..90, 0u64..30), 1..200),
        ) {
            let start = Instant::now();
            let mut buffer = JitterBuffer::new();
            let (mut now_ms, mut last) = (0, None);
            for (n, step) in arrivals {
                now_ms += step;
                buffer.push(nth(n, start, now_ms));
                for n in drain(&mut buffer, start + Duration::from_millis(now_ms)).into_iter().flatten() {
                    prop_assert!(last.is_none_or(|last| n > last), "{n} after {last:?}");
                    last = Some(n);
                }
            }
        }

        #[test]
        fn survives_anything(
            packets in proptest::collection::vec((any::<u16>(), any::<u32>(), 0u64..100), 0..300),
        ) {
            let start = Instant::now();
            let mut buffer = JitterBuffer::new();
            let mut now = start;
            for (sequence, timestamp, step) in packets {
                now += Duration::from_millis(step);
                buffer.push(packet(sequence, timestamp, now));
                while buffer.pop(now).is_some() {}
                prop_assert!(buffer.held.len() <= CAPACITY);
            }
        }
    }
}
