//! For every row of the command table that the proxy carries: commands that make it do something, and commands that make
//! it refuse.
//!
//! A generated test of "every write reaches the mirror" is only as good as its inputs. So the keys come from one small
//! pool ([`pool`]) in which every type is present, with and without an expiry, some keys are missing, some hold the wrong
//! type, and names and values are binary, empty, huge numbers and near-numbers; every option of Redis 7.0 occurs, alone and
//! combined, also in combinations that are refused; now and then an argument is missing or one too many.
//!
//! Nothing depends on the wall clock in a way that would make two servers differ by design: absolute times are far in the
//! future or in the past, relative ones are long. Nothing asks a server for a gigabyte or an endless reply.
//!
//! Use: `prepare` to fill the pool, then a dozen invocations of `generate`, then `prepare` again, because the invocations
//! use the pool up; [`session`] does that.
use crate::rng::Rng;
use std::collections::HashMap;
use std::sync::LazyLock;

mod bits;
mod databases;
mod geo;
mod hashes;
mod keys;
mod lists;
pub mod pool;
mod reads;
mod scripts;
mod sets;
mod streams;
mod strings;
mod zsets;

use pool::Gen;

/// One command: its words as a client sends them.
pub type Command = Vec<Vec<u8>>;

/// One row's generator.
#[derive(Clone, Copy)]
pub struct Invocation {
    /// As in `commands.tsv`.
    pub row: &'static str,
    /// As in `commands.tsv` where it is later than 7.0 (`8.0.0/vk9.1` names Redis and Valkey); see [`since`].
    pub since: &'static str,
    /// False where the row only reads.
    pub writes: bool,
    make: fn(&mut Gen) -> Command,
}

/// A command from words of any kind.
macro_rules! cmd {
    ($($word:expr),* $(,)?) => { vec![$($crate::invocations::pool::word($word)),*] };
}
use cmd;

const fn write(row: &'static str, make: fn(&mut Gen) -> Command) -> Invocation {
    Invocation { row, since: "6.2.0", writes: true, make }
}

const fn later(row: &'static str, since: &'static str, make: fn(&mut Gen) -> Command) -> Invocation {
    Invocation { row, since, writes: true, make }
}

const fn read(row: &'static str, make: fn(&mut Gen) -> Command) -> Invocation {
    Invocation { row, since: "6.2.0", writes: false, make }
}

const fn later_read(row: &'static str, since: &'static str, make: fn(&mut Gen) -> Command) -> Invocation {
    Invocation { row, since, writes: false, make }
}

static ALL: LazyLock<Vec<Invocation>> = LazyLock::new(|| {
    [
        strings::ROWS,
        bits::ROWS,
        keys::ROWS,
        databases::ROWS,
        hashes::ROWS,
        lists::ROWS,
        sets::ROWS,
        zsets::ROWS,
        geo::ROWS,
        streams::ROWS,
        scripts::ROWS,
        reads::ROWS,
    ]
    .concat()
});
static BY_ROW: LazyLock<HashMap<&'static str, Invocation>> = LazyLock::new(|| ALL.iter().map(|one| (one.row, *one)).collect());
static WRITE_ROWS: LazyLock<Vec<&'static str>> = LazyLock::new(|| ALL.iter().filter(|one| one.writes).map(|one| one.row).collect());
static READ_ROWS: LazyLock<Vec<&'static str>> = LazyLock::new(|| ALL.iter().filter(|one| !one.writes).map(|one| one.row).collect());

/// Every row that writes, or may write.
pub fn rows() -> &'static [&'static str] {
    &WRITE_ROWS
}

/// Every row that only reads: for reply conversion.
pub fn read_rows() -> &'static [&'static str] {
    &READ_ROWS
}

/// The first version that knows the row's command, where it is later than 6.2; `None` for a row without a generator.
pub fn since(row: &str) -> Option<&'static str> {
    const SEVEN: &[&str] = &[
        "LMPOP",
        "ZMPOP",
        "LCS",
        "SINTERCARD",
        "ZINTERCARD",
        "SORT_RO",
        "EXPIRETIME",
        "PEXPIRETIME",
        "EVAL_RO",
        "EVALSHA_RO",
        "BLMPOP",
        "BZMPOP",
    ];
    let one = BY_ROW.get(row)?;
    let seven = SEVEN.contains(&row) || row.starts_with("FUNCTION") || row.starts_with("FCALL");
    Some(if seven { "7.0.0" } else { one.since })
}

/// `count` invocations of the row; empty for a row without a generator.
pub fn generate(row: &str, rng: &mut Rng, count: usize) -> Vec<Command> {
    let Some(one) = BY_ROW.get(row) else { return Vec::new() };
    (0..count)
        .map(|_| {
            let command = (one.make)(&mut Gen { rng });
            spoil(rng, command)
        })
        .collect()
}

/// The commands that make the pool as the row needs it, whatever was there before: keys of every type, and libraries or
/// scripts where the row is about them. Database 0 must be selected; other databases are left alone.
pub fn prepare(row: &str, rng: &mut Rng) -> Vec<Command> {
    let mut commands = pool::fill(rng);
    commands.extend(scripts::prepare(row));
    commands
}

/// `count` invocations with the pool filled before the first and again after every twelve. True marks an invocation.
pub fn session(row: &str, seed: u64, count: usize) -> Vec<(bool, Command)> {
    let mut rng = Rng::new(seed);
    let mut all = Vec::new();
    let mut left = count;
    while left > 0 {
        let now = left.min(12);
        all.extend(prepare(row, &mut rng).into_iter().map(|command| (false, command)));
        all.extend(generate(row, &mut rng, now).into_iter().map(|command| (true, command)));
        left -= now;
    }
    all
}

/// One in thirty loses its last argument, one in forty gets one too many, one in ten is written in another case.
fn spoil(rng: &mut Rng, mut command: Command) -> Command {
    let words = command[0].len();
    if rng.one_in(30) && command.len() > 1 {
        command.pop();
    } else if rng.one_in(40) {
        command.push(b"extra".to_vec());
    }
    if rng.one_in(10) {
        let from = rng.index(words);
        command[0][from..].make_ascii_lowercase();
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_appears_once_and_generates() {
        assert_eq!(ALL.len(), BY_ROW.len());
        let mut rng = Rng::new(1);
        for row in rows().iter().chain(read_rows()) {
            let made = generate(row, &mut rng, 200);
            assert_eq!(made.len(), 200);
            let first = row.split(' ').next().unwrap_or(row);
            assert!(made.iter().all(|command| command[0].eq_ignore_ascii_case(first.as_bytes())), "{row}");
        }
    }

    #[test]
    fn a_seed_replays() {
        assert_eq!(session("ZADD", 7, 40), session("ZADD", 7, 40));
    }
}
