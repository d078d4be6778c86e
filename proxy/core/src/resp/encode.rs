//! Writing RESP.

/// Appends `n` in decimal.
pub fn push_number(out: &mut Vec<u8>, n: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = n.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a line `<mark><n>\r\n`: the header of an aggregate, or an integer.
pub fn push_header(out: &mut Vec<u8>, mark: u8, n: i64) {
    out.push(mark);
    push_number(out, n);
    out.extend_from_slice(b"\r\n");
}

/// Appends a bulk string.
pub fn push_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    push_header(out, b'$', bytes.len() as i64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends a request.
pub fn push_request(out: &mut Vec<u8>, args: &[&[u8]]) {
    push_header(out, b'*', args.len() as i64);
    for arg in args {
        push_bulk(out, arg);
    }
}

/// A number as text.
#[must_use]
pub fn number(n: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(20);
    push_number(&mut out, n);
    out
}

/// Parses a decimal integer as strictly as Redis does (`string2ll`): no sign but `-`, no leading zeros, no blanks.
#[must_use]
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    if text == b"0" {
        return Some(0);
    }
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || digits.len() > 19 || !(b'1'..=b'9').contains(&digits[0]) {
        return None;
    }
    let mut value: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u64::from(digit - b'0');
    }
    if negative { (value <= 1 << 63).then(|| (value as i64).wrapping_neg()) } else { i64::try_from(value).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        let check = |text: &str, expect: Option<i64>| assert_eq!(parse_integer(text.as_bytes()), expect, "{text:?}");
        check("0", Some(0));
        check("-1", Some(-1));
        check("9223372036854775807", Some(i64::MAX));
        check("-9223372036854775808", Some(i64::MIN));
        check("9223372036854775808", None);
        check("", None);
        check("-", None);
        check("+1", None);
        check("01", None);
        check("-0", None);
        check(" 1", None);
        check("1a", None);
    }

    #[test]
    fn numbers_are_written() {
        for n in [0, 7, -7, 1234567890, i64::MAX, i64::MIN] {
            assert_eq!(number(n), n.to_string().as_bytes());
        }
    }
}
