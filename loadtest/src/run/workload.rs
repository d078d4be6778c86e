//! A workload: what is asked, of which keys, how large, how fast. Written as TOML or JSON (`workloads/`).

use crate::engine::{Check, KEY_DIGITS, Pace, Source, key_digits, value_into};
use crate::resp;
use crate::rng::{Rng, Zipf};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// One workload file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Shown in the report.
    pub name: String,
    /// Connections to each target.
    #[serde(default = "fifty")]
    pub connections: usize,
    /// Commands per batch.
    #[serde(default = "one")]
    pub depth: usize,
    /// Commands a second over all connections (open loop); without it the loop is closed.
    pub rate: Option<f64>,
    /// Pause of a connection between its batches (closed loop).
    #[serde(default)]
    pub think_us: u64,
    /// Measured time; the command line can override it.
    #[serde(default = "three")]
    pub seconds: f64,
    /// How many keys there are.
    #[serde(default = "ten_thousand")]
    pub keys: u64,
    /// Zipf's theta in (0, 1); without it every key is as likely.
    pub zipf: Option<f64>,
    /// Write every key once before the first round.
    #[serde(default = "yes")]
    pub prefill: bool,
    /// Bytes of a value: one number, or the smallest and the largest.
    #[serde(default = "value_64")]
    pub value_bytes: Size,
    /// The commands, drawn by weight.
    pub mix: Vec<Command>,
}

/// One size, or any between two.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// Always this.
    Fixed(usize),
    /// As likely as any other between these.
    Between(usize, usize),
}

/// One kind of command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Words; `{key}` and `{value}` are filled in. `GET {key}` and `SET {key} {value}` use the prefilled keys.
    pub args: Vec<String>,
    /// How often, against the others.
    #[serde(default = "one")]
    pub weight: usize,
    /// Appends `EX` with this many seconds.
    pub ttl_seconds: Option<u64>,
    /// What the reply must be.
    #[serde(default)]
    pub reply: Reply,
}

/// What a reply must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Anything but an error.
    #[default]
    NoError,
    /// `+OK`
    Ok,
    /// The value of the key, or nil.
    Value,
}

fn one() -> usize {
    1
}
fn fifty() -> usize {
    50
}
fn three() -> f64 {
    3.0
}
fn ten_thousand() -> u64 {
    10_000
}
fn yes() -> bool {
    true
}
fn value_64() -> Size {
    Size::Fixed(64)
}

/// The standard set of `loadtest bench`: the rows of the peers' table.
pub const BENCH: &[&str] = &[
    include_str!("../../workloads/bench-get.toml"),
    include_str!("../../workloads/bench-set.toml"),
    include_str!("../../workloads/bench-get-depth16.toml"),
    include_str!("../../workloads/bench-set-depth16.toml"),
    include_str!("../../workloads/bench-get-1-connection.toml"),
    include_str!("../../workloads/bench-set-1-connection.toml"),
    include_str!("../../workloads/bench-get-500-connections.toml"),
    include_str!("../../workloads/bench-set-500-connections.toml"),
    include_str!("../../workloads/bench-get-16k.toml"),
    include_str!("../../workloads/bench-set-16k.toml"),
    include_str!("../../workloads/bench-get-rate.toml"),
    include_str!("../../workloads/bench-set-rate.toml"),
];

impl Workload {
    /// From a file; `.json` is JSON, everything else TOML.
    pub fn read(path: &Path) -> Result<Workload> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let json = path.extension().is_some_and(|extension| extension == "json");
        let workload = if json { serde_json::from_str(&text)? } else { Workload::parse(&text)? };
        Workload::checked(workload).with_context(|| path.display().to_string())
    }

    /// From TOML.
    pub fn parse(text: &str) -> Result<Workload> {
        Workload::checked(toml::from_str(text)?)
    }

    fn checked(self) -> Result<Workload> {
        if self.mix.iter().all(|command| command.weight == 0) {
            bail!("the mix is empty");
        }
        if self.mix.iter().any(|command| command.args.is_empty()) {
            bail!("a command has no words");
        }
        if self.connections == 0 || self.depth == 0 || self.keys == 0 {
            bail!("connections, depth and keys are at least 1");
        }
        if self.rate.is_some_and(|rate| rate <= 0.0) {
            bail!("the rate is above 0");
        }
        if self.zipf.is_some_and(|theta| theta <= 0.0 || theta >= 1.0) {
            bail!("zipf is between 0 and 1");
        }
        Ok(self)
    }

    /// How its requests fall due.
    pub fn pace(&self) -> Pace {
        match self.rate {
            Some(rate) => Pace::Open { rate, depth: self.depth },
            None => Pace::Closed { depth: self.depth, think: Duration::from_micros(self.think_us) },
        }
    }

    /// One source a connection.
    pub fn sources(&self, seed: u64) -> Vec<Box<dyn Source>> {
        let commands: Rc<Vec<Template>> = Rc::new(self.mix.iter().map(Template::new).collect());
        let weights = self.mix.iter().enumerate().flat_map(|(index, command)| std::iter::repeat_n(index, command.weight));
        let draw: Rc<Vec<usize>> = Rc::new(weights.collect());
        let zipf = self.zipf.map(|theta| Rc::new(Zipf::new(self.keys, theta)));
        let source = |connection| {
            let rng = Rng::new(seed.wrapping_mul(7919) ^ connection as u64);
            let (commands, draw, zipf) = (commands.clone(), draw.clone(), zipf.clone());
            Box::new(Mix { commands, draw, zipf, rng, keys: self.keys, size: self.value_bytes }) as Box<dyn Source>
        };
        (0..self.connections).map(source).collect()
    }

    /// Every key once, by `SET`.
    pub fn prefill_source(&self) -> Box<dyn Source> {
        Box::new(Prefill { next: 0, size: self.value_bytes, rng: Rng::new(1) })
    }
}

/// A command cut where something is filled in.
#[derive(Debug)]
struct Template {
    words: Vec<Word>,
    reply: Reply,
}

#[derive(Debug)]
enum Word {
    /// Already encoded.
    Fixed(Vec<u8>),
    Key(Vec<u8>, Vec<u8>),
    Value,
}

impl Template {
    fn new(command: &Command) -> Template {
        let mut args = command.args.clone();
        if let Some(seconds) = command.ttl_seconds {
            args.extend(["EX".to_owned(), seconds.to_string()]);
        }
        let word = |word: &String| match word.split_once("{key}") {
            Some((before, after)) => Word::Key(before.into(), after.into()),
            None if word == "{value}" => Word::Value,
            None => {
                let mut bytes = Vec::new();
                resp::bulk_into(word.as_bytes(), &mut bytes);
                Word::Fixed(bytes)
            }
        };
        Template { words: args.iter().map(word).collect(), reply: command.reply }
    }

    fn fill(&self, key: u64, size: usize, out: &mut Vec<u8>) {
        resp::header_into(b'*', self.words.len(), out);
        for word in &self.words {
            match word {
                Word::Fixed(bytes) => out.extend_from_slice(bytes),
                Word::Key(before, after) => {
                    resp::header_into(b'$', before.len() + KEY_DIGITS + after.len(), out);
                    out.extend_from_slice(before);
                    out.extend_from_slice(&key_digits(key));
                    out.extend_from_slice(after);
                    out.extend_from_slice(b"\r\n");
                }
                Word::Value => {
                    resp::header_into(b'$', size.max(KEY_DIGITS), out);
                    value_into(key, size, out);
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
    }
}

struct Mix {
    commands: Rc<Vec<Template>>,
    draw: Rc<Vec<usize>>,
    zipf: Option<Rc<Zipf>>,
    rng: Rng,
    keys: u64,
    size: Size,
}

impl Size {
    fn draw(self, rng: &mut Rng) -> usize {
        match self {
            Size::Fixed(size) => size,
            Size::Between(low, high) => rng.between(low as i64, high.max(low) as i64) as usize,
        }
    }
}

impl Source for Mix {
    fn request(&mut self, out: &mut Vec<u8>) -> Check {
        let command = &self.commands[*self.rng.pick(&self.draw)];
        let key = match &self.zipf {
            Some(zipf) => zipf.draw(&mut self.rng),
            None => self.rng.below(self.keys),
        };
        let size = self.size.draw(&mut self.rng);
        command.fill(key, size, out);
        match command.reply {
            Reply::NoError => Check::NoError,
            Reply::Ok => Check::Ok,
            Reply::Value => Check::ValueOf(key),
        }
    }
}

struct Prefill {
    next: u64,
    size: Size,
    rng: Rng,
}

impl Source for Prefill {
    fn request(&mut self, out: &mut Vec<u8>) -> Check {
        let (key, size) = (self.next, self.size.draw(&mut self.rng));
        self.next += 1;
        let name = [b"key:".as_slice(), &key_digits(key)].concat();
        let mut value = Vec::new();
        value_into(key, size, &mut value);
        resp::encode(&[b"SET".as_slice(), &name, &value], out);
        Check::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_set_parses_and_its_requests_are_whole() {
        for text in BENCH {
            let workload = Workload::parse(text).unwrap();
            let mut out = Vec::new();
            workload.sources(1)[0].request(&mut out);
            let mut scanner = resp::Scanner::default();
            assert_eq!(scanner.scan(&out).unwrap(), Some(out.len()), "{}", workload.name);
        }
    }

    #[test]
    fn mistakes_in_a_file_are_named() {
        for (text, expect) in [
            ("name = 'x'\nmix = []", "empty"),
            ("name = 'x'\nzipf = 2.0\nmix = [{ args = ['PING'] }]", "zipf"),
            ("name = 'x'\ncolour = 1\nmix = [{ args = ['PING'] }]", "colour"),
        ] {
            let error = format!("{:#}", Workload::parse(text).unwrap_err());
            assert!(error.contains(expect), "{error}");
        }
    }
}
