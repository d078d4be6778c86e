//! What the operator sees: one snapshot, made when it is asked for.

use super::Sequencer;
use super::mirror::Mode;
use crate::command::Table;
use crate::doubt::Cause;
use crate::endpoint::Endpoint;
use crate::status::{Counters, MirrorStatus, SideStatus, Status};

impl Sequencer {
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
            findings: self.findings(),
            alarms: self.alarms.clone(),
            verify: self.verify_status(),
            shadow: self.shadow_status(),
            backfill: self.backfill_status(),
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
            && self.ledger.unmirrorable() == 0
            && !self.mirror_owes()
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
            dirty_keys: self.ledger.len(),
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
            backfill: self.backfill_counters(),
            client_bytes: (totals.bytes_in, totals.bytes_out),
        }
    }
}
