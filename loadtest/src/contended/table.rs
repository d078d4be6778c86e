//! Commands as data: the table of what is sent and of what may come back.
//!
//! One line of `commands.table` is at once a generator (its template) and an oracle (its shape and errors), so
//! a command cannot be sent whose answers nobody wrote down. The hard case is the protocol version: the same
//! row must accept a flat list from RESP2 and a map, a set or nested pairs from RESP3, and nothing else. A run
//! against a plain server shows that the table is wide enough; it is kept narrow by writing it by hand.

use crate::resp::Value;
use crate::rng::Rng;
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// The table as written.
pub const COMMANDS: &str = include_str!("commands.table");

/// Every row, with what they share.
#[derive(Debug)]
pub struct Table {
    /// In the order of the file.
    pub rows: Vec<Row>,
    draw: Vec<u32>,
}

/// One kind of invocation.
#[derive(Debug)]
pub struct Row {
    /// The section it stands in.
    pub family: String,
    /// The line, for reports.
    pub text: String,
    template: Vec<Node>,
    shape: Shape,
    errors: Vec<String>,
    expectation: String,
}

/// Which rows take part.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only these families, if any are named.
    pub only: Vec<String>,
    /// Not these.
    pub without: Vec<String>,
    /// The server's version, as (major, minor).
    pub version: (u32, u32),
}

impl Table {
    /// Reads the table and keeps the selected rows.
    pub fn parse(text: &str, selection: &Selection) -> Result<Table> {
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let errors: HashMap<&str, &str> = definitions(lines(), "@error ");
        let shapes: HashMap<&str, &str> = definitions(lines(), "@shape ");
        let (mut rows, mut draw, mut family, mut on) = (Vec::new(), Vec::new(), "", true);
        for line in lines().filter(|line| !line.starts_with('@')) {
            if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                (family, on) = selection.section(section)?;
                continue;
            }
            let (row, weight) = Row::parse(line, family, &errors, &shapes).with_context(|| format!("row {line:?}"))?;
            if on {
                draw.extend(std::iter::repeat_n(rows.len() as u32, weight));
                rows.push(row);
            }
        }
        if rows.is_empty() {
            bail!("no family is left to send");
        }
        Ok(Table { rows, draw })
    }

    /// A row, drawn by weight.
    pub fn draw(&self, rng: &mut Rng) -> usize {
        *rng.pick(&self.draw) as usize
    }
}

impl Selection {
    /// A section line's name, and whether its rows take part.
    fn section<'a>(&self, section: &'a str) -> Result<(&'a str, bool)> {
        let (name, since) = section.split_once(">=").unwrap_or((section, "0.0"));
        let (major, minor) = since.trim().split_once('.').context("a version is MAJOR.MINOR")?;
        let new_enough = self.version >= (major.parse()?, minor.parse()?);
        let name = name.trim();
        Ok((name, new_enough && self.has(name)))
    }

    /// Whether a family takes part, whatever the server's version.
    pub fn has(&self, family: &str) -> bool {
        let named = |names: &[String]| names.iter().any(|name| family.trim_end_matches('7') == name || family == name);
        (self.only.is_empty() || named(&self.only)) && !named(&self.without)
    }
}

fn definitions<'a>(lines: impl Iterator<Item = &'a str>, mark: &str) -> HashMap<&'a str, &'a str> {
    let pair = |line: &'a str| line.strip_prefix(mark)?.trim().split_once(' ');
    lines.filter_map(pair).map(|(name, body)| (name, body.trim())).collect()
}

impl Row {
    fn parse(line: &str, family: &str, errors: &HashMap<&str, &str>, shapes: &HashMap<&str, &str>) -> Result<(Row, usize)> {
        let (template, rest) = line.split_once("=>").context("no =>")?;
        let (shape, rest) = rest.split_once('!').context("no !")?;
        let (mut names, mut weight) = (Vec::new(), 1);
        for word in rest.split_whitespace().filter(|word| *word != "-") {
            match word.strip_prefix('x').and_then(|digits| digits.parse().ok()) {
                Some(given) => weight = given,
                None => names.push((*errors.get(word).with_context(|| format!("unknown error {word}"))?).to_owned()),
            }
        }
        let text = template.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut source = shape.trim().to_owned();
        source.retain(|byte| byte != ' ');
        let row = Row {
            family: family.to_owned(),
            template: parse_nodes(&mut Lexer::new(&text), false)?.remove(0),
            text,
            shape: Shape::parse(&mut source.as_str(), shapes)?,
            errors: names,
            expectation: line.split_once("=>").map_or("", |(_, rest)| rest.trim()).to_owned(),
        };
        Ok((row, weight))
    }

    /// One invocation.
    pub fn generate(&self, draw: &mut Draw<'_>) -> Vec<Vec<u8>> {
        let mut args = Vec::with_capacity(8);
        generate(&self.template, draw, &mut args);
        args
    }

    /// Whether Redis could have answered this.
    pub fn allows(&self, reply: &Value, resp: u8) -> bool {
        match reply {
            Value::Error(text) => self.errors.iter().any(|error| text.starts_with(error.as_bytes())),
            reply => self.shape.fits(reply, resp),
        }
    }

    /// False for the rows that only show how a mistake is refused.
    pub fn can_succeed(&self) -> bool {
        !matches!(self.shape, Shape::Leaf(Leaf::Never))
    }

    /// Unknown commands and wrong numbers of arguments are refused when they are queued, and abort the block.
    pub fn refused_at_queue_time(&self) -> bool {
        let early = |error: &String| error.starts_with("ERR unknown command") || error.starts_with("ERR wrong number");
        !self.can_succeed() && self.errors.iter().any(early)
    }

    /// What was expected, as the table has it, for reports.
    pub fn expectation(&self) -> &str {
        &self.expectation
    }
}

// ---------------------------------------------------------------------------------------------- templates

#[derive(Debug)]
enum Node {
    Word(String),
    Hole(Hole),
    Group { alternatives: Vec<Vec<Node>>, repeated: bool },
}

#[derive(Debug)]
enum Hole {
    Key(&'static str),
    Lua(&'static str),
    Sha(&'static str),
    Drawn(String),
}

/// The families of keys; `{any}` draws one of them. `num` keys hold numbers most of the time.
const FAMILIES: &[&str] = &["str", "num", "hash", "list", "set", "zset", "geo", "stream", "bits", "hll"];

/// Scripts whose effects a second server would not repeat: the clock, a random member. The `hidden` ones do not declare what they write.
pub const SCRIPTS: &[(&str, &str)] = &[
    ("time", "local t=redis.call('TIME') local v=t[1]..'.'..t[2]..ARGV[1] redis.call('SET',KEYS[1],v) return v"),
    (
        "random",
        "local m=redis.call('SRANDMEMBER',KEYS[1]) if m then redis.call('SREM',KEYS[1],m) redis.call('SADD',KEYS[2],m) end return m",
    ),
    ("incr", "return redis.call('INCRBY',KEYS[1],math.random(1,9))"),
    ("mixed", "redis.call('HSET',KEYS[1],ARGV[1],ARGV[2]) redis.call('LTRIM',KEYS[2],0,20) return redis.call('LPUSH',KEYS[2],ARGV[2])"),
    ("read", "return redis.call('HKEYS',KEYS[1])"),
    (
        "chance",
        "local n=0 for _,m in ipairs(redis.call('SPOP',KEYS[1],2)) do n=n+redis.call('ZADD',KEYS[2],redis.call('TIME')[2],m) end redis.call('SADD',KEYS[1],'r'..math.random(9)) return n",
    ),
    ("hidden", "redis.call('SET',ARGV[1],ARGV[2]..redis.call('TIME')[2]) return redis.call('GET',ARGV[1])"),
    (
        "hiddenpop",
        "local s=ARGV[1] local m=redis.call('SPOP',s) if m then redis.call('RPUSH',ARGV[2],m) redis.call('SADD',s,'h'..math.random(9)) end return m",
    ),
    ("hiddenttl", "local n=redis.call('HSET',ARGV[1],ARGV[2],ARGV[3]) redis.call('PEXPIRE',ARGV[1],ARGV[4]) return n"),
];

/// The same as functions, for the family `function`.
pub const FUNCTIONS: &str = "#!lua name=loadtest
redis.register_function('loadtest_time', function(keys, args) local t=redis.call('TIME') local v=t[1]..'.'..t[2]..args[1] redis.call('SET',keys[1],v) return v end)
redis.register_function('loadtest_random', function(keys) local m=redis.call('SRANDMEMBER',keys[1]) if m then redis.call('SREM',keys[1],m) redis.call('SADD',keys[2],m) end return m end)";

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn new(rest: &'a str) -> Lexer<'a> {
        Lexer { rest }
    }

    /// `(` and `|` and `)` and `)+` stand alone; everything else is a word. A `(` inside a word, as in the
    /// bound `(m5x`, is a group only if the template closes it.
    fn next(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        let length = match first {
            '(' if self.rest.contains(')') => 1,
            '|' => 1,
            ')' => 1,
            _ => self.rest.find([' ', '|', ')']).unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(token)
    }
}

/// Alternatives up to the end of the group or of the text. `(...)+` is repeated.
fn parse_nodes(lexer: &mut Lexer<'_>, inside: bool) -> Result<Vec<Vec<Node>>> {
    let (mut alternatives, mut nodes) = (Vec::new(), Vec::new());
    let mut closed = false;
    while let Some(token) = lexer.next() {
        match token {
            "(" => {
                let group = parse_nodes(lexer, true)?;
                let repeated = lexer.rest.starts_with('+');
                lexer.rest = lexer.rest.strip_prefix('+').unwrap_or(lexer.rest);
                nodes.push(Node::Group { alternatives: group, repeated });
            }
            ")" if inside => {
                closed = true;
                break;
            }
            "|" => alternatives.push(std::mem::take(&mut nodes)),
            word => nodes.push(parse_word(word)?),
        }
    }
    if inside != closed {
        bail!("a group is not closed");
    }
    alternatives.push(nodes);
    Ok(alternatives)
}

fn parse_word(word: &str) -> Result<Node> {
    let Some(hole) = word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) else {
        return Ok(Node::Word(word.to_owned()));
    };
    let script = |name: &str| SCRIPTS.iter().find(|script| script.0 == name).map(|script| script.0).context("no such script");
    Ok(Node::Hole(if hole == "any" {
        Hole::Key("any")
    } else if let Some(family) = FAMILIES.iter().find(|family| **family == hole) {
        Hole::Key(family)
    } else if let Some(name) = hole.strip_prefix("lua:") {
        Hole::Lua(script(name)?)
    } else if let Some(name) = hole.strip_prefix("sha:") {
        Hole::Sha(script(name)?)
    } else if DRAWN.contains(&hole) {
        Hole::Drawn(hole.to_owned())
    } else {
        bail!("unknown hole {hole}")
    }))
}

fn generate(nodes: &[Node], draw: &mut Draw<'_>, args: &mut Vec<Vec<u8>>) {
    for node in nodes {
        match node {
            Node::Word(word) => args.push(word.clone().into_bytes()),
            Node::Hole(hole) => args.push(draw.fill(hole)),
            Node::Group { alternatives, repeated } => {
                let times = if *repeated { draw.rng.between(1, 4) } else { 1 };
                for _ in 0..times {
                    let chosen = draw.rng.below(alternatives.len() as u64) as usize;
                    generate(&alternatives[chosen], draw, args);
                }
            }
        }
    }
}

/// The longest of the short times to live, in milliseconds.
pub const SHORT_TTL_MS_MAX: i64 = 300;

/// The holes that are not keys or scripts; [`Draw::fill`] fills them.
const DRAWN: &[&str] = &[
    "v", "empty", "int", "float", "m", "f", "nf", "e", "ttl", "pttl", "short", "shortat", "at", "pat", "off", "bitoff", "idx", "n",
    "signed", "score", "lon", "lat", "km", "id", "newid", "db", "g", "c", "maxlen",
];

/// Where the drawn words come from.
#[derive(Debug)]
pub struct Draw<'a> {
    /// The client's seed.
    pub rng: &'a mut Rng,
    /// Contended keys per family.
    pub keys: u64,
    /// Stream ids that some client saw lately.
    pub ids: &'a [Vec<u8>],
    /// Digests of [`SCRIPTS`], in their order.
    pub shas: &'a [Vec<u8>],
}

impl Draw<'_> {
    fn fill(&mut self, hole: &Hole) -> Vec<u8> {
        match hole {
            Hole::Key(family) => self.key(family),
            Hole::Lua(name) => SCRIPTS.iter().find(|script| script.0 == *name).map_or("", |script| script.1).into(),
            Hole::Sha(name) => {
                let index = SCRIPTS.iter().position(|script| script.0 == *name).unwrap_or(0);
                self.shas.get(index).cloned().unwrap_or_default()
            }
            Hole::Drawn(name) => self.word(name),
        }
    }

    /// Now and then a key of another family: that is where the WRONGTYPE errors come from.
    fn key(&mut self, family: &str) -> Vec<u8> {
        let stray = family == "any" || self.rng.one_in(60);
        let family = if stray { *self.rng.pick(FAMILIES) } else { family };
        format!("c:{family}:{}", self.rng.below(self.keys)).into_bytes()
    }

    fn word(&mut self, hole: &str) -> Vec<u8> {
        let rng = &mut *self.rng;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis()) as i64;
        let number = match hole {
            "v" => return value(rng),
            "empty" => return Vec::new(),
            "float" => return format!("{}", rng.between(-9999, 9999) as f64 / 100.0).into_bytes(),
            "m" => return format!("m{}", rng.below(10)).into_bytes(),
            "f" => return format!("f{}", rng.below(10)).into_bytes(),
            "nf" => return format!("n{}", rng.below(4)).into_bytes(),
            "e" => return format!("{}", rng.below(12)).into_bytes(),
            "score" => return format!("{}", rng.between(-200, 200) as f64 / 8.0).into_bytes(),
            "lon" => return format!("{}", rng.between(-1790, 1790) as f64 / 10.0).into_bytes(),
            "lat" => return format!("{}", rng.between(-850, 850) as f64 / 10.0).into_bytes(),
            "g" => return format!("g{}", rng.below(3)).into_bytes(),
            "c" => return format!("c{}", rng.below(4)).into_bytes(),
            "id" if self.ids.is_empty() => return b"0-1".to_vec(),
            "id" => return rng.pick(self.ids).clone(),
            "newid" => {
                return format!("{}-{}", now_ms + rng.between(-500, 500), rng.below(100)).into_bytes();
            }
            "int" => rng.between(-100, 100),
            "ttl" => rng.between(1000, 100_000),
            "pttl" => rng.between(1_000_000, 100_000_000),
            "short" => rng.between(20, SHORT_TTL_MS_MAX),
            "shortat" => now_ms + rng.between(20, SHORT_TTL_MS_MAX),
            "at" => now_ms / 1000 + rng.between(1000, 100_000),
            "pat" => now_ms + rng.between(1_000_000, 100_000_000),
            "off" => rng.between(0, 60),
            "bitoff" => rng.between(0, 2000),
            "idx" => rng.between(-6, 12),
            "signed" => rng.between(-4, 4),
            "km" => rng.between(100, 9000),
            "db" => rng.between(0, 3),
            "maxlen" => rng.between(5, 200),
            _ => rng.between(1, 4),
        };
        number.to_string().into_bytes()
    }
}

/// Mostly short text; sometimes a number, bytes that are not UTF-8, or a value past the embedded encodings.
fn value(rng: &mut Rng) -> Vec<u8> {
    match rng.below(12) {
        0 => rng.between(-1000, 1000).to_string().into_bytes(),
        1 => vec![0xff, 0, b'\r', b'\n', rng.below(256) as u8],
        2 => vec![b'a' + rng.below(26) as u8; 64 + rng.below(400) as usize],
        _ => format!("v{:x}", rng.below(1 << 24)).into_bytes(),
    }
}

// ------------------------------------------------------------------------------------------------- shapes

/// What a reply may look like.
#[derive(Debug, Clone)]
enum Shape {
    Leaf(Leaf),
    Status(String),
    Array(Box<Shape>),
    Tuple(Vec<Shape>),
    Set(Box<Shape>),
    Map(Box<Shape>, Box<Shape>),
    Pairs(Box<Shape>, Box<Shape>),
    Either(Vec<Shape>),
}

#[derive(Debug, Clone, Copy)]
enum Leaf {
    Ok,
    Int,
    Nat,
    Bit,
    Bulk,
    FloatBulk,
    Num,
    Id,
    Nil,
    NilArray,
    Any,
    Never,
}

impl Shape {
    /// `a|b<c,d>`; stops at `,`, `>` or the end.
    fn parse(text: &mut &str, shapes: &HashMap<&str, &str>) -> Result<Shape> {
        let mut alternatives = vec![Shape::one(text, shapes)?];
        while let Some(rest) = text.strip_prefix('|') {
            *text = rest;
            alternatives.push(Shape::one(text, shapes)?);
        }
        Ok(if alternatives.len() == 1 { alternatives.remove(0) } else { Shape::Either(alternatives) })
    }

    fn one(text: &mut &str, shapes: &HashMap<&str, &str>) -> Result<Shape> {
        let end = text.find(['|', '<', ',', '>']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        *text = rest;
        if name == "status" {
            let (word, rest) = rest[1..].split_once('>').context("status<word>")?;
            *text = rest;
            return Ok(Shape::Status(word.to_owned()));
        }
        let mut parts = Vec::new();
        if let Some(rest) = text.strip_prefix('<') {
            *text = rest;
            while !text.starts_with('>') {
                parts.push(Shape::parse(text, shapes)?);
                *text = text.strip_prefix(',').unwrap_or(text);
                if text.is_empty() {
                    bail!("a shape is not closed");
                }
            }
            *text = &text[1..];
        }
        let mut part = parts.clone().into_iter().map(Box::new);
        let mut next = || part.next().context("a shape lacks its part");
        Ok(match name {
            "array" => Shape::Array(next()?),
            "set" => Shape::Set(next()?),
            "map" => Shape::Map(next()?, next()?),
            "pairs" => Shape::Pairs(next()?, next()?),
            "tuple" => Shape::Tuple(parts),
            "ok" => Shape::Leaf(Leaf::Ok),
            "int" => Shape::Leaf(Leaf::Int),
            "nat" => Shape::Leaf(Leaf::Nat),
            "bit" => Shape::Leaf(Leaf::Bit),
            "bulk" => Shape::Leaf(Leaf::Bulk),
            "fbulk" => Shape::Leaf(Leaf::FloatBulk),
            "num" => Shape::Leaf(Leaf::Num),
            "id" => Shape::Leaf(Leaf::Id),
            "nil" => Shape::Leaf(Leaf::Nil),
            "nilarray" => Shape::Leaf(Leaf::NilArray),
            "any" => Shape::Leaf(Leaf::Any),
            "none" => Shape::Leaf(Leaf::Never),
            alias => {
                let body = *shapes.get(alias).with_context(|| format!("unknown shape {alias}"))?;
                return Shape::parse(&mut { body }, shapes);
            }
        })
    }

    fn fits(&self, reply: &Value, resp: u8) -> bool {
        let all = |shape: &Shape, values: &[Value]| values.iter().all(|value| shape.fits(value, resp));
        let turns = |key: &Shape, value: &Shape, flat: &[Value]| {
            flat.len().is_multiple_of(2) && flat.chunks(2).all(|pair| key.fits(&pair[0], resp) && value.fits(&pair[1], resp))
        };
        match (self, reply) {
            (Shape::Leaf(leaf), reply) => leaf.fits(reply, resp),
            (Shape::Status(word), Value::Simple(text)) => text == word.as_bytes(),
            (Shape::Either(shapes), reply) => shapes.iter().any(|shape| shape.fits(reply, resp)),
            (Shape::Array(item), Value::Array(items)) => all(item, items),
            (Shape::Set(item), Value::Set(items)) if resp == 3 => all(item, items),
            (Shape::Set(item), Value::Array(items)) if resp == 2 => all(item, items),
            (Shape::Map(key, value), Value::Map(flat)) if resp == 3 => turns(key, value, flat),
            (Shape::Map(key, value), Value::Array(flat)) if resp == 2 => {
                // RESP2's XREAD is the one map whose pairs are nested there too.
                turns(key, value, flat) || all(&Shape::Tuple(vec![(**key).clone(), (**value).clone()]), flat)
            }
            (Shape::Pairs(key, value), Value::Array(flat)) if resp == 2 => turns(key, value, flat),
            (Shape::Pairs(key, value), Value::Array(items)) => {
                items.iter().all(|item| matches!(item, Value::Array(pair) if pair.len() == 2 && turns(key, value, pair)))
            }
            (Shape::Tuple(shapes), Value::Array(items)) => {
                shapes.len() == items.len() && shapes.iter().zip(items).all(|(shape, item)| shape.fits(item, resp))
            }
            _ => false,
        }
    }
}

impl Leaf {
    fn fits(self, reply: &Value, resp: u8) -> bool {
        match (self, reply) {
            (Leaf::Any, _) | (Leaf::Int, Value::Int(_)) | (Leaf::Bulk, Value::Bulk(_)) => true,
            (Leaf::Nat, Value::Int(number)) => *number >= 0,
            (Leaf::Bit, Value::Int(number)) => matches!(number, 0 | 1),
            (Leaf::Ok, Value::Simple(text)) => text == b"OK",
            (Leaf::FloatBulk, Value::Bulk(text)) => is_float(text),
            (Leaf::Num, Value::Bulk(text)) => resp == 2 && is_float(text),
            (Leaf::Num, Value::Double(text)) => resp == 3 && is_float(text),
            (Leaf::Id, Value::Bulk(text)) => is_id(text),
            (Leaf::Nil, Value::NilBulk) | (Leaf::NilArray, Value::NilArray) => resp == 2,
            (Leaf::Nil | Leaf::NilArray, Value::Null) => resp == 3,
            _ => false,
        }
    }
}

fn is_float(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok())
}

fn is_id(text: &[u8]) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    std::str::from_utf8(text).ok().and_then(|text| text.split_once('-')).is_some_and(|(ms, seq)| digits(ms) && digits(seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::parse(COMMANDS, &Selection { version: (7, 0), ..Selection::default() }).unwrap()
    }

    fn fits(shape: &str, wire: &[u8], resp: u8) -> bool {
        let line = format!("X => {shape} ! -");
        let (row, _) = Row::parse(&line, "", &HashMap::new(), &HashMap::new()).unwrap();
        row.allows(&crate::resp::parse(wire).unwrap(), resp)
    }

    #[test]
    fn every_row_parses_and_generates_within_its_words() {
        let (table, mut rng) = (table(), Rng::new(7));
        assert!(table.rows.len() > 200, "{}", table.rows.len());
        for row in &table.rows {
            let name = row.text.split(' ').next().unwrap();
            for _ in 0..50 {
                let args = row.generate(&mut Draw { rng: &mut rng, keys: 12, ids: &[], shas: &[] });
                assert_eq!(args[0], name.as_bytes());
                let stray = |arg: &Vec<u8>| matches!(arg.as_slice(), b"(" | b")" | b"|" | b"+)");
                assert!(!args.iter().any(stray), "{}: {args:?}", row.text);
            }
        }
    }

    #[test]
    fn shapes_know_the_protocol_version() {
        for (shape, wire, resp2, resp3) in [
            ("nil", b"$-1\r\n".as_slice(), true, false),
            ("nil", b"_\r\n", false, true),
            ("nil", b"*-1\r\n", false, false),
            ("nilarray", b"*-1\r\n", true, false),
            ("num", b"$3\r\n1.5\r\n", true, false),
            ("num", b",1.5\r\n", false, true),
            ("set<bulk>", b"*1\r\n$1\r\na\r\n", true, false),
            ("set<bulk>", b"~1\r\n$1\r\na\r\n", false, true),
            ("pairs<bulk,num>", b"*2\r\n$1\r\na\r\n$1\r\n1\r\n", true, false),
            ("pairs<bulk,num>", b"*1\r\n*2\r\n$1\r\na\r\n,1\r\n", false, true),
            ("map<bulk,bulk>", b"%1\r\n$1\r\na\r\n$1\r\nb\r\n", false, true),
            ("tuple<>|tuple<bulk,num>", b"*0\r\n", true, true),
            ("none", b"+OK\r\n", false, false),
        ] {
            assert_eq!(fits(shape, wire, 2), resp2, "{shape} in RESP2");
            assert_eq!(fits(shape, wire, 3), resp3, "{shape} in RESP3");
        }
    }

    #[test]
    fn an_error_must_be_one_that_the_command_can_give() {
        let table = table();
        let get = table.rows.iter().find(|row| row.text == "STRLEN {str}").unwrap();
        let wrong = Value::Error(b"WRONGTYPE Operation against a key holding the wrong kind of value".to_vec());
        assert!(get.allows(&wrong, 2));
        assert!(!get.allows(&Value::Error(b"ERR internal".to_vec()), 2));
        assert!(!get.allows(&Value::Bulk(b"1".to_vec()), 2));
    }
}
