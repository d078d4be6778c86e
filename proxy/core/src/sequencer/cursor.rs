//! Cursors of SCAN, SSCAN, HSCAN and ZSCAN. A cursor means something only to the server that gave it, and another server
//! accepts it silently and skips keys (H43). So a cursor carries its side in its lowest bit, and an iteration that began before
//! a flip ends where it began. Redis's cursors have about as many bits as the database has keys, so the bit costs nothing;
//! cursors stay below 2^53, which every client's number type can hold.

use super::Sequencer;
use super::lane::{LaneId, What};
use super::session::{Admit, Session, SessionId, Wait};
use crate::command::Command;
use crate::endpoint::Endpoint;
use crate::resp::encode::push_bulk;
use crate::resp::reply::Reply;
use crate::resp::request::{Request, Spans, canonical};

/// Largest cursor that can carry its side.
const CURSOR_MAX: u64 = 1 << 52;

/// The cursor as clients see it; None when it is too large to carry its side.
fn tag(cursor: u64, side: Endpoint) -> Option<u64> {
    match cursor {
        0 => Some(0),
        1..CURSOR_MAX => Some(cursor * 2 + side.index() as u64),
        _ => None,
    }
}

/// The server's cursor and the side that gave it; None for a new iteration, or for what is no cursor of ours.
fn untag(text: &[u8]) -> Option<(u64, Endpoint)> {
    let tagged: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (tagged != 0).then_some((tagged / 2, Endpoint::BOTH[(tagged % 2) as usize]))
}

/// Where the cursor lies: behind the key, for all but SCAN.
pub(super) fn cursor_at(command: &Command) -> usize {
    if command.name == "SCAN" { 1 } else { 2 }
}

impl Sequencer {
    /// Sends a cursor read to the side that gave its cursor.
    pub(super) fn send_cursor(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>) -> Admit {
        let at = cursor_at(command);
        let Some((cursor, side)) = untag(request.arg(at)) else { return self.send(id, command, request) };
        let text = cursor.to_string();
        let args: Vec<&[u8]> = (0..request.len()).map(|i| if i == at { text.as_bytes() } else { request.arg(i) }).collect();
        let (mut frame, mut spans) = (Vec::new(), Spans::default());
        let request = canonical(&args, &mut frame, &mut spans);
        if side == self.primary() {
            return self.send(id, command, &request);
        }
        self.send_elsewhere(id, command, &request, side)
    }

    /// The iteration began on what is the mirror now. The session has nothing else unanswered meanwhile (H4).
    fn send_elsewhere(&mut self, id: SessionId, command: &'static Command, request: &Request<'_>, side: Endpoint) -> Admit {
        let Some(session) = self.sessions.get(id) else { return Admit::Taken };
        if !session.is_drained() {
            return Admit::Wait(Wait::Drain);
        }
        if self.holding {
            return Admit::Wait(Wait::Gate);
        }
        let lane = LaneId::shared(side, session.db);
        if !self.lane(lane).is_some_and(super::lane::Lane::is_open) {
            let error = format!("-ERR twinlane: this iteration began on `{side}`, which cannot be reached now; begin it anew\r\n");
            return self.refuse_request(id, error.as_bytes());
        }
        let now = self.now.us;
        if let Some(lane) = self.lane_mut(lane) {
            lane.push(&[request.frame], What::Client { session: id, command }, 1, now);
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.elsewhere = true;
        }
        self.count_sent(id, false);
        self.touch_lane(lane);
        Admit::Taken
    }

    /// The mirror was lost before it answered.
    pub(super) fn lose_elsewhere(&mut self, id: SessionId, side: Endpoint) {
        if self.sessions.get(id).is_some_and(Session::is_elsewhere) {
            let error = format!("-ERR twinlane: this iteration began on `{side}`, which was lost; begin it anew\r\n");
            self.deliver(id, error.as_bytes(), false, None);
        }
    }
}

/// Writes the first element of a cursor read's reply as clients see it.
pub(super) fn push_cursor(out: &mut Vec<u8>, cursor: Reply<'_>, side: Endpoint) {
    let given: Option<u64> = std::str::from_utf8(cursor.text()).ok().and_then(|text| text.parse().ok());
    match given.and_then(|given| tag(given, side)) {
        Some(tagged) => push_bulk(out, tagged.to_string().as_bytes()),
        None => out.extend_from_slice(b"-ERR twinlane: the server's cursor is too large to be passed on\r\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_names_its_side() {
        for side in Endpoint::BOTH {
            for cursor in [1, 2, 17, 1 << 40, CURSOR_MAX - 1] {
                let tagged = tag(cursor, side).expect("in range");
                assert!(tagged < 1 << 53);
                assert_eq!(untag(tagged.to_string().as_bytes()), Some((cursor, side)));
            }
            assert_eq!(tag(0, side), Some(0));
            assert_eq!(tag(CURSOR_MAX, side), None);
        }
        assert_eq!(untag(b"0"), None);
        assert_eq!(untag(b"x"), None);
    }
}
