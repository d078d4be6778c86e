//! A large reply to a plain read goes to its client as it comes: nobody needs it as a whole, so the lane does not keep it.
//!
//! From its first byte on a client that was told a part of a reply is owed the rest of this one, and can be told nothing else: what comes up meanwhile
//! waits behind it, and when the connection to the server is lost, the read is not asked again; the client's connection ends, as the server's own would.

use super::Sequencer;
use super::lane::{InFlight, LaneId, What};
use super::session::SessionId;
use crate::command::{Command, Rule};
use crate::limits;
use crate::resp::reply::{Reply, Scanner};

/// The bytes that end a bulk string, the last one first.
const END: [u8; 2] = *b"\n\r";

impl Sequencer {
    /// `begun` is all that came of the next reply so far, and the scanner found it incomplete. True when it goes to its client as it comes, these bytes first.
    pub(super) fn begin_relay(&mut self, id: LaneId, begun: &[u8], scanner: &Scanner) -> bool {
        if begun.first() != Some(&b'$') {
            return false;
        }
        let missing = scanner.needs(begun);
        let whole = begun.len() + missing;
        if whole < self.settings.relay_bytes_min || missing < END.len() || !id.is_shared() {
            return false;
        }
        // A reply that may be compared with the mirror's is compared as a whole.
        if self.shadow.is_on() && whole <= limits::SHADOW_READ_BYTES_MAX {
            return false;
        }
        let Some((session, _)) = self.lane(id).and_then(|lane| plain_read(lane.in_flight.front()?)) else { return false };
        // For nobody it is not kept either.
        if let Some(session) = self.sessions.get_mut(session) {
            if !session.can_relay() {
                return false;
            }
            session.begin_relay();
        }
        if let Some(lane) = self.lane_mut(id) {
            lane.relayed = missing;
        }
        self.relay_bytes(id, begun);
        true
    }

    /// Hands what belongs to the reply that is relayed, if one is, to its client: the number of bytes that did. None when the reply does not end as it should.
    pub(super) fn relay(&mut self, id: LaneId, bytes: &[u8]) -> Option<usize> {
        let Some(lane) = self.lane_mut(id).filter(|lane| lane.relayed > 0) else { return Some(0) };
        let taken = lane.relayed.min(bytes.len());
        let left = lane.relayed - taken;
        let mut last = bytes[..taken].iter().rev().zip(END.iter().skip(left));
        if !last.all(|(byte, end)| byte == end) {
            return None;
        }
        lane.relayed = left;
        self.relay_bytes(id, &bytes[..taken]);
        if left == 0 {
            self.end_relay(id);
        }
        Some(taken)
    }

    fn relay_bytes(&mut self, id: LaneId, bytes: &[u8]) {
        let Some((session, _)) = self.lane(id).and_then(|lane| plain_read(lane.in_flight.front()?)) else { return };
        let most = self.settings.client_output_max;
        // Who has gone, or goes, is told nothing more; the server says the rest all the same.
        let Some(reader) = self.sessions.get_mut(session).filter(|session| !session.closing) else { return };
        reader.relay(bytes);
        if reader.unread_bytes() > most {
            self.drop_output(session);
            self.close(session, "output_bound");
        }
        self.touch(session);
    }

    fn end_relay(&mut self, id: LaneId) {
        let now = self.now.us;
        let Some(lane) = self.lane_mut(id) else { return };
        let Some((session, command)) = lane.in_flight.front().and_then(plain_read) else { return };
        let Some(flight) = lane.in_flight.pop_front() else { return };
        lane.answered += 1;
        self.totals.latency[id.side.index()].observe(now.saturating_sub(flight.at), 1);
        self.count(command, Reply(b"$"));
        if let Some(session) = self.sessions.get_mut(session) {
            session.end_relay();
        }
        self.deliver(session, b"", false, None);
        if self.shadow.draws() {
            self.shadow_read(id, command, None, flight.len);
        }
        self.release(id, flight.len);
    }
}

/// Whose it is, and of which command, when it is a read whose reply goes to its session as it is.
fn plain_read(flight: &InFlight) -> Option<(SessionId, &'static Command)> {
    match flight.what {
        What::Client { session, command } if command.simple && !command.writes() && command.rule == Rule::None => Some((session, command)),
        _ => None,
    }
}
