//! EVAL for a fixed repertoire of scripts, known by their text. Some depend on time or chance, so that two servers that
//! run the same script hold different values: what the proxy must not replay.
use super::*;
use crate::reply::i64_text;

/// `SET KEYS[1]` to the server's time in ms.
pub const SET_TIME: &str = "local t = redis.call('TIME') redis.call('SET', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000)) return 'OK'";
/// `SET KEYS[1]` to a random number.
pub const SET_RANDOM: &str = "redis.call('SET', KEYS[1], math.random(1, 1000000)) return 'OK'";
/// Pops from the set `KEYS[1]` into the list `KEYS[2]`; answers the member or nil.
pub const POP_TO_LIST: &str = "local m = redis.call('SPOP', KEYS[1]) if m then redis.call('RPUSH', KEYS[2], m) end return m";
/// `INCRBY KEYS[1] ARGV[1]`.
pub const INCREMENT: &str = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
/// Deletes `KEYS[1]` if it holds `ARGV[1]`: the unlock of a lock.
pub const UNLOCK: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
/// Writes `KEYS[1]` and then fails: the effect before the error stays.
pub const WRITE_THEN_FAIL: &str = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('LPUSH', KEYS[1], 'x')";
/// Writes a key that is not declared.
pub const UNDECLARED: &str = "redis.call('SET', ARGV[1], 'undeclared') return 'OK'";
/// Reads `KEYS[1]`.
pub const READ: &str = "return redis.call('GET', KEYS[1])";

/// Every script of the repertoire that the model runs.
pub const REPERTOIRE: [&str; 8] = [SET_TIME, SET_RANDOM, POP_TO_LIST, INCREMENT, UNLOCK, WRITE_THEN_FAIL, UNDECLARED, READ];

pub(super) fn rows() -> Vec<Row> {
    vec![Row { name: "eval", arity: -3, flags: WRITE, run: eval }]
}

/// The 40 hex digits of the script are not computed: `<sha>` stands in error texts.
fn eval(cx: &mut Ctx, a: &[&[u8]]) -> Done {
    let count = int(a[2])?;
    if count > a.len() as i64 - 3 {
        return Err("ERR Number of keys can't be greater than number of args".into());
    }
    if count < 0 {
        return Err("ERR Number of keys can't be negative".into());
    }
    let (keys, argv) = a[3..].split_at(count as usize);
    let key = |at: usize| {
        keys.get(at)
            .copied()
            .ok_or(Fail::from("ERR Lua redis lib command arguments must be strings or integers script: <sha>, on @user_script:1."))
    };
    let arg = |at: usize| {
        argv.get(at)
            .copied()
            .ok_or(Fail::from("ERR Lua redis lib command arguments must be strings or integers script: <sha>, on @user_script:1."))
    };
    match std::str::from_utf8(a[1]).unwrap_or_default() {
        SET_TIME => {
            let now = cx.at.now as i64;
            cx.s.put(cx.at, key(0)?, Value::Str(i64_text(now)), None);
            cx.c.out.bulk(b"OK");
        }
        SET_RANDOM => {
            let number = cx.s.rng.between(1, 1_000_000);
            cx.s.put(cx.at, key(0)?, Value::Str(i64_text(number)), None);
            cx.c.out.bulk(b"OK");
        }
        POP_TO_LIST => {
            let (set, list) = (key(0)?, key(1)?);
            let len = cx.s.members(cx.at, set).map_err(in_script)?.map_or(0, |set| set.len());
            let at = cx.s.rng.index(len);
            match cx.s.members(cx.at, set)?.map(|set| set.remove(at)) {
                None => cx.c.out.null(),
                Some(member) => {
                    cx.s.tidy(cx.at, set);
                    cx.c.out.bulk(&member);
                    cx.s.make_list(cx.at, list).map_err(in_script)?.push_back(member);
                }
            }
        }
        INCREMENT => {
            let by = int(arg(0)?).map_err(in_script)?;
            let old = match cx.s.string(cx.at, key(0)?).map_err(in_script)? {
                Some(text) => int(text).map_err(in_script)?,
                None => 0,
            };
            let new = old.checked_add(by).ok_or_else(|| in_script("ERR increment or decrement would overflow".into()))?;
            *cx.s.make_string(cx.at, key(0)?)? = i64_text(new);
            cx.c.out.int(through_lua(new));
        }
        UNLOCK => {
            let held = cx.s.string(cx.at, key(0)?).map_err(in_script)?.is_some_and(|value| argv.first() == Some(&value.as_slice()));
            if held {
                cx.s.remove(cx.at, key(0)?);
            }
            cx.c.out.flag(held);
        }
        WRITE_THEN_FAIL => {
            cx.s.put(cx.at, key(0)?, Value::Str(arg(0)?.to_vec()), None);
            return Err(in_script(WRONGTYPE.into()));
        }
        UNDECLARED => {
            cx.s.put(cx.at, arg(0)?, Value::Str(b"undeclared".to_vec()), None);
            cx.c.out.bulk(b"OK");
        }
        READ => {
            let value = cx.s.string(cx.at, key(0)?).map_err(in_script)?.map(|value| value.clone());
            cx.c.out.maybe(value.as_deref());
        }
        _ => return Err("ERR the model does not know this script".into()),
    }
    Ok(())
}

/// An integer passes through Lua as a double; beyond 2^63 its conversion back gives the smallest integer (on x86).
fn through_lua(number: i64) -> i64 {
    let double = number as f64;
    if double >= 9_223_372_036_854_775_808.0 { i64::MIN } else { double as i64 }
}

/// How 7.0 decorates an error raised by `redis.call`.
fn in_script(fail: Fail) -> Fail {
    format!("{} script: <sha>, on @user_script:1.", fail.0).into()
}
