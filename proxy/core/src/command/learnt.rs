//! Commands that the table does not have and a server does: those of modules, and of releases newer than the table. What the server says
//! of them (`COMMAND INFO`) is enough to carry them: a read is a read, and the effect of a write is an image of its keys. Where
//! the keys cannot be told from the arguments alone, nothing would be mirrored, so the command is refused.

use super::keys::KeySpec;
use super::{Class, Command, KeyUse, Rule, Table};
use crate::limits::LEARNT_COMMANDS_MAX;
use crate::resp::downgrade::Shape;
use crate::resp::reply::Reply;
use std::sync::RwLock;

/// Definitions live as long as the process, like the table's rows: they are few, and requests in flight refer to them.
static LEARNT: RwLock<Vec<&'static Command>> = RwLock::new(Vec::new());

/// The row whose counters learnt commands share.
const COUNTED_AS: &str = "<OTHER>";

/// The definition learnt last under an upper-case name.
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    let learnt = LEARNT.read().ok()?;
    learnt.iter().rev().find(|command| command.name.as_bytes() == name).copied()
}

/// Makes a command of one element of a `COMMAND INFO` reply.
///
/// # Errors
/// Why it cannot be carried.
pub fn learn(name: &str, info: Reply<'_>) -> Result<&'static Command, &'static str> {
    let fields: Vec<Reply<'_>> = info.elements().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.integer());
    let Some((arity, flags)) = number(1).zip(fields.get(2)) else { return Err("the primary does not describe it") };
    let is = |flag: &str| flags.elements().any(|element| element.text() == flag.as_bytes());
    if fields.get(9).is_some_and(|subcommands| !subcommands.is_empty()) {
        return Err("it has subcommands, which are not known one by one");
    }
    if is("admin") || is("blocking") || is("pubsub") {
        return Err("it administers the server, blocks, or changes what its connection is for");
    }
    let keys = match fields.get(8).filter(|specs| !specs.is_empty()) {
        Some(specs) => specs.elements().map(key_spec).collect::<Option<Vec<_>>>(),
        None if is("movablekeys") => None,
        None => legacy(if is("readonly") { KeyUse::Source } else { KeyUse::Modify }, number(3), number(4), number(5)),
    };
    let Some(keys) = keys else { return Err("its keys cannot be told from its arguments") };
    let writes = is("write") || !is("readonly");
    if writes && keys.is_empty() {
        return Err("it may write, and names no keys");
    }
    remember(name, arity as i32, writes, keys)
}

fn remember(name: &str, arity: i32, writes: bool, keys: Vec<KeySpec>) -> Result<&'static Command, &'static str> {
    let class = if writes { Class::Write } else { Class::Read };
    let Ok(mut learnt) = LEARNT.write() else { return Err("it cannot be remembered") };
    let same = |known: &Command| known.name == name && (known.arity, known.class) == (arity, class) && known.keys == keys;
    if let Some(known) = learnt.iter().find(|known| same(known)) {
        return Ok(known);
    }
    if learnt.len() >= LEARNT_COMMANDS_MAX {
        return Err("too many commands have been learnt");
    }
    let lone_key = if keys.len() == 1 { keys[0].lone() } else { None };
    let command: &'static Command = Box::leak(Box::new(Command {
        name: Box::leak(name.to_owned().into_boxed_str()),
        error_name: name.to_ascii_lowercase(),
        arity,
        class,
        rule: if writes { Rule::Image } else { Rule::None },
        since: "",
        shape: Shape::Plain,
        // Its effect is an image.
        creates: false,
        index: Table::get().named(COUNTED_AS).map_or(0, |row| row.index),
        keys,
        lone_key,
        simple: false,
    }));
    learnt.push(command);
    Ok(command)
}

/// First key, last key, step: all that servers below 7.0 tell.
fn legacy(used: KeyUse, first: Option<i64>, last: Option<i64>, step: Option<i64>) -> Option<Vec<KeySpec>> {
    match (first?, last?, step?) {
        (0, _, _) => Some(Vec::new()),
        (first, last, step) if first > 0 && step > 0 => Some(vec![KeySpec::range_of(used, first as usize, last as i32, step as usize)]),
        _ => None,
    }
}

/// One key specification (redis 7.0.15 server.c addReplyCommandKeySpecs); None when it is of a kind that must be searched for.
fn key_spec(spec: Reply<'_>) -> Option<KeySpec> {
    let flags = field(spec, "flags")?;
    let has = |name: &str| flags.elements().any(|flag| flag.text() == name.as_bytes());
    if has("incomplete") || has("variable_flags") || has("not_key") {
        return None;
    }
    let used = if has("RO") { KeyUse::Source } else { KeyUse::Modify };
    let (begin, find) = (field(spec, "begin_search")?, field(spec, "find_keys")?);
    if field(begin, "type")?.text() != b"index" {
        return None;
    }
    let first = usize::try_from(field(field(begin, "spec")?, "index")?.integer()?).ok()?;
    let inner = field(find, "spec")?;
    let number = |name: &str| field(inner, name).and_then(|value| value.integer());
    match field(find, "type")?.text() {
        b"range" if number("limit")? <= 1 => {
            let last = number("lastkey")?;
            let last = if last >= 0 { first as i64 + last } else { last };
            Some(KeySpec::range_of(used, first, last as i32, usize::try_from(number("keystep")?).ok().filter(|step| *step > 0)?))
        }
        b"keynum" if number("firstkey")? == number("keynumidx")? + 1 => {
            let at = first + usize::try_from(number("keynumidx")?).ok()?;
            Some(KeySpec::counted(used, at, usize::try_from(number("keystep")?).ok().filter(|step| *step > 0)?))
        }
        _ => None,
    }
}

/// The value under a name, of a map or of the flat array that stands for one.
fn field<'a>(map: Reply<'a>, name: &str) -> Option<Reply<'a>> {
    let mut elements = map.elements();
    while let (Some(key), Some(value)) = (elements.next(), elements.next()) {
        if key.text() == name.as_bytes() {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::{Spans, canonical};

    fn check(name: &str, info: &str, line: &str, expect: &str) {
        let reply = info.replace(' ', "\r\n");
        let shown = match learn(name, Reply(reply.as_bytes())) {
            Err(reason) => reason.to_owned(),
            Ok(command) => {
                let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
                let (mut frame, mut spans) = (Vec::new(), Spans::default());
                let request = canonical(&args, &mut frame, &mut spans);
                let keys = command
                    .keys(&request)
                    .map(|key| format!(" {}{}", if key.used.writes() { 'w' } else { 'r' }, String::from_utf8_lossy(key.name)));
                format!("{}{}", command.class.word(), keys.collect::<String>())
            }
        };
        assert_eq!(shown, expect, "{name}");
    }

    #[test]
    fn commands_are_learnt_from_what_a_server_says() {
        check("M.OLD", "*6 +m.old :-2 ~1 +write :1 :-1 :2 ", "M.OLD a 1 b 2", "write wa wb");
        check("M.READ", "*6 +m.read :2 ~1 +readonly :1 :1 :1 ", "M.READ a", "read ra");
        check("M.NONE", "*6 +m.none :1 ~1 +write :0 :0 :0 ", "", "it may write, and names no keys");
        check("M.MOVE", "*6 +m.move :-2 ~2 +write +movablekeys :0 :0 :0 ", "", "its keys cannot be told from its arguments");
        check(
            "M.ADMIN",
            "*6 +m.admin :-2 ~1 +admin :0 :0 :0 ",
            "",
            "it administers the server, blocks, or changes what its connection is for",
        );
        check("M.GONE", "_ ", "", "the primary does not describe it");
        let spec = "*10 +m.num :-3 ~2 +write +movablekeys :0 :0 :0 *0 *0 *1 %3 $5 flags ~2 +OW +update $12 begin_search %2 $4 type $5 index $4 spec %1 $5 index :1 $9 find_keys %2 $4 type $6 keynum $4 spec %3 $9 keynumidx :0 $8 firstkey :1 $7 keystep :2 *0 ";
        check("M.NUM", spec, "M.NUM 2 a 1 b 2 EX 5", "write wa wb");
    }
}
