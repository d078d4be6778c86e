//! Names of keys as text, for people: what is printed can be typed back. Keys are any bytes; what cannot be shown as it is becomes `\xNN`,
//! and a backslash `\\`.

/// A key as text: characters as they are, but for control characters and bytes that are no UTF-8 (`\xNN`) and the backslash (`\\`).
#[must_use]
pub fn shown(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    let escape = |text: &mut String, bytes: &[u8]| bytes.iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    for chunk in key.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                _ if character.is_control() => escape(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes()),
                _ => text.push(character),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// The key that a text names: `\xNN` is a byte, `\\` a backslash, and a backslash before anything else stands for itself.
#[must_use]
pub fn named(text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let (byte, used) = match behind {
            [b'\\', ..] if *first == b'\\' => (b'\\', 2),
            [b'x', high, low, ..] if *first == b'\\' => hex(*high).zip(hex(*low)).map_or((b'\\', 1), |(high, low)| (high << 4 | low, 4)),
            _ => (*first, 1),
        };
        key.push(byte);
        rest = &rest[used..];
    }
    key
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_names_the_key() {
        let check = |key: &[u8], text: &str| {
            assert_eq!(shown(key), text);
            assert_eq!(named(text), key, "{text}");
        };
        check(b"user:1", "user:1");
        check("schlüssel 钥匙".as_bytes(), "schlüssel 钥匙");
        // As Java serialises the string "abc".
        check(b"\xac\xed\x00\x05t\x00\x03abc", "\\xac\\xed\\x00\\x05t\\x00\\x03abc");
        check(b"App\\Models\\User:1", "App\\\\Models\\\\User:1");
        check(b"\\xac", "\\\\xac");
        check(b"\x1b[31m\n\t", "\\x1b[31m\\x0a\\x09");
        check("\u{85}".as_bytes(), "\\xc2\\x85");
        check(b"k\xff\\", "k\\xff\\\\");
        check(b"", "");
        (0..=255).for_each(|byte: u8| assert_eq!(named(&shown(&[b'\\', byte, b'a'])), [b'\\', byte, b'a']));
    }

    #[test]
    fn other_backslashes_stand_for_themselves() {
        for text in ["a\\b", "\\x", "\\x4", "\\xg0", "\\", "a\\"] {
            assert_eq!(named(text), text.as_bytes(), "{text}");
        }
        assert_eq!(named("\\xAC\\xed"), b"\xac\xed");
    }
}
