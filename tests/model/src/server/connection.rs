//! What a connection asks about itself and about the server: HELLO, CLIENT, INFO, PING, SELECT, TIME.
use super::*;
use std::fmt::Write;

pub(super) fn rows() -> Vec<Row> {
    fn row(name: &'static str, arity: i32, flags: u8, run: Handler) -> Row {
        Row { name, arity, flags, run }
    }
    vec![
        row("ping", -1, 0, ping),
        row("echo", 2, 0, |cx, a| {
            cx.c.out.bulk(a[1]);
            Ok(())
        }),
        row("hello", -1, 0, hello),
        row("auth", -2, 0, |_, _| {
            Err("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?".into())
        }),
        row("select", 2, 0, select),
        // These are executed by `process`; the handlers are never reached.
        row("multi", 1, NOW, |_, _| Ok(())),
        row("exec", 1, NOW, |_, _| Ok(())),
        row("discard", 1, NOW, |_, _| Ok(())),
        row("watch", -2, NOW, |_, _| Ok(())),
        row("unwatch", 1, 0, |_, _| Ok(())),
        row("info", -1, 0, info),
        row("time", 1, 0, time),
        row("client", -2, CONTAINER, |_, _| Ok(())),
        row("client|id", 2, 0, |cx, _| {
            cx.c.out.int(cx.c.id as i64);
            Ok(())
        }),
        row("client|setname", 3, 0, setname),
        row("client|getname", 2, 0, |cx, _| {
            let Conn { name, out, .. } = &mut *cx.c;
            out.maybe((!name.is_empty()).then_some(name.as_slice()));
            Ok(())
        }),
        row("client|info", 2, 0, |cx, _| {
            let text = describe(cx.c);
            cx.c.out.verbatim(&text);
            Ok(())
        }),
        row("client|list", -2, 0, list),
        row("client|kill", -3, 0, kill),
        row("client|no-evict", 3, 0, on_off),
        row("client|tracking", -3, 0, tracking),
    ]
}

/// `CLIENT TRACKING ON BCAST NOLOOP` and `OFF`; other modes are not known here.
fn tracking(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    match a[2].to_ascii_uppercase().as_slice() {
        b"ON" if a.len() == 5 && is(a[3], "BCAST") && is(a[4], "NOLOOP") && cx.c.out.resp3 => cx.c.tracking = true,
        b"OFF" if a.len() == 3 => cx.c.tracking = false,
        _ => return Err(SYNTAX.into()),
    }
    cx.c.out.ok();
    Ok(())
}

fn ping(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    match a.len() {
        1 => cx.c.out.simple("PONG"),
        2 => cx.c.out.bulk(a[1]),
        _ => return Err("ERR wrong number of arguments for 'ping' command".into()),
    }
    Ok(())
}

fn hello(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let mut resp3 = cx.c.out.resp3;
    if let Some(version) = a.get(1) {
        resp3 = match crate::reply::parse_i64(version) {
            Some(2) => false,
            Some(3) => true,
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
            None => return Err("ERR Protocol version is not an integer or out of range".into()),
        };
    }
    let mut at = 2;
    while at < a.len() {
        let left = a.len() - at - 1;
        if is(a[at], "SETNAME") && left >= 1 {
            cx.c.name = a[at + 1].to_vec();
            at += 2;
        } else if is(a[at], "AUTH") && left >= 2 {
            at += 3;
        } else {
            return Err(format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(a[at])).into());
        }
    }
    let id = cx.c.id as i64;
    let out = &mut cx.c.out;
    out.resp3 = resp3;
    out.map(7);
    out.bulk(b"server");
    out.bulk(b"redis");
    out.bulk(b"version");
    out.bulk(VERSION.as_bytes());
    out.bulk(b"proto");
    out.int(if resp3 { 3 } else { 2 });
    out.bulk(b"id");
    out.int(id);
    out.bulk(b"mode");
    out.bulk(b"standalone");
    out.bulk(b"role");
    out.bulk(b"master");
    out.bulk(b"modules");
    out.array(0);
    Ok(())
}

const VERSION: &str = "7.0.15";

fn select(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let number = super::int(a[1])?;
    if number < 0 || number as usize >= cx.s.dbs.len() {
        return Err("ERR DB index is out of range".into());
    }
    cx.c.db = number as usize;
    cx.c.out.ok();
    Ok(())
}

fn info(cx: &mut Ctx, _: &[&[u8]]) -> Done {
    let mut text = String::with_capacity(512);
    let s = &*cx.s;
    let clients = s.conns.len() + 1;
    let _ = write!(
        text,
        "# Server\r\nredis_version:{VERSION}\r\nredis_mode:standalone\r\nrun_id:{}\r\n\r\n# Clients\r\nconnected_clients:{clients}\r\n\r\n\
         # Persistence\r\nloading:0\r\n\r\n# Stats\r\ntotal_commands_processed:{}\r\nexpired_keys:{}\r\nevicted_keys:{}\r\n\r\n\
         # Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n# Keyspace\r\n",
        s.run_id, s.executed, s.expired_keys, s.evicted_keys
    );
    for (number, db) in s.dbs.iter().enumerate().filter(|(_, db)| !db.is_empty()) {
        let volatile = db.values().filter(|entry| entry.deadline_ms.is_some()).count();
        let _ = write!(text, "db{number}:keys={},expires={volatile},avg_ttl=0\r\n", db.len());
    }
    cx.c.out.verbatim(&text);
    Ok(())
}

fn time(cx: &mut Ctx, _: &[&[u8]]) -> Done {
    let now = cx.at.now;
    cx.c.out.array(2);
    cx.c.out.bulk((now / 1000).to_string().as_bytes());
    cx.c.out.bulk((now % 1000 * 1000).to_string().as_bytes());
    Ok(())
}

fn setname(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    if a[2].iter().any(|b| !(b'!'..=b'~').contains(b)) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.".into());
    }
    cx.c.name = a[2].to_vec();
    cx.c.out.ok();
    Ok(())
}

fn on_off(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    if !is(a[2], "ON") && !is(a[2], "OFF") {
        return Err(SYNTAX.into());
    }
    cx.c.out.ok();
    Ok(())
}

fn describe(c: &Conn) -> String {
    format!(
        "id={} addr={} laddr=127.0.0.1:6379 fd=8 name={} age=0 idle=0 flags=N db={} sub=0 psub=0 ssub=0 multi={} cmd=client resp={}\n",
        c.id,
        ModelServer::address_of(c.id),
        String::from_utf8_lossy(&c.name),
        c.db,
        c.queue.as_ref().map_or(-1, |queue| queue.len() as i64),
        if c.out.resp3 { 3 } else { 2 },
    )
}

fn list(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let wanted: Option<Vec<u64>> = match a.get(2) {
        None => None,
        Some(word) if is(word, "TYPE") && a.len() == 4 => None,
        Some(word) if is(word, "ID") && a.len() > 3 => {
            let ids: Option<Vec<u64>> = a[3..].iter().map(|id| crate::reply::parse_i64(id).map(|id| id as u64)).collect();
            Some(ids.ok_or("ERR Invalid client ID")?)
        }
        Some(_) => return Err(SYNTAX.into()),
    };
    let mut all: Vec<&Conn> = cx.s.conns.iter().filter(|c| !c.closed).chain(std::iter::once(&*cx.c)).collect();
    all.sort_by_key(|c| c.id);
    let text: String = all.into_iter().filter(|c| wanted.as_ref().is_none_or(|ids| ids.contains(&c.id))).map(describe).collect();
    cx.c.out.verbatim(&text);
    Ok(())
}

/// `CLIENT KILL addr` answers OK or an error; the filter form answers the number killed (redis 7.0 networking.c clientKill).
fn kill(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let mut id = None;
    let mut address = None;
    let mut skip_me = true;
    if a.len() == 3 {
        address = Some(a[2]);
        skip_me = false;
    } else {
        let mut at = 2;
        while at < a.len() {
            let Some(value) = a.get(at + 1) else { return Err(SYNTAX.into()) };
            if is(a[at], "ID") {
                let number = crate::reply::parse_i64(value).filter(|n| *n > 0).ok_or("ERR client-id should be greater than 0")?;
                id = Some(number as u64);
            } else if is(a[at], "ADDR") {
                address = Some(*value);
            } else if is(a[at], "SKIPME") && (is(value, "YES") || is(value, "NO")) {
                skip_me = is(value, "YES");
            } else {
                return Err(SYNTAX.into());
            }
            at += 2;
        }
    }
    let chosen = |c: &Conn| {
        !c.closed && id.is_none_or(|id| id == c.id) && address.is_none_or(|addr| addr == ModelServer::address_of(c.id).as_bytes())
    };
    let mut victims: Vec<ConnId> = cx.s.conns.iter().filter(|c| chosen(c)).map(|c| c.id).collect();
    if !skip_me && chosen(cx.c) {
        victims.push(cx.c.id);
    }
    if a.len() > 3 {
        cx.c.out.len(victims.len());
    } else if victims.is_empty() {
        return Err("ERR No such client".into());
    } else {
        cx.c.out.ok();
    }
    cx.c.closed |= victims.contains(&cx.c.id);
    cx.s.kills.extend(victims);
    Ok(())
}
