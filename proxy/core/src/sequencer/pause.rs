//! CLIENT PAUSE: requests wait in their sessions' input, as they do for a flip, until the time is over or CLIENT UNPAUSE comes.
//! It is what clients asked for, so it is no part of a flip's pause; a flip goes on below it, and what waits for both goes on when
//! both are over.

use super::Sequencer;
use super::session::{Admit, SessionId, Wait};
use crate::command::{Class, Command, Rule};
use crate::resp::encode::parse_integer;
use crate::resp::request::Request;

/// A pause under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    until_us: u64,
    /// Reads wait too.
    all: bool,
}

impl Sequencer {
    /// `CLIENT PAUSE milliseconds [WRITE|ALL]`. A second one makes the first longer or stricter, never less
    /// (redis 7.0.15 networking.c pauseClients).
    pub(super) fn pause_clients(&mut self, id: SessionId, request: &Request<'_>) -> Admit {
        let side = &self.sides[self.primary().index()];
        let all = match () {
            () if request.len() == 3 => true,
            () if !side.is_since(Some((6, 2)), Some((7, 2))) => {
                let error = crate::command::unknown_subcommand(request, side.major);
                return self.refuse_request(id, &error);
            }
            () if request.len() == 4 && request.is(3, "ALL") => true,
            () if request.len() == 4 && request.is(3, "WRITE") => false,
            () => return self.error(id, "ERR CLIENT PAUSE mode must be WRITE or ALL"),
        };
        let Some(ms) = parse_integer(request.arg(2)) else {
            return self.error(id, "ERR timeout is not an integer or out of range");
        };
        let Ok(ms) = u64::try_from(ms) else { return self.error(id, "ERR timeout is negative") };
        let until_us = self.now.us.saturating_add(ms.saturating_mul(1000));
        self.pause = Some(match self.pause {
            Some(pause) => Pause { until_us: pause.until_us.max(until_us), all: pause.all || all },
            None => Pause { until_us, all },
        });
        self.ok(id)
    }

    pub(super) fn end_pause(&mut self) {
        if self.pause.take().is_some() {
            self.sessions.resume = true;
        }
    }

    pub(super) fn tick_pause(&mut self) {
        if self.pause.is_some_and(|pause| pause.until_us <= self.now.us) {
            self.end_pause();
        }
    }

    /// Whether a request has to wait for the end of the pause. Who owns a barrier or a fence goes on: others wait for it.
    pub(super) fn is_paused(&self, id: SessionId, command: &Command, request: &Request<'_>) -> bool {
        let Some(pause) = self.pause else { return false };
        if pause.until_us <= self.now.us || self.fences.has_begun(id) {
            return false;
        }
        let writes = match command.name {
            "EXEC" => self.sessions.get(id).and_then(|session| session.multi.as_ref()).is_some_and(|multi| multi.writes()),
            _ => may_replicate(command, request),
        };
        pause.all || writes
    }

    /// The pause under way: whether reads wait too, and how long it still lasts, microseconds.
    pub(super) fn pause_state(&self) -> Option<(bool, u64)> {
        self.pause.filter(|pause| pause.until_us > self.now.us).map(|pause| (pause.all, pause.until_us - self.now.us))
    }

    /// Clients whose request waits for the end of the pause.
    pub(super) fn paused_clients(&self) -> usize {
        self.sessions.iter().filter(|session| session.wait == Some(Wait::Pause)).count()
    }
}

/// Whether a server would send it to replicas (redis 7.0.15 server.c is_may_replicate_command).
pub(super) fn may_replicate(command: &Command, request: &Request<'_>) -> bool {
    let scripts = command.container() == "SCRIPT";
    let reads_only = command.name == "EVAL" && is_read_only(request.arg(1));
    (matches!(command.class, Class::Write | Class::Blocking | Class::Keyless | Class::Barrier) && !scripts && !reads_only)
        || command.rule == Rule::PfCount
}

/// A script that says of itself that it does not write: `#!lua flags=no-writes` (script.c).
fn is_read_only(script: &[u8]) -> bool {
    let line = script.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.starts_with(b"#!")
        && line
            .split(u8::is_ascii_whitespace)
            .filter_map(|word| word.strip_prefix(b"flags="))
            .any(|flags| flags.split(|byte| *byte == b',').any(|flag| flag == b"no-writes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_say_that_they_only_read() {
        assert!(is_read_only(b"#!lua flags=no-writes\nreturn 1"));
        assert!(is_read_only(b"#!lua flags=allow-oom,no-writes"));
        assert!(!is_read_only(b"#!lua\nreturn 'flags=no-writes'"));
        assert!(!is_read_only(b"return 1"));
    }
}
