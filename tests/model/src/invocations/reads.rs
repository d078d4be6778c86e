//! Commands that only read: their replies go through every shape that RESP3 has, so they check reply conversion.
use super::pool::{Gen, Kind};
use super::{Command, Invocation, cmd, geo, later_read, read, scripts, streams, zsets};
use crate::server::scripts as known;

pub(super) const ROWS: &[Invocation] = &[
    read("GET", |g| cmd!["GET", g.key(Kind::Text)]),
    read("MGET", |g| with_keys(g, cmd!["MGET"], Kind::Text)),
    read("STRLEN", |g| cmd!["STRLEN", g.key(Kind::Text)]),
    read("GETRANGE", |g| cmd!["GETRANGE", g.key(Kind::Text), g.index(), g.index()]),
    read("SUBSTR", |g| cmd!["SUBSTR", g.key(Kind::Text), g.index(), g.index()]),
    read("LCS", |g| {
        let mut c = cmd!["LCS", g.key(Kind::Text), g.key(Kind::Text)];
        g.maybe(&mut c, 3, &["LEN"]);
        g.maybe(&mut c, 3, &["IDX"]);
        g.maybe(&mut c, 4, &["MINMATCHLEN", "2"]);
        g.maybe(&mut c, 4, &["WITHMATCHLEN"]);
        c
    }),
    read("GETBIT", |g| cmd!["GETBIT", g.key(Kind::Text), g.one(&["0", "1", "7", "1000", "-1", "x"])]),
    read("BITCOUNT", |g| {
        let mut c = cmd!["BITCOUNT", g.key(Kind::Text)];
        if g.one_in(2) {
            c.extend(cmd![g.index(), g.index()]);
            g.maybe(&mut c, 3, &["BIT"]);
        }
        c
    }),
    read("BITPOS", |g| {
        let mut c = cmd!["BITPOS", g.key(Kind::Text), g.one(&["0", "1", "2"])];
        if g.one_in(2) {
            c.extend(cmd![g.index()]);
        }
        c
    }),
    read("BITFIELD_RO", |g| cmd!["BITFIELD_RO", g.key(Kind::Text), "GET", g.one(&["u8", "i5", "u64"]), g.one(&["0", "#1", "-1"])]),
    read("PFCOUNT", |g| with_keys(g, cmd!["PFCOUNT"], Kind::Hll)),
    read("EXISTS", |g| with_keys(g, cmd!["EXISTS"], Kind::Set)),
    read("TOUCH", |g| with_keys(g, cmd!["TOUCH"], Kind::Hash)),
    read("TYPE", |g| cmd!["TYPE", g.any_key()]),
    read("TTL", |g| cmd!["TTL", g.any_key()]),
    read("PTTL", |g| cmd!["PTTL", g.any_key()]),
    read("EXPIRETIME", |g| cmd!["EXPIRETIME", g.any_key()]),
    read("PEXPIRETIME", |g| cmd!["PEXPIRETIME", g.any_key()]),
    read("DUMP", |g| cmd!["DUMP", g.any_key()]),
    read("OBJECT ENCODING", |g| cmd!["OBJECT", "ENCODING", g.any_key()]),
    read("OBJECT REFCOUNT", |g| cmd!["OBJECT", "REFCOUNT", g.any_key()]),
    read("OBJECT IDLETIME", |g| cmd!["OBJECT", "IDLETIME", g.any_key()]),
    read("OBJECT FREQ", |g| cmd!["OBJECT", "FREQ", g.any_key()]),
    read("MEMORY USAGE", |g| cmd!["MEMORY", "USAGE", g.any_key()]),
    read("DBSIZE", |_| cmd!["DBSIZE"]),
    read("KEYS", |g| cmd!["KEYS", g.one(&["*", "set:*", "?ash:[12]", "none*", "[^s]*:1", "text\\:1"])]),
    read("RANDOMKEY", |_| cmd!["RANDOMKEY"]),
    read("SCAN", |g| {
        let mut c = cmd!["SCAN", g.one(&["0", "0", "0", "7", "x"])];
        g.maybe(&mut c, 3, &["MATCH", "*:1"]);
        g.maybe(&mut c, 3, &["COUNT", "3"]);
        g.maybe(&mut c, 3, &["TYPE", "hash"]);
        c
    }),
    read("HSCAN", |g| cmd!["HSCAN", g.key(Kind::Hash), "0", "COUNT", g.count()]),
    read("SSCAN", |g| cmd!["SSCAN", g.key(Kind::Set), "0", "MATCH", g.one(&["*", "a*"])]),
    read("ZSCAN", |g| cmd!["ZSCAN", g.key(Kind::Zset), "0"]),
    read("SORT_RO", |g| cmd!["SORT_RO", g.key(Kind::Set), "ALPHA", g.one(&["ASC", "DESC"])]),
    read("HGET", |g| cmd!["HGET", g.key(Kind::Hash), g.field()]),
    read("HMGET", |g| cmd!["HMGET", g.key(Kind::Hash), g.field(), g.field()]),
    read("HGETALL", |g| cmd!["HGETALL", g.key(Kind::Hash)]),
    read("HKEYS", |g| cmd!["HKEYS", g.key(Kind::Hash)]),
    read("HVALS", |g| cmd!["HVALS", g.key(Kind::Hash)]),
    read("HLEN", |g| cmd!["HLEN", g.key(Kind::Hash)]),
    read("HEXISTS", |g| cmd!["HEXISTS", g.key(Kind::Hash), g.field()]),
    read("HSTRLEN", |g| cmd!["HSTRLEN", g.key(Kind::Hash), g.field()]),
    read("HRANDFIELD", |g| {
        let mut c = cmd!["HRANDFIELD", g.key(Kind::Hash)];
        if g.one_in(2) {
            c.extend(cmd![g.one(&["2", "-3", "0", "100"])]);
            g.maybe(&mut c, 2, &["WITHVALUES"]);
        }
        c
    }),
    read("LLEN", |g| cmd!["LLEN", g.key(Kind::List)]),
    read("LINDEX", |g| cmd!["LINDEX", g.key(Kind::List), g.index()]),
    read("LRANGE", |g| cmd!["LRANGE", g.key(Kind::List), g.index(), g.index()]),
    read("LPOS", |g| {
        let mut c = cmd!["LPOS", g.key(Kind::List), g.member()];
        g.maybe(&mut c, 3, &["RANK", "-1"]);
        g.maybe(&mut c, 3, &["COUNT", "0"]);
        c
    }),
    read("SCARD", |g| cmd!["SCARD", g.key(Kind::Set)]),
    read("SISMEMBER", |g| cmd!["SISMEMBER", g.key(Kind::Set), g.member()]),
    read("SMISMEMBER", |g| cmd!["SMISMEMBER", g.key(Kind::Set), g.member(), g.member()]),
    read("SMEMBERS", |g| cmd!["SMEMBERS", g.key(Kind::Set)]),
    read("SRANDMEMBER", |g| {
        let mut c = cmd!["SRANDMEMBER", g.key(Kind::Set)];
        if g.one_in(2) {
            c.extend(cmd![g.one(&["2", "-3", "0", "100", "x"])]);
        }
        c
    }),
    read("SINTER", |g| with_keys(g, cmd!["SINTER"], Kind::Set)),
    read("SUNION", |g| with_keys(g, cmd!["SUNION"], Kind::Set)),
    read("SDIFF", |g| with_keys(g, cmd!["SDIFF"], Kind::Set)),
    read("SINTERCARD", |g| cmd!["SINTERCARD", "2", g.key(Kind::Set), g.key(Kind::Set), "LIMIT", g.one(&["0", "1", "-1"])]),
    read("ZSCORE", |g| cmd!["ZSCORE", g.key(Kind::Zset), g.member()]),
    read("ZMSCORE", |g| cmd!["ZMSCORE", g.key(Kind::Zset), g.member(), g.member()]),
    read("ZCARD", |g| cmd!["ZCARD", g.key(Kind::Zset)]),
    read("ZRANK", |g| cmd!["ZRANK", g.key(Kind::Zset), g.member()]),
    read("ZREVRANK", |g| cmd!["ZREVRANK", g.key(Kind::Zset), g.member()]),
    read("ZCOUNT", |g| cmd!["ZCOUNT", g.key(Kind::Zset), zsets::bound(g), zsets::bound(g)]),
    read("ZLEXCOUNT", |g| cmd!["ZLEXCOUNT", "zset:lex", zsets::lex(g), zsets::lex(g)]),
    read("ZRANGE", |g| {
        let mut c = cmd!["ZRANGE", g.key(Kind::Zset), g.index(), g.index()];
        g.maybe(&mut c, 3, &["REV"]);
        g.maybe(&mut c, 2, &["WITHSCORES"]);
        c
    }),
    read("ZREVRANGE", |g| cmd!["ZREVRANGE", g.key(Kind::Zset), g.index(), g.index(), "WITHSCORES"]),
    read("ZRANGEBYSCORE", |g| {
        let mut c = cmd!["ZRANGEBYSCORE", g.key(Kind::Zset), zsets::bound(g), zsets::bound(g)];
        g.maybe(&mut c, 2, &["WITHSCORES"]);
        c
    }),
    read("ZREVRANGEBYSCORE", |g| cmd!["ZREVRANGEBYSCORE", g.key(Kind::Zset), zsets::bound(g), zsets::bound(g), "WITHSCORES"]),
    read("ZRANGEBYLEX", |g| cmd!["ZRANGEBYLEX", "zset:lex", zsets::lex(g), zsets::lex(g)]),
    read("ZREVRANGEBYLEX", |g| cmd!["ZREVRANGEBYLEX", "zset:lex", zsets::lex(g), zsets::lex(g)]),
    read("ZRANDMEMBER", |g| {
        let mut c = cmd!["ZRANDMEMBER", g.key(Kind::Zset)];
        if g.one_in(2) {
            c.extend(cmd![g.one(&["2", "-3", "0", "100"])]);
            g.maybe(&mut c, 2, &["WITHSCORES"]);
        }
        c
    }),
    read("ZDIFF", |g| combined(g, "ZDIFF")),
    read("ZINTER", |g| combined(g, "ZINTER")),
    read("ZUNION", |g| combined(g, "ZUNION")),
    read("ZINTERCARD", |g| cmd!["ZINTERCARD", "2", g.key(Kind::Zset), g.key(Kind::Zset)]),
    read("GEODIST", |g| cmd!["GEODIST", g.key(Kind::Geo), geo::town(g), geo::town(g), g.one(&["km", "m", "yards"])]),
    read("GEOHASH", |g| cmd!["GEOHASH", g.key(Kind::Geo), geo::town(g), geo::town(g)]),
    read("GEOPOS", |g| cmd!["GEOPOS", g.key(Kind::Geo), geo::town(g), geo::town(g)]),
    read("GEOSEARCH", |g| {
        let mut c = cmd!["GEOSEARCH", g.key(Kind::Geo)];
        geo::search(g, &mut c);
        g.maybe(&mut c, 2, &["WITHCOORD"]);
        g.maybe(&mut c, 2, &["WITHDIST"]);
        g.maybe(&mut c, 3, &["WITHHASH"]);
        c
    }),
    read("GEORADIUS_RO", |g| {
        let mut c = cmd!["GEORADIUS_RO", g.key(Kind::Geo)];
        c.extend(geo::place(g));
        c.extend(cmd!["2000", "km", "ASC", "WITHDIST"]);
        c
    }),
    read("GEORADIUSBYMEMBER_RO", |g| cmd!["GEORADIUSBYMEMBER_RO", g.key(Kind::Geo), geo::town(g), "2000", "km", "ASC", "WITHCOORD"]),
    read("XLEN", |g| cmd!["XLEN", g.key(Kind::Stream)]),
    read("XRANGE", |g| range(g, "XRANGE")),
    read("XREVRANGE", |g| range(g, "XREVRANGE")),
    read("XREAD", |g| {
        let mut c = cmd!["XREAD", "COUNT", "2"];
        if g.one_in(2) {
            c.extend(cmd!["BLOCK", g.one(&["1", "5", "10", "5", "10", "-1", "x"])]);
        }
        c.extend(cmd!["STREAMS", g.key(Kind::Stream), g.one(&["0", "2", "$", "x"])]);
        c
    }),
    read("XPENDING", |g| {
        let mut c = cmd!["XPENDING", g.key(Kind::Stream), streams::group(g, "g1")];
        if g.one_in(2) {
            c.extend(cmd!["-", "+", "10"]);
            g.maybe(&mut c, 3, &["alice"]);
        }
        c
    }),
    read("XINFO STREAM", |g| {
        let mut c = cmd!["XINFO", "STREAM", g.key(Kind::Stream)];
        g.maybe(&mut c, 3, &["FULL"]);
        c
    }),
    read("XINFO GROUPS", |g| cmd!["XINFO", "GROUPS", g.key(Kind::Stream)]),
    read("XINFO CONSUMERS", |g| cmd!["XINFO", "CONSUMERS", g.key(Kind::Stream), streams::group(g, "g1")]),
    read("EVAL_RO", |g| cmd!["EVAL_RO", known::READ, "1", g.key(Kind::Text)]),
    read("EVALSHA_RO", |g| cmd!["EVALSHA_RO", scripts::sha(g), "1", g.key(Kind::Text)]),
    read("FUNCTION DUMP", |_| cmd!["FUNCTION", "DUMP"]),
    read("FUNCTION STATS", |_| cmd!["FUNCTION", "STATS"]),
    later_read("HTTL", "7.4.0", |g| cmd!["HTTL", g.key(Kind::Hash), "FIELDS", "2", g.field(), g.field()]),
    later_read("HPTTL", "7.4.0", |g| cmd!["HPTTL", g.key(Kind::Hash), "FIELDS", "2", g.field(), g.field()]),
    later_read("HEXPIRETIME", "7.4.0", |g| cmd!["HEXPIRETIME", g.key(Kind::Hash), "FIELDS", "2", g.field(), g.field()]),
    later_read("HPEXPIRETIME", "7.4.0", |g| cmd!["HPEXPIRETIME", g.key(Kind::Hash), "FIELDS", "2", g.field(), g.field()]),
    later_read("DIGEST", "8.4.0", |g| cmd!["DIGEST", g.key(Kind::Text)]),
    read("FCALL_RO", |g| cmd!["FCALL_RO", g.one(&["peek", "peek", "store"]), "1", g.any_key(), "x"]),
    read("FUNCTION LIST", |_| cmd!["FUNCTION", "LIST", "WITHCODE"]),
    read("SCRIPT EXISTS", |g| cmd!["SCRIPT", "EXISTS", scripts::sha(g), "ffffffffffffffffffffffffffffffffffffffff"]),
];

fn with_keys(g: &mut Gen, mut c: Command, kind: Kind) -> Command {
    c.extend(g.keys(kind, 1, 3));
    c
}

fn combined(g: &mut Gen, name: &str) -> Command {
    let mut c = cmd![name, "2", g.key(Kind::Zset), g.key(Kind::Zset)];
    g.maybe(&mut c, 2, &["WITHSCORES"]);
    c
}

fn range(g: &mut Gen, name: &str) -> Command {
    let mut c = cmd![name, g.key(Kind::Stream)];
    for _ in 0..2 {
        c.push(if g.one_in(2) { g.one(&["-", "+", "(1-1", "(18446744073709551615-18446744073709551615", "(0-0"]) } else { streams::id(g) });
    }
    if g.one_in(3) {
        c.extend(cmd!["COUNT", g.one(&["1", "0", "-1", "x"])]);
    }
    c
}
