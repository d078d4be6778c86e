//! The wire between the operator's side and the data thread: requests go in by a bounded queue, each answer comes back by
//! its own channel. Before the data thread serves, the phase says for what the start is waiting.
//!
//! One flip at a time: a second one is refused here, also while the asker of the first has hung up.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use twinlane_core::divergence::Divergences;
use twinlane_core::explained::Dirty;
use twinlane_core::status::{Counters, Operation, Outcome, Status};

/// The operator's handle; clones share one queue.
#[derive(Clone, Debug)]
pub struct Control {
    requests: mpsc::Sender<ControlRequest>,
    phase: watch::Receiver<Phase>,
    flip: Arc<Mutex<()>>,
}

/// What the driver's loop serves.
#[derive(Debug)]
pub enum ControlRequest {
    /// A snapshot for status, metrics and readiness.
    Snapshot {
        /// Where it goes; a closed channel means that nobody waits any more.
        answer: oneshot::Sender<(Status, Counters)>,
    },
    /// The confirmed differences, with their keys.
    Divergences {
        /// Where they go.
        answer: oneshot::Sender<Divergences>,
    },
    /// Keys and databases in doubt.
    Dirty {
        /// How many keys at most.
        most: usize,
        /// Where they go.
        answer: oneshot::Sender<Dirty>,
    },
    /// Something to do; the answer comes when it has ended.
    Operate {
        /// What.
        operation: Operation,
        /// Where the outcome goes.
        answer: oneshot::Sender<Outcome>,
    },
}

/// How far the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not serving clients yet, and why.
    Starting(String),
    /// The driver answers.
    Serving,
}

/// The driver's end.
#[derive(Debug)]
pub struct ControlReceiver {
    requests: mpsc::Receiver<ControlRequest>,
    phase: watch::Sender<Phase>,
}

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The start is not over.
    #[error("not serving yet: {0}")]
    Starting(String),
    /// Another flip has not ended.
    #[error("another cutover or rollback is under way; wait for its end")]
    Busy,
    /// The data thread did not answer in time.
    #[error("the data thread did not answer within {0} ms; look at the log")]
    Slow(u128),
    /// The process is ending.
    #[error("the proxy is stopping")]
    Stopping,
}

/// Makes both ends; the phase is "starting".
#[must_use]
pub fn channel() -> (Control, ControlReceiver) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (phase, phase_seen) = watch::channel(Phase::Starting("the process has just begun".into()));
    let control = Control { requests: sender, phase: phase_seen, flip: Arc::default() };
    (control, ControlReceiver { requests: receiver, phase })
}

impl Control {
    /// How far the process is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// The status.
    ///
    /// # Errors
    /// [`ControlError`], when the data thread cannot answer.
    pub async fn status(&self) -> Result<Status, ControlError> {
        Ok(self.counters().await?.0)
    }

    /// Status and counters of one moment.
    ///
    /// # Errors
    /// As [`Control::status`].
    pub async fn counters(&self) -> Result<(Status, Counters), ControlError> {
        let (answer, answered) = oneshot::channel();
        self.send(ControlRequest::Snapshot { answer }).await?;
        bounded(SNAPSHOT_WAIT, answered).await
    }

    /// The confirmed differences.
    ///
    /// # Errors
    /// As [`Control::status`].
    pub async fn divergences(&self) -> Result<Divergences, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.send(ControlRequest::Divergences { answer }).await?;
        bounded(SNAPSHOT_WAIT, answered).await
    }

    /// Keys in doubt, at most so many of them, and databases in doubt as a whole.
    ///
    /// # Errors
    /// As [`Control::status`].
    pub async fn dirty(&self, most: usize) -> Result<Dirty, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.send(ControlRequest::Dirty { most, answer }).await?;
        bounded(SNAPSHOT_WAIT, answered).await
    }

    /// Does one thing, and waits for its end. Dropping the future does not undo it.
    ///
    /// # Errors
    /// As [`Control::status`]; [`ControlError::Busy`] when another flip has not ended.
    pub async fn operate(&self, operation: Operation) -> Result<Outcome, ControlError> {
        let guard = match operation {
            Operation::Flip { .. } => Some(Arc::clone(&self.flip).try_lock_owned().map_err(|_| ControlError::Busy)?),
            _ => None,
        };
        let (answer, answered) = oneshot::channel();
        self.send(ControlRequest::Operate { operation, answer }).await?;
        // In a task of its own, so that an asker who hangs up does not free the guard before the flip has ended.
        let waiter = tokio::spawn(async move {
            let outcome = answered.await;
            drop(guard);
            outcome
        });
        match tokio::time::timeout(OPERATE_WAIT, waiter).await {
            Ok(outcome) => outcome.ok().and_then(Result::ok).ok_or(ControlError::Stopping),
            Err(_) => Err(ControlError::Slow(OPERATE_WAIT.as_millis())),
        }
    }

    async fn send(&self, request: ControlRequest) -> Result<(), ControlError> {
        if let Phase::Starting(reason) = self.phase() {
            return Err(ControlError::Starting(reason));
        }
        match tokio::time::timeout(SNAPSHOT_WAIT, self.requests.send(request)).await {
            Ok(sent) => sent.map_err(|_| ControlError::Stopping),
            Err(_) => Err(ControlError::Slow(SNAPSHOT_WAIT.as_millis())),
        }
    }
}

impl ControlReceiver {
    /// The next request; `None` when every handle is gone.
    pub async fn next(&mut self) -> Option<ControlRequest> {
        self.requests.recv().await
    }

    /// The next request if one waits.
    pub fn try_next(&mut self) -> Option<ControlRequest> {
        self.requests.try_recv().ok()
    }

    /// Says for what the start waits.
    pub fn starting(&self, reason: impl Into<String>) {
        self.phase.send_replace(Phase::Starting(reason.into()));
    }

    /// From now on requests are answered.
    pub fn serving(&self) {
        self.phase.send_replace(Phase::Serving);
    }
}

async fn bounded<T>(wait: Duration, answered: oneshot::Receiver<T>) -> Result<T, ControlError> {
    match tokio::time::timeout(wait, answered).await {
        Ok(answer) => answer.map_err(|_| ControlError::Stopping),
        Err(_) => Err(ControlError::Slow(wait.as_millis())),
    }
}

/// Requests waiting; the operator's side asks a few times a second, and waits when it is full.
const QUEUE: usize = 64;
/// A snapshot is made between two turns of the data thread.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(2);
/// Arming may wait for a quiet moment; past this the asker is told to look at status.
const OPERATE_WAIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use twinlane_core::endpoint::Endpoint;

    const FLIP: Operation = Operation::Flip { to: Endpoint::New, force_primary_lost: false, dry_run: false };

    #[tokio::test]
    async fn before_serving_the_reason_is_the_answer() {
        let (control, receiver) = channel();
        receiver.starting("old is down");
        assert_eq!(control.operate(FLIP).await.unwrap_err(), ControlError::Starting("old is down".into()));
        receiver.serving();
        drop(receiver);
        assert_eq!(control.status().await.unwrap_err(), ControlError::Stopping);
    }

    #[tokio::test]
    async fn one_flip_at_a_time_even_when_the_asker_hangs_up() {
        let (control, mut receiver) = channel();
        receiver.serving();
        let asker = tokio::spawn({
            let control = control.clone();
            async move { control.operate(FLIP).await }
        });
        let Some(ControlRequest::Operate { operation, answer }) = receiver.next().await else { panic!() };
        assert_eq!(operation, FLIP);
        asker.abort();
        assert!(asker.await.is_err());
        assert_eq!(control.operate(FLIP).await.unwrap_err(), ControlError::Busy);
        answer.send(Outcome::Done).unwrap();
        tokio::task::yield_now().await;
        let again = tokio::spawn(async move { control.operate(FLIP).await });
        let Some(ControlRequest::Operate { answer, .. }) = receiver.next().await else { panic!("the guard was not freed") };
        answer.send(Outcome::Done).unwrap();
        assert!(matches!(again.await.unwrap(), Ok(Outcome::Done)));
    }
}
