//! DUMP payloads. Strings, lists, sets, hashes and sorted sets use the plain RDB encodings that every Redis since 5.0
//! loads (types 0, 1, 2, 4, 5), so that payloads made here can be given to real servers too; what a real 7.0 server dumps
//! (listpacks) is not read. A stream has an encoding of our own, of type 200.
//!
//! The footer is Redis's: the RDB version in two bytes and CRC64 (Jones) over everything before it. A payload of a newer
//! version than the server's is refused, which is what makes `new` -> `old` images hard.
use super::*;

const BAD_FOOTER: &str = "ERR DUMP payload version or checksum are wrong";
const BAD_DATA: &str = "ERR Bad data format";

/// Serialises a value with the footer of this RDB version.
pub(super) fn dump(value: &Value, version: u16) -> Vec<u8> {
    payload(value, version)
}

/// A payload for RESTORE, as a server of this RDB version (9: Redis 5 and 6, 10: 7.0, 11: 7.2) would have dumped it.
pub fn payload(value: &Value, version: u16) -> Vec<u8> {
    let mut b = Vec::with_capacity(64);
    match value {
        Value::Str(data) => {
            b.push(0);
            text(&mut b, data);
        }
        Value::List(items) => {
            b.push(1);
            length(&mut b, items.len());
            items.iter().for_each(|item| text(&mut b, item));
        }
        Value::Set(members) => {
            b.push(2);
            length(&mut b, members.len());
            members.iter().for_each(|member| text(&mut b, member));
        }
        Value::Hash(fields) => {
            b.push(4);
            length(&mut b, fields.len());
            for (field, value) in fields {
                text(&mut b, field);
                text(&mut b, value);
            }
        }
        Value::Zset(members) => {
            b.push(5);
            length(&mut b, members.len());
            for (score, member) in members.iter().rev() {
                text(&mut b, member);
                b.extend_from_slice(&score.to_le_bytes());
            }
        }
        Value::Stream(stream) => {
            b.push(200);
            streams::write(&mut b, stream);
        }
    }
    b.extend_from_slice(&version.to_le_bytes());
    let crc = crc64(&b);
    b.extend_from_slice(&crc.to_le_bytes());
    b
}

/// Reads a payload, refusing what a server of this RDB version refuses.
pub(super) fn load(bytes: &[u8], newest: u16) -> Result<Value, Fail> {
    if bytes.len() < 10 {
        return Err(BAD_FOOTER.into());
    }
    let (body, crc) = bytes.split_at(bytes.len() - 8);
    let (data, version) = body.split_at(body.len() - 2);
    if u16::from_le_bytes([version[0], version[1]]) > newest || crc != crc64(body).to_le_bytes() {
        return Err(BAD_FOOTER.into());
    }
    let mut reader = Reader { bytes: data };
    reader.value().ok_or_else(|| BAD_DATA.into())
}

pub(super) struct Reader<'a> {
    pub bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(head)
    }

    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub fn length(&mut self) -> Option<usize> {
        match self.take(1)? {
            [b] if b >> 6 == 0 => Some(usize::from(b & 63)),
            [b] if b >> 6 == 1 => Some(usize::from(b & 63) << 8 | usize::from(self.take(1)?[0])),
            [0x80] => Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?) as usize),
            _ => None,
        }
    }

    /// A plain string, or one of the integer encodings (LZF is not read).
    pub fn text(&mut self) -> Option<Vec<u8>> {
        let integer = match self.bytes.first()? {
            0xC0 => i64::from(self.take(2)?[1] as i8),
            0xC1 => i64::from(i16::from_le_bytes(self.take(3)?[1..].try_into().ok()?)),
            0xC2 => i64::from(i32::from_le_bytes(self.take(5)?[1..].try_into().ok()?)),
            _ => {
                let len = self.length()?;
                return Some(self.take(len)?.to_vec());
            }
        };
        Some(crate::reply::i64_text(integer))
    }

    fn value(&mut self) -> Option<Value> {
        let kind = self.take(1)?[0];
        if kind == 0 {
            return Some(Value::Str(self.text()?));
        }
        if kind == 200 {
            return Some(Value::Stream(Box::new(streams::read(self)?)));
        }
        let len = self.length().filter(|len| *len > 0)?;
        Some(match kind {
            1 => Value::List((0..len).map(|_| self.text()).collect::<Option<_>>()?),
            2 => {
                let mut members: Vec<Vec<u8>> = (0..len).map(|_| self.text()).collect::<Option<_>>()?;
                members.sort();
                Value::Set(members)
            }
            4 => Value::Hash((0..len).map(|_| Some((self.text()?, self.text()?))).collect::<Option<_>>()?),
            5 => {
                let mut members: Vec<(f64, Vec<u8>)> = (0..len)
                    .map(|_| {
                        let member = self.text()?;
                        Some((f64::from_bits(self.u64()?), member))
                    })
                    .collect::<Option<_>>()?;
                members.sort_by(zsets::order);
                Value::Zset(members)
            }
            _ => return None,
        })
    }
}

pub(super) fn length(b: &mut Vec<u8>, len: usize) {
    match len {
        0..64 => b.push(len as u8),
        64..16384 => b.extend_from_slice(&[0x40 | (len >> 8) as u8, len as u8]),
        _ => {
            b.push(0x80);
            b.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
}

pub(super) fn text(b: &mut Vec<u8>, data: &[u8]) {
    length(b, data.len());
    b.extend_from_slice(data);
}

/// CRC-64 of Jones, as redis crc64.c: reflected, no initial value, no final xor.
pub fn crc64(bytes: &[u8]) -> u64 {
    const TABLE: [u64; 256] = crc_table();
    bytes.iter().fold(0, |crc, byte| TABLE[((crc ^ u64::from(*byte)) & 255) as usize] ^ (crc >> 8))
}

const fn crc_table() -> [u64; 256] {
    let mut table = [0u64; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            // 0xad93d23594c935a9 with its bits in reverse.
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x95ac_9329_ac4b_c9b5 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_one_of_redis() {
        // crc64.c: crc64Test.
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }
}
