//! Connecting a side: ask what it is, kill what is left of earlier connections there, open the lanes; then look at it once a
//! second. Every step is awaited before the next, so that nothing can be refused separately from what depends on it (H5, H6).

use super::Shell;
use crate::start::NAME as START;
use crate::upstream::conn::{Conn, ConnError, Protocol, Reply, ServerInfo};
use crate::upstream::pair::{self, neighbours};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::spawn_local;
use twinlane_core::endpoint::{Db, Endpoint};
use twinlane_core::sequencer::{Bypassing, Eviction, LaneId, LaneInfo, Memory, Probe, Role, SideUp};

/// Longest wait for a step of a handshake.
const DEADLINE: Duration = Duration::from_secs(5);

impl Shell {
    /// A side is lost: its sockets are reset, the sequencer learns of it.
    pub(super) fn lose(&self, side: Endpoint, generation: u64, error: &str) {
        if self.core.borrow().generation(side) != generation {
            return;
        }
        self.lanes.drop_side(side);
        self.with(|core, now| core.handle_side_down(side, generation, error, now));
    }

    /// A lane's connection is gone.
    pub(super) fn lose_lane(&self, id: LaneId, generation: u64, error: &str) {
        if self.core.borrow().generation(id.side) != generation {
            return;
        }
        self.with(|core, now| core.handle_lane_lost(id, generation, error, now));
        self.drop_lost(id.side, generation);
    }

    /// Resets a side's sockets if the sequencer gave it up.
    fn drop_lost(&self, side: Endpoint, generation: u64) {
        if self.core.borrow().generation(side) != generation || !self.core.borrow().is_up(side) {
            self.lanes.drop_side(side);
        }
    }

    /// Whether this connection is to the process that the side was found to be, as far as it tells.
    pub(super) async fn leads_to(&self, conn: &mut Conn, side: Endpoint, run_id: &str) -> bool {
        let told = if run_id.is_empty() || self.many_names[side.index()].get() { None } else { conn.run_id().await.ok() };
        told.is_none_or(|told| told.is_empty() || told == run_id)
    }

    /// A connection to the process that the side is.
    pub(super) async fn connect(&self, side: Endpoint, role: &str, deadline: Duration) -> Result<Conn, String> {
        let run_id = self.core.borrow().run_id(side);
        let mut conn = Conn::open(&self.targets[side.index()], &self.name(role), deadline).await.map_err(|error| error.to_string())?;
        if self.leads_to(&mut conn, side, &run_id).await { Ok(conn) } else { Err(ELSEWHERE.into()) }
    }

    /// The name of a connection: `twinlane:<pair>:<instance>:<epoch>:<role>`.
    pub(super) fn name(&self, role: &str) -> String {
        let record = self.record.borrow();
        format!("twinlane:{}:{}:{}:{role}", &record.installation[..record.installation.len().min(12)], self.instance, record.epoch)
    }
}

/// Connects a side and runs it.
pub(super) async fn connect(shell: Rc<Shell>, side: Endpoint, generation: u64, predecessors: Vec<LaneInfo>, databases: Vec<Db>) {
    match handshake(&shell, side, &predecessors, &databases).await {
        Ok((up, streams, conn)) => {
            if shell.core.borrow().generation(side) != generation {
                return;
            }
            for (db, stream) in streams {
                if let Err(error) = shell.lanes.open(LaneId::shared(side, db), generation, stream) {
                    return shell.lose(side, generation, &error.to_string());
                }
            }
            shell.with(|core, now| core.handle_side_up(side, generation, up, now));
            spawn_local(super::events::follow(shell.clone(), side, generation));
            spawn_local(super::aside::prepare(shell.clone(), side));
            if shell.core.borrow().is_up(side.other()) {
                spawn_local(try_pair(shell.clone(), side, generation));
            }
            watch(shell, side, generation, conn).await;
        }
        Err(error) => shell.lose(side, generation, &error),
    }
}

type Connected = (SideUp, Vec<(Db, crate::net::Stream)>, Conn);

async fn handshake(shell: &Rc<Shell>, side: Endpoint, predecessors: &[LaneInfo], databases: &[Db]) -> Result<Connected, String> {
    let target = &shell.targets[side.index()];
    let text = |error: ConnError| error.to_string();
    let mut conn = Conn::open(target, &shell.name("control"), DEADLINE).await.map_err(text)?;
    let info = conn.info().await.map_err(text)?;
    if info.loading {
        return Err("the server is loading its data".into());
    }
    note_names(shell, side, &info.run_id).await?;
    refuse_same(shell, side, &info)?;
    refuse_strangers(shell, side, &mut conn).await?;
    refuse_holder(shell, &mut conn).await?;
    let killed = kill(&mut conn, &info.run_id, predecessors, shell).await;
    let mark = conn.get_mark().await.map_err(text)?.map(|mark| mark.to_json().into_bytes());
    let keyspace = conn.keyspace().await.map_err(text)?.into_iter().filter(|(_, keys)| keys.keys > 0).map(|(db, _)| db).collect();
    let count = conn.databases().await.map_err(text)?.unwrap_or(DATABASES_UNTOLD) as usize;
    let commands = conn.commands().await.map_err(text)?;
    let client_line = conn.client_line().await.map_err(text)?;
    let (major, minor) = info.major_minor();
    let redis = info.product == "redis";
    let mut up = SideUp {
        run_id: info.run_id.clone(),
        version: info.display_version(),
        major: if redis { major } else { 7 },
        eager_consumers: !redis || (major, minor) >= (7, 2),
        resp: if conn.protocol() == Protocol::Resp3 { 3 } else { 2 },
        databases: count,
        commands: commands.into_iter().collect(),
        client_line,
        eviction: Eviction::of_policy(&info.policy),
        mark,
        keyspace,
        killed,
        lanes: Vec::new(),
        unopened: Vec::new(),
    };
    let mut streams = Vec::new();
    for db in databases.iter().copied().filter(|db| usize::from(*db) < count) {
        if let Some((_, error)) = up.unopened.first() {
            // A server that has no room for one has none for the next: they are tried again when it is up.
            let error = error.clone();
            up.unopened.push((db, error));
            continue;
        }
        match lane(shell, Wanted { side, db, role: "lane", run_id: &info.run_id }).await {
            Ok(Some((info, stream))) => {
                up.lanes.push((db, info));
                streams.push((db, stream));
            }
            Ok(None) => {}
            Err(error) if db == 0 => return Err(error),
            Err(error) => up.unopened.push((db, error)),
        }
    }
    Ok((up, streams, conn))
}

/// A service behind a front of its own may tell another name on each connection: nothing follows from names there.
async fn note_names(shell: &Rc<Shell>, side: Endpoint, run_id: &str) -> Result<(), String> {
    let told = async || {
        let text = |error: ConnError| error.to_string();
        let mut conn = Conn::open(&shell.targets[side.index()], &shell.name("control"), DEADLINE).await.map_err(text)?;
        // What is not told is not compared.
        Ok::<_, String>(conn.run_id().await.unwrap_or_default())
    };
    let many = &shell.many_names[side.index()];
    many.set(false);
    let second = told().await?;
    if second.is_empty() || second == run_id {
        return Ok(());
    }
    if second == told().await? {
        // It has just been moved.
        return Err(ELSEWHERE.into());
    }
    tracing::warn!(
        "`{side}` tells another run_id on each connection: that its address leads to another server is noticed when a connection is lost"
    );
    many.set(true);
    Ok(())
}

/// Databases assumed where CONFIG is refused: what managed services offer at least.
const DATABASES_UNTOLD: u32 = 16;

/// Another process is connected there: it holds the pair, and this one serves when it has gone (H10).
async fn refuse_holder(shell: &Shell, conn: &mut Conn) -> Result<(), String> {
    let text = |error: ConnError| error.to_string();
    let Some(found) = neighbours(conn).await.map_err(text)? else { return Ok(()) };
    if found.iter().all(|neighbour| shell.ours.contains(&neighbour.instance)) {
        return Ok(());
    }
    let (id, _) = conn.client_id_and_addr().await.map_err(text)?;
    let holder = found.iter().find(|neighbour| !shell.ours.contains(&neighbour.instance) && neighbour.holds_against(id));
    holder.map_or(Ok(()), |neighbour| Err(neighbour.sentence()))
}

/// The address may lead to the other side's server now, or to one that follows it (H39).
fn refuse_same(shell: &Shell, side: Endpoint, info: &ServerInfo) -> Result<(), String> {
    let other = shell.met[side.other().index()].borrow();
    if let Some(other) = other.as_ref().filter(|_| shell.core.borrow().is_up(side.other()))
        && let Some(reason) = pair::same(info, other)
    {
        return Err(reason);
    }
    *shell.met[side.index()].borrow_mut() = Some(info.clone());
    Ok(())
}

/// Both sides are connected: what is written on one must not appear on the other, and each tells whether it takes the other's dumps.
async fn try_pair(shell: Rc<Shell>, side: Endpoint, generation: u64) {
    let tried = async {
        let (mut old, mut new) =
            (shell.connect(Endpoint::Old, "control", DEADLINE).await?, shell.connect(Endpoint::New, "control", DEADLINE).await?);
        let patient = shell.met.iter().any(|met| met.borrow().as_ref().is_some_and(|info| info.followers > 0 || info.run_id.is_empty()));
        let nonce = format!("{}:{generation}", shell.instance);
        pair::try_both(&mut old, &mut new, &nonce, patient).await.map_err(|error| error.to_string())
    };
    match tried.await {
        Ok(tried) => {
            shell.with(|core, now| core.handle_images_tried(tried.carried, now));
            if let Some(reason) = tried.refusal() {
                shell.lose(side, generation, &reason);
            }
        }
        Err(error) => tracing::warn!("old and new could not be tried together: {error}"),
    }
}

/// A side that carries the record of another installation, or a newer one, is not served from (H9).
async fn refuse_strangers(shell: &Rc<Shell>, side: Endpoint, conn: &mut Conn) -> Result<(), String> {
    let Some(mark) = conn.get_mark().await.map_err(|error| error.to_string())? else { return Ok(()) };
    let record = shell.record.borrow();
    if mark.installation != record.installation {
        return Err(format!(
            "it carries the record of another installation ({}, epoch {}); see `twinlane adopt`",
            mark.installation, mark.epoch
        ));
    }
    // Our own commit may just be on its way into both marks.
    if mark.epoch > record.epoch + 1 {
        return Err(format!("it carries a newer record (epoch {}, ours is {}); see `twinlane adopt`", mark.epoch, record.epoch));
    }
    if mark.side != side {
        return Err(format!("it was called `{}` before; the two endpoints seem to be swapped", mark.side));
    }
    Ok(())
}

/// Kills our earlier connections on this server process, those we remember and those that carry our name (H1). False when one
/// may still be alive.
async fn kill(conn: &mut Conn, run_id: &str, predecessors: &[LaneInfo], shell: &Shell) -> bool {
    let mut dead = true;
    for old in predecessors.iter().filter(|old| old.run_id == run_id) {
        if let Err(error) = conn.kill_client(old.client_id as i64, &old.address).await {
            tracing::warn!("an earlier connection of ours could not be killed: {error}");
            dead = false;
        }
    }
    dead & kill_by_name(conn, shell).await
}

/// Connections of earlier processes of this state directory: its lock says that they are gone.
async fn kill_by_name(conn: &mut Conn, shell: &Shell) -> bool {
    let Ok(Some(found)) = neighbours(conn).await else { return false };
    let mut dead = true;
    for neighbour in found.iter().filter(|neighbour| neighbour.instance != shell.instance && shell.ours.contains(&neighbour.instance)) {
        dead &= conn.kill_client(neighbour.id, &neighbour.address).await.is_ok();
    }
    dead
}

/// The lane that is to be opened.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    side: Endpoint,
    db: Db,
    /// What the connection is called.
    role: &'a str,
    /// The server process that was found there.
    run_id: &'a str,
}

/// Opens one lane, as long as it takes: a server that runs a script is slow, not gone (H6, H46).
async fn lane(shell: &Rc<Shell>, wanted: Wanted<'_>) -> Result<Option<(LaneInfo, crate::net::Stream)>, String> {
    loop {
        match lane_now(shell, wanted).await {
            Err(error) if error.contains("BUSY ") => tokio::time::sleep(BUSY_RETRY).await,
            opened => return opened,
        }
    }
}

/// Between two attempts to open a lane to a server that runs a script.
const BUSY_RETRY: Duration = Duration::from_millis(20);

/// Opens one lane: connected, authenticated, named, in its database. None when the server has no such database.
async fn lane_now(shell: &Rc<Shell>, wanted: Wanted<'_>) -> Result<Option<(LaneInfo, crate::net::Stream)>, String> {
    let Wanted { side, db, role, run_id } = wanted;
    let text = |error: ConnError| error.to_string();
    let mut conn = Conn::open(&shell.targets[side.index()], &shell.name(&format!("{role}-{db}")), DEADLINE).await.map_err(text)?;
    // A lane's replies are read always, but a server that evicts clients by memory must not choose this one.
    let _ = conn.call(&[b"CLIENT", b"NO-EVICT", b"ON"]).await.map_err(text)?;
    if db != 0
        && let Reply::Error(refusal) = conn.call(&[b"SELECT", db.to_string().as_bytes()]).await.map_err(text)?
    {
        if refusal.starts_with("BUSY ") {
            return Err(refusal.to_string());
        }
        tracing::warn!("`{side}` has no database {db}: {}", refusal);
        return Ok(None);
    }
    let (client_id, address) = conn.client_id_and_addr().await.map_err(text)?;
    if !shell.leads_to(&mut conn, side, run_id).await {
        return Err(ELSEWHERE.into());
    }
    let stream = conn.into_stream().ok_or("the server sent something nobody asked for")?;
    Ok(Some((LaneInfo { client_id: client_id as u64, address, run_id: run_id.to_owned() }, stream)))
}

/// Opens a lane that came to be needed.
pub(super) async fn open_lane(shell: Rc<Shell>, id: LaneId, generation: u64) {
    let role = match id.role {
        Role::Shared => "lane",
        Role::Bulk => "bulk",
        Role::Own(_) => "own",
    };
    let run_id = shell.core.borrow().run_id(id.side);
    let opened = lane(&shell, Wanted { side: id.side, db: id.db, role, run_id: &run_id }).await;
    if shell.core.borrow().generation(id.side) != generation || shell.core.borrow().lane_is_gone(id) {
        return;
    }
    match opened {
        Ok(Some((info, stream))) => {
            let opened = shell.lanes.open(id, generation, stream).map(|()| Some(info)).map_err(|error| error.to_string());
            shell.with(|core, now| core.handle_lane_open(id, generation, opened, now));
            shell.drop_lost(id.side, generation);
        }
        Ok(None) => shell.with(|core, now| core.handle_lane_open(id, generation, Ok(None), now)),
        // All lanes of a side are of one process: they are opened anew together.
        Err(error) if error == ELSEWHERE => shell.lose(id.side, generation, ELSEWHERE),
        Err(error) => {
            shell.with(|core, now| core.handle_lane_open(id, generation, Err(error), now));
            shell.drop_lost(id.side, generation);
        }
    }
}

/// Looks at a side once a second, until it is given up. Slowness is told, and ends nothing (H46).
async fn watch(shell: Rc<Shell>, side: Endpoint, generation: u64, conn: Conn) {
    let mut conn = Some(conn);
    for turn in 0u64.. {
        if shell.core.borrow().generation(side) != generation {
            return;
        }
        if turn % ANEW_EVERY == ANEW_EVERY - 1
            && !shell.many_names[side.index()].get()
            && let Ok(fresh) = Conn::open(&shell.targets[side.index()], &shell.name("control"), PROBE_DEADLINE).await
        {
            conn = Some(fresh);
        }
        let mut probe = match look(&shell, side, &mut conn).await {
            Ok(probe) => probe,
            Err(error) => {
                conn = None;
                Probe { error: Some(error), ..shell.core.borrow().last_probe(side) }
            }
        };
        if shell.core.borrow().generation(side) != generation {
            return;
        }
        if probe.error.is_none() && shell.core.borrow().run_id(side) != probe.run_id {
            // A failover behind a name, or a name that was given to another server: the lanes follow it.
            return shell.lose(side, generation, ELSEWHERE);
        }
        if !probe.run_id.is_empty() && shell.core.borrow().run_id(side) != probe.run_id {
            // Of another process, which does not take over yet.
            conn = None;
            probe = Probe { error: probe.error, ..shell.core.borrow().last_probe(side) };
        }
        probe.run_id.clear();
        if let Some(conn) = conn.as_mut().filter(|_| turn % BYPASS_EVERY == 0) {
            probe.bypassing = bypassing(&shell, conn).await;
        }
        shell.with(|core, now| core.handle_probe(side, probe, now));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What is told of a side whose address leads to another server than its lanes.
const ELSEWHERE: &str = "the address leads to another server process now";

/// Looks on one connection before the name is resolved and connected to anew: where it leads to another server (the retired tier's name is given to
/// its successor), the lanes would stay with the one before, and connections that are opened later would not.
const ANEW_EVERY: u64 = 10;

/// Looks between two looks at who else is connected: CLIENT LIST of 10,000 clients is 4 MB.
const BYPASS_EVERY: u64 = 10;

/// Connections that do not carry this installation's name; None where CLIENT LIST is refused.
async fn bypassing(shell: &Shell, conn: &mut Conn) -> Option<Bypassing> {
    let installation = shell.record.borrow().installation.clone();
    let ours = format!("twinlane:{}:", &installation[..installation.len().min(12)]);
    let list = conn.ask(&[b"CLIENT", b"LIST"]).await.ok()?;
    Some(strangers(list.text()?, &ours))
}

/// Connections of CLIENT LIST that are neither ours, by the beginning of their names, nor a server's.
fn strangers(list: &str, ours: &str) -> Bypassing {
    let mut found = Bypassing::default();
    for line in list.lines() {
        let field = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name)).unwrap_or_default();
        // Replicas and masters are connections of servers; MONITOR's clients have flag O besides.
        let server = field("flags=").contains(['S', 'M']) && !field("flags=").contains('O');
        // The first look comes while the server still lists connections of the start, which have just been closed, and while others of ours
        // are being opened, which have no name before their handshake ends.
        let name = field("name=");
        let young = field("age=").parse::<u64>().is_ok_and(|age| age < DEADLINE.as_secs());
        let nameless = name.is_empty() && young && matches!(field("cmd="), "NULL" | "auth" | "hello");
        if server || nameless || name.starts_with(ours) || name == START {
            continue;
        }
        found.connections += 1;
        found.publishers += usize::from(matches!(field("cmd="), "publish" | "spublish"));
        found.subscribers += usize::from(field("flags=").contains('P'));
    }
    found
}

async fn look(shell: &Shell, side: Endpoint, conn: &mut Option<Conn>) -> Result<Probe, String> {
    let text = |error: ConnError| error.to_string();
    if conn.is_none() {
        *conn = Some(Conn::open(&shell.targets[side.index()], &shell.name("control"), PROBE_DEADLINE).await.map_err(text)?);
    }
    let Some(conn) = conn else { return Err("not connected".into()) };
    let before = unix_ms();
    let time = conn.ask(&[b"TIME"]).await.map_err(text)?;
    let took = unix_ms() - before;
    let middle = before + took / 2;
    let reply = conn.ask(&[b"INFO"]).await.map_err(text)?;
    let info = reply.text().unwrap_or_default();
    let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let mut probe = Probe {
        error: None,
        run_id: field("run_id").to_owned(),
        evicted_keys: field("evicted_keys").parse().ok(),
        expires: HashMap::new(),
        keys: HashMap::new(),
        // A slow answer says little about the clock.
        clock_offset_ms: server_ms(&time).filter(|_| took <= CLOCK_TRIP_MAX_MS).map(|ms| ms - middle),
        keyspace: Vec::new(),
        memory: Memory {
            used: field("used_memory").parse().unwrap_or(0),
            max: field("maxmemory").parse().unwrap_or(0),
            policy: field("maxmemory_policy").to_owned(),
        },
        eviction: Eviction::of_policy(field("maxmemory_policy")),
        bypassing: None,
    };
    if field("loading") == "1" {
        probe.error = Some("the server is loading its data".into());
    } else if field("role") != "master" {
        probe.error = Some("the server is a replica: it refuses writes".into());
    }
    for (name, value) in &fields {
        let Some(db) = name.strip_prefix("db").and_then(|db| db.parse::<Db>().ok()) else { continue };
        let number = |key: &str| value.split(',').find_map(|part| part.strip_prefix(key)).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        if number("keys=") > 0 {
            probe.keyspace.push(db);
            probe.keys.insert(db, number("keys="));
        }
        probe.expires.insert(db, number("expires="));
    }
    Ok(probe)
}

/// Longest round trip of TIME that still tells the server's clock, milliseconds.
const CLOCK_TRIP_MAX_MS: i64 = 100;

/// Longest wait for a look. A slow server is named unhealthy; its lanes go on waiting.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// `TIME` as Unix milliseconds.
fn server_ms(time: &Reply) -> Option<i64> {
    let Reply::Array(parts) = time else { return None };
    let part = |at: usize| parts.get(at).and_then(Reply::text).and_then(|text| text.parse::<i64>().ok());
    Some(part(0)? * 1000 + part(1)? / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strangers_bypass_the_proxy() {
        let list = "id=1 addr=a:1 name=twinlane:0123456789ab:i:1:lane-0 flags=N cmd=get\n\
                    id=2 addr=a:2 name=twinlane:start flags=N cmd=client|list\n\
                    id=3 addr=a:3 name= flags=S cmd=replconf\n\
                    id=4 addr=a:4 name= flags=O cmd=monitor\n\
                    id=5 addr=a:5 name=worker flags=N cmd=publish\n\
                    id=6 addr=a:6 name=twinlane:ffffffffffff:i:1:lane-0 flags=P cmd=subscribe\n\
                    id=7 addr=a:7 name= age=0 flags=N cmd=NULL\n\
                    id=8 addr=a:8 name= age=1 flags=N cmd=hello\n\
                    id=9 addr=a:9 name= age=0 flags=N cmd=get\n\
                    id=10 addr=a:10 name= age=60 flags=N cmd=hello\n";
        let found = strangers(list, "twinlane:0123456789ab:");
        assert_eq!((found.connections, found.publishers, found.subscribers), (5, 1, 1));
    }
}
