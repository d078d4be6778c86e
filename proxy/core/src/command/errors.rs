//! Errors that a server gives before it executes anything, word for word. They changed in 7.0
//! (`redis 7.0.15 server.c processCommand`, `redis 6.2.14 server.c processCommand`).

use super::Command;
use crate::resp::request::Request;

/// `-ERR unknown command`, with up to 128 bytes of its arguments.
#[must_use]
pub fn unknown_command(request: &Request<'_>, major: u32) -> Vec<u8> {
    let (open, close) = if major >= 7 { ("'", "' ") } else { ("`", "`, ") };
    let mut args = Vec::new();
    for arg in request.args_from(1) {
        if args.len() >= 128 {
            break;
        }
        let room = 128 - args.len();
        args.extend_from_slice(open.as_bytes());
        args.extend_from_slice(&arg[..arg.len().min(room)]);
        args.extend_from_slice(close.as_bytes());
    }
    let name = request.arg(0);
    let mut out = b"-ERR unknown command ".to_vec();
    out.extend_from_slice(if major >= 7 { b"'" } else { b"`" });
    out.extend_from_slice(&name[..name.len().min(128)]);
    out.extend_from_slice(if major >= 7 { b"'" } else { b"`" });
    out.extend_from_slice(b", with args beginning with: ");
    out.extend_from_slice(&args);
    one_line(out)
}

/// `-ERR unknown subcommand` of a container that the table knows.
#[must_use]
pub fn unknown_subcommand(request: &Request<'_>, major: u32) -> Vec<u8> {
    let container = String::from_utf8_lossy(request.arg(0)).to_ascii_uppercase();
    let mut out = if major >= 7 {
        b"-ERR unknown subcommand '".to_vec()
    } else {
        b"-ERR Unknown subcommand or wrong number of arguments for '".to_vec()
    };
    let sub = request.arg(1);
    out.extend_from_slice(&sub[..sub.len().min(128)]);
    // The period came with 6.0 (redis 5.0.14 networking.c addReplySubcommandSyntaxError).
    out.extend_from_slice(format!("'. Try {container} HELP{}", if major >= 6 || container == "COMMAND" { "." } else { "" }).as_bytes());
    one_line(out)
}

/// `-ERR wrong number of arguments`. Before 7.0 a subcommand had no number of arguments of its own.
#[must_use]
pub fn wrong_arity(command: &Command, request: &Request<'_>, major: u32) -> Vec<u8> {
    if major < 7 && command.name == "CLIENT KILL" {
        return b"-ERR syntax error\r\n".to_vec();
    }
    if major < 7 && request.len() > 1 && command.name.contains(' ') {
        return unknown_subcommand(request, major);
    }
    let name = if major >= 7 { command.error_name.as_str() } else { command.error_name.split('|').next().unwrap_or_default() };
    format!("-ERR wrong number of arguments for '{name}' command\r\n").into_bytes()
}

/// An error is one line: Redis replaces line breaks by blanks (networking.c addReplyErrorLength).
fn one_line(mut out: Vec<u8>) -> Vec<u8> {
    for byte in &mut out {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::{Spans, canonical};

    #[test]
    fn unknown_commands_are_named_as_redis_names_them() {
        let (mut frame, mut spans) = (Vec::new(), Spans::default());
        let request = canonical(&[b"FOO", b"a", b"b\r"], &mut frame, &mut spans);
        assert_eq!(unknown_command(&request, 7), b"-ERR unknown command 'FOO', with args beginning with: 'a' 'b ' \r\n");
        assert_eq!(unknown_command(&request, 6), b"-ERR unknown command `FOO`, with args beginning with: `a`, `b `, \r\n");
    }
}
