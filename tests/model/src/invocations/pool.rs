//! The keys that the invocations meet, and the values they use.
//!
//! Twenty-odd keys, so that two invocations often touch the same one: of each type two, one of them with an expiry; strings
//! that are numbers, almost numbers, empty and binary; a key with a binary name and one with the empty name; keys that do
//! not exist.
use super::{Command, cmd};
use crate::rng::Rng;

/// What a key of the pool holds after `fill`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// Text.
    Text,
    /// An integer.
    Number,
    /// A float.
    Float,
    /// A list.
    List,
    /// A hash.
    Hash,
    /// A set.
    Set,
    /// A sorted set.
    Zset,
    /// A sorted set of places.
    Geo,
    /// A stream with groups.
    Stream,
    /// A HyperLogLog.
    Hll,
}

const KEYS: &[(Kind, &[&[u8]])] = &[
    (Kind::Text, &[b"text:1", b"text:2", b"text:ttl", b"text:empty", b"bin\x00\r\n\xff", b""]),
    (Kind::Number, &[b"num:1", b"num:ttl", b"num:max", b"num:min"]),
    (Kind::Float, &[b"float:1", b"float:ttl"]),
    (Kind::List, &[b"list:1", b"list:2", b"list:ttl", b"list:bin\xfe\n"]),
    (Kind::Hash, &[b"hash:1", b"hash:2", b"hash:ttl"]),
    (Kind::Set, &[b"set:1", b"set:2", b"set:ints", b"set:ttl"]),
    (Kind::Zset, &[b"zset:1", b"zset:2", b"zset:lex", b"zset:ttl"]),
    (Kind::Geo, &[b"geo:1", b"geo:ttl"]),
    (Kind::Stream, &[b"stream:1", b"stream:2", b"stream:ttl"]),
    (Kind::Hll, &[b"hll:1", b"hll:2"]),
];
const MISSING: &[&[u8]] = &[b"missing:1", b"missing:2", b"missing:3"];

/// Every key that the invocations may name.
pub fn all_keys() -> impl Iterator<Item = &'static [u8]> {
    KEYS.iter().flat_map(|(_, keys)| keys.iter()).chain(MISSING).copied()
}

/// The commands that make the pool, whatever was there before. Values vary with the seed.
pub(super) fn fill(rng: &mut Rng) -> Vec<Command> {
    let mut delete: Command = cmd!["DEL"];
    delete.extend(all_keys().map(<[u8]>::to_vec));
    let long = |rng: &mut Rng| rng.between(100_000_000, 200_000_000).to_string();
    let mut c = vec![
        delete,
        cmd![
            "MSET",
            "text:1",
            "Hello, World",
            "text:2",
            "abc",
            "text:empty",
            "",
            b"bin\x00\r\n\xff".as_slice(),
            b"\x00\r\n\xff value".as_slice(),
            "",
            "named nothing"
        ],
        cmd!["SET", "text:ttl", "fading", "PX", long(rng)],
        cmd!["MSET", "num:1", rng.between(-100, 100), "num:max", i64::MAX, "num:min", i64::MIN],
        cmd!["SET", "num:ttl", rng.between(0, 1000), "PX", long(rng)],
        cmd!["SET", "float:1", "10.5"],
        cmd!["SET", "float:ttl", "-3.25", "PX", long(rng)],
        cmd!["RPUSH", "list:1", "a", "b", "c", "a", "b", "a", ""],
        cmd!["RPUSH", "list:2", "x", "y", rng.between(0, 9)],
        cmd!["RPUSH", "list:ttl", "a", "b", "c"],
        cmd!["RPUSH", b"list:bin\xfe\n".as_slice(), b"\r\n".as_slice(), b"\x00\xff".as_slice(), "c"],
        cmd!["HSET", "hash:1", "f1", "v1", "f2", "v2", "n", rng.between(-50, 50), "x", "2.5", "", "empty name"],
        cmd!["HSET", "hash:2", "f1", "other", "n", i64::MAX, "b\r\n", b"\x00\xff".as_slice()],
        cmd!["HSET", "hash:ttl", "f1", "v1", "n", "7"],
        cmd!["SADD", "set:1", "a", "b", "c", "d", "", b"\xff\x00".as_slice()],
        cmd!["SADD", "set:2", "b", "d", "e", "1"],
        cmd!["SADD", "set:ints", "1", "2", "3", "-5", rng.between(10, 1000)],
        cmd!["SADD", "set:ttl", "a", "z"],
        cmd!["ZADD", "zset:1", "1", "a", "2", "b", "3.5", "c", "-1", "d", "2", "e"],
        cmd!["ZADD", "zset:2", "10", "a", "inf", "top", "-inf", "bottom", "0.1", "c"],
        cmd!["ZADD", "zset:lex", "0", "a", "0", "b", "0", "c", "0", "d", "0", "", "0", b"\xff".as_slice()],
        cmd!["ZADD", "zset:ttl", "1", "a", rng.between(2, 9), "b"],
        cmd!["GEOADD", "geo:1", "13.361389", "38.115556", "Palermo", "15.087269", "37.502669", "Catania", "2.349014", "48.864716", "Paris"],
        cmd!["GEOADD", "geo:ttl", "-0.127758", "51.507351", "London", "2.349014", "48.864716", "Paris"],
        cmd!["PFADD", "hll:1", "a", "b", "c"],
        cmd!["PFADD", "hll:2", "c", "d", rng.between(0, 1000)],
    ];
    for stream in ["stream:1", "stream:2", "stream:ttl"] {
        for ms in 1..=rng.between(3, 9) {
            c.push(cmd!["XADD", stream, format!("{ms}-{}", ms % 3), "field", format!("value {ms}"), "n", ms]);
        }
        c.push(cmd!["XGROUP", "CREATE", stream, "g1", "0"]);
        c.push(cmd!["XGROUP", "CREATE", stream, "g2", "$"]);
        c.push(cmd!["XREADGROUP", "GROUP", "g1", "alice", "COUNT", rng.between(1, 3), "STREAMS", stream, ">"]);
        c.push(cmd!["XGROUP", "CREATECONSUMER", stream, "g1", "idle"]);
    }
    c.push(cmd!["XREADGROUP", "GROUP", "g1", "bob", "COUNT", "1", "STREAMS", "stream:1", ">"]);
    c.push(cmd!["XDEL", "stream:1", "2-2"]);
    for key in ["list:ttl", "hash:ttl", "set:ttl", "zset:ttl", "geo:ttl", "stream:ttl"] {
        c.push(cmd!["PEXPIRE", key, long(rng)]);
    }
    c
}

/// Chooses words for an invocation.
pub struct Gen<'a> {
    /// The seeded chance.
    pub rng: &'a mut Rng,
}

impl Gen<'_> {
    /// Mostly a key of this kind; now and then one that is missing, or of another type.
    pub fn key(&mut self, kind: Kind) -> Vec<u8> {
        match self.rng.below(20) {
            0..=2 => self.rng.pick(MISSING).to_vec(),
            3 => self.any_key(),
            _ => self.key_of(kind),
        }
    }

    /// A key of this kind.
    pub fn key_of(&mut self, kind: Kind) -> Vec<u8> {
        let keys = KEYS.iter().find(|(k, _)| *k == kind).map_or(MISSING, |(_, keys)| keys);
        self.rng.pick(keys).to_vec()
    }

    /// Any key of the pool.
    pub fn any_key(&mut self) -> Vec<u8> {
        match self.rng.below(8) {
            0 => self.rng.pick(MISSING).to_vec(),
            _ => {
                let (_, keys) = KEYS[self.rng.index(KEYS.len())];
                self.rng.pick(keys).to_vec()
            }
        }
    }

    /// A key to be overwritten: any type, often missing.
    pub fn target(&mut self) -> Vec<u8> {
        if self.rng.one_in(2) { self.rng.pick(MISSING).to_vec() } else { self.any_key() }
    }

    /// `low..=high` keys of this kind.
    pub fn keys(&mut self, kind: Kind, low: i64, high: i64) -> Command {
        (0..self.rng.between(low, high)).map(|_| self.key(kind)).collect()
    }

    /// A string value: text, empty, binary, numbers of all sorts.
    pub fn value(&mut self) -> Vec<u8> {
        let words: &[&[u8]] = &[
            b"value",
            b"",
            b"\x00\r\n\xff$5\r\n",
            b"a",
            b"b",
            b"0",
            b"1",
            b"-7",
            b"007",
            b" 1",
            b"3.0",
            b"1e3",
            b"9223372036854775807",
            b"-9223372036854775808",
            b"nan",
            b"inf",
        ];
        match self.rng.below(12) {
            0 => vec![b'x'; self.rng.index(200)],
            1 => self.rng.next_u64().to_be_bytes().to_vec(),
            _ => self.rng.pick(words).to_vec(),
        }
    }

    /// A member of a set, an item of a list, from few.
    pub fn member(&mut self) -> Vec<u8> {
        let words: &[&[u8]] = &[b"a", b"b", b"c", b"d", b"e", b"", b"1", b"2", b"3", b"-5", b"\xff\x00", b"x", b"new"];
        self.rng.pick(words).to_vec()
    }

    /// `low..=high` members.
    pub fn members(&mut self, low: i64, high: i64) -> Command {
        (0..self.rng.between(low, high)).map(|_| self.member()).collect()
    }

    /// A field of a hash.
    pub fn field(&mut self) -> Vec<u8> {
        self.rng.pick(&["f1", "f2", "n", "x", "", "b\r\n", "new"]).into()
    }

    /// An integer argument, with the edges and some that are none.
    pub fn int(&mut self) -> Vec<u8> {
        match self.rng.below(12) {
            0 => self.rng.pick(&["9223372036854775807", "-9223372036854775808", "9223372036854775808", "-9223372036854775809"]).into(),
            1 => self.rng.pick(&["", "abc", "1.5", "+1", "01", " 1", "1 ", "-0", "0x10"]).into(),
            2 => "0".into(),
            _ => self.rng.between(-10, 10).to_string().into(),
        }
    }

    /// An index or rank: small, of both signs, sometimes wrong.
    pub fn index(&mut self) -> Vec<u8> {
        if self.rng.one_in(10) { self.int() } else { self.rng.between(-8, 8).to_string().into() }
    }

    /// A count that no server has to allocate for.
    pub fn count(&mut self) -> Vec<u8> {
        match self.rng.below(12) {
            0 => self.rng.pick(&["-1", "abc", "", "1.5"]).into(),
            1 => "0".into(),
            2 => "1000".into(),
            _ => self.rng.between(1, 5).to_string().into(),
        }
    }

    /// A float argument, with infinities, nan, both zeros and huge exponents.
    pub fn float(&mut self) -> Vec<u8> {
        match self.rng.below(12) {
            0 => self.rng.pick(&["inf", "-inf", "+inf", "nan", "Infinity"]).into(),
            1 => self.rng.pick(&["1e308", "-1e308", "1.7976931348623157e308", "1e-300", "5e-7", "1e17", "123456789012345678"]).into(),
            2 => self.rng.pick(&["", "abc", "1.5x", " 1", "1e", "--1"]).into(),
            3 => self.rng.pick(&["-0.0", "0", "+3", "3.", ".5", "1e3"]).into(),
            4..=6 => format!("{}.{}", self.rng.between(-20, 20), self.rng.pick(&["5", "25", "1", "125", "0"])).into(),
            _ => self.rng.between(-10, 10).to_string().into(),
        }
    }

    /// A relative time to live in seconds: long, sometimes past, absurd or no number.
    pub fn seconds(&mut self) -> Vec<u8> {
        match self.rng.below(12) {
            0 => self.rng.pick(&["0", "-1", "-100000"]).into(),
            1 => self.rng.pick(&["9223372036854775807", "9223372036854775", "-9223372036854775808", "abc", "", "1.5"]).into(),
            _ => self.rng.pick(&["5000", "50000", "150000", "500000", "100000000"]).into(),
        }
    }

    /// The same in milliseconds.
    pub fn millis(&mut self) -> Vec<u8> {
        match self.rng.below(12) {
            0 => self.rng.pick(&["0", "-1", "-100000"]).into(),
            1 => self.rng.pick(&["9223372036854775807", "-9223372036854775808", "abc", "", "1.5"]).into(),
            _ => self.rng.pick(&["5000000", "50000000", "150000000", "500000000", "100000000000"]).into(),
        }
    }

    /// An absolute time in seconds: far in the future (2100, 2200), or past.
    pub fn at_seconds(&mut self) -> Vec<u8> {
        match self.rng.below(10) {
            0 => self.rng.pick(&["1", "1000000000"]).into(),
            1 => self.rng.pick(&["0", "-1", "9223372036854775807", "abc", "-9223372036854775808"]).into(),
            _ => self.rng.pick(&["4102444800", "7258118400", "4102444801"]).into(),
        }
    }

    /// The same in milliseconds.
    pub fn at_millis(&mut self) -> Vec<u8> {
        match self.rng.below(10) {
            0 => self.rng.pick(&["1", "1000000000000"]).into(),
            1 => self.rng.pick(&["0", "-1", "9223372036854775807", "abc", "-9223372036854775808"]).into(),
            _ => self.rng.pick(&["4102444800000", "7258118400123", "4102444801001"]).into(),
        }
    }

    /// One of the words.
    pub fn one(&mut self, words: &[&str]) -> Vec<u8> {
        self.rng.pick(words).into()
    }

    /// Adds the words, one time in `n`.
    pub fn maybe(&mut self, command: &mut Command, n: u64, words: &[&str]) {
        if self.rng.one_in(n) {
            command.extend(words.iter().map(|word| word.as_bytes().to_vec()));
        }
    }

    /// Yes, one time in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.rng.one_in(n)
    }
}

/// Anything that can stand as a word of a command.
pub fn word(word: impl Word) -> Vec<u8> {
    word.bytes()
}

/// See [`word`].
pub trait Word {
    /// The bytes on the wire.
    fn bytes(self) -> Vec<u8>;
}

impl Word for &str {
    fn bytes(self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl Word for &[u8] {
    fn bytes(self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Word for Vec<u8> {
    fn bytes(self) -> Vec<u8> {
        self
    }
}

impl Word for String {
    fn bytes(self) -> Vec<u8> {
        self.into_bytes()
    }
}

impl Word for i64 {
    fn bytes(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}
