//! Which arguments of a request are keys, and what the command does with them.

use super::{Command, Rule};
use crate::resp::encode::parse_integer;
use crate::resp::request::Request;

/// What a command does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// Reads it; what it writes elsewhere depends on it.
    Source,
    /// Reads and changes it.
    Modify,
    /// Replaces or deletes it, whatever it was.
    Overwrite,
}

impl KeyUse {
    /// Whether the key may have changed.
    #[must_use]
    pub fn writes(self) -> bool {
        self != KeyUse::Source
    }
}

/// One key of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// What is done with it.
    pub used: KeyUse,
    /// Its name.
    pub name: &'a [u8],
}

/// Where keys lie, as the table says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeySpec {
    used: KeyUse,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// From, to (negative counts from the end), step.
    Range(usize, i32, usize),
    /// The argument that holds their number; they follow it, in steps.
    Counted(usize, usize),
    /// The first half of what follows the word STREAMS.
    Streams,
}

impl KeySpec {
    pub(super) fn parse(text: &str) -> Option<KeySpec> {
        let (used, place) = text.split_at_checked(1)?;
        let used = match used {
            "r" => KeyUse::Source,
            "w" => KeyUse::Modify,
            "o" => KeyUse::Overwrite,
            _ => return None,
        };
        if place == "-streams" {
            return Some(KeySpec { used, place: Place::Streams });
        }
        let (place, step) = match place.split_once('/') {
            Some((place, step)) => (place, step.parse().ok()?),
            None => (place, 1),
        };
        if let Some(at) = place.strip_prefix('#') {
            return Some(KeySpec { used, place: Place::Counted(at.parse().ok()?, step) });
        }
        let (first, last) = place.split_once("..").unwrap_or((place, place));
        Some(KeySpec { used, place: Place::Range(first.parse().ok()?, last.parse().ok()?, step) })
    }

    pub(super) fn range_of(used: KeyUse, first: usize, last: i32, step: usize) -> KeySpec {
        KeySpec { used, place: Place::Range(first, last, step) }
    }

    pub(super) fn counted(used: KeyUse, at: usize, step: usize) -> KeySpec {
        KeySpec { used, place: Place::Counted(at, step) }
    }

    /// The argument, when it is always one and the same.
    pub(super) fn lone(self) -> Option<(usize, KeyUse)> {
        match self.place {
            Place::Range(first, last, 1) if last == first as i32 => Some((first, self.used)),
            _ => None,
        }
    }

    /// First argument, one behind the last, step.
    fn range(self, request: &Request<'_>) -> (usize, usize, usize) {
        let count = request.len();
        match self.place {
            Place::Range(first, last, step) => {
                let end = if last < 0 { (count as i64 + i64::from(last) + 1).max(0) as usize } else { last as usize + 1 };
                (first, end.min(count), step)
            }
            Place::Counted(at, step) => {
                let keys = parse_integer(request.arg(at)).unwrap_or(0).max(0) as usize;
                (at + 1, (at + 1).saturating_add(keys.saturating_mul(step)).min(count), step)
            }
            Place::Streams => {
                let Some(word) = (1..count).find(|at| request.is(*at, "STREAMS")) else { return (0, 0, 1) };
                (word + 1, word + 1 + (count - word - 1) / 2, 1)
            }
        }
    }
}

/// Keys of a request.
#[derive(Debug, Clone)]
pub struct Keys<'r> {
    specs: &'r [KeySpec],
    request: Request<'r>,
    at: usize,
    end: usize,
    step: usize,
    used: KeyUse,
    extra: Option<Key<'r>>,
}

impl<'r> Keys<'r> {
    pub(super) fn new(specs: &'r [KeySpec], request: &Request<'r>, command: &Command) -> Keys<'r> {
        let extra = store_key(request, command).map(|name| Key { used: KeyUse::Overwrite, name });
        Keys { specs, request: *request, at: 0, end: 0, step: 1, used: KeyUse::Source, extra }
    }
}

impl<'r> Iterator for Keys<'r> {
    type Item = Key<'r>;

    fn next(&mut self) -> Option<Key<'r>> {
        while self.at >= self.end {
            let Some((spec, rest)) = self.specs.split_first() else { return self.extra.take() };
            self.specs = rest;
            (self.at, self.end, self.step) = spec.range(&self.request);
            self.used = spec.used;
        }
        let name = self.request.spans.get(self.request.frame, self.at);
        self.at += self.step;
        Some(Key { used: self.used, name })
    }
}

/// The destination that SORT and GEORADIUS name by a keyword. The last one given counts (sort.c, geo.c).
fn store_key<'r>(request: &Request<'r>, command: &Command) -> Option<&'r [u8]> {
    let first = match command.rule {
        Rule::Sort => 2,
        Rule::GeoRadius if command.name == "GEORADIUS" => 6,
        Rule::GeoRadius => 5,
        _ => return None,
    };
    let mut found = None;
    let mut at = first;
    while at < request.len() {
        if (request.is(at, "STORE") || request.is(at, "STOREDIST")) && at + 1 < request.len() {
            found = Some(request.spans.get(request.frame, at + 1));
            at += 1;
        } else if request.is(at, "BY") || request.is(at, "GET") || request.is(at, "COUNT") {
            at += 1;
        } else if request.is(at, "LIMIT") {
            at += 2;
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Table;
    use super::*;
    use crate::resp::request::{Spans, canonical};

    #[test]
    fn keys_are_found_with_their_use() {
        let check = |line: &str, expect: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let (mut frame, mut spans) = (Vec::new(), Spans::default());
            let request = canonical(&args, &mut frame, &mut spans);
            let command = Table::get().find(&request).expect(line);
            let keys: Vec<String> = command
                .keys(&request)
                .map(|key| {
                    let mark = match key.used {
                        KeyUse::Source => 'r',
                        KeyUse::Modify => 'w',
                        KeyUse::Overwrite => 'o',
                    };
                    format!("{mark}{}", String::from_utf8_lossy(key.name))
                })
                .collect();
            assert_eq!(keys.join(" "), expect, "{line}");
        };
        check("GET a", "ra");
        check("SET a b", "oa");
        check("MSET a 1 b 2", "oa ob");
        check("DEL a b c", "oa ob oc");
        check("RENAME a b", "wa ob");
        check("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "od ra rb");
        check("ZUNIONSTORE d 99 a b", "od ra rb");
        check("EVAL s 1 a b", "wa");
        check("EVAL s x a b", "");
        check("XREADGROUP GROUP g c STREAMS a b > >", "wa wb");
        check("SORT a BY STORE STORE d", "ra od");
        check("SORT a", "ra");
        check("GEORADIUS a 1 2 3 m COUNT 1 STORE x STOREDIST d", "ra od");
        check("BITOP AND d a b", "od ra rb");
        check("XGROUP CREATE s g $", "ws");
        check("LMPOP 2 a b LEFT", "wa wb");
    }
}
