//! The wire: requests out, replies in, in RESP2 and RESP3.
//!
//! Two readers of one format. [`Scanner`] finds where a reply ends without building anything: it is resumable
//! and not recursive, and is what the hot path of the load uses. [`parse`] builds a [`Value`] for the checkers.
//! The hard case is a large aggregate that arrives in pieces: a scanner that began again at every read would
//! cost the square of its length, so it keeps its place and the number of replies still open.

/// A reply as the checkers see it. Order and duplicates of maps and sets are kept; numbers keep their text.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `+OK`
    Simple(Vec<u8>),
    /// `-ERR ...` or RESP3's `!`
    Error(Vec<u8>),
    /// `:1`
    Int(i64),
    /// `$3`
    Bulk(Vec<u8>),
    /// `$-1`
    NilBulk,
    /// `*-1`
    NilArray,
    /// `_`
    Null,
    /// `,1.5`, as text
    Double(Vec<u8>),
    /// `#t`
    Bool(bool),
    /// `(123`
    Big(Vec<u8>),
    /// `=15`, format prefix included
    Verbatim(Vec<u8>),
    /// `*2`
    Array(Vec<Value>),
    /// `~2`
    Set(Vec<Value>),
    /// `%1`, keys and values in turn
    Map(Vec<Value>),
    /// `>2`: nobody here subscribes, so one of these is always a surprise
    Push(Vec<Value>),
}

impl std::fmt::Display for Value {
    /// As redis-cli would hint at it: type first, text escaped, long ones shortened.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |f: &mut std::fmt::Formatter<'_>, mark: char, values: &[Value]| {
            write!(f, "{mark}{}[", values.len())?;
            for (index, value) in values.iter().take(12).enumerate() {
                write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
            }
            write!(f, "{}]", if values.len() > 12 { ", ..." } else { "" })
        };
        match self {
            Value::Simple(text) => write!(f, "+{}", show(text)),
            Value::Error(text) => write!(f, "-{}", show(text)),
            Value::Int(number) => write!(f, ":{number}"),
            Value::Bulk(text) => write!(f, "\"{}\"", show(text)),
            Value::NilBulk => write!(f, "nil ($-1)"),
            Value::NilArray => write!(f, "nil (*-1)"),
            Value::Null => write!(f, "nil (_)"),
            Value::Double(text) => write!(f, ",{}", show(text)),
            Value::Bool(truth) => write!(f, "#{truth}"),
            Value::Big(text) => write!(f, "({}", show(text)),
            Value::Verbatim(text) => write!(f, "={}", show(text)),
            Value::Array(values) => list(f, '*', values),
            Value::Set(values) => list(f, '~', values),
            Value::Map(values) => list(f, '%', values),
            Value::Push(values) => list(f, '>', values),
        }
    }
}

/// A reply that no server should have sent.
#[derive(Debug)]
pub struct Malformed(pub String);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed reply: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Replies nested deeper than this are called malformed: nothing the checkers send can produce them.
const DEPTH_MAX: usize = 64;

/// Finds the end of one reply, resuming where the bytes ran out.
#[derive(Debug, Clone)]
pub struct Scanner {
    at: usize,
    open: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner { at: 0, open: 1 }
    }
}

impl Scanner {
    /// The length of the reply that begins at `buffer[0]`, or `None` until more has arrived. The same bytes
    /// must still be at the front of `buffer` when it is called again.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<usize>, Malformed> {
        while self.open > 0 {
            let Some((kind, line, next)) = header(buffer, self.at)? else {
                return Ok(None);
            };
            match kind {
                b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
                    self.at = next;
                    self.open -= 1;
                }
                b'$' | b'!' | b'=' => {
                    let length = number(line)?;
                    let end = if length < 0 { next } else { next + length as usize + 2 };
                    if buffer.len() < end {
                        return Ok(None);
                    }
                    self.at = end;
                    self.open -= 1;
                }
                b'*' | b'~' | b'>' | b'%' | b'|' => {
                    let items = number(line)?.max(0) as usize;
                    self.at = next;
                    // An attribute precedes the reply it belongs to, so it does not close one.
                    let closed = usize::from(kind != b'|');
                    self.open = self.open - closed + if kind == b'%' || kind == b'|' { 2 * items } else { items };
                }
                other => return Err(Malformed(format!("starts with {:?}", other as char))),
            }
        }
        let length = self.at;
        *self = Scanner::default();
        Ok(Some(length))
    }
}

/// Parses one complete reply; call it once [`Scanner`] has found the end.
pub fn parse(buffer: &[u8]) -> Result<Value, Malformed> {
    let mut at = 0;
    let value = parse_at(buffer, &mut at, 0)?;
    if at == buffer.len() { Ok(value) } else { Err(Malformed("bytes left over".into())) }
}

fn parse_at(buffer: &[u8], at: &mut usize, depth: usize) -> Result<Value, Malformed> {
    if depth > DEPTH_MAX {
        return Err(Malformed("nested too deeply".into()));
    }
    let Some((kind, line, next)) = header(buffer, *at)? else {
        return Err(Malformed("cut short".into()));
    };
    *at = next;
    Ok(match kind {
        b'+' => Value::Simple(line.to_vec()),
        b'-' => Value::Error(line.to_vec()),
        b':' => Value::Int(number(line)?),
        b'_' => Value::Null,
        b',' => Value::Double(line.to_vec()),
        b'#' => Value::Bool(line == b"t"),
        b'(' => Value::Big(line.to_vec()),
        b'$' | b'!' | b'=' => {
            let length = number(line)?;
            if length < 0 {
                return Ok(Value::NilBulk);
            }
            let end = *at + length as usize;
            let body = buffer.get(*at..end).ok_or_else(|| Malformed("cut short".into()))?.to_vec();
            if buffer.get(end..end + 2) != Some(b"\r\n") {
                return Err(Malformed("a bulk string does not end in CRLF".into()));
            }
            *at = end + 2;
            match kind {
                b'$' => Value::Bulk(body),
                b'!' => Value::Error(body),
                _ => Value::Verbatim(body),
            }
        }
        b'*' if line == b"-1" => Value::NilArray,
        _ => {
            let items = number(line)?.max(0) as usize;
            let count = if kind == b'%' || kind == b'|' { 2 * items } else { items };
            let mut values = Vec::with_capacity(count.min(1024));
            for _ in 0..count {
                values.push(parse_at(buffer, at, depth + 1)?);
            }
            match kind {
                b'*' => Value::Array(values),
                b'~' => Value::Set(values),
                b'%' => Value::Map(values),
                b'>' => Value::Push(values),
                // The attribute itself says nothing the checkers need: the reply behind it is the answer.
                _ => parse_at(buffer, at, depth + 1)?,
            }
        }
    })
}

type Header<'a> = (u8, &'a [u8], usize);

/// The type byte, its line without CRLF, and where the next byte is.
fn header(buffer: &[u8], at: usize) -> Result<Option<Header<'_>>, Malformed> {
    let Some(rest) = buffer.get(at..) else {
        return Ok(None);
    };
    let Some(newline) = rest.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    if newline < 2 || rest[newline - 1] != b'\r' {
        return Err(Malformed(format!("line {:?}", String::from_utf8_lossy(&rest[..newline]))));
    }
    Ok(Some((rest[0], &rest[1..newline - 1], at + newline + 1)))
}

/// A length or an integer reply.
pub fn number(line: &[u8]) -> Result<i64, Malformed> {
    let text = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
    text.ok_or_else(|| Malformed(format!("number {:?}", String::from_utf8_lossy(line))))
}

/// Appends one request as an array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    header_into(b'*', args.len(), out);
    for arg in args {
        bulk_into(arg.as_ref(), out);
    }
}

/// Appends `*N` or `$N` with its CRLF.
pub fn header_into(kind: u8, count: usize, out: &mut Vec<u8>) {
    out.push(kind);
    decimal_into(count as u64, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends one bulk string.
pub fn bulk_into(body: &[u8], out: &mut Vec<u8>) {
    header_into(b'$', body.len(), out);
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number's digits without the machinery of `format!`.
pub fn decimal_into(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// A request or reply for people: printable, shortened.
pub fn show(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).escape_debug().to_string();
    if bytes.len() > 200 { format!("{text}... ({} bytes)", bytes.len()) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: &[&[u8]] = &[
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":-7\r\n",
        b"$3\r\na\nb\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"_\r\n",
        b",1.5\r\n",
        b"*0\r\n",
        b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
        b"%1\r\n+a\r\n~2\r\n:1\r\n:2\r\n",
        b"=5\r\ntxt:a\r\n",
    ];

    #[test]
    fn the_scanner_finds_every_end_however_the_bytes_arrive() {
        for reply in REPLIES {
            let mut scanner = Scanner::default();
            for cut in 0..reply.len() {
                assert_eq!(scanner.scan(&reply[..cut]).unwrap(), None, "{}", show(reply));
            }
            let mut longer = reply.to_vec();
            longer.extend_from_slice(b"+next\r\n");
            assert_eq!(scanner.scan(&longer).unwrap(), Some(reply.len()), "{}", show(reply));
            parse(reply).unwrap();
        }
    }

    #[test]
    fn an_attribute_belongs_to_the_reply_behind_it() {
        let bytes = b"|1\r\n+ttl\r\n:3\r\n:7\r\n";
        assert_eq!(Scanner::default().scan(bytes).unwrap(), Some(bytes.len()));
        assert_eq!(parse(bytes).unwrap(), Value::Int(7));
    }

    #[test]
    fn requests_are_arrays_of_bulk_strings_as_redis_protocol_reads_them() {
        let mut out = Vec::new();
        encode(&[b"SET".as_slice(), b"k", b"\r\n"], &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n");
        let (_, length) = redis_protocol::resp2::decode::decode_range(&out).unwrap().unwrap();
        assert_eq!(length, out.len());
    }
}
