//! From RESP3 down to RESP2. Lanes speak RESP3 from Redis 6 on; a client that speaks RESP2 gets the reply that its own
//! connection would have given it. Most of the way is mechanical (map to flat array, set to array, double to bulk); three things
//! depend on the command and are its [`Shape`]: which null is an array, which nested pairs are flat, which map is an array of
//! pairs (`reference: redis 7.0.15 networking.c addReplyNull*, t_zset.c, t_stream.c`).

use super::encode::{push_bulk, push_header};
use super::reply::{Reply, token_at};

/// What RESP2 does differently for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// Mechanical; null is `$-1`.
    #[default]
    Plain,
    /// A null reply is `*-1` (EXEC, LMPOP, ZMPOP, LPOP with a count).
    NullArray,
    /// As `NullArray` when the request has at least this many arguments (LPOP key count; ZRANK key member WITHSCORE).
    NullArrayFrom(usize),
    /// Null elements are `*-1` (GEOPOS).
    NullArrayElements,
    /// The fourth element, when null, is `*-1` (XPENDING's summary).
    NullArrayFourth,
    /// Pairs that RESP3 nests are flat (WITHSCORES, WITHVALUES, ZPOPMIN with a count).
    Flat,
    /// A map is an array of two-element arrays; null is `*-1` (XREAD, XREADGROUP).
    Pairs,
}

impl Shape {
    /// The shape of a command's replies.
    #[must_use]
    pub fn of(name: &str) -> Shape {
        match name {
            "EXEC" | "LMPOP" | "ZMPOP" | "BLPOP" | "BRPOP" | "BLMPOP" | "BZPOPMIN" | "BZPOPMAX" | "BZMPOP" | "XRANGE" | "XREVRANGE" => {
                Shape::NullArray
            }
            "LPOP" | "RPOP" => Shape::NullArrayFrom(3),
            "ZRANK" | "ZREVRANK" => Shape::NullArrayFrom(4),
            "GEOPOS" => Shape::NullArrayElements,
            "XPENDING" => Shape::NullArrayFourth,
            "XREAD" | "XREADGROUP" => Shape::Pairs,
            "ZRANGE" | "ZREVRANGE" | "ZRANGEBYSCORE" | "ZREVRANGEBYSCORE" | "ZINTER" | "ZUNION" | "ZDIFF" | "ZPOPMIN" | "ZPOPMAX"
            | "ZRANDMEMBER" | "HRANDFIELD" => Shape::Flat,
            _ => Shape::Plain,
        }
    }
}

/// The null of RESP2 as a reply to a command of `arguments` arguments.
#[must_use]
pub fn null(shape: Shape, arguments: usize) -> &'static [u8] {
    let array = match shape {
        Shape::NullArray | Shape::Pairs => true,
        Shape::NullArrayFrom(least) => arguments >= least,
        _ => false,
    };
    if array { b"*-1\r\n" } else { b"$-1\r\n" }
}

/// Appends the RESP2 form of a complete RESP3 reply to a command of `arguments` arguments.
pub fn downgrade(reply: &[u8], shape: Shape, arguments: usize, out: &mut Vec<u8>) {
    let reply = Reply(skip_attributes(reply));
    if reply.is_null() {
        return out.extend_from_slice(null(shape, arguments));
    }
    match shape {
        Shape::NullArrayElements if reply.is_aggregate() => elements(reply, out, |_| true),
        Shape::NullArrayFourth if reply.is_aggregate() => elements(reply, out, |at| at == 3),
        Shape::Flat if reply.is_aggregate() => flat(reply, out),
        Shape::Pairs if reply.0.first() == Some(&b'%') => pairs(reply, out),
        _ => mechanical(reply.0, out),
    }
}

fn elements(reply: Reply<'_>, out: &mut Vec<u8>, null_array: impl Fn(usize) -> bool) {
    push_header(out, b'*', reply.len() as i64);
    for (at, element) in reply.elements().enumerate() {
        if element.is_null() && null_array(at) {
            out.extend_from_slice(b"*-1\r\n");
        } else {
            mechanical(element.0, out);
        }
    }
}

fn flat(reply: Reply<'_>, out: &mut Vec<u8>) {
    let count: usize = reply.elements().map(|element| if element.is_aggregate() { element.len() } else { 1 }).sum();
    push_header(out, b'*', count as i64);
    for element in reply.elements() {
        if element.is_aggregate() {
            element.elements().for_each(|inner| mechanical(inner.0, out));
        } else {
            mechanical(element.0, out);
        }
    }
}

fn pairs(reply: Reply<'_>, out: &mut Vec<u8>) {
    push_header(out, b'*', (reply.len() / 2) as i64);
    for (at, element) in reply.elements().enumerate() {
        if at % 2 == 0 {
            out.extend_from_slice(b"*2\r\n");
        }
        // The fields of a pending entry that was deleted are a null array (t_stream.c streamReplyWithRangeFromConsumerPEL).
        convert(element.0, b"*-1\r\n", out);
    }
}

/// The part that is the same for every command.
fn mechanical(reply: &[u8], out: &mut Vec<u8>) {
    convert(reply, b"$-1\r\n", out);
}

/// Token by token: no recursion, whatever the depth.
fn convert(reply: &[u8], null: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Ok(Some(token)) = token_at(reply, at) {
        let data = reply.get(token.data.0..token.data.1).unwrap_or(&[]);
        let from = at;
        at = token.next;
        match token.mark {
            b'+' | b'-' | b':' | b'$' => out.extend_from_slice(reply.get(from..token.next).unwrap_or(&[])),
            b'*' if token.null => out.extend_from_slice(b"*-1\r\n"),
            b'*' | b'~' | b'>' | b'%' => push_header(out, b'*', token.children as i64),
            b'_' => out.extend_from_slice(null),
            b'#' => out.extend_from_slice(if data == b"t" { b":1\r\n" } else { b":0\r\n" }),
            b'=' => push_bulk(out, data.get(4..).unwrap_or(&[])),
            b'!' => {
                out.push(b'-');
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
            b'|' => at = skip(reply, token.next, token.children),
            _ => push_bulk(out, data),
        }
    }
}

/// Where the bytes go on after `count` replies that begin at `at`.
fn skip(reply: &[u8], mut at: usize, count: u64) -> usize {
    let mut missing = count;
    while missing > 0 {
        let Ok(Some(token)) = token_at(reply, at) else { return reply.len() };
        missing = missing - u64::from(token.mark != b'|') + token.children;
        at = token.next;
    }
    at
}

fn skip_attributes(reply: &[u8]) -> &[u8] {
    match token_at(reply, 0) {
        Ok(Some(token)) if token.mark == b'|' => &reply[skip(reply, token.next, token.children).min(reply.len())..],
        _ => reply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_take_the_shape_of_resp2() {
        let check = |command: &str, arguments: usize, resp3: &str, resp2: &str| {
            let mut out = Vec::new();
            downgrade(resp3.replace(' ', "\r\n").as_bytes(), Shape::of(command), arguments, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), resp2.replace(' ', "\r\n"), "{command} {resp3}");
        };
        check("GET", 2, "_ ", "$-1 ");
        check("LPOP", 2, "_ ", "$-1 ");
        check("LPOP", 3, "_ ", "*-1 ");
        check("EXEC", 1, "_ ", "*-1 ");
        check("HGETALL", 2, "%1 $1 a $1 b ", "*2 $1 a $1 b ");
        check("SMEMBERS", 2, "~2 $1 a $1 b ", "*2 $1 a $1 b ");
        check("ZSCORE", 3, ",1.5 ", "$3 1.5 ");
        check("ZSCORE", 3, ",inf ", "$3 inf ");
        check("ZRANGE", 5, "*1 *2 $1 a ,1 ", "*2 $1 a $1 1 ");
        check("ZPOPMIN", 2, "*2 $1 a ,1 ", "*2 $1 a $1 1 ");
        check("ZMPOP", 4, "*2 $1 k *1 *2 $1 a ,1 ", "*2 $1 k *1 *2 $1 a $1 1 ");
        check("XREAD", 4, "%1 $1 s *1 *2 $3 1-1 *2 $1 f $1 v ", "*1 *2 $1 s *1 *2 $3 1-1 *2 $1 f $1 v ");
        check("XREAD", 4, "_ ", "*-1 ");
        check("XREADGROUP", 6, "%1 $1 s *1 *2 $3 1-1 _ ", "*1 *2 $1 s *1 *2 $3 1-1 *-1 ");
        check("GEOPOS", 3, "*2 _ *2 ,1.5 ,2 ", "*2 *-1 *2 $3 1.5 $1 2 ");
        check("XPENDING", 3, "*4 :0 _ _ _ ", "*4 :0 $-1 $-1 *-1 ");
        check("INFO", 1, "=6 txt:ab ", "$2 ab ");
        check("EVAL", 3, "*2 #t (123 ", "*2 :1 $3 123 ");
        check("GET", 2, "|1 +a %1 +b +c $1 x ", "$1 x ");
        check("EVAL", 3, "*2 |1 +a +b :1 :2 ", "*2 :1 :2 ");
    }
}
