//! Requests as they come from clients: arrays of bulk strings, or inline lines.
//!
//! The hard case is what a server would answer by closing the connection: on a lane that would cut every client off, so it is
//! found here and answered to the one client, word for word (`redis 7.0.15 networking.c processMultibulkBuffer`). A header that
//! a server accepts although it is sloppy (`\rX` for `\r\n`) is accepted too, and written anew before it goes on.

use super::encode::{parse_integer, push_request};
use crate::limits::{BULK_BYTES_MAX, INLINE_BYTES_MAX, REQUEST_ARGUMENTS_MAX};

/// Where the arguments of one request lie inside its frame.
#[derive(Debug, Default, Clone)]
pub struct Spans(Vec<(u32, u32)>);

impl Spans {
    /// Number of arguments, the command's name included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is no argument.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Argument `at` of `frame`; empty when there is none.
    #[must_use]
    pub fn get<'f>(&self, frame: &'f [u8], at: usize) -> &'f [u8] {
        self.0.get(at).map_or(&[], |(start, end)| &frame[*start as usize..*end as usize])
    }
}

/// A complete request: the frame as it travels on the lane, and its arguments.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Canonical RESP bytes of the request.
    pub frame: &'a [u8],
    /// Its arguments.
    pub spans: &'a Spans,
}

impl<'a> Request<'a> {
    /// Argument `at`; empty when there is none.
    #[must_use]
    pub fn arg(&self, at: usize) -> &'a [u8] {
        self.spans.get(self.frame, at)
    }

    /// Number of arguments, the name included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True when there is no argument.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Whether argument `at` is `word`, in any case.
    #[must_use]
    pub fn is(&self, at: usize, word: &str) -> bool {
        self.arg(at).eq_ignore_ascii_case(word.as_bytes())
    }

    /// The arguments from `at` on.
    pub fn args_from(self, at: usize) -> impl Iterator<Item = &'a [u8]> {
        (at..self.len()).map(move |i| self.spans.get(self.frame, i))
    }
}

/// How far an incomplete request has been read, so that a request of a million arguments is not read from its start at every
/// packet.
#[derive(Debug, Default)]
pub struct Resume {
    at: usize,
    missing: usize,
    sloppy: bool,
    begun: bool,
    /// Bytes that must be there before it is worth looking again.
    need: usize,
    /// The arguments found so far: the caller's spans serve other sessions until the rest of this request comes.
    spans: Vec<(u32, u32)>,
}

/// What the bytes at the start of a client's input are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// One request of `len` bytes; its arguments are in the spans. When `canonical` is false the frame must be written anew.
    Complete {
        /// Bytes it takes from the input.
        len: usize,
        /// Whether these bytes may travel as they are.
        canonical: bool,
    },
    /// Bytes that mean nothing and get no reply: `*0`, `*-1`, an empty line.
    Ignored {
        /// Bytes it takes from the input.
        len: usize,
    },
    /// An inline line of `len` bytes; its arguments are given, to be written as a request.
    Inline {
        /// Bytes it takes from the input.
        len: usize,
        /// The words of the line.
        args: Vec<Vec<u8>>,
    },
    /// More bytes are needed.
    Incomplete,
    /// The text after `-ERR Protocol error: `; the connection is to be closed behind it.
    Malformed(String),
}

/// Reads one request from the start of `input`. `authenticated` bounds what a stranger may send (networking.c:2324).
pub fn parse(input: &[u8], spans: &mut Spans, resume: &mut Resume, authenticated: bool) -> Parsed {
    if input.is_empty() || input.len() < resume.need {
        return Parsed::Incomplete;
    }
    if input[0] != b'*' {
        return parse_inline(input);
    }
    if !resume.begun
        && let Some(len) = usual(input, spans, authenticated)
    {
        return Parsed::Complete { len, canonical: true };
    }
    if !resume.begun {
        let (count, at, sloppy) = match usual_header(input, 0) {
            Some((count, at)) => (Some(count as i64), at, false),
            None => match header(input, 0) {
                Header::Line(text, at, sloppy) => (parse_integer(text), at, sloppy),
                Header::Incomplete => return Parsed::Incomplete,
                Header::TooLong => return Parsed::Malformed("too big mbulk count string".into()),
            },
        };
        let Some(count) = count.filter(|count| *count <= REQUEST_ARGUMENTS_MAX as i64) else {
            return Parsed::Malformed("invalid multibulk length".into());
        };
        if count > 10 && !authenticated {
            return Parsed::Malformed("unauthenticated multibulk length".into());
        }
        if count <= 0 {
            return Parsed::Ignored { len: at };
        }
        *resume = Resume { at, missing: count as usize, sloppy, begun: true, ..Resume::default() };
        spans.0.clear();
    } else {
        std::mem::swap(&mut spans.0, &mut resume.spans);
    }
    while resume.missing > 0 {
        if let Some(stop) = argument(input, spans, resume, authenticated) {
            std::mem::swap(&mut spans.0, &mut resume.spans);
            return stop;
        }
    }
    let done = Parsed::Complete { len: resume.at, canonical: !resume.sloppy };
    *resume = Resume::default();
    done
}

/// A whole request of the usual shape, of up to nine arguments of less than ten megabytes: its length. Anything else, and what is not complete, is
/// read the careful way.
fn usual(input: &[u8], spans: &mut Spans, authenticated: bool) -> Option<usize> {
    let [b'*', count @ b'1'..=b'9', b'\r', b'\n', ..] = input else { return None };
    spans.0.clear();
    let mut at = 4;
    for _ in 0..count - b'0' {
        let [b'$', first @ b'0'..=b'9', rest @ ..] = input.get(at..)? else { return None };
        let mut length = usize::from(first - b'0');
        let mut digits = 0;
        while let Some(digit @ b'0'..=b'9') = rest.get(digits) {
            // A zero in front is none of the usual numbers.
            if length == 0 || digits == 6 {
                return None;
            }
            length = length * 10 + usize::from(digit - b'0');
            digits += 1;
        }
        let start = at + digits + 4;
        let end = start + length;
        if rest.get(digits..digits + 2)? != b"\r\n" || input.get(end..end + 2)? != b"\r\n" || (length > 16384 && !authenticated) {
            return None;
        }
        spans.0.push((start as u32, end as u32));
        at = end + 2;
    }
    Some(at)
}

/// A header of the usual shape: up to eight digits between its mark and `\r\n`. Anything else is read the careful way.
#[inline]
pub(super) fn usual_header(input: &[u8], at: usize) -> Option<(usize, usize)> {
    let line = input.get(at + 1..)?;
    if let [digit @ b'0'..=b'9', b'\r', b'\n', ..] = line {
        return Some((usize::from(*digit - b'0'), at + 4));
    }
    let mut value = 0;
    for (i, byte) in line.iter().take(9).enumerate() {
        if byte.is_ascii_digit() {
            value = value * 10 + usize::from(byte - b'0');
            continue;
        }
        let strict = *byte == b'\r' && line.get(i + 1) == Some(&b'\n') && i > 0 && (i == 1 || line[0] != b'0');
        return strict.then_some((value, at + i + 3));
    }
    None
}

/// Reads one `$len\r\n<bytes>\r\n`; gives back why it cannot.
fn argument(input: &[u8], spans: &mut Spans, resume: &mut Resume, authenticated: bool) -> Option<Parsed> {
    if input.get(resume.at) == Some(&b'$')
        && let Some((length, start)) = usual_header(input, resume.at)
        && (length <= 16384 || authenticated)
        && input.get(start + length..start + length + 2) == Some(b"\r\n")
    {
        spans.0.push((start as u32, (start + length) as u32));
        resume.at = start + length + 2;
        resume.missing -= 1;
        resume.need = 0;
        return None;
    }
    let (length, start, sloppy) = match header(input, resume.at) {
        Header::Line(text, start, sloppy) => (text, start, sloppy),
        Header::Incomplete => return Some(Parsed::Incomplete),
        Header::TooLong => return Some(Parsed::Malformed("too big bulk count string".into())),
    };
    let mark = input[resume.at];
    if mark != b'$' {
        let shown = if (32..127).contains(&mark) { (mark as char).to_string() } else { String::from_utf8_lossy(&[mark]).into_owned() };
        return Some(Parsed::Malformed(format!("expected '$', got '{shown}'")));
    }
    let Some(length) = parse_integer(length).filter(|length| (0..=BULK_BYTES_MAX as i64).contains(length)) else {
        return Some(Parsed::Malformed("invalid bulk length".into()));
    };
    if length > 16384 && !authenticated {
        return Some(Parsed::Malformed("unauthenticated bulk length".into()));
    }
    let end = start + length as usize;
    if input.len() < end + 2 {
        resume.need = end + 2;
        return Some(Parsed::Incomplete);
    }
    resume.sloppy |= sloppy || &input[end..end + 2] != b"\r\n";
    spans.0.push((start as u32, end as u32));
    resume.at = end + 2;
    resume.missing -= 1;
    resume.need = 0;
    None
}

enum Header<'a> {
    /// The text after the mark, where the next byte lies, and whether the line ended sloppily.
    Line(&'a [u8], usize, bool),
    Incomplete,
    TooLong,
}

/// The header line at `at`: a mark, then text up to `\r` and one byte more.
fn header(input: &[u8], at: usize) -> Header<'_> {
    let Some(line) = input.get(at..) else { return Header::Incomplete };
    let window = &line[..line.len().min(INLINE_BYTES_MAX + 1)];
    match memchr::memchr(b'\r', window) {
        Some(0) => Header::Line(&[], at + 2, true),
        Some(end) if line.len() > end + 1 => Header::Line(&line[1..end], at + end + 2, line[end + 1] != b'\n'),
        Some(_) => Header::Incomplete,
        None if line.len() > INLINE_BYTES_MAX => Header::TooLong,
        None => Header::Incomplete,
    }
}

fn parse_inline(input: &[u8]) -> Parsed {
    let Some(end) = memchr::memchr(b'\n', input) else {
        if input.len() > INLINE_BYTES_MAX {
            return Parsed::Malformed("too big inline request".into());
        }
        return Parsed::Incomplete;
    };
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    match split_words(line) {
        None => Parsed::Malformed("unbalanced quotes in request".into()),
        Some(args) if args.is_empty() => Parsed::Ignored { len: end + 1 },
        Some(args) => Parsed::Inline { len: end + 1, args },
    }
}

/// Words of an inline line with Redis's quoting (`sds.c sdssplitargs`); None when quotes are unbalanced.
fn split_words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while at < line.len() && is_space(line[at]) {
            at += 1;
        }
        if at == line.len() {
            return Some(words);
        }
        let (word, next) = split_word(line, at)?;
        words.push(word);
        at = next;
    }
}

fn split_word(line: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut word = Vec::new();
    let mut quote = None;
    loop {
        let byte = line.get(at).copied();
        match (quote, byte) {
            (None, None) => return Some((word, at)),
            (Some(_), None) => return None,
            (None, Some(byte)) if is_space(byte) => return Some((word, at)),
            (None, Some(byte @ (b'"' | b'\''))) => quote = Some(byte),
            (None, Some(byte)) => word.push(byte),
            (Some(b'"'), Some(b'\\')) => {
                let (byte, taken) = escaped(&line[at + 1..])?;
                word.push(byte);
                at += taken;
            }
            (Some(b'\''), Some(b'\\')) if line.get(at + 1) == Some(&b'\'') => {
                word.push(b'\'');
                at += 1;
            }
            (Some(open), Some(byte)) if byte == open => {
                // A closing quote must be followed by a space or nothing.
                return match line.get(at + 1) {
                    Some(next) if !is_space(*next) => None,
                    _ => Some((word, at + 1)),
                };
            }
            (Some(_), Some(byte)) => word.push(byte),
        }
        at += 1;
    }
}

/// The byte an escape stands for, and how many bytes after the backslash it took.
fn escaped(rest: &[u8]) -> Option<(u8, usize)> {
    if let [b'x', high, low, ..] = rest
        && let (Some(high), Some(low)) = ((*high as char).to_digit(16), (*low as char).to_digit(16))
    {
        return Some(((high * 16 + low) as u8, 3));
    }
    let byte = match rest.first()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => *other,
    };
    Some((byte, 1))
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

/// Writes a request anew from its arguments and reads it back, so that what travels is canonical.
pub fn canonical<'a>(args: &[&[u8]], frame: &'a mut Vec<u8>, spans: &'a mut Spans) -> Request<'a> {
    frame.clear();
    push_request(frame, args);
    let parsed = parse(frame, spans, &mut Resume::default(), true);
    debug_assert!(matches!(parsed, Parsed::Complete { canonical: true, .. }) || args.is_empty());
    Request { frame, spans }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> (Parsed, Vec<Vec<u8>>) {
        let mut spans = Spans::default();
        let parsed = parse(input, &mut spans, &mut Resume::default(), true);
        let args = (0..spans.len()).map(|i| spans.get(input, i).to_vec()).collect();
        (parsed, args)
    }

    #[test]
    fn requests_are_framed_as_redis_frames_them() {
        let complete = |len, canonical| Parsed::Complete { len, canonical };
        let check = |input: &[u8], expect: Parsed| assert_eq!(read(input).0, expect, "{}", input.escape_ascii());
        let malformed = |text: &str| Parsed::Malformed(text.into());
        check(b"*1\r\n$4\r\nPING\r\n", complete(14, true));
        check(b"*1\r\n$4\r\nPING\r\n*1\r\n", complete(14, true));
        check(b"*1\r\n$4\r\nPINGxx", complete(14, false));
        check(b"*1\rX$4\r\nPING\r\n", complete(14, false));
        check(b"*2\r\n$4\r\nPING\r\n$0\r\n\r\n", complete(20, true));
        check(b"*0\r\n", Parsed::Ignored { len: 4 });
        check(b"*-1\r\n", Parsed::Ignored { len: 5 });
        check(b"\r\n", Parsed::Ignored { len: 2 });
        check(b"*1\r\n$4\r\nPIN", Parsed::Incomplete);
        check(b"*1\r\n$4\r", Parsed::Incomplete);
        check(b"*1", Parsed::Incomplete);
        check(b"", Parsed::Incomplete);
        check(b"*x\r\n", malformed("invalid multibulk length"));
        check(b"*+1\r\n", malformed("invalid multibulk length"));
        check(b"*1048577\r\n", malformed("invalid multibulk length"));
        check(b"*1\r\n+PING\r\n", malformed("expected '$', got '+'"));
        check(b"*1\r\n$-1\r\n", malformed("invalid bulk length"));
        check(b"*1\r\n$04\r\n", malformed("invalid bulk length"));
        check(b"*1\r\n$536870913\r\n", malformed("invalid bulk length"));
        check(&[b'a'; 65537], malformed("too big inline request"));
        check(b"SET \"k v\n", malformed("unbalanced quotes in request"));
    }

    #[test]
    fn a_stranger_may_send_little() {
        let check = |input: &[u8], expect: &str| {
            let parsed = parse(input, &mut Spans::default(), &mut Resume::default(), false);
            assert_eq!(parsed, Parsed::Malformed(expect.into()));
        };
        check(b"*11\r\n", "unauthenticated multibulk length");
        check(b"*1\r\n$16385\r\n", "unauthenticated bulk length");
    }

    #[test]
    fn inline_lines_are_split_as_redis_splits_them() {
        let check = |line: &str, expect: Option<&[&[u8]]>| {
            let expect = expect.map(|words| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>());
            assert_eq!(split_words(line.as_bytes()), expect, "{line:?}");
        };
        check("PING", Some(&[b"PING"]));
        check("  SET k  v ", Some(&[b"SET", b"k", b"v"]));
        check(r#"SET "a b" 'c d'"#, Some(&[b"SET", b"a b", b"c d"]));
        check(r#""\x41\n\"" '\''"#, Some(&[b"A\n\"", b"'"]));
        check(r#"a"b"c"#, None);
        check(r#""a"b"#, None);
        check("''", Some(&[b""]));
    }

    #[test]
    fn a_request_may_arrive_byte_by_byte() {
        let input = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhello\r\n";
        let (mut spans, mut resume) = (Spans::default(), Resume::default());
        for end in 0..input.len() {
            assert_eq!(parse(&input[..end], &mut spans, &mut resume, true), Parsed::Incomplete, "{end}");
        }
        let parsed = parse(input, &mut spans, &mut resume, true);
        assert_eq!(parsed, Parsed::Complete { len: input.len(), canonical: true });
        assert_eq!(spans.get(input, 2), b"hello");
    }

    /// The bug: spans are shared by all sessions, and a request of one arrived between two pieces of another's: the second was
    /// then read with the first one's arguments (`-ERR unknown command 'SET  $6 '`, and worse: another key).
    #[test]
    fn a_request_of_another_session_may_come_between_two_pieces() {
        let pieces = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhello\r\n";
        let other = b"*2\r\n$4\r\nAUTH\r\n$9\r\nsomething\r\n";
        for (end, between) in (1..pieces.len()).flat_map(|end| (1..=other.len()).map(move |between| (end, between))) {
            let (mut spans, mut resume, mut of_other) = (Spans::default(), Resume::default(), Resume::default());
            assert_eq!(parse(&pieces[..end], &mut spans, &mut resume, true), Parsed::Incomplete);
            parse(&other[..between], &mut spans, &mut of_other, true);
            assert_eq!(parse(pieces, &mut spans, &mut resume, true), Parsed::Complete { len: pieces.len(), canonical: true });
            let args: Vec<&[u8]> = (0..spans.len()).map(|at| spans.get(pieces, at)).collect();
            assert_eq!(args, [b"SET".as_slice(), b"k", b"hello"], "{end} {between}");
        }
    }
}
