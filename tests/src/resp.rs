//! A small blocking RESP client: the plainest witness we can put on either side of the proxy.
//!
//! Tests must not trust the code they judge, so this room shares nothing with the proxy's own framing: it reads with a
//! `BufReader`, one value at a time, recursively. It speaks RESP2 until [`Client::hello3`] is called. Values keep the
//! order and the exact bytes of what the server sent; a null says which kind of null it was.
//!
//! Nothing here panics on what a socket says: a bad reply is an `InvalidData` error, a closed connection is
//! `UnexpectedEof`, silence is `WouldBlock` or `TimedOut` (see [`is_timeout`]).

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a call waits for its reply unless the client was told otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Deeper replies are refused instead of overflowing the stack.
const DEPTH_MAX: usize = 512;
/// A header line longer than this is not RESP (error texts may be long, so it is generous).
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// Redis' own bound for one bulk string.
const BULK_BYTES_MAX: i64 = 512 * 1024 * 1024;

/// One reply, as it stood on the wire.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// `$-1`, RESP2's null bulk string.
    NilBulk,
    /// `*-1`, RESP2's null array.
    NilArray,
    /// `_`, RESP3's null.
    Null,
    /// `+text`.
    Simple(Vec<u8>),
    /// `-CODE text`, or RESP3's `!` bulk error.
    Error(Vec<u8>),
    /// `:number`.
    Int(i64),
    /// `$`: a string of bytes.
    Bulk(Vec<u8>),
    /// `=`: RESP3's verbatim string, its `txt:` included.
    Verbatim(Vec<u8>),
    /// `,`: RESP3's double, as text, because servers format the same number differently.
    Double(Vec<u8>),
    /// `(`: RESP3's big number, as text.
    BigNumber(Vec<u8>),
    /// `#t` or `#f`.
    Bool(bool),
    /// `*`.
    Array(Vec<Value>),
    /// `~`: RESP3's set, in the order received.
    Set(Vec<Value>),
    /// `%`: RESP3's map, in the order received.
    Map(Vec<(Value, Value)>),
    /// `>`: out of band.
    Push(Vec<Value>),
}

impl Value {
    /// The bytes of anything that is a string.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bulk(b) | Value::Simple(b) | Value::Verbatim(b) | Value::Double(b) => Some(b),
            _ => None,
        }
    }

    /// The bytes of a string reply as text, lossily; empty for anything else. For messages and INFO.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes().unwrap_or_default()).into_owned()
    }

    /// An integer reply.
    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// The elements of an array, set or push; a map has none (see [`Value::pairs`]).
    pub fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => items,
            _ => &[],
        }
    }

    /// A RESP3 map, or the flat array that RESP2 sends in its place, as pairs.
    pub fn pairs(&self) -> Vec<(&Value, &Value)> {
        match self {
            Value::Map(pairs) => pairs.iter().map(|(k, v)| (k, v)).collect(),
            other => other.items().chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect(),
        }
    }

    /// The value under `name` in a map reply.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.pairs().into_iter().find(|(k, _)| k.bytes() == Some(name.as_bytes())).map(|(_, v)| v)
    }

    /// Any of the three nulls.
    pub fn is_nil(&self) -> bool {
        matches!(self, Value::NilBulk | Value::NilArray | Value::Null)
    }

    /// An error reply.
    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error(_))
    }

    /// `+OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Value::Simple(text) if text == b"OK")
    }

    /// The text of an error reply.
    pub fn error(&self) -> Option<String> {
        match self {
            Value::Error(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        }
    }
}

/// As redis-cli would show it, on one line: `"bulk"`, `+simple`, `-ERR text`, `(nil)`, `[a, b]`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::NilBulk => write!(f, "(nil)"),
            Value::NilArray => write!(f, "(nil array)"),
            Value::Null => write!(f, "(null)"),
            Value::Simple(b) => write!(f, "+{}", b.escape_ascii()),
            Value::Error(b) => write!(f, "-{}", String::from_utf8_lossy(b)),
            Value::Int(n) => write!(f, "{n}"),
            Value::Bulk(b) => write!(f, "\"{}\"", b.escape_ascii()),
            Value::Verbatim(b) => write!(f, "=\"{}\"", b.escape_ascii()),
            Value::Double(b) | Value::BigNumber(b) => write!(f, "{}", b.escape_ascii()),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Array(items) => list(f, "[", items, "]"),
            Value::Set(items) => list(f, "~[", items, "]"),
            Value::Push(items) => list(f, ">[", items, "]"),
            Value::Map(pairs) => {
                write!(f, "{{")?;
                for (k, v) in pairs {
                    write!(f, "{k}: {v}, ")?;
                }
                write!(f, "}}")
            }
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn list(f: &mut fmt::Formatter<'_>, open: &str, items: &[Value], close: &str) -> fmt::Result {
    write!(f, "{open}")?;
    for (at, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if at == 0 { "" } else { ", " })?;
    }
    write!(f, "{close}")
}

/// A command whose arguments are owned: what generators and pipelines are made of.
pub type Command = Vec<Vec<u8>>;

/// Splits a line at white space into a command: `command("SET k v")`. For arguments without spaces.
pub fn command(line: &str) -> Command {
    line.split_ascii_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

/// Appends one request in RESP to `out`.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// True for the errors that mean "no answer within the client's time".
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// One connection. After an error other than a timeout it is of no further use.
#[derive(Debug)]
pub struct Client {
    /// Buffered for reading; writes go to the socket inside.
    stream: BufReader<TcpStream>,
    /// Pushes that arrived while a call waited for its reply, oldest first.
    pushes: VecDeque<Value>,
    /// Reused for every request.
    outbox: Vec<u8>,
}

impl Client {
    /// Connects with [`TIMEOUT_DEFAULT`].
    pub fn connect(address: impl ToSocketAddrs) -> io::Result<Client> {
        Client::connect_within(address, TIMEOUT_DEFAULT)
    }

    /// Connects; `timeout` then bounds the connect and each single read and write.
    pub fn connect_within(address: impl ToSocketAddrs, timeout: Duration) -> io::Result<Client> {
        let address = address.to_socket_addrs()?.next().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no address"))?;
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        let mut client = Client { stream: BufReader::with_capacity(64 * 1024, stream), pushes: VecDeque::new(), outbox: Vec::new() };
        client.set_timeout(timeout)?;
        Ok(client)
    }

    /// Changes how long one read or write may wait.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(timeout))?;
        self.stream.get_ref().set_write_timeout(Some(timeout))
    }

    /// Switches the connection to RESP3; an error reply (servers below 6) is an error here.
    pub fn hello3(&mut self) -> io::Result<Value> {
        match self.call(&[b"HELLO", b"3"])? {
            Value::Error(text) => Err(invalid(&String::from_utf8_lossy(&text))),
            hello => Ok(hello),
        }
    }

    /// One command, one reply. An error reply is a value, not an `Err`.
    pub fn call(&mut self, arguments: &[&[u8]]) -> io::Result<Value> {
        self.call_all(arguments)
    }

    /// [`Client::call`] for a line without spaces inside arguments: `client.cmd("SET k v")`.
    pub fn cmd(&mut self, line: &str) -> io::Result<Value> {
        self.call_all(&command(line))
    }

    /// [`Client::call`] for arguments of any kind of bytes.
    pub fn call_all<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<Value> {
        self.send(arguments)?;
        self.reply()
    }

    /// All commands in one write, then all replies. Keep it to what fits the sockets' buffers (a few MB).
    pub fn pipeline<A: AsRef<[u8]>, C: AsRef<[A]>>(&mut self, commands: &[C]) -> io::Result<Vec<Value>> {
        self.outbox.clear();
        for arguments in commands {
            encode(arguments.as_ref(), &mut self.outbox);
        }
        self.stream.get_mut().write_all(&self.outbox)?;
        commands.iter().map(|_| self.reply()).collect()
    }

    /// Sends a command and does not wait.
    pub fn send<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<()> {
        self.outbox.clear();
        encode(arguments, &mut self.outbox);
        self.stream.get_mut().write_all(&self.outbox)
    }

    /// Closes this end: nothing more is sent, and replies are still read.
    pub fn end(&mut self) -> io::Result<()> {
        self.stream.get_ref().shutdown(std::net::Shutdown::Write)
    }

    /// Sends bytes as they are: inline commands, broken frames, half a request.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next reply; pushes met on the way are kept for [`Client::push`].
    pub fn reply(&mut self) -> io::Result<Value> {
        loop {
            match self.receive()? {
                push @ Value::Push(_) => self.pushes.push_back(push),
                value => return Ok(value),
            }
        }
    }

    /// The oldest push that arrived beside replies so far.
    pub fn push(&mut self) -> Option<Value> {
        self.pushes.pop_front()
    }

    /// The next value of any kind, pushes included.
    pub fn receive(&mut self) -> io::Result<Value> {
        read_value(&mut self.stream, 0)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_string())
}

fn read_value(stream: &mut impl BufRead, depth: usize) -> io::Result<Value> {
    if depth > DEPTH_MAX {
        return Err(invalid("the reply is nested too deeply"));
    }
    let line = read_line(stream)?;
    let Some((&kind, rest)) = line.split_first() else {
        return Err(invalid("an empty header line"));
    };
    Ok(match kind {
        b'+' => Value::Simple(rest.to_vec()),
        b'-' => Value::Error(rest.to_vec()),
        b':' => Value::Int(number(rest)?),
        b'_' => Value::Null,
        b',' => Value::Double(rest.to_vec()),
        b'(' => Value::BigNumber(rest.to_vec()),
        b'#' => Value::Bool(rest == b"t"),
        b'$' => read_bulk(stream, number(rest)?)?.map_or(Value::NilBulk, Value::Bulk),
        b'=' => read_bulk(stream, number(rest)?)?.map_or(Value::NilBulk, Value::Verbatim),
        b'!' => read_bulk(stream, number(rest)?)?.map_or(Value::NilBulk, Value::Error),
        b'*' if rest == b"-1" => Value::NilArray,
        b'*' => Value::Array(read_items(stream, number(rest)?, depth)?),
        b'~' => Value::Set(read_items(stream, number(rest)?, depth)?),
        b'>' => Value::Push(read_items(stream, number(rest)?, depth)?),
        b'%' => Value::Map(read_pairs(stream, number(rest)?, depth)?),
        b'|' => {
            // An attribute says something about the next value; the value is what was asked for.
            read_pairs(stream, number(rest)?, depth)?;
            read_value(stream, depth + 1)?
        }
        _ => return Err(invalid(&format!("not a reply: {}", line.escape_ascii()))),
    })
}

fn read_items(stream: &mut impl BufRead, count: i64, depth: usize) -> io::Result<Vec<Value>> {
    (0..count).map(|_| read_value(stream, depth + 1)).collect()
}

fn read_pairs(stream: &mut impl BufRead, count: i64, depth: usize) -> io::Result<Vec<(Value, Value)>> {
    (0..count).map(|_| Ok((read_value(stream, depth + 1)?, read_value(stream, depth + 1)?))).collect()
}

fn read_line(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed"));
    }
    if !line.ends_with(b"\r\n") {
        return Err(invalid("a header line without its end"));
    }
    line.truncate(line.len() - 2);
    Ok(line)
}

fn read_bulk(stream: &mut impl BufRead, length: i64) -> io::Result<Option<Vec<u8>>> {
    if length == -1 {
        return Ok(None);
    }
    if !(0..=BULK_BYTES_MAX).contains(&length) {
        return Err(invalid("an impossible length"));
    }
    // Grows with what arrives, not with what the header claims.
    let mut bytes = Vec::new();
    stream.take(length as u64 + 2).read_to_end(&mut bytes)?;
    if bytes.len() as i64 != length + 2 {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed inside a reply"));
    }
    if !bytes.ends_with(b"\r\n") {
        return Err(invalid("a bulk string without its end"));
    }
    bytes.truncate(length as usize);
    Ok(Some(bytes))
}

fn number(digits: &[u8]) -> io::Result<i64> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid(&format!("not a number: {}", digits.escape_ascii())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wire: &[u8], expect: &str) {
        let shown = match read_value(&mut BufReader::new(wire), 0) {
            Ok(value) => value.to_string(),
            Err(error) => format!("{:?}", error.kind()),
        };
        assert_eq!(shown, expect, "{}", wire.escape_ascii());
    }

    #[test]
    fn reads_every_kind_of_reply() {
        check(b"+OK\r\n", "+OK");
        check(b"-ERR \xff\r\n", "-ERR \u{fffd}");
        check(b":-5\r\n", "-5");
        check(b"$-1\r\n", "(nil)");
        check(b"*-1\r\n", "(nil array)");
        check(b"_\r\n", "(null)");
        check(b"$4\r\na\r\nb\r\n", "\"a\\r\\nb\"");
        check(b"*2\r\n:1\r\n*0\r\n", "[1, []]");
        check(b"%1\r\n+a\r\n,1.5\r\n", "{+a: 1.5, }");
        check(b"|1\r\n+ttl\r\n:1\r\n#t\r\n", "true");
        check(b">1\r\n+x\r\n", ">[+x]");
    }

    #[test]
    fn refuses_what_is_not_resp_without_panicking() {
        check(b"", "UnexpectedEof");
        check(b"\r\n", "InvalidData");
        check(b"hello\r\n", "InvalidData");
        check(b"$5\r\nabc", "UnexpectedEof");
        check(b"$1\r\nabc", "InvalidData");
        check(b"$9999999999999\r\n", "InvalidData");
        check(b":12a\r\n", "InvalidData");
        check(&b"*1\r\n".repeat(100_000), "InvalidData");
    }
}
