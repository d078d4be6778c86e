//! The primary's keyspace events, on a connection of their own: one that carried commands too would be of the server's pub/sub
//! class, and a single large reply would close it for everybody (H3).
//!
//! Nothing is decided here: what comes is handed to the sequencer, with the word that events are followed or why they are not. The
//! connection is asked with PING once a second, and at once when a flip waits for it; what died before a PING was sent was told
//! when its answer is there. The setting is read again every few seconds, because it may be turned off while the connection lives.

use super::Shell;
use crate::net::Stream;
use crate::upstream::conn::{Conn, Reply};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use twinlane_core::endpoint::{Db, Endpoint};
use twinlane_core::resp::reply::{Reply as Frame, Scanner};
use twinlane_core::sequencer::Events;

/// Between two looks at the setting.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two PINGs.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for an answer to a PING.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a step of the handshake.
const DEADLINE: Duration = Duration::from_secs(5);

const SETTING: &[u8] = b"notify-keyspace-events";
const SUBSCRIBE: &[u8] =
    b"*4\r\n$10\r\nPSUBSCRIBE\r\n$22\r\n__keyevent@*__:expired\r\n$22\r\n__keyevent@*__:evicted\r\n$23\r\n__keyevent@*__:hexpired\r\n";
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Follows a side's events while it is the primary, as long as its connections live.
pub(super) async fn follow(shell: Rc<Shell>, side: Endpoint, generation: u64) {
    let (mut control, mut standing) = (None, shell.standing.subscribe());
    loop {
        let turn = standing.wait_for(|now| now.primary == side || now.generations[side.index()] != generation).await;
        if !turn.is_ok_and(|now| now.generations[side.index()] == generation) {
            return;
        }
        let off = match setting(&shell, side, &mut control).await {
            Ok(None) => listen(&shell, side, generation, &mut control).await,
            Ok(Some(off)) => off,
            Err(why) => {
                control = None;
                Events::Off { why, command: None }
            }
        };
        shell.with(|core, now| core.handle_events(side, generation, off, now));
        // The pause before it is tried again: a connection that was refused, or a setting that was off, is so still.
        tokio::time::sleep(PING_EVERY).await;
    }
}

/// Whether the server sends the events that are needed: `None`; or why not.
async fn setting(shell: &Rc<Shell>, side: Endpoint, control: &mut Option<Conn>) -> Result<Option<Events>, String> {
    let text = |error: crate::upstream::conn::ConnError| error.to_string();
    if control.is_none() {
        *control = Some(shell.connect(side, "settings", DEADLINE).await?);
    }
    let Some(conn) = control else { return Err("not connected".into()) };
    let flags = match conn.call(&[b"CONFIG", b"GET", SETTING]).await.map_err(text)? {
        Reply::Map(pairs) => pairs.into_iter().next().map(|(_, value)| value),
        Reply::Array(items) => items.into_iter().nth(1),
        _ => None,
    };
    let Some(flags) = flags.as_ref().and_then(Reply::text).map(str::to_owned) else {
        return Ok(Some(Events::Off {
            why: "the primary does not tell whether it sends keyspace events (CONFIG is refused)".into(),
            command: None,
        }));
    };
    let wanted = wanted(&flags);
    if wanted == flags {
        return Ok(None);
    }
    let command = format!("CONFIG SET notify-keyspace-events {wanted}");
    if shell.enable_events {
        conn.ask(&[b"CONFIG", b"SET", SETTING, wanted.as_bytes()]).await.map_err(text)?;
        tracing::warn!("`{side}`: {command} (expiry.enable_events; it was {flags:?})");
        return Ok(None);
    }
    let why = "the primary sends no events for keys that expire or are evicted (notify-keyspace-events)".to_owned();
    Ok(Some(Events::Off { why, command: Some(command) }))
}

/// The flags that are set, and those that are needed: keyevent events of expired and evicted keys.
fn wanted(flags: &str) -> String {
    let mut wanted = flags.to_owned();
    let all = flags.contains('A');
    for flag in ['E', 'x', 'e'] {
        if !wanted.contains(flag) && (flag == 'E' || !all) {
            wanted.push(flag);
        }
    }
    wanted
}

/// Subscribes and hands events over until the connection is lost or the setting is turned off; gives back why it ended.
async fn listen(shell: &Rc<Shell>, side: Endpoint, generation: u64, control: &mut Option<Conn>) -> Events {
    let why = match subscribed(shell, side, generation, control).await {
        Ok(off) => return off,
        Err(why) => format!("the connection for keyspace events ended: {why}"),
    };
    Events::Off { why, command: None }
}

async fn subscribed(shell: &Rc<Shell>, side: Endpoint, generation: u64, control: &mut Option<Conn>) -> Result<Events, String> {
    let conn = shell.connect(side, "events", DEADLINE).await?;
    let stream = conn.into_stream().ok_or("the server sent something nobody asked for")?;
    let mut line = Line { stream, input: Vec::new(), scanner: Scanner::default(), confirmed: 0, pings: VecDeque::new() };
    line.send(SUBSCRIBE).await?;
    let (mut ping, mut look) = (tokio::time::interval(PING_EVERY), tokio::time::interval(LOOK_EVERY));
    look.reset();
    loop {
        let mut buffer = [0u8; 16 * 1024];
        let step = tokio::select! {
            read = line.stream.read(&mut buffer) => Step::Read(read.map_err(|error| error.to_string())?),
            _ = ping.tick() => Step::Ping,
            () = shell.ping_events[side.index()].notified() => Step::Ping,
            _ = look.tick() => Step::Look,
        };
        if !is_wanted(shell, side, generation) {
            return Ok(Events::default());
        }
        match step {
            Step::Read(0) => return Err("the server closed it".into()),
            Step::Read(n) => line.take(&buffer[..n], shell, side, generation)?,
            Step::Ping => line.ping(shell).await?,
            Step::Look => {
                if let Some(off) = setting(shell, side, control).await? {
                    return Ok(off);
                }
            }
        }
    }
}

/// The side is the primary still, and connected as it was.
fn is_wanted(shell: &Shell, side: Endpoint, generation: u64) -> bool {
    let core = shell.core.borrow();
    core.generation(side) == generation && core.primary() == side
}

enum Step {
    Read(usize),
    Ping,
    Look,
}

/// The connection, and what is under way on it.
struct Line {
    stream: Stream,
    input: Vec<u8>,
    scanner: Scanner,
    confirmed: usize,
    /// When each PING was sent that is not answered, microseconds.
    pings: VecDeque<u64>,
}

impl Line {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(DEADLINE, sent).await {
            Ok(sent) => sent.map_err(|error| error.to_string()),
            Err(_) => Err("the server does not read".into()),
        }
    }

    async fn ping(&mut self, shell: &Shell) -> Result<(), String> {
        let now = shell.now().us;
        if self.pings.front().is_some_and(|sent| now.saturating_sub(*sent) > SILENCE_MAX.as_micros() as u64) {
            return Err("the server does not answer".into());
        }
        self.pings.push_back(now);
        self.send(PING).await
    }

    /// Takes what came: confirmations, answers to PING, events.
    fn take(&mut self, bytes: &[u8], shell: &Shell, side: Endpoint, generation: u64) -> Result<(), String> {
        self.input.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(scanned) =
            self.scanner.scan(&self.input[at..]).map_err(|_| "the server sent something that is not RESP".to_owned())?
        {
            let frame = Frame(&self.input[at..at + scanned.len]);
            let mut parts = frame.elements();
            let kind = parts.next().map_or(frame.text(), Frame::text);
            match kind {
                b"psubscribe" => {
                    self.confirmed += 1;
                    if self.confirmed == 3 {
                        shell.with(|core, now| core.handle_events(side, generation, Events::Followed, now));
                    }
                }
                b"pmessage" => {
                    if let (Some(channel), Some(key)) = (parts.nth(1), parts.next())
                        && let Some(db) = database(channel.text())
                    {
                        shell.with(|core, now| core.handle_key_event(side, generation, db, key.text(), now));
                    }
                }
                b"PONG" | b"pong" => {
                    if let Some(sent) = self.pings.pop_front() {
                        shell.with(|core, now| core.handle_events_alive(side, generation, sent, now));
                    }
                }
                _ if frame.is_error() => return Err(String::from_utf8_lossy(frame.text()).into_owned()),
                _ => {}
            }
            at += scanned.len;
        }
        self.input.drain(..at);
        Ok(())
    }
}

/// The database in `__keyevent@5__:expired`.
fn database(channel: &[u8]) -> Option<Db> {
    let text = std::str::from_utf8(channel).ok()?;
    text.strip_prefix("__keyevent@")?.split_once("__:")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_are_set_are_kept() {
        for (set, expect) in [("", "Exe"), ("AKE", "AKE"), ("A", "AE"), ("Ex", "Exe"), ("KEg$", "KEg$xe"), ("xeE", "xeE")] {
            assert_eq!(wanted(set), expect, "{set}");
        }
    }

    #[test]
    fn an_event_names_its_database() {
        assert_eq!(database(b"__keyevent@0__:expired"), Some(0));
        assert_eq!(database(b"__keyevent@12__:evicted"), Some(12));
        assert_eq!(database(b"__keyevent@x__:evicted"), None);
        assert_eq!(database(b"other"), None);
    }
}
