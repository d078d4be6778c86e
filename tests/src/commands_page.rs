//! `docs/commands.md`, made from the table of commands and `docs/commands.notes.tsv`. A test compares the file with it, so the
//! page cannot drift.

use std::fmt::Write;
use twinlane_core::command::{Class, Command, Rule, Table};

const NOTES: &str = include_str!("../../docs/commands.notes.tsv");

const HEAD: &str = "# Commands

Every command, how it is handled, and what differs from a plain Redis. Made from `proxy/core/src/command/table.tsv` and `docs/commands.notes.tsv`
by `cargo run -p twinlane-tests --bin commands_page > docs/commands.md`; a test fails when it is stale.

## What differs from a plain server, in short

- **Errors at EXEC.** A transaction is queued here and reaches the server at EXEC. Wrong commands, arities and refusals are told when they are
  queued, as Redis does; what only the server knows (`-OOM`, `-NOPERM`, `-MISCONF`) is told by EXEC, as `-EXECABORT` with its reason (H44).
- **Timeouts** of the proxy's own (CLIENT PAUSE) end up to 10 ms late: that is how often it looks at the clock.
- **Clients are the proxy's clients.** CLIENT LIST, KILL, PAUSE and INFO's fields about clients speak of them; the servers see lanes. Slow log,
  latency monitor, command statistics and MONITOR are the primary's: they show lanes, and lack what the proxy answers itself (PING, ECHO, SELECT, AUTH,
  HELLO, CLIENT).
- **Reserved keys.** One key in database 0, `__twinlane:record`, marks each side. It is left out of KEYS, SCAN, RANDOMKEY, DBSIZE, INFO and MEMORY STATS;
  commands that name a key beginning with `__twinlane:` are refused.
- **Administration is refused** unless `commands.allow` names the command; the refusal is an error that begins with `ERR twinlane:`. What ends or blocks a
  server, replicates it or moves keys can never be allowed.
- **Inside MULTI** a connection's own commands (CLIENT, AUTH, HELLO, ...) are queued and done at their place in EXEC, as in Redis; CLIENT REPLY, going on with a
  cursor and SCRIPT KILL are refused there, and EXEC aborts.
- **A command, or a subcommand, that the primary's version does not have** is answered with that version's own error. A cutover can change the version.
- **Unknown options** of known commands reach the primary: its error goes to the client and has no effect; where it accepts them, the effect is an image
  of the written keys.
- **Protocol.** Lanes speak RESP3 from 6.0 on; RESP2 clients get their replies converted. Against 5.0 only RESP2 is spoken.

## How to read the table

| handled as | means |
|---|---|
";

const CLASSES: [Class; 13] = [
    Class::Read,
    Class::Cursor,
    Class::Write,
    Class::Blocking,
    Class::Keyless,
    Class::Barrier,
    Class::Forward,
    Class::Local,
    Class::Transaction,
    Class::Feed,
    Class::Own,
    Class::Aside,
    Class::Refused,
];

fn class_sentence(class: Class) -> &'static str {
    match class {
        Class::Read => "sent to the primary; no effect on the mirror",
        Class::Cursor => "sent to the side that gave its cursor",
        Class::Write => "sent to the primary; its effect follows on the mirror at the same place in the order",
        Class::Blocking => {
            "sent in a form that does not wait; a client that must wait is parked in the proxy and served behind the write that can serve it"
        }
        Class::Keyless => "sent to the primary, then to the mirror; it has no keys",
        Class::Barrier => "runs alone, when nothing else is in flight",
        Class::Forward => "sent to the primary; it speaks of that server",
        Class::Local => "answered by the proxy: it concerns the client's connection, which no server sees",
        Class::Transaction => "queued in the proxy, sent as one block at EXEC",
        Class::Feed => "on a connection of the client's own, which moves with a flip",
        Class::Own => "on a connection of the client's own, since it holds that up",
        Class::Aside => "beside all others, where a server that is busy with a script answers it",
        Class::Refused => "refused: it administers a server or a connection that others share",
    }
}

/// What the mirror gets.
fn effect(command: &Command) -> &'static str {
    match command.rule {
        Rule::None => "",
        Rule::Replay => "the same command, replies compared",
        Rule::ReplayUnlessZero => "the same command, unless the reply is 0",
        Rule::ReplayUnlessNil => "the same command, unless the reply is nil",
        Rule::Delete | Rule::Remove => "the same command, always",
        Rule::Image => "images of the keys it writes",
        Rule::Script => "images of the declared keys, also after an error",
        Rule::Keyless => "the same command, as a barrier where it has to be one",
        Rule::Publish => "the same command, at most once (`mirror.publish`)",
        Rule::FlushDb => "the same command",
        Rule::ZAdd | Rule::LInsert | Rule::BitField => "the same command, where it had an effect",
        Rule::FlushAll | Rule::SwapDb => "the same command, when the mirror is idle",
        Rule::PfCount => "the same command where it only refreshes a cached count",
        Rule::Move => "images of both databases' key",
        Rule::Sort | Rule::GeoRadius => "an image of the destination of STORE",
        Rule::SPop => "SREM of what came out",
        Rule::IncrByFloat => "the result, set",
        Rule::HIncrByFloat => "the result, set; the same command where fields have times to live",
        Rule::Set | Rule::SetEx | Rule::SetNx | Rule::GetSet | Rule::MSetNx => "what was set, its condition stripped and its time re-based",
        Rule::GetDel => "DEL",
        Rule::GetEx | Rule::Expire | Rule::Restore => "its time re-based with the margin, or DEL",
        Rule::XReadGroup => "the same command: equal groups deliver equally",
        Rule::XClaim | Rule::XAutoClaim => "XCLAIM of what was claimed, or an image",
        _ => "rewritten from the reply",
    }
}

fn note(command: &Command) -> &'static str {
    let lines = || NOTES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t'));
    let family = |name: &str| name.strip_suffix(" *").is_some_and(|container| container == command.container());
    let exact = lines().find(|(name, _)| *name == command.name);
    exact.or_else(|| lines().find(|(name, _)| family(name))).map_or("", |(_, note)| note)
}

/// The page.
#[must_use]
pub fn page() -> String {
    let mut out = HEAD.to_owned();
    for class in CLASSES {
        let _ = writeln!(out, "| {} | {} |", class.word(), class_sentence(class));
    }
    out.push_str(
        "\n## The table\n\n| command | since | handled as | on the mirror | differs from a plain server |\n|---|---|---|---|---|\n",
    );
    for command in Table::get().rows() {
        let allow = if command.can_be_allowed() { "Can be allowed (`commands.allow`). " } else { "" };
        let line = format!(
            "| `{}` | {} | {} | {} | {allow}{} |",
            command.name,
            command.since,
            command.class.word(),
            effect(command),
            note(command)
        );
        let _ = writeln!(out, "{}", line.replace("  |", " |"));
    }
    out.push_str(
        "\n## What is not in the table\n\n- `SENTINEL` and its subcommands: a server that is no sentinel does not know them, and its own error is given.\n\
         - Commands of modules, and of releases newer than the table: at the first use of one the primary is asked what it is (`COMMAND INFO`). A read is \
         a read; the effect of a write is an image of its keys. One that administers, blocks, has subcommands, or whose keys cannot be told from its \
         arguments is refused with that reason. RESP2 clients get its RESP3 replies converted mechanically: a nil array comes as a nil string.\n",
    );
    out
}

/// Notes that no command has: a name was mistyped, or its row is gone.
#[must_use]
pub fn stray_notes() -> Vec<&'static str> {
    let lines = NOTES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t'));
    let known = |name: &str| {
        let container = name.strip_suffix(" *").unwrap_or(name);
        Table::get().rows().iter().any(|row| row.name == name || (name.ends_with(" *") && row.container() == container))
    };
    lines.map(|(name, _)| name).filter(|name| !known(name)).collect()
}
