//! HyperLogLogs are strings to a server, and two that count the same may be written in different bytes: sparse or dense, with
//! or without a cached count, which a mere PFCOUNT changes (redis 7.0.15 hyperloglog.c).

const HEADER_BYTES: usize = 16;
const REGISTERS: usize = 16_384;
const DENSE_BYTES: usize = HEADER_BYTES + REGISTERS * 6 / 8;

/// The 16,384 registers of a whole HyperLogLog; None for every other string.
#[must_use]
pub fn registers(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < HEADER_BYTES || !bytes.starts_with(b"HYLL") {
        return None;
    }
    let body = &bytes[HEADER_BYTES..];
    match bytes[4] {
        0 => (bytes.len() == DENSE_BYTES).then(|| dense(body)),
        1 => sparse(body),
        _ => None,
    }
}

/// Six bits each, the lowest bits first.
fn dense(body: &[u8]) -> Vec<u8> {
    let register = |at: usize| {
        let (byte, shift) = (at * 6 / 8, at * 6 % 8);
        let pair = u16::from(body[byte]) | u16::from(body.get(byte + 1).copied().unwrap_or(0)) << 8;
        (pair >> shift & 0b11_1111) as u8
    };
    (0..REGISTERS).map(register).collect()
}

/// Runs: `00xxxxxx` zeros, `01xxxxxx yyyyyyyy` many zeros, `1vvvvvxx` a value.
fn sparse(body: &[u8]) -> Option<Vec<u8>> {
    let mut registers = Vec::with_capacity(REGISTERS);
    let mut rest = body.iter().copied();
    while let Some(byte) = rest.next() {
        let (value, run) = match byte >> 6 {
            0 => (0, usize::from(byte & 0x3f) + 1),
            1 => (0, (usize::from(byte & 0x3f) << 8 | usize::from(rest.next()?)) + 1),
            _ => ((byte >> 2 & 0x1f) + 1, usize::from(byte & 0b11) + 1),
        };
        if registers.len() + run > REGISTERS {
            return None;
        }
        registers.resize(registers.len() + run, value);
    }
    (registers.len() == REGISTERS).then_some(registers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_and_dense_of_the_same_registers_are_alike() {
        let header = |encoding: u8, cache: u8| [b"HYLL".as_slice(), &[encoding, 0, 0, 0], &[cache; 8]].concat();
        // All zero but for register 1, which is 3: one zero, one value, 16,382 zeros.
        let sparse = [header(1, 7), vec![0x00, 0x80 | (2 << 2), 0x40 | (16_381u16 >> 8) as u8, (16_381u16 & 255) as u8]].concat();
        let mut dense = [header(0, 9), vec![0; REGISTERS * 6 / 8]].concat();
        dense[HEADER_BYTES] = 3 << 6;
        dense[HEADER_BYTES + 1] = 3 >> 2;
        let registers_of = |bytes: &[u8]| registers(bytes).expect("a HyperLogLog");
        assert_eq!(registers_of(&sparse), registers_of(&dense));
        assert_eq!(registers_of(&sparse)[1], 3);
        assert_eq!(registers(b"HYLL, a string"), None);
        assert_eq!(registers(&sparse[..sparse.len() - 1]), None);
    }
}
