//! What stands against a cutover, or should be known before it: the report of readiness. Rooms whose findings follow from their
//! state list them when they are asked; a finding that is learnt once is pushed here with [`Sequencer::find`].

use super::Sequencer;
use super::sides::Side;
use crate::endpoint::Endpoint;
use crate::limits;
use crate::status::{Finding, Level};

impl Sequencer {
    /// Notes a finding, in place of an earlier one of the same code and subject. Past
    /// [`limits::FINDINGS_MAX`] further ones are left out.
    pub(super) fn find(&mut self, finding: Finding) {
        match self.findings.iter().position(|known| known.code == finding.code && known.subject == finding.subject) {
            Some(at) => self.findings[at] = finding,
            None if self.findings.len() < limits::FINDINGS_MAX => self.findings.push(finding),
            None => {}
        }
    }

    /// Clients that speak to a server directly.
    fn bypass_findings(&self, found: &mut Vec<Finding>) {
        for side in Endpoint::BOTH {
            let Side { address, bypassing, .. } = &self.sides[side.index()];
            if bypassing.connections == 0 {
                continue;
            }
            found.push(Finding {
                level: Level::Warn,
                code: "direct-clients",
                subject: side.to_string(),
                text: format!(
                    "{} connections to `{side}` ({address}) bypass the proxy; the last command of {} of them was PUBLISH, {} are subscribed",
                    bypassing.connections, bypassing.publishers, bypassing.subscribers
                ),
                remedy: "point them at the proxy: what they write is noticed late or not at all, and what they publish to a server that is \
                         not the primary is not heard by the proxy's subscribers"
                    .into(),
            });
        }
    }

    /// Nobody has compared the two sides lately. Where the gate asks for it, the gate says so.
    fn verify_findings(&self, found: &mut Vec<Finding>) {
        if !self.record.mirroring || self.primary() != Endpoint::Old || self.settings.require_verify || self.is_proven() {
            return;
        }
        found.push(Finding {
            level: Level::Warn,
            code: "not-verified",
            subject: String::new(),
            text:
                "no verify stands that is clean, alive and fresh: that both sides are equal was not shown since the last gap in observation"
                    .into(),
            remedy: "run `twinlane verify --wait`; `cutover.require_verify = \"fresh\"` makes the cutover insist on it".into(),
        });
    }

    /// Everything found, the worst first.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut found: Vec<Finding> = self.gate(false, true).into_iter().map(gate).collect();
        found.extend(self.findings.iter().cloned());
        self.script_findings(&mut found);
        self.expiry_findings(&mut found);
        self.eviction_findings(&mut found);
        self.bypass_findings(&mut found);
        self.pair_findings(&mut found);
        self.use_findings(&mut found);
        self.verify_findings(&mut found);
        found.sort_by(|a, b| (a.level, a.code, &a.subject).cmp(&(b.level, b.code, &b.subject)));
        found
    }
}

fn gate(reason: String) -> Finding {
    Finding { level: Level::Block, code: "gate", subject: reason.clone(), text: reason, remedy: "a cutover is refused until then".into() }
}
