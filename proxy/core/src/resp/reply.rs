//! Replies as they come from servers, RESP2 and RESP3.
//!
//! Finding the end of a reply needs no stack: an aggregate of n elements adds n to what is still to come, everything else takes
//! one away. So a reply nested a million deep costs nothing (I11), and a long one that comes in pieces is read once.

use super::encode::parse_integer;
use super::request::usual_header;
use std::hash::Hasher;

/// The reply is not RESP: the lane cannot go on.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Malformed;

/// Progress through one reply.
#[derive(Debug, Clone)]
pub struct Scanner {
    at: usize,
    missing: u64,
    resp3: bool,
    pushed: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner { at: 0, missing: 1, resp3: false, pushed: false }
    }
}

/// A complete reply at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// Its length in bytes.
    pub len: usize,
    /// Whether it holds a type that RESP2 does not have.
    pub resp3: bool,
    /// Whether a push stands between its elements: servers up to 7.0 send some from within EXEC.
    pub pushed: bool,
}

impl Scanner {
    /// Looks for the end of the reply that begins at `buffer[0]`; the next call must give the same bytes and maybe more.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<Scanned>, Malformed> {
        while self.missing > 0 {
            let Some(token) = token_at(buffer, self.at)? else { return Ok(None) };
            if token.next > buffer.len() {
                return Ok(None);
            }
            // The first token is the reply's own: a push behind it stands between elements.
            let within = token.mark == b'>' && self.at > 0;
            self.at = token.next;
            self.resp3 |= !matches!(token.mark, b'+' | b'-' | b':' | b'$' | b'*');
            // An attribute stands before the element it speaks of and is none itself; nor is a push between elements.
            self.pushed |= within;
            self.missing = match token.mark {
                _ if within || token.mark == b'|' => self.missing.checked_add(token.children).ok_or(Malformed)?,
                _ => (self.missing - 1).checked_add(token.children).ok_or(Malformed)?,
            };
        }
        let done = Scanned { len: self.at, resp3: self.resp3, pushed: self.pushed };
        *self = Scanner::default();
        Ok(Some(done))
    }
}

impl Scanner {
    /// How many bytes behind `buffer`, which [`Scanner::scan`] found incomplete, the reply surely needs; 1 when nothing is known.
    #[must_use]
    pub fn needs(&self, buffer: &[u8]) -> usize {
        let next = token_at(buffer, self.at).ok().flatten().map_or(0, |token| token.next);
        next.saturating_sub(buffer.len()).max(1)
    }
}

/// One header of a reply, with its bytes when it has some.
#[derive(Debug, Clone, Copy)]
pub struct Token {
    /// The type's mark.
    pub mark: u8,
    /// Text of a simple type, or bytes of a bulk (from, to).
    pub data: (usize, usize),
    /// Elements that follow (twice the pairs of a map).
    pub children: u64,
    /// A null of RESP2 (`$-1`, `*-1`) or RESP3 (`_`).
    pub null: bool,
    /// Where the next token begins.
    pub next: usize,
}

/// Bytes of a line that are looked at one by one: a call for more costs as much as that.
const SHORT_LINE: usize = 12;

/// The token at `at`; None when its header line is not complete. The bytes of a bulk may lie beyond the buffer (`next`).
pub fn token_at(buffer: &[u8], at: usize) -> Result<Option<Token>, Malformed> {
    let Some(line) = buffer.get(at..).filter(|line| !line.is_empty()) else { return Ok(None) };
    // The common cases first: success, a bulk of a usual length, and a short line.
    if line.starts_with(b"+OK\r\n") {
        return Ok(Some(Token { mark: b'+', data: (at + 1, at + 3), children: 0, null: false, next: at + 5 }));
    }
    if line[0] == b'$'
        && let Some((length, next)) = usual_header(buffer, at)
        && buffer.get(next + length..next + length + 2) == Some(b"\r\n")
    {
        return Ok(Some(Token { mark: b'$', data: (next, next + length), children: 0, null: false, next: next + length + 2 }));
    }
    let short = line.iter().take(SHORT_LINE).position(|byte| *byte == b'\r');
    let Some(end) = short.or_else(|| memchr::memchr(b'\r', line)) else { return Ok(None) };
    if line.len() < end + 2 {
        return Ok(None);
    }
    if end == 0 || line[end + 1] != b'\n' {
        return Err(Malformed);
    }
    let (mark, text, next) = (line[0], &line[1..end], at + end + 2);
    let simple = Token { mark, data: (at + 1, at + end), children: 0, null: mark == b'_', next };
    match mark {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Ok(Some(simple)),
        b'$' | b'=' | b'!' => {
            let length = parse_integer(text).ok_or(Malformed)?;
            if length < 0 {
                return Ok(Some(Token { null: true, data: (next, next), ..simple }));
            }
            let stop = next.checked_add(length as usize).ok_or(Malformed)?;
            let next_token = stop.checked_add(2).ok_or(Malformed)?;
            if next_token <= buffer.len() && &buffer[stop..next_token] != b"\r\n" {
                return Err(Malformed);
            }
            Ok(Some(Token { data: (next, stop), next: next_token, ..simple }))
        }
        b'*' | b'~' | b'>' | b'%' | b'|' => {
            let count = parse_integer(text).ok_or(Malformed)?;
            if count < 0 {
                return Ok(Some(Token { null: true, data: (next, next), ..simple }));
            }
            let per = if matches!(mark, b'%' | b'|') { 2 } else { 1 };
            Ok(Some(Token { children: (count as u64).checked_mul(per).ok_or(Malformed)?, data: (next, next), ..simple }))
        }
        _ => Err(Malformed),
    }
}

/// A complete reply to look into. The bytes were scanned before, so nothing here can fail; where it would, it answers as for
/// an empty reply.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a>(pub &'a [u8]);

impl<'a> Reply<'a> {
    fn head(self) -> Option<Token> {
        token_at(self.0, 0).ok().flatten()
    }

    /// An error, simple or bulk.
    #[must_use]
    pub fn is_error(self) -> bool {
        matches!(self.0.first(), Some(b'-' | b'!'))
    }

    /// The error's text.
    #[must_use]
    pub fn error(self) -> Option<&'a [u8]> {
        self.is_error().then(|| self.text())
    }

    /// The first word of an error.
    #[must_use]
    pub fn error_word(self) -> Option<&'a [u8]> {
        self.error().map(|text| text.split(|byte| *byte == b' ').next().unwrap_or(text))
    }

    /// Null of either protocol.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.head().is_some_and(|token| token.null)
    }

    /// The number of an integer reply.
    #[must_use]
    pub fn integer(self) -> Option<i64> {
        if self.0.first() != Some(&b':') {
            return None;
        }
        parse_integer(self.text())
    }

    /// Text or bytes of a reply that is not an aggregate; empty otherwise.
    #[must_use]
    pub fn text(self) -> &'a [u8] {
        match self.head() {
            Some(token) if token.mark == b'=' => self.0.get(token.data.0 + 4..token.data.1).unwrap_or(&[]),
            Some(token) => self.0.get(token.data.0..token.data.1).unwrap_or(&[]),
            None => &[],
        }
    }

    /// Whether it is a simple string `text`.
    #[must_use]
    pub fn is_simple(self, text: &str) -> bool {
        self.0.first() == Some(&b'+') && self.text() == text.as_bytes()
    }

    /// Elements of an aggregate (keys and values of a map in turn).
    #[must_use]
    pub fn elements(self) -> Elements<'a> {
        match self.head() {
            Some(token) => Elements { rest: self.0.get(token.next..).unwrap_or(&[]), missing: token.children },
            None => Elements { rest: &[], missing: 0 },
        }
    }

    /// Number of elements of an aggregate.
    #[must_use]
    pub fn len(self) -> usize {
        self.head().map_or(0, |token| token.children as usize)
    }

    /// True when it has no elements.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether it is an aggregate.
    #[must_use]
    pub fn is_aggregate(self) -> bool {
        matches!(self.0.first(), Some(b'*' | b'~' | b'%' | b'>')) && !self.is_null()
    }
}

/// Takes the pushes out of a reply in which they stand between elements: the reply without them, and each of them.
#[must_use]
pub fn split_pushes(reply: &[u8]) -> (Vec<u8>, Vec<&[u8]>) {
    let (mut clean, mut pushes, mut at) = (Vec::with_capacity(reply.len()), Vec::new(), 0);
    while let Ok(Some(token)) = token_at(reply, at) {
        let end = match token.mark {
            b'>' if at > 0 => {
                let rest = reply.get(at..).unwrap_or(&[]);
                let len = Scanner::default().scan(rest).ok().flatten().map_or(rest.len(), |scanned| scanned.len);
                pushes.push(&rest[..len]);
                at + len
            }
            _ => {
                clean.extend_from_slice(reply.get(at..token.next).unwrap_or(&[]));
                token.next
            }
        };
        at = end;
    }
    (clean, pushes)
}

/// Elements of an aggregate.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    rest: &'a [u8],
    missing: u64,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Reply<'a>;

    fn next(&mut self) -> Option<Reply<'a>> {
        if self.missing == 0 {
            return None;
        }
        let scanned = Scanner::default().scan(self.rest).ok().flatten()?;
        let (element, rest) = self.rest.split_at(scanned.len);
        self.rest = rest;
        self.missing -= 1;
        Some(Reply(element))
    }
}

/// A fingerprint of what a reply says, alike for RESP2 and RESP3: nesting of aggregates, map or array, bulk or simple string
/// do not count; the leaves and their order do. With `numeric`, leaves that are numbers count by value, because a double is
/// written `0.10000000000000001` up to 7.0 and `0.1` from 7.2 on.
#[must_use]
pub fn fingerprint<'a>(replies: impl Iterator<Item = Reply<'a>>, numeric: bool) -> u64 {
    let mut hasher = ahash::RandomState::with_seeds(1, 2, 3, 4).build();
    for reply in replies {
        let mut at = 0;
        while let Ok(Some(token)) = token_at(reply.0, at) {
            leaf(&mut hasher, reply.0, &token, numeric);
            at = token.next;
        }
    }
    hasher.finish()
}

/// Builds a hasher; `ahash` hides the trait method behind `BuildHasher`.
trait Build {
    fn build(&self) -> ahash::AHasher;
}

impl Build for ahash::RandomState {
    fn build(&self) -> ahash::AHasher {
        std::hash::BuildHasher::build_hasher(self)
    }
}

fn leaf(hasher: &mut ahash::AHasher, reply: &[u8], token: &Token, numeric: bool) {
    if token.null {
        return hasher.write_u8(b'_');
    }
    let text = &reply[token.data.0.min(reply.len())..token.data.1.min(reply.len())];
    match token.mark {
        b'*' | b'~' | b'%' | b'>' | b'|' => {}
        b':' => {
            hasher.write_u8(b':');
            hasher.write(text);
        }
        b'-' | b'!' => {
            hasher.write_u8(b'-');
            hasher.write(text.split(|byte| *byte == b' ').next().unwrap_or(text));
        }
        _ => {
            let number = (numeric || token.mark == b',').then(|| number_of(text)).flatten();
            hasher.write_u8(b'$');
            match number {
                Some(number) => hasher.write_u64(number.to_bits()),
                None => {
                    hasher.write_usize(text.len());
                    hasher.write(text);
                }
            }
        }
    }
}

fn number_of(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse::<f64>().ok().map(|number| if number == 0.0 { 0.0 } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_end_where_they_end() {
        let check = |input: &[u8], expect: Result<Option<(usize, bool)>, Malformed>| {
            let got = Scanner::default().scan(input).map(|scanned| scanned.map(|scanned| (scanned.len, scanned.resp3)));
            assert_eq!(got, expect, "{}", input.escape_ascii());
        };
        check(b"+OK\r\n+", Ok(Some((5, false))));
        check(b"$3\r\nfoo\r\n", Ok(Some((9, false))));
        check(b"$-1\r\n", Ok(Some((5, false))));
        check(b"_\r\n", Ok(Some((3, true))));
        check(b"*2\r\n:1\r\n*1\r\n$0\r\n\r\n", Ok(Some((18, false))));
        check(b"*-1\r\n", Ok(Some((5, false))));
        check(b"%1\r\n+a\r\n,1.5\r\n", Ok(Some((14, true))));
        check(b"|1\r\n+a\r\n+b\r\n:7\r\n", Ok(Some((16, true))));
        check(b"*2\r\n:1\r\n", Ok(None));
        check(b"$3\r\nfo", Ok(None));
        check(b"", Ok(None));
        check(b"$3\r\nfooXY", Err(Malformed));
        check(b"?\r\n", Err(Malformed));
        check(b"*9223372036854775807\r\n*9223372036854775807\r\n*9223372036854775807\r\n", Err(Malformed));
    }

    #[test]
    fn a_deep_reply_costs_no_stack() {
        let deep = b"*1\r\n".repeat(1_000_000);
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan(&deep), Ok(None));
        let mut whole = deep;
        whole.extend_from_slice(b":1\r\n");
        assert_eq!(scanner.scan(&whole).map(|s| s.map(|s| s.len)), Ok(Some(whole.len())));
    }

    #[test]
    fn pushes_may_stand_between_elements() {
        let whole = b"*2\r\n+OK\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n*1\r\n:1\r\n";
        assert_eq!(Scanner::default().scan(whole), Ok(Some(Scanned { len: whole.len(), resp3: true, pushed: true })));
        let (clean, pushes) = split_pushes(whole);
        assert_eq!(clean, b"*2\r\n+OK\r\n*1\r\n:1\r\n");
        assert_eq!(pushes, [b">2\r\n$10\r\ninvalidate\r\n_\r\n".as_slice()]);
        let alone = pushes[0];
        assert_eq!(Scanner::default().scan(alone), Ok(Some(Scanned { len: alone.len(), resp3: true, pushed: false })));
    }

    #[test]
    fn a_reply_may_arrive_byte_by_byte() {
        let input = b"*2\r\n$3\r\nfoo\r\n%1\r\n+a\r\n:1\r\n";
        let mut scanner = Scanner::default();
        for end in 0..input.len() {
            assert_eq!(scanner.scan(&input[..end]), Ok(None), "{end}");
            assert!((1..=input.len() - end).contains(&scanner.needs(&input[..end])), "{end}");
        }
        assert_eq!(scanner.scan(input).map(|s| s.map(|s| s.len)), Ok(Some(input.len())));
    }

    #[test]
    fn fingerprints_see_what_is_said_and_not_how() {
        let same =
            |a: &[u8], b: &[u8], numeric| fingerprint([Reply(a)].into_iter(), numeric) == fingerprint([Reply(b)].into_iter(), numeric);
        assert!(same(b"*2\r\n$1\r\na\r\n$1\r\n1\r\n", b"%1\r\n+a\r\n$1\r\n1\r\n", false));
        assert!(same(b"$-1\r\n", b"_\r\n", false));
        assert!(same(b",0.10000000000000001\r\n", b",0.1\r\n", false));
        assert!(same(b"$3\r\n0.1\r\n", b",0.10000000000000001\r\n", true));
        assert!(!same(b":1\r\n", b":2\r\n", false));
        assert!(!same(b"$1\r\na\r\n", b"_\r\n", false));
        assert!(!same(b"*2\r\n$1\r\na\r\n$2\r\nbc\r\n", b"*2\r\n$2\r\nab\r\n$1\r\nc\r\n", false));
    }
}
