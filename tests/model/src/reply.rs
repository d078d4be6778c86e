//! Replies as Redis 7.0 writes them, for both protocol versions, and the numbers in them.
//!
//! The hard case: a float is printed with `%.17g` up to Redis 7.0 (shortest form only from 7.2), and RESP3 changes the
//! shape of nulls, maps, sets and doubles. Everything the model answers passes through [`Out`].
use std::borrow::Cow;

/// Why a command was refused: the whole error text, code included, without the leading dash.
#[derive(Debug, Clone)]
pub struct Fail(pub Cow<'static, str>);

impl From<&'static str> for Fail {
    fn from(text: &'static str) -> Self {
        Fail(Cow::Borrowed(text))
    }
}

impl From<String> for Fail {
    fn from(text: String) -> Self {
        Fail(Cow::Owned(text))
    }
}

/// What a command handler returns: its reply is in [`Out`], or it failed.
pub type Done = Result<(), Fail>;

/// The reply writer of one connection.
#[derive(Debug, Default)]
pub struct Out {
    /// Bytes not yet taken by the client.
    pub bytes: Vec<u8>,
    /// Set by `HELLO 3`.
    pub resp3: bool,
}

impl Out {
    fn header(&mut self, kind: u8, number: i64) {
        self.bytes.push(kind);
        push_i64(&mut self.bytes, number);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `+text`
    pub fn simple(&mut self, text: &str) {
        self.bytes.push(b'+');
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `+OK`
    pub fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    /// `-text`; line ends in the text become spaces, as in `addReplyErrorSds`.
    pub fn error(&mut self, text: &str) {
        self.bytes.push(b'-');
        self.bytes.extend(text.bytes().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// `:number`
    pub fn int(&mut self, number: i64) {
        self.header(b':', number);
    }

    /// A length as an integer reply.
    pub fn len(&mut self, number: usize) {
        self.header(b':', number as i64);
    }

    /// A yes/no as the integer 1 or 0.
    pub fn flag(&mut self, yes: bool) {
        self.bytes.extend_from_slice(if yes { b":1\r\n" } else { b":0\r\n" });
    }

    /// A bulk string.
    pub fn bulk(&mut self, data: &[u8]) {
        self.header(b'$', data.len() as i64);
        self.bytes.extend_from_slice(data);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// A bulk string or the null of the protocol.
    pub fn maybe(&mut self, data: Option<&[u8]>) {
        match data {
            Some(data) => self.bulk(data),
            None => self.null(),
        }
    }

    /// The null where a value was expected.
    pub fn null(&mut self) {
        self.bytes.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// The null where an array was expected.
    pub fn null_array(&mut self) {
        self.bytes.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// The head of an array of `len` elements.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// The head of a map of `len` pairs.
    pub fn map(&mut self, len: usize) {
        if self.resp3 { self.header(b'%', len as i64) } else { self.header(b'*', len as i64 * 2) }
    }

    /// The head of a set of `len` members.
    pub fn set(&mut self, len: usize) {
        self.header(if self.resp3 { b'~' } else { b'*' }, len as i64);
    }

    /// A score: `,1.5` in RESP3, a bulk string in RESP2.
    pub fn double(&mut self, number: f64) {
        let text = format_g17(number);
        if self.resp3 {
            self.bytes.push(b',');
            self.bytes.extend_from_slice(text.as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// Text for people (INFO, CLIENT LIST): verbatim in RESP3.
    pub fn verbatim(&mut self, text: &str) {
        if self.resp3 {
            self.header(b'=', text.len() as i64 + 4);
            self.bytes.extend_from_slice(b"txt:");
            self.bytes.extend_from_slice(text.as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text.as_bytes());
        }
    }
}

/// Appends a decimal integer without allocating.
pub fn push_i64(bytes: &mut Vec<u8>, number: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        bytes.push(b'-');
    }
    bytes.extend_from_slice(&digits[at..]);
}

/// The integer as its decimal text.
pub fn i64_text(number: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8);
    push_i64(&mut bytes, number);
    bytes
}

/// Strict integer, as `string2ll`: no plus, no leading zeros, no spaces, no "-0".
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let negative = digits.len() != text.len();
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: i128 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i128::from(digit - b'0');
    }
    i64::try_from(if negative { -value } else { value }).ok()
}

/// A float as `getDoubleFromObject` takes it: whole text, no spaces, no nan, no overflow or underflow.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let value: f64 = text.parse().ok()?;
    let named = text.bytes().any(|b| b == b'n' || b == b'N');
    if value.is_nan() || (value.is_infinite() && !named) {
        return None;
    }
    let mantissa = text.split(['e', 'E']).next().unwrap_or("");
    if value == 0.0 && mantissa.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        return None;
    }
    Some(value)
}

/// `%.17g`, with `inf` and `-inf` as Redis prints them.
pub fn format_g17(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return (number as i64).to_string();
    }
    let scientific = format!("{number:.16e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..17).contains(&exponent) {
        let fixed = format!("{number:.*}", (16 - exponent) as usize);
        return trim_zeros(&fixed).to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim_zeros(mantissa), exponent.abs())
}

/// The text without trailing zeros of its fraction.
pub fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_strict() {
        for (text, expect) in
            [("0", Some(0)), ("-1", Some(-1)), ("9223372036854775807", Some(i64::MAX)), ("-9223372036854775808", Some(i64::MIN))]
        {
            assert_eq!(parse_i64(text.as_bytes()), expect, "{text}");
        }
        for text in ["", "-", "-0", "01", "+1", " 1", "1 ", "9223372036854775808", "1.0"] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn floats_print_as_g17() {
        for (number, expect) in [
            (0.1, "0.10000000000000001"),
            (3.5, "3.5"),
            (-0.0, "-0"),
            (1e300, "1.0000000000000001e+300"),
            (1e-7, "9.9999999999999995e-08"),
            (123456789.123, "123456789.123"),
            (1e17, "1e+17"),
            (f64::INFINITY, "inf"),
            (1e16, "10000000000000000"),
        ] {
            assert_eq!(format_g17(number), expect);
        }
    }
}
