//! What most tests say to a server: a command that must not be refused, and a pipeline whose replies are read as text. A test that
//! is refused has nothing better to do than to stop, so these panic, and name the line of the test.

use crate::resp::{Client, Value, command};

/// The reply to a command, which is no error; arguments are what stands between white space.
#[track_caller]
pub fn ok(client: &mut Client, line: &str) -> Value {
    let words: Vec<&[u8]> = line.split_ascii_whitespace().map(str::as_bytes).collect();
    ok_call(client, &words)
}

/// The reply to a command of any bytes, which is no error.
#[track_caller]
pub fn ok_call(client: &mut Client, arguments: &[&[u8]]) -> Value {
    let line = || arguments.iter().map(|argument| argument.escape_ascii().to_string()).collect::<Vec<_>>().join(" ");
    let reply = client.call(arguments).unwrap_or_else(|error| panic!("{}: {error}", line()));
    assert!(!reply.is_error(), "{} answers {reply}", line());
    reply
}

/// The replies to these commands, sent at once, as text.
#[track_caller]
pub fn pipeline(client: &mut Client, lines: &[&str]) -> Vec<String> {
    let commands: Vec<_> = lines.iter().map(|line| command(line)).collect();
    let replies = client.pipeline(&commands).unwrap_or_else(|error| panic!("{lines:?}: {error}"));
    replies.iter().map(Value::to_string).collect()
}
