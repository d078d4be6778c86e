//! SUBSCRIBE, PSUBSCRIBE, their opposites, and PUBLISH. A message is in its receivers' output when PUBLISH has been answered;
//! [`ModelServer::end_turn`] tells whose output grew.
use super::*;

pub(super) fn rows() -> Vec<Row> {
    fn row(name: &'static str, arity: i32, run: Handler) -> Row {
        Row { name, arity, flags: 0, run }
    }
    vec![
        row("subscribe", -2, |cx, a| change(cx, "subscribe", &a[1..])),
        row("unsubscribe", -1, |cx, a| change(cx, "unsubscribe", &a[1..])),
        row("psubscribe", -2, |cx, a| change(cx, "psubscribe", &a[1..])),
        row("punsubscribe", -1, |cx, a| change(cx, "punsubscribe", &a[1..])),
        row("publish", 3, publish),
    ]
}

/// A connection's channels and patterns, in order of subscription.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    channels: Vec<Vec<u8>>,
    patterns: Vec<Vec<u8>>,
}

impl Subscriptions {
    fn len(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }
}

/// A push in RESP3, an array in RESP2.
fn head(out: &mut Out, len: usize) {
    let from = out.bytes.len();
    out.array(len);
    if out.resp3 {
        out.bytes[from] = b'>';
    }
}

/// One confirmation for each name; one with a nil where everything is given up and nothing was there.
fn change(cx: &mut Ctx, kind: &'static str, names: &[&[u8]]) -> Done {
    let subscriptions = &mut cx.c.subscriptions;
    let mut names: Vec<Option<Vec<u8>>> = names.iter().map(|name| Some(name.to_vec())).collect();
    let ends = kind.contains("un");
    if names.is_empty() {
        let held = if kind.starts_with('p') { &subscriptions.patterns } else { &subscriptions.channels };
        names = held.iter().cloned().map(Some).collect();
        if names.is_empty() {
            names.push(None);
        }
    }
    for name in names {
        let held = if kind.starts_with('p') { &mut subscriptions.patterns } else { &mut subscriptions.channels };
        if let Some(name) = &name {
            held.retain(|known| !ends || known != name);
            if !ends && !held.contains(name) {
                held.push(name.clone());
            }
        }
        let count = subscriptions.len();
        head(&mut cx.c.out, 3);
        cx.c.out.bulk(kind.as_bytes());
        cx.c.out.maybe(name.as_deref());
        cx.c.out.len(count);
    }
    Ok(())
}

/// Answers how many got it; a connection gets it once for each subscription that fits.
fn publish(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let (channel, text) = (a[1], a[2]);
    let mut receivers = 0;
    // The connection that runs is not in the table; it hears itself before its reply (redis 7.0).
    let others = cx.s.conns.iter_mut().filter(|conn| !conn.closed && !conn.hung_up);
    for conn in others.chain(std::iter::once(&mut *cx.c)) {
        let before = receivers;
        if conn.subscriptions.channels.iter().any(|known| known == channel) {
            head(&mut conn.out, 3);
            conn.out.bulk(b"message");
            conn.out.bulk(channel);
            conn.out.bulk(text);
            receivers += 1;
        }
        for pattern in conn.subscriptions.patterns.iter().filter(|pattern| glob(pattern, channel)) {
            head(&mut conn.out, 4);
            conn.out.bulk(b"pmessage");
            conn.out.bulk(pattern);
            conn.out.bulk(channel);
            conn.out.bulk(text);
            receivers += 1;
        }
        if receivers > before {
            cx.s.told.push(conn.id);
        }
    }
    cx.c.out.len(receivers);
    Ok(())
}
