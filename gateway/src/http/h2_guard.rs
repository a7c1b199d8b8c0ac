//! Counts what passes on a client's HTTP/2 connection, and ends it when the client asks for little and keeps us busy with
//! much.
//!
//! h2 itself has limits for resets that come faster than we look, for CONTINUATION and for tiny DATA. It answers every
//! SETTINGS and PING, and reads every PRIORITY, WINDOW_UPDATE and unknown frame, for as long as they come (RFC 9113 10.5,
//! CVE-2019-9512, -9513, -9515, -9517). Here each of those costs one, and what honest clients have them for earns some
//! ([`cost`], [`EARNED_BY_FRAME_SENT`]): so the limit grows with what the connection is really used for, and heavy use is
//! not mistaken for a flood. Envoy counts in the same way (`max_inbound_window_update_frames_per_data_frame_sent`,
//! `max_inbound_priority_frames_per_stream`), nginx compares bytes of content with all bytes, HAProxy counts "glitches" only
//! when asked to.
//!
//! It reads the 9 bytes that each frame begins with (RFC 9113 4.1), in passing and without a copy: that takes 4 ns a
//! frame. How it refuses: the frame that was too many passes whole, nothing after it; then h2 is given CONTINUATION without
//! end, so that it is h2 which says GOAWAY with ENHANCE_YOUR_CALM and closes.

use std::io::IoSlice;

use tokio::io::ReadBuf;

use super::preface::PREFACE;

/// Bytes that a frame begins with.
const HEAD: usize = 9;

/// What a frame of an answer earns: room for two WINDOW_UPDATEs, and a PING and a SETTINGS of a client that measures its
/// bandwidth with each, and for clients that open their window in steps of a kilobyte. Envoy's figure.
const EARNED_BY_FRAME_SENT: i32 = 20;

/// What a request earns: some clients send PRIORITY and a WINDOW_UPDATE with each.
const EARNED_BY_HEADERS: i32 = 4;

/// What a reset costs. A request that is never answered costs more than it earns: who only begins requests and resets them, slowly
/// enough that h2 does not notice, is attacking as well (CVE-2023-44487).
const COST_OF_RESET: i32 = 12;

/// In how many ticks an allowance that was used up is there again.
const TICKS_TO_RECOVER: u32 = 8;

/// Types of frames, and the flag that ends a stream (RFC 9113 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// A field section without an end: its first frame, and any other one.
const BEGINNING: [u8; HEAD] = [0, 0, 0, HEADERS, 0, 0, 0, 0, 1];
const AND_SO_ON: [u8; HEAD] = [0, 0, 0, CONTINUATION, 0, 0, 0, 0, 1];

/// Reads along with one client's HTTP/2 connection, both ways.
#[derive(Debug)]
pub(crate) struct H2Guard {
    received: Frames,
    sent: Frames,
    /// Frames of no use that may still come.
    allowance: i32,
    /// How far it recovers by itself.
    limit: i32,
    /// When it did last.
    tick: u32,
    /// What came once too often.
    flood: Option<&'static str>,
    has_begun_to_refuse: bool,
}

impl H2Guard {
    /// For a connection that begins at this tick, and may send so many frames of no use at once.
    pub(crate) fn new(limit: u32, tick: u32) -> Self {
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        Self {
            // h2 looks at the preface.
            received: Frames::behind(PREFACE.len()),
            sent: Frames::behind(0),
            allowance: limit,
            limit,
            tick,
            flood: None,
            has_begun_to_refuse: false,
        }
    }

    /// What the client floods us with, if it does.
    pub(crate) fn flood(&self) -> Option<&'static str> {
        self.flood
    }

    /// To be called with what was just read, `buf` from byte `start` on. Takes back what is refused.
    pub(crate) fn filter(&mut self, buf: &mut ReadBuf<'_>, start: usize, tick: u32) {
        self.recover(tick);
        let passed = self.check(&buf.filled()[start..]);
        buf.set_filled(start + passed);
    }

    /// Whether [`instead`](Self::instead) is to be called, and nothing is to be read any more.
    pub(crate) fn is_refusing(&self) -> bool {
        self.flood.is_some() && self.received.left == 0
    }

    /// Gives what makes h2 end the connection.
    pub(crate) fn instead(&mut self, buf: &mut ReadBuf<'_>) {
        if !self.has_begun_to_refuse && buf.remaining() >= HEAD {
            buf.put_slice(&BEGINNING);
            self.has_begun_to_refuse = true;
        }
        while buf.remaining() >= HEAD {
            buf.put_slice(&AND_SO_ON);
        }
    }

    /// To be called with what was just written; says whether content was among it.
    pub(crate) fn wrote(&mut self, buffers: &[IoSlice<'_>], mut written: usize) -> bool {
        let mut has_content = false;
        for buffer in buffers {
            let mut bytes = &buffer[..buffer.len().min(written)];
            written -= bytes.len();
            has_content |= self.sent.kind == DATA && self.sent.left > 0 && !bytes.is_empty();
            while let Some(head) = self.sent.next(&mut bytes) {
                if let DATA | HEADERS = head.kind {
                    self.allowance = self.allowance.saturating_add(EARNED_BY_FRAME_SENT);
                    has_content |= head.kind == DATA;
                }
            }
        }
        has_content
    }

    fn recover(&mut self, tick: u32) {
        let ticks = tick.saturating_sub(self.tick).min(TICKS_TO_RECOVER);
        self.tick = tick;
        if ticks > 0 && self.allowance < self.limit {
            let share = self.limit.unsigned_abs().div_ceil(TICKS_TO_RECOVER).saturating_mul(ticks);
            self.allowance = self.allowance.saturating_add_unsigned(share).min(self.limit);
        }
    }

    /// How many of these bytes pass.
    fn check(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while self.flood.is_none() {
            let Some(head) = self.received.next(&mut rest) else { return bytes.len() };
            self.allowance = self.allowance.saturating_sub(cost(head));
            if self.allowance < 0 {
                self.flood = Some(name(head.kind));
            }
        }
        // Only between two frames can others be put in.
        self.received.skip(&mut rest);
        bytes.len() - rest.len()
    }
}

/// What a client's frame costs of the allowance; less than nothing if it earns some.
fn cost(head: Head) -> i32 {
    match head.kind {
        DATA if head.length == 0 && head.flags & END_STREAM == 0 => 1,
        // h2 counts them.
        DATA | CONTINUATION => 0,
        HEADERS => -EARNED_BY_HEADERS,
        RST_STREAM => COST_OF_RESET,
        _ => 1,
    }
}

/// For the log.
fn name(kind: u8) -> &'static str {
    match kind {
        DATA => "empty DATA",
        2 => "PRIORITY",
        RST_STREAM => "RST_STREAM",
        4 => "SETTINGS",
        6 => "PING",
        8 => "WINDOW_UPDATE",
        _ => "other frames",
    }
}

/// What is counted of a frame.
#[derive(Clone, Copy, Debug)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
}

/// Finds the frames in bytes that come in any pieces.
#[derive(Debug)]
struct Frames {
    /// The beginning of a head whose end was not there yet.
    head: [u8; HEAD],
    have: usize,
    /// Bytes until the next head.
    left: usize,
    /// The type of the frame that those belong to.
    kind: u8,
}

impl Frames {
    /// The first frame comes behind so many bytes.
    fn behind(left: usize) -> Self {
        Self { head: [0; HEAD], have: 0, left, kind: u8::MAX }
    }

    /// The next head in `bytes`, which go on behind it. `None` when all of them are used up.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        self.skip(bytes);
        let head = match bytes.split_first_chunk() {
            Some((head, rest)) if self.have == 0 => {
                *bytes = rest;
                *head
            }
            Some(_) | None => {
                let (piece, rest) = bytes.split_at(bytes.len().min(HEAD - self.have));
                self.head[self.have..self.have + piece.len()].copy_from_slice(piece);
                *bytes = rest;
                self.have += piece.len();
                if self.have < HEAD {
                    return None;
                }
                self.have = 0;
                self.head
            }
        };
        let [a, b, c, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        (self.left, self.kind) = (length as usize, kind);
        Some(Head { length, kind, flags })
    }

    fn skip(&mut self, bytes: &mut &[u8]) {
        let skipped = self.left.min(bytes.len());
        *bytes = &bytes[skipped..];
        self.left -= skipped;
    }
}

#[cfg(test)]
#[path = "h2_guard_tests.rs"]
mod tests;
