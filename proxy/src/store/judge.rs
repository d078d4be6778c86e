//! May this proxy serve? One plain function over what the state directory and both servers say (I8).
//!
//! The record obeys nobody but itself: not the config file, not the servers. The servers' marks can only forbid: a newer
//! epoch or a foreign installation means that the directory was lost or swapped, and then the operator speaks (`adopt`).

use super::record::{Mark, NewData, Record};
use crate::config::NewDataChoice;
use twinlane_core::endpoint::Endpoint;

/// What was found on one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideFacts {
    /// It answered; otherwise the other fields say nothing.
    pub reachable: bool,
    /// The reserved key.
    pub mark: Option<Mark>,
    /// Keys in all databases, the reserved key left out.
    pub keys: u64,
}

/// Everything that the judgement rests on.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The record in the state directory.
    pub local: Option<&'a Record>,
    /// What the servers say, old first.
    pub sides: [&'a SideFacts; 2],
    /// host:port in the config, old first.
    pub addresses: [&'a str; 2],
    /// The operator's word on keys that `new` already holds.
    pub choice: NewDataChoice,
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Ask again soon; the reason is for the log.
    Wait(String),
    /// Do not serve; the reason says what the operator can do.
    Refuse(String),
    /// A first start: write the first record and both marks.
    First {
        /// What `new` held, or what was decided about it.
        new_data: NewData,
    },
    /// Serve as the record says.
    Serve {
        /// The primary's mark is gone though it was written, or older than the mirror's: it came back without its data, or with less.
        primary_lost_data: bool,
        /// The mirror's mark is gone though it was written: nothing is known of its data.
        mirror_unsynced: bool,
    },
}

/// Judges a start.
#[must_use]
pub fn judge_start(facts: &Facts<'_>) -> Start {
    match facts.local {
        None => judge_without_record(facts),
        Some(record) => judge_with_record(facts, record),
    }
}

fn judge_without_record(facts: &Facts<'_>) -> Start {
    for (endpoint, side) in Endpoint::BOTH.into_iter().zip(facts.sides) {
        if let Some(mark) = &side.mark {
            return Start::Refuse(format!(
                "this state directory has no record, but {endpoint} ({}) carries one: {mark}. Start with the state directory of that \
                 installation; if it is lost, or you mean to start anew, `twinlane adopt` shows what is known and writes a new record",
                facts.addresses[endpoint.index()],
            ));
        }
    }
    if let Some(endpoint) = unreachable(facts) {
        return Start::Wait(format!(
            "the first start needs both servers, to see whether they carry a record: {endpoint} ({}) cannot be used yet",
            facts.addresses[endpoint.index()]
        ));
    }
    judge_first(facts)
}

fn judge_first(facts: &Facts<'_>) -> Start {
    let new_data = match (facts.sides[1].keys, facts.choice) {
        (0, _) => NewData::Empty,
        (_, NewDataChoice::Keep) => NewData::Keep,
        (_, NewDataChoice::Overwrite) => NewData::Overwrite,
        (keys, NewDataChoice::Ask) => {
            return Start::Refuse(format!(
                "new ({}) already holds {keys} keys, and this is the first start. Say what becomes of them: `--new-data keep` leaves keys \
                 that only new has (a key that old has too is overwritten), `--new-data overwrite` makes new equal to old and deletes the rest",
                facts.addresses[1]
            ));
        }
    };
    Start::First { new_data }
}

fn judge_with_record(facts: &Facts<'_>, record: &Record) -> Start {
    if let Some(reason) = wrong_addresses(facts, record) {
        return Start::Refuse(reason);
    }
    if let Some(reason) = contradiction(facts, record) {
        return Start::Refuse(reason);
    }
    if record.epoch == 0 {
        // The first start was interrupted between the record and the marks: nobody was served yet.
        return match unreachable(facts) {
            Some(endpoint) => Start::Wait(format!("the first start was interrupted and needs both servers: {endpoint} cannot be used yet")),
            None => Start::First { new_data: record.new_data },
        };
    }
    let primary = facts.sides[record.primary.index()];
    let mirror = facts.sides[record.primary.other().index()];
    if !primary.reachable {
        let address = facts.addresses[record.primary.index()];
        return Start::Wait(format!("the primary, {} ({address}), cannot be used yet", record.primary));
    }
    Start::Serve {
        primary_lost_data: primary.mark.is_none() || has_gone_back(record, primary, mirror),
        mirror_unsynced: mirror.reachable && mirror.mark.is_none(),
    }
}

/// The mirror's count is raised behind the primary's, so a primary that is behind has forgotten what it had acknowledged (H11). Marks of
/// another epoch are still to be written anew, and say nothing.
fn has_gone_back(record: &Record, primary: &SideFacts, mirror: &SideFacts) -> bool {
    match (&primary.mark, &mirror.mark) {
        (Some(primary), Some(mirror)) => primary.epoch == record.epoch && mirror.epoch == record.epoch && primary.count < mirror.count,
        _ => false,
    }
}

fn unreachable(facts: &Facts<'_>) -> Option<Endpoint> {
    Endpoint::BOTH.into_iter().find(|endpoint| !facts.sides[endpoint.index()].reachable)
}

/// The config names other servers than the record does.
fn wrong_addresses(facts: &Facts<'_>, record: &Record) -> Option<String> {
    let (known, given) = (record.addresses(), facts.addresses);
    if known == given {
        return None;
    }
    let swapped =
        if known == [given[1], given[0]] { " (the two are swapped; the names old and new never swap, also after a cutover)" } else { "" };
    Some(format!(
        "the record says old = {}, new = {}, primary {} at epoch {}, but the configuration says old = {}, new = {}{swapped}. Put the \
         addresses back, or, if a server has moved, run `twinlane adopt`",
        known[0], known[1], record.primary, record.epoch, given[0], given[1]
    ))
}

/// A server knows better than this state directory.
fn contradiction(facts: &Facts<'_>, record: &Record) -> Option<String> {
    // A completed migration has let go of the other endpoint: whoever uses it now may mark it.
    let ours = Endpoint::BOTH.into_iter().filter(|endpoint| !record.completed || *endpoint == record.primary);
    ours.filter_map(|endpoint| Some((endpoint, facts.sides[endpoint.index()].mark.as_ref()?))).find_map(|(endpoint, mark)| {
        let what = if mark.installation != record.installation {
            "is of another installation"
        } else if mark.epoch > record.epoch.max(1) {
            "is newer"
        } else if mark.side != endpoint {
            "calls that server by the other name"
        } else {
            return None;
        };
        Some(format!(
            "{endpoint} ({}) carries a record that {what}: {mark}. The state directory says: {}. Start with the newer state directory, or \
             run `twinlane adopt`, which shows what is known and writes a new record",
            facts.addresses[endpoint.index()],
            record.mark(endpoint, mark.count)
        ))
    })
}
