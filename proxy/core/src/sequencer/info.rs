//! What a server tells of itself, where it speaks of the clients it sees: those are our lanes. INFO's fields about clients are the
//! proxy's own, its count of keys leaves the reserved one out, and a section `# Twinlane` follows. MEMORY STATS counts keys too.

use super::Sequencer;
use super::lane::LaneId;
use crate::command::Command;
use crate::endpoint::Endpoint;
use crate::resp::encode::push_bulk;
use crate::resp::reply::Reply;
use crate::resp::request::Request;
use std::fmt::Write;

impl Sequencer {
    /// Whether the replies of a command speak of clients or of how many keys there are.
    pub(super) fn speaks_of_clients(command: &Command) -> bool {
        matches!(command.name, "INFO" | "MEMORY STATS")
    }

    /// Such a reply, as clients see it.
    pub(super) fn retell(&self, lane: LaneId, command: &Command, request: &Request<'_>, reply: Reply<'_>) -> Vec<u8> {
        if reply.is_error() {
            return reply.0.to_vec();
        }
        if command.name == "MEMORY STATS" {
            return self.retell_memory(lane.side, reply);
        }
        let verbatim = reply.0.first() == Some(&b'=');
        let told = String::from_utf8_lossy(reply.text());
        let mut text = self.retell_info(lane.side, told.strip_prefix("txt:").unwrap_or(&told));
        if wants_section(request) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            self.push_section(&mut text);
        }
        let mut out = Vec::with_capacity(text.len() + 16);
        if verbatim {
            out.extend_from_slice(format!("={}\r\ntxt:{text}\r\n", text.len() + 4).as_bytes());
        } else {
            push_bulk(&mut out, text.as_bytes());
        }
        out
    }

    fn retell_info(&self, side: Endpoint, told: &str) -> String {
        let mut out = String::with_capacity(told.len() + 64);
        for line in told.split_inclusive("\r\n") {
            let Some((name, value)) = line.trim_end().split_once(':') else {
                out.push_str(line);
                continue;
            };
            match self.own_field(name) {
                Some(own) => {
                    let _ = write!(out, "{name}:{own}\r\n");
                }
                None if name == "db0" && self.sides[side.index()].marked => {
                    if let Some(value) = less_one_key(value) {
                        let _ = write!(out, "db0:{value}\r\n");
                    }
                }
                None => out.push_str(line),
            }
        }
        out
    }

    /// How many keys each watching client watches.
    fn watching(&self) -> impl Iterator<Item = usize> {
        self.sessions.iter().filter_map(|session| session.watch.as_ref()).map(|watch| watch.len())
    }

    /// A field about clients: ours.
    fn own_field(&self, name: &str) -> Option<String> {
        let pause = self.pause_state();
        Some(match name {
            "connected_clients" => self.sessions.len().to_string(),
            "maxclients" => self.settings.clients_max.to_string(),
            "blocked_clients" => (self.paused_clients() + self.parked_clients()).to_string(),
            "watching_clients" => self.watching().count().to_string(),
            "total_watched_keys" => self.watching().sum::<usize>().to_string(),
            "pubsub_clients" => self.sessions.iter().filter(|session| session.is_subscriber()).count().to_string(),
            "tracking_clients" => self.feeds.iter().filter(|id| self.is_tracking(**id)).count().to_string(),
            "clients_in_timeout_table" | "total_blocking_keys" | "total_blocking_keys_on_nokey" => "0".to_owned(),
            "paused_reason" => if pause.is_some() { "client_command" } else { "none" }.to_owned(),
            "paused_actions" => pause.map_or("none", |(all, _)| if all { "all" } else { "write" }).to_owned(),
            "paused_timeout_milliseconds" => pause.map_or(0, |(_, left_us)| left_us / 1000).to_string(),
            "total_connections_received" => self.totals.accepted.to_string(),
            _ => return None,
        })
    }

    fn push_section(&self, out: &mut String) {
        let status = self.status();
        let _ = write!(
            out,
            "# Twinlane\r\ntwinlane_version:{}\r\ntwinlane_primary:{}\r\ntwinlane_epoch:{}\r\ntwinlane_mirroring:{}\r\ntwinlane_mirror_state:{}\r\n\
             twinlane_mirror_lag_ms:{}\r\ntwinlane_dirty_keys:{}\r\ntwinlane_gate:{}\r\n",
            env!("CARGO_PKG_VERSION"),
            status.primary,
            status.epoch,
            if status.mirroring { "on" } else { "off" },
            status.mirror.state,
            status.mirror.lag_ms,
            status.mirror.dirty_keys,
            if status.gate.is_empty() { "open" } else { "shut" },
        );
    }

    /// `keys.count` without the reserved key.
    fn retell_memory(&self, side: Endpoint, reply: Reply<'_>) -> Vec<u8> {
        const NAME: &[u8] = b"\r\nkeys.count\r\n:";
        let mut out = reply.0.to_vec();
        let Some(at) = out.windows(NAME.len()).position(|window| window == NAME).map(|at| at + NAME.len()) else { return out };
        let end = out[at..].iter().position(|byte| *byte == b'\r').map_or(out.len(), |len| at + len);
        if let Some(keys) = crate::resp::encode::parse_integer(&out[at..end]) {
            let own = i64::from(self.sides[side.index()].marked);
            out.splice(at..end, crate::resp::encode::number((keys - own).max(0)));
        }
        out
    }
}

/// INFO tells everything, or is asked for our section (redis 7.0.15 server.c genInfoSectionDict).
fn wants_section(request: &Request<'_>) -> bool {
    request.len() == 1 || (1..request.len()).any(|at| ["DEFAULT", "ALL", "EVERYTHING", "TWINLANE"].iter().any(|name| request.is(at, name)))
}

/// `keys=5,expires=0,avg_ttl=0` with one key less; None when that was the only one.
fn less_one_key(value: &str) -> Option<String> {
    let (first, rest) = value.split_once(',').unwrap_or((value, ""));
    let keys: u64 = first.strip_prefix("keys=")?.parse().ok()?;
    (keys > 1).then(|| format!("keys={},{rest}", keys - 1))
}

#[cfg(test)]
mod tests {
    use super::less_one_key;

    #[test]
    fn the_reserved_key_is_not_counted() {
        assert_eq!(less_one_key("keys=5,expires=1,avg_ttl=0").as_deref(), Some("keys=4,expires=1,avg_ttl=0"));
        assert_eq!(less_one_key("keys=1,expires=0,avg_ttl=0"), None);
    }
}
