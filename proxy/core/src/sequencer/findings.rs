//! What stands against a cutover, or should be known before it: the report of readiness. Rooms whose findings follow from their
//! state list them when they are asked; a finding that is learnt once is pushed here with [`Sequencer::find`].

use super::Sequencer;
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

    /// Everything found, the worst first.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut found: Vec<Finding> = self.gate(false, true).into_iter().map(gate).collect();
        found.extend(self.findings.iter().cloned());
        self.script_findings(&mut found);
        self.expiry_findings(&mut found);
        found.sort_by(|a, b| (a.level, a.code, &a.subject).cmp(&(b.level, b.code, &b.subject)));
        found
    }
}

fn gate(reason: String) -> Finding {
    Finding { level: Level::Block, code: "gate", subject: reason.clone(), text: reason, remedy: "a cutover is refused until then".into() }
}
