//! Streams: ids the server chose, trims it rounded, claims that depend on its clock.

use super::{Effect, Executed, Expect, rewritten};
use crate::resp::encode::number;
use crate::resp::reply::{Reply, fingerprint};
use crate::resp::request::Request;

/// What XREAD and XREADGROUP were asked for.
#[derive(Debug, Clone, Copy)]
pub struct ReadOptions {
    /// Where BLOCK stands.
    pub block_at: Option<usize>,
    /// Where COUNT stands.
    pub count_at: Option<usize>,
    /// Where GROUP stands.
    pub group_at: Option<usize>,
    /// NOACK.
    pub noack: bool,
    /// The first key; as many ids as keys follow them.
    pub keys_at: usize,
    /// How many keys there are.
    pub keys: usize,
}

/// The options of XREAD or XREADGROUP as Redis reads them (t_stream.c xreadCommand); None when it would answer with an error, or
/// has options that we do not know.
#[must_use]
pub fn read_options(request: &Request<'_>) -> Option<ReadOptions> {
    let mut found = ReadOptions { block_at: None, count_at: None, group_at: None, noack: false, keys_at: 0, keys: 0 };
    let mut at = 1;
    while at < request.len() {
        let more = request.len() - at - 1;
        match () {
            () if request.is(at, "BLOCK") && more >= 1 => found.block_at = Some(at),
            () if request.is(at, "COUNT") && more >= 1 => found.count_at = Some(at),
            () if request.is(at, "GROUP") && more >= 2 => {
                found.group_at = Some(at);
                at += 1;
            }
            () if request.is(at, "NOACK") => {
                found.noack = true;
                at += 1;
                continue;
            }
            () if request.is(at, "STREAMS") && more >= 2 && more.is_multiple_of(2) => {
                (found.keys_at, found.keys) = (at + 1, more / 2);
                return Some(found);
            }
            () => return None,
        }
        at += 2;
    }
    None
}

/// Options between key and id of XADD, or behind the key of XTRIM.
struct Trim {
    /// Where the id of XADD lies.
    id_at: usize,
    /// The trim's words, empty when there is none.
    words: (usize, usize),
    approximate: bool,
}

fn trim(request: &Request<'_>) -> Trim {
    let mut found = Trim { id_at: 2, words: (0, 0), approximate: false };
    loop {
        let at = found.id_at;
        if request.is(at, "NOMKSTREAM") {
            found.id_at += 1;
        } else if request.is(at, "MAXLEN") || request.is(at, "MINID") {
            let marked = matches!(request.arg(at + 1), b"=" | b"~");
            found.approximate = request.arg(at + 1) == b"~";
            found.id_at += if marked { 3 } else { 2 };
            found.words = (at, found.id_at);
        } else if request.is(at, "LIMIT") {
            found.id_at += 2;
        } else {
            return found;
        }
    }
}

/// Whether the stream's length must be asked for in the same block: an approximate trim stops where the server's own nodes end,
/// and its reply does not say where (t_stream.c streamTrim; Redis rewrites it with the final length for its replicas).
#[must_use]
pub fn wants_length(request: &Request<'_>, name: &str) -> bool {
    matches!(name, "XADD" | "XTRIM") && trim(request).approximate
}

/// `XADD k [exact trim] <the id that came> f v ...` (t_stream.c xaddCommand).
pub(super) fn xadd(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    if done.reply.is_null() {
        return Effect::Nothing;
    }
    let request = done.request;
    let options = trim(&request);
    let length = number(done.length.unwrap_or(0));
    let mut command: Vec<&[u8]> = vec![b"XADD", request.arg(1)];
    match (options.approximate, done.length) {
        (true, Some(_)) => command.extend([b"MAXLEN" as &[u8], b"=", &length]),
        (true, None) => return Effect::Image,
        (false, _) => command.extend((options.words.0..options.words.1).map(|at| request.arg(at))),
    }
    command.push(done.reply.text());
    command.extend(request.args_from(options.id_at + 1));
    rewritten(out, &[&command], Expect::same(done.reply), false)
}

/// `XTRIM k MAXLEN = <the length it has now>` for an approximate trim.
pub(super) fn xtrim(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    if done.reply.integer() == Some(0) {
        return Effect::Nothing;
    }
    if !trim(&done.request).approximate {
        return Effect::Replay(Expect::same(done.reply));
    }
    let Some(length) = done.length else { return Effect::Image };
    rewritten(out, &[&[b"XTRIM", done.request.arg(1), b"MAXLEN", b"=", &number(length)]], Expect::same(done.reply), false)
}

/// `XCLAIM k g c 0 <the ids that were claimed> <options>`: idle times are the server's own. The ids that were not claimed go
/// along with an idle time nothing can have, because XCLAIM also forgets pending entries that the stream has lost
/// (7.0, t_stream.c xclaimCommand).
pub(super) fn xclaim(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let request = done.request;
    let is_id = |at: usize| request.arg(at).first().is_some_and(u8::is_ascii_digit);
    let options_at = (5..request.len()).find(|at| !is_id(*at)).unwrap_or(request.len());
    if done.reply.elements().any(Reply::is_null) {
        return Effect::Image;
    }
    let claimed = claimed_ids(done.reply);
    let left: Vec<&[u8]> =
        (5..options_at).map(|at| request.arg(at)).filter(|id| !claimed.iter().any(|claimed| same_id(claimed, id))).collect();
    let (key, group, consumer) = (request.arg(1), request.arg(2), request.arg(3));
    let last_id = (options_at..request.len()).find(|at| request.is(*at, "LASTID"));
    let mut frames = 0;
    if !left.is_empty() && !done.clock.claims_alike {
        return Effect::Image;
    }
    // Whether a consumer that claims nothing is created depends on the version.
    match (claimed.is_empty(), done.clock.eager_consumers, done.clock.eager_mirror) {
        (true, false, true) => return Effect::Image,
        (true, true, false) => {
            crate::resp::encode::push_request(out, &[b"XGROUP", b"CREATECONSUMER", key, group, consumer]);
            frames += 1;
        }
        _ => {}
    }
    if !left.is_empty() {
        let mut command: Vec<&[u8]> = vec![b"XCLAIM", key, group, consumer, NEVER_IDLE];
        command.extend(left);
        command.push(b"JUSTID");
        command.extend(last_id.into_iter().flat_map(|at| [request.arg(at), request.arg(at + 1)]));
        crate::resp::encode::push_request(out, &command);
        frames += 1;
    }
    if !claimed.is_empty() {
        let mut command: Vec<&[u8]> = vec![b"XCLAIM", key, group, consumer, b"0"];
        command.extend(claimed);
        command.extend(request.args_from(options_at));
        crate::resp::encode::push_request(out, &command);
        frames += 1;
    }
    let expect = if done.reply.is_empty() { Expect::Any } else { Expect::same(done.reply) };
    Effect::Rewritten { frames, expect, total: false }
}

/// The same read. A read that finds nothing creates its consumer in some versions and not in others (t_stream.c xreadCommand).
pub(super) fn xreadgroup(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let request = done.request;
    let replay = Effect::Replay(Expect::same(done.reply));
    let find = |word| (1..request.len()).find(|at| request.is(*at, word));
    let (Some(group_at), Some(streams_at)) = (find("GROUP"), find("STREAMS")) else { return replay };
    let streams = (request.len() - streams_at - 1) / 2;
    let parts = if done.reply.is_null() { 0 } else { done.reply.elements().count() };
    let served = if done.reply.0.first() == Some(&b'%') { parts / 2 } else { parts };
    match (served, done.clock.eager_consumers, done.clock.eager_mirror) {
        (0, false, _) => Effect::Nothing,
        (0, true, false) => {
            let (group, consumer) = (request.arg(group_at + 1), request.arg(group_at + 2));
            for key in request.args_from(streams_at + 1).take(streams) {
                crate::resp::encode::push_request(out, &[b"XGROUP", b"CREATECONSUMER", key, group, consumer]);
            }
            Effect::Rewritten { frames: streams as u32, expect: Expect::Any, total: false }
        }
        (served, primary, mirror) if served < streams && primary != mirror => Effect::Image,
        _ => match read_options(&request).and_then(|options| options.block_at) {
            None => replay,
            // In a transaction it did not wait; on the mirror it must not either.
            Some(at) => {
                let rest: Vec<&[u8]> = (0..request.len()).filter(|arg| *arg != at && *arg != at + 1).map(|arg| request.arg(arg)).collect();
                rewritten(out, &[&rest], Expect::same(done.reply), false)
            }
        },
    }
}

/// More milliseconds than any entry has been idle.
const NEVER_IDLE: &[u8] = b"9223372036854775807";

/// XCLAIM of what came, XACK of what the stream had lost (t_stream.c xautoclaimCommand).
pub(super) fn xautoclaim(done: &Executed<'_>, out: &mut Vec<u8>) -> Effect {
    let request = done.request;
    let mut parts = done.reply.elements().skip(1);
    let (Some(entries), lost) = (parts.next(), parts.next()) else { return Effect::Nothing };
    if entries.elements().any(Reply::is_null) {
        return Effect::Image;
    }
    let (key, group, consumer) = (request.arg(1), request.arg(2), request.arg(3));
    let lost: Vec<&[u8]> = lost.into_iter().flat_map(Reply::elements).map(Reply::text).collect();
    let claimed = claimed_ids(entries);
    let mut frames = 0;
    let mut expect = Expect::Any;
    let mut push = |command: &[&[u8]]| {
        crate::resp::encode::push_request(out, command);
        frames += 1;
    };
    if !lost.is_empty() {
        let mut command: Vec<&[u8]> = vec![b"XACK", key, group];
        command.extend(lost);
        push(&command);
    }
    if !claimed.is_empty() {
        let mut command: Vec<&[u8]> = vec![b"XCLAIM", key, group, consumer, b"0"];
        command.extend(claimed);
        if (5..request.len()).any(|at| request.is(at, "JUSTID")) {
            command.push(b"JUSTID");
        }
        push(&command);
        expect = Expect::Same { fingerprint: fingerprint([entries].into_iter(), false), numeric: false };
    } else if done.clock.eager_consumers {
        push(&[b"XGROUP", b"CREATECONSUMER", key, group, consumer]);
    }
    if frames == 0 { Effect::Nothing } else { Effect::Rewritten { frames, expect, total: false } }
}

/// Ids of claimed entries: the elements themselves with JUSTID, else the first of each.
fn claimed_ids(entries: Reply<'_>) -> Vec<&[u8]> {
    entries
        .elements()
        .filter_map(|entry| if entry.is_aggregate() { entry.elements().next() } else { Some(entry) })
        .map(Reply::text)
        .collect()
}

/// `5` and `5-0` name the same entry.
fn same_id(full: &[u8], given: &[u8]) -> bool {
    full == given || full.strip_suffix(b"-0") == Some(given)
}
