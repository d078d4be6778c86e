//! A plain reader of two servers, and a plain copier from one to another: the measures for the speed of verify and of the backfill.
//!
//! The reader walks both with SCAN, reads every key's DUMP and PTTL on both in
//! pipelines, and compares the bytes. It knows nothing of order, so it is right only on servers at rest, and it holds a pipeline of replies
//! from both at a time, which keeps both at work.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};

use crate::resp::encode;

/// Keys per pipeline, as many as verify reads in one go.
const PIPELINE: usize = 64;

struct Line {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Line {
    fn open(address: &str) -> Result<Line> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let replies = BufReader::with_capacity(256 * 1024, stream.try_clone()?);
        Ok(Line { stream, replies })
    }

    fn header(&mut self) -> Result<(u8, i64)> {
        let mut line = Vec::with_capacity(32);
        self.replies.read_until(b'\n', &mut line)?;
        let text = std::str::from_utf8(line.get(1..line.len().saturating_sub(2)).unwrap_or_default())?;
        Ok((line[0], text.parse().with_context(|| text.to_owned())?))
    }

    /// Appends a bulk string or a number to `out`.
    fn leaf(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let (mark, number) = self.header()?;
        match mark {
            b'$' if number >= 0 => {
                let from = out.len();
                out.resize(from + number as usize + 2, 0);
                self.replies.read_exact(&mut out[from..])?;
                out.truncate(out.len() - 2);
            }
            b'$' | b':' => out.extend_from_slice(&number.to_le_bytes()),
            other => bail!("an answer that begins with {:?}", char::from(other)),
        }
        Ok(())
    }

    /// So many replies that say OK.
    fn accepted(&mut self, replies: usize) -> Result<()> {
        for _ in 0..replies {
            let mut line = Vec::with_capacity(8);
            self.replies.read_until(b'\n', &mut line)?;
            if line[0] != b'+' {
                bail!("{}", String::from_utf8_lossy(&line));
            }
        }
        Ok(())
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>> {
        let (mut cursor, mut keys) = (b"0".to_vec(), Vec::new());
        loop {
            let mut frame = Vec::new();
            encode(&[b"SCAN".as_slice(), &cursor, b"COUNT", b"256"], &mut frame);
            self.stream.write_all(&frame)?;
            self.header()?;
            cursor.clear();
            self.leaf(&mut cursor)?;
            for _ in 0..self.header()?.1 {
                let mut key = Vec::new();
                self.leaf(&mut key)?;
                keys.push(key);
            }
            if cursor == b"0" {
                return Ok(keys);
            }
        }
    }
}

/// Copies every key of one server to another that is empty, with SCAN, DUMP, PTTL and RESTORE in pipelines; how many. While one batch is read,
/// the one before is being restored.
pub fn copy_all(from: &str, to: &str) -> Result<usize> {
    let (mut from, mut to) = (Line::open(from)?, Line::open(to)?);
    let keys = from.keys()?;
    let mut restoring = 0;
    let ask = |from: &mut Line, batch: &[Vec<u8>]| -> Result<()> {
        let mut frame = Vec::with_capacity(batch.len() * 80);
        for key in batch {
            encode(&[b"DUMP".as_slice(), key], &mut frame);
            encode(&[b"PTTL".as_slice(), key], &mut frame);
        }
        Ok(from.stream.write_all(&frame)?)
    };
    let batches: Vec<&[Vec<u8>]> = keys.chunks(PIPELINE).collect();
    if let Some(first) = batches.first() {
        ask(&mut from, first)?;
    }
    for (at, batch) in batches.iter().enumerate() {
        if let Some(next) = batches.get(at + 1) {
            ask(&mut from, next)?;
        }
        let (mut frame, mut dump) = (Vec::new(), Vec::new());
        for key in *batch {
            dump.clear();
            from.leaf(&mut dump)?;
            let ttl = from.header()?.1.max(0).to_string();
            encode(&[b"RESTORE".as_slice(), key, ttl.as_bytes(), &dump, b"REPLACE"], &mut frame);
        }
        to.stream.write_all(&frame)?;
        to.accepted(std::mem::replace(&mut restoring, batch.len()))?;
    }
    to.accepted(restoring)?;
    Ok(keys.len())
}

/// Reads every key of `old` on both, and every key of `new`; how many keys, and how many differ (times to live aside).
pub fn read_both(old: &str, new: &str) -> Result<(usize, usize)> {
    let (mut old, mut new) = (Line::open(old)?, Line::open(new)?);
    let keys = old.keys()?;
    let extra = new.keys()?.len().abs_diff(keys.len());
    let mut differing = extra;
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for batch in keys.chunks(PIPELINE) {
        let mut frame = Vec::with_capacity(PIPELINE * 80);
        for key in batch {
            encode(&[b"DUMP".as_slice(), key], &mut frame);
            encode(&[b"PTTL".as_slice(), key], &mut frame);
        }
        old.stream.write_all(&frame)?;
        new.stream.write_all(&frame)?;
        for _ in batch {
            let mut times = Vec::new();
            one.clear();
            other.clear();
            old.leaf(&mut one)?;
            old.leaf(&mut times)?;
            new.leaf(&mut other)?;
            new.leaf(&mut times)?;
            differing += usize::from(one != other);
        }
    }
    Ok((keys.len(), differing))
}
