//! `missing.tsv`: what cannot pass yet, with the reason; the only place where anything is left out.

use anyhow::{Context, Result, bail};

use crate::here;

/// A line of `missing.tsv`.
#[derive(Debug)]
pub struct Missing {
    /// A program's name, with or without `-2` or `-3`; or `*`.
    pub program: String,
    /// One of its phases; `jobs` for a job queue.
    pub phase: String,
    /// What the proxy lacks.
    pub reason: String,
}

impl Missing {
    /// Whether it is about this program.
    pub fn concerns(&self, program: &str) -> bool {
        self.program == "*"
            || program == self.program
            || program.strip_prefix(&self.program).is_some_and(|rest| rest == "-2" || rest == "-3")
    }
}

/// Reads the list.
pub fn missing() -> Result<Vec<Missing>> {
    let path = here().join("missing.tsv");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let entry = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
        [program, phase, reason] => Ok(Missing { program: program.into(), phase: phase.into(), reason: reason.into() }),
        _ => bail!("missing.tsv: not program, phase and reason with tabs between: {line:?}"),
    };
    lines.map(entry).collect()
}
