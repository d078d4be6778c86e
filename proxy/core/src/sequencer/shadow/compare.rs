//! How the reply to a read is compared: what of it counts, kept as one number, so that a large reply costs no memory while the mirror
//! answers (I7). What a server may choose for itself does not count: the order of sets and hashes, how a double is written, RESP2 or
//! RESP3, the words of an error behind the first. What no two servers need answer alike has no way, and is never compared: what is drawn by
//! chance, cursors, introspection, whole key spaces (no key would tell whether the difference is real), scripts.

use crate::command::Command;
use crate::resp::reply::{Reply, fingerprint};
use crate::resp::request::Request;

/// What of a reply counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Everything, in its order.
    Ordered,
    /// The same, numbers by their value.
    Numbers,
    /// Elements in any order.
    Unordered,
    /// Elements in any order, numbers in them by their value.
    Places,
    /// Fields and values in any order.
    Pairs,
    /// Times that are left, in units of so many milliseconds.
    Left(i64),
    /// Moments on the server's clock, in units of so many milliseconds.
    Until(i64),
}

impl Way {
    /// The way of a row of the command table.
    pub fn of(command: &Command) -> Option<Way> {
        Some(match command.name {
            "BITCOUNT" | "BITFIELD_RO" | "BITPOS" | "EXISTS" | "GEOHASH" | "GET" | "GETBIT" | "GETRANGE" | "HEXISTS" | "HGET" | "HLEN"
            | "HMGET" | "HSTRLEN" | "LCS" | "LINDEX" | "LLEN" | "LPOS" | "LRANGE" | "MGET" | "SCARD" | "SINTERCARD" | "SISMEMBER"
            | "SMISMEMBER" | "SORT_RO" | "STRLEN" | "SUBSTR" | "TYPE" | "XLEN" | "XPENDING" | "XRANGE" | "XREAD" | "XREVRANGE"
            | "ZCARD" | "ZCOUNT" | "ZINTERCARD" | "ZLEXCOUNT" | "ZRANGEBYLEX" | "ZREVRANGEBYLEX" => Way::Ordered,
            "GEODIST" | "GEOPOS" | "ZDIFF" | "ZINTER" | "ZMSCORE" | "ZRANGE" | "ZRANGEBYSCORE" | "ZRANK" | "ZREVRANGE"
            | "ZREVRANGEBYSCORE" | "ZREVRANK" | "ZSCORE" | "ZUNION" => Way::Numbers,
            "HKEYS" | "HVALS" | "SDIFF" | "SINTER" | "SMEMBERS" | "SUNION" => Way::Unordered,
            "GEORADIUSBYMEMBER_RO" | "GEORADIUS_RO" | "GEOSEARCH" => Way::Places,
            "HGETALL" => Way::Pairs,
            "HTTL" | "TTL" => Way::Left(1000),
            "HPTTL" | "PTTL" => Way::Left(1),
            "EXPIRETIME" | "HEXPIRETIME" => Way::Until(1000),
            "HPEXPIRETIME" | "PEXPIRETIME" => Way::Until(1),
            _ => return None,
        })
    }

    /// Whether it depends on its arguments that a read can be compared.
    pub fn is_choosy(command: &Command) -> bool {
        matches!(command.name, "GEORADIUSBYMEMBER_RO" | "GEORADIUS_RO" | "GEOSEARCH" | "SORT_RO" | "XPENDING" | "XREAD")
    }

    /// Whether a read with these arguments can be compared.
    pub fn takes(command: &Command, request: &Request<'_>) -> bool {
        let names = |word: &str| (1..request.len()).any(|at| request.is(at, word));
        match command.name {
            // ANY takes the first that it finds.
            "GEORADIUSBYMEMBER_RO" | "GEORADIUS_RO" | "GEOSEARCH" => !names("ANY"),
            // BY and GET read keys that nobody names; BY that names none leaves the order to the server.
            "SORT_RO" => !names("BY") && !names("GET"),
            // The longer form tells idle times.
            "XPENDING" => request.len() == 3,
            "XREAD" => !names("BLOCK"),
            _ => true,
        }
    }

    /// What of the primary's reply is kept.
    pub fn keep(self, reply: Reply<'_>) -> Kept {
        match self {
            Way::Left(_) | Way::Until(_) if reply.is_aggregate() => {
                Kept::Times(reply.elements().map(|time| time.integer().unwrap_or(i64::MIN)).collect())
            }
            Way::Left(_) | Way::Until(_) => reply.integer().map_or_else(|| Kept::Digest(digest(reply, false)), Kept::Time),
            Way::Ordered => Kept::Digest(digest(reply, false)),
            Way::Numbers => Kept::Digest(digest(reply, true)),
            Way::Unordered | Way::Places if reply.is_aggregate() => Kept::Digest(
                reply.elements().fold(reply.len() as u64, |sum, element| sum.wrapping_add(digest(element, self == Way::Places))),
            ),
            Way::Pairs if reply.is_aggregate() => {
                let (mut items, mut sum) = (reply.elements(), reply.len() as u64);
                while let (Some(field), Some(value)) = (items.next(), items.next()) {
                    sum = sum.wrapping_add(fingerprint([field, value].into_iter(), false));
                }
                // RESP2 and RESP3 count a map's elements alike: `len` is twice its pairs.
                Kept::Digest(sum)
            }
            Way::Unordered | Way::Places | Way::Pairs => Kept::Digest(digest(reply, false)),
        }
    }

    /// Whether the mirror said the same. `apart_ms`: how far times may lie apart; `clocks_ms`: the mirror's clock less the primary's.
    pub fn is_alike(self, primary: &Kept, mirror: &Kept, apart_ms: i64, clocks_ms: i64) -> bool {
        let same = |one: i64, other: i64| match self {
            Way::Left(unit) => near(one, other, apart_ms / unit + 2),
            Way::Until(unit) => near(one, other.saturating_sub(clocks_ms / unit), apart_ms / unit + 2),
            _ => one == other,
        };
        let alike = |one: i64, other: i64| if one < 0 || other < 0 { one == other } else { same(one, other) };
        match (primary, mirror) {
            (Kept::Digest(one), Kept::Digest(other)) => one == other,
            (Kept::Time(one), Kept::Time(other)) => alike(*one, *other),
            (Kept::Times(one), Kept::Times(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| alike(*one, *other))
            }
            _ => false,
        }
    }
}

/// What of a reply is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kept {
    /// Everything that counts, as one number.
    Digest(u64),
    /// A time.
    Time(i64),
    /// Times of fields.
    Times(Box<[i64]>),
}

fn digest(reply: Reply<'_>, numbers: bool) -> u64 {
    fingerprint(std::iter::once(reply), numbers)
}

/// Times above this cannot be told apart: the mirror's clock would overflow, so it got the last moment there is.
fn near(one: i64, other: i64, apart: i64) -> bool {
    one.abs_diff(other) <= apart as u64 || one.min(other) > i64::MAX / 4_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Table;

    fn check(name: &str, primary: &str, mirror: &str, alike: bool) {
        let way = Table::get().named(name).and_then(Way::of).expect(name);
        let [one, other] = [primary, mirror].map(|reply| way.keep(Reply(reply.as_bytes())));
        assert_eq!(way.is_alike(&one, &other, 1_600, 250), alike, "{name}: {primary:?} and {mirror:?}");
    }

    #[test]
    fn what_a_server_may_choose_does_not_count() {
        check("GET", "$1\r\na\r\n", "$1\r\na\r\n", true);
        check("GET", "$1\r\na\r\n", "$1\r\nb\r\n", false);
        check("GET", "$0\r\n\r\n", "$-1\r\n", false);
        check("GET", "_\r\n", "$-1\r\n", true);
        check("GET", "-WRONGTYPE one\r\n", "-WRONGTYPE two\r\n", true);
        check("GET", "-WRONGTYPE one\r\n", "$-1\r\n", false);
        check("SMEMBERS", "*2\r\n+a\r\n+b\r\n", "~2\r\n$1\r\nb\r\n$1\r\na\r\n", true);
        check("SMEMBERS", "*2\r\n+a\r\n+b\r\n", "*2\r\n+a\r\n+c\r\n", false);
        check("SMEMBERS", "*0\r\n", "~0\r\n", true);
        check("HGETALL", "*4\r\n+a\r\n+1\r\n+b\r\n+2\r\n", "%2\r\n+b\r\n+2\r\n+a\r\n+1\r\n", true);
        check("HGETALL", "*4\r\n+a\r\n+1\r\n+b\r\n+2\r\n", "*4\r\n+a\r\n+2\r\n+b\r\n+1\r\n", false);
        check("LRANGE", "*2\r\n+a\r\n+b\r\n", "*2\r\n+b\r\n+a\r\n", false);
        check("ZSCORE", "$19\r\n0.10000000000000001\r\n", ",0.1\r\n", true);
        check("ZRANGE", "*2\r\n+a\r\n+1\r\n", "*1\r\n*2\r\n+a\r\n,1\r\n", true);
        check("ZRANGE", "*2\r\n+a\r\n+b\r\n", "*2\r\n+b\r\n+a\r\n", false);
        check("GEOSEARCH", "*2\r\n*2\r\n+a\r\n+0.5\r\n+b\r\n", "*2\r\n+b\r\n*2\r\n+a\r\n+0.50\r\n", true);
    }

    #[test]
    fn times_may_lie_apart() {
        check("PTTL", ":10000\r\n", ":11600\r\n", true);
        check("PTTL", ":10000\r\n", ":12000\r\n", false);
        check("TTL", ":10\r\n", ":13\r\n", true);
        check("TTL", ":10\r\n", ":20\r\n", false);
        check("TTL", ":-1\r\n", ":10\r\n", false);
        check("TTL", ":-2\r\n", ":1\r\n", false);
        check("TTL", ":-1\r\n", ":-1\r\n", true);
        check("PEXPIRETIME", ":1700000000000\r\n", ":1700000001800\r\n", true);
        check("PEXPIRETIME", ":1700000000000\r\n", ":1700000002000\r\n", false);
        check("HTTL", "*2\r\n:-1\r\n:9\r\n", "*2\r\n:-1\r\n:10\r\n", true);
        check("HTTL", "*2\r\n:-1\r\n:9\r\n", "*2\r\n:-2\r\n:10\r\n", false);
        check("PTTL", ":9223372036854775000\r\n", ":9223372036800000000\r\n", true);
    }

    /// Every read of the table is compared, or named here.
    #[test]
    fn what_is_never_compared_is_named() {
        let never = [
            "DBSIZE",
            "DIGEST",
            "DUMP",
            "EVALSHA_RO",
            "EVAL_RO",
            "FCALL_RO",
            "FUNCTION DUMP",
            "FUNCTION LIST",
            "FUNCTION STATS",
            "HRANDFIELD",
            "KEYS",
            "MEMORY USAGE",
            "OBJECT",
            "OBJECT ENCODING",
            "OBJECT FREQ",
            "OBJECT HELP",
            "OBJECT IDLETIME",
            "OBJECT REFCOUNT",
            "PFCOUNT",
            "PUBSUB CHANNELS",
            "PUBSUB NUMPAT",
            "PUBSUB NUMSUB",
            "PUBSUB SHARDCHANNELS",
            "PUBSUB SHARDNUMSUB",
            "RANDOMKEY",
            "SCRIPT EXISTS",
            "SCRIPT SHOW",
            "SRANDMEMBER",
            "STRALGO",
            "TOUCH",
            "XINFO",
            "XINFO CONSUMERS",
            "XINFO GROUPS",
            "XINFO HELP",
            "XINFO STREAM",
            "ZRANDMEMBER",
        ];
        for row in Table::get().rows() {
            let read = row.class == crate::command::Class::Read;
            assert_eq!(Way::of(row).is_some(), read && !never.contains(&row.name), "{}", row.name);
            assert!(Way::of(row).is_none() || row.rule == crate::command::Rule::None, "{} has an effect", row.name);
        }
    }
}
