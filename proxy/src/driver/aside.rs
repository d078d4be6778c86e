//! Questions beside the lanes: a server that is busy with a script answers them when the lane that brought the script cannot.
//! One connection to each side is opened beforehand and kept, since a busy server is slow to greet a new one; a second question at
//! the same time opens another.

use super::Shell;
use crate::net::Stream;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use twinlane_core::endpoint::Endpoint;
use twinlane_core::resp::reply::Scanner;
use twinlane_core::sequencer::Asked;

/// Longest wait for an answer: a server is deaf up to its own time limit of scripts, 5 seconds where nobody changed it.
const DEADLINE: Duration = Duration::from_secs(60);

/// Largest answer: FUNCTION STATS names one script and a few engines.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Carries out [`Action::AskAside`](twinlane_core::sequencer::Action::AskAside).
pub(super) async fn ask(shell: Rc<Shell>, side: Endpoint, asked: Asked, frame: Vec<u8>) {
    let answer = match tokio::time::timeout(DEADLINE, answer(&shell, side, &frame)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("`{side}` gave no answer for {} s", DEADLINE.as_secs())),
    };
    let answer = answer.as_ref().map(Vec::as_slice).map_err(String::as_str);
    shell.with(|core, now| core.handle_aside(asked, answer, now));
}

/// On the kept connection where there is one that still lives, else on a new one. What goes this way may be sent twice.
async fn answer(shell: &Rc<Shell>, side: Endpoint, frame: &[u8]) -> Result<Vec<u8>, String> {
    let kept = shell.aside[side.index()].borrow_mut().take();
    if let Some(mut stream) = kept
        && let Ok(answer) = exchange(side, &mut stream, frame).await
    {
        *shell.aside[side.index()].borrow_mut() = Some(stream);
        return Ok(answer);
    }
    // It is not kept: a busy server refuses the name by which we know our own connections.
    let answer = exchange(side, &mut open(shell, side).await?, frame).await?;
    if shell.aside[side.index()].borrow().is_none() && !answer.starts_with(b"-BUSY") {
        spawn_local(prepare(shell.clone(), side));
    }
    Ok(answer)
}

/// AUTH and HELLO are all a busy server takes of the handshake; that it refuses the name does no harm.
async fn open(shell: &Rc<Shell>, side: Endpoint) -> Result<Stream, String> {
    Ok(shell.connect(side, "aside", DEADLINE).await?.into_stream().ok_or("the server sent something nobody asked for")?)
}

/// A side was connected: opens its connection for questions. Where that fails, the first question opens one.
pub(super) async fn prepare(shell: Rc<Shell>, side: Endpoint) {
    if let Ok(stream) = open(&shell, side).await {
        *shell.aside[side.index()].borrow_mut() = Some(stream);
    }
}

async fn exchange(side: Endpoint, stream: &mut Stream, frame: &[u8]) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    stream.write_all(frame).await.map_err(text)?;
    stream.flush().await.map_err(text)?;
    let (mut buffer, mut scanner) = (Vec::new(), Scanner::default());
    loop {
        if stream.read_buf(&mut buffer).await.map_err(text)? == 0 {
            return Err(format!("`{side}` closed the connection"));
        }
        match scanner.scan(&buffer) {
            Ok(Some(scanned)) if scanned.len == buffer.len() => return Ok(buffer),
            Ok(None) if buffer.len() <= ANSWER_BYTES_MAX => {}
            _ => return Err(format!("`{side}` answered something else than one reply")),
        }
    }
}
