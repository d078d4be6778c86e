//! What the operator sees: one snapshot, made when it is asked for.

use super::Sequencer;
use super::mirror::Mode;
use crate::command::Table;
use crate::doubt::{Cause, WideCause};
use crate::endpoint::{Db, Endpoint};
use crate::explained::{Dirty, DirtyDatabase, DirtyKey};
use crate::limits;
use crate::status::{Counters, ImageStatus, MirrorStatus, SideStatus, Status};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why databases are in doubt as a whole, and since when, unix milliseconds; whether they are, the walks know.
#[derive(Debug)]
pub(super) struct Wide {
    all: (WideCause, Option<i64>),
    databases: BTreeMap<Db, (WideCause, i64)>,
}

impl Default for Wide {
    fn default() -> Self {
        Wide { all: (WideCause::Start, None), databases: BTreeMap::new() }
    }
}

impl Wide {
    /// These databases (all, when none is named) are in doubt from now on.
    pub fn note(&mut self, databases: &[Db], cause: WideCause, at_ms: i64) {
        if databases.is_empty() {
            self.databases.clear();
            self.all = (cause, Some(at_ms));
        }
        self.databases.extend(databases.iter().map(|db| (*db, (cause, at_ms))));
    }

    fn of(&self, db: Option<Db>) -> DirtyDatabase {
        let (cause, since) = db.and_then(|db| self.databases.get(&db)).map_or(self.all, |(cause, since)| (*cause, Some(*since)));
        DirtyDatabase { db, cause, since }
    }
}

impl Sequencer {
    /// The ledger, for people: at most `most` keys, those that wait longest first.
    #[must_use]
    pub fn dirty(&self, most: usize) -> Dirty {
        let most = most.min(limits::DIRTY_LISTED_MAX);
        let databases = self.scans.databases().into_iter().map(|db| self.wide.of(Some(db)));
        let mut items = self.ledger.oldest(most);
        // Large keys that wait for a copy in pieces are in no queue of the ledger.
        let entry = |(db, key): &(Db, Arc<[u8]>)| Some((*db, key.clone(), *self.ledger.get(*db, key)?));
        items.extend(self.copies.resting().take(most).filter_map(entry));
        items.sort_by(|one, other| (one.2.first_seen, one.0, &one.1).cmp(&(other.2.first_seen, other.0, &other.1)));
        items.dedup_by(|one, other| (one.0, &one.1) == (other.0, &other.1));
        items.truncate(most);
        Dirty {
            total: self.keys_in_doubt(),
            spilled: self.spill.keys(),
            by_cause: self.ledger.by_cause().collect(),
            items: items.into_iter().map(|(db, key, entry)| DirtyKey::of(db, key, &entry)).collect(),
            databases: self.scans.doubts_all().then(|| self.wide.of(None)).into_iter().chain(databases).collect(),
        }
    }

    /// The state now, at most one tick old.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            stage: self.stage(),
            primary: self.primary(),
            mirroring: self.record.mirroring,
            epoch: self.record.epoch,
            old: self.side_status(Endpoint::Old),
            new: self.side_status(Endpoint::New),
            mirror: self.mirror_status(),
            clients: self.sessions.len(),
            blocked_clients: self.parked_clients(),
            gate: self.gate(false, false),
            scripts: self.script_status(),
            expiry: self.expiry_status(),
            journal: self.journal_status(),
            recent: self.recent_status(),
            images: ImageStatus { to_new: self.image_words()[0], to_old: self.image_words()[1] },
            findings: self.findings(),
            alarms: self.alarms.clone(),
            verify: self.verify_status(),
            shadow: self.shadow_status(),
            backfill: self.backfill_status(),
            repair: self.repair_status(),
            flip: self.flip.as_ref().map_or("idle", super::flip::Flip::word),
        }
    }

    fn stage(&self) -> String {
        if self.lost.is_some() {
            return "PRIMARY LOST DATA".into();
        }
        match (self.primary(), self.record.mirroring) {
            (Endpoint::Old, false) => "PASS".into(),
            (Endpoint::Old, true) if self.in_step() => "SYNCED".into(),
            (Endpoint::Old, true) => "MIRROR".into(),
            (Endpoint::New, false) => "SOAK (way back closed: mirroring is off)".into(),
            (Endpoint::New, true) => match self.gate(false, true).first() {
                None => "SOAK".into(),
                Some(reason) => format!("SOAK (way back closed: {reason})"),
            },
        }
    }

    /// No doubt of any kind, apart from images that are being confirmed.
    fn in_step(&self) -> bool {
        self.scans.is_done()
            && self.ledger.dirty() == 0
            && self.spill.is_empty()
            && self.ledger.unmirrorable() == 0
            && !self.mirror_owes()
            && !self.evictions_missed()
            && self.sides.iter().all(super::sides::Side::is_up)
    }

    fn side_status(&self, endpoint: Endpoint) -> SideStatus {
        let side = &self.sides[endpoint.index()];
        let error = side.error.clone().or_else(|| (!side.is_up()).then(|| "connecting".to_owned()));
        SideStatus {
            address: side.address.clone(),
            healthy: side.is_up() && error.is_none(),
            version: side.version.clone(),
            role: if endpoint == self.primary() { "primary" } else { "mirror" },
            error,
            lanes: side.open_lanes(),
        }
    }

    fn mirror_status(&self) -> MirrorStatus {
        let (queued_bytes, age) = self.mirror_queue();
        let (state, cause) = match &self.mirror.mode {
            _ if !self.record.mirroring => ("off", None),
            _ if !self.sides[self.mirror_side().index()].is_up() => ("down", self.sides[self.mirror_side().index()].error.clone()),
            Mode::Following => ("following", None),
            Mode::Collapsing => ("collapsing", Some("the queue reached its bound of bytes or age".to_owned())),
            Mode::Paused { cause, .. } => ("paused", Some(cause.clone())),
        };
        MirrorStatus {
            state,
            cause,
            queued_effects: self.mirror_effects(),
            queued_bytes,
            lag_ms: age / 1000,
            dirty_keys: self.keys_in_doubt(),
            unsynced_databases: self.scans.databases(),
            scanned_keys: self.scans.visited,
            unmirrorable_keys: self.ledger.unmirrorable(),
        }
    }

    /// Counters since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let rows = Table::get().rows();
        let totals = &self.totals;
        Counters {
            commands: rows
                .iter()
                .zip(&totals.commands)
                .filter(|(_, (ok, failed))| ok + failed > 0)
                .map(|(row, (ok, failed))| (row.name, row.class.word(), *ok, *failed))
                .collect(),
            mismatches: rows.iter().zip(&totals.mismatches).filter(|(_, n)| **n > 0).map(|(row, n)| (row.name, *n)).collect(),
            dirty_by_cause: Cause::ALL.iter().map(|cause| (cause.word(), totals.dirty[*cause as usize])).collect(),
            repairs: totals.repairs,
            images: totals.images,
            copies: self.copies.totals,
            effects: totals.effects,
            ack_degraded: totals.ack_degraded,
            side_refusals: totals.refusals.iter().map(|(word, n)| (word.clone(), *n)).collect(),
            flips_done: totals.flips_done,
            flips_aborted: totals.flips_aborted,
            closed_sessions: totals.closed.iter().map(|(reason, n)| (*reason, *n)).collect(),
            accepted_sessions: totals.accepted,
            latency: totals.latency.clone(),
            verify: self.verify_counters(),
            forgotten: self.recent.forgotten,
            backfill: self.backfill_counters(),
            client_bytes: (totals.bytes_in, totals.bytes_out),
        }
    }
}
