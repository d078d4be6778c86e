//! Questions about both servers together: are they two, who else holds them, does each take what the other dumps (H10, H39).
//!
//! The hard case is one server under two addresses, or two that replicate: what is mirrored would run twice. `run_id` and the replication
//! id tell, where the server is honest about them; where it is not (a service behind a front of its own), a key that is written on one side
//! and read on the other does, after a second, for a replica that lags.

use super::conn::{Conn, ConnError, Reply, ServerInfo};
use std::time::Duration;
use twinlane_core::endpoint::Endpoint;

/// A connection of a Twinlane process, as a server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// `CLIENT ID`.
    pub id: i64,
    /// Where it comes from, as the server sees it.
    pub address: String,
    /// Its process.
    pub instance: String,
    /// The epoch its process knew when it connected.
    pub epoch: String,
    /// What the connection is for.
    pub role: String,
}

impl Neighbour {
    /// The connection in one line of `CLIENT LIST`; `None` when it is not a Twinlane's.
    fn parse(line: &str) -> Option<Neighbour> {
        let field = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name));
        let mut name = field("name=")?.split(':');
        let (product, _pair, instance, epoch, role) = (name.next()?, name.next()?, name.next()?, name.next()?, name.next()?);
        let id = field("id=")?.parse().ok()?;
        let owned = |text: &str| text.to_owned();
        (product == "twinlane").then(|| Neighbour {
            id,
            address: owned(field("addr=").unwrap_or("?")),
            instance: owned(instance),
            epoch: owned(epoch),
            role: owned(role),
        })
    }

    /// It carries commands, or was there before the connection with this id: of two that come at once, the first one holds.
    #[must_use]
    pub fn holds_against(&self, id: i64) -> bool {
        ["lane-", "bulk-", "own-"].iter().any(|role| self.role.starts_with(role)) || self.id < id
    }

    /// For the operator of the one that has to wait.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!(
            "another Twinlane holds this pair: instance {}, connected from {} at epoch {}. This one serves when that one has gone; to take \
             over from it, stop it, or run `twinlane adopt --yes` on this state directory and start again",
            self.instance, self.address, self.epoch
        )
    }
}

/// Connections of Twinlane processes on a server; `None` where it does not list its clients.
///
/// # Errors
/// As [`Conn::call`].
pub async fn neighbours(conn: &mut Conn) -> Result<Option<Vec<Neighbour>>, ConnError> {
    let reply = conn.call(&[b"CLIENT", b"LIST"]).await?;
    Ok(reply.text().map(|list| list.lines().filter_map(Neighbour::parse).collect()))
}

/// Why two servers are one, or one a replica of the other, as far as they tell.
#[must_use]
pub fn same(old: &ServerInfo, new: &ServerInfo) -> Option<String> {
    if !old.run_id.is_empty() && old.run_id == new.run_id {
        return Some("old and new are one and the same server (same run_id); give two servers".into());
    }
    if !old.replid.is_empty() && old.replid == new.replid {
        return Some(
            "old and new replicate the same data: one follows the other, or both follow a third (same master_replid in INFO replication); \
             promote the follower (REPLICAOF NO ONE), or give another server"
                .into(),
        );
    }
    None
}

/// What was found by trying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// What was written to this side was read on the other.
    pub seen_from: Option<Endpoint>,
    /// The other side takes the `DUMP` of this one (by [`Endpoint::index`]); `None`: it could not be tried.
    pub carried: [Option<bool>; 2],
}

impl Tried {
    /// Why the two are no pair.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.seen_from.map(|side| {
            format!(
                "what is written to {side} appears on {}: they are one server, or one follows the other; give two servers of their own",
                side.other()
            )
        })
    }
}

/// Writes a key on each side, looks for it on the other, and restores each side's dump there. A side that refuses the write tells nothing.
/// `patient`: a follower may lag, so the other side is read for a second.
///
/// # Errors
/// As [`Conn::call`].
pub async fn try_both(old: &mut Conn, new: &mut Conn, nonce: &str, patient: bool) -> Result<Tried, ConnError> {
    let keys = [format!("__twinlane:probe:old:{nonce}"), format!("__twinlane:probe:new:{nonce}")];
    let mut written = [false; 2];
    for (at, conn) in [&mut *old, &mut *new].into_iter().enumerate() {
        let reply = conn.call(&[b"SET", keys[at].as_bytes(), nonce.as_bytes(), b"PX", PROBE_LIFE_MS]).await?;
        written[at] = !matches!(reply, Reply::Error(_));
    }
    let mut tried = Tried::default();
    for look in 0..=LOOKS {
        for (side, conn) in [(Endpoint::Old, &mut *new), (Endpoint::New, &mut *old)] {
            let seen = conn.call(&[b"GET", keys[side.index()].as_bytes()]).await?.text() == Some(nonce);
            if seen && written[side.index()] {
                tried.seen_from = Some(side);
            }
        }
        if tried.seen_from.is_some() || !patient || look == LOOKS {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if tried.seen_from.is_none() {
        tried.carried[0] = carry(old, new, &keys[0]).await?;
        tried.carried[1] = carry(new, old, &keys[1]).await?;
    }
    for conn in [old, new] {
        for key in &keys {
            conn.call(&[b"DEL", key.as_bytes()]).await?;
        }
    }
    Ok(tried)
}

/// Whether one server restores what the other dumps.
async fn carry(from: &mut Conn, to: &mut Conn, key: &str) -> Result<Option<bool>, ConnError> {
    let Reply::Bulk(dump) = from.call(&[b"DUMP", key.as_bytes()]).await? else { return Ok(None) };
    Ok(match to.call(&[b"RESTORE", key.as_bytes(), PROBE_LIFE_MS, &dump]).await? {
        Reply::Error(error) if error.contains("payload version") || error.contains("Bad data format") => Some(false),
        Reply::Error(_) => None,
        _ => Some(true),
    })
}

/// Should we die in between.
const PROBE_LIFE_MS: &[u8] = b"10000";
/// A second in all.
const LOOKS: u32 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h10_a_neighbour_is_known_by_its_name() {
        let line = "id=7 addr=10.0.0.1:4000 laddr=10.0.0.9:6379 fd=8 name=twinlane:0123456789ab:cafe0001:4:lane-0 age=1";
        let found = Neighbour::parse(line).unwrap();
        assert_eq!((found.id, found.instance.as_str(), found.address.as_str()), (7, "cafe0001", "10.0.0.1:4000"));
        assert!(found.holds_against(1), "it carries commands");
        let control = Neighbour { role: "control".into(), ..found };
        assert!(control.holds_against(8) && !control.holds_against(6));
        for other in ["id=7 addr=a:1 name=twinlane:start age=1", "id=7 addr=a:1 name= age=1", "id=7 addr=a:1 name=other:a:b:c:d age=1", ""]
        {
            assert_eq!(Neighbour::parse(other), None, "{other}");
        }
    }

    #[test]
    fn h39_a_replica_shares_its_replication_id() {
        let info = |run_id: &str, replid: &str| ServerInfo { run_id: run_id.into(), replid: replid.into(), ..ServerInfo::default() };
        assert!(same(&info("a", "r"), &info("b", "s")).is_none());
        assert!(same(&info("", ""), &info("", "")).is_none());
        assert!(same(&info("a", "r"), &info("a", "s")).unwrap().contains("run_id"));
        assert!(same(&info("a", "r"), &info("b", "r")).unwrap().contains("REPLICAOF NO ONE"));
    }
}
